"""The long product as U · diag(d) · V with exact scales: nothing is lost, however wide the range.

U is orthogonal, V well conditioned, and d_j = m_j 2^(e_j) carries the size of direction j as a
mantissa and an integer exponent. One step multiplies from the left, Φ ← A Φ: the columns of A U
are sorted by their true size before the QR, so that large directions never overwrite small
ones. V drifts away from orthogonality on non-normal chains; `refresh`, every few steps, makes
it orthogonal again. It leaves U non-orthogonal until the next step, hence is never the last.

The identities: R diag(d) = diag(R_ii d_i) M with M_ii = 1, M_ij = (R_ij/R_ii)(d_j/d_i) for
j > i, d as it was before the step; and diag(d) Rᵀ = Mᵀ diag(d_i R_ii). Where R_ii is exactly
zero (copied states make columns exactly dependent) any other scale of row i will do: the power
of two of its largest entry takes the place of R_ii d_i, and M_ii = 0.

The graded QR with column sorting is the stratification of quantum Monte Carlo (Bai, Lee, Li &
Xu, Linear Algebra Appl. 435, 2011); the accuracy argument is Demmel et al., Linear Algebra
Appl. 299 (1999).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, exponent_of, shift, split
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


def prescale(
    matrix: Float[Array, "n n"],
) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, "n n"]]:
    """Give A / 2^e with its largest entry in [1/2, 1), e, and which entries are not zero.

    Exact for subnormal entries too: XLA reads those as zero, so they are taken from their bits.
    Entries 2^-1000 times smaller than the largest may vanish, hence the third result.
    """
    form = jnp.finfo(matrix.dtype)
    integer = jnp.dtype(f"int{form.bits}")
    bits = lax.bitcast_convert_type(matrix, integer)
    magnitude = bits & jnp.iinfo(integer).max
    tiny = magnitude < (1 << form.nmant)  # zero or subnormal: a count of the smallest number
    count = jnp.where(tiny, magnitude, 0).astype(matrix.dtype)
    unit = form.minexp - form.nmant
    ordinary = jnp.where(tiny, 0, matrix)
    common = jnp.where(
        jnp.all(tiny), exponent_of(jnp.max(count)) + unit, exponent_of(jnp.max(jnp.abs(ordinary)))
    )
    below = shift(jnp.where(bits < 0, -count, count), unit - common)
    return shift(ordinary, -common) + below, common, magnitude != 0


def step(product: Udt, matrix: Float[Array, "n n"]) -> Udt:
    """Multiply from the left by one matrix."""
    scaled, common, _ = prescale(matrix)
    return scaled_step(product, scaled, common)


def scaled_step(product: Udt, scaled: Float[Array, "n n"], common: Int[Array, ""]) -> Udt:
    """Multiply from the left by 2^common times a matrix with entries of ordinary size."""
    columns = scaled @ product.left
    sizes = exponent_of(jnp.max(jnp.abs(columns), axis=0))
    columns = shift(columns, -sizes[None])  # squares of their entries stay in range
    product = product._replace(exponent=_raise(product.mantissa, product.exponent, sizes))
    order = size_order(jnp.linalg.norm(columns, axis=0), product.mantissa, product.exponent)
    columns = columns[:, order]
    product = permute_right(product, order)
    left, upper = positive_qr(columns)
    ratios = scaled_ratios(upper, product.mantissa, product.exponent)
    mantissa, exponent = rescale(upper, product.mantissa, product.exponent)
    exponent = _raise(mantissa, exponent, common)
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
    mantissa, exponent = rescale(upper, product.mantissa, product.exponent)
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
    pivots, powers = rescale(upper, mantissa, exponent)
    usable = jnp.triu(jnp.ones((n, n), bool), 1) & (pivots != 0)[:, None]
    values = jnp.where(usable, upper, 0) * mantissa[None, :] / jnp.where(usable, pivots[:, None], 1)
    gaps = jnp.where(usable, jnp.maximum(exponent[None, :] - powers[:, None], -4096), 0)
    replaced = (jnp.diagonal(upper) == 0) & (pivots != 0)
    return shift(values, gaps) + jnp.diag(jnp.where(replaced, 0, 1).astype(upper.dtype))


def rescale(upper: Array, mantissa: Array, exponent: Array) -> tuple[Array, Array]:
    """Give the new scales d_i R_ii; for R_ii = 0, the power of two of the row's largest entry."""
    factors, extra = split(jnp.diagonal(upper))
    new, more = split(mantissa * factors)
    entries = jnp.triu(upper, 1) * mantissa[None, :]
    sizes = jnp.where(entries == 0, ZERO_EXPONENT, exponent_of(entries) + exponent[None, :])
    largest = jnp.maximum(jnp.max(sizes, axis=1), ZERO_EXPONENT)
    replaced = (factors == 0) & (largest > ZERO_EXPONENT)
    new = jnp.where(replaced, 0.5, new)
    return new, jnp.where(replaced, largest + 1, _raise(new, exponent, extra + more))


def _raise(mantissa: Array, exponent: Array, by: Array) -> Int[Array, " n"]:
    """Add to the exponents, except to those of exact zeros."""
    return jnp.where(mantissa == 0, ZERO_EXPONENT, exponent + by)


def update_right(ratios: Float[Array, "n n"], right: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Carry M into V."""
    return ratios @ right
