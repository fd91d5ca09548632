"""The horizons of the literature by name: how far back something reaches, each its own quantity.

They differ in what must not be lost (the gradient's size, its direction, its digits), in the
threshold (ε, e, 2 or what a float holds) and in the average (one network, or all). Print the name
wherever a number is printed. Rates are in nats per step; horizons in steps, not rounded.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import require_choice, require_positive
from gradhorizon.theory._dtype import floats

FORMATS = ("bfloat16", "float16", "float32", "float64")
"""Floating-point formats that `condition` and `raw_product` know."""


def _over(amount: Any, rate: Array) -> Array:
    """Give amount/rate where the rate is positive, else infinity."""
    return jnp.where(rate > 0, amount / jnp.where(rate > 0, rate, 1), jnp.inf)


def _width(threshold: Array) -> Array:
    if threshold.ndim == 0:
        require_positive("threshold", threshold, below=1.0)
    return -jnp.log(threshold)


def lyapunov(exponent: Any, threshold: Any = 1e-3) -> Float[Array, "..."]:
    """Give ln(1/ε)/|λ_1|: the lag at which a typical gradient leaves [ε, 1/ε].

    Parameters
    ----------
    exponent
        λ_1, nats per step, any shape.
    threshold
        ε, inside (0, 1).

    Returns
    -------
    Array
        Steps; infinite at λ_1 = 0. Asymptotic, for one given network (quenched).

    Raises
    ------
    ValueError
        If `threshold` is outside (0, 1).

    References
    ----------
    The definition of this package; docs/conventions.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.lyapunov(-jnp.log(10.0), threshold=1e-3)), 12)
    3.0
    """
    exponent, threshold = floats(exponent, threshold)
    return _over(_width(threshold), jnp.abs(exponent))


def certified(
    largest_singular_value: Any, slope_bound: Any = 1.0, threshold: Any = 1e-3
) -> Float[Array, "..."]:
    """Give ln(1/ε)/ln(1/(γ σ_1)): no gradient of any input is above ε beyond this lag.

    Parameters
    ----------
    largest_singular_value
        σ_1 of the repeated matrix, any shape.
    slope_bound
        γ = sup |φ'|, see `gh.theory.bounds.SLOPE_BOUNDS`.
    threshold
        ε, inside (0, 1).

    Returns
    -------
    Array
        Steps; infinite where γ σ_1 ≥ 1, which says nothing. Vanishing only.

    Raises
    ------
    ValueError
        If `threshold` is outside (0, 1).

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 2.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.certified(0.4, slope_bound=0.25)), 12)
    3.0
    """
    sigma, slope, threshold = floats(largest_singular_value, slope_bound, threshold)
    return _over(_width(threshold), -jnp.log(sigma * slope))


def memory_scale(chi: Any) -> Float[Array, "..."]:
    """Give ξ = -1/ln χ: steps over which the mean squared gradient decays by e.

    Parameters
    ----------
    chi
        χ, growth of the mean squared gradient per step, any shape.

    Returns
    -------
    Array
        Steps; negative where the gradient grows, infinite at χ = 1. An average over networks
        (annealed), so ½ ln χ ≥ λ_1, with equality for infinite width.

    References
    ----------
    Chen, Pennington & Schoenholz, ICML 2018.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.memory_scale(0.9766013215)), 4)
    42.2355
    """
    log_chi = jnp.log(floats(chi)[0])
    return jnp.where(log_chi == 0, jnp.inf, -1 / jnp.where(log_chi == 0, 1, log_chi))


def correlation_depth(xi_correlation: Any) -> Float[Array, "..."]:
    """Give 6 ξ_c: the depth up to which random networks were seen to be trainable.

    Parameters
    ----------
    xi_correlation
        ξ_c, see `gh.theory.mean_field.depth_scales`, any shape.

    Returns
    -------
    Array
        Layers. The factor 6 is an observation.

    References
    ----------
    Schoenholz, Gilmer, Ganguli & Sohl-Dickstein, ICLR 2017.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.horizons.correlation_depth(74.5))
    447.0
    """
    return 6 * floats(xi_correlation)[0]


def predictability_time(exponent: Any) -> Float[Array, "..."]:
    """Give ln 2/λ_1: the time in which a small error of a chaotic system doubles.

    Parameters
    ----------
    exponent
        λ_1, nats per step or per unit time, any shape.

    Returns
    -------
    Array
        Steps or units of time; infinite without chaos, λ_1 ≤ 0.

    References
    ----------
    Mikhaeil, Monfared & Durstewitz, NeurIPS 2022.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.predictability_time(0.9056)), 3)  # Lorenz
    0.765
    """
    return _over(math.log(2.0), floats(exponent)[0])


def direction(first: Any, second: Any) -> Float[Array, "..."]:
    """Give 1/(λ_1 - λ_2): steps in which the long Jacobian gets closer to rank one by e.

    Beyond a few of them all gradients point the same way, whatever their size.

    Parameters
    ----------
    first, second
        λ_1 ≥ λ_2, nats per step, one shape.

    Returns
    -------
    Array
        Steps, infinite where the two agree. About 2N for fresh N × N Gaussian matrices.

    References
    ----------
    The gap of the Oseledets spectrum; for Gaussian matrices Newman, Commun. Math. Phys. 103
    (1986) 121.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> rates = gh.theory.random_matrix.ginibre_exponents(64)
    >>> round(float(gh.theory.horizons.direction(rates[0], rates[1])), 1)
    125.0
    """
    first, second = floats(first, second)
    return _over(1, first - second)


def condition(first: Any, last: Any, dtype: Any = "float64") -> Float[Array, "..."]:
    """Give ln(1/u)/(λ_1 - λ_N): steps after which a raw product has lost its smallest direction.

    u is the unit roundoff: 36.7 nats in float64, 16.6 in float32. Products have to be
    orthonormalized more often than this.

    Parameters
    ----------
    first, last
        λ_1 ≥ λ_N, nats per step, one shape.
    dtype
        "bfloat16", "float16", "float32" or "float64".

    Returns
    -------
    Array
        Steps, infinite where all exponents agree.

    Raises
    ------
    ValueError
        If `dtype` is another one.

    References
    ----------
    Elementary: u κ = 1 for the condition number κ = exp((λ_1 - λ_N) k).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> half = jnp.log(2.0)
    >>> round(float(gh.theory.horizons.condition(half, -half, "float64")), 9)  # 2^-53, 2^2
    26.5
    """
    unit = float(jnp.finfo(_known(dtype)).eps) / 2
    first, last = floats(first, last)
    return _over(-math.log(unit), first - last)


def learnability(eigenvalue: Any) -> Float[Array, "..."]:
    """Give 1/(1 - λ): the memory of a linear unit whose gradient's variance is its third power.

    Parameters
    ----------
    eigenvalue
        |λ| < 1, any shape.

    Returns
    -------
    Array
        Steps; infinite for |λ| ≥ 1.

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064); see `gh.theory.linear_memory`.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.horizons.learnability(0.75))
    4.0
    """
    return _over(1, 1 - jnp.abs(floats(eigenvalue)[0]))


def transient_time(eigenvalue: Any) -> Float[Array, "..."]:
    """Give -1/ln|λ|: the time at which t |λ|^t, the power of a Jordan block, is largest.

    Parameters
    ----------
    eigenvalue
        λ of [[λ, M], [0, λ]], any shape.

    Returns
    -------
    Array
        Steps; infinite for |λ| ≥ 1.

    References
    ----------
    Elementary; Trefethen & Embree, *Spectra and Pseudospectra* (2005), for transients.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.transient_time(0.9)), 3)
    9.491
    """
    return _over(1, -jnp.log(jnp.abs(floats(eigenvalue)[0])))


def transient_height(eigenvalue: Any, coupling: Any) -> Float[Array, "..."]:
    """Give |M|/(e |λ ln|λ||): the height M t λ^(t-1) reaches at `transient_time`.

    Parameters
    ----------
    eigenvalue, coupling
        λ and M of [[λ, M], [0, λ]], one shape.

    Returns
    -------
    Array
        About max_t ‖A^t‖ where it is far above 1; infinite for |λ| ≥ 1.

    References
    ----------
    Elementary: the largest entry of the powers of a Jordan block.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.transient_height(0.9, 5.0)), 6)
    19.397918
    """
    value, coupling = floats(eigenvalue, coupling)
    size = jnp.abs(value)
    return _over(jnp.abs(coupling) / math.e, -size * jnp.log(size))


def raw_product(rate: Any, dtype: Any = "float32", *, flushed: bool = True) -> Float[Array, "..."]:
    """Give the steps after which a product of factors e^rate can no longer be held as a float.

    -ln(smallest number)/|rate| under decay, ln(largest number)/rate under growth: 87.33655 and
    708.39642 nats of decay in float32 and float64.

    Parameters
    ----------
    rate
        Nats per step, any shape.
    dtype
        "bfloat16", "float16", "float32" or "float64".
    flushed
        Whether numbers below the smallest normal one become 0, as in XLA on CPU; else down to
        half of the smallest subnormal, as in NumPy.

    Returns
    -------
    Array
        Steps; infinite for a rate of 0. A product carried as a logarithm has no such limit.

    Raises
    ------
    ValueError
        If `dtype` is another one.

    References
    ----------
    IEEE 754-2019, table 3.5.

    Examples
    --------
    Factors 1/4, the largest slope of the logistic function:

    >>> import gradhorizon as gh
    >>> round(float(gh.theory.horizons.raw_product(-jnp.log(4.0), "float32")), 9)
    63.0
    """
    info = jnp.finfo(_known(dtype))
    # of the smallest subnormal, half of it is itself 0 in float64
    lowest = math.log(float(info.smallest_normal))
    if not flushed:
        lowest = math.log(float(info.smallest_subnormal)) - math.log(2.0)
    (rate,) = floats(rate)
    room = jnp.where(rate < 0, -lowest, math.log(float(info.max))).astype(rate.dtype)
    return _over(room, jnp.abs(rate))


def _known(dtype: Any) -> Any:
    name = np.dtype(dtype).name if not isinstance(dtype, str) else dtype
    return require_choice("dtype", name, FORMATS)
