"""From growth by lag to one verdict: rate, horizon with an interval, regime.

Growth over k steps is taken as a drift plus a random walk,

    y(k) = ȳ(k) ± sqrt(v(k) + k² s²),

with ȳ the curve seen on the prefix, continued by its rate; v the variance that fresh inputs make
(what was seen between the ends of the prefix, D per step beyond); and s the error of the rate.
The horizon is where ȳ leaves the window [ε, 1/ε], its interval where the edges of the band do.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from gradhorizon.regimes._growth import Trend
from gradhorizon.regimes._recurrence import Recurrence, Replay
from gradhorizon.regimes.regime import window_width

RECURRENT, SEEN, CONTINUED = 0, 1, 2  # what a verdict rests on

_LEVEL = 0.95  # upper end of the central 90 % interval
# Errors are the largest of three mean squares, hence too large on average. The factor makes the
# interval hold 95 % of the horizons of the tuning half of benchmarks/predictor.py.
_NARROW = 0.77
_DEVIATION = 4.0  # growth changes by at most a few times the relative change of the Jacobians
_FAR = 1e9  # a horizon beyond this many steps counts as infinite
_HUGE = 1e30  # stands for an infinite logarithm where curves are interpolated


class Verdict(NamedTuple):
    """What was concluded: see the attributes of `Prediction`."""

    rate: Float[Array, ""]
    rate_error: Float[Array, ""]
    horizon: Float[Array, ""]
    horizon_interval: Float[Array, " 2"]
    regime_code: Int[Array, ""]
    basis: Int[Array, ""]


class Band(NamedTuple):
    """Growth by lag and its standard deviation, on a grid of lags."""

    middle: Float[Array, " lags"]
    spread: Float[Array, " lags"]


def lag_grid(known: int) -> np.ndarray:
    """Give every lag up to `known`, and beyond it lags that grow by a twentieth."""
    count = math.ceil(math.log(_FAR / max(known, 1)) / math.log(1.05))
    return np.concatenate([np.arange(known + 1), max(known, 1) * 1.05 ** np.arange(1, count + 1)])


def recurs(recurrence: Recurrence, trend: Trend) -> Bool[Array, ""]:
    """Say whether the Jacobians repeat well enough to know more than statistics would."""
    exact = math.sqrt(float(jnp.finfo(recurrence.deviation.dtype).eps))
    better = _DEVIATION * recurrence.deviation < trend.error
    return (recurrence.deviation <= exact) | better


def seen_band(curves: Float[Array, "curves lags"], trend: Trend, grid: np.ndarray) -> Band:
    """Give the median growth over all curves, continued by the rate."""
    lags = jnp.asarray(grid, curves.dtype)
    known = _known(curves)
    beyond = jnp.maximum(lags - known, 0)
    within = np.minimum(np.arange(len(grid)), known)
    curves = curves[:, : known + 1]
    middle = _continued(jnp.median(curves, axis=0)[within], trend.rate, beyond)
    alive = jnp.isfinite(curves)
    count = jnp.maximum(jnp.sum(alive.astype(curves.dtype), axis=0), 1)
    center = jnp.sum(jnp.where(alive, curves, 0), axis=0) / count
    squares = jnp.where(alive, jnp.square(curves - center[None]), 0)
    between = jnp.sum(squares, axis=0) / max(curves.shape[0] - 1, 1)
    walk = trend.diffusion * lags
    fresh = jnp.maximum(between[within] + trend.diffusion * beyond, walk)
    return Band(middle, jnp.sqrt(fresh + jnp.square(lags * trend.error)))


def _known(curves: Float[Array, "curves lags"]) -> int:
    """Give the lag that all curves reach: they start from T/2 on at least."""
    return max((curves.shape[1] - 1) // 2, 1)


def replayed_band(replay: Replay, deviation: Float[Array, ""], grid: np.ndarray) -> Band:
    """Give the growth under repeating Jacobians, continued by its rate."""
    known = replay.curve.shape[0] - 1
    lags = jnp.asarray(grid, replay.curve.dtype)
    beyond = jnp.maximum(lags - known, 0)
    within = np.minimum(np.arange(len(grid)), known)
    middle = replay.curve[within]
    middle = _continued(middle, replay.rate, beyond)
    drift = lags * jnp.where(jnp.isfinite(deviation), deviation, 0)
    return Band(middle, jnp.hypot(drift, replay.scatter[within]))


def _continued(middle: Array, rate: Array, beyond: Array) -> Array:
    """Add steady growth to the lags beyond the known ones; the rate may be infinite."""
    return jnp.where(beyond > 0, middle + rate * jnp.where(beyond > 0, beyond, 1), middle)


def conclude(
    curves: Float[Array, "curves lags"],
    trend: Trend,
    recurrence: Recurrence,
    replay: Replay,
    certified_rate: Float[Array, ""],
    *,
    lag: Any,
    threshold: Any,
) -> Verdict:
    """Find where the band leaves the window, and what that means at the lag.

    `certified_rate` bounds the growth per step from above; infinite where nothing is certain.
    """
    dtype = curves.dtype
    grid = lag_grid(max(curves.shape[1], replay.curve.shape[0]) - 1)
    repeats = recurs(recurrence, trend)
    deviation = _DEVIATION * recurrence.deviation
    one, other = replayed_band(replay, deviation, grid), seen_band(curves, trend, grid)
    middle, spread = (jnp.where(repeats, a, b) for a, b in zip(one, other, strict=True))
    width = window_width(threshold, dtype)
    size = jnp.clip(jnp.abs(middle), 0, _HUGE)
    lags = jnp.asarray(grid, dtype)
    reach = half_width(trend.freedom) * spread
    horizon, place = _crossing(size, lags, width)
    low, _ = _crossing(size + reach, lags, width)
    high, _ = _crossing(size - reach, lags, width)
    low, high = _with_deaths(curves, width, low, high)
    cap = jnp.where(certified_rate < 0, -width / certified_rate, jnp.inf).astype(dtype)
    horizon, low, high = (jnp.minimum(h, cap) for h in (horizon, jnp.floor(low), jnp.ceil(high)))
    side = jnp.sign(middle[place]).astype(jnp.int32)
    rate = jnp.where(repeats, replay.rate, trend.rate)
    seen = jnp.where(horizon <= _known(curves), SEEN, CONTINUED)
    return Verdict(
        rate=rate,
        rate_error=jnp.where(jnp.isneginf(rate), 0, jnp.where(repeats, deviation, trend.error)),
        horizon=horizon,
        horizon_interval=jnp.stack([low, high]),
        regime_code=jnp.where(horizon >= lag, 0, side).astype(jnp.int32),
        basis=jnp.where(repeats, RECURRENT, seen).astype(jnp.int32),
    )


def half_width(freedom: int) -> float:
    """Give the half-width of the central 90 % in standard errors: Student's t, narrowed."""
    return _NARROW * float(stats.t.ppf(_LEVEL, freedom))


def _with_deaths(curves: Array, width: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Widen the interval to all exits seen, if some gradient became exactly zero.

    Exact zeros are events, not a drift: the smallest and the largest of 16 exits hold the next
    one with probability 15/17.
    """
    curves = curves[:, : _known(curves) + 1]
    dies = jnp.any(jnp.isneginf(curves))
    outside = jnp.abs(curves) > width
    exits = jnp.argmax(outside, axis=1).astype(low.dtype)
    exits = jnp.where(jnp.any(outside, axis=1), exits, jnp.inf)
    early, late = jnp.minimum(low, jnp.min(exits) - 1), jnp.maximum(high, jnp.max(exits))
    return jnp.where(dies, early, low), jnp.where(dies, late, high)


def _crossing(
    values: Float[Array, " lags"], lags: Float[Array, " lags"], width: Array
) -> tuple[Array, Array]:
    """Interpolate the lag at which values first exceed the width; infinite if they never do."""
    outside = values > width
    place = jnp.argmax(outside)
    before = jnp.maximum(place - 1, 0)
    rise = values[place] - values[before]
    share = (width - values[before]) / jnp.where(rise > 0, rise, 1)
    lag = lags[before] + jnp.clip(share, 0, 1) * (lags[place] - lags[before])
    return jnp.where(jnp.any(outside), lag, jnp.inf), place
