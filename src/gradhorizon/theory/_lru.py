"""The parametrization of the LRU: stable eigenvalues, uniform on a ring, with unit state."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from gradhorizon.theory._dtype import floats


def lru_eigenvalue(nu: Any, theta: Any) -> Complex[Array, "..."]:
    """Give λ = exp(-exp(ν) + i exp(θ)), the eigenvalue of the LRU: stable for every ν.

    Parameters
    ----------
    nu, theta
        ν and θ, one shape.

    Returns
    -------
    Array
        λ, complex.

    References
    ----------
    Orvieto et al., ICML 2023, section 3.3.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> value = gh.theory.linear_memory.lru_eigenvalue(jnp.log(jnp.log(2.0)), -jnp.inf)
    >>> round(float(value.real), 12)
    0.5
    """
    nu, theta = floats(nu, theta)
    modulus, angle = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
    return lax.complex(modulus * jnp.cos(angle), modulus * jnp.sin(angle))


def lru_nu(uniform: Any, r_min: Any, r_max: Any) -> Float[Array, "..."]:
    """Give ν that turns u uniform in (0, 1) into |λ|² uniform in (r_min², r_max²).

    ln(-½ ln(u (r_max² - r_min²) + r_min²)): eigenvalues uniform on a ring.

    Parameters
    ----------
    uniform
        u, any shape.
    r_min, r_max
        Radii of the ring, 0 ≤ r_min < r_max ≤ 1.

    Returns
    -------
    Array
        ν in the shape of u.

    References
    ----------
    Orvieto et al., ICML 2023, lemma 3.2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> nu = gh.theory.linear_memory.lru_nu(0.5, 0.0, 1.0)
    >>> round(float(jnp.exp(-jnp.exp(nu)) ** 2), 12)
    0.5
    """
    uniform, r_min, r_max = floats(uniform, r_min, r_max)
    return jnp.log(-0.5 * jnp.log(uniform * (r_max**2 - r_min**2) + r_min**2))


def lru_normalization(nu: Any) -> Float[Array, "..."]:
    """Give γ = √(1 - |λ|²), which makes E|γh|² = 1 for white input.

    Parameters
    ----------
    nu
        ν, any shape; |λ| = exp(-exp(ν)).

    Returns
    -------
    Array
        γ, with all its digits for |λ| near 1.

    References
    ----------
    Orvieto et al., ICML 2023, section 3.4.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.linear_memory.lru_normalization(jnp.log(1e-8))) ** 2 / 2e-8, 7)
    1.0
    """
    (nu,) = floats(nu)
    return jnp.sqrt(-jnp.expm1(-2 * jnp.exp(nu)))
