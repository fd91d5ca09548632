"""The long product as U · diag(d) · V with exact scales: nothing is lost, however wide the range.

U and V are well conditioned, and d_j = m_j 2^(e_j) carries the size of direction j as a mantissa
and an integer exponent. One step multiplies from the left, Φ ← A Φ: the columns of A U are
sorted by their true size before they are factorized, so that large directions never overwrite
small ones. V drifts on non-normal chains; `refresh`, every few steps, renews it.

The identities, for A U = L R: R diag(d) = diag(R_ii d_i) M with M_ii = 1, M_ij =
(R_ij/R_ii)(d_j/d_i) for j > i, d as it was before the step; and diag(d) Rᵀ = Mᵀ diag(d_i R_ii).
Where R_ii is exactly zero (copied states make columns exactly dependent) any other scale of row
i will do: the power of two of its largest entry takes the place of R_ii d_i, and M_ii = 0.

L comes from LU with row pivoting: the accuracy argument asks for well-conditioned factors only
(Demmel et al., Linear Algebra Appl. 299, 1999), and LU costs a third of QR with its Q. The graded
factorization with column sorting is the stratification of quantum Monte Carlo (Bai, Lee, Li & Xu,
Linear Algebra Appl. 435, 2011).

All functions accept leading axes: several products at once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, exponent_of, power_of_two, shift, split
from gradhorizon.products._lu import positive_lu
from gradhorizon.products._qr import positive_qr

_PROGRESS = 0.3  # a further turn is worth it when the last one left less than this of the mixing
_MOST_TURNS = 20
REFRESH_EVERY = 16  # steps; a Jordan block of size 16 loses nothing up to 40


class Udt(NamedTuple):
    """Φ = U diag(m 2^e) V; U is kept transposed, in the memory order of LAPACK."""

    rows: Float[Array, "*copies n n"]
    mantissa: Float[Array, "*copies n"]
    exponent: Int[Array, "*copies n"]
    right: Float[Array, "*copies n n"]

    @property
    def left(self) -> Float[Array, "*copies n n"]:
        """U."""
        return jnp.swapaxes(self.rows, -1, -2)


def start(n: int, dtype: jnp.dtype) -> Udt:
    """Give the identity: every scale is 1/2 · 2."""
    eye = jnp.eye(n, dtype=dtype)
    return Udt(eye, jnp.full(n, 0.5, dtype), jnp.ones(n, jnp.int32), eye)


def prescale(
    matrix: Float[Array, "n n"],
) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, ""]]:
    """Give A / 2^e with its largest entry in [1/2, 1), e, and whether no entry is zero.

    Exact for subnormal entries too: XLA reads those as zero, so they are taken from their bits.
    Entries 2^-1000 times smaller than the largest may vanish.
    """
    sizes = jnp.abs(lax.stop_gradient(matrix))
    largest, dense = jnp.max(sizes), jnp.min(sizes) > 0  # subnormal entries count as zero here

    def ordinary() -> tuple[Array, Array]:
        common = exponent_of(largest)
        return shift(matrix, -common), common

    scaled, common = lax.cond(dense, ordinary, lambda: _prescale_from_bits(matrix))
    return scaled, common, dense


def _prescale_from_bits(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """Scale a matrix with zero or subnormal entries."""
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
    return shift(ordinary, -common) + below, common


def nonzero_entries(matrix: Float[Array, "n n"]) -> Bool[Array, "n n"]:
    """Say which entries are not zero, subnormal ones included."""
    integer = jnp.dtype(f"int{jnp.finfo(matrix.dtype).bits}")
    return (lax.bitcast_convert_type(matrix, integer) & jnp.iinfo(integer).max) != 0


def step(product: Udt, matrix: Float[Array, "n n"]) -> Udt:
    """Multiply from the left by one matrix."""
    scaled, common, _ = prescale(matrix)
    return factorize(push(product, scaled, common))


def push(product: Udt, scaled: Float[Array, "n n"], common: Int[Array, ""]) -> Udt:
    """Multiply U from the left by 2^common A, entries of A at most 1; `factorize` is due then."""
    return product._replace(
        rows=product.rows @ scaled.T, exponent=_raise(product.mantissa, product.exponent, common)
    )


def factorize(product: Udt) -> Udt:
    """Make U well conditioned again: sort its columns by true size, and factorize."""
    return factorize_measured(product)[0]


def factorize_measured(product: Udt) -> tuple[Udt, Float[Array, "*copies"]]:
    """Factorize, and give the rounding loss: the largest (entry in a pivot's row)/(pivot).

    The logarithm of pivot i is known to about eps times that ratio; see `_flag`.
    """
    sizes = jnp.max(jnp.abs(product.rows), axis=-1)
    extra = exponent_of(sizes)
    rows = shift(product.rows, -extra[..., None])  # columns of ordinary size: ratios stay in range
    exponent = _raise(product.mantissa, product.exponent, extra)
    product = product._replace(rows=rows, exponent=exponent)
    product = sort(product, shift(sizes, -extra))
    left, upper, places = positive_lu(product.left)
    pivots = jnp.diagonal(upper, axis1=-2, axis2=-1)
    heights = jnp.take_along_axis(jnp.max(jnp.abs(product.rows), axis=-2), places, axis=-1)
    loss = jnp.max(jnp.where(pivots > 0, heights / jnp.where(pivots > 0, pivots, 1), 1), axis=-1)
    mixing, mantissa, exponent = graded(upper, product.mantissa, product.exponent)
    rows, right = jnp.swapaxes(left, -1, -2), update_right(mixing, product.right)
    return Udt(rows, mantissa, exponent, right), loss


def refresh(product: Udt) -> Udt:
    """Renew V; U is less well conditioned than before, until the next factorization."""
    product = sort(product, jnp.max(jnp.abs(product.right), axis=-1))
    left, upper, _ = positive_lu(jnp.swapaxes(product.right, -1, -2))
    mixing, mantissa, exponent = graded(upper, product.mantissa, product.exponent)
    return Udt(mixing @ product.rows, mantissa, exponent, jnp.swapaxes(left, -1, -2))


def graded_rows(product: Udt) -> tuple[Float[Array, "*copies n n"], Array, Array]:
    """Give X, m, e such that Φ and diag(m 2^e) X have the same singular values, X of unit rows.

    U is made orthogonal first, which changes no singular value. Then diag(d) V is transposed and
    factorized again and again: what mixes two directions shrinks by d_j/d_i each time, so that
    most of X is soon orthogonal. Where directions are of one size it stays, for Jacobi to finish.
    """
    product = sort(product, jnp.max(jnp.abs(product.rows), axis=-1))
    _, upper = positive_qr(product.left)
    mixing, mantissa, exponent = graded(upper, product.mantissa, product.exponent)
    product = product._replace(mantissa=mantissa, exponent=exponent)
    product = product._replace(right=update_right(mixing, product.right))

    def worth_it(carry: tuple[Udt, Array, Array, Array]) -> Array:
        _, mixed, before, count = carry
        going = (count < 2) | ((mixed > small) & (mixed < _PROGRESS * before))
        return going & (count < _MOST_TURNS)

    def body(carry: tuple[Udt, Array, Array, Array]) -> tuple[Udt, Array, Array, Array]:
        product, mixed, _, count = carry
        product = sort(product, jnp.max(jnp.abs(product.right), axis=-1))
        _, upper = positive_qr(jnp.swapaxes(product.right, -1, -2))
        # diag(d) V = Mᵀ diag(d') Qᵀ, and its transpose has the singular values of diag(d') M
        mixing, mantissa, exponent = graded(upper, product.mantissa, product.exponent)
        product = product._replace(mantissa=mantissa, exponent=exponent, right=mixing)
        return product, _mixing(mixing), mixed, count + 1

    small = 4 * float(jnp.finfo(product.right.dtype).eps) * product.right.shape[-1] ** 0.5
    unknown, none = jnp.asarray(jnp.inf, product.right.dtype), jnp.asarray(0, jnp.int32)
    product, *_ = lax.while_loop(worth_it, body, (product, unknown, unknown, none))
    return product.right, product.mantissa, product.exponent


def _mixing(right: Float[Array, "*copies n n"]) -> Float[Array, ""]:
    """Give the largest entry off the diagonal of a unit triangular X."""
    return jnp.max(jnp.abs(jnp.triu(right, 1)))


def _eye_like(matrix: Float[Array, "*copies n n"]) -> Float[Array, "*copies n n"]:
    """Give the identity for each copy."""
    return jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)


def sort(product: Udt, sizes: Float[Array, "*copies n"]) -> Udt:
    """Sort the directions by size_j d_j, descending: columns of U, scales and rows of V alike.

    The key is an integer, eight to a factor of two: ratios of 1.1 between neighbors are harmless.
    After some steps the order stands, and nothing is moved.
    """
    mantissa, extra = split(sizes * product.mantissa)
    whole = jnp.clip(product.exponent + extra, -(2**27), 2**27)
    key = -8 * whole - (16 * mantissa).astype(jnp.int32)
    return lax.cond(
        jnp.all(key[..., 1:] >= key[..., :-1]),
        lambda: product,
        lambda: permute(product, jnp.argsort(key, axis=-1)),
    )


def permute(product: Udt, order: Int[Array, "*copies n"]) -> Udt:
    """Put the directions in a new order."""
    return Udt(
        jnp.take_along_axis(product.rows, order[..., None], axis=-2),
        jnp.take_along_axis(product.mantissa, order, axis=-1),
        jnp.take_along_axis(product.exponent, order, axis=-1),
        jnp.take_along_axis(product.right, order[..., None], axis=-2),
    )


def graded(upper: Array, mantissa: Array, exponent: Array) -> tuple[Array, Array, Array]:
    """Give M and the new scales R_ii d_i, from R with R_ii ≥ 0 and the scales before the step."""
    new, powers = rescale(upper, mantissa, exponent)
    return ratios(upper, mantissa, exponent, new, powers), new, powers


def rescale(upper: Array, mantissa: Array, exponent: Array) -> tuple[Array, Array]:
    """Give the new scales R_ii d_i."""
    pivots = jnp.diagonal(upper, axis1=-2, axis2=-1)

    def ordinary() -> tuple[Array, Array]:
        new, extra = split(pivots * mantissa)
        return new, _raise(new, exponent, extra)

    return lax.cond(
        jnp.all(pivots != 0), ordinary, lambda: _replaced_scales(upper, mantissa, exponent)
    )


def ratios(
    upper: Array, mantissa: Array, exponent: Array, new: Array, powers: Array
) -> Float[Array, "*copies n n"]:
    """Give M from R, the scales before the step, and the new ones.

    Below the diagonal d_j/d_i overflows: the exponent is clipped, and multiplies a zero.
    """
    form = jnp.finfo(upper.dtype)
    gaps = jnp.clip(exponent[..., None, :] - powers[..., None], form.minexp, form.maxexp - 1)
    weights = jnp.where(new == 0, 0, 1 / jnp.where(new == 0, 1, new))
    values = jnp.triu(upper, 1) * mantissa[..., None, :] * weights[..., None]
    replaced = (jnp.diagonal(upper, axis1=-2, axis2=-1) == 0) & (new != 0)
    kept = jnp.where(replaced, 0, 1).astype(upper.dtype)
    return values * power_of_two(gaps, upper.dtype) + _eye_like(upper) * kept[..., None]


def _replaced_scales(upper: Array, mantissa: Array, exponent: Array) -> tuple[Array, Array]:
    """Give R_ii d_i; for R_ii = 0, the power of two of the row's largest entry."""
    factors, extra = split(jnp.diagonal(upper, axis1=-2, axis2=-1))
    new, more = split(mantissa * factors)
    entries = jnp.triu(upper, 1) * mantissa[..., None, :]
    sizes = jnp.where(entries == 0, ZERO_EXPONENT, exponent_of(entries) + exponent[..., None, :])
    largest = jnp.maximum(jnp.max(sizes, axis=-1), ZERO_EXPONENT)
    replaced = (factors == 0) & (largest > ZERO_EXPONENT)
    powers = jnp.where(replaced, largest + 1, _raise(new, exponent, extra + more))
    return jnp.where(replaced, 0.5, new), powers


def _raise(mantissa: Array, exponent: Array, by: Array) -> Int[Array, "*copies n"]:
    """Add to the exponents, except to those of exact zeros."""
    return jnp.where(mantissa == 0, ZERO_EXPONENT, exponent + by)


def update_right(mixing: Float[Array, "*copies n n"], right: Array) -> Float[Array, "*copies n n"]:
    """Carry M into V."""
    return mixing @ right
