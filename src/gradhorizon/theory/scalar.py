"""Scalar products: one repeated factor against fresh ones, and why repetition is worse.

w^d against w_1 w_2 … w_d with independent w_i of the same law. Both logarithms have the same
mean d E ln|w|; their standard deviations are d s and √d s with s the one of ln|w|. For
w ~ N(0, v): E ln|w| = (ln v - γ - ln 2)/2 and Var ln|w| = π²/8.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from gradhorizon._checks import require_integer, require_positive
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._log_product import EULER_GAMMA, centered_cdf

SD_LOG_ABS = math.pi / math.sqrt(8.0)  # of ln|w| for a centered normal w, any variance


def mean_log_abs(variance: Any = 1.0) -> Float[Array, ""]:
    """Give E ln|w| for w ~ N(0, variance), in nats.

    Parameters
    ----------
    variance
        Variance of w.

    Returns
    -------
    Array
        (ln v - γ - ln 2)/2.

    Raises
    ------
    ValueError
        If `variance` is not positive.

    References
    ----------
    Elementary: w² / v is χ² with one degree of freedom, E ln χ²_1 = ψ(1/2) + ln 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.scalar.mean_log_abs()), 12)
    -0.635181422731
    """
    require_positive("variance", variance)
    (variance,) = floats(variance)
    return (jnp.log(variance) - EULER_GAMMA - math.log(2.0)) / 2


def var_log_abs() -> Float[Array, ""]:
    """Give Var ln|w| = π²/8 for a centered normal w of any variance.

    Returns
    -------
    Array
        Nats².

    References
    ----------
    Elementary: Var ln χ²_1 = ψ'(1/2) = π²/2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.scalar.var_log_abs()), 12)
    1.233700550136
    """
    return jnp.asarray(SD_LOG_ABS**2)


def log_product_mean(depth: int, variance: Any = 1.0) -> Float[Array, ""]:
    """Give E ln|product of `depth` factors|, the same for tied and untied factors.

    Parameters
    ----------
    depth
        Number of factors d.
    variance
        Variance of each factor.

    Returns
    -------
    Array
        d E ln|w|, nats.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer or `variance` not positive.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.scalar.log_product_mean(20)), 6)
    -12.703628
    """
    return require_integer("depth", depth, 1) * mean_log_abs(variance)


def log_product_sd(depth: int, *, tied: bool) -> Float[Array, ""]:
    """Give the standard deviation of ln|product|: d π/√8 tied, √d π/√8 untied.

    Parameters
    ----------
    depth
        Number of factors d.
    tied
        Whether one factor is repeated or each is drawn afresh.

    Returns
    -------
    Array
        Nats; it does not depend on the variance of the factors.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer.

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), section 10.7, for the contrast.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.scalar.log_product_sd(20, tied=True)), 6)
    22.214415
    >>> round(float(gh.theory.scalar.log_product_sd(20, tied=False)), 6)
    4.967294
    """
    depth = require_integer("depth", depth, 1)
    return jnp.asarray((depth if tied else math.sqrt(depth)) * SD_LOG_ABS)


def log_product_cdf(value: Any, depth: int, *, variance: Any = 1.0) -> Float[Array, "..."]:
    """Give P(ln|w_1 w_2 … w_d| ≤ x) for fresh factors, w_i ~ N(0, variance).

    Parameters
    ----------
    value
        x in nats, any shape.
    depth
        Number of factors d.
    variance
        Variance of each factor.

    Returns
    -------
    Array
        Probabilities, in the shape of `value`.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer or `variance` not positive.

    Notes
    -----
    Numerical inversion of the characteristic function, 4096 nodes for each x. The absolute
    error is rounding, about 1e-14 in float64 and 1e-5 in float32, so tails below that are lost.

    References
    ----------
    Gil-Pelaez, Biometrika 38 (1951) 481; Davies, Biometrika 60 (1973) 415, for the error.

    Examples
    --------
    One factor exceeds e⁰ = 1 with probability 2 (1 - Φ(1)):

    >>> import gradhorizon as gh
    >>> round(1 - float(gh.theory.scalar.log_product_cdf(0.0, 1)), 12)
    0.317310507863
    """
    depth = require_integer("depth", depth, 1)
    require_positive("variance", variance)
    value, variance = floats(value, variance)
    return centered_cdf(value - log_product_mean(depth, variance), depth)


def balance_probability(
    depth: int, threshold: Any, *, tied: bool, variance: Any = 1.0
) -> Float[Array, ""]:
    """Give the chance that the product stays inside [ε, 1/ε].

    Tied: P(ε^(1/d) ≤ |w| ≤ ε^(-1/d)). Untied: the law of ln|product| is a convolution of d
    log-χ laws, found by `log_product_cdf`. Both are exact.

    Parameters
    ----------
    depth
        Number of factors d.
    threshold
        ε, inside (0, 1).
    tied
        Whether one factor is repeated or each is drawn afresh.
    variance
        Variance of the factors.

    Returns
    -------
    Array
        A probability.

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range.

    Notes
    -----
    Absolute error: rounding, untied about 1e-14 in float64 and 1e-5 in float32.

    Examples
    --------
    The window of a repeated factor closes like 1/d, that of fresh ones like 1/√d:

    >>> import gradhorizon as gh
    >>> law = lambda d, tied: float(gh.theory.scalar.balance_probability(
    ...     d, 1e-3, tied=tied, variance=float(jnp.exp(1.270362845462))))
    >>> round(law(400, True) / law(1600, True), 1), round(law(400, False) / law(1600, False), 1)
    (4.0, 2.0)
    """
    depth = require_integer("depth", depth, 1)
    require_positive("threshold", threshold, below=1.0)
    require_positive("variance", variance)
    threshold, variance = floats(threshold, variance)
    width = -jnp.log(threshold)
    if tied:
        scale = jnp.sqrt(variance)
        high, low = jnp.exp(width / depth) / scale, jnp.exp(-width / depth) / scale
        return 2 * (norm.cdf(high) - norm.cdf(low))
    low, high = log_product_cdf(jnp.stack([-width, width]), depth, variance=variance)
    return jnp.maximum(high - low, 0)


def exploding_probability(variance: Any = 1.0, *, depth: int = 1) -> Float[Array, ""]:
    """Give the chance that the product of fresh factors exceeds 1 in modulus.

    A repeated factor has P(|w^d| > 1) = P(|w| > 1) = 2 (1 - Φ(1/√v)) at every depth: take
    `depth=1` for it.

    Parameters
    ----------
    variance
        Variance v of the factors.
    depth
        Number of fresh factors.

    Returns
    -------
    Array
        A probability; absolute error as in `log_product_cdf`.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer or `variance` not positive.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chance = gh.theory.scalar.exploding_probability
    >>> round(float(chance()), 12), round(float(chance(depth=2)), 3)
    (0.317310507863, 0.209)
    """
    depth = require_integer("depth", depth, 1)
    require_positive("variance", variance)
    (variance,) = floats(variance)
    if depth == 1:
        return 2 * norm.sf(1 / jnp.sqrt(variance))
    return 1 - log_product_cdf(0.0, depth, variance=variance)


def factor_variance(product_variance: Any, depth: int) -> Float[Array, ""]:
    """Give the variance of each of `depth` fresh zero-mean factors for a set product variance.

    v = (v*)^(1/d). The caveat: the typical size of the product is exp(d E ln|w|), far below
    its standard deviation.

    Parameters
    ----------
    product_variance
        v*, the variance that the product shall have.
    depth
        Number of factors d.

    Returns
    -------
    Array
        v.

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range.

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), section 10.7.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.scalar.factor_variance(16.0, 4))
    2.0
    """
    require_positive("product_variance", product_variance)
    (product_variance,) = floats(product_variance)
    return product_variance ** (1 / require_integer("depth", depth, 1))
