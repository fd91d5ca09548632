"""A step that only the zoo needs: a diagonal linear recurrence in pairs of real numbers.

Like the steps of `gradhorizon.cells` it is a frozen dataclass, equal when its settings are.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class DiagonalStep:
    """z' = r exp(iθ) z + U x in pairs of real numbers: a complex diagonal linear recurrence."""

    hidden: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        real, imaginary = jnp.split(h, 2)
        cos, sin = jnp.cos(params["angle"]), jnp.sin(params["angle"])
        turned = [cos * real - sin * imaginary, sin * real + cos * imaginary]
        return jnp.concatenate([params["radius"] * part for part in turned]) + params["U"] @ x
