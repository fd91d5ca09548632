"""Numbers and arrays as mantissa times an exact power of two.

A long product leaves every floating-point range, so its size is carried apart, as an int32
exponent. Multiplying by a power of two is exact; powers are built from their bits because
neither `2 ** e` nor `ldexp` is guaranteed exact on every backend. XLA flushes subnormals to
zero, so the normal range is the whole range here.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

LN2 = math.log(2.0)
ZERO_EXPONENT = -(2**29)  # the exponent of an exact zero: far below any other, sums cannot wrap


def _layout(dtype: np.dtype) -> tuple[np.dtype, int, int]:
    """Give the integer type, number of stored mantissa bits and exponent bias of a dtype."""
    if dtype == np.float32:
        return np.dtype(np.int32), 23, 127
    return np.dtype(np.int64), 52, 1023


def power_of_two(exponent: Int[Array, "..."], dtype: np.dtype) -> Float[Array, "..."]:
    """Build 2^e exactly; exponents beyond the normal range give 0 or the largest power."""
    integer, bits, bias = _layout(dtype)
    field = jnp.clip(exponent.astype(integer) + bias, 0, 2 * bias)
    return lax.bitcast_convert_type(field << bits, dtype)


def shift(x: Float[Array, "..."], exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """Multiply by 2^e exactly, in two factors so that e may span the whole range.

    Results below the normal range are 0, results above it infinite.
    """
    half = exponent // 2
    first, second = power_of_two(half, x.dtype), power_of_two(exponent - half, x.dtype)
    return x * first * second


def exponent_of(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Give e with 2^(e-1) <= |x| < 2^e as int32; 0 for zero, NaN and the infinities."""
    integer, bits, bias = _layout(x.dtype)
    field = (lax.bitcast_convert_type(lax.stop_gradient(x), integer) >> bits) & (2 * bias + 1)
    ordinary = (field != 0) & (field != 2 * bias + 1)
    return jnp.where(ordinary, field - (bias - 1), 0).astype(jnp.int32)


def split(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """Split into a mantissa with 1/2 <= |m| < 1 and an exponent; zero gets `ZERO_EXPONENT`."""
    exponent = exponent_of(x)
    return shift(x, -exponent), jnp.where(x == 0, ZERO_EXPONENT, exponent)


def normalize(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int[Array, ""]]:
    """Divide an array by one power of two so that its largest entry lies in [1/2, 1)."""
    exponent = exponent_of(jnp.max(jnp.abs(x), initial=0.0))
    return shift(x, -exponent), exponent


def log_scaled(mantissa: Float[Array, "..."], exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """Give ln(m 2^e), with -inf for a zero mantissa."""
    logs = jnp.log(mantissa)
    scale = exponent.astype(logs.dtype) * LN2
    return jnp.where(mantissa == 0, -jnp.inf, logs + scale)
