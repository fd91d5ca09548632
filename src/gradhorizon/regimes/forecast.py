"""At which lag a plain backward pass becomes exactly zero or infinite in each float format.

A backward pass without rescaling holds the gradient itself in the format. It ends when the
largest entry falls below what the format can hold, or rises above it. XLA flushes subnormal
numbers to zero on most devices; whether this one does is found out, not assumed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._record import record, static

FORMATS = ("bfloat16", "float16", "float32", "float64")


@record
class DtypeForecast:
    """The fate of an unscaled backward pass in each floating-point format.

    Attributes
    ----------
    lags
        The first lag at which the gradient is all zero or has an infinite entry, shape (4,);
        infinite if that never happens at the present rate.
    fates
        -1 where it becomes zero, +1 where it overflows, 0 where neither, shape (4,).
    extrapolated
        Whether the lag lies beyond the measured profile, shape (4,).
    formats
        The names of the formats, in the order of the arrays.
    flushed
        For each format, whether this device flushes subnormal numbers to zero.
    """

    lags: Float[Array, "*batch formats"]
    fates: Int[Array, "*batch formats"]
    extrapolated: Bool[Array, "*batch formats"]
    formats: tuple[str, ...] = static()
    flushed: tuple[bool, ...] = static()


@functools.cache
def flushes_subnormals(name: str) -> bool:
    """Say whether the default device turns subnormal results of this format into zero.

    One multiplication by 1/2 of the smallest normal number, compiled and run once. Without x64
    there is no float64 on the device; float32's answer stands for it.
    """
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        name = "float32"
    dtype = jnp.dtype(name)
    with jax.ensure_compile_time_eval():
        smallest = jnp.asarray(jnp.finfo(dtype).smallest_normal, dtype)
        half = jax.jit(lambda a: a * jnp.asarray(0.5, dtype))(smallest)
        return bool(np.asarray(half).astype(np.float64) == 0)


def _limits(name: str, *, flushed: bool) -> tuple[float, float]:
    """Give ln of the smallest size that is not rounded to zero, and ln of the largest."""
    info = jnp.finfo(name)
    low = float(info.smallest_normal) if flushed else float(info.smallest_subnormal) / 2
    if name == "float64" and not flushed:  # half the smallest subnormal is itself 0 in float64
        return float(np.log(info.smallest_subnormal) - np.log(2)), float(np.log(info.max))
    return float(np.log(low)), float(np.log(float(info.max)))


def forecast(log_max_by_lag: Float[Array, " lags"], rate: Any) -> DtypeForecast:
    """Read the fates off a profile of ln max_i |δ_i|, and extrapolate by the rate beyond it.

    Parameters
    ----------
    log_max_by_lag
        ln of the largest gradient entry at lag 0 … T, shape (T + 1,), not relative.
    rate
        Nats per step, used beyond T.

    Returns
    -------
    DtypeForecast
        One lag and one fate per format.
    """
    flushed = tuple(flushes_subnormals(name) for name in FORMATS)
    last = log_max_by_lag.shape[0] - 1
    rate = jnp.asarray(rate, log_max_by_lag.dtype)
    lags, fates, beyond = [], [], []
    for name, flush in zip(FORMATS, flushed, strict=True):
        low, high = _limits(name, flushed=flush)
        below, above = log_max_by_lag < low, log_max_by_lag > high
        gone = below | above
        seen = jnp.any(gone)
        at = jnp.argmax(gone)
        room = jnp.where(rate < 0, low, high) - log_max_by_lag[-1]
        later = last + jnp.where(rate == 0, jnp.inf, room / jnp.where(rate == 0, 1, rate))
        lags.append(jnp.where(seen, at.astype(rate.dtype), jnp.ceil(later)))
        fate = jnp.where(seen, jnp.where(below[at], -1, 1), jnp.sign(rate).astype(jnp.int32))
        fates.append(fate.astype(jnp.int32))
        beyond.append(~seen)
    return DtypeForecast(
        jnp.stack(lags), jnp.stack(fates), jnp.stack(beyond), formats=FORMATS, flushed=flushed
    )
