"""C_φ(c) = E φ(x)φ(y) and C_φ'(c) = E φ'(x)φ'(y) for a Gaussian pair, as functions of c.

(x, y) has variances C₀ and covariance c = C₀ sin θ, and C_φ' = dC_φ/dc (Price). For saturated
units C_φ is nearly linear in θ, with a boundary layer of width 1/√C₀ at θ = π/2 that Chebyshev
nodes on [0, π/2] resolve; a power series in c/C₀ (Hermite expansion) would need 10⁴ terms at
√C₀ = 17. With s = (x + y)/2 and d = (x - y)/2 independent, φ'(s + d) φ'(s - d) is confined to
|s|, |d| < 10 by the slopes or to nine standard deviations, and midpoint sums converge fast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

from gradhorizon._checks import worded
from gradhorizon.theory._activations import Activation, function_and_slope

_ANGLES = 64
_POINTS = 34  # per half axis: spacing 0.29; φ' of tanh has poles at π/2, the error is e^(-π²/0.29)
_SIGMAS = 9.0
_REACH = 10.0  # at |s| or |d| of this size one of |x|, |y| is 20 or both are 10
_REFUSED = ("relu", "sigmoid", "identity", "hard_tanh")

_X = -np.cos(np.pi * np.arange(_ANGLES) / (_ANGLES - 1))
_THETA = (_X + 1) * np.pi / 4
_TO_COEFFICIENTS = np.linalg.inv(chebyshev.chebvander(_X, _ANGLES - 1))
_PRIMITIVES = chebyshev.chebint(np.eye(_ANGLES), lbnd=-1, axis=0)
# values at the nodes -> values of the integral from θ = 0
_INTEGRATE = np.pi / 4 * chebyshev.chebval(_X, _PRIMITIVES).T @ _TO_COEFFICIENTS
_WIDTH_S = np.sqrt((1 + np.sin(_THETA)) / 2)
_WIDTH_D = np.sin((np.pi / 2 - _THETA) / 2)  # √((1 - sin θ)/2) without cancellation


class Agreement(NamedTuple):
    """Chebyshev coefficients over θ of the covariance of the units and of its derivative."""

    covariance: Float[Array, " theta"]
    slope: Float[Array, " theta"]


def saturating_slope(activation: Activation) -> Callable[[Any], Any]:
    """Give φ' of an odd, smooth, saturating activation.

    Raises
    ------
    ValueError
        If φ is not odd or does not saturate by |x| = 10, or has kinks (hard_tanh).
    """
    function, slope = function_and_slope(activation)
    with jax.ensure_compile_time_eval():
        at = jnp.asarray([0.3, 1.0, 10.0, 20.0])
        right, left = np.asarray(function(at)), np.asarray(function(-at))
    odd = np.allclose(right, -left, rtol=1e-5, atol=1e-6)
    flat = abs(right[3] - right[2]) <= 1e-5 * abs(right[3])
    if activation in _REFUSED or not (odd and flat):
        wanted = "be odd, smooth and saturated beyond |x| = 10 unless leak is 1"
        raise ValueError(worded("activation", wanted, activation, "Use tanh or erf."))
    return slope


def slope_agreement(slope: Callable[[Any], Any], variance: Array) -> Float[Array, " theta"]:
    """Compute E φ'(x)φ'(y) at the Chebyshev nodes in θ."""
    dtype = variance.dtype
    scale = jnp.sqrt(variance)

    def axis(width: np.ndarray) -> tuple[Array, Array]:
        sigma = scale * jnp.asarray(width, dtype)
        reach = jnp.minimum(_SIGMAS, _REACH / jnp.maximum(sigma, _REACH / _SIGMAS))
        middles = jnp.asarray((np.arange(_POINTS) + 0.5) / _POINTS, dtype)
        y = reach[:, None] * middles[None, :]
        density = jnp.exp(-jnp.square(y) / 2) / np.sqrt(2 * np.pi).item()
        return sigma[:, None] * y, 2 * reach[:, None] / _POINTS * density

    s, weight_s = axis(_WIDTH_S)
    d, weight_d = axis(_WIDTH_D)
    x, y = s[:, :, None] + d[:, None, :], s[:, :, None] - d[:, None, :]
    both = (slope(x.ravel()) * slope(y.ravel())).reshape(x.shape)
    return jnp.einsum("ti,tj,tij->t", weight_s, weight_d, both, precision="highest")


def tabulate(slope: Callable[[Any], Any], variance: Array) -> Agreement:
    """Build both functions of θ for one variance C₀; C_φ = C₀ ∫₀ cos θ C_φ' dθ."""
    dtype = variance.dtype
    integrate = jnp.asarray(_INTEGRATE * np.cos(_THETA)[None], dtype)
    convert = jnp.asarray(_TO_COEFFICIENTS, dtype)
    values = slope_agreement(slope, variance)
    with jax.default_matmul_precision("highest"):
        return Agreement(convert @ (variance * (integrate @ values)), convert @ values)


def mean_potential(slope: Callable[[Any], Any], variance: Array) -> Float[Array, ""]:
    """Compute ∫₀^C₀ C_φ dc / C₀² = ∫ (1 - sin θ) cos θ C_φ' dθ."""
    sine = np.sin(_THETA)
    weights = jnp.asarray(_INTEGRATE[-1] * (1 - sine) * np.cos(_THETA), variance.dtype)
    return jnp.sum(weights * slope_agreement(slope, variance))


def angles(covariance: Array, variance: Array) -> Float[Array, " k"]:
    """Give the Chebyshev argument in [-1, 1] of c = C₀ sin θ."""
    ratio = jnp.clip(covariance / variance, -1, 1)
    return jnp.arcsin(ratio) * (4 / np.pi) - 1


def evaluate(coefficients: Array, x: Array) -> Float[Array, " k"]:
    """Sum a Chebyshev series by Clenshaw's recurrence."""

    def add(b: tuple[Array, Array], c: Array) -> tuple[tuple[Array, Array], None]:
        return (c + 2 * x * b[0] - b[1], b[0]), None

    zero = jnp.zeros_like(x)
    (first, second), _ = lax.scan(add, (zero, zero), coefficients[:0:-1])
    return coefficients[0] + x * first - second
