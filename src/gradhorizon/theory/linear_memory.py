"""Diagonal linear recurrences h' = λ h + x and the curse of memory.

The state Jacobian λ never explodes for |λ| < 1, and yet the gradient with respect to λ does:
E|h|² grows like 1/(1 - |λ|) and E|dh/dλ|² like 1/(1 - |λ|)³. The input x is real and stationary,
with autocovariance R_d = E x_t x_{t-d}; λ is real or complex.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from gradhorizon._checks import describe, require_positive, worded
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._lru import lru_eigenvalue as lru_eigenvalue
from gradhorizon.theory._lru import lru_normalization as lru_normalization
from gradhorizon.theory._lru import lru_nu as lru_nu


def _arguments(eigenvalue: Any, *others: Any) -> tuple[Array, ...]:
    """Give λ, real or complex, and the other arguments in its dtype."""
    value = jnp.asarray(eigenvalue)
    if not jnp.issubdtype(value.dtype, jnp.complexfloating):
        return floats(value, *others)
    real, imaginary, *rest = floats(value.real, value.imag, *others)
    value = lax.complex(real, imaginary)
    return value, *(other.astype(value.dtype) for other in rest)


def _loss(eigenvalue: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """Give 1 - |λ|², NaN where the state has no stationary law."""
    real, imaginary = jnp.real(eigenvalue), jnp.imag(eigenvalue)
    loss = (1 - real) * (1 + real) - imaginary**2
    return jnp.where(loss > 0, loss, jnp.nan)


def _moments(loss: Array, spectrum: Array, slope: Array) -> tuple[Array, Array]:
    """Give E|h|² and E|dh/dλ|² from Re(R_0 + 2 Σ λ^d R_d) and Re Σ d λ^d R_d."""
    sensitivity = (2 - loss) * spectrum / loss**3 + 2 * slope / loss**2
    return spectrum / loss, sensitivity


def _from_autocovariance(eigenvalue: Any, autocovariance: Any) -> tuple[Array, Array]:
    value, covariance = _arguments(eigenvalue, autocovariance)
    if covariance.ndim != 1 or not covariance.size:
        wanted = "be the vector R_0, R_1, … R_D"
        raise ValueError(worded("autocovariance", wanted, describe(covariance)))

    def horner(pair: tuple[Array, Array], term: Array) -> tuple[tuple[Array, Array], None]:
        total, derivative = pair
        return (total * value + term, derivative * value + total), None

    start = (jnp.zeros_like(value), jnp.zeros_like(value))
    (total, derivative), _ = lax.scan(horner, start, covariance[::-1])
    spectrum = jnp.real(2 * total - covariance[0])
    return _moments(_loss(value), spectrum, jnp.real(value * derivative))


def _from_ar1(eigenvalue: Any, correlation: Any) -> tuple[Array, Array]:
    value, rho = _arguments(eigenvalue, correlation)
    rest = 1 - rho * value
    spectrum, slope = jnp.real((2 - rest) / rest), jnp.real((1 - rest) / rest**2)
    return _moments(_loss(value), spectrum, slope)


def state_moment(eigenvalue: Any, autocovariance: Any) -> Float[Array, "..."]:
    """Give E|h|² of h' = λ h + x for any stationary input.

    S/(1 - |λ|²), S = R_0 + 2 Re Σ_{d≥1} λ^d R_d.

    Parameters
    ----------
    eigenvalue
        λ, any shape.
    autocovariance
        R_0 … R_D, shape (D + 1,); 0 beyond.

    Returns
    -------
    Array
        The second moment in the shape of λ; NaN for |λ| ≥ 1.

    Raises
    ------
    ValueError
        If `autocovariance` is not a vector.

    References
    ----------
    Zucchet & Orvieto, "Recurrent neural networks: vanishing and exploding gradients are not the
    end of the story", NeurIPS 2024 (arXiv:2405.21064), section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.state_moment(0.9, [1.0])), 10)  # white: 1/(1 - λ²)
    5.2631578947
    """
    return _from_autocovariance(eigenvalue, jnp.asarray(autocovariance))[0]


def sensitivity_moment(eigenvalue: Any, autocovariance: Any) -> Float[Array, "..."]:
    """Give E|dh/dλ|² of h' = λ h + x for any stationary input.

    (1 + |λ|²) S/(1 - |λ|²)³ + 2 Re Σ d λ^d R_d/(1 - |λ|²)², with the S of `state_moment`.

    Parameters
    ----------
    eigenvalue
        λ, any shape.
    autocovariance
        R_0 … R_D, shape (D + 1,); 0 beyond.

    Returns
    -------
    Array
        The second moment in the shape of λ; NaN for |λ| ≥ 1.

    Raises
    ------
    ValueError
        If `autocovariance` is not a vector.

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064), section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.sensitivity_moment(0.9, [1.0])), 10)
    263.8868639743
    """
    return _from_autocovariance(eigenvalue, jnp.asarray(autocovariance))[1]


def ar1_state_moment(eigenvalue: Any, correlation: Any) -> Float[Array, "..."]:
    """Give E|h|² for an input with R_d = ρ^|d|.

    Re[(1 + ρλ)/(1 - ρλ)]/(1 - |λ|²).

    Parameters
    ----------
    eigenvalue
        λ, any shape.
    correlation
        ρ between -1 and 1, a number or of the same shape; 1 is a constant input.

    Returns
    -------
    Array
        The second moment; NaN for |λ| ≥ 1.

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064), section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.ar1_state_moment(0.9, 0.9)), 10)
    50.1385041551
    """
    return _from_ar1(eigenvalue, correlation)[0]


def ar1_sensitivity_moment(eigenvalue: Any, correlation: Any) -> Float[Array, "..."]:
    """Give E|dh/dλ|² for an input with R_d = ρ^|d|.

    For real λ: ((1 + λ²)(1 - λ²ρ²) + 2 (1 - λ²) λρ)/((1 - λ²)³ (1 - λρ)²). As λ → 1 with ρ < 1 it
    is (1 + ρ)/(4 (1 - ρ)) (1 - λ)⁻³: the curse of memory.

    Parameters
    ----------
    eigenvalue
        λ, any shape.
    correlation
        ρ between -1 and 1, a number or of the same shape; 1 is a constant input.

    Returns
    -------
    Array
        The second moment; NaN for |λ| ≥ 1.

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064), section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.ar1_sensitivity_moment(0.9, 0.9)), 8)
    3756.95398286
    """
    return _from_ar1(eigenvalue, correlation)[1]


def teacher_loss(eigenvalue: Any, teacher: Any) -> Float[Array, "..."]:
    """Give ½ E (h - h*)² of two units with real λ and λ* that read the same white input.

    ½ (1/(1 - λ²) + 1/(1 - λ*²) - 2/(1 - λλ*)), here in the form
    ½ (λ - λ*)² (1 + λλ*)/((1 - λ²)(1 - λ*²)(1 - λλ*)) that keeps its digits at λ = λ*.

    Parameters
    ----------
    eigenvalue, teacher
        λ and λ*, real, a number or one shape.

    Returns
    -------
    Array
        The loss; NaN where a modulus is 1 or more. Its curvature at λ* is
        (1 + λ*²)/(1 - λ*²)³ = E(dh/dλ)².

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064), section 3.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.teacher_loss(0.0, 0.5)), 12)  # ½ (1 + 4/3 - 2)
    0.166666666667
    """
    value, other = floats(eigenvalue, teacher)
    both = value * other
    losses = _loss(value) * _loss(other) * (1 - both)
    return (value - other) ** 2 * (1 + both) / (2 * losses)


def horizon(eigenvalue: Any) -> Float[Array, "..."]:
    """Give 1/(-ln|λ|), the steps over which a linear unit forgets by a factor e.

    Parameters
    ----------
    eigenvalue
        λ, real or complex, any shape.

    Returns
    -------
    Array
        Steps; infinite at |λ| = 1, negative where the state grows.

    References
    ----------
    Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(gh.theory.linear_memory.horizon(v)), 2) for v in (0.9, 0.99, 0.999)]
    [9.49, 99.5, 999.5]
    """
    (value,) = _arguments(eigenvalue)
    log_modulus = jnp.log(jnp.abs(value))
    return jnp.where(log_modulus == 0, jnp.inf, -1 / jnp.where(log_modulus == 0, 1, log_modulus))


def s4d_horizon(step: Any, decay: Any = 0.5) -> Float[Array, "..."]:
    """Give 1/(Δ a), the horizon of exp(Δ(-a + iω)); 2/Δ for S4D-Lin.

    Parameters
    ----------
    step
        Δ, the step size of the discretization.
    decay
        a > 0, minus the real part of the continuous eigenvalue; 1/2 for S4D-Lin and S4D-Inv.

    Returns
    -------
    Array
        Steps.

    Raises
    ------
    ValueError
        If a number is not positive.

    References
    ----------
    Gu, Gupta, Goel & Ré, "On the parameterization and initialization of diagonal state space
    models", NeurIPS 2022.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.linear_memory.s4d_horizon(0.125))
    16.0
    """
    step, decay = floats(step, decay)
    for name, value in (("step", step), ("decay", decay)):
        if value.ndim == 0:
            require_positive(name, value)
    return 1 / (step * decay)


def lru_sensitivity_moment(nu: Any, correlation: Any = 0.0) -> Float[Array, "..."]:
    """Give E (γ dh/dν)² with λ = exp(-exp(ν)) and γ = √(1 - λ²), for AR(1) input.

    The chain rule's dλ/dν = λ ln λ and the normalization cancel the (1 - λ)⁻³: as λ → 1 it tends
    to ½ (1 + ρ)/(1 - ρ), instead of infinity.

    Parameters
    ----------
    nu
        ν, any shape; θ = -∞, that is λ real.
    correlation
        ρ between -1 and 1, a number or of the same shape.

    Returns
    -------
    Array
        The second moment of the gradient's factor, at fixed γ.

    References
    ----------
    Zucchet & Orvieto, NeurIPS 2024 (arXiv:2405.21064), section 4.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.lru_sensitivity_moment(jnp.log(1e-6))), 6)
    0.5
    """
    nu, rho = floats(nu, correlation)
    rate = jnp.exp(nu)
    value, loss = jnp.exp(-rate), -jnp.expm1(-2 * rate)
    rest = 1 - rho * value
    _, moment = _moments(loss, (2 - rest) / rest, (1 - rest) / rest**2)
    return loss * (value * rate) ** 2 * moment
