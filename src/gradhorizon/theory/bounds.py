"""Certificates and transients: what norms and resolvents say about powers of a matrix."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._checks import describe, require_integer, require_positive, worded
from gradhorizon.theory._dtype import floats

SLOPE_BOUNDS = {
    "tanh": 1.0,
    "relu": 1.0,
    "identity": 1.0,
    "hard_tanh": 1.0,
    "sigmoid": 0.25,
    "erf": 2 / math.sqrt(math.pi),
}
"""sup |φ'| of common activations."""

_RADII, _ANGLES, _EIGENVALUES, _REFINEMENTS = 24, 12, 12, 12


def _square(A: Any) -> Array:
    """Give a square real matrix in a floating dtype."""
    matrix = jnp.asarray(A)
    if jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        raise TypeError(worded("A", "be real", describe(matrix)))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(worded("A", "be a square matrix", describe(matrix)))
    return floats(matrix)[0]


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
    return jnp.log(jnp.linalg.norm(matrix, ord=2) * jnp.asarray(slope_bound, matrix.dtype))


def certified_horizon(W: Any, slope_bound: Any = 1.0, *, threshold: Any = 1e-3) -> Float[Array, ""]:
    """Give the lag beyond which the gradient is certainly below `threshold`.

    ln(1/ε)/ln(1/(γ σ_1)) where γ σ_1 < 1, else infinity: the certificate then says nothing.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ = sup |φ'|; see `SLOPE_BOUNDS`.
    threshold
        ε, inside (0, 1).

    Returns
    -------
    Array
        Steps, not rounded; an upper bound of the true horizon.

    Raises
    ------
    ValueError
        If `W` is not square or another argument outside its range.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 2.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> horizon = gh.theory.bounds.certified_horizon(0.1 * jnp.eye(2), threshold=1e-3)
    >>> round(float(horizon), 12)
    3.0
    """
    require_positive("threshold", threshold, below=1.0)
    rate = vanishing_certificate(W, slope_bound)
    width = -jnp.log(jnp.asarray(threshold, rate.dtype))
    return jnp.where(rate < 0, width / jnp.abs(rate), jnp.inf).astype(rate.dtype)


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
    symmetric), half of the angles even and half those of the largest eigenvalues, near which the
    resolvent peaks; then twelve refinements around the best point. Every value is a true lower
    bound: the smallest singular value is raised by its own rounding error, n eps ‖zI - A‖.
    Cost: some 700 singular value decompositions of n × n.

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
    return _kreiss(_square(A))


@jax.jit
def _kreiss(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    complex_type = jnp.complex64 if matrix.dtype == jnp.float32 else jnp.complex128
    n, square = matrix.shape[0], matrix.astype(complex_type)
    eye = jnp.eye(n, dtype=complex_type)

    rounding = float(jnp.finfo(matrix.dtype).eps)

    def value(point: Array) -> Array:
        excess, angle = jnp.exp(point[0]), point[1]
        z = lax.complex((1 + excess) * jnp.cos(angle), (1 + excess) * jnp.sin(angle))
        sizes = jnp.linalg.svd(z * eye - square, compute_uv=False)
        return (excess - 4 * rounding) / (sizes[-1] + n * rounding * sizes[0])

    def best(points: Array) -> tuple[Array, Array]:
        values = lax.map(value, points)
        index = jnp.argmax(values)
        return points[index], values[index]

    eigenvalues = jnp.linalg.eigvals(matrix)
    found = best(_scan(eigenvalues))
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    spacing = np.array([14 / (_RADII - 1), math.pi / (_ANGLES - 1)])

    def refine(i: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        size = jnp.asarray(0.5, matrix.dtype) ** (i + 1)
        shifts = jnp.asarray(offsets * spacing, matrix.dtype) * size
        return best(found[0][None] + shifts)

    _, largest = lax.fori_loop(0, _REFINEMENTS, refine, found)
    unstable = jnp.max(jnp.abs(eigenvalues)) > 1 + 10 * n * rounding
    least = jnp.maximum(largest, 1)  # the limit |z| → ∞
    return jnp.where(unstable, jnp.inf, least).astype(matrix.dtype)


def _scan(eigenvalues: Array) -> Float[Array, "points 2"]:
    """Give the points (ln(|z| - 1), arg z) at which the resolvent is looked at first."""
    moduli, arguments = jnp.abs(eigenvalues), jnp.abs(jnp.angle(eigenvalues))
    largest = jnp.argsort(-moduli)[:_EIGENVALUES]
    even = jnp.asarray(np.linspace(0, math.pi, _ANGLES), moduli.dtype)
    angles = jnp.concatenate([even, arguments[largest]])
    logs = jnp.asarray(np.linspace(-12, 2, _RADII), moduli.dtype)
    mesh = jnp.meshgrid(logs, angles, indexing="ij")
    return jnp.stack([m.ravel() for m in mesh], axis=1)


class Transient(NamedTuple):
    """The largest power of a matrix.

    Attributes
    ----------
    log_peak
        ln max_t ‖A^t‖₂ over t = 0 … horizon, nats; at least 0, the value at t = 0.
    time
        The first t at which it is reached.
    """

    log_peak: Float[Array, ""]
    time: Int[Array, ""]


def transient_growth(A: Any, horizon: int = 512) -> Transient:
    """Follow ‖A^t‖₂ over t = 0 … horizon and give its peak.

    Parameters
    ----------
    A
        A square real matrix.
    horizon
        The largest power looked at.

    Returns
    -------
    Transient
        Peak and time; a spectral radius above 1 puts the peak at the end.

    Raises
    ------
    TypeError
        If `A` is complex or `horizon` not an integer.
    ValueError
        If `A` is not square or `horizon` not positive.

    Notes
    -----
    Powers are carried with the logarithm of their size apart, so none over- or underflows. The
    time is found by power iteration started from the previous power's singular vectors and from
    a fixed random one, which notices directions that take over later; the peak itself is
    recomputed by a singular value decomposition. Cost: about 2 horizon products of n × n.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> peak = gh.theory.bounds.transient_growth(jnp.array([[0.9, 5.0], [0.0, 0.9]]))
    >>> round(float(jnp.exp(peak.log_peak)), 6), int(peak.time)
    (19.37877, 9)
    """
    return _transient_growth(_square(A), require_integer("horizon", horizon, 1))


@functools.partial(jax.jit, static_argnames="horizon")
def _transient_growth(matrix: Float[Array, "n n"], horizon: int) -> Transient:
    n, dtype = matrix.shape[0], matrix.dtype
    start = (jnp.eye(n, dtype=dtype), jnp.zeros((), dtype))
    vectors = jax.random.orthogonal(jax.random.key(0), n, dtype=dtype)[:, : min(n, 3)]

    def multiply(scaled: tuple[Array, Array]) -> tuple[Array, Array]:
        power = jnp.matmul(matrix, scaled[0], precision="highest")
        size = jnp.max(jnp.abs(power))
        return power / jnp.where(size > 0, size, 1), scaled[1] + jnp.log(size)

    def advance(carry: Any, _: None) -> Any:
        scaled, followed = carry
        scaled = multiply(scaled)
        block = jnp.concatenate([followed[:, :-1], vectors[:, -1:]], axis=1)
        for _repeat in range(3):
            image = jnp.matmul(scaled[0], block, precision="highest")
            block = jnp.linalg.qr(jnp.matmul(scaled[0].T, image, precision="highest"))[0]
        image = jnp.matmul(scaled[0], block, precision="highest")
        log_norm = jnp.log(jnp.linalg.norm(image, ord=2)) + scaled[1]
        return (scaled, block), log_norm

    _, logs = lax.scan(advance, (start, vectors), None, length=horizon)
    logs = jnp.concatenate([jnp.zeros(1, dtype), logs])
    rounding = 64 * float(jnp.finfo(dtype).eps)
    time = jnp.argmax(logs >= jnp.max(logs) - rounding).astype(jnp.int32)
    power, log_size = lax.fori_loop(0, time, lambda _, scaled: multiply(scaled), start)
    peak = jnp.log(jnp.linalg.norm(power, ord=2)) + log_size
    return Transient(jnp.maximum(peak, 0).astype(dtype), time)
