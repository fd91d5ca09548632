"""What every study is made of, and how one is run: compute, check, draw, store.

A study is a module with TITLE, QUESTION, SOURCE, a frozen `Settings` with its defaults, SMALL
(settings that take seconds), and the functions ``compute(settings) -> result``,
``checks(result) -> list[Check]``, ``draw(result) -> Figure`` and ``answer(result) -> str``.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gradhorizon import plots
from gradhorizon._record import jsonable


@dataclasses.dataclass(frozen=True)
class Check:
    """A number of a study beside the one it must be.

    Attributes
    ----------
    name
        What the number is.
    value
        What this run gave.
    expected
        What theory or the literature says.
    tolerance
        How far `value` may be from `expected`, absolutely.
    source
        Where `expected` comes from.
    """

    name: str
    value: float
    expected: float
    tolerance: float
    source: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value lies within the tolerance."""
        return bool(abs(self.value - self.expected) <= self.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Give the check as JSON types."""
        return {**jsonable(dataclasses.asdict(self)), "passed": self.passed}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that has been run."""

    name: str
    title: str
    answer: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def run(
    module: ModuleType, folder: Path, *, small: bool, tell: Callable[[str], Any] = str
) -> Outcome:
    """Run one study and write <name>.png, <name>.pdf and <name>.json into a folder.

    Parameters
    ----------
    module
        The study.
    folder
        Where to write; made if missing. Each file appears only once complete.
    small
        Whether to use the study's SMALL settings.
    tell
        Called with the name of each stage as it begins.

    Returns
    -------
    Outcome
        The answer and the checks.
    """
    name = module.__name__.rpartition(".")[2]
    settings = module.SMALL if small else module.Settings()
    tell("compute")
    result = module.compute(settings)
    tell("check")
    checks = tuple(module.checks(result))
    tell("draw")
    figure = module.draw(result)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "pdf"):
        replace_file(folder / f"{name}.{kind}", lambda p, k=kind: plots.save(figure, p, kind=k))
    outcome = Outcome(name, module.TITLE, module.answer(result), checks)
    record = {
        "study": name,
        "title": module.TITLE,
        "question": module.QUESTION,
        "answer": outcome.answer,
        "source": module.SOURCE,
        "settings": jsonable(dataclasses.asdict(settings)),
        "checks": [check.to_dict() for check in checks],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    replace_file(folder / f"{name}.json", lambda p: p.write_text(text, encoding="utf-8"))
    return outcome


def replace_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there once it is complete."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
