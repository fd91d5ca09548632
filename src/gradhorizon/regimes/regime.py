"""Regime and horizon: what a gradient's size at each lag means.

Both are statements about a window [ε, 1/ε] around the gradient's size at lag 0. The horizon is
the largest lag up to which the gradient has stayed inside; the regime at lag L is BALANCED if
the horizon is at least L, else the side on which the gradient left. A rate alone has no regime.
"""

import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import require_positive


class Regime(enum.StrEnum):
    """What the gradient does up to a given lag."""

    VANISHING = "VANISHING"
    BALANCED = "BALANCED"
    EXPLODING = "EXPLODING"


UNDECIDED = 2  # the code of "this criterion says nothing here"
_BY_CODE = {-1: Regime.VANISHING, 0: Regime.BALANCED, 1: Regime.EXPLODING, UNDECIDED: None}


def regime_from_code(code: Any) -> Any:
    """Turn the integer code of a record into a `Regime` (or None where undecided).

    An array of codes, as `jax.vmap` makes it, becomes an object array of the same shape.
    """
    codes = np.asarray(code)
    if codes.ndim == 0:
        return _BY_CODE[int(codes)]
    names = np.array([_BY_CODE[int(c)] for c in codes.ravel()], dtype=object)
    return names.reshape(codes.shape)


class Reach(NamedTuple):
    """How far back a gradient reaches.

    Attributes
    ----------
    horizon
        The largest lag at which the gradient is still inside [ε, 1/ε] of its size at lag 0.
    observed
        Whether the gradient left within the lags seen; if not, `horizon` is extrapolated.
    side
        The side on which it left or will leave: -1 below, +1 above, 0 never.
    """

    horizon: Float[Array, ""]
    observed: Bool[Array, ""]
    side: Int[Array, ""]


def require_threshold(threshold: Any) -> float:
    """Refuse a threshold ε outside (0, 1)."""
    require_positive("threshold", threshold, below=1.0)
    return float(threshold)


def window_width(threshold: Any, dtype: Any) -> Float[Array, ""]:
    """Give ln(1/ε), by which a gradient may grow or shrink and still be inside."""
    return -jnp.log(jnp.asarray(threshold, dtype))


def horizon_of_rate(rate: Any, threshold: Any) -> Any:
    """Give ln(1/ε)/|rate|: the lag at which steady growth or decay leaves the window."""
    size = jnp.abs(jnp.asarray(rate))
    width = window_width(threshold, size.dtype)
    return jnp.where(size > 0, width / jnp.where(size > 0, size, 1), jnp.inf)


def regime_of_rate(rate: Any, lag: Any, threshold: Any) -> Int[Array, "..."]:
    """Give the code of the regime at `lag` under steady growth or decay."""
    rate = jnp.asarray(rate)
    growth = rate * jnp.asarray(lag, rate.dtype)
    width = window_width(threshold, rate.dtype)
    return jnp.where(growth > width, 1, jnp.where(growth < -width, -1, 0)).astype(jnp.int32)


def reach_of_profile(by_lag: Float[Array, " lags"], rate: Any, threshold: float) -> Reach:
    """Find where a measured profile leaves the window, extrapolating by `rate` if it does not.

    Parameters
    ----------
    by_lag
        ln of the gradient's size at lag 0 … T relative to lag 0, shape (T + 1,).
    rate
        Nats per step, used only beyond T.
    threshold
        ε.

    Returns
    -------
    Reach
        The horizon, whether it was observed, and the side.
    """
    width = window_width(threshold, by_lag.dtype)
    outside = jnp.abs(by_lag) > width
    observed = jnp.any(outside)
    exit_lag = jnp.argmax(outside)
    last = by_lag.shape[0] - 1
    rate = jnp.asarray(rate, by_lag.dtype)
    direction = jnp.sign(rate)
    room = direction * width - by_lag[-1]
    beyond = last + jnp.where(rate == 0, jnp.inf, room / jnp.where(rate == 0, 1, rate))
    horizon = jnp.where(observed, (exit_lag - 1).astype(by_lag.dtype), jnp.maximum(beyond, last))
    side = jnp.where(observed, jnp.sign(by_lag[exit_lag]), direction)
    return Reach(horizon, observed, side.astype(jnp.int32))


def regime_of_reach(reach: Reach, lag: Any) -> Int[Array, ""]:
    """Give the code of the regime at `lag`: 0 if the horizon is at least `lag`, else the side."""
    return jnp.where(reach.horizon >= lag, 0, reach.side).astype(jnp.int32)
