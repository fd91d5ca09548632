"""Which studies of an interrupted `figures --all` need not be computed again.

The file exists while such a run is unfinished; a complete one removes it, so that the next
run computes everything. It counts only for the code, the settings and the JAX that wrote it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import ModuleType

import jax

import gradhorizon
from gradhorizon._record import jsonable
from gradhorizon.studies._study import replace_file

_NAME = ".progress.json"


class Progress:
    """The finished studies of a run into one folder.

    Parameters
    ----------
    folder
        Where the figures go.
    """

    def __init__(self, folder: Path):
        self._path = folder / _NAME
        self._code = _digest_of_code()
        self._done: dict[str, str] = {}
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._done = {str(name): str(mark) for name, mark in dict(stored).items()}
        except (OSError, ValueError, TypeError):
            pass  # none, or damaged: compute everything

    def has(self, module: ModuleType, *, small: bool) -> bool:
        """Say whether this study was finished by this code with these settings."""
        name = module.__name__.rpartition(".")[2]
        files = (self._path.parent / f"{name}.{kind}" for kind in ("png", "pdf", "json"))
        marked = self._done.get(name) == self._mark(module, small)
        return marked and all(path.exists() for path in files)

    def add(self, module: ModuleType, *, small: bool) -> None:
        """Note a finished study."""
        self._done[module.__name__.rpartition(".")[2]] = self._mark(module, small)
        text = json.dumps(self._done, indent=1) + "\n"
        replace_file(self._path, lambda p: p.write_text(text, encoding="utf-8"))

    def clear(self) -> None:
        """Forget the run, once it is complete."""
        self._path.unlink(missing_ok=True)

    def _mark(self, module: ModuleType, small: bool) -> str:
        settings = module.SMALL if small else module.Settings()
        text = json.dumps(jsonable(dataclasses.asdict(settings)), sort_keys=True)
        return hashlib.sha256(f"{self._code}\n{text}".encode()).hexdigest()


def _digest_of_code() -> str:
    """Digest the package's source files and the version of JAX."""
    digest = hashlib.sha256(jax.__version__.encode())
    for path in sorted(Path(gradhorizon.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
