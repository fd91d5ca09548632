"""Error bars from perturbed copies of a product, and what counts as resolved.

Rounding perturbs every factor a little, A → A + δA with |δA| about eps ‖A‖. How much the
singular values of the whole product feel of it, nobody can read off the factors; so copies of
the chain are perturbed on purpose, a good deal more than rounding does, and watched. The
perturbation is dense, c eps ‖A‖_F/n in every entry (a multiplicative one leaves zeros zero and
misses a loss of rank), and of rank one, c eps/n ‖A‖_F x yᵀ with random signs, which costs next to
nothing.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gradhorizon.products import _udt
from gradhorizon.products._udt import Udt

COPIES = 2
STRENGTH = 256.0  # c; the size of the perturbation in units of rounding
_TRUST = 0.25  # of the deviation that so strong a perturbation causes
_REACH = 2  # neighbors on either side whose deviation counts as well,
_LUCK = 16.0  # up to this multiple of one's own: two copies may agree with the product by luck
_UNRESOLVED = 0.1  # nats; a wider bar means that no digit is known


def push(
    probes: tuple[Udt, ...], scaled: Float[Array, "n n"], common: Int[Array, ""], eps: float, t: Any
) -> tuple[Udt, ...]:
    """Multiply each copy by 2^common (A + δA), another δA for each copy and step."""
    n = scaled.shape[0]
    size = STRENGTH * eps / n * jnp.linalg.norm(scaled)
    signs = _signs(t, (COPIES, 2, n), scaled.dtype)

    def one(probe: Udt, x: Array, y: Array) -> Udt:
        pushed = _udt.push(probe, scaled, common)
        nudged = pushed.rows + (probe.rows @ (size * y))[:, None] * x[None, :]
        return pushed._replace(rows=nudged)

    return tuple(one(probe, *signs[i]) for i, probe in enumerate(probes))


def _signs(t: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw signs, fixed for each step, one bit each: a float for every sign is slow to draw."""
    count = math.prod(shape)
    key = jax.random.fold_in(jax.random.key(0), t)
    words = jax.random.bits(key, (-(-count // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return 2 * bits.ravel()[:count].reshape(shape).astype(dtype) - 1


def resolve(
    logs: Float[Array, "lags copies n"], caps: Int[Array, " lags"], eps: float
) -> tuple[Array, Array, Array]:
    """Turn the deviation of the copies into error bars, and lost digits into NaN.

    Values beyond the structural rank are exactly zero. A rank between two unresolved ones is
    unresolved too: a lost value lands elsewhere in the sorted list and shifts its neighbors.
    """
    n = logs.shape[-1]
    values = logs[:, 0]
    deviation = jnp.max(jnp.abs(logs[:, 1:] - values[:, None]), axis=1, initial=0.0)
    rank = jnp.arange(n, dtype=jnp.int32)
    beyond = rank[None] >= caps[:, None]
    deviation = jnp.where(beyond, 0, deviation)
    wide = deviation
    for shift in range(1, _REACH + 1):
        ahead = jnp.pad(deviation[:, shift:], ((0, 0), (0, shift)))[:, :n]
        behind = jnp.pad(deviation[:, : max(n - shift, 0)], ((0, 0), (shift, 0)))[:, :n]
        wide = jnp.maximum(wide, jnp.minimum(jnp.maximum(ahead, behind), _LUCK * deviation))
    bars = _TRUST * wide + 4 * eps * jnp.abs(values) + 16 * n * eps
    lost = ~beyond & ~(bars <= _UNRESOLVED)
    from_above = jnp.cumsum(lost, axis=1) > 0
    from_below = jnp.cumsum(lost[:, ::-1], axis=1)[:, ::-1] > 0
    lost = from_above & from_below & ~beyond
    values = jnp.where(beyond, -jnp.inf, jnp.where(lost, jnp.nan, values))
    bars = jnp.where(beyond, 0, jnp.where(lost, jnp.inf, bars))
    return values, bars, ~lost
