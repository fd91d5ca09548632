"""The diagnosis: measure a network's gradient on given inputs and put every criterion beside it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import is_concrete, require_integer, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, jsonable, record, static
from gradhorizon.chain._contract import Step, check_problem
from gradhorizon.chain._given import require_room
from gradhorizon.chain._outcome import settle
from gradhorizon.chain.gradient import (
    GradientProfile,
    backpropagate,
    final_cotangent,
    generic_profile,
    require_scalar_loss,
)
from gradhorizon.chain.jacobian import JacobianChain, finite_steps, linearize, of_matrices
from gradhorizon.chain.unroll import status_of
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from gradhorizon.products.singular import SingularSpectrum, singular_spectrum
from gradhorizon.regimes._gates import complex_entries, has_paths, layout_of
from gradhorizon.regimes.checks import Check, self_checks
from gradhorizon.regimes.criteria import Criterion, from_rate
from gradhorizon.regimes.forecast import DtypeForecast, forecast
from gradhorizon.regimes.paths import StatePaths, follow_paths, spread_lags
from gradhorizon.regimes.predict import Prediction, as_criterion, predict_chain, rate_error
from gradhorizon.regimes.regime import (
    UNDECIDED,
    reach_of_profile,
    regime_from_code,
    regime_of_reach,
    require_threshold,
)

_ALL_EXPONENTS = 128  # up to this n all exponents are computed, beyond it the leading 8
_ALIVE_REACH = 256  # the largest lag at which directions are counted
_MATERIALIZE = 256 * 2**20  # bytes of Jacobians that are formed once rather than per analysis


@record
class Diagnosis:
    """What the gradient of a network does on given inputs, why, and what would change it.

    `print` it for a readable table.

    Attributes
    ----------
    regime_code
        -1, 0 or 1; read it as `regime`.
    rate, rate_error
        The leading Lyapunov exponent along the inputs and its standard error, nats per step.
    horizon
        The largest lag at which the gradient is still inside [ε, 1/ε] of its size at lag 0;
        extrapolated with `rate` where it never leaves within the sequence.
    horizon_observed
        Whether the gradient left within the sequence.
    profile
        ln ‖∂L/∂h_t‖ for t = 0 … T.
    lyapunov
        The Lyapunov spectrum of the whole chain: all exponents up to n = 128, else the first 8.
    singular
        Singular values of Φ(T, T-k) for a few lags k ≤ 256 (`singular.lags`).
    alive
        For each of these lags, how many singular values are at least ε.
    criteria
        Each rule's own statement; the last is the measurement.
    prediction
        What `predict` says from a tenth of the sequence.
    dtype_forecast
        When an unscaled backward pass becomes zero or infinite in each float format.
    checks
        Identities evaluated on this network, each with residual and tolerance.
    paths
        Which way the gradient goes through the parts of the state, and time constants: see
        `state_paths`. None for a state of one part without declared gates.
    status, first_bad_step
        `Status.OK`, `EMPTY` for T = 0, or `NONFINITE` and where.
    lag, threshold
        What the regime speaks about, and ε.
    length, size
        T and n.
    complex_entries
        How many complex numbers the state has: each counts as two of the n.
    step
        The step function that was diagnosed.
    """

    regime_code: Int[Array, "*batch"]
    rate: Float[Array, "*batch"]
    rate_error: Float[Array, "*batch"]
    horizon: Float[Array, "*batch"]
    horizon_observed: Bool[Array, "*batch"]
    profile: GradientProfile
    lyapunov: LyapunovSpectrum
    singular: SingularSpectrum
    alive: Int[Array, "*batch lags"]
    criteria: tuple[Criterion, ...]
    prediction: Prediction
    dtype_forecast: DtypeForecast
    checks: tuple[Check, ...]
    paths: StatePaths | None
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]
    lag: int = static()
    threshold: float = static()
    length: int = static()
    size: int = static()
    complex_entries: int = static()
    step: Step | None = static()

    @property
    def regime(self) -> Any:
        """The measured `Regime` at the lag; None for an empty or non-finite run."""
        return regime_from_code(self.regime_code)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would change the verdict, in sentences."""
        from gradhorizon.regimes.advice import advice

        return advice(self)

    def __str__(self) -> str:
        """Say the verdict in the first line, then why, how sure, and what would help."""
        from gradhorizon.regimes._text import diagnosis_text

        return diagnosis_text(self) if is_concrete(self) else repr(self)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON types, the regime and the advice in words."""
        words = {"regime": jsonable(self.regime), "advice": list(self.advice)}
        return {**words, **jsonable(self)}

    def plot(self) -> Any:
        """Draw gradient against lag, singular values, criteria and exponents: a Figure."""
        from gradhorizon import plots

        return plots.diagnosis(self)

    def to_html(self, path: Any) -> None:
        """Write a self-contained page (no script, nothing loaded from elsewhere) to `path`."""
        from gradhorizon import plots, report

        report.write_html(self, plots.png(plots.diagnosis(self)), path)


def diagnose(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any = None,
    *,
    loss: Any = None,
    lag: int | None = None,
    threshold: float = 1e-3,
    length: int | None = None,
    tied: bool = True,
    throw: bool = True,
) -> Diagnosis:
    """Measure how far back the gradient reaches on these inputs, and say why.

    Parameters
    ----------
    step, params, h0, xs, length, tied
        The network, as in `jacobian_chain`.
    loss
        Maps the stacked states h_1 … h_T to a real scalar; its gradient with respect to the
        last state is what is followed back (terms at earlier steps would mask how far the last
        one reaches; `gradient_profile` has them all). None follows a generic loss: the root
        mean square over up to 16 orthonormal directions.
    lag
        The lag L that the regime speaks about; the sequence's length T if None.
    threshold
        ε: the gradient counts as gone below ε, as exploded above 1/ε of its size at lag 0.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    Diagnosis
        The verdict with all it rests on.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_chain` and `gradient_profile`; ValueError if `lag` < 1, `threshold` is not
        inside (0, 1), or `loss` does not depend on the last state.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Cost: about seven QR factorizations of n × n per step for up to 256 steps (the singular
    values with their error bars), one QR per step for the exponents, one backward pass, and for a
    state of several parts or with gates two products of n × n per step.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> halve = lambda params, h, x: params * h
    >>> diagnosis = gh.diagnose(halve, 0.5, jnp.ones(3), length=50)
    >>> str(diagnosis.regime), float(diagnosis.horizon), diagnosis.alive.tolist()
    ('VANISHING', 9.0, [3, 3, 3, 3, 3, 0, 0, 0, 0])
    """
    threshold = require_threshold(threshold)
    problem = check_problem(step, params, h0, xs, length, tied=tied)
    require_room(problem.space.size, problem.space.size, problem.space.dtype)
    chain = linearize(step, problem, tied)
    lag = require_integer("lag", max(chain.length, 1) if lag is None else lag, 1)
    first_bad_state = _first_bad_state(chain)
    explicit = _materialized(chain)
    profile = _profile(chain, explicit, loss)
    count = chain.size if chain.size <= _ALL_EXPONENTS else 8
    lyapunov = lyapunov_spectrum(explicit, count, throw=False)
    singular = singular_spectrum(explicit, lags=_alive_lags(chain.length), throw=False)
    stop = min(chain.length, max(20, chain.length // 10))
    prediction = predict_chain(
        chain.segment(0, stop),
        step,
        params,
        None if xs is None else jax.tree.map(lambda a: a[:stop], xs),
        tied=tied,
        lag=lag,
        threshold=threshold,
    )
    checks = self_checks(chain, explicit, profile, lyapunov, singular)
    parts = (first_bad_state, profile, lyapunov, singular, prediction, checks)
    sizes = {"length": chain.length, "size": chain.size}
    diagnosis = _assemble(*parts, lag=lag, threshold=threshold, **sizes)
    own = {"step": step, "paths": _paths(chain, explicit)}
    diagnosis = dataclasses.replace(diagnosis, complex_entries=complex_entries(chain), **own)
    return settle(diagnosis, throw=throw)


def _first_bad_state(chain: JacobianChain) -> Int[Array, ""]:
    """Give the first t with a non-finite state, -1 if there is none.

    A state can be NaN while all Jacobians are finite, as with a constant NaN.
    """
    _, index = status_of(finite_steps(chain), Status.OK)
    return jnp.where(index < 0, -1, index + 1)


def _materialized(chain: JacobianChain) -> JacobianChain:
    """Form the matrices once where they are small: three analyses need them.

    Networks of one size then also share the compiled analyses.
    """
    if chain.length * chain.size**2 * chain.dtype.itemsize > _MATERIALIZE:
        return chain
    return of_matrices(chain.matrices(), chain.storage_dtype)


def _paths(chain: JacobianChain, explicit: JacobianChain) -> StatePaths | None:
    """Follow the parts of a state that has several, as far back as the exponents are affordable."""
    if not has_paths(chain):
        return None
    reach = chain.length if chain.size <= _ALL_EXPONENTS else min(chain.length, _ALIVE_REACH)
    return follow_paths(chain, explicit, layout_of(chain, None), spread_lags(reach))


def _profile(chain: JacobianChain, explicit: JacobianChain, loss: Any) -> GradientProfile:
    """Follow back the gradient of the loss at the last step, or that of a generic loss."""
    if loss is None:
        return generic_profile(explicit)
    require_scalar_loss(chain, loss)
    if chain.length == 0:
        return generic_profile(explicit)
    cotangent = final_cotangent(chain, loss=loss)
    if is_concrete(cotangent) and not jnp.any(cotangent != 0):
        remedy = "Use a loss on the output at the last step, or pass loss=None."
        raise ValueError(worded("loss", "depend on the last state", "a zero gradient", remedy))
    return backpropagate(explicit, cotangent, throw=False)


def _alive_lags(length: int) -> tuple[int, ...]:
    """Spread up to nine lags geometrically over 1 … min(T, 256)."""
    return spread_lags(min(length, _ALIVE_REACH))


@compiled(static=("lag", "threshold", "length", "size"))
def _assemble(
    first_bad_state: Int[Array, ""],
    profile: GradientProfile,
    lyapunov: LyapunovSpectrum,
    singular: SingularSpectrum,
    prediction: Prediction,
    checks: tuple[Check, ...],
    *,
    lag: int,
    threshold: float,
    length: int,
    size: int,
) -> Diagnosis:
    rate, error = lyapunov.exponents[0], rate_error(lyapunov, length)
    by_lag = profile.by_lag
    reach = reach_of_profile(by_lag, rate, threshold)
    status, bad = _status(length, first_bad_state, profile, lyapunov)
    code = jnp.where(status == int(Status.OK), regime_of_reach(reach, lag), UNDECIDED)
    name, source = "leading exponent of all steps", f"QR over {length} steps"
    settings = {"lag": lag, "threshold": threshold}
    whole = "all steps"
    exponent = from_rate(name, "estimate", source, whole, rate, error=error, **settings)
    slope = _slope(by_lag, min(lag, length))
    source = "one backward pass, exact scale"
    measured = from_rate("measured gradient", "measured", source, whole, slope, **settings)
    measured = dataclasses.replace(measured, code=code.astype(jnp.int32))
    return Diagnosis(
        regime_code=code.astype(jnp.int32),
        rate=rate,
        rate_error=error,
        horizon=reach.horizon,
        horizon_observed=reach.observed,
        profile=profile,
        lyapunov=lyapunov,
        singular=singular,
        alive=singular.alive(threshold),
        criteria=(*prediction.criteria, as_criterion(prediction), exponent, measured),
        prediction=prediction,
        dtype_forecast=forecast(profile.log_max[::-1], rate),
        checks=checks,
        paths=None,
        status=status,
        first_bad_step=bad,
        lag=lag,
        threshold=threshold,
        length=length,
        size=size,
        complex_entries=0,
        step=None,
    )


def _status(
    length: int,
    first_bad_state: Int[Array, ""],
    profile: GradientProfile,
    lyapunov: LyapunovSpectrum,
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Combine the statuses of the parts; only a non-finite or empty run spoils the verdict."""
    if length == 0:
        return profile.status, profile.first_bad_step
    where = first_bad_state
    for step in (lyapunov.first_bad_step, profile.first_bad_step):
        where = jnp.where(where >= 0, where, step)
    status = jnp.where(where >= 0, int(Status.NONFINITE), int(Status.OK))
    return status.astype(jnp.int32), where


def _slope(by_lag: Float[Array, " lags"], lag: int) -> Float[Array, ""]:
    """Give the mean growth per step up to `lag`, or up to the last lag before an exact zero."""
    if by_lag.shape[0] == 1:
        return jnp.asarray(jnp.nan, by_lag.dtype)
    steps = jnp.arange(by_lag.shape[0]).astype(by_lag.dtype)
    usable = jnp.isfinite(by_lag) & (steps <= max(lag, 1)) & (steps > 0)
    last = jnp.where(jnp.any(usable), by_lag.shape[0] - 1 - jnp.argmax(usable[::-1]), 1)
    return by_lag[last] / steps[last]
