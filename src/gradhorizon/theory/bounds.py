"""Certificates and transients: what norms and resolvents say about powers of a matrix."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._checks import describe, require_positive, worded
from gradhorizon._scaled import log_scaled, normalize

SLOPE_BOUNDS = {
    "tanh": 1.0,
    "relu": 1.0,
    "identity": 1.0,
    "hard_tanh": 1.0,
    "sigmoid": 0.25,
    "erf": 2 / math.sqrt(math.pi),
}
"""sup |φ'| of common activations."""

_POWERS = 512
_RADII, _ANGLES, _REFINEMENTS = 24, 24, 12


def _square(A: Any) -> Array:
    """Give a square real matrix of at least float32."""
    matrix = jnp.asarray(A)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(worded("A", "be a square matrix", describe(matrix)))
    return matrix if jnp.issubdtype(matrix.dtype, jnp.floating) else matrix.astype(float)


def vanishing_certificate(W: Any, slope_bound: Any = 1.0) -> Float[Array, ""]:
    """Give ln(γ σ_1(W)): no step of h' = φ(W h + …) grows a gradient faster.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ = sup |φ'|; see `SLOPE_BOUNDS`.

    Returns
    -------
    Array
        Nats per step. If negative, vanishing is certain for every input; if positive, nothing
        follows.

    Raises
    ------
    ValueError
        If `W` is not square or `slope_bound` not positive.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 2.1, eqs. 5-7.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> rate = gh.theory.bounds.vanishing_certificate(2.0 * jnp.eye(3), slope_bound=0.25)
    >>> round(float(jnp.exp(rate)), 12)
    0.5
    """
    require_positive("slope_bound", slope_bound)
    matrix = _square(W)
    return jnp.log(jnp.linalg.norm(matrix, ord=2) * slope_bound)


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

    References
    ----------
    Henrici, Numer. Math. 4 (1962) 24.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.bounds.henrici_departure(jnp.array([[0.9, 5.0], [0.0, 0.9]])))
    5.0
    """
    matrix = _square(A)
    moduli = jnp.abs(jnp.linalg.eigvals(matrix))
    return jnp.sqrt(jnp.maximum(jnp.sum(matrix**2) - jnp.sum(moduli**2), 0))


def kreiss(A: Any) -> Float[Array, ""]:
    """Give a lower bound of the Kreiss constant sup_{|z|>1} (|z| - 1) ‖(zI - A)⁻¹‖.

    Some power of A is at least this large (Kreiss matrix theorem: K ≤ sup_t ‖A^t‖ ≤ e n K).

    Parameters
    ----------
    A
        A square real matrix with spectral radius at most 1.

    Returns
    -------
    Array
        The largest value found; infinite if the spectral radius exceeds 1.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    A scan of 24 radii by 24 angles in the upper half plane (the spectrum of a real matrix is
    symmetric), refined twelve times around the best point. Every value is a true lower bound.
    Cost: some 1000 singular value computations of n × n.

    References
    ----------
    Trefethen & Embree, *Spectra and Pseudospectra* (2005), chapter 18.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> bound = float(gh.theory.bounds.kreiss(jnp.array([[0.9, 5.0], [0.0, 0.9]])))
    >>> round(bound, 4)  # below the largest power, 19.3788
    12.52
    """
    matrix = _square(A)
    complex_type = jnp.complex64 if matrix.dtype == jnp.float32 else jnp.complex128
    n, square = matrix.shape[0], matrix.astype(complex_type)
    eye = jnp.eye(n, dtype=complex_type)

    def value(point: Array) -> Array:
        excess, angle = jnp.exp(point[0]), point[1]
        z = lax.complex((1 + excess) * jnp.cos(angle), (1 + excess) * jnp.sin(angle))
        return excess / jnp.linalg.svd(z * eye - square, compute_uv=False)[-1]

    def best(points: Array) -> tuple[Array, Array]:
        values = lax.map(value, points)
        index = jnp.argmax(values)
        return points[index], values[index]

    logs, angles = np.linspace(-8, 2, _RADII), np.linspace(0, math.pi, _ANGLES)
    mesh = np.stack(np.meshgrid(logs, angles, indexing="ij"), axis=-1).reshape(-1, 2)
    found = best(jnp.asarray(mesh, matrix.dtype))
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    spacing = np.array([10 / (_RADII - 1), math.pi / (_ANGLES - 1)])

    def refine(i: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        size = jnp.asarray(0.5, matrix.dtype) ** (i + 1)
        shifts = jnp.asarray(offsets * spacing, matrix.dtype) * size
        return best(found[0][None] + shifts)

    _, largest = lax.fori_loop(0, _REFINEMENTS, refine, found)
    radius = jnp.max(jnp.abs(jnp.linalg.eigvals(matrix)))
    least = jnp.maximum(largest, 1)  # the limit |z| → ∞
    return jnp.where(radius > 1, jnp.inf, least).astype(matrix.dtype)


class Transient(NamedTuple):
    """The largest power of a matrix.

    Attributes
    ----------
    log_peak
        ln max_t ‖A^t‖₂ over t = 0 … 512, nats; at least 0, the value at t = 0.
    time
        The first t at which it is reached.
    """

    log_peak: Float[Array, ""]
    time: Int[Array, ""]


def transient_growth(A: Any) -> Transient:
    """Follow ‖A^t‖₂ over t = 0 … 512 and give its peak.

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Transient
        Peak and time; a spectral radius above 1 puts the peak at the end, t = 512.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    Powers carry their scale as an exponent, so none over- or underflows. Their norms are found
    by power iteration started from the previous power's singular vector; the peak itself is
    recomputed exactly.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> peak = gh.theory.bounds.transient_growth(jnp.array([[0.9, 5.0], [0.0, 0.9]]))
    >>> round(float(jnp.exp(peak.log_peak)), 6), int(peak.time)
    (19.37877, 9)
    """
    matrix = _square(A)
    n, dtype = matrix.shape[0], matrix.dtype
    start = normalize(jnp.eye(n, dtype=dtype))
    vectors = jax.random.orthogonal(jax.random.key(0), n, dtype=dtype)[:, : min(n, 2)]

    def advance(carry: Any, _: None) -> Any:
        (power, exponent), block = carry
        power, extra = normalize(matrix @ power)
        exponent = exponent + extra
        for _repeat in range(3):
            block = jnp.linalg.qr(power.T @ (power @ block))[0]
        size = jnp.linalg.norm(power @ block, ord=2)
        return ((power, exponent), block), log_scaled(size, exponent)

    _, logs = lax.scan(advance, (start, vectors), None, length=_POWERS)
    logs = jnp.concatenate([jnp.zeros(1, dtype), logs])
    rounding = 64 * float(jnp.finfo(dtype).eps)
    time = jnp.argmax(logs >= jnp.max(logs) - rounding).astype(jnp.int32)

    def multiply(_: Any, scaled: Any) -> Any:
        power, extra = normalize(matrix @ scaled[0])
        return power, scaled[1] + extra

    power, exponent = lax.fori_loop(0, time, multiply, start)
    peak = log_scaled(jnp.linalg.norm(power, ord=2), exponent)
    return Transient(jnp.maximum(peak, 0).astype(dtype), time)
