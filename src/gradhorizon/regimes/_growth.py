"""What a short prefix shows of the gradient: its growth by lag, and whether the steps repeat.

The backward pass of a prefix is short, so it can be run from several of its steps at once: the
curves tell how the gradient grows at first (non-normal growth, exact zeros), how fast later, and
how much all this differs from one end to another. A fixed vector pulled back through every
single step tells one step Jacobian from another: where they repeat, so does everything beyond.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, normalize
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain

_ENDS = 8  # steps at which a gradient starts, spread over the second half of the prefix
_COTANGENTS = 8  # orthonormal directions that stand for a generic loss


class Growth(NamedTuple):
    """The gradient's growth on a prefix of T steps.

    Attributes
    ----------
    curves
        ln of the gradient's size by lag relative to lag 0, one row for each of E ends, shape
        (E, T + 1); the first row starts at T. NaN beyond the first step.
    prints
        J_tᵀ u for one fixed vector u, t = 1 … T, shape (T, n).
    """

    curves: Float[Array, "ends lags"]
    prints: Float[Array, "T n"]


def ends_of(length: int) -> tuple[int, ...]:
    """Give the steps at which gradients start, the last one first; all at least T/2."""
    spread = np.linspace(length, length / 2, _ENDS, endpoint=False)
    return tuple(sorted({max(1, round(t)) for t in spread.tolist()}, reverse=True))


def generic_cotangents(n: int, dtype: np.dtype) -> Float[Array, "n k"]:
    """Give up to eight fixed orthonormal directions; all of them where n is no larger."""
    if n <= _COTANGENTS:
        return jnp.eye(n, dtype=dtype)
    return jax.random.orthogonal(jax.random.key(0), n, dtype=dtype)[:, :_COTANGENTS]


def growth_of(chain: JacobianChain) -> Growth:
    """Pull generic cotangents back from every end at once: one backward pass over the prefix."""
    n, length, ends = chain.size, chain.length, ends_of(chain.length)
    coframe = generic_cotangents(n, chain.dtype)
    width = coframe.shape[1]
    mark = jnp.cos(jnp.arange(1, n + 1).astype(chain.dtype))[:, None]
    begins = jnp.asarray(np.arange(1, length + 1)[:, None] == np.asarray(ends)[None])

    def body(carry: Any, link: Any, begin: Array) -> Any:
        blocks, exponents = carry
        blocks = jnp.where(begin[:, None, None], coframe[None], blocks)
        exponents = jnp.where(begin, 0, exponents)
        flat = jnp.moveaxis(blocks, 0, 1).reshape(n, -1)
        pulled = link.pull(jnp.concatenate([flat, mark], axis=1))
        blocks = jnp.moveaxis(pulled[:, :-1].reshape(n, len(ends), width), 1, 0)
        blocks, more = jax.vmap(normalize)(blocks)
        dead = jnp.max(jnp.abs(blocks), axis=(1, 2)) == 0
        exponents = jnp.where(dead, ZERO_EXPONENT, exponents + more)
        rms = jnp.sqrt(jnp.sum(blocks**2, axis=(1, 2)) / width)
        return (blocks, exponents), (log_scaled(rms, exponents), pulled[:, -1])

    start = (jnp.zeros((len(ends), n, width), chain.dtype), jnp.zeros(len(ends), jnp.int32))
    _, (logs, prints) = sweep(chain, body, start, begins, reverse=True)
    curves = jnp.full((len(ends), length + 1), jnp.nan, chain.dtype)
    for row, end in enumerate(ends):  # entry t of `logs` is the gradient at h_t
        by_lag = jnp.concatenate([jnp.zeros(1, chain.dtype), logs[:end, row][::-1]])
        curves = curves.at[row, : end + 1].set(by_lag)
    return Growth(curves, prints)


class Trend(NamedTuple):
    """Steady growth along a prefix.

    Attributes
    ----------
    rate
        Mean growth, nats per step; -inf where the gradient vanishes exactly.
    error
        Its standard error from the scatter between blocks of steps.
    diffusion
        The variance that growth over many steps gathers, nats² per step.
    """

    rate: Float[Array, ""]
    error: Float[Array, ""]
    diffusion: Float[Array, ""]


def trend_of(curve: Float[Array, " lags"]) -> Trend:
    """Measure the growth per step on the curve of the last end, without both its edges.

    An eighth is left out at either edge: near lag 0 the gradient still turns towards the
    direction that grows fastest, and at the far edge the state still comes from h_0.
    """
    length = curve.shape[0] - 1
    edge = length // 8
    blocks = max(1, min(8, (length - 2 * edge) // 2))
    size = (length - 2 * edge) // blocks
    places = edge + size * np.arange(blocks + 1)
    values = curve[places]
    dead = jnp.isneginf(values[-1])
    values = jnp.where(jnp.isfinite(values), values, 0)
    rates = (values[1:] - values[:-1]) / size
    rate = jnp.where(dead, -jnp.inf, (values[-1] - values[0]) / (size * blocks))
    if blocks < 2:  # one step shows no scatter: nothing is known but its own growth
        error = jnp.where(dead, 0, jnp.abs(rate))
        return Trend(rate, error, error**2 * size)
    variance = jnp.where(dead, 0, jnp.var(rates, ddof=1))
    return Trend(rate, jnp.sqrt(variance / blocks), variance * size)
