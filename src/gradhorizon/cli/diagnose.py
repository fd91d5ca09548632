"""`gradhorizon diagnose FILE.py:NAME`: load a network that the user names, and diagnose it."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from gradhorizon._checks import worded
from gradhorizon.cells._cell import Cell
from gradhorizon.cli.npz import read_npz
from gradhorizon.regimes.diagnose import diagnose

if TYPE_CHECKING:
    from gradhorizon.cli import Diagnose


def run_diagnose(options: "Diagnose") -> int:
    """Load, diagnose, print; write the page and the numbers where asked."""
    jax.config.update("jax_enable_x64", options.x64)
    found, path, name = load(options.target)
    step, params, h0, own = unpack(found, name)
    xs = own if options.inputs is None else _inputs(options.inputs, options.x64)
    sys.stderr.write(f"loaded {name} from {path}\n")
    diagnosis = diagnose(
        step,
        params,
        h0,
        xs,
        lag=options.lag,
        threshold=options.threshold,
        length=options.length,
    )
    sys.stdout.write(f"{diagnosis}\n")
    if options.html is not None:
        diagnosis.to_html(options.html)
        sys.stderr.write(f"wrote {options.html}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(diagnosis.to_dict(), indent=1, sort_keys=True) + "\n")
        sys.stderr.write(f"wrote {options.json}\n")
    return 0


def load(target: str) -> tuple[Any, Path, str]:
    """Execute the named file and give the named object.

    Raises
    ------
    ValueError
        If `target` is not FILE.py:NAME, the file is missing, or it defines no such name.
    """
    file, colon, name = target.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(worded("target", "have the form FILE.py:NAME", target))
    path = Path(file)
    if not path.is_file():
        raise ValueError(worded("target", "name an existing file", path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        defined = ", ".join(n for n in vars(module) if not n.startswith("_"))
        remedy = f"The file defines: {defined}."
        raise ValueError(worded("target", "name something the file defines", name, remedy))
    return getattr(module, name), path, name


def unpack(found: Any, name: str) -> tuple[Any, Any, Any, Any]:
    """Turn a cell, a tuple, or a function that returns one, into (step, params, h0, xs).

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if callable(found) and not isinstance(found, tuple):
        found = found()
    if isinstance(found, Cell):
        return found.step, found.init(jax.random.key(0)), found.initial_state(), None
    if isinstance(found, tuple) and len(found) in (3, 4) and callable(found[0]):
        step, params, h0, *rest = found
        return step, params, h0, rest[0] if rest else None
    raise TypeError(
        worded(
            name,
            "be a Cell, (step, params, h0[, xs]), or a function returning one of these",
            type(found).__name__,
        )
    )


def _inputs(path: Path, x64: bool) -> np.ndarray:
    """Read the inputs and cast floats to the precision of the run."""
    arrays = read_npz(path)
    if "xs" not in arrays and len(arrays) != 1:
        held = ", ".join(arrays) or "nothing"
        raise ValueError(worded("inputs", "hold an array `xs`, or one array only", held))
    xs = arrays.get("xs", next(iter(arrays.values())))
    if np.issubdtype(xs.dtype, np.floating):
        xs = xs.astype(np.float64 if x64 else np.float32)
    return xs
