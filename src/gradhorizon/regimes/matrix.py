"""What the repeated term alone says: spectral radius, singular values, transient growth.

For a tied linear network Φ(T, 0) = W^T. The spectral radius decides its limit, the largest
singular value bounds every single step, and between the two lies what non-normal matrices do:
grow first, then decay. With an activation the factors are D_t W, and of these three only the
singular value still proves anything.
"""

import math
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from gradhorizon._checks import (
    as_real,
    describe,
    is_half,
    require_finite,
    require_positive,
    wide_enough,
    worded,
)
from gradhorizon._compiled import compiled
from gradhorizon._eigenvalues import spectral_radius
from gradhorizon._record import jsonable, record
from gradhorizon.chain._given import PrecisionWarning
from gradhorizon.theory import bounds


@record
class MatrixCriteria:
    """What a repeated matrix W says about the long product of D_t W, ‖D_t‖ ≤ slope_bound.

    Attributes
    ----------
    spectral_radius
        max |eigenvalue|; < 1 means W^t → 0 in the end.
    singular_values
        Of W, descending, shape (n,).
    henrici_departure
        √(‖W‖_F² - Σ|eigenvalue|²): 0 for a normal matrix.
    numerical_radius
        max |v* W v| over unit vectors; ‖W^t‖₂ ≤ 2 · numerical_radius^t. Of powers of W only.
    kreiss_lower_bound
        The largest (|z| - 1) ‖(zI - W)⁻¹‖ found with |z| > 1; some power of W is at least this
        large. Infinite if the spectral radius certainly exceeds 1.
    stability_radius
        Size of a perturbation of W (an upper bound of the smallest) that puts an eigenvalue on
        the unit circle. Where it is of the size of rounding, n eps σ_1, the spectral radius does
        not say on which side of 1 it is.
    nilpotency_index
        The first t with W^t = 0 whatever the non-zero entries of W are; 0 if there is none.
    transient_peak
        max_t ‖W^t‖₂ over t = 0 … 512; at least 1 because t = 0 counts, infinite beyond the
        range of the dtype.
    log_transient_peak
        Its logarithm, which has no such limit.
    transient_time
        The t of that peak.
    log_last_power
        ln ‖W^512‖₂; if not positive, the peak is the largest of all powers.
    certified_rate
        ln(slope_bound · σ_1): no step grows faster. If negative, vanishing is certain.
    slope_bound
        sup |φ'| that the certificate was computed with.
    """

    spectral_radius: Float[Array, "*batch"]
    singular_values: Float[Array, "*batch n"]
    henrici_departure: Float[Array, "*batch"]
    numerical_radius: Float[Array, "*batch"]
    kreiss_lower_bound: Float[Array, "*batch"]
    stability_radius: Float[Array, "*batch"]
    nilpotency_index: Int[Array, "*batch"]
    transient_peak: Float[Array, "*batch"]
    log_transient_peak: Float[Array, "*batch"]
    transient_time: Int[Array, "*batch"]
    log_last_power: Float[Array, "*batch"]
    certified_rate: Float[Array, "*batch"]
    slope_bound: Float[Array, "*batch"]

    @property
    def sentence(self) -> str:
        """What follows from the numbers for a single matrix, in one to three sentences.

        Powers of W are the gradient of the linear network; a statement about every gradient
        holds for all products of D_t W with diagonal ‖D_t‖ ≤ slope_bound.
        """
        step = float(self.slope_bound) * float(self.singular_values[0])
        index = int(self.nilpotency_index)
        if index:
            growth = f" The powers {self._growth}." if self._growth else ""
            return f"Every gradient is exactly 0 from step {index} on: W is nilpotent.{growth}"
        if step < 1 - self._rounding:
            steps = math.ceil(math.log(1e-3) / math.log(step))
            return (
                f"Vanishing is certain: every step multiplies the gradient by at most "
                f"{_up(step)}, whatever the input; after {steps} steps it is below 1e-3."
            )
        if step <= 1 + self._rounding:
            return f"Exploding is excluded: no step makes a gradient longer. {self._powers}"
        return self._powers

    @property
    def _rounding(self) -> float:
        """The relative rounding error of norms of W, generously: 10 n eps."""
        values = np.asarray(self.singular_values)
        return 10 * values.size * float(np.finfo(values.dtype).eps)

    @property
    def _powers(self) -> str:
        """What the powers of W do."""
        radius, sizes = float(self.spectral_radius), np.asarray(self.singular_values, dtype=float)
        if max(abs(sizes[0] - 1), abs(sizes[-1] - 1)) <= self._rounding:
            return "W is orthogonal: its powers keep every length."
        decided = float(self.stability_radius) > self._rounding * max(1.0, sizes[0])
        if not decided and np.isfinite(float(self.kreiss_lower_bound)):
            growth = f" They {self._growth}." if self._growth else ""
            return (
                f"Whether the powers vanish is not decided (spectral radius {radius:.4g}): a "
                f"change of W by its rounding error moves an eigenvalue to the unit circle.{growth}"
            )
        if radius < 1:
            growth = self._growth
            growth = f"but not every step shrinks: they {growth}" if growth else "and never grow"
            return (
                f"The powers vanish in the end (spectral radius {radius:.4g} < 1), {growth}."
                f"{self._bound}"
            )
        return (
            f"The powers do not vanish (spectral radius {radius:.4g}): in the end they grow at "
            f"{math.log(radius):.3g} nats per step. Slopes below 1 may still make the gradient "
            "vanish."
        )

    @property
    def _growth(self) -> str:
        """How far the powers grow before they decay, or nothing if σ_1 ≤ 1."""
        if float(self.singular_values[0]) <= 1 + self._rounding:
            return ""
        peak, time = float(self.transient_peak), int(self.transient_time)
        size = f"{peak:.4g}" if np.isfinite(peak) else f"e^{float(self.log_transient_peak):.4g}"
        last = "" if float(self.log_last_power) <= 0 else " (the largest of the first 512)"
        return f"first grow up to {size}-fold, at step {time}{last}"

    @property
    def _bound(self) -> str:
        """The bound of all powers by the numerical radius, where it is certainly below 1."""
        highest = float(self.numerical_radius) / math.cos(math.pi / 32)
        if highest >= min(1.0, float(self.singular_values[0])):
            return ""
        return f" No power exceeds 2 · {_up(highest)}^t, by the numerical radius."

    def __str__(self) -> str:
        """List the criteria, then the sentence that follows from them."""
        rows = [
            ("spectral radius", self.spectral_radius),
            ("largest singular value", self.singular_values[0]),
            ("smallest singular value", self.singular_values[-1]),
            ("numerical radius", self.numerical_radius),
            ("Henrici departure", self.henrici_departure),
            ("stability radius", self.stability_radius),
            ("Kreiss lower bound", self.kreiss_lower_bound),
            ("largest power", self.transient_peak),
            ("certified rate", self.certified_rate),
        ]
        lines = [f"{name:<26}{float(value):12.6g}" for name, value in rows]
        return "\n".join([*lines, self.sentence])

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        return jsonable(self)


def _up(value: float) -> str:
    """Write an upper bound with four digits, rounded up so that it stays one."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.ceil(value / unit - 1e-9) * unit:.4g}"


def analyze_matrix(W: Any, *, slope_bound: Any = 1.0) -> MatrixCriteria:
    """Say what a repeated matrix alone predicts about vanishing and exploding.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n), real floating point.
    slope_bound
        γ = sup |φ'| of the activation: 1 for tanh, ReLU and the identity, 1/4 for the
        logistic function, 2/√π for erf; more in `theory.bounds.SLOPE_BOUNDS`.

    Returns
    -------
    MatrixCriteria
        Spectral radius, singular values, numerical radius, departure from normality, transient
        growth, distance to instability and the certificate of Pascanu et al.

    Raises
    ------
    TypeError
        If `W` is not real floating point.
    ValueError
        If `W` is not square or not finite, or `slope_bound` not positive.

    Notes
    -----
    σ_1 < 1/γ is sufficient for vanishing; σ_1 > 1/γ is only necessary for exploding, and
    ρ(W) < 1 does not exclude growth at first. Cost: 512 products, some 700 LU factorizations and
    25 Hermitian eigenvalue problems of n × n: two to three seconds at n = 256 on one core.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013, section 2.1; Henrici, Numer. Math. 4 (1962); Trefethen
    & Embree, *Spectra and Pseudospectra* (2005), chapter 18, for the Kreiss constant.

    Examples
    --------
    A Jordan block with eigenvalue 0.9 grows 19-fold before it vanishes:

    >>> import gradhorizon as gh
    >>> criteria = gh.analyze_matrix(jnp.array([[0.9, 5.0], [0.0, 0.9]]))
    >>> float(criteria.spectral_radius), int(criteria.transient_time)
    (0.9, 9)
    >>> round(float(criteria.transient_peak), 3)
    19.379
    """
    matrix = as_real("W", W)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(worded("W", "be square with at least one row", describe(matrix)))
    require_finite("W", matrix)
    require_positive("slope_bound", slope_bound)
    matrix = jnp.asarray(matrix)
    if is_half(matrix.dtype):
        stored, matrix = matrix.dtype, matrix.astype(wide_enough(matrix.dtype))
        text = f"`W` is stored in {stored}: it is promoted to {matrix.dtype}, exactly."
        warnings.warn(text, PrecisionWarning, stacklevel=2)
    return _analyze(matrix, jnp.asarray(slope_bound, matrix.dtype))


@compiled
def _analyze(matrix: Float[Array, "n n"], slope_bound: Float[Array, ""]) -> MatrixCriteria:
    return MatrixCriteria(**_numbers(matrix, slope_bound))


@sequential_vmap  # two batched LAPACK calls at once may hang: see `_in_turn`
def _numbers(matrix: Array, slope_bound: Array) -> dict[str, Array]:
    transient, resolvent = bounds.transient_growth(matrix), bounds.resolvent(matrix)
    return {
        "spectral_radius": spectral_radius(matrix),
        "singular_values": jnp.linalg.svd(matrix, compute_uv=False),
        "henrici_departure": bounds.henrici_departure(matrix),
        "numerical_radius": bounds.numerical_radius(matrix),
        "kreiss_lower_bound": resolvent.kreiss,
        "stability_radius": resolvent.stability_radius,
        "nilpotency_index": bounds.nilpotency_index(matrix),
        "transient_peak": jnp.exp(transient.log_peak),
        "log_transient_peak": transient.log_peak,
        "transient_time": transient.time,
        "log_last_power": transient.log_last,
        "certified_rate": bounds.vanishing_certificate(matrix, slope_bound),
        "slope_bound": slope_bound,
    }
