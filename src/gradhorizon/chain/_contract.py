"""What `step`, `params`, `h0` and `xs` must satisfy, checked before anything is compiled."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon._checks import (
    describe,
    dtype_of,
    is_half,
    is_key,
    leaf_name,
    require_arrays,
    require_finite,
    require_integer,
    require_no_silent_downcast,
    worded,
)
from gradhorizon.chain._given import PrecisionWarning
from gradhorizon.chain._purity import computed_in, trace
from gradhorizon.chain._state import StateSpace

Step = Callable[[Any, Any, Any], Any]
_WHOLE_SEQUENCE = ("Bidirectional", "RNN")  # layers of libraries that wrap a cell


class BatchWarning(UserWarning):
    """The state looks like a batch of independent states, which costs batch² the memory."""


class Problem(NamedTuple):
    """A checked network: arrays instead of scalars, one length, one state space."""

    params: Any
    h0: Any
    xs: Any
    length: int
    space: StateSpace


def check_problem(
    step: Step, params: Any, h0: Any, xs: Any, length: int | None, *, tied: bool
) -> Problem:
    """Check everything that can be checked without running the network.

    Raises
    ------
    TypeError
        If `step` is not callable, or a leaf of `params` or `h0` has the wrong kind.
    ValueError
        If shapes, structures, precisions or lengths disagree, or a value is not finite.
    """
    require_step(step)
    for name, tree in (("params", params), ("h0", h0), ("xs", xs)):
        require_arrays(name, tree)
        require_no_silent_downcast(name, tree)
    params, h0, xs = (jax.tree.map(_strong, tree) for tree in (params, h0, xs))
    _require_float_params(params)
    _require_float_state(h0)
    _require_one_precision(params, h0)
    length = _common_length(params if not tied else None, xs, length)
    for name, tree in (("params", params), ("h0", h0), ("xs", xs)):
        require_finite(name, tree)
    layer = _shapes(params) if tied else _at_first(params)
    space = _check_step(step, layer, _shapes(h0), _at_first(xs))
    _warn_of_precision(space)
    return Problem(params, h0, xs, length, space)


def _strong(leaf: Any) -> Any:
    """Give a leaf as an array whose dtype does not depend on what it meets."""
    if isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False):
        return leaf
    if isinstance(leaf, jax.Array):
        return jnp.asarray(leaf, dtype=leaf.dtype)
    return np.asarray(leaf, dtype=jax.dtypes.canonicalize_dtype(dtype_of(leaf)))


def require_step(step: Any) -> None:
    """Refuse what is no step from one state to the next.

    Raises
    ------
    TypeError
        If it is not callable or not hashable.
    ValueError
        If it is a library's layer that reads the whole sequence.
    """
    if type(step).__name__ in _WHOLE_SEQUENCE:
        remedy = "Pass the cell of one direction; a bidirectional layer has no horizon."
        shown = f"{type(step).__name__}, a layer that reads the whole sequence"
        raise ValueError(worded("step", "be causal: one step (params, h, x) -> h", shown, remedy))
    if not callable(step):
        raise TypeError(worded("step", "be a function step(params, h, x) -> h", repr(step)))
    try:
        hash(step)
    except TypeError as error:
        remedy = "Wrap it: def step(params, h, x): ..."
        shown = f"{type(step).__name__}: {error}"
        raise TypeError(worded("step", "be hashable, as functions are", shown, remedy)) from error


def _warn_of_precision(space: StateSpace) -> None:
    """Say once when states or what is computed from them have fewer bits than the Jacobians."""
    stored, wide = space.storage_dtype, space.dtype
    if stored == wide:
        return
    if stored in [np.dtype(jnp.finfo(d).dtype) for d in space.dtypes if _is_float(d)]:
        if not is_half(stored):
            return  # float32 beside float64 is refused elsewhere
        text = f"The state is stored in {stored}: Jacobians are promoted to {wide}"
    else:
        text = f"`step` computes in {stored} though the state is stored in {wide}"
    warnings.warn(
        f"{text}, and error bars use the precision of {stored}.", PrecisionWarning, stacklevel=4
    )


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _require_float_params(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_key(leaf) or jnp.issubdtype(dtype_of(leaf), jnp.inexact):
            continue
        raise TypeError(
            worded(
                leaf_name("params", path),
                "be floating point",
                describe(leaf),
                "Cast it, or close over it in `step` if it is a setting.",
            )
        )


def _require_float_state(h0: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(h0)
    space = StateSpace.of(h0)
    if not any(space.differentiable):
        shown = describe(leaves[0][1]) if leaves else "an empty state"
        name = leaf_name("h0", leaves[0][0]) if leaves else "h0"
        raise TypeError(
            worded(name, "be floating point", shown, "Cast the state to float32 or float64.")
        )
    if space.size == 0:
        raise ValueError(worded("h0", "have at least one entry", "a state of size 0"))


def _require_one_precision(params: Any, h0: Any) -> None:
    """Refuse float32 beside float64: the Jacobian would be typed float64 but accurate to 1e-8."""
    seen: dict[Any, str] = {}
    for name, tree in (("params", params), ("h0", h0)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if is_key(leaf) or not jnp.issubdtype(dtype_of(leaf), jnp.inexact):
                continue
            real = np.dtype(jnp.finfo(dtype_of(leaf)).dtype)
            if real in (np.float32, np.float64):
                seen.setdefault(real, leaf_name(name, path))
    if len(seen) > 1:
        narrow, wide = seen[np.dtype("float32")], seen[np.dtype("float64")]
        raise ValueError(
            worded(
                narrow,
                f"have the precision of `{wide}`, float64",
                "float32",
                "Cast one of them, with jax.tree.map(lambda a: a.astype(...), tree).",
            )
        )


def _common_length(params: Any, xs: Any, length: int | None) -> int:
    """Find the number of steps T from `length`, `xs` and untied `params`."""
    if length is not None:
        length = require_integer("length", length, 0)
    source = "length"
    for name, tree in (("xs", xs), ("params", params)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            label = leaf_name(name, path)
            if np.ndim(leaf) == 0:
                remedy = "Stack one entry per step along the first axis."
                raise ValueError(worded(label, "have a leading time axis", "a scalar", remedy))
            if length is None:
                length, source = len(leaf), label
            elif len(leaf) != length:
                raise ValueError(
                    worded(label, f"have {length} steps, as `{source}` says", f"{len(leaf)} steps")
                )
    if length is None:
        remedy = "Pass length=..., the number of steps to unroll."
        raise ValueError(worded("length", "be given when there is no `xs`", None, remedy))
    return length


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), tree)


def _at_first(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], a.dtype), tree)


def _check_step(step: Step, params: Any, h0: Any, x: Any) -> StateSpace:
    """Trace `step`: it must be pure, and the state must come back as it went in."""
    program, out = trace(step, params, h0, x)
    _compare(h0, out)
    _warn_of_batch(step, params, h0, x)
    return StateSpace.of(h0, computed_in(program, params, h0))


def _warn_of_batch(step: Step, params: Any, h0: Any, x: Any) -> None:
    """Warn when all states and inputs share a leading axis and `step` takes one row of each too.

    A state that is a matrix is legal, so this cannot be an error. A step applied to each row
    alone has a Jacobian of (batch n)² entries, all but 1/batch of them zero.
    """
    leaves, inputs = jax.tree.leaves(h0), jax.tree.leaves(x)
    sizes = {np.shape(leaf)[:1] for leaf in [*leaves, *inputs]}
    if not inputs or len(sizes) != 1 or sizes & {(), (1,)} or any(np.ndim(v) < 2 for v in leaves):
        return
    row, entry = _at_first(h0), _at_first(x)
    try:
        out = jax.eval_shape(step, params, row, entry)
    except Exception:  # whatever it raises: it does not take one row
        return
    if jax.tree.map(describe, out) == jax.tree.map(describe, row):
        (batch,) = next(iter(sizes))
        warnings.warn(
            f"`h0` looks like a batch of {batch} states: `step` takes one of them just as well. "
            f"Their Jacobian has {batch} x {batch} blocks, mostly zero. Batch with jax.vmap.",
            BatchWarning,
            stacklevel=5,
        )


def _compare(h0: Any, out: Any) -> None:
    """Refuse a state that changes its structure, shapes or dtypes in one step."""
    before, after = jax.tree.structure(h0), jax.tree.structure(out)
    if before != after:
        returned = f"{_summary(h0)}; `step` returned {_summary(out)}"
        remedy = "Return the new state only, in the structure of `h0`."
        raise ValueError(worded("h0", "have the structure that `step` returns", returned, remedy))
    pairs = zip(jax.tree_util.tree_leaves_with_path(h0), jax.tree.leaves(out), strict=True)
    for (path, was), now in pairs:
        if (jnp.shape(was), dtype_of(was)) != (now.shape, now.dtype):
            label = leaf_name("h0", path)
            raise ValueError(
                worded(
                    label,
                    "keep its shape and dtype through `step`",
                    f"{describe(was)}; `step` returned {describe(now)}",
                    "Start from a state of the returned kind, or cast inside `step`.",
                )
            )


def _summary(tree: Any) -> str:
    return str(jax.tree.map(describe, tree)).replace("'", "")
