"""How the gradient grows with lag on short runs, and how fast on average.

A short backward pass can start from several steps at once. The curves tell how the gradient
grows at first (non-normal growth, exact zeros) and how much one differs from another; their
increments far from the start are the steady growth. A fixed vector pulled back through every
single step tells one step Jacobian from another: where they repeat, so does everything beyond.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, normalize
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.regimes._passes import Passes

_CURVES = 16  # gradients that are followed, shared among the passes
_COTANGENTS = 4  # orthonormal directions that stand for a generic loss
_CHANCE, _STRONGEST = 0.2, 0.7  # correlation of neighbors that chance makes, and the largest used


class Growth(NamedTuple):
    """The gradient's growth on runs of T steps.

    Attributes
    ----------
    curves
        ln of the gradient's size by lag relative to lag 0, one row for each of E ends, shape
        (…, E, T + 1); the first row starts at T. NaN beyond the first step.
    prints
        J_tᵀ u for one fixed vector u, t = 1 … T, shape (…, T, n).
    """

    curves: Float[Array, "*passes ends lags"]
    prints: Float[Array, "*passes T n"]


def growth_of(passes: Passes) -> Growth:
    """Follow gradients back over every pass, from several ends of each."""
    count = max(2, _CURVES // passes.groups.shape[0])
    return passes.each(lambda chain: _growth(chain, ends_of(chain.length, count)))


def ends_of(length: int, count: int) -> tuple[int, ...]:
    """Give the steps at which gradients start, the last one first; all beyond T/2."""
    spread = np.linspace(length, length / 2, count, endpoint=False)
    return tuple(sorted({max(1, round(t)) for t in spread.tolist()}, reverse=True))


def generic_cotangents(n: int, count: int, dtype: np.dtype, seed: int) -> Float[Array, "n k"]:
    """Give some orthonormal directions; all of them where n is no larger than `count`."""
    if n <= count:
        return jnp.eye(n, dtype=dtype)
    return jax.random.orthogonal(jax.random.key(seed), n, dtype=dtype)[:, :count]


def _growth(chain: JacobianChain, ends: tuple[int, ...]) -> Growth:
    """Pull generic cotangents back from every end at once: one backward pass."""
    n, length = chain.size, chain.length
    coframes = jnp.stack(
        [generic_cotangents(n, _COTANGENTS, chain.dtype, seed) for seed in range(len(ends))]
    )
    width = coframes.shape[2]
    mark = jnp.cos(jnp.arange(1, n + 1).astype(chain.dtype))[:, None]
    begins = jnp.asarray(np.arange(1, length + 1)[:, None] == np.asarray(ends)[None])

    def body(carry: Any, link: Any, begin: Array) -> Any:
        blocks, exponents = carry
        blocks = jnp.where(begin[:, None, None], coframes, blocks)
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


def far_curves(passes: Passes, local: Float[Array, "passes lags"]) -> Array:
    """Give the growth on each pass as a gradient sees it that comes through the later passes.

    Networks with many time constants lose the fast directions first: near its start a gradient
    decays faster than farther back. So one gradient is pulled back through all passes in turn.
    The last pass, where it starts, is left out. Where it dies on the way, or where there is one
    pass, the growth seen by gradients that start on the pass itself is given.
    """
    count = local.shape[0]
    if count < 2:
        return local
    coframe = generic_cotangents(passes.chains.size, _COTANGENTS, local.dtype, 0)

    def body(carry: Any, link: Any, _: None) -> Any:
        block, more = normalize(link.pull(carry[0]))
        exponent = carry[1] + more
        return (block, exponent), log_scaled(jnp.sqrt(jnp.sum(block**2)), exponent)

    def one(carry: Any, chain: JacobianChain) -> Any:
        chain = dataclasses.replace(chain, shared=passes.shared)
        start = log_scaled(jnp.sqrt(jnp.sum(carry[0] ** 2)), carry[1])
        carry, logs = sweep(chain, body, carry, reverse=True)
        return carry, jnp.concatenate([start[None], logs[::-1]]) - start

    begin = normalize(coframe)
    _, curves = lax.scan(one, begin, passes.chains, reverse=True)
    return jnp.where(jnp.all(jnp.isfinite(curves)), curves, local)[:-1]


class Trend(NamedTuple):
    """Steady growth.

    Attributes
    ----------
    rate
        Mean growth, nats per step; -inf where the gradient vanishes exactly.
    error
        Its standard error.
    diffusion
        The variance that growth over many steps gathers on fresh inputs, nats² per step.
    freedom
        The number of independent pieces that the error rests on, less one.
    """

    rate: Float[Array, ""]
    error: Float[Array, ""]
    diffusion: Float[Array, ""]
    freedom: int


def trend_of(curves: Float[Array, "passes lags"], passes: Passes) -> Trend:
    """Average the growth over the places of all passes, and analyze its variance.

    The last place of a pass is left out: the gradient still turns towards the direction that
    grows fastest there. So is the first, whose state still comes from elsewhere, unless the
    passes follow on one another.
    """
    places, size = passes.groups.shape[1], passes.size
    all_groups = passes.groups[: curves.shape[0]]
    first = 0 if passes.continuing or places < 4 else 1
    last = max(places - 1, first + 1)
    at = curves[:, curves.shape[1] - 1 - size * np.arange(first, last + 1)]
    rates, groups = (at[:, :-1] - at[:, 1:]) / size, all_groups[:, first:last]
    alive = jnp.isfinite(rates)
    dead = jnp.mean(jnp.isneginf(curves[:, -1]).astype(curves.dtype)) > 0.5
    count = jnp.maximum(jnp.sum(alive.astype(curves.dtype)), 1)
    mean = jnp.sum(jnp.where(alive, rates, 0)) / count
    rates = jnp.where(alive, rates, mean)
    members = np.unique(groups)
    if len(members) < 2:  # one piece shows no scatter: nothing is known but its own growth
        error = jnp.abs(mean)
        return _unless(dead, Trend(mean, error, error**2 * size, 1))
    between, within, count, memory = _analysis_of_variance(rates, groups, members)
    runs, places = rates.shape
    apart = jnp.var(jnp.mean(rates, axis=1), ddof=1) * places if runs > 1 else within
    largest = jnp.maximum(jnp.maximum(between * memory, within), apart)
    fresh = largest
    if passes.repeated:  # a piece stands `count` times among these, among fresh ones once
        fresh = jnp.maximum(between - within, 0) / count * memory + within
        fresh = jnp.maximum(fresh, apart)
    error = jnp.sqrt(largest / groups.size)
    return _unless(dead, Trend(mean, error, fresh * size, len(members) - 1))


def _unless(dead: Array, trend: Trend) -> Trend:
    """Replace the trend by that of an exactly vanishing gradient."""
    rate, error, diffusion = (
        jnp.where(dead, other, value)
        for other, value in zip((-jnp.inf, 0.0, 0.0), trend[:3], strict=True)
    )
    return Trend(rate, error, diffusion, trend.freedom)


def _analysis_of_variance(
    rates: Float[Array, "passes places"], groups: np.ndarray, members: np.ndarray
) -> tuple[Array, Array, float, Array]:
    """Give the mean squares between and within groups, a group's size, and the memory factor.

    Groups are in the order of time. Where neighbors resemble each other their mean is less
    certain, as that of an AR(1) sequence, by (1 + r)/(1 - r) with r their correlation. Eight
    groups show r only to ±0.35, so what chance makes of r = 0 is subtracted.
    """
    belongs = (groups.ravel()[None] == members[:, None]).astype(float)
    counts = belongs.sum(axis=1)
    weights = jnp.asarray(belongs / counts[:, None], rates.dtype)
    flat = rates.ravel()
    means = weights @ flat
    off = means - jnp.mean(flat)
    between = jnp.sum(jnp.asarray(counts, rates.dtype) * off**2) / (len(members) - 1)
    left = groups.size - len(members)
    residuals = flat - jnp.asarray(belongs.T, rates.dtype) @ means
    within = jnp.sum(residuals**2) / max(left, 1)
    square = jnp.mean(off**2)
    neighbors = jnp.mean(off[1:] * off[:-1]) / jnp.where(square > 0, square, 1)
    r = jnp.clip(neighbors + 1 / len(members) - _CHANCE, 0, _STRONGEST)
    return between, within, float(counts.mean()), (1 + r) / (1 - r)
