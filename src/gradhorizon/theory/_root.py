"""The zero of a falling function by bisection, with the derivative that bisection lacks.

Differentiating the halvings themselves gives 0. `lax.custom_root` differentiates the equation
instead: dx/dθ = -(∂f/∂θ)/(∂f/∂x), by the implicit function theorem.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_HALVINGS = 64  # an interval of length 160 shrinks below the spacing of float64


def falling_root(
    f: Callable[[Array], Array], low: float, high: float, dtype: np.dtype
) -> Float[Array, ""]:
    """Find where f changes from positive to not; an end of [low, high] where it does not."""

    def solve(f: Callable[[Array], Array], start: Array) -> Array:
        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            above = f(middle) > 0
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        ends = (start, jnp.asarray(high, dtype))
        low_end, high_end = lax.fori_loop(0, _HALVINGS, halve, ends)
        return 0.5 * (low_end + high_end)

    def tangent_solve(linear: Callable[[Array], Array], y: Array) -> Array:
        return y / linear(jnp.ones_like(y))

    return lax.custom_root(f, jnp.asarray(low, dtype), solve, tangent_solve)
