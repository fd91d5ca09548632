"""Criteria: what each rule says about the gradient at a lag, side by side.

Every criterion gives a rate in nats per step and, through it, a verdict about a lag. A
certificate bounds the growth from above; it can prove vanishing and nothing else. The others
estimate the growth and may be wrong; that is why they are shown together.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gradhorizon._checks import wide_enough
from gradhorizon._record import record, static
from gradhorizon.cells._cell import RepeatedTerm
from gradhorizon.regimes._in_turn import largest_singular_value, spectral_radius
from gradhorizon.regimes.regime import UNDECIDED, regime_from_code, regime_of_rate
from gradhorizon.theory import mean_field

_FEWEST = 8  # units from which on a matrix can look random

KINDS = ("certificate", "asymptotic", "estimate", "measured")


@record
class Criterion:
    """One rule's statement about the gradient.

    Attributes
    ----------
    value
        The quantity the rule looks at, such as a spectral radius.
    threshold
        The value at which it changes its mind.
    rate
        The growth per step that the value stands for, in nats; NaN where the rule does not
        apply to this network.
    error
        The standard error of `rate`; NaN where none is known.
    code
        The verdict about the lag as an integer: -1, 0, 1, or 2 for undecided.
    name, kind, source
        What it is called, whether it is a "certificate", "asymptotic", an "estimate" or
        "measured", and where it comes from.
    needs
        What has to be known to apply it.
    upper_bound
        Whether the rate bounds the growth from above: it can then speak of vanishing only.
    """

    value: Float[Array, "*batch"]
    threshold: Float[Array, "*batch"]
    rate: Float[Array, "*batch"]
    error: Float[Array, "*batch"]
    code: Int[Array, "*batch"]
    name: str = static()
    kind: str = static()
    source: str = static()
    needs: str = static()
    upper_bound: bool = static(default=False)

    @property
    def verdict(self) -> Any:
        """The `Regime` that the rule predicts at the lag, or None where it says nothing."""
        return regime_from_code(self.code)


def criterion(
    name: str,
    kind: str,
    source: str,
    needs: str,
    *,
    value: Any,
    rate: Any,
    lag: Any,
    threshold: Any,
    error: Any = math.nan,
    at: float = 1.0,
    upper_bound: bool = False,
) -> Criterion:
    """Make a criterion whose verdict follows from its rate.

    `threshold` is ε of the regime; `at` is the value at which the rule itself switches.
    """
    rate = jnp.asarray(rate)
    code = regime_of_rate(rate, lag, threshold)
    if upper_bound:
        code = jnp.where(code == -1, -1, UNDECIDED)
    code = jnp.where(jnp.isnan(rate), UNDECIDED, code).astype(jnp.int32)
    value = jnp.asarray(value, rate.dtype)
    switch, error = jnp.asarray(at, rate.dtype), jnp.asarray(error, rate.dtype)
    return Criterion(value, switch, rate, error, code, name, kind, source, needs, upper_bound)


def of_repeated_term(
    term: RepeatedTerm, xs: Any, *, lag: Any, threshold: Any
) -> tuple[Criterion, ...]:
    """Give what the repeated matrix says: certificate, spectral radius, mean field.

    Parameters
    ----------
    term
        W and what surrounds it.
    xs
        Inputs, shape (T, m), or None; the mean field needs their second moment.
    lag, threshold
        The lag the verdict speaks about, and ε.

    Returns
    -------
    tuple of Criterion
        Two or three criteria.
    """
    slope = _largest_slope(term)
    leak, W = term.leak, term.matrix
    largest = largest_singular_value(W)
    eye = jnp.eye(W.shape[0], dtype=W.dtype)
    at_rest = (1 - leak) * eye + leak * slope * W
    radius = spectral_radius(at_rest)
    step_bound = (1 - leak) + leak * slope * largest
    kind = "estimate" if term.activation.slope_bound is None else "certificate"
    found = [
        criterion(
            "largest singular value",
            kind,
            "Pascanu et al. 2013, section 2.1",
            "W, sup|φ'|" if kind == "certificate" else "W, φ'(0)",
            value=step_bound,
            rate=jnp.log(step_bound),
            lag=lag,
            threshold=threshold,
            upper_bound=True,
        ),
        criterion(
            "spectral radius",
            "asymptotic",
            "Jaeger 2001; exact for a linear network",
            "W, sup|φ'|",
            value=radius,
            rate=jnp.log(radius),
            lag=lag,
            threshold=threshold,
        ),
    ]
    if leak == 1.0:
        found.append(_mean_field(term, xs, lag=lag, threshold=threshold))
    return tuple(found)


def _largest_slope(term: RepeatedTerm) -> Array:
    """Give sup |φ'|, or φ'(0) where the bound is not known."""
    if term.activation.slope_bound is not None:
        return jnp.asarray(term.activation.slope_bound, term.matrix.dtype)
    return jnp.abs(jax.grad(term.activation.function)(jnp.zeros((), term.matrix.dtype)))


def _mean_field(term: RepeatedTerm, xs: Any, *, lag: Any, threshold: Any) -> Criterion:
    """Give χ = σ_w² E φ'², the growth per step of the squared gradient as n → ∞."""
    W, n = term.matrix, term.matrix.shape[0]
    variance_w = jnp.mean(W**2) * n
    drive = jnp.broadcast_to(term.bias, (1, n))
    if term.inputs is not None and xs is not None:
        drive = drive + jnp.matmul(jnp.asarray(xs, W.dtype), term.inputs.T)
    variance_b = jnp.mean(drive**2)
    function = term.activation.function
    q = mean_field.length_fixed_point(function, variance_w, variance_b)
    chi = jnp.asarray(mean_field.susceptibility(function, variance_w, q), W.dtype)
    chi = jnp.where(looks_random(W), chi, jnp.nan)
    return criterion(
        "mean field χ",
        "estimate",
        "Poole et al. 2016; Schoenholz et al. 2017",
        "random W, inputs",
        value=chi,
        rate=0.5 * jnp.log(chi),
        lag=lag,
        threshold=threshold,
    )


def looks_random(W: Float[Array, "n n"]) -> Array:
    """Say whether entries look exchangeable: no dominant diagonal, no heavy tail or gaps.

    Mean field assumes many independent entries of one variance. The diagonal may carry at most four
    times its share of the square, and the kurtosis may not exceed 9 (3 for a Gaussian).
    """
    square = jnp.mean(W**2)
    diagonal = jnp.mean(jnp.diagonal(W) ** 2) <= 4 * square
    kurtosis = jnp.mean(W**4) <= 9 * square**2
    return diagonal & kurtosis & (square > 0) & (W.shape[0] >= _FEWEST)


def from_rate(
    name: str,
    kind: str,
    source: str,
    needs: str,
    rate: Any,
    *,
    lag: Any,
    threshold: Any,
    error: Any = math.nan,
) -> Criterion:
    """Make a criterion out of an exponent: value and rate are the same number."""
    settings = {"lag": lag, "threshold": threshold}
    return criterion(name, kind, source, needs, value=rate, rate=rate, error=error, at=0.0,
                     **settings)  # fmt: skip


def certified_rate(criteria: tuple[Criterion, ...]) -> Array:
    """Give the smallest growth per step that a certificate proves, or infinity."""
    rates = [c.rate for c in criteria if c.kind == "certificate" and c.upper_bound]
    return jnp.min(jnp.stack(rates)) if rates else jnp.asarray(jnp.inf)


def disagreements(criteria: tuple[Criterion, ...], reference: Any) -> tuple[str, ...]:
    """Name the criteria whose verdict differs from a `Regime`, once each."""
    others = [c for c in criteria if c.verdict is not None and c.verdict is not reference]
    return tuple(dict.fromkeys(c.name for c in others))


def repeated_term_of(step: Any, params: Any, *, tied: bool) -> RepeatedTerm | None:
    """Give the repeated term of a step that declares one with `repeated_term(params)`."""
    declare: Callable[[Any], RepeatedTerm] | None = getattr(step, "repeated_term", None)
    if declare is None or not tied:
        return None
    return declare(jax.tree.map(_widened, params))


def _widened(leaf: Any) -> Array:
    """Give a parameter as an array, half formats promoted: they have no eigenvalues in JAX."""
    array = jnp.asarray(leaf)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(wide_enough(array.dtype)) if floating else array
