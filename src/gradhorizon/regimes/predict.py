"""Prediction: from the repeated term and a short prefix to the regime at a long lag."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gradhorizon._checks import is_concrete, require_integer
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, jsonable, record, static
from gradhorizon.chain._contract import Step
from gradhorizon.chain._outcome import settle
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from gradhorizon.regimes._found import find_repeated_term, of_found_term
from gradhorizon.regimes.criteria import (
    Criterion,
    at_mean_state,
    from_rate,
    of_repeated_term,
    repeated_term_of,
)
from gradhorizon.regimes.regime import (
    horizon_of_rate,
    regime_from_code,
    regime_of_rate,
    require_threshold,
)

PREFIX = 100  # steps of an undriven network that a prediction looks at
_NORMAL_90 = 1.6448536269514722  # half-width of the central 90 % of a normal law, in its sd


@record
class Prediction:
    """What a network's gradient will do at a lag, before any long backward pass.

    Attributes
    ----------
    regime_code
        -1, 0 or 1; read it as `regime`.
    rate
        Growth of the gradient per step of lag, nats.
    rate_error
        Standard error of `rate`: scatter between blocks of the prefix and drift along it.
    horizon
        ln(1/ε)/|rate|, steps.
    horizon_interval
        The same at the ends of the 90 % interval of the rate, shape (2,); the upper end is
        infinite when that interval contains 0.
    criteria
        Each rule's own statement; the last is the one the prediction rests on.
    lag, threshold
        What the regime speaks about, and ε.
    prefix
        The number of steps looked at.
    status, first_bad_step
        `Status.OK`, `EMPTY` without a prefix, or `NONFINITE` and where.
    """

    regime_code: Int[Array, "*batch"]
    rate: Float[Array, "*batch"]
    rate_error: Float[Array, "*batch"]
    horizon: Float[Array, "*batch"]
    horizon_interval: Float[Array, "*batch 2"]
    criteria: tuple[Criterion, ...]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]
    lag: int = static()
    threshold: float = static()
    prefix: int = static()

    @property
    def regime(self) -> Any:
        """The predicted `Regime` at the lag."""
        return regime_from_code(self.regime_code)

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        return {"regime": jsonable(self.regime), **jsonable(self)}

    def __str__(self) -> str:
        """Say the verdict in one line, then the criteria side by side."""
        from gradhorizon.regimes._text import prediction_text

        return prediction_text(self) if is_concrete(self) else repr(self)


def predict(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any = None,
    *,
    lag: int = 1000,
    threshold: float = 1e-3,
    length: int | None = None,
    tied: bool = True,
    throw: bool = True,
) -> Prediction:
    """Predict regime, rate and horizon from the repeated term and a short prefix.

    Parameters
    ----------
    step, params, h0, tied
        The network, as in `jacobian_chain`.
    xs
        A short prefix of the inputs, leading axis time; some ten to a few hundred steps. None
        for a network without inputs.
    lag
        The lag L in steps that the regime speaks about.
    threshold
        ε: the gradient counts as gone below ε, as exploded above 1/ε of its size at lag 0.
    length
        The prefix length of a network without inputs, 100 if None.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    Prediction
        The verdict with its error, and each criterion's own statement.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_chain`; ValueError if `lag` < 1 or `threshold` is not inside (0, 1).
    NumericalError
        If ``throw`` and a NaN or infinity appears in the prefix.

    Notes
    -----
    The rate is the leading Lyapunov exponent of the prefix; no backward pass is run. It speaks
    about the typical gradient: gradients of one loss differ from it by a bounded factor, and
    non-normal networks may first grow. Cost: one tangent per step of the prefix, and a few
    O(n³) factorizations.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> halve = lambda params, h, x: params * h
    >>> prediction = gh.predict(halve, 0.5, jnp.ones(3), lag=20)
    >>> str(prediction.regime), round(float(prediction.horizon), 3)
    ('VANISHING', 9.966)
    """
    lag = require_integer("lag", lag, 1)
    threshold = require_threshold(threshold)
    if xs is None and length is None and tied:
        length = PREFIX
    chain = jacobian_chain(step, params, h0, xs, length=length, tied=tied)
    spectrum = lyapunov_spectrum(chain, 1, throw=False)
    settings = {"tied": tied, "lag": lag, "threshold": threshold}
    return settle(predict_chain(chain, spectrum, step, params, xs, **settings), throw=throw)


def predict_chain(
    chain: JacobianChain,
    spectrum: LyapunovSpectrum,
    step: Step,
    params: Any,
    xs: Any,
    *,
    tied: bool,
    lag: int,
    threshold: float,
) -> Prediction:
    """Predict from the chain of the prefix and its leading exponent."""
    declares = hasattr(step, "repeated_term") and tied
    prediction = _predict(
        chain,
        spectrum,
        params if declares else None,
        xs if declares else None,
        step=step if declares else None,
        lag=lag,
        threshold=threshold,
    )
    if declares or not tied or not is_concrete((chain, params)):
        return prediction
    found = find_repeated_term(chain, params)
    if found is None:
        return prediction
    more = of_found_term(found, lag=lag, threshold=threshold)
    return dataclasses.replace(prediction, criteria=(*more, *prediction.criteria))


@compiled(static=("step", "lag", "threshold"))
def _predict(
    chain: JacobianChain,
    spectrum: LyapunovSpectrum,
    params: Any,
    xs: Any,
    *,
    step: Any,
    lag: int,
    threshold: float,
) -> Prediction:
    criteria: list[Criterion] = []
    term = repeated_term_of(step, params, tied=True)
    if term is not None:
        criteria += of_repeated_term(term, xs, lag=lag, threshold=threshold)
    rate, error = spectrum.exponents[0], rate_error(spectrum, chain.length)
    if chain.length:
        criteria.append(at_mean_state(chain, lag=lag, threshold=threshold))
        source = f"QR over a prefix of {chain.length} steps"
        kind, name = "estimate", "leading exponent of the prefix"
        criteria.append(from_rate(name, kind, source, rate, lag=lag, threshold=threshold))
    fastest = jnp.abs(rate) + _NORMAL_90 * error
    slowest = jnp.maximum(jnp.abs(rate) - _NORMAL_90 * error, 0)
    interval = jnp.stack([horizon_of_rate(fastest, threshold), horizon_of_rate(slowest, threshold)])
    ok = (spectrum.status != int(Status.NONFINITE)) & (spectrum.status != int(Status.EMPTY))
    status = jnp.where(ok, int(Status.OK), spectrum.status).astype(jnp.int32)
    return Prediction(
        regime_code=regime_of_rate(rate, lag, threshold),
        rate=rate,
        rate_error=error,
        horizon=jnp.where(ok, horizon_of_rate(rate, threshold), jnp.nan).astype(rate.dtype),
        horizon_interval=interval.astype(rate.dtype),
        criteria=tuple(criteria),
        status=status,
        first_bad_step=spectrum.first_bad_step,
        lag=lag,
        threshold=threshold,
        prefix=chain.length,
    )


def rate_error(spectrum: LyapunovSpectrum, length: int) -> Float[Array, ""]:
    """Give the standard error of the leading exponent: scatter, and drift between the halves.

    The drift stands for what the blocks do not see, the alignment of the frame and a state
    that has not settled.
    """
    error = spectrum.standard_errors[0]
    blocks = spectrum.history.shape[0]
    if blocks < 2:
        return jnp.abs(spectrum.exponents[0]) if length else error
    half = spectrum.history[blocks // 2 - 1, 0]
    drift = jnp.abs(spectrum.exponents[0] - half)
    total = jnp.sqrt(error**2 + drift**2)
    return jnp.where(jnp.isneginf(spectrum.exponents[0]), 0, total).astype(error.dtype)
