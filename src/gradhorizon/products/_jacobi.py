"""One-sided Jacobi on graded columns: every singular value to full relative accuracy.

The matrix is X diag(d) with d_j = m_j 2^(e_j) far beyond any floating-point range. Pairs of
columns are rotated until all are orthogonal; the scales never enter the arithmetic except
through the ratio r = d_b/d_a ≤ 1 of a pair. (LAPACK's bidiagonal SVD loses everything below
eps σ_1, and its own Jacobi has a fixed exponent range.)
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, shift, split

_MOST_SWEEPS = 30


def tournament(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair n players (n even) in n - 1 rounds of n/2 disjoint pairs, each pair once.

    The circle method: one player stays, the others move on by one place per round.
    """
    circle = np.arange(n)
    firsts, seconds = [], []
    for _ in range(n - 1):
        firsts.append(circle[: n // 2].copy())
        seconds.append(circle[n // 2 :][::-1].copy())
        circle = np.concatenate([circle[:1], np.roll(circle[1:], 1)])
    return np.array(firsts), np.array(seconds)


def log_singular_values(
    columns: Float[Array, "n n"], mantissa: Float[Array, " n"], exponent: Int[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, " n"], Int[Array, ""]]:
    """Orthogonalize the columns of X diag(m 2^e).

    Returns
    -------
    tuple
        Singular values as mantissas and exponents, unsorted, and the number of sweeps.
    """
    n = columns.shape[0]
    padded = n + n % 2
    unit = jnp.zeros((n, padded), columns.dtype).at[:, :n].set(columns)
    m = jnp.zeros(padded, columns.dtype).at[:n].set(mantissa)
    e = jnp.full(padded, ZERO_EXPONENT, jnp.int32).at[:n].set(exponent)
    state = normalize_columns(unit, m, e)
    if padded == 1 or n == 1:
        return state[1][:n], state[2][:n], jnp.asarray(0, jnp.int32)
    rounds = tuple(jnp.asarray(part, jnp.int32) for part in tournament(padded))
    tolerance = 4 * float(jnp.finfo(columns.dtype).eps) * float(np.sqrt(n))

    def unfinished(carry: Any) -> Array:
        _, worst, sweeps = carry
        return (worst > tolerance) & (sweeps < _MOST_SWEEPS)

    def sweep(carry: Any) -> Any:
        state, _, sweeps = carry

        def body(inner: Any, pairs: Any) -> Any:
            state, cosine = rotate(*inner[0], *pairs)
            return (state, jnp.maximum(inner[1], cosine)), None

        (state, worst), _ = lax.scan(body, (state, jnp.zeros((), columns.dtype)), rounds)
        return state, worst, sweeps + 1

    initial = (state, jnp.asarray(jnp.inf, columns.dtype), jnp.asarray(0, jnp.int32))
    (_, m, e), _, sweeps = lax.while_loop(unfinished, sweep, initial)
    return m[:n], e[:n], sweeps


def rotate(
    unit: Array, mantissa: Array, exponent: Array, first: Array, second: Array
) -> tuple[tuple[Array, Array, Array], Array]:
    """Rotate disjoint pairs of columns until each pair is orthogonal."""
    swap = (exponent[second] > exponent[first]) | (
        (exponent[second] == exponent[first]) & (mantissa[second] > mantissa[first])
    )
    big, small = jnp.where(swap, second, first), jnp.where(swap, first, second)
    a, b = unit[:, big], unit[:, small]
    cosine = jnp.sum(a * b, axis=0)
    safe = jnp.where(mantissa[big] > 0, mantissa[big], 1)
    gap = jnp.maximum(exponent[small] - exponent[big], -4096)
    r = jnp.where(mantissa[big] > 0, shift(mantissa[small] / safe, gap), 0)
    difference = (1 - r) * (1 + r)
    bottom = difference + jnp.sqrt(difference**2 + 4 * (r * cosine) ** 2)
    tau = jnp.where(bottom > 0, -2 * cosine / jnp.where(bottom > 0, bottom, 1), 0)
    t = tau * r
    scale = 1 / jnp.sqrt(1 + t**2)
    new_a = scale[None] * (a - (t * r)[None] * b)
    new_b = scale[None] * (b + tau[None] * a)
    unit = unit.at[:, big].set(new_a).at[:, small].set(new_b)
    return normalize_columns(unit, mantissa, exponent), jnp.max(jnp.abs(cosine))


def normalize_columns(unit: Array, mantissa: Array, exponent: Array) -> tuple[Array, Array, Array]:
    """Make columns unit vectors and multiply their norms into the scales."""
    norms = jnp.linalg.norm(unit, axis=0)
    new, extra = split(mantissa * norms)
    exponent = jnp.where(new == 0, ZERO_EXPONENT, exponent + extra)
    return unit / jnp.where(norms > 0, norms, 1)[None], new, exponent
