"""What `diagnose FILE.py:NAME` can name, and how it becomes a step, parameters and a state.

The file is executed because the user names it; nothing else is ever loaded as code.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gradhorizon._checks import describe, worded
from gradhorizon.cells import adapters
from gradhorizon.cells._cell import Cell
from gradhorizon.cells.adapters._common import library_of, required, title

_FORMS = (
    "be a Cell, (step, params, h0[, xs]), a cell of Flax, Equinox or Haiku, or a function "
    "returning one of these"
)
_WITH_WEIGHTS = ("flax.linen", "haiku")  # libraries whose parameters live outside of the cell
_VARIABLES = ("variables", "params")  # what a file may call the parameters of its linen module


class Loaded(NamedTuple):
    """A network that was found in a file, and what to tell the user about it.

    Attributes
    ----------
    step, params, h0, xs
        The network; `xs` is None unless the file gives inputs.
    what
        Where it comes from: ``GRUCell of flax.linen``.
    weights
        Where its parameters come from.
    """

    step: Any
    params: Any
    h0: Any
    xs: Any
    what: str
    weights: str

    def lines(self, name: str, path: Path) -> list[str]:
        """Write what was loaded: origin, state leaf by leaf, parameters."""
        leaves = jax.tree_util.tree_leaves_with_path(self.h0)
        state = ", ".join(f"h{jax.tree_util.keystr(p)} {describe(leaf)}" for p, leaf in leaves)
        count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))
        return [
            f"loaded {name} from {path}: {self.what}",
            f"state: {state}",
            f"parameters: {count:,}, {self.weights}",
        ]


def load(target: str) -> tuple[Any, dict[str, Any], Path, str]:
    """Execute the named file; give the named object, all the file defines, its path, the name.

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
    return getattr(module, name), vars(module), path, name


def unpack(found: Any, name: str, defined: dict[str, Any], xs: Any) -> Loaded:
    """Turn what was found into a network.

    Parameters
    ----------
    found
        The object, or a function without arguments that returns it.
    name
        What the user called it.
    defined
        Everything the file defines: `variables` or `params` are those of a linen module.
    xs
        The inputs, or None; their first entry tells a foreign cell its input.

    Returns
    -------
    Loaded
        The network and where it comes from.

    Raises
    ------
    TypeError
        If it is nothing that can be diagnosed.
    """
    example = xs[0] if xs is not None and np.ndim(xs) and len(xs) else None
    home = library_of(found)
    if home is None and callable(found) and not isinstance(found, tuple) and not required(found):
        build = found
        try:
            found = build()
            home = library_of(found)
        except ValueError as error:
            if "hk.transform" not in str(error):
                raise
            found, home = build, "haiku"  # it builds a core, which only a transform may do
    if isinstance(found, Cell):
        params, h0 = found.init(jax.random.key(0)), found.initial_state()
        return Loaded(found.step, params, h0, None, "a gradhorizon cell", "drawn with key 0")
    if home is not None:
        return _foreign(*_parts(found, home, defined), home, example)
    if isinstance(found, tuple) and len(found) in (3, 4) and callable(found[0]):
        step, params, h0, *rest = found
        given = rest[0] if rest else None
        return Loaded(step, params, h0, given, "(step, params, h0)", "as the file gives them")
    raise TypeError(worded(name, _FORMS, type(found).__name__))


def _parts(found: Any, home: str, defined: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Split what was found into a cell (or a list of cells), its parameters, and its state."""
    parts = list(found) if isinstance(found, tuple) and not hasattr(found, "_fields") else [found]
    if len(parts) > 1 and library_of(parts[1]) == home:
        parts = [found]  # layers
    cell, *rest = parts
    if home not in _WITH_WEIGHTS:
        return cell, None, rest[0] if rest else None
    weights = next((defined[n] for n in _VARIABLES if n in defined), None)
    return cell, rest[0] if rest else weights, rest[1] if len(rest) > 1 else None


def _foreign(cell: Any, weights: Any, h0: Any, home: str, example: Any) -> Loaded:
    """Adapt a cell of another library."""
    told = "as the file gives them"
    if home == "flax.nnx":
        adapted = adapters.from_nnx(cell, example, h0=h0)
    elif home == "equinox":
        adapted = adapters.from_equinox(cell, example, h0=h0)
    else:
        adapt = adapters.from_linen if home == "flax.linen" else adapters.from_haiku
        adapted = adapt(cell, weights, example, h0=h0)
        told = told if weights is not None else "freshly drawn with key 0, not trained"
    return Loaded(*adapted, None, title(cell), told)
