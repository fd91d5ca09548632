"""Conditioning: how growth decides whether all steps can be solved for at once.

Writing h_t = f_t(h_{t-1}) for t = 1 … T as one system r(h_1, …, h_T) = 0 gives a residual
Jacobian with the identity on the diagonal and -J_t below it. Its smallest singular value, √μ in
the source, sets the basin of Newton's iteration on the whole sequence. The inverse consists of
the long Jacobians Φ(t, s), so exploding gradients and ill-conditioned parallel solves are one
phenomenon. Everything is kept in logarithms: √μ falls like e^{-λT}.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import is_concrete, require_finite, require_integer, worded
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._root import falling_root


class Conditioning(NamedTuple):
    """Bounds of the smallest singular value √μ of the residual Jacobian.

    Attributes
    ----------
    log_lower
        ln of the lower bound.
    log_upper
        ln of the upper bound.
    """

    log_lower: Float[Array, ""]
    log_upper: Float[Array, ""]


def conditioning(
    rate: Any, length: int, *, overshoot: Any = 1.0, undershoot: Any = 1.0
) -> Conditioning:
    """Bound √μ from b e^{λk} ≤ ‖J_{t+k} … J_{t+1}‖₂ ≤ a e^{λk} for all t and k.

    (1/a) (e^λ - 1)/(e^{λT} - 1) ≤ √μ ≤ min(e^{-λ(T-1)}/b, 1).

    Parameters
    ----------
    rate
        λ, nats per step: the largest Lyapunov exponent.
    length
        T, the number of steps solved at once.
    overshoot
        a ≥ 1: how far products exceed e^{λk}. Non-normal factors make it large.
    undershoot
        b inside (0, 1].

    Returns
    -------
    Conditioning
        The natural logarithms of both bounds.

    Raises
    ------
    TypeError
        If `length` is not an integer.
    ValueError
        If `length` is not positive, `overshoot` below 1 or `undershoot` outside (0, 1]: k = 0,
        the identity, has norm 1.

    References
    ----------
    Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state space
    models" (arXiv:2508.16817), theorem 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> bounds = gh.theory.bounds.conditioning(jnp.log(0.5), 40)
    >>> [round(float(jnp.exp(bound)), 9) for bound in bounds]
    [0.5, 1.0]
    """
    steps = require_integer("length", length, 1)
    if is_concrete(overshoot) and not float(overshoot) >= 1:
        raise ValueError(worded("overshoot", "be at least 1", float(overshoot)))
    if is_concrete(undershoot) and not 0 < float(undershoot) <= 1:
        raise ValueError(worded("undershoot", "lie in (0, 1]", float(undershoot)))
    lam, above, below = floats(rate, overshoot, undershoot)
    lower = -jnp.log(above) - _log_geometric_sum(lam, steps)
    upper = jnp.minimum(-lam * (steps - 1) - jnp.log(below), 0)
    return Conditioning(lower, upper)


def _log_geometric_sum(rate: Float[Array, ""], terms: int) -> Float[Array, ""]:
    """Give ln Σ_{k<T} e^{λk} without overflow and without loss at λ = 0."""
    size = jnp.abs(rate)
    small = jnp.where(size > 0, size, 1)
    ratio = jnp.expm1(-terms * small) / jnp.expm1(-small)
    falling = jnp.where(size > 0, jnp.log(ratio), math.log(terms))
    return falling + jnp.maximum(rate, 0) * (terms - 1)


def scalar_conditioning(factor: Any, length: int) -> Float[Array, ""]:
    """Give ln √μ exactly for the chain h_t = a h_{t-1}: T equal scalar factors.

    √μ is the smallest singular value of the T × T matrix with 1 on the diagonal and -a below it.
    With φ the smallest root of sin((T+1)φ) = a sin(Tφ), μ = (1 - a)² + 4 a sin²(φ/2); beyond
    a = 1 + 1/T the root is imaginary, φ = iκ, and √μ = e^{-Tκ} (a - e^{-κ}).

    Parameters
    ----------
    factor
        a; its sign does not matter.
    length
        T ≥ 2.

    Returns
    -------
    Array
        ln √μ; ln(2 sin(π/(2(2T + 1)))) at a = 1.

    Raises
    ------
    TypeError
        If `length` is not an integer.
    ValueError
        If `length` is below 2 or `factor` infinite or NaN.

    Notes
    -----
    Bisection to rounding; absolute error about T eps. The two forms meet at a = 1 + 1/T, where
    both roots are near 0 and keep only half of their digits, which μ does not notice.

    References
    ----------
    Derived in docs/derivations.md; the special case a = 1 is the spectrum of the second
    difference with mixed boundary conditions.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> root = jnp.exp(gh.theory.bounds.scalar_conditioning(1.0, 40))
    >>> round(float(root - 2 * jnp.sin(jnp.pi / 162)), 14)
    0.0
    """
    steps = require_integer("length", length, 2)
    a = jnp.abs(floats(factor)[0])
    require_finite("factor", a)
    dtype = a.dtype
    bent = 1 + 1 / steps

    def trigonometric(phi: Array) -> Array:
        return jnp.sin((steps + 1) * phi) - a * jnp.sin(steps * phi)

    growing = jnp.maximum(a, bent)

    def hyperbolic(share: Array) -> Array:
        kappa = share * jnp.log(growing)
        ratio = jnp.expm1(-2 * (steps + 1) * kappa) / jnp.expm1(-2 * steps * kappa)
        return jnp.log(growing) - kappa - jnp.log(ratio)

    phi = falling_root(trigonometric, 1e-12, math.pi / (steps + 1), dtype)
    inside = jnp.sqrt((1 - a) ** 2 + 4 * a * jnp.sin(phi / 2) ** 2)
    kappa = falling_root(hyperbolic, 1e-12, 1.0, dtype) * jnp.log(growing)
    outside = jnp.log(growing - jnp.exp(-kappa)) - steps * kappa
    return jnp.where(a > bent, outside, jnp.log(inside))
