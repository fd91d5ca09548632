"""Activations with derivatives that keep their digits when units saturate.

The textbook forms 1 - tanh² and σ (1 - σ) are exactly 0 once the activation rounds to ±1
(|x| > 19 in float64, 9 in float32), which makes a Jacobian singular that is not. Here tanh' is
evaluated as 1/cosh² and σ' as σ(x) σ(-x).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import require_choice, worded


def sech2(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Give 1/cosh²(x) without overflow of cosh."""
    decay = jnp.exp(-jnp.abs(x))
    return jnp.square(2 * decay / (1 + jnp.square(decay)))


@jax.custom_jvp
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Give tanh x; its derivative is 1/cosh²(x)."""
    return jnp.tanh(x)


@tanh.defjvp
def _tanh_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return tanh(x), sech2(x) * dx


@jax.custom_jvp
def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Give the logistic function 1/(1 + e^-x); its derivative is σ(x) σ(-x)."""
    return jax.nn.sigmoid(x)


@sigmoid.defjvp
def _sigmoid_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return sigmoid(x), sigmoid(x) * sigmoid(-x) * dx


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Give x back."""
    return x


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation function and the largest slope it can have.

    Attributes
    ----------
    name
        One of the known names, or the callable's own.
    function
        φ, elementwise.
    slope_bound
        sup |φ'|, or None where it is not known (a user's callable).
    """

    name: str
    function: Callable[[Any], Any]
    slope_bound: float | None


KNOWN = {
    activation.name: activation
    for activation in (
        Activation("tanh", tanh, 1.0),
        Activation("relu", jax.nn.relu, 1.0),
        Activation("sigmoid", sigmoid, 0.25),
        Activation("erf", jax.scipy.special.erf, 2 / math.sqrt(math.pi)),
        Activation("identity", identity, 1.0),
    )
}


def activation_of(activation: Any) -> Activation:
    """Look an activation up by name, or wrap a callable.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor callable.
    """
    if isinstance(activation, str):
        remedy = "Pass a function for any other."
        return KNOWN[require_choice("activation", activation, KNOWN, remedy)]
    if not callable(activation):
        raise TypeError(worded("activation", "be a name or a function", repr(activation)))
    for known in KNOWN.values():
        if activation is known.function:
            return known
    plain = {jnp.tanh: "tanh", jax.nn.sigmoid: "sigmoid", jax.lax.tanh: "tanh"}
    if activation in plain:
        return KNOWN[plain[activation]]
    return Activation(getattr(activation, "__name__", "callable"), activation, None)
