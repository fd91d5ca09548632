"""Factors that are not square: layers of changing width, as one chain of square matrices.

J_t of shape (n_t, n_{t-1}) is the upper left block of an N × N matrix of zeros, N the largest
width. The product of these is Φ in the same corner, zero elsewhere: the same non-zero singular
values.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import as_real, describe, is_concrete, require_finite, worded


class Embedded(NamedTuple):
    """Factors in square zeros.

    Attributes
    ----------
    stack
        The matrices, shape (T, N, N), in the narrowest dtype of the factors.
    widths
        n_0 … n_T.
    """

    stack: Float[Array, "T n n"]
    widths: tuple[int, ...]

    def rank_at(self, lag: int) -> int:
        """Give how many singular values Φ(T, T-lag) has."""
        return min(self.widths[-1], self.widths[-1 - lag])


def is_ragged(chain: Any) -> bool:
    """Say whether this is a sequence of matrices that are not all square of one size."""
    if not isinstance(chain, (list, tuple)) or not chain:
        return False
    shapes = {np.shape(factor) for factor in chain if hasattr(factor, "shape")}
    return len(shapes) > 1 or any(len(s) == 2 and s[0] != s[1] for s in shapes)


def embed(factors: Sequence[Any], *, throw: bool) -> Embedded:
    """Check that factors fit one behind the other, and put each into a square of zeros.

    Raises
    ------
    TypeError
        If a factor is not real floating point.
    ValueError
        If a factor is not a matrix, does not fit the one before, or differs in dtype; with
        `throw` also if one is not finite.
    """
    arrays, widths = [], []
    for t, factor in enumerate(factors):
        name = f"chain[{t}]"
        array = as_real(name, factor)
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(worded(name, "be a matrix with at least one entry", describe(array)))
        if arrays and array.shape[1] != widths[-1]:
            remedy = "Pass J_1 … J_T in time order, J_t of shape (n_t, n_{t-1})."
            wanted = f"have {widths[-1]} columns, the rows of chain[{t - 1}]"
            raise ValueError(worded(name, wanted, describe(array), remedy))
        if arrays and array.dtype != arrays[0].dtype:
            wanted = f"have the dtype of chain[0], {arrays[0].dtype}"
            raise ValueError(worded(name, wanted, describe(array), "Cast one of them."))
        if throw and is_concrete(array):
            require_finite(name, array)
        widths = [*(widths or [array.shape[1]]), array.shape[0]]
        arrays.append(array)
    size = max(widths)
    missing = [[(0, size - rows) for rows in a.shape] for a in arrays]
    padded = [jnp.pad(jnp.asarray(a), m) for a, m in zip(arrays, missing, strict=True)]
    return Embedded(jnp.stack(padded), tuple(widths))
