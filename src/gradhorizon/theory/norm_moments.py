"""Moments of the squared norm of a vector sent through fresh Gaussian layers.

For weights with entries N(0, g/n_l) and ‖u‖ = 1 each layer multiplies ‖u‖² by an independent
g χ²/n_l, so that all moments of the product are products. The mean says what initialization
preserves; the second moment says that it does so only on average.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import require_positive, worded
from gradhorizon.theory._dtype import floats


def log_fourth_moment(widths: Any, activation: str = "linear") -> Float[Array, ""]:
    """Give ln E‖J u‖⁴ for layers that keep E‖J u‖² = 1.

    Σ ln(1 + 2/n_l) for linear layers of entry variance 1/n_l, where n_l is the width after the
    layer, and Σ ln(1 + 5/n_l) for ReLU layers of entry variance 2/n_l.

    Parameters
    ----------
    widths
        n_1 … n_L, shape (L,). Entries of layer l have variance 1/n_l, or 2/n_l for ReLU.
    activation
        "linear" or "relu".

    Returns
    -------
    Array
        Nats; e to it, minus 1, is the variance of ‖J u‖². Exact at every width and depth; it
        grows like depth over width.

    Raises
    ------
    ValueError
        If a width is not positive or the activation unknown.

    References
    ----------
    Hanin, NeurIPS 2018 (arXiv:1801.03744), for depth over width; the ReLU term is derived in
    docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> moment = gh.theory.norm_moments.log_fourth_moment(jnp.array([2, 4, 1]))
    >>> round(float(jnp.exp(moment)), 12)  # 2 · 3/2 · 3
    9.0
    """
    excess = {"linear": 2.0, "relu": 5.0}
    if activation not in excess:
        raise ValueError(worded("activation", "be 'linear' or 'relu'", repr(activation)))
    array = jnp.asarray(widths)
    if array.ndim != 1:
        raise ValueError(worded("widths", "be a vector", f"shape {array.shape}"))
    if array.size:
        require_positive("widths", jnp.min(array))
    (array,) = floats(array)
    return jnp.sum(jnp.log1p(excess[activation] / array))


def gradient_factor(variance: Any, fan_out: Any) -> Float[Array, "..."]:
    """Give n v: the growth of the mean squared gradient through a linear layer, backward.

    Parameters
    ----------
    variance
        v, the variance of the layer's weights.
    fan_out
        n, the number of units that the layer feeds; 1/n keeps the gradient, 1/fan_in the signal.

    Returns
    -------
    Array
        The factor per layer: 1/3 for weights uniform on ±1/√n.

    References
    ----------
    Glorot & Bengio, AISTATS 2010, section 4.2.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.norm_moments.gradient_factor(1 / (3 * 50), 50)), 12)
    0.333333333333
    """
    variance, fan_out = floats(variance, fan_out)
    return variance * fan_out


def glorot_variance(fan_in: Any, fan_out: Any) -> Float[Array, "..."]:
    """Give 2/(n_in + n_out), the compromise between keeping signal and gradient.

    Parameters
    ----------
    fan_in, fan_out
        The widths before and after the layer.

    Returns
    -------
    Array
        The variance of the weights; both factors are 1 for equal widths.

    References
    ----------
    Glorot & Bengio, AISTATS 2010, eq. 12.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.norm_moments.glorot_variance(48, 16))
    0.03125
    """
    fan_in, fan_out = floats(fan_in, fan_out)
    return 2 / (fan_in + fan_out)
