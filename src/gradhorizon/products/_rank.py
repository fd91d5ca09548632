"""An upper bound of the rank of a product from the zeros of its factors.

Dead units make a product exactly singular, which floating point turns into finite noise. The
pattern of zeros knows better: the rank is at most the number of non-zero rows or columns of any
factor or of any product of patterns.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class RankCap(NamedTuple):
    """The bound so far, and what is needed to continue it."""

    cap: Int[Array, ""]
    pattern: Float[Array, "n n"]  # 1 where the product may be non-zero
    rows: Bool[Array, " n"]  # non-zero rows of the factor before


def start(n: int, dtype: jnp.dtype) -> RankCap:
    """Give the bound of the identity."""
    return RankCap(jnp.asarray(n, jnp.int32), jnp.eye(n, dtype=dtype), jnp.ones(n, bool))


def extend(bound: RankCap, nonzero: Bool[Array, "n n"]) -> RankCap:
    """Multiply from the left by one factor, given by the places of its non-zero entries.

    Three bounds: non-zero rows and columns of the factor, indices through which it can receive
    anything from the factor before, and non-zero rows and columns of the product's pattern.
    """
    dtype = bound.pattern.dtype
    rows, columns = jnp.any(nonzero, axis=1), jnp.any(nonzero, axis=0)
    pattern = (nonzero.astype(dtype) @ bound.pattern > 0).astype(dtype)
    counts = (
        jnp.sum(rows),
        jnp.sum(columns),
        jnp.sum(bound.rows & columns),
        jnp.sum(jnp.any(pattern > 0, axis=1)),
        jnp.sum(jnp.any(pattern > 0, axis=0)),
    )
    least = jnp.min(jnp.stack(counts)).astype(jnp.int32)
    return RankCap(jnp.minimum(bound.cap, least), pattern, rows)
