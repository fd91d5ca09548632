"""What diagonal state-space cells share: complex states, initial time scales, their checks."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float

from gradhorizon._checks import ArgumentError, describe, dtype_of, require_positive, worded
from gradhorizon.cells._cell import default_dtype


@dataclasses.dataclass(frozen=True)
class ZeroState:
    """Give a state of zeros, real or complex, of any shape."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self) -> Array:
        """Give the state before the first input."""
        return jnp.zeros(self.shape, self.dtype)


def wide_dtype(dtype: Any) -> np.dtype:
    """Give the requested float dtype, refusing those without a complex counterpart."""
    chosen = default_dtype(dtype)
    if chosen not in (np.float32, np.float64):
        remedy = "There are no complex numbers of that precision."
        raise TypeError(worded("dtype", "be float32 or float64", chosen, remedy))
    return chosen


def complex_of(dtype: np.dtype) -> np.dtype:
    """Give the complex dtype whose parts have `dtype`."""
    return np.dtype(np.complex64 if dtype == np.float32 else np.complex128)


def require_state(h: Any, shape: tuple[int, ...], *, is_complex: bool) -> None:
    """Refuse a state of another shape, or real where it must be complex and the reverse."""
    kind = "complex" if is_complex else "real"
    wanted = f"be {kind} and have shape ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    if h is None:
        raise ArgumentError(worded("h0", wanted, None))
    fits = bool(jnp.issubdtype(dtype_of(h), jnp.complexfloating)) == is_complex
    if np.shape(h) != shape or not fits:
        batched = np.ndim(h) > len(shape)
        remedy = "Batch with jax.vmap." if batched else "Start from cell.initial_state()."
        raise ArgumentError(worded("h0", wanted, describe(h), remedy))


def polar(log_modulus: Float[Array, "..."], angle: Float[Array, "..."]) -> Complex[Array, "..."]:
    """Give exp(log_modulus + i angle)."""
    size = jnp.exp(log_modulus)
    return lax.complex(size * jnp.cos(angle), size * jnp.sin(angle))


def paired(params: dict[str, Array], name: str) -> Complex[Array, "..."]:
    """Give the complex array that is kept as the real pair `name`_re, `name`_im."""
    return lax.complex(params[f"{name}_re"], params[f"{name}_im"])


def require_time_scales(dt_min: Any, dt_max: Any) -> None:
    """Refuse time scales that are not positive or in the wrong order."""
    require_positive("dt_min", dt_min)
    require_positive("dt_max", dt_max)
    if not float(dt_max) >= float(dt_min):
        raise ValueError(worded("dt_max", f"be at least dt_min = {float(dt_min):g}", dt_max))


def log_uniform(key: Any, count: int, low: float, high: float, dtype: np.dtype) -> Array:
    """Draw ln dt uniform in [ln low, ln high]."""
    ends = (jnp.asarray(math.log(v), dtype) for v in (low, high))
    first, last = ends
    return first + (last - first) * jax.random.uniform(key, (count,), dtype)
