"""The gain at which a network's gradient neither grows nor decays, on given inputs."""

import math
from collections.abc import Callable
from typing import Any

import scipy.optimize
from jaxtyping import Array, Float

from gradhorizon._checks import worded
from gradhorizon._record import Status, record, static
from gradhorizon.chain._contract import Step
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum

_FAR = 1e3  # nats per step, beyond any exponent that can be measured


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
    evaluations
        How many networks were measured.
    """

    gain: float
    exponent: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
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
        Relative accuracy of the gain.

    Returns
    -------
    CriticalGain
        The gain, and the exponent there with its standard error.

    Raises
    ------
    ValueError
        If the exponents at the ends of the bracket do not enclose the target, or as
        `jacobian_chain`.

    Notes
    -----
    Brent's method in the logarithm of the gain, some ten to twenty measurements of one tangent
    vector each. The answer belongs to these inputs and this length; `standard_error` says how
    well the exponent is known there.

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
    if not 0 < low < high:
        raise ValueError(worded("bracket", "be two increasing positive gains", bracket))
    measured: dict[float, LyapunovSpectrum] = {}

    def excess(log_gain: float) -> float:
        gain = math.exp(log_gain)
        chain = jacobian_chain(step, make_params(gain), h0, xs, length=length, tied=tied)
        burn_in = min(chain.length // 10, 100)
        measured[log_gain] = spectrum = lyapunov_spectrum(chain, 1, burn_in=burn_in, throw=False)
        if spectrum.status == int(Status.NONFINITE):
            return _FAR  # the state itself overflows: the gain is too large
        return max(float(spectrum.exponents[0]), -_FAR) - target

    ends = excess(math.log(low)), excess(math.log(high))
    if ends[0] > 0 or ends[1] < 0:
        raise ValueError(
            worded(
                "bracket",
                f"enclose the target {target:g}",
                f"exponents {ends[0] + target:.4g} at {low:g}, {ends[1] + target:.4g} at {high:g}",
                "Widen it, or choose another target.",
            )
        )
    root = scipy.optimize.brentq(excess, math.log(low), math.log(high), xtol=tolerance)
    best = min(measured, key=lambda log_gain: abs(log_gain - root))
    spectrum = measured[best]
    return CriticalGain(
        gain=math.exp(best),
        exponent=spectrum.exponents[0],
        standard_error=spectrum.standard_errors[0],
        evaluations=len(measured),
    )
