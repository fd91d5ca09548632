"""What every adapter shares: casts, specifications of inputs, and values held by a step.

Convention: an adapted step takes ``(params, h, x)`` and gives the next state, whatever the
library's own order is; parameters, state and inputs have one real precision.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon._checks import (
    describe,
    dtype_of,
    is_key,
    leaf_name,
    require_integer,
    worded,
)
from gradhorizon.cells._cell import default_dtype

_HOMES = (
    ("flax.linen", "flax.linen"),
    ("flax.nnx", "flax.nnx"),
    ("equinox", "equinox"),
    ("haiku", "haiku"),
)
_STATE_METHODS = ("initial_state", "init_state", "initial_carry", "init_carry", "zero_state")
_OPTIONAL_STATES = {"state", "carry", "hidden", "h", "prev_state"}
_SIZE_FIELDS = ("hidden_size", "hidden_features", "features", "hidden_dim", "hidden")


class Adapted(NamedTuple):
    """A network of another library, in the form that every analysis takes.

    Attributes
    ----------
    step
        ``step(params, h, x) -> h``; steps of equal cells are equal, so that they share compiled
        programs.
    params
        The parameters, cast to one precision, in the library's own structure.
    h0
        The state before the first input, without a batch axis.
    """

    step: Callable[[Any, Any, Any], Any]
    params: Any
    h0: Any


class Held:
    """A value that a step closes over: hashed and compared by `token`, else by identity.

    Parameters
    ----------
    value
        What is held.
    token
        What it is compared by, where that can be hashed; the value itself if None.
    """

    __slots__ = ("key", "value")

    def __init__(self, value: Any, token: Any = None) -> None:
        self.value = value
        self.key: Any = value if token is None else token
        try:
            hash(self.key)
        except TypeError:
            self.key = ("by identity", id(value))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bool(self.key == other.key)


def library(name: str, extra: str, caller: str) -> Any:
    """Import a library that is needed by one adapter only.

    Raises
    ------
    ImportError
        If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = f'Install it with: pip install "gradhorizon[{extra}]".'
        raise ImportError(worded(caller, f"find the package {name}", error, remedy)) from error


def library_of(cell: Any) -> str | None:
    """Say which library an object comes from: ``"flax.linen"``, ``"flax.nnx"``, … or None."""
    if isinstance(cell, (list, tuple)) and cell and not hasattr(cell, "_fields"):
        return library_of(cell[0])
    for base in type(cell).__mro__:
        for prefix, name in _HOMES:
            if base.__module__ == prefix or base.__module__.startswith(f"{prefix}."):
                return name
    return None


def title(cell: Any) -> str:
    """Name an object for messages: ``GRUCell of flax.nnx``."""
    home = library_of(cell)
    if inspect.isclass(cell):
        return f"the class {cell.__name__}"
    if inspect.isfunction(cell):
        return f"the function {cell.__name__}"
    return f"{type(cell).__name__} of {home}" if home else type(cell).__name__


def is_kind(cell: Any, kinds: tuple[type, ...]) -> bool:
    """Say whether a cell is of one of the kinds and computes what they compute."""
    for base in type(cell).__mro__:
        if base in kinds:
            return True
        if "__call__" in vars(base):
            return False  # a subclass with a formula of its own
    return False


def require_module(cell: Any, kind: type, name: str, adapter: str) -> None:
    """Refuse what is no module instance of the library, and say which adapter it needs.

    Raises
    ------
    TypeError
        If `cell` is not an instance of `kind`.
    """
    if isinstance(cell, kind):
        return
    home = library_of(cell)
    remedy = ""
    if inspect.isclass(cell):
        remedy = f"Build it first: {adapter}({cell.__name__}(...))."
    elif home is not None:
        remedy = f"Use gh.adapters.from_{home.rpartition('.')[2]}."
    raise TypeError(worded("cell", f"be {name}, or a list of them", title(cell), remedy))


def target_dtype(dtype: Any) -> np.dtype:
    """Give the dtype that everything is cast to: the requested one, or JAX's default.

    Raises
    ------
    ValueError
        If float64 is asked for while JAX's x64 mode is off.
    """
    chosen = default_dtype(dtype)
    if jax.dtypes.canonicalize_dtype(chosen) != chosen:
        remedy = 'Call jax.config.update("jax_enable_x64", True) first.'
        requirement = "be at most float32 while JAX's x64 mode is off"
        raise ValueError(worded("dtype", requirement, chosen, remedy))
    return chosen


def cast(tree: Any, dtype: np.dtype) -> Any:
    """Cast the inexact leaves of a tree, complex ones to the complex type of the precision.

    Integers, booleans and PRNG keys stay as they are.
    """

    def one(leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        if jnp.issubdtype(dtype_of(leaf), jnp.complexfloating):
            return jnp.asarray(leaf, np.complex128 if dtype == np.float64 else np.complex64)
        if jnp.issubdtype(dtype_of(leaf), jnp.floating):
            return jnp.asarray(leaf, dtype)
        return jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(dtype_of(leaf)))

    return jax.tree.map(one, tree)


def input_spec(inputs: Any, dtype: np.dtype) -> Any:
    """Give shape and dtype of one input from a size, a shape, or an example of one input."""
    if isinstance(inputs, (int, np.integer)):
        return jax.ShapeDtypeStruct((require_integer("inputs", inputs, 1),), dtype)
    if isinstance(inputs, (tuple, list)) and all(
        isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in inputs
    ):
        shape = tuple(require_integer("inputs", size, 1) for size in inputs)
        return jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(lambda: cast(_zeros(inputs), dtype))


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), dtype_of(leaf)), tree)


def missing_inputs(cell: Any) -> ValueError:
    """Give the error for a cell whose input size cannot be read off."""
    remedy = "Pass inputs=..., the size, the shape or an example of one unbatched input."
    return ValueError(worded("inputs", f"be given for {title(cell)}", None, remedy))


def initial_state(cell: Any, h0: Any, dtype: np.dtype) -> Any:
    """Give the state of a user's module: as given, by its own method, or zeros of its size.

    Raises
    ------
    ValueError
        If none of them says what the state is.
    """
    if h0 is not None:
        return cast(h0, dtype)
    for name in _STATE_METHODS:
        method = getattr(cell, name, None)
        if callable(method) and not required(method):
            return cast(method(), dtype)
    for name in _SIZE_FIELDS:
        size = getattr(cell, name, None)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return jnp.zeros(size, dtype)
    requirement = f"be given for {title(cell)}, which does not say what its state is"
    remedy = "Pass h0=..., the state before the first input."
    raise ValueError(worded("h0", requirement, None, remedy))


def positional(function: Any) -> list[str]:
    """Name the positional arguments of a function; none where that is unknown."""
    return [p.name for p in _parameters(function)]


def call_names(cell: Any) -> list[str]:
    """Name the positional arguments that a module needs, or takes as its state."""
    call = getattr(type(cell), "__call__", None)  # noqa: B004 -- the function, unbound
    found = _parameters(call)[1:]
    return [p.name for p in found if p.default is p.empty or p.name in _OPTIONAL_STATES]


def required(function: Any) -> list[str]:
    """Name the positional parameters of a function that have no default."""
    return [p.name for p in _parameters(function) if p.default is p.empty]


def _parameters(function: Any) -> list[inspect.Parameter]:
    """Give the positional parameters of a function; none where they are unknown."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def require_equal_dtypes(h0: Any, state: Any, dtype: np.dtype) -> None:
    """Refuse a state whose dtype changes in one step.

    Raises
    ------
    ValueError
        If a leaf comes back in another dtype; names the leaf.
    """
    pairs = zip(jax.tree_util.tree_leaves_with_path(h0), jax.tree.leaves(state), strict=True)
    for (path, was), now in pairs:
        if dtype_of(was) == dtype_of(now):
            continue
        remedy = (
            f"Build the cell with dtype=jnp.{dtype} (some default to float32), or pass "
            f"dtype=jnp.{dtype_of(now)} to analyze it as it is."
        )
        returned = f"{describe(was)}; the cell returned {describe(now)}"
        name = leaf_name("h0", path)
        raise ValueError(worded(name, "keep its dtype through the cell", returned, remedy))


def summary(tree: Any) -> str:
    """Describe a tree by the dtypes and shapes of its leaves."""
    return str(jax.tree.map(describe, tree)).replace("'", "")
