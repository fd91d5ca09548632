"""Activations by name, with slopes that keep their digits where the unit saturates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import require_choice, worded

Activation = str | Callable[[Any], Any]


def _tanh_slope(x: Array) -> Array:
    """Give 1/cosh²; 1 - tanh² would be all rounding error from x = 9 (float32) or 19 on."""
    decay = jnp.exp(-jnp.abs(x))
    return jnp.square(2 * decay / (1 + jnp.square(decay)))


_KNOWN: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tanh": (jnp.tanh, _tanh_slope),
    "erf": (jax.scipy.special.erf, lambda x: 2 / np.sqrt(np.pi).item() * jnp.exp(-(x**2))),
    "relu": (jax.nn.relu, lambda x: (x > 0).astype(x.dtype)),
    "sigmoid": (jax.nn.sigmoid, lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)),
    "identity": (lambda x: x, jnp.ones_like),
    "hard_tanh": (lambda x: jnp.clip(x, -1, 1), lambda x: (jnp.abs(x) < 1).astype(x.dtype)),
}


def function_and_slope(
    activation: Activation,
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Give φ and φ' for a name or a callable; the slope maps vectors.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If `activation` is neither a name nor a function.
    """
    if isinstance(activation, str):
        remedy = "Pass a function for any other."
        return _KNOWN[require_choice("activation", activation, _KNOWN, remedy)]
    if not callable(activation):
        raise TypeError(worded("activation", "be a name or a function", repr(activation)))
    return activation, jax.vmap(jax.grad(activation))
