"""Nielsen's window: where a logistic unit passes the gradient on without shrinking it.

A factor of the gradient is w σ'(w a + b). Since σ' ≤ 1/4 it can reach 1 only for |w| ≥ 4, and
then only for activations a inside an interval that is narrow for every w.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def factor(weight: Any, activation: Any, bias: Any) -> Float[Array, "..."]:
    """Give w σ'(w a + b), the factor one logistic unit puts into the gradient.

    Parameters
    ----------
    weight, activation, bias
        w, a, b, any shapes that broadcast.

    Returns
    -------
    Array
        The factor.

    References
    ----------
    Nielsen, *Neural Networks and Deep Learning* (2015), chapter 5.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.sigmoid_window.factor(100.0, 0.0, 0.0))
    25.0
    """
    weight, activation, bias = (jnp.asarray(v, float) for v in (weight, activation, bias))
    z = weight * activation + bias
    return weight * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def width(weight: Any) -> Float[Array, "..."]:
    """Give the width of {a : |w σ'(w a + b)| ≥ 1}, whatever b.

    (2/|w|) ln(|w| (1 + √(1 - 4/|w|))/2 - 1) for |w| ≥ 4, else 0.

    Parameters
    ----------
    weight
        w, any shape.

    Returns
    -------
    Array
        Widths in units of the activation.

    References
    ----------
    Nielsen, *Neural Networks and Deep Learning* (2015), chapter 5, problem on the window.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(gh.theory.sigmoid_window.width(w)), 6) for w in (3.0, 4.5, 20.0)]
    [0.0, 0.308065, 0.288727]
    """
    size = jnp.maximum(jnp.abs(jnp.asarray(weight, float)), 4.0)
    root = jnp.sqrt(1 - 4 / size)
    return 2 / size * jnp.log(size * (1 + root) / 2 - 1)


def widest() -> tuple[Array, Array]:
    """Find the weight whose window is widest.

    Returns
    -------
    tuple of Array
        |w| and the width there.

    Notes
    -----
    With net = ln(s/(1-s)) and w = 1/σ'(net), the width is 2 net σ'(net): its maximum is where
    net tanh(net/2) = 1, solved by Newton's method.

    References
    ----------
    Nielsen, *Neural Networks and Deep Learning* (2015), chapter 5.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(v), 6) for v in gh.theory.sigmoid_window.widest()]
    [6.894151, 0.447743]
    """

    def newton(_: Any, net: Array) -> Array:
        value, slope = jax.value_and_grad(lambda u: u * jnp.tanh(u / 2) - 1)(net)
        return net - value / slope

    net = lax.fori_loop(0, 20, newton, jnp.asarray(1.5))
    weight = 1 / (jax.nn.sigmoid(net) * jax.nn.sigmoid(-net))
    return weight, 2 * net / weight
