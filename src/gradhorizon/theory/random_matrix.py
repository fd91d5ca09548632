"""Products of Ginibre matrices: exponents, their variances, eigenvalue moduli, spectral radius.

A Ginibre matrix has independent Gaussian entries, real or complex. `variance` is that of an
entry (E|a|² for complex ones) and defaults to 1/n, the convention of network initialization.
Tied means one matrix repeated, untied a fresh one at every step.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammainc
from jaxtyping import Array, Float

from gradhorizon._checks import require_integer, require_positive
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._gain import log_growth_moments as log_growth_moments
from gradhorizon.theory._gain import optimal_gain as optimal_gain
from gradhorizon.theory._gain import trigamma

_RADIUS_NODES = 256


def _orders(n: int, dtype: Any = float) -> Array:
    """Give N - k + 1 for k = 1 … N as floats."""
    return jnp.asarray(np.arange(n, 0, -1)).astype(dtype)


def _log_variance(variance: Any, n: int) -> Array:
    if variance is None:
        return jnp.asarray(-math.log(n))
    require_positive("variance", variance)
    return jnp.log(floats(variance)[0])


def ginibre_exponents(
    n: int, *, variance: Any = None, complex_entries: bool = False
) -> Float[Array, " n"]:
    """Give all Lyapunov exponents of a product of fresh Ginibre matrices.

    Real: λ_k = (ln 2v + ψ((N-k+1)/2))/2; complex: λ_k = (ln v + ψ(N-k+1))/2.

    Parameters
    ----------
    n
        Size N.
    variance
        Variance v of an entry; 1/N if None.
    complex_entries
        Complex entries with E|a|² = v instead of real ones.

    Returns
    -------
    Array
        λ_1 ≥ … ≥ λ_N in nats per step, shape (n,). Exact for every N and every number of
        factors (the diagonal entries of R are independent χ variables).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer or `variance` not positive.

    References
    ----------
    Newman, Commun. Math. Phys. 103 (1986) 121; Forrester, J. Stat. Phys. 151 (2013) 796.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.theory.random_matrix.ginibre_exponents(2, variance=1.0).round(10).tolist()
    [0.0579657578, -0.6351814227]
    """
    n = require_integer("n", n, 1)
    log_v = _log_variance(variance, n)
    orders = _orders(n, log_v.dtype)
    if complex_entries:
        return (log_v + digamma(orders)) / 2
    return (log_v + math.log(2.0) + digamma(orders / 2)) / 2


def ginibre_exponent_variances(n: int, *, complex_entries: bool = False) -> Float[Array, " n"]:
    """Give the variance per step of each ln R_kk: ψ'((N-k+1)/2)/4 real, ψ'(N-k+1)/4 complex.

    The estimate of λ_k from L steps has variance this/L; it does not depend on the variance of
    the entries.

    Parameters
    ----------
    n
        Size N.
    complex_entries
        Complex entries instead of real ones.

    Returns
    -------
    Array
        Nats² per step, shape (n,).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    References
    ----------
    Newman, Commun. Math. Phys. 103 (1986) 121.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_matrix.ginibre_exponent_variances(1)[0]), 12)  # π²/8
    1.233700550136
    """
    orders = _orders(require_integer("n", n, 1))
    return trigamma(orders if complex_entries else orders / 2) / 4


def untied_growth(n: int, depth: Any, *, variance: Any = None) -> tuple[Array, Array]:
    """Give mean and standard deviation of ln ‖P_d v‖ for fresh real Ginibre factors.

    Exact for every N and d: the norm is multiplied by independent χ_N variables.

    Parameters
    ----------
    n
        Size N.
    depth
        Number of factors d, an integer or an array of integers.
    variance
        Variance of an entry; 1/N if None.

    Returns
    -------
    tuple of Array
        d (ln 2v + ψ(N/2))/2 and √(d ψ'(N/2))/2, nats, in the shape of `depth`.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer or `variance` not positive.

    References
    ----------
    Newman, Commun. Math. Phys. 103 (1986) 121, for k = 1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> mean, sd = gh.theory.random_matrix.untied_growth(64, 1)
    >>> round(float(mean), 12), round(float(sd), 7)
    (-0.007853186132, 0.0890833)
    """
    rate = ginibre_exponents(n, variance=variance)[0]
    depth = jnp.asarray(depth).astype(rate.dtype)
    spread = ginibre_exponent_variances(n)[0].astype(rate.dtype)
    return depth * rate, jnp.sqrt(depth * spread)


def log_modulus_moments(
    n: int, depth: int, *, tied: bool, variance: Any = None
) -> tuple[Array, Array]:
    """Give means and variances of ln |z_k| over the eigenvalue moduli of a complex product.

    The set of |z_k|² is that of independent variables: products of d variables v Γ(k, 1) for
    fresh factors, the d-th power of one for a repeated factor, k = 1 … N. The means
    d (ψ(k) + ln v)/2 agree; the variances are d ψ'(k)/4 and d² ψ'(k)/4. Their ratio is exactly d.

    Parameters
    ----------
    n
        Size N.
    depth
        Number of factors d.
    tied
        Whether one matrix is repeated.
    variance
        v = E|a|² of an entry; 1/N if None.

    Returns
    -------
    tuple of Array
        Means and variances for k = 1 … N, shape (n,) each; their sums belong to ln |det P|.

    Raises
    ------
    TypeError, ValueError
        If `n` or `depth` is not a positive integer or `variance` not positive.

    References
    ----------
    Kostlan, Linear Algebra Appl. 162 (1992) 385; Akemann & Burda, J. Phys. A 45 (2012) 465201.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> for tied in (True, False):
    ...     print(round(float(gh.theory.random_matrix.log_modulus_moments(4, 10, tied=tied)[1]
    ...                       .sum()), 4))
    74.2156
    7.4216
    """
    n, depth = require_integer("n", n, 1), require_integer("depth", depth, 1)
    log_v = _log_variance(variance, n)
    k = _orders(n, log_v.dtype)[::-1]
    mean = depth * (digamma(k) + log_v) / 2
    return mean, (depth**2 if tied else depth) * trigamma(k) / 4


def spectral_radius_cdf(radius: Any, n: int) -> Float[Array, "..."]:
    """Give P(ρ ≤ r) for a complex Ginibre matrix with E|a|² = 1/N.

    Kostlan's product Π_k P(k, N r²) over k = 1 … N, with the regularized lower incomplete Γ.

    Parameters
    ----------
    radius
        r, any shape.
    n
        Size N.

    Returns
    -------
    Array
        Probabilities, in the shape of `radius`.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Notes
    -----
    Rider's Gumbel limit is undefined for N ≤ 163 and still off at N = 1024; this is exact.

    References
    ----------
    Kostlan, Linear Algebra Appl. 162 (1992) 385.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_matrix.spectral_radius_cdf(1.0, 4)), 12)
    0.384926962218
    """
    n = require_integer("n", n, 1)
    (radius,) = floats(radius)
    square = n * jnp.square(jnp.maximum(radius, 0))
    return jnp.prod(jax.vmap(lambda a: gammainc(a, square))(_orders(n, radius.dtype)), axis=0)


def spectral_radius_moments(n: int) -> tuple[Array, Array]:
    """Give mean and standard deviation of ρ for a complex Ginibre matrix with E|a|² = 1/N.

    Parameters
    ----------
    n
        Size N.

    Returns
    -------
    tuple of Array
        Mean and standard deviation.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Notes
    -----
    Gauss-Legendre quadrature of `spectral_radius_cdf` over 1 ± 8/√N with 256 nodes, beyond which
    it is 0 or 1 to rounding. Error in float64 about 1e-12 in the mean.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(m), 5) for m in gh.theory.random_matrix.spectral_radius_moments(64)]
    [1.06787, 0.03842]
    """
    n = require_integer("n", n, 1)
    low, high = max(0.0, 1 - 8 / math.sqrt(n)), 1 + 8 / math.sqrt(n)
    nodes, weights = np.polynomial.legendre.leggauss(_RADIUS_NODES)
    # moments of ρ - low, whose square does not cancel: E X = ∫ P(X > x), E X² = ∫ 2x P(X > x)
    x = jnp.asarray((nodes + 1) * (high - low) / 2)
    tail = jnp.asarray(weights * (high - low) / 2) * (1 - spectral_radius_cdf(low + x, n))
    mean = jnp.sum(tail)
    return low + mean, jnp.sqrt(2 * jnp.sum(x * tail) - mean**2)


def fuss_catalan_moment(power: int, depth: int) -> Float[Array, ""]:
    """Give the limit of (1/N) E tr (P Pᵀ)^p for L Ginibre factors of variance 1/N.

    C(p (L + 1), p)/(p L + 1): the same for a repeated factor and for fresh ones, at fixed depth
    L as N → ∞. Tying changes fluctuations, and depths that are not small against N.

    Parameters
    ----------
    power
        p.
    depth
        L.

    Returns
    -------
    Array
        The moment.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a positive integer.

    References
    ----------
    Haagerup & Larsen, J. Funct. Anal. 176 (2000) 331, for powers; Fuss-Catalan law.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(gh.theory.random_matrix.fuss_catalan_moment(p, 2))) for p in (1, 2, 3)]
    [1, 3, 12]
    """
    p, depth = require_integer("power", power, 1), require_integer("depth", depth, 1)
    return jnp.asarray(float(math.comb(p * (depth + 1), p) // (p * depth + 1)))


def fuss_catalan_edge(depth: int) -> Float[Array, ""]:
    """Give the limit √((L + 1)^(L+1)/L^L) of the largest singular value of L Ginibre factors.

    Parameters
    ----------
    depth
        L.

    Returns
    -------
    Array
        The edge; 2 for one factor.

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive integer.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_matrix.fuss_catalan_edge(2)), 6)
    2.598076
    """
    depth = require_integer("depth", depth, 1)
    return jnp.exp(0.5 * ((depth + 1) * jnp.log1p(depth) - depth * jnp.log(depth)))
