"""Nielsen's window: where a logistic unit passes the gradient on without shrinking it.

A factor of the gradient is w σ'(w a + b). Since σ' ≤ 1/4 it can reach 1 only for |w| ≥ 4, and
then only for activations a inside an interval that is narrow for every w.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon.theory._dtype import floats


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
    weight, activation, bias = floats(weight, activation, bias)
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
    (weight,) = floats(weight)
    open_window = jnp.abs(weight) > 4
    size = jnp.where(open_window, jnp.abs(weight), 5.0)  # any value keeps the gradient finite
    root = jnp.sqrt(1 - 4 / size)
    return jnp.where(open_window, 2 / size * jnp.log(size * (1 + root) / 2 - 1), 0.0)


def widest() -> tuple[Array, Array]:
    """Find the weight whose window is widest.

    Returns
    -------
    tuple of Array
        |w| and the width there.

    Notes
    -----
    With u = w a + b at the edge, |w| = 1/σ'(u) and the width is 2 u σ'(u): its maximum is where
    u tanh(u/2) = 1, solved by Newton's method.

    References
    ----------
    Nielsen, *Neural Networks and Deep Learning* (2015), chapter 5.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(v), 6) for v in gh.theory.sigmoid_window.widest()]
    [6.894151, 0.447743]
    """
    net = _widest_net()
    slope = jax.nn.sigmoid(net) * jax.nn.sigmoid(-net)
    return 1 / slope, 2 * net * slope


def largest_self_loop_factor(activation: Any) -> Float[Array, "..."]:
    """Give max over w of |w σ'(w y)|: the largest factor of a logistic unit fed by itself.

    u* σ'(u*)/|y| with u* tanh(u*/2) = 1, that is 0.2238716/|y|.

    Parameters
    ----------
    activation
        y, the unit's activation one step before; any shape.

    Returns
    -------
    Array
        The factor; infinite at y = 0. Below 1 for |y| > 0.2238716: such a loop without bias
        cannot explode, whatever its weight.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735, section 3.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.sigmoid_window.largest_self_loop_factor(0.25)), 10)
    0.8954864094
    """
    (activation,) = floats(activation)
    net = _widest_net().astype(activation.dtype)
    return net * jax.nn.sigmoid(net) * jax.nn.sigmoid(-net) / jnp.abs(activation)


def _widest_net() -> Float[Array, ""]:
    """Solve u tanh(u/2) = 1, where u σ'(u) is largest."""

    def newton(_: Any, net: Array) -> Array:
        value, slope = jax.value_and_grad(lambda u: u * jnp.tanh(u / 2) - 1)(net)
        return net - value / slope

    return lax.fori_loop(0, 8, newton, jnp.asarray(1.5))  # from 1.5 on it converges in four
