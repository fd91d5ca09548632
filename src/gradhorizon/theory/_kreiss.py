"""What the resolvent (zI - A)⁻¹ says: how much powers must grow, how far instability is.

Both are extremes of one function, the smallest singular value of zI - A. It is needed at some
800 points, so it is found there by inverse iteration on an LU factorization, at a small part of
the cost of a singular value decomposition; only the two final points get one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._eigenvalues import eigenvalues
from gradhorizon.theory._square import square

_RADII, _ANGLES, _EIGENVALUES = 16, 16, 16
_STARTS, _REFINEMENTS, _ITERATIONS = 2, 9, 3


class Resolvent(NamedTuple):
    """Extremes of the resolvent outside and on the unit circle.

    Attributes
    ----------
    kreiss
        A lower bound of the Kreiss constant; infinite if an eigenvalue certainly lies outside
        the unit circle.
    stability_radius
        An upper bound of the smallest ‖E‖₂ (E complex) for which A + E has an eigenvalue on the
        unit circle.
    """

    kreiss: Float[Array, ""]
    stability_radius: Float[Array, ""]


def resolvent(A: Any) -> Resolvent:
    """Bound the Kreiss constant from below and the distance to the unit circle from above.

    K = sup_{|z|>1} (|z| - 1) ‖(zI - A)⁻¹‖₂ and r = min_{|z|=1} σ_min(zI - A).

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Resolvent
        Both bounds.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    A scan of 16 radii (and the unit circle) by 32 angles in the upper half plane (the spectrum
    of a real matrix is symmetric): half of the angles even, half those of the largest
    eigenvalues, near which the resolvent peaks. The best two angles are then refined down to
    1/500 of the grid's spacing, and the last values come from singular value decompositions.

    Every value is a true bound: a computed smallest singular value is raised by its own rounding
    error, n eps (|z| + ‖A‖₂). K therefore saturates near 1/(n eps); and an eigenvalue counts as
    outside only if no perturbation of that size can have moved it across one of the circles
    scanned. Cost: some 800 complex LU factorizations, less than two seconds of one core at
    n = 256.

    References
    ----------
    Trefethen & Embree, *Spectra and Pseudospectra* (2005), chapters 14 and 18; Van Loan,
    Contemp. Math. 47 (1985) 465 for the distance to instability.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> found = gh.theory.bounds.resolvent(jnp.array([[0.9, 5.0], [0.0, 0.9]]))
    >>> round(float(found.kreiss), 4)  # below the largest power, 19.3788
    12.52
    >>> round(float(found.stability_radius), 6)  # √(6.25 + .01) - 2.5, for 1 - 0.9 = 0.1
    0.001999
    """
    return _resolvent(square(A))


def kreiss(A: Any) -> Float[Array, ""]:
    """Give a lower bound of the Kreiss constant sup_{|z|>1} (|z| - 1) ‖(zI - A)⁻¹‖₂.

    Some power of A is at least this large (Kreiss matrix theorem: K ≤ sup_t ‖A^t‖ ≤ e n K).

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Array
        The largest value found, at least 1; infinite if an eigenvalue certainly lies outside the
        unit circle.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    See `resolvent` for the search, its cost, and how it stays a lower bound under rounding.

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
    return _resolvent(square(A)).kreiss


def stability_radius(A: Any) -> Float[Array, ""]:
    """Give the size of the smallest perturbation that puts an eigenvalue on the unit circle.

    min_{|z|=1} σ_min(zI - A), the 2-norm of a complex perturbation.

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Array
        |1 - |λ|| of the eigenvalue nearest to the circle if A is normal, and at most that
        otherwise: often by orders of magnitude, which is how the spectral radius misleads.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    The smallest value found, hence an upper bound; see `resolvent`.

    References
    ----------
    Van Loan, Contemp. Math. 47 (1985) 465.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.bounds.stability_radius(jnp.diag(jnp.array([0.75, 0.5])))), 12)
    0.25
    """
    return _resolvent(square(A)).stability_radius


@jax.jit
def _resolvent(matrix: Float[Array, "n n"]) -> Resolvent:
    with jax.default_matmul_precision("highest"):
        return _search(matrix)


def _search(matrix: Float[Array, "n n"]) -> Resolvent:
    """Scan the plane, climb from the best angles, and decide with exact singular values."""
    dtype, n = matrix.dtype, matrix.shape[0]
    rounding = float(jnp.finfo(dtype).eps)
    spectrum = eigenvalues(matrix)
    noise = n * rounding * jnp.linalg.norm(matrix, ord=2)

    def height(log_excess: Array, smallest: Array) -> Array:
        """Give what is to be maximal: the Kreiss quotient outside, -σ_min on the circle."""
        excess = jnp.exp(log_excess)
        quotient = (excess - 4 * rounding) / (smallest + noise + n * rounding * (1 + excess))
        return jnp.where(excess == 0, -smallest, quotient)

    angles, logs = _angles(spectrum), _log_excesses(spectrum)
    smallest, vectors = lax.map(lambda angle: _ray(matrix, logs, angle), angles)
    heights = jax.vmap(jax.vmap(height), in_axes=(None, 0))(logs, smallest)
    outside = heights[:, :-1]
    rows = jnp.argsort(-jnp.max(outside, axis=1))[:_STARTS]
    columns = jnp.argmax(outside, axis=1)[rows]
    rows = jnp.append(rows, jnp.argmax(heights[:, -1]))  # the last start is on the circle
    columns = jnp.append(columns, logs.size - 1)
    starts = jnp.stack([logs[columns], angles[rows]], axis=1)
    steps = jnp.stack([logs[0] - logs[1], jnp.asarray(math.pi / (_ANGLES - 1), dtype)])
    points, found = lax.map(
        lambda start: _climb(matrix, height, start[0], start[1], steps),
        (starts, vectors[rows, columns]),
    )
    ends = jnp.stack([points[jnp.argmax(found[:-1])], points[-1]])
    sizes = lax.map(lambda end: jnp.linalg.svd(_shifted(matrix, end), compute_uv=False)[-1], ends)
    largest, distance = height(ends[0, 0], sizes[0]), sizes[1]
    # a circle that no perturbation of the size of rounding can cross, with eigenvalues outside
    radii = 1 + jnp.exp(logs)
    clear = jnp.min(smallest, axis=0) > noise + n * rounding * radii
    unstable = jnp.any(clear & (radii < jnp.max(jnp.abs(spectrum))))
    value = jnp.where(unstable, jnp.inf, jnp.maximum(largest, 1))  # 1 is the limit |z| → ∞
    return Resolvent(value.astype(dtype), distance.astype(dtype))


def _angles(spectrum: Array) -> Float[Array, " angles"]:
    """Give even angles in [0, π] and those of the largest eigenvalues."""
    moduli, arguments = jnp.abs(spectrum), jnp.abs(jnp.angle(spectrum))
    even = jnp.asarray(np.linspace(0, math.pi, _ANGLES), moduli.dtype)
    return jnp.concatenate([even, arguments[jnp.argsort(-moduli)[:_EIGENVALUES]]])


def _log_excesses(spectrum: Array) -> Float[Array, " radii"]:
    """Give ln(|z| - 1) from far outside to the unit circle, where it is -∞.

    A defective eigenvalue of multiplicity k at distance d makes the peak at |z| - 1 = d/(k - 1);
    the grid reaches a third of that for k = n.
    """
    moduli = jnp.abs(spectrum)
    floor = 64 * float(jnp.finfo(moduli.dtype).eps)
    low = jnp.log(jnp.maximum(1 - jnp.max(moduli), floor) / (3 * moduli.size))
    share = jnp.asarray(np.linspace(0, 1, _RADII), moduli.dtype)
    return jnp.append(2 + (low - 2) * share, -jnp.inf)


def _shifted(matrix: Float[Array, "n n"], point: Float[Array, "2"]) -> Array:
    """Give zI - A at z = (1 + e^s) e^{iθ} for a point (s, θ)."""
    modulus = 1 + jnp.exp(point[0])
    z = lax.complex(modulus * jnp.cos(point[1]), modulus * jnp.sin(point[1]))
    return z * jnp.eye(matrix.shape[0], dtype=z.dtype) - matrix.astype(z.dtype)


def _smallest(
    matrix: Float[Array, "n n"], point: Float[Array, "2"], start: Array
) -> tuple[Array, Array]:
    """Estimate σ_min(zI - A) from above by inverse iteration, with its left singular vector."""
    factors = jax.scipy.linalg.lu_factor(_shifted(matrix, point))
    vector, size = start, jnp.ones((), matrix.dtype)
    for _ in range(_ITERATIONS):
        right = jax.scipy.linalg.lu_solve(factors, vector)
        right = right / jnp.linalg.norm(right).astype(right.dtype)
        vector = jax.scipy.linalg.lu_solve(factors, right, trans=2)
        size = jnp.linalg.norm(vector)
        vector = vector / size.astype(vector.dtype)
    singular = ~jnp.isfinite(size)  # a pivot is 0, or as good as 0
    return jnp.where(singular, 0, 1 / size), jnp.where(singular, start, vector)


def _ray(
    matrix: Float[Array, "n n"], logs: Float[Array, " radii"], angle: Float[Array, ""]
) -> tuple[Array, Array]:
    """Follow the smallest singular value along a ray inward, each start from the last vector."""
    n, dtype = matrix.shape[0], matrix.dtype
    draws = jax.random.normal(jax.random.key(0), (n,), dtype)
    fresh = lax.complex(draws / jnp.linalg.norm(draws), jnp.zeros_like(draws))

    def step(vector: Array, log_excess: Array) -> Any:
        # a fresh part, lest the direction that takes over further in stays unseen
        point = jnp.stack([log_excess, angle])
        smallest, vector = _smallest(matrix, point, vector + 0.5 * fresh)
        return vector, (smallest, vector)

    return lax.scan(step, fresh, logs)[1]


def _climb(
    matrix: Float[Array, "n n"],
    height: Callable[[Array, Array], Array],
    start: Float[Array, "2"],
    vector: Array,
    steps: Float[Array, "2"],
) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Move to the best of nine points around the present one, with steps halved every time."""
    offsets = np.stack(np.meshgrid([0, -1, 1], [0, -1, 1], indexing="ij"), axis=-1).reshape(-1, 2)

    def round_(i: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        point, _, vector = state
        size = steps * jnp.asarray(0.5, steps.dtype) ** (i + 1)
        around = point[None] + jnp.asarray(offsets, steps.dtype) * size[None]
        smallest, vectors = lax.map(lambda p: _smallest(matrix, p, vector), around)
        heights = jax.vmap(height)(around[:, 0], smallest)
        best = jnp.argmax(heights)
        return around[best], heights[best], vectors[best]

    initial = (start, jnp.full((), -jnp.inf, matrix.dtype), vector)
    return lax.fori_loop(0, _REFINEMENTS, round_, initial)[:2]
