"""The largest fixed point of a map of [0, 1], with the derivative that a search lacks.

A gated network may have several stable sizes of its state. From a large state the map comes down
to the largest fixed point, so the search starts at 1 and goes down.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_BOTTOM = 60.0  # below e^-60 the fixed point counts as 0
_NODES = 48
_SECANTS = 20  # a smooth function needs about nine


def largest_fixed_point(f: Callable[[Array], Array], dtype: np.dtype) -> Float[Array, ""]:
    """Find the largest x in [0, 1] with f(x) = x, for 0 ≤ f ≤ 1; 0 if f(x) < x at every node.

    Below the first of 48 nodes, dense near x = 1, at which f(x) > x; two fixed points between
    neighboring nodes are overlooked. Then regula falsi in ln x in the Illinois variant.
    """
    nodes = jnp.asarray(-_BOTTOM * (np.arange(_NODES) / (_NODES - 1)) ** 2, dtype)

    def excess(log_x: Array) -> Array:
        x = jnp.exp(log_x)
        return f(x) / x - 1

    def solve(f: Callable[[Array], Array], start: Array) -> Array:
        values = lax.map(f, nodes)
        above = values > 0
        first = jnp.argmax(above)
        before = jnp.maximum(first - 1, 0)

        def narrow(_: Any, bracket: tuple[Array, ...]) -> tuple[Array, ...]:
            low, high, at_low, at_high, last = bracket
            drop = at_high - at_low
            x = low - (high - low) * at_low / jnp.where(drop == 0, 1, drop)
            value = f(x)
            up = value > 0
            # the end that stays a second time has its value halved, or it would stay for ever
            damped = jnp.where(up == (last > 0), 0.5, 1).astype(dtype)
            return (
                jnp.where(up, x, low),
                jnp.where(up, high, x),
                jnp.where(up, value, at_low * damped),
                jnp.where(up, at_high * damped, value),
                jnp.where(up, 1, -1).astype(dtype),
            )

        bracket = (nodes[first], nodes[before], values[first], values[before], start)
        low, high, at_low, at_high, _ = lax.fori_loop(0, _SECANTS, narrow, bracket)
        best = jnp.where(jnp.abs(at_low) < jnp.abs(at_high), low, high)
        return jnp.where(jnp.any(above), best, nodes[-1])

    def tangent_solve(linear: Callable[[Array], Array], y: Array) -> Array:
        slope = linear(jnp.ones_like(y))  # 0 where f(x) is proportional to x, at x = 0
        return y / jnp.where(slope == 0, 1, slope)

    log_x = lax.custom_root(excess, jnp.zeros((), dtype), solve, tangent_solve)
    return jnp.where(log_x > 1 - _BOTTOM, jnp.exp(log_x), 0).astype(dtype)
