"""Step Jacobians that repeat: linear networks, fixed points, short periodic orbits.

Where J_t comes back after p steps, the gradient at any lag is a power of one product, and
nothing has to be extrapolated: the last p Jacobians are applied again and again.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, normalize
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.regimes._growth import generic_cotangents
from gradhorizon.regimes._in_turn import spectral_radius

_LONGEST = 8  # periods that are looked for
_FOLLOWED = 1024  # lags that repeating Jacobians are followed through
_COTANGENTS = 16  # orthonormal directions, as many as a measured gradient is averaged over
_TAIL = 10.0  # nats by which transients may differ between ln ρ and the slope of the curve


class Recurrence(NamedTuple):
    """How well the step Jacobians repeat.

    Attributes
    ----------
    period
        p, steps; the one among 1 … 8 that fits best.
    deviation
        The largest relative change of a Jacobian over whole periods, in the second half.
    """

    period: Int[Array, ""]
    deviation: Float[Array, ""]


def recurrence_of(prints: Float[Array, "passes T n"]) -> Recurrence:
    """Compare every step of each pass's second half with that of its phase in the last period."""
    length = prints.shape[1]
    if length < 2:
        infinite = jnp.asarray(jnp.inf, prints.dtype)
        return Recurrence(jnp.asarray(1, jnp.int32), infinite)
    late = np.arange(length // 2, length)
    deviations = []
    for period in range(1, min(_LONGEST, length // 2) + 1):
        phase = length - 1 - (length - 1 - late) % period
        change = jnp.linalg.norm(prints[:, late] - prints[:, phase], axis=2)
        size = jnp.linalg.norm(prints[:, phase], axis=2)
        deviations.append(jnp.max(jnp.where(change == 0, 0, change / jnp.where(size > 0, size, 1))))
    all_of_them = jnp.stack(deviations)
    best = jnp.min(all_of_them)
    good = all_of_them <= 2 * best + 64 * float(jnp.finfo(prints.dtype).eps)
    period = jnp.argmax(good).astype(jnp.int32) + 1  # the shortest that fits as well as the best
    return Recurrence(period, best)


class Replay(NamedTuple):
    """The gradient under repeating Jacobians.

    Attributes
    ----------
    curve
        ln of its size at lag 0 … R relative to lag 0.
    scatter
        The standard deviation that the choice of the cotangents gives to `curve`.
    rate
        ln ρ of one period per step; the slope of the curve where rounding spoils eigenvalues.
    """

    curve: Float[Array, " lags"]
    scatter: Float[Array, " lags"]
    rate: Float[Array, ""]


def last_matrices(chain: JacobianChain) -> Float[Array, "p n n"]:
    """Give J_T, J_{T-1}, …, back to the longest period that is looked for."""
    count = min(_LONGEST, chain.length)
    tail = chain.segment(chain.length - count, chain.length).dense()
    return jax.vmap(lambda item: chain.link(item).matrix())(tail.items)[::-1]


def unknown_replay(dtype: np.dtype) -> Replay:
    """Stand in for a replay where the Jacobians do not repeat."""
    curve = jnp.full(_FOLLOWED + 1, jnp.nan, dtype)
    return Replay(curve, curve, curve[0])


def replay(matrices: Float[Array, "p n n"], period: Int[Array, ""]) -> Replay:
    """Pull generic cotangents back through the last `period` Jacobians, over and over."""
    n, dtype, steps = matrices.shape[1], matrices.dtype, _FOLLOWED

    def step(carry: Any, k: Array) -> Any:
        block, exponent = carry
        block, more = normalize(matrices[k % period].T @ block)
        dead = jnp.max(jnp.abs(block)) == 0
        exponent = jnp.where(dead, ZERO_EXPONENT, exponent + more)
        squares = jnp.sum(block**2, axis=0)
        mean = jnp.mean(squares)
        variation = jnp.std(squares) / jnp.where(mean > 0, mean, 1)
        return (block, exponent), (log_scaled(jnp.sqrt(mean), exponent), variation)

    start = (generic_cotangents(n, _COTANGENTS, dtype, 0), jnp.asarray(0, jnp.int32))
    _, (logs, variation) = lax.scan(step, start, jnp.arange(steps, dtype=jnp.int32))
    curve = jnp.concatenate([jnp.zeros(1, dtype), logs])
    half = steps // 2
    slope = (curve[-1] - curve[half]) / (steps - half)
    slope = jnp.where(jnp.isneginf(curve[-1]), -jnp.inf, slope)

    def multiply(k: Any, product: Array) -> Array:
        return jnp.where(k < period, product @ matrices[k], product)

    product = lax.fori_loop(1, matrices.shape[0], multiply, matrices[0])
    radius = spectral_radius(product)
    asymptotic = (jnp.log(radius) / period.astype(dtype)).astype(dtype)
    agree = jnp.abs(asymptotic - slope) <= _TAIL / max(half, 1)
    # half the logarithm of a mean of squares, here and in a measurement of other directions
    share = 0.0 if n <= _COTANGENTS else math.sqrt(2 / _COTANGENTS) / 2
    scatter = jnp.concatenate([jnp.zeros(1, dtype), variation * share])
    return Replay(curve, scatter, jnp.where(agree, asymptotic, slope))
