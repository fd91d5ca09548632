"""Departure from normality: how far norms, eigenvalues and the numerical range disagree."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._eigenvalues import eigenvalues
from gradhorizon.theory._square import square

_ANGLES, _POLISHES = 16, 8


def henrici_departure(A: Any) -> Float[Array, ""]:
    """Give √(‖A‖_F² - Σ|λ_i|²), the departure from normality.

    Parameters
    ----------
    A
        A square matrix.

    Returns
    -------
    Array
        0 for a normal matrix.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    A difference of nearly equal numbers for nearly normal matrices: absolute error about
    √(n eps) ‖A‖_F there.

    References
    ----------
    Henrici, Numer. Math. 4 (1962) 24.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.bounds.henrici_departure(jnp.array([[0.9, 5.0], [0.0, 0.9]])))
    5.0
    """
    matrix = square(A)
    moduli = jnp.abs(eigenvalues(matrix))
    return jnp.sqrt(jnp.maximum(jnp.sum(matrix**2) - jnp.sum(moduli**2), 0))


def numerical_radius(A: Any) -> Float[Array, ""]:
    """Give w(A) = max over unit vectors of |v* A v|.

    It lies between the spectral radius and the largest singular value, is at least half of the
    latter, and w(A^t) ≤ w(A)^t. Hence ‖A^t‖₂ ≤ 2 w(A)^t: a bound of all powers that is better
    than σ_1^t from some t on wherever w < σ_1.

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Array
        w(A); the spectral radius of a normal matrix, cos(π/(n + 1)) of the nilpotent shift.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    w is the maximum over θ of h(θ), the largest eigenvalue of the Hermitian part of e^{iθ} A.
    h is taken at 16 angles in (0, π) (the numerical range of a real matrix is symmetric) and the
    best is polished by eight steps of a safeguarded secant, which reach rounding unless a second
    maximum is equally high to half a percent. The result is the modulus of a point of the
    numerical range, so it never exceeds w by more than rounding, n eps ‖A‖; and because h(θ) ≥
    w cos(θ - θ*), it is never below w cos(π/32), one part in 207, whatever A is.

    The power inequality speaks of powers of one matrix. It does not carry over to products of
    D_t W with changing slopes D_t: there only norms are certificates. Cost: 16 Hermitian
    eigenvalue problems of n × n and nine with vectors.

    References
    ----------
    Horn & Johnson, *Topics in Matrix Analysis* (1991), chapter 1, which gives the power
    inequality (Berger 1965); Watson 1996 for touching points as an ascent.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.bounds.numerical_radius(jnp.array([[0.9, 5.0], [0.0, 0.9]]))), 12)
    3.4
    """
    return _numerical_radius(square(A))


@jax.jit
def _numerical_radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    scale = jnp.max(jnp.abs(matrix))
    scale = jnp.where(scale > 0, scale, 1)
    scaled = matrix / scale
    spacing = math.pi / _ANGLES
    # midpoints: at 0 and π every real matrix has a critical point, which may be a minimum
    angles = jnp.asarray((np.arange(_ANGLES) + 0.5) * spacing, matrix.dtype)
    heights = lax.map(lambda t: jnp.linalg.eigvalsh(_hermitian_part(scaled, t))[-1], angles)
    best = angles[jnp.argmax(heights)]
    shift, size = _touch(scaled, best)
    low = jnp.where(shift > 0, best, best - spacing)

    def polish(_: Any, state: Any) -> Any:
        """Step to the zero of the shift: by the secant, or by halving where that leaves."""
        low, high, (before, shift_before), (angle, shift), largest = state
        low, high = jnp.where(shift > 0, angle, low), jnp.where(shift > 0, high, angle)
        change = shift - shift_before
        flat = change == 0
        secant = angle - shift * (angle - before) / jnp.where(flat, 1, change)
        secant = jnp.where(flat, angle + shift, secant)
        inside = (secant >= low) & (secant <= high)
        proposed = jnp.where(inside, secant, 0.5 * (low + high))
        proposed_shift, size = _touch(scaled, proposed)
        return low, high, (angle, shift), (proposed, proposed_shift), jnp.maximum(largest, size)

    state = (low, low + spacing, (best, shift), (best, shift), size)
    return scale * lax.fori_loop(0, _POLISHES, polish, state)[-1]


def _touch(matrix: Float[Array, "n n"], angle: Float[Array, ""]) -> tuple[Array, Array]:
    """Touch the numerical range with the line at angle θ.

    The touching point p = v* A v is farthest from 0 where e^{iθ} p is real. Returned are the
    change of θ that would make it real, of the sign of h'(θ), and |p|.
    """
    _, vectors = jnp.linalg.eigh(_hermitian_part(matrix, angle))
    top = vectors[:, -1]
    image = jnp.matmul(matrix.astype(top.dtype), top, precision="highest")
    point = jnp.vdot(top, image, precision="highest")
    return -jnp.angle(point * lax.complex(jnp.cos(angle), jnp.sin(angle))), jnp.abs(point)


def _hermitian_part(matrix: Float[Array, "n n"], angle: Float[Array, ""]) -> Array:
    """Give (e^{iθ} A + e^{-iθ} Aᵀ)/2 for a real A."""
    symmetric, skew = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    return lax.complex(jnp.cos(angle) * symmetric, jnp.sin(angle) * skew)
