"""Worded argument checks: what was required, what came, what to do.

Every message reads "`name` must <requirement>. Received <value>. <Remedy>." Misuse is an
exception before anything is compiled; numerical failure is a status in the record.
"""

import difflib
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_SHOWN = 160  # characters of what was received that a message repeats


class ArgumentError(ValueError):
    """A worded error raised inside a cell's step; it reaches the user as it is."""


class NumericalError(ArithmeticError, ValueError):
    """A computation met a NaN or an infinity; the message names the first step.

    Raised only by un-jitted calls with ``throw=True``; otherwise the record's status says it.
    """


def abbreviate(value: Any) -> str:
    """Shorten a value's text and replace control characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def worded(name: str, requirement: str, received: Any, remedy: str = "") -> str:
    """Compose the text of an error message.

    Parameters
    ----------
    name
        The argument as the user typed it.
    requirement
        What it must do or be, without the word "must".
    received
        What came; shortened to 160 characters.
    remedy
        One imperative sentence, or nothing.

    Returns
    -------
    str
        The message.

    Examples
    --------
    >>> worded("k", "lie between 1 and n = 4", 5)
    '`k` must lie between 1 and n = 4. Received 5.'
    """
    text = f"`{name}` must {requirement}. Received {abbreviate(received).rstrip('.')}."
    return f"{text} {remedy}" if remedy else text


def is_concrete(tree: Any) -> bool:
    """Say whether no leaf of `tree` is being traced, so that its values can be looked at."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def leaf_name(name: str, path: tuple[Any, ...]) -> str:
    """Name a leaf the way a user would write it: ``params['W']``."""
    return name + jax.tree_util.keystr(path)


def describe(leaf: Any) -> str:
    """Describe an array by dtype and shape: ``float32[8,3]``."""
    shape = ",".join(str(s) for s in np.shape(leaf))
    return f"{dtype_of(leaf)}[{shape}]"


def dtype_of(leaf: Any) -> Any:
    """Give the dtype of a leaf, Python scalars and typed PRNG keys included."""
    dtype = getattr(leaf, "dtype", None)
    return jnp.result_type(leaf) if dtype is None else dtype


def is_key(leaf: Any) -> bool:
    """Say whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(dtype_of(leaf), jax.dtypes.prng_key)


def require_arrays(name: str, tree: Any) -> None:
    """Refuse leaves that are not arrays of numbers, and values of a trace that has ended.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a number, or an array of objects, strings or times.
    ValueError
        If a leaf is a Python integer beyond 64 bits, or was leaked from another trace.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer):
            _require_alive(leaf_name(name, path), leaf)
        if not _is_numeric(leaf):
            dtype = getattr(leaf, "dtype", None)
            shown = f"{type(leaf).__name__}: {leaf}" if dtype is None else describe(leaf)
            remedy = "Close over settings that are not arrays."
            raise TypeError(worded(leaf_name(name, path), "be an array of numbers", shown, remedy))
        if isinstance(leaf, int) and not -(2**63) <= leaf < 2**63:
            shown = f"{type(leaf).__name__}: {leaf}"
            raise ValueError(worded(leaf_name(name, path), "fit into 64 bits", shown))


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, (np.ndarray, np.generic)):
        return leaf.dtype.kind in "biufc" or bool(jnp.issubdtype(leaf.dtype, jnp.floating))
    return isinstance(leaf, (jax.Array, bool, int, float, complex))


def _require_alive(name: str, tracer: Any) -> None:
    """Refuse a traced value whose trace has ended, by using it."""
    try:
        jnp.expand_dims(tracer, 0)
    except jax.errors.UnexpectedTracerError as error:
        remedy = "Return it from the function that JAX traced instead of storing it."
        shown = f"{describe(tracer)}, leaked from a function that has returned"
        raise ValueError(worded(name, "be a value of this computation", shown, remedy)) from error


def as_array(name: str, value: Any) -> Array | np.ndarray:
    """Give `value` as one array of numbers, not yet on any device, no bits lost.

    Raises
    ------
    TypeError
        If it is not an array, a number or a regular nesting of lists of numbers.
    ValueError
        If lists are ragged, or x64 is off and it needs 64 bits.
    """
    nested = isinstance(value, (list, tuple))
    if not nested and not jax.tree_util.all_leaves([value]):  # None, a dictionary
        received = f"{type(value).__name__}: {value}"
        raise TypeError(worded(name, "be an array of numbers", received))
    require_arrays(name, value)
    require_no_silent_downcast(name, value)
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        received = f"{type(value).__name__} of {len(value)}: {error}"
        remedy = "Stack arrays of one shape."
        raise ValueError(worded(name, "be one regular array", received, remedy)) from error
    return np.asarray(array, dtype=jax.dtypes.canonicalize_dtype(array.dtype))


def as_real(name: str, value: Any) -> Array | np.ndarray:
    """Give `value` as one real floating-point array, not yet on any device.

    Raises
    ------
    TypeError
        If it is an array of another kind, or no array at all.
    ValueError
        As `as_array`.
    """
    array = as_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        remedy = "Cast it to float32 or float64."
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            remedy = "Pass the real matrices [[Re, -Im], [Im, Re]], or unroll a complex state."
        raise TypeError(worded(name, "be real and floating point", describe(array), remedy))
    return array


def is_half(dtype: Any) -> bool:
    """Say whether a float format has fewer than 32 bits."""
    return jnp.finfo(dtype).bits < 32


def wide_enough(dtype: Any) -> np.dtype:
    """Give the dtype that matrices of `dtype` are factorized in: no format below 32 bits can be.

    Half formats are promoted to the default one, float64 under x64 and else float32.
    """
    return np.dtype(jnp.result_type(float)) if is_half(dtype) else np.dtype(dtype)


def require_no_silent_downcast(name: str, tree: Any) -> None:
    """Refuse numbers that JAX would truncate without a word because x64 is off.

    Raises
    ------
    ValueError
        If ``jax_enable_x64`` is False and a leaf is float64 or complex128, or an integer that
        does not fit into 32 bits.
    """
    if jax.config.read("jax_enable_x64"):
        return
    remedy = 'Call jax.config.update("jax_enable_x64", True) first'
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if is_key(leaf):
            continue
        label, dtype = leaf_name(name, path), getattr(leaf, "dtype", None)
        if dtype in (np.float64, np.complex128):
            narrow = "float32" if dtype == np.float64 else "complex64"
            raise ValueError(
                worded(
                    label,
                    f"be {narrow} while JAX's x64 mode is off",
                    describe(leaf),
                    f"{remedy}, or pass {narrow}.",
                )
            )
        if dtype in (np.int64, np.uint64) or (isinstance(leaf, int) and dtype is None):
            _require_32_bits(label, leaf, f"{remedy}, or pass smaller integers.")


def _require_32_bits(label: str, leaf: Any, remedy: str) -> None:
    values = np.asarray(leaf) if is_concrete(leaf) else np.zeros(0)
    signed = values.dtype != np.uint64
    low, high = (-(2**31), 2**31) if signed else (0, 2**32)
    outside = (values < low) | (values >= high)
    if outside.any():
        wanted = "fit into 32 bits while JAX's x64 mode is off"
        raise ValueError(worded(label, wanted, values[outside].flat[0], remedy))


def require_finite(name: str, tree: Any) -> None:
    """Refuse NaN and infinities at entry, naming the leaf and the first index.

    Leaves that are being traced cannot be looked at and pass.

    Raises
    ------
    ValueError
        If a floating-point leaf has a non-finite entry.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer) or is_key(leaf):
            continue
        if not jnp.issubdtype(dtype_of(leaf), jnp.inexact):
            continue
        bad = ~np.isfinite(np.asarray(leaf, dtype=np.promote_types(dtype_of(leaf), np.float32)))
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            where = leaf_name(name, path) + (str(list(index)) if index else "")
            value = np.asarray(leaf)[index]
            raise ValueError(worded(where, "be finite", value, "Remove NaN and inf first."))


def require_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Give `value` as an int inside [low, high].

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it lies outside the range.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(worded(name, "be an integer", repr(value))) from error
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(worded(name, "be an integer", repr(value)))
    if number < low or (high is not None and number > high):
        span = f"be at least {low}" if high is None else f"lie between {low} and {high}"
        raise ValueError(worded(name, span, number))
    return number


def require_positive(name: str, value: Any, *, below: float | None = None) -> None:
    """Refuse a concrete number that is not positive (and below a bound, where one is given).

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it is NaN, zero, negative, or not below the bound.
    """
    if not is_concrete(value):
        return  # a traced value cannot be looked at
    try:
        if isinstance(value, str):
            raise TypeError  # noqa: TRY301 - "0.5" is no number
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(worded(name, "be a number", repr(value))) from error
    if not number > 0 or (below is not None and not number < below):
        wanted = "be positive" if below is None else f"lie strictly between 0 and {below:g}"
        raise ValueError(worded(name, wanted, number))


def require_choice(name: str, value: Any, choices: Iterable[str], remedy: str = "") -> str:
    """Give `value` if it is one of the admissible names.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If it is not among the choices; the message lists them and names the nearest.
    """
    known = list(choices)
    wanted = f"be one of {', '.join(known)}"
    if not isinstance(value, str):
        raise TypeError(worded(name, wanted, repr(value)))
    if value not in known:
        near = difflib.get_close_matches(value.lower(), known, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else remedy
        raise ValueError(worded(name, wanted, repr(value), advice))
    return value
