"""An upper bound of the rank of a product from the zeros of its factors.

Dead units make a product exactly singular, which floating point turns into finite noise. The
pattern of zeros knows better: the rank is at most the number of non-zero rows or columns of any
factor or of any product of patterns.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon.products._udt import nonzero_entries


class RankCap(NamedTuple):
    """The bound so far, and what is needed to continue it."""

    cap: Int[Array, ""]
    pattern: Bool[Array, "n n"]  # where the product may be non-zero
    rows: Bool[Array, " n"]  # non-zero rows of the factor before


def start(n: int) -> RankCap:
    """Give the bound of the identity."""
    return RankCap(jnp.asarray(n, jnp.int32), jnp.eye(n, dtype=bool), jnp.ones(n, bool))


def extend(bound: RankCap, matrix: Float[Array, "n n"], dense: Bool[Array, ""]) -> RankCap:
    """Multiply from the left by one factor; `dense` says that none of its entries is zero.

    Three bounds: non-zero rows and columns of the factor, indices through which it can receive
    anything from the factor before, and non-zero rows and columns of the product's pattern.
    """
    settled = dense & jnp.all(bound.pattern) & jnp.all(bound.rows)
    return lax.cond(settled, lambda: bound, lambda: _extend(bound, nonzero_entries(matrix)))


def _extend(bound: RankCap, nonzero: Bool[Array, "n n"]) -> RankCap:
    rows, columns = jnp.any(nonzero, axis=1), jnp.any(nonzero, axis=0)
    # float32 counts up to 2^24 exactly, and its product is the fastest
    pattern = nonzero.astype(jnp.float32) @ bound.pattern.astype(jnp.float32) > 0
    counts = (
        jnp.sum(rows),
        jnp.sum(columns),
        jnp.sum(bound.rows & columns),
        jnp.sum(jnp.any(pattern, axis=1)),
        jnp.sum(jnp.any(pattern, axis=0)),
    )
    least = jnp.min(jnp.stack(counts)).astype(jnp.int32)
    return RankCap(jnp.minimum(bound.cap, least), pattern, rows)
