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
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._record import record
from gradhorizon.theory._activations import Activation, function_and_slope
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._length import length_fixed_point as length_fixed_point
from gradhorizon.theory._length import length_map as length_map
from gradhorizon.theory._length import susceptibility as susceptibility
from gradhorizon.theory._quadrature import deviation, grid
from gradhorizon.theory._quadrature import gaussian_mean as gaussian_mean
from gradhorizon.theory._root import falling_root

_PAIR_SPACING = 8  # the plane is integrated on every eighth node, 1024²
_LOG_Q_TOP = 8.0  # the grid resolves √q up to e⁴ = 55


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
        A name or an elementwise function, as in `length_map`.
    sigma_w2, sigma_b2
        Variances of weights (times N) and biases.

    Returns
    -------
    DepthScales
        q*, χ, c* and three depth scales in layers.

    Notes
    -----
    ξ_c⁻¹ = -ln(σ_w² E φ'(u₁) φ'(u₂)) at c*, and ξ_q⁻¹ = -ln of the slope of the length map,
    χ + σ_w² E φ''φ = σ_w² E z φ φ'/√q (Stein), which needs no second derivative. Relative error
    about 1e-3 in ξ_c close to criticality, where it diverges. Two-dimensional quadrature with
    1024² nodes for c*: resolves √q* up to 7. c* is not differentiable in the parameters.

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
    function_and_slope(activation)
    return _depth_scales(activation, *floats(sigma_w2, sigma_b2))


@functools.partial(jax.jit, static_argnames="activation")
def _depth_scales(
    activation: Activation, sigma_w2: Float[Array, ""], sigma_b2: Float[Array, ""]
) -> DepthScales:
    function, slope = function_and_slope(activation)
    q = length_fixed_point(activation, sigma_w2, sigma_b2)
    chi = susceptibility(activation, sigma_w2, q)
    pair = _pair_mean(q)
    correlation = _correlation_fixed_point(function, pair, q, sigma_w2, sigma_b2)
    correlation = jnp.where(chi <= 1, 1.0, correlation).astype(q.dtype)
    at_fixed_point = jnp.where(chi <= 1, chi, sigma_w2 * pair(slope, correlation))
    root = deviation(q)
    steepness = gaussian_mean(lambda z: z * function(root * z) * slope(root * z), q.dtype) / root
    return DepthScales(
        q=q,
        chi=chi,
        correlation=correlation,
        xi_gradient=-1 / jnp.log(chi),
        xi_correlation=-1 / jnp.log(at_fixed_point),
        xi_length=-1 / jnp.log(sigma_w2 * steepness),
    )


def _pair_mean(q: Array) -> Callable[[Callable[[Any], Any], Array], Array]:
    """Give (f, c) -> E f(u₁) f(u₂) for u of variance q and correlation c."""
    nodes, weights = grid(q.dtype, every=_PAIR_SPACING)
    root = deviation(q)

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
    return lax.stop_gradient(0.5 * (low + high))


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
        σ_w² with χ(σ_w², σ_b²) = 1; NaN where the critical variance q* would exceed e⁸ or does
        not exist (ReLU with biases).

    Notes
    -----
    On the critical line σ_w² = 1/E φ'² and q* = σ_b² + E φ²/E φ'², a single equation in q*,
    solved by bisection in ln q. For tanh and σ_b² = 0 the answer is 1, at q* = 0. Relative
    error about 1e-12 in float64, 1e-4 in float32. Gradients follow from the equation.

    References
    ----------
    Schoenholz et al., ICLR 2017, Fig. 1; Poole et al., NeurIPS 2016.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.mean_field.critical_sigma_w2("tanh", 0.05)), 6)
    1.760955
    """
    function_and_slope(activation)
    return _critical_sigma_w2(activation, *floats(sigma_b2))


@functools.partial(jax.jit, static_argnames="activation")
def _critical_sigma_w2(activation: Activation, sigma_b2: Float[Array, ""]) -> Float[Array, ""]:
    function, slope = function_and_slope(activation)
    dtype = sigma_b2.dtype

    def weights_at(q: Array) -> Array:
        root = deviation(q)
        return 1 / gaussian_mean(lambda z: jnp.square(slope(root * z)), dtype)

    def excess(log_q: Array) -> Array:
        q = jnp.exp(log_q)
        root = deviation(q)
        mean = gaussian_mean(lambda z: jnp.square(function(root * z)), dtype)
        return (sigma_b2 + weights_at(q) * mean) / q - 1

    log_q = falling_root(excess, -60.0, _LOG_Q_TOP, dtype)
    q = jnp.where(sigma_b2 == 0, 0.0, jnp.exp(log_q)).astype(dtype)
    found = (sigma_b2 == 0) | (log_q < _LOG_Q_TOP - 1e-3)
    return jnp.where(found, weights_at(q), jnp.nan).astype(dtype)
