"""`gradhorizon figures`: recompute studies, check their numbers, draw them."""

import sys
import time
from typing import TYPE_CHECKING

import jax
from tqdm import tqdm

from gradhorizon import studies
from gradhorizon.studies._study import Outcome, gallery, run

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
    failed = 0
    bar = tqdm(modules.items(), disable=options.quiet or not sys.stderr.isatty(), leave=False)
    for name, module in bar:
        began = time.monotonic()
        outcome = run(
            module,
            options.output,
            small=options.small,
            tell=lambda stage, name=name: bar.set_description(f"{name}: {stage}"),
        )
        out(_summary(outcome, time.monotonic() - began))
        failed += not outcome.passed
    page = gallery(options.output, studies.NAMES)
    (options.output / "README.md").write_text(page, encoding="utf-8")
    out(f"figures and numbers are in {options.output}/\n")
    return 3 if failed else 0


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
