"""`gradhorizon figures`: recompute studies, check their numbers, draw them."""

import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING

import jax
from tqdm import tqdm

from gradhorizon import studies
from gradhorizon.studies._gallery import TIMES, gallery, with_time
from gradhorizon.studies._progress import Progress
from gradhorizon.studies._study import Outcome, replace_file, run

if TYPE_CHECKING:
    from gradhorizon.cli import Figures


def run_figures(options: "Figures") -> int:
    """Run the named studies; the exit code is 3 if a check failed."""
    out = sys.stdout.write
    modules = {name: studies.load(name) for name in (options.names or studies.NAMES)}
    if options.list:
        width = max(map(len, modules))
        for name, module in modules.items():
            out(f"{name:<{width}}  {module.QUESTION}\n")
        return 0
    if not options.names and not options.all:
        out("Name a study, or pass --all. --list shows what there is.\n")
        return 2
    jax.config.update("jax_enable_x64", True)
    failed = _run_all(modules, options, Progress(options.output) if options.all else None)
    page = gallery(options.output, studies.CHAPTERS)
    replace_file(options.output / "README.md", lambda p: p.write_text(page, encoding="utf-8"))
    out(f"figures and numbers are in {options.output}/\n")
    return 3 if failed else 0


def _run_all(modules: dict[str, ModuleType], options: "Figures", progress: Progress | None) -> int:
    """Run studies one after another; give the number of those with a failed check."""
    failed, folder = 0, options.output
    bar = tqdm(modules.items(), disable=options.quiet or not sys.stderr.isatty(), leave=False)
    for name, module in bar:
        if progress is not None and progress.has(module, small=options.small):
            sys.stdout.write(f"{name}: finished in the interrupted run that this one continues\n")
            continue
        began = time.monotonic()
        outcome = run(
            module,
            folder,
            small=options.small,
            tell=lambda stage, name=name: bar.set_description(f"{name}: {stage}"),
        )
        seconds = time.monotonic() - began
        sys.stdout.write(_summary(outcome, seconds))
        sys.stdout.flush()
        failed += not outcome.passed
        if not options.small:
            text = with_time(folder, name, seconds)
            replace_file(folder / TIMES, lambda p, t=text: p.write_text(t, encoding="utf-8"))
        if progress is not None and outcome.passed:
            progress.add(module, small=options.small)
    if progress is not None and not failed:
        progress.clear()
    return failed


def _summary(outcome: Outcome, seconds: float) -> str:
    """Say what came out, and list the checks."""
    lines = [f"{outcome.name} ({seconds:.0f} s): {outcome.answer}"]
    for check in outcome.checks:
        mark = "ok  " if check.passed else "FAIL"
        lines.append(
            f"  {mark} {check.name}: {check.value:.8g}, expected {check.expected:.8g} "
            f"± {check.tolerance:.2g}"
        )
    return "\n".join(lines) + "\n"
