"""One-sided Jacobi on graded rows: every singular value to full relative accuracy.

The matrix is diag(d) X with d_j = m_j 2^(e_j) far beyond any floating-point range. Pairs of rows
are rotated until all are orthogonal; the scales never enter the arithmetic except through the
ratio r = d_b/d_a ≤ 1 of a pair. (LAPACK's bidiagonal SVD loses everything below eps σ_1, and its
own Jacobi has a fixed exponent range.)

Rows are kept in two halves, partner facing partner, and move on by one place after each round:
contiguous memory throughout.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, shift, split

_MOST_SWEEPS = 30


class Half(NamedTuple):
    """Unit rows and their scales m 2^e; one half of all rows, in the order of the round."""

    rows: Float[Array, "*copies half n"]
    mantissa: Float[Array, "*copies half"]
    exponent: Int[Array, "*copies half"]


def log_singular_values(
    rows: Float[Array, "*copies n n"],
    mantissa: Float[Array, "*copies n"],
    exponent: Int[Array, "*copies n"],
) -> tuple[Float[Array, "*copies n"], Int[Array, "*copies n"], Int[Array, ""]]:
    """Orthogonalize the rows of diag(m 2^e) X.

    Returns
    -------
    tuple
        Singular values as mantissas and exponents, unsorted, and the number of sweeps; with
        leading axes, of the slowest copy.
    """
    n = rows.shape[-1]
    odd = n % 2
    widths = [(0, 0)] * (rows.ndim - 2)
    everything = normalize_rows(
        Half(
            jnp.pad(rows, [*widths, (0, odd), (0, 0)]),
            jnp.pad(mantissa, [*widths, (0, odd)]),
            jnp.pad(exponent, [*widths, (0, odd)], constant_values=ZERO_EXPONENT),
        )
    )
    half = (n + odd) // 2
    tolerance = 4 * float(jnp.finfo(rows.dtype).eps) * math.sqrt(n)

    def unfinished(carry: tuple[Half, Half, Array, Array]) -> Array:
        _, _, worst, sweeps = carry
        return (worst > tolerance) & (sweeps < _MOST_SWEEPS)

    def sweep(carry: tuple[Half, Half, Array, Array]) -> tuple[Half, Half, Array, Array]:
        top, bottom, _, sweeps = carry

        def one(state: tuple[Half, Half, Array], _: None) -> tuple[tuple[Half, Half, Array], None]:
            top, bottom, cosine = rotate(state[0], state[1])
            return (*move_on(top, bottom), jnp.maximum(state[2], cosine)), None

        start = (top, bottom, jnp.zeros((), rows.dtype))
        (top, bottom, worst), _ = lax.scan(one, start, length=2 * half - 1)
        return normalize_rows(top), normalize_rows(bottom), worst, sweeps + 1

    top = Half(everything.rows[..., :half, :], *(a[..., :half] for a in everything[1:]))
    bottom = Half(everything.rows[..., half:, :], *(a[..., half:] for a in everything[1:]))
    count = jnp.asarray(0, jnp.int32)
    top, bottom, _, sweeps = lax.while_loop(
        unfinished, sweep, (top, bottom, _largest_cosine(everything.rows), count)
    )
    m, e = (jnp.concatenate([a, b], axis=-1) for a, b in zip(top[1:], bottom[1:], strict=True))
    keep = jnp.argsort(e == ZERO_EXPONENT, axis=-1, stable=True)[..., :n]  # the padding goes last
    return jnp.take_along_axis(m, keep, axis=-1), jnp.take_along_axis(e, keep, axis=-1), sweeps


def _largest_cosine(rows: Float[Array, "*copies n m"]) -> Float[Array, ""]:
    """Give the largest |cosine| between two rows: most spectra of long chains need no rotation."""
    gram = rows @ jnp.swapaxes(rows, -1, -2)
    return jnp.max(jnp.abs(jnp.triu(gram, 1)))


def move_on(top: Half, bottom: Half) -> tuple[Half, Half]:
    """Give the next round of the tournament: the first row stays, the others move by one place."""

    def ring(a: Array, b: Array, axis: int) -> tuple[Array, Array]:
        def cut(x: Array, low: int | None, high: int | None) -> Array:
            return lax.slice_in_dim(x, low, high, axis=axis)

        last = a.shape[axis]
        if last == 1:
            return a, b
        first = (cut(a, 0, 1), cut(b, 0, 1), cut(a, 1, last - 1))
        second = (cut(b, 1, last), cut(a, last - 1, last))
        return jnp.concatenate(first, axis=axis), jnp.concatenate(second, axis=axis)

    axes = (top.rows.ndim - 2, top.mantissa.ndim - 1, top.exponent.ndim - 1)
    pairs = [ring(a, b, axis) for a, b, axis in zip(top, bottom, axes, strict=True)]
    return Half(*(p[0] for p in pairs)), Half(*(p[1] for p in pairs))


def rotate(top: Half, bottom: Half) -> tuple[Half, Half, Float[Array, ""]]:
    """Rotate facing rows until each pair is orthogonal; also give the largest |cosine| met."""
    swap = (bottom.exponent > top.exponent) | (
        (bottom.exponent == top.exponent) & (bottom.mantissa > top.mantissa)
    )
    cosine = jnp.sum(top.rows * bottom.rows, axis=-1)
    large = jnp.where(swap, bottom.mantissa, top.mantissa)
    small = jnp.where(swap, top.mantissa, bottom.mantissa)
    gap = -jnp.abs(jnp.maximum(bottom.exponent, -(2**28)) - jnp.maximum(top.exponent, -(2**28)))
    r = shift(small / jnp.where(large > 0, large, 1), jnp.maximum(gap, -4096))
    r = jnp.where(large > 0, r, 0)
    difference = (1 - r) * (1 + r)
    below = difference + jnp.sqrt(difference**2 + 4 * (r * cosine) ** 2)
    tau = jnp.where(below > 0, -2 * cosine / jnp.where(below > 0, below, 1), 0)
    t = tau * r
    scale = 1 / jnp.sqrt(1 + t**2)
    # the larger row takes -t r of the smaller one, the smaller one takes tau of the larger one
    to_top, to_bottom = jnp.where(swap, tau, -t * r), jnp.where(swap, -t * r, tau)

    def mixed(one: Half, other: Half, weight: Array) -> Half:
        # the norm of the new row is known well enough; the end of the sweep measures it
        norm = scale * jnp.sqrt(jnp.maximum(1 + 2 * weight * cosine + weight**2, 1e-2))
        rows = (scale / norm)[..., None] * (one.rows + weight[..., None] * other.rows)
        mantissa, extra = split(one.mantissa * norm)
        exponent = jnp.where(mantissa == 0, ZERO_EXPONENT, one.exponent + extra)
        return Half(rows, mantissa, exponent)

    pair = (mixed(top, bottom, to_top), mixed(bottom, top, to_bottom))
    return *pair, jnp.max(jnp.abs(cosine))


def normalize_rows(half: Half) -> Half:
    """Make rows unit vectors and multiply their norms into the scales."""
    norms = jnp.linalg.norm(half.rows, axis=-1)
    mantissa, extra = split(half.mantissa * norms)
    exponent = jnp.where(mantissa == 0, ZERO_EXPONENT, half.exponent + extra)
    rows = half.rows / jnp.where(norms > 0, norms, 1)[..., None]
    return Half(rows, mantissa, exponent)
