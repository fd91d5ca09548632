"""Matrices as a user gives them: kinds and shapes checked, half formats promoted, range kept.

XLA flushes subnormal numbers to zero, and sums of entries near the largest float overflow. Such
matrices are multiplied by one power of two, exactly, on the host; `unscaled` takes it back out of
the logarithms of a product of so many of them.
"""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import as_real, describe, is_concrete, is_half, wide_enough, worded
from gradhorizon._scaled import LN2

LIMIT = 2 * 2**30  # bytes that one array of matrices may take unless told otherwise
_ROOM = 24  # bits kept free above the largest entry, for sums of entries


class PrecisionWarning(UserWarning):
    """Numbers are stored, or computed, in fewer bits than the analysis computes with."""


class Given(NamedTuple):
    """Checked matrices.

    Attributes
    ----------
    stack
        2^shift J_1 … 2^shift J_T.
    storage_dtype
        The dtype they came in.
    shift
        The binary exponent they were multiplied by: 0 unless entries are extreme.
    """

    stack: Float[Array, "T n n"]
    storage_dtype: np.dtype
    shift: int


def given(matrices: Any) -> Given:
    """Check an array of matrices and prepare it for analysis."""
    stack = as_real("matrices", matrices)
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or stack.shape[1] == 0:
        remedy = "Put time first; batch with jax.vmap."
        if stack.ndim == 3 and 0 not in stack.shape[1:]:
            remedy = "For factors of changing width pass a list to `singular_spectrum`."
        wanted = "have shape (T, n, n) with n at least 1"
        raise ValueError(worded("matrices", wanted, describe(stack), remedy))
    stack = jnp.asarray(stack)
    storage = np.dtype(stack.dtype)
    if is_half(storage):
        stack = stack.astype(wide_enough(storage))
        warnings.warn(
            f"The matrices are stored in {storage}: they are promoted to {stack.dtype}, and error "
            f"bars use the precision of {storage}.",
            PrecisionWarning,
            stacklevel=4,
        )
    shift = _shift(stack) if is_concrete(stack) else 0
    if shift:
        stack = jnp.asarray(np.ldexp(np.asarray(stack), shift))
    return Given(stack, storage, shift)


def _shift(stack: Any) -> int:
    """Give the binary exponent that brings all entries into the range of normal numbers."""
    values = np.asarray(stack)
    if values.size == 0:
        return 0
    form = np.finfo(values.dtype)
    low, high = form.smallest_normal, np.ldexp(form.max, -_ROOM)
    finite = np.isfinite(values)
    sizes = np.abs(values, where=finite, out=np.zeros_like(values))
    top, tiny = sizes.max(), bool(((sizes > 0) & (sizes < low)).any())
    up = form.nmant + 8
    fits = not tiny or top < np.ldexp(high, -up)
    least = np.min(sizes, axis=(1, 2), where=sizes > 0, initial=form.max)
    wide = bool((least < np.max(sizes, axis=(1, 2)) / high).any())
    if tiny or wide:
        below = f"The matrices have entries below {low:.3g}, the smallest normal {values.dtype}, "
        apart = f"Entries of one matrix lie further apart than {high:.3g}: the smaller ones "
        rest = (
            "may count as zero beside entries as large as these."
            if wide or not fits
            else "which have fewer digits; all are multiplied by a power of two for the analysis."
        )
        warnings.warn((apart if wide else below) + rest, PrecisionWarning, stacklevel=5)
    if tiny and fits:
        return up
    return -_ROOM if top > high else 0


def unscaled(logs: Array, steps: Any, shift: int) -> Array:
    """Take 2^(shift · steps) out of the logarithms of products of that many factors."""
    if not shift:
        return logs
    offset = jnp.asarray(np.asarray(steps, dtype=float) * shift * LN2, logs.dtype)
    return logs - offset


def require_room(size: int, columns: int, dtype: Any) -> None:
    """Refuse an analysis whose arrays of n × k would pass 2 GiB each, before allocating any.

    Raises
    ------
    MemoryError
        Naming the bytes of one such array.
    """
    needed = size * columns * np.dtype(dtype).itemsize
    if needed > LIMIT:
        remedy = (
            "Ask for fewer directions, as lyapunov_spectrum(chain, k) and backpropagate do: they "
            "form no n × n matrix."
        )
        wanted = f"have arrays of n × k of at most {LIMIT} bytes (2 GiB)"
        shown = f"n = {size}, k = {columns}: {needed} bytes ({needed / 2**30:.1f} GiB) each"
        raise MemoryError(worded("chain", wanted, shown, remedy))
