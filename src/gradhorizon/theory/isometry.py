"""Dynamical isometry: how far the singular values of a deep Jacobian spread.

For wide layers with weights redrawn at every layer the spread at depth L follows from two
moments μ_k = E φ'(√q z)^{2k} of the squared slopes.
"""

from typing import Any

from jaxtyping import Array, Float

from gradhorizon._checks import require_integer
from gradhorizon.theory._activations import Activation, function_and_slope
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._quadrature import deviation, gaussian_mean


def slope_moment(activation: Activation, q: Any, power: int) -> Float[Array, ""]:
    """Give μ_k = E φ'(√q z)^{2k}, z ~ N(0, 1).

    Parameters
    ----------
    activation
        "tanh", "erf", "relu", "sigmoid", "identity", "hard_tanh", or an elementwise function.
    q
        Pre-activation variance.
    power
        k.

    Returns
    -------
    Array
        The moment; σ_w² μ_1 is the susceptibility χ.

    Raises
    ------
    TypeError, ValueError
        If `power` is not a positive integer or the activation is unknown.

    References
    ----------
    Pennington, Schoenholz & Ganguli, NeurIPS 2017 (arXiv:1711.04735), section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.isometry.slope_moment("relu", 1.0, 2)), 12)
    0.5
    """
    _, slope = function_and_slope(activation)
    power = require_integer("power", power, 1)
    (q,) = floats(q)
    root = deviation(q)
    return gaussian_mean(lambda z: slope(root * z) ** (2 * power), q.dtype)


def singular_value_variance(
    activation: Activation, q: Any, depth: int, *, orthogonal: bool
) -> Float[Array, ""]:
    """Give the variance of the squared singular values of a deep Jacobian over their mean².

    Gaussian weights: L μ_2/μ_1²; orthogonal weights: L (μ_2/μ_1² - 1). Isometry, a spread that
    stays small at every depth, needs orthogonal weights and slopes that hardly vary.

    Parameters
    ----------
    activation
        A name or an elementwise function, as in `slope_moment`.
    q
        Pre-activation variance, the same in all layers.
    depth
        L.
    orthogonal
        Orthogonal weights (up to a factor) instead of independent Gaussian ones.

    Returns
    -------
    Array
        Exact as the width goes to infinity at fixed depth; the weights' scale cancels.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer or the activation is unknown.

    References
    ----------
    Pennington, Schoenholz & Ganguli, NeurIPS 2017 (arXiv:1711.04735), section 2.

    Examples
    --------
    ReLU slopes are 0 or 1, so orthogonal weights do not help it:

    >>> import gradhorizon as gh
    >>> variance = gh.theory.isometry.singular_value_variance
    >>> [round(float(variance("relu", 1.0, 3, orthogonal=o)), 12) for o in (False, True)]
    [6.0, 3.0]
    """
    depth = require_integer("depth", depth, 1)
    ratio = slope_moment(activation, q, 2) / slope_moment(activation, q, 1) ** 2
    return depth * (ratio - 1 if orthogonal else ratio)
