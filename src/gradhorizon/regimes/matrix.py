"""What the repeated term alone says: spectral radius, singular values, transient growth.

For a tied linear network Φ(T, 0) = W^T. The spectral radius decides its limit, the largest
singular value bounds every single step, and between the two lies what non-normal matrices do:
grow first, then decay.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradhorizon._checks import (
    describe,
    require_finite,
    require_no_silent_downcast,
    require_positive,
    worded,
)
from gradhorizon._compiled import compiled
from gradhorizon._record import jsonable, record
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
    kreiss_lower_bound
        The largest (|z| - 1) ‖(zI - W)⁻¹‖ found on a grid of |z| > 1; some power of W is at
        least this large. Infinite if the spectral radius exceeds 1.
    transient_peak
        max_t ‖W^t‖₂ over t = 0 … 512; at least 1 because t = 0 counts, infinite beyond the
        range of the dtype.
    log_transient_peak
        Its logarithm, which has no such limit.
    transient_time
        The t of that peak.
    certified_rate
        ln(slope_bound · σ_1): no step grows faster. If negative, vanishing is certain.
    slope_bound
        sup |φ'| that the certificate was computed with.
    """

    spectral_radius: Float[Array, "*batch"]
    singular_values: Float[Array, "*batch n"]
    henrici_departure: Float[Array, "*batch"]
    kreiss_lower_bound: Float[Array, "*batch"]
    transient_peak: Float[Array, "*batch"]
    log_transient_peak: Float[Array, "*batch"]
    transient_time: Int[Array, "*batch"]
    certified_rate: Float[Array, "*batch"]
    slope_bound: Float[Array, "*batch"]

    @property
    def sentence(self) -> str:
        """What follows from the numbers, in one sentence."""
        radius, rate = float(self.spectral_radius), float(self.certified_rate)
        peak, time = float(self.transient_peak), int(self.transient_time)
        if rate < 0:
            return (
                f"Vanishing is certain: every step shrinks the gradient at least by "
                f"{np.exp(rate):.3g}."
            )
        if radius < 1:
            return (
                f"The powers vanish in the end (spectral radius {radius:.4g} < 1), but not every "
                f"step shrinks: they first grow up to {peak:.4g}-fold, at step {time}."
            )
        return (
            f"The powers do not vanish (spectral radius {radius:.4g}); a slope below "
            f"{1 / radius:.4g} on average would still make the gradient vanish."
        )

    def __str__(self) -> str:
        """List the criteria, then the sentence that follows from them."""
        rows = [
            ("spectral radius", self.spectral_radius),
            ("largest singular value", self.singular_values[0]),
            ("smallest singular value", self.singular_values[-1]),
            ("Henrici departure", self.henrici_departure),
            ("Kreiss lower bound", self.kreiss_lower_bound),
            ("largest power", self.transient_peak),
            ("certified rate", self.certified_rate),
        ]
        lines = [f"{name:<26}{float(value):12.6g}" for name, value in rows]
        return "\n".join([*lines, self.sentence])

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        return jsonable(self)


def analyze_matrix(W: Any, *, slope_bound: Any = 1.0) -> MatrixCriteria:
    """Say what a repeated matrix alone predicts about vanishing and exploding.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n), real floating point.
    slope_bound
        γ = sup |φ'| of the activation: 1 for tanh, ReLU and the identity, 1/4 for the
        logistic function, 2/√π for erf.

    Returns
    -------
    MatrixCriteria
        Spectral radius, singular values, departure from normality, transient growth and the
        certificate of Pascanu et al.

    Raises
    ------
    TypeError
        If `W` is not real floating point.
    ValueError
        If `W` is not square or not finite, or `slope_bound` not positive.

    Notes
    -----
    σ_1 < 1/γ is sufficient for vanishing; σ_1 > 1/γ is only necessary for exploding, and
    ρ(W) < 1 does not exclude growth at first. Cost: 512 products and some 1000 singular value
    computations of n × n.

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
    require_no_silent_downcast("W", W)
    matrix = jnp.asarray(W)
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        remedy = "Cast it to float32 or float64."
        raise TypeError(worded("W", "be real and floating point", describe(matrix), remedy))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(worded("W", "be square with at least one row", describe(matrix)))
    require_finite("W", matrix)
    require_positive("slope_bound", slope_bound)
    if jnp.finfo(matrix.dtype).bits < 32:
        matrix = matrix.astype(jnp.float32)
    return _analyze(matrix, jnp.asarray(slope_bound, matrix.dtype))


@compiled
def _analyze(matrix: Float[Array, "n n"], slope_bound: Float[Array, ""]) -> MatrixCriteria:
    transient = bounds.transient_growth(matrix)
    return MatrixCriteria(
        spectral_radius=jnp.max(jnp.abs(jnp.linalg.eigvals(matrix))),
        singular_values=jnp.linalg.svd(matrix, compute_uv=False),
        henrici_departure=bounds.henrici_departure(matrix),
        kreiss_lower_bound=bounds.kreiss(matrix),
        transient_peak=jnp.exp(transient.log_peak),
        log_transient_peak=transient.log_peak,
        transient_time=transient.time,
        certified_rate=bounds.vanishing_certificate(matrix, slope_bound),
        slope_bound=slope_bound,
    )
