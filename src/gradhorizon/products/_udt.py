"""The long product as U · diag(d) · V with exact scales: nothing is lost, however wide the range.

U is orthogonal, V well conditioned, and d_j = m_j 2^(e_j) carries the size of direction j as a
mantissa and an integer exponent. One step multiplies from the left, Φ ← A Φ: the columns of A U
are sorted by their true size before the QR, so that large directions never overwrite small
ones. V drifts away from orthogonality on non-normal chains; `refresh`, every few steps, makes
it orthogonal again. It leaves U non-orthogonal until the next step, hence is never the last.

The identities: R diag(d) = diag(R_ii d_i) M with M_ii = 1, M_ij = (R_ij/R_ii)(d_j/d_i) for
j > i, d as it was before the step; and diag(d) Rᵀ = Mᵀ diag(d_i R_ii).

The graded QR with column sorting is the stratification of quantum Monte Carlo (Bai, Lee, Li &
Xu, Linear Algebra Appl. 435, 2011); the accuracy argument is Demmel et al., Linear Algebra
Appl. 299 (1999).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, normalize, shift, split
from gradhorizon.products._qr import positive_qr

REFRESH_EVERY = 10  # steps; a Jordan block of size 16 loses nothing up to here


class Udt(NamedTuple):
    """Φ = U diag(m 2^e) V."""

    left: Float[Array, "n n"]
    mantissa: Float[Array, " n"]
    exponent: Int[Array, " n"]
    right: Float[Array, "n n"]


def start(n: int, dtype: jnp.dtype) -> Udt:
    """Give the identity: every scale is 1/2 · 2."""
    eye = jnp.eye(n, dtype=dtype)
    return Udt(eye, jnp.full(n, 0.5, dtype), jnp.ones(n, jnp.int32), eye)


def step(product: Udt, matrix: Float[Array, "n n"]) -> Udt:
    """Multiply from the left by one matrix."""
    scaled, common = normalize(matrix)
    columns = scaled @ product.left
    order = size_order(jnp.linalg.norm(columns, axis=0), product.mantissa, product.exponent)
    columns = columns[:, order]
    product = permute_right(product, order)
    left, upper = positive_qr(columns)
    ratios = scaled_ratios(upper, product.mantissa, product.exponent)
    mantissa, exponent = rescale(product.mantissa, product.exponent, jnp.diagonal(upper))
    exponent = jnp.where(mantissa == 0, ZERO_EXPONENT, exponent + common)
    return Udt(left, mantissa, exponent, update_right(ratios, product.right))


def refresh(product: Udt) -> Udt:
    """Make V orthogonal again; U is not, until the next step."""
    left, ratios, mantissa, exponent, right = _factor_right(product)
    return Udt(left @ ratios.T, mantissa, exponent, right.T)


def graded_columns(product: Udt) -> tuple[Float[Array, "n n"], Array, Array]:
    """Give X, m, e such that Φ and X diag(m 2^e) have the same singular values (U orthogonal)."""
    _, ratios, mantissa, exponent, _ = _factor_right(product)
    return ratios.T, mantissa, exponent


def _factor_right(product: Udt) -> tuple[Array, Array, Array, Array, Array]:
    """Sort the rows of V by size and factorize Vᵀ = Q R; d diag R are the new scales."""
    order = size_order(jnp.linalg.norm(product.right, axis=1), product.mantissa, product.exponent)
    product = permute_right(product, order)
    q, upper = positive_qr(product.right.T)
    ratios = scaled_ratios(upper, product.mantissa, product.exponent)
    mantissa, exponent = rescale(product.mantissa, product.exponent, jnp.diagonal(upper))
    return product.left[:, order], ratios, mantissa, exponent, q


def size_order(norms: Array, mantissa: Array, exponent: Array) -> Int[Array, " n"]:
    """Sort |column_j| d_j in descending order, exactly: by exponent, then by mantissa."""
    size, extra = split(norms * mantissa)
    total = jnp.where(size == 0, ZERO_EXPONENT, exponent + extra)
    return jnp.lexsort((-size, -total)).astype(jnp.int32)


def permute_right(product: Udt, order: Int[Array, " n"]) -> Udt:
    """Permute the scales and the rows of V alike; U is the caller's."""
    return product._replace(
        mantissa=product.mantissa[order],
        exponent=product.exponent[order],
        right=product.right[order],
    )


def scaled_ratios(upper: Array, mantissa: Array, exponent: Array) -> Float[Array, "n n"]:
    """Give M: 1 on the diagonal, (R_ij/R_ii)(d_j/d_i) above it, 0 below.

    Only the part above the diagonal is evaluated in earnest; below it d_j/d_i overflows, so its
    exponent is replaced before it is used.
    """
    n = upper.shape[0]
    above = jnp.triu(jnp.ones((n, n), bool), 1)
    usable = above & (jnp.diagonal(upper) > 0)[:, None] & (mantissa > 0)[:, None]
    rows = jnp.where(usable, jnp.diagonal(upper)[:, None] * mantissa[:, None], 1)
    values = jnp.where(usable, upper, 0) * mantissa[None, :] / rows
    gaps = jnp.where(usable, jnp.maximum(exponent[None, :] - exponent[:, None], -4096), 0)
    return shift(values, gaps) + jnp.eye(n, dtype=upper.dtype)


def rescale(mantissa: Array, exponent: Array, factors: Array) -> tuple[Array, Array]:
    """Multiply the scales by positive factors."""
    new, extra = split(mantissa * factors)
    return new, jnp.where(new == 0, ZERO_EXPONENT, exponent + extra)


def update_right(ratios: Float[Array, "n n"], right: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Carry M into V."""
    return ratios @ right
