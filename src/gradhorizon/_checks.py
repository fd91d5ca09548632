"""Worded argument checks: what was required, what came, what to do.

Every message reads "`name` must <requirement>. Received <value>. <Remedy>." Misuse is an
exception before anything is compiled; numerical failure is a status in the record.
"""

import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

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
    text = f"`{name}` must {requirement}. Received {abbreviate(received)}."
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


def require_no_silent_downcast(name: str, tree: Any) -> None:
    """Refuse 64-bit floats that JAX would truncate without a word because x64 is off.

    Raises
    ------
    ValueError
        If a leaf is float64 (or complex128) while ``jax_enable_x64`` is False.
    """
    if jax.config.read("jax_enable_x64"):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype in (np.float64, np.complex128):
            raise ValueError(
                worded(
                    leaf_name(name, path),
                    "be float32 while JAX's x64 mode is off",
                    describe(leaf),
                    'Call jax.config.update("jax_enable_x64", True) first, or pass float32.',
                )
            )


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
    ValueError
        If it is NaN, zero, negative, or not below the bound.
    """
    if not is_concrete(value):
        return  # a traced value cannot be looked at
    number = float(value)
    if not number > 0 or (below is not None and not number < below):
        wanted = "be positive" if below is None else f"lie strictly between 0 and {below:g}"
        raise ValueError(worded(name, wanted, number))
