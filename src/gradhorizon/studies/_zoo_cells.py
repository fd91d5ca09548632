"""Two steps that only the zoo needs: the minimal RNN and a diagonal linear recurrence.

Like the steps of `gradhorizon.cells` they are frozen dataclasses, equal when their settings are.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon.cells.activations import sigmoid, tanh


@dataclasses.dataclass(frozen=True)
class MinimalStep:
    """h' = u h + (1 - u) z, z = tanh(U x + b), u = σ(W h + V z + d).

    References
    ----------
    Chen, Pennington & Schoenholz, "Dynamical isometry and a mean field theory of RNNs", ICML
    2018, eq. 2.
    """

    hidden: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        z = tanh(params["U"] @ x + params["b"])
        u = sigmoid(params["W"] @ h + params["V"] @ z + params["d"])
        return u * h + (1 - u) * z


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
