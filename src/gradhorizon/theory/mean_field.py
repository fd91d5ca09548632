r"""Mean field of wide random networks: length map, susceptibility χ, depth scales, critical line.

Entries of W have variance σ_w²/N, biases variance σ_b². All quantities are exact as N → ∞ with
weights redrawn at every layer; for additive recurrent networks tying does not change them. An
input of second moment R with weights of variance σ_u² adds σ_u² R to σ_b².
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._checks import worded
from gradhorizon._record import record
from gradhorizon.theory._quadrature import gaussian_mean, grid

Activation = str | Callable[[Any], Any]
_ITERATIONS = 200


def _tanh_slope(x: Array) -> Array:
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


def _function_and_slope(
    activation: Activation,
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Give φ and φ' for a name or a callable."""
    if isinstance(activation, str):
        if activation not in _KNOWN:
            wanted = f"be one of {', '.join(_KNOWN)}, or a function"
            raise ValueError(worded("activation", wanted, repr(activation)))
        return _KNOWN[activation]
    if not callable(activation):
        raise TypeError(worded("activation", "be a name or a function", repr(activation)))
    return activation, jax.vmap(jax.grad(activation))


def _float(*values: Any) -> tuple[Array, ...]:
    """Give scalars as arrays of one floating dtype: theirs, or the default."""
    arrays = [jnp.asarray(v) for v in values]
    typed = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating) and not a.weak_type]
    dtype = functools.reduce(jnp.promote_types, typed) if typed else jnp.result_type(float)
    return tuple(a.astype(dtype) for a in arrays)


def length_map(activation: Activation, q: Any, sigma_w2: Any, sigma_b2: Any) -> Float[Array, ""]:
    """Map the pre-activation variance through one layer: σ_w² E φ(√q z)² + σ_b².

    Parameters
    ----------
    activation
        "tanh", "erf", "relu", "sigmoid", "identity", "hard_tanh", or an elementwise function.
    q
        Pre-activation variance of the layer before.
    sigma_w2, sigma_b2
        Variances of weights (times N) and biases.

    Returns
    -------
    Array
        The variance after the layer.

    References
    ----------
    Poole et al., NeurIPS 2016, eq. 3.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.mean_field.length_map("relu", 2.0, 2.0, 0.0)), 3)  # E relu² = q/2
    2.0
    """
    function, _ = _function_and_slope(activation)
    q, sigma_w2, sigma_b2 = _float(q, sigma_w2, sigma_b2)
    root = jnp.sqrt(q)
    return sigma_w2 * gaussian_mean(lambda z: jnp.square(function(root * z)), q.dtype) + sigma_b2


def length_fixed_point(activation: Activation, sigma_w2: Any, sigma_b2: Any) -> Float[Array, ""]:
    """Find q* = σ_w² E φ(√q* z)² + σ_b², the variance that deep layers settle to.

    Parameters
    ----------
    activation
        A name or an elementwise function, as in `length_map`.
    sigma_w2, sigma_b2
        Variances of weights (times N) and biases.

    Returns
    -------
    Array
        q*; infinite where the variance grows without bound (ReLU with σ_w² > 2).

    Notes
    -----
    The map is monotone for |φ| growing with |x|; the fixed point reached from a large q is
    found by bisection of length_map(q) - q in ln q, 200 halvings of quadratures with 8192
    nodes. Relative error about 1e-12 in float64; resolves gains up to 50.

    References
    ----------
    Poole et al., NeurIPS 2016, eq. 3; Schoenholz et al., ICLR 2017, section 3.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.mean_field.length_fixed_point("erf", 1.0, 0.0)), 6) > 0
    True
    """
    sigma_w2, sigma_b2 = _float(sigma_w2, sigma_b2)
    dtype = sigma_w2.dtype
    low, high = jnp.asarray(-80.0, dtype), jnp.asarray(80.0, dtype)

    def excess(log_q: Array) -> Array:
        q = jnp.exp(log_q)
        return length_map(activation, q, sigma_w2, sigma_b2) - q

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = excess(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = lax.fori_loop(0, _ITERATIONS, halve, (low, high))
    q = jnp.exp(0.5 * (low + high))
    q = jnp.where(low <= -79.0, 0.0, jnp.where(high >= 79.0, jnp.inf, q))
    return q.astype(dtype)


def susceptibility(activation: Activation, sigma_w2: Any, q: Any) -> Float[Array, ""]:
    """Give χ = σ_w² E φ'(√q z)², the growth of the mean squared gradient per layer.

    χ < 1: vanishing, χ > 1: exploding, on average over weights. ½ ln χ is the growth rate in
    nats per step, and the leading Lyapunov exponent as N → ∞.

    Parameters
    ----------
    activation
        A name or an elementwise function, as in `length_map`.
    sigma_w2
        Variance of the weights times N.
    q
        Pre-activation variance, usually `length_fixed_point`.

    Returns
    -------
    Array
        χ.

    References
    ----------
    Schoenholz et al., ICLR 2017, eq. 5.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.mean_field.susceptibility("relu", 2.0, 1.0)), 2)
    1.0
    """
    _, slope = _function_and_slope(activation)
    sigma_w2, q = _float(sigma_w2, q)
    root = jnp.sqrt(q)
    return sigma_w2 * gaussian_mean(lambda z: jnp.square(slope(root * z)), q.dtype)


@record
class DepthScales:
    """Depth scales of a random network, in layers.

    Attributes
    ----------
    q
        The fixed point q* of the variance.
    chi
        χ at correlation 1.
    correlation
        The stable fixed point c* of the correlation between two inputs.
    xi_gradient
        -1/ln χ: layers over which the squared gradient decays by e; negative if it grows.
    xi_correlation
        Layers over which the correlation approaches c* by e.
    xi_length
        Layers over which the variance approaches q* by e.
    """

    q: Float[Array, "*batch"]
    chi: Float[Array, "*batch"]
    correlation: Float[Array, "*batch"]
    xi_gradient: Float[Array, "*batch"]
    xi_correlation: Float[Array, "*batch"]
    xi_length: Float[Array, "*batch"]


def depth_scales(activation: Activation, sigma_w2: Any, sigma_b2: Any) -> DepthScales:
    """Compute fixed points and depth scales of a random feedforward network.

    Parameters
    ----------
    activation
        A name or an elementwise function, as in `length_map`; smooth, since φ'' is needed.
    sigma_w2, sigma_b2
        Variances of weights (times N) and biases.

    Returns
    -------
    DepthScales
        q*, χ, c* and three depth scales in layers.

    Notes
    -----
    ξ_c⁻¹ = -ln(σ_w² E φ'(u₁) φ'(u₂)) at c*, ξ_q⁻¹ = -ln(χ + σ_w² E φ''φ). Relative error about
    1e-3 in ξ_c close to criticality, where it diverges. Two-dimensional quadrature, 1024² nodes.

    References
    ----------
    Schoenholz et al., ICLR 2017, eqs. 7-9.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> scales = gh.theory.mean_field.depth_scales("tanh", 1.7, 0.05)
    >>> round(float(scales.xi_correlation), 1), round(float(scales.correlation), 3)
    (74.9, 1.0)
    """
    function, slope = _function_and_slope(activation)
    sigma_w2, sigma_b2 = _float(sigma_w2, sigma_b2)
    q = length_fixed_point(activation, sigma_w2, sigma_b2)
    chi = susceptibility(activation, sigma_w2, q)
    pair = _pair_mean(q)
    correlation = _correlation_fixed_point(function, pair, q, sigma_w2, sigma_b2)
    correlation = jnp.where(chi <= 1, 1.0, correlation).astype(q.dtype)
    at_fixed_point = jnp.where(chi <= 1, chi, sigma_w2 * pair(slope, correlation))
    root = jnp.sqrt(q)
    curvature = jax.vmap(jax.grad(lambda x: slope(x[None])[0]))
    mixed = gaussian_mean(lambda z: curvature(root * z) * function(root * z), q.dtype)
    return DepthScales(
        q=q,
        chi=chi,
        correlation=correlation,
        xi_gradient=-1 / jnp.log(chi),
        xi_correlation=-1 / jnp.log(at_fixed_point),
        xi_length=-1 / jnp.log(chi + sigma_w2 * mixed),
    )


def _pair_mean(q: Array) -> Callable[[Callable[[Any], Any], Array], Array]:
    """Give (f, c) -> E f(u₁) f(u₂) for u of variance q and correlation c."""
    nodes, weights = grid(q.dtype)
    nodes, weights = nodes[::8], weights[::8] * 8
    root = jnp.sqrt(q)

    def mean(f: Callable[[Any], Any], correlation: Array) -> Array:
        other = jnp.sqrt(jnp.maximum(1 - correlation**2, 0))
        first = f(root * nodes)

        def given(z: Array) -> Array:
            return jnp.sum(weights * f(root * (correlation * z + other * nodes)))

        return jnp.sum(weights * first * lax.map(given, nodes))

    return mean


def _correlation_fixed_point(
    function: Callable[[Any], Any], pair: Any, q: Array, sigma_w2: Array, sigma_b2: Array
) -> Array:
    """Bisect for the fixed point of the correlation map below 1 (stable where χ > 1)."""

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = (sigma_w2 * pair(function, middle) + sigma_b2) / q > middle
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    edge = jnp.asarray(1 - 1e-9, q.dtype)
    low, high = lax.fori_loop(0, 50, halve, (jnp.zeros_like(q), edge))
    return 0.5 * (low + high)


def critical_sigma_w2(activation: Activation, sigma_b2: Any) -> Float[Array, ""]:
    """Find the weight variance at which χ = 1, for a given bias variance.

    The edge of chaos: the squared gradient neither grows nor shrinks with depth. With input
    noise of variance s² in place of σ_b² it is the squared critical gain of a random recurrent
    network.

    Parameters
    ----------
    activation
        "tanh" or "erf", or another sigmoid-shaped odd function with |φ'| ≤ φ'(0): bounded
        activations that χ crosses once.
    sigma_b2
        Variance of the biases.

    Returns
    -------
    Array
        σ_w² with χ(σ_w², σ_b²) = 1.

    Notes
    -----
    On the critical line q* = σ_b² + σ_w² E φ² with σ_w² = 1/E φ'², a single equation in q*,
    solved by bisection in ln q. For tanh and σ_b² = 0 the answer is 1, at q* = 0.

    References
    ----------
    Schoenholz et al., ICLR 2017, Fig. 1; Poole et al., NeurIPS 2016.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.mean_field.critical_sigma_w2("tanh", 0.05)), 6)
    1.760955
    """
    function, slope = _function_and_slope(activation)
    (sigma_b2,) = _float(sigma_b2)
    dtype = sigma_b2.dtype

    def weights_at(q: Array) -> Array:
        root = jnp.sqrt(q)
        return 1 / gaussian_mean(lambda z: jnp.square(slope(root * z)), dtype)

    def excess(log_q: Array) -> Array:
        q = jnp.exp(log_q)
        root = jnp.sqrt(q)
        mean = gaussian_mean(lambda z: jnp.square(function(root * z)), dtype)
        return sigma_b2 + weights_at(q) * mean - q

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = excess(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = (jnp.asarray(-60.0, dtype), jnp.asarray(4.0, dtype))
    low, high = lax.fori_loop(0, _ITERATIONS, halve, start)
    q = jnp.where(sigma_b2 == 0, 0.0, jnp.exp(0.5 * (low + high))).astype(dtype)
    return weights_at(q)
