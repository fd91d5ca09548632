"""The gain at which a network's gradient neither grows nor decays, on given inputs."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import scipy.optimize
from jaxtyping import Array, Float, Int

from gradhorizon._checks import require_finite, worded
from gradhorizon._record import Status, record, static
from gradhorizon.chain._contract import Step
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum

_FAR = 1e3  # nats per step, beyond any exponent that can be measured
_FINEST = 1e-12  # below this Brent's method only moves between rounding errors


@record
class CriticalGain:
    """A gain and the exponent measured there.

    Attributes
    ----------
    gain
        The gain at which the leading exponent crosses the target.
    exponent
        The exponent at that gain, nats per step.
    standard_error
        Its standard error.
    status
        `Status.OK`, or `NOT_CONVERGED` where the exponent jumps past the target: it then misses
        it by more than ten times the tolerance and four standard errors.
    evaluations
        How many networks were measured.
    """

    gain: float
    exponent: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    evaluations: int = static()


def critical_gain(
    make_params: Callable[[float], Any],
    step: Step,
    h0: Any,
    xs: Any = None,
    *,
    target: float = 0.0,
    bracket: tuple[float, float] = (0.05, 20.0),
    tolerance: float = 1e-4,
    length: int | None = None,
    tied: bool = True,
) -> CriticalGain:
    """Find the gain at which the leading Lyapunov exponent along the inputs is `target`.

    Parameters
    ----------
    make_params
        ``make_params(gain) -> params``; use one PRNG key for all gains, so that the exponent
        is a continuous function of the gain.
    step, h0, xs, length, tied
        The network, as in `jacobian_chain`.
    target
        The exponent wanted, nats per step.
    bracket
        Two gains with the exponent below the target at the first and above it at the second.
    tolerance
        Relative accuracy of the gain, between 1e-12 and 1.

    Returns
    -------
    CriticalGain
        The gain, and the exponent there with its standard error.

    Raises
    ------
    ValueError
        If the bracket is not two increasing positive gains or its exponents do not enclose the
        target, if a number is not in its range, if there are no steps, or as `jacobian_chain`.

    Notes
    -----
    Brent's method in the logarithm of the gain, some ten to twenty measurements of one tangent
    vector each; the first tenth of the steps, at most 100, only aligns the tangent. A gain at
    which the state overflows counts as too large. The answer belongs to these inputs and this
    length: `standard_error` says how well the exponent is known there, and in a chaotic network
    the crossing itself moves by as much when the length changes. Where the exponent crosses the
    target more than once (rare, with strong inputs) one of the crossings is found. It runs on
    the host and cannot be traced.

    References
    ----------
    Engelken, Wolf & Abbott, Phys. Rev. Research 5 (2023) 043044: the leading exponent of driven
    recurrent networks as a function of the gain. Root finding: Brent 1973, chapter 4.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import gradhorizon as gh
    >>> W = gh.inits.orthogonal()(jax.random.key(0), (8, 8), jnp.float64)
    >>> found = gh.remedies.critical_gain(
    ...     lambda gain: gain * W, lambda W, h, x: W @ h, jnp.ones(8), length=50)
    >>> round(found.gain, 4)
    1.0
    """
    low, high = bracket
    if not 0 < low < high < math.inf:
        raise ValueError(worded("bracket", "be two increasing positive gains", bracket))
    require_finite("target", target)
    if not _FINEST <= tolerance < 1:
        raise ValueError(worded("tolerance", f"lie in [{_FINEST:g}, 1)", tolerance))
    measured: dict[float, LyapunovSpectrum] = {}

    def excess(log_gain: float) -> float:
        gain = math.exp(log_gain)
        chain = jacobian_chain(step, make_params(gain), h0, xs, length=length, tied=tied)
        if chain.length == 0:
            raise ValueError(worded("length", "be at least 1", 0))
        burn_in = min(chain.length // 10, 100)
        measured[log_gain] = spectrum = lyapunov_spectrum(chain, 1, burn_in=burn_in, throw=False)
        if spectrum.status == int(Status.NONFINITE):
            return _FAR  # the state itself overflows: the gain is too large
        return max(float(spectrum.exponents[0]), -_FAR) - target

    ends = math.log(low), math.log(high)
    below, above = excess(ends[0]), excess(ends[1])
    if below > 0 or above < 0:
        shown = [_in_words(measured[end]) for end in ends]
        raise ValueError(
            worded(
                "bracket",
                f"enclose the target {target:g}",
                f"{shown[0]} at {low:g} and {shown[1]} at {high:g}",
                "Widen it, or choose another target.",
            )
        )
    found = scipy.optimize.root_scalar(excess, bracket=ends, method="brentq", xtol=tolerance)
    root = float(found.root)
    return _outcome(min(measured, key=lambda end: abs(end - root)), measured, target, tolerance)


def _in_words(spectrum: LyapunovSpectrum) -> str:
    """Give the leading exponent for an error message."""
    if spectrum.status == int(Status.NONFINITE):
        return "a state that overflows"
    return f"exponent {float(spectrum.exponents[0]):.4g}"


def _outcome(
    root: float, measured: dict[float, LyapunovSpectrum], target: float, tolerance: float
) -> CriticalGain:
    """Judge whether the exponent at the root is the target, as it is unless it jumps there."""
    spectrum = measured[root]
    exponent, error = spectrum.exponents[0], spectrum.standard_errors[0]
    reached = jnp.abs(exponent - target) <= 10 * tolerance + 4 * error
    return CriticalGain(
        gain=math.exp(root),
        exponent=exponent,
        standard_error=error,
        status=jnp.where(reached, int(Status.OK), int(Status.NOT_CONVERGED)).astype(jnp.int32),
        evaluations=len(measured),
    )
