"""Prediction: from the repeated term and a short prefix to the regime at a long lag."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._checks import is_concrete, require_integer
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, jsonable, record, static
from gradhorizon.chain._contract import Problem, Step, check_problem
from gradhorizon.chain._given import require_room
from gradhorizon.chain._outcome import settle
from gradhorizon.chain.jacobian import JacobianChain, linearize
from gradhorizon.chain.unroll import run
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from gradhorizon.regimes._combine import Verdict, conclude, recurs
from gradhorizon.regimes._found import find_repeated_term, of_found_term
from gradhorizon.regimes._growth import far_curves, growth_of, trend_of
from gradhorizon.regimes._linearized import linearized
from gradhorizon.regimes._passes import passes_of
from gradhorizon.regimes._recurrence import last_matrices, recurrence_of, replay, unknown_replay
from gradhorizon.regimes.criteria import (
    Criterion,
    certified_rate,
    from_rate,
    of_repeated_term,
    repeated_term_of,
)
from gradhorizon.regimes.regime import UNDECIDED, regime_from_code, require_threshold

PREFIX = 200  # steps of an undriven network that a prediction looks at …
_SETTLE = 1000  # … after at most this many that bring it to its attractor
_BLOWN = 1e6  # a state that grows by this factor is not settling


@record
class Prediction:
    """What a network's gradient will do at a lag, before any long backward pass.

    Attributes
    ----------
    regime_code
        -1, 0 or 1; read it as `regime`.
    rate
        Growth of the gradient per step of lag, nats, at lags beyond its transient.
    rate_error
        Standard error of `rate`: scatter between blocks of the prefix, or how well the step
        Jacobians repeat.
    horizon
        The lag at which the gradient leaves [ε, 1/ε], steps, not rounded; ln(1/ε)/|rate| for
        steady growth or decay. Infinite if it never does.
    horizon_interval
        The central 90 % interval of the horizon on fresh inputs, shape (2,).
    criteria
        Each rule's own statement; the last is the short prefix's exponent.
    basis
        What the verdict rests on: 0 repeating Jacobians, 1 the prefix alone, 2 its
        continuation. In words: `reason`.
    period
        Steps after which the Jacobians repeat best.
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
    basis: Int[Array, "*batch"]
    period: Int[Array, "*batch"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]
    lag: int = static()
    threshold: float = static()
    prefix: int = static()

    @property
    def regime(self) -> Any:
        """The predicted `Regime` at the lag."""
        return regime_from_code(self.regime_code)

    @property
    def reason(self) -> str:
        """What the verdict rests on, in a sentence (a single prediction only)."""
        from gradhorizon.regimes._text import prediction_reason

        return prediction_reason(self)

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types, regime and reason in words."""
        words = {"regime": jsonable(self.regime)}
        if self.regime_code.ndim == 0:
            words["reason"] = self.reason
        return {**words, **jsonable(self)}

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
        The prefix length of a network without inputs, 200 if None. It is first run on to its
        attractor, for up to as many steps as `lag`, at most 1000.
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
    No long backward pass is run. Where the step Jacobians repeat (linear networks, fixed
    points, periodic orbits) the gradient at any lag is a power of one product, which is formed.
    Elsewhere gradients are pulled back from eight ends of the prefix; their median growth is
    followed while the prefix lasts and continued by its rate beyond, and the scatter between
    blocks of steps and between ends gives the interval. A certificate bounds all of these. The
    size of the gradient is that of a generic loss at the last step, as in `diagnose`. Inputs
    beyond the prefix are taken to be of its kind. Cost: one forward pass, one backward pass
    with up to 64 columns over the prefix, 1024 products of n × n with 8 columns
    where Jacobians repeat, and a few O(n³) factorizations.

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
    if xs is None and tied:
        length = PREFIX if length is None else length
    problem = check_problem(step, params, h0, xs, length, tied=tied)
    require_room(problem.space.size, problem.space.size, problem.space.dtype)
    if xs is None and tied and problem.length:
        problem = _on_attractor(step, problem, min(max(lag - problem.length, 0), _SETTLE))
    chain = linearize(step, problem, tied)
    settings = {"tied": tied, "lag": lag, "threshold": threshold}
    return settle(predict_chain(chain, step, params, xs, **settings), throw=throw)


def _on_attractor(step: Step, problem: Problem, steps: int) -> Problem:
    """Run a network without inputs; give h0 back where its state grows without bound."""
    if steps == 0:
        return problem
    trajectory = run(step, problem._replace(length=steps), tied=True)
    return problem._replace(h0=_last_or_first(trajectory.states))


@compiled
def _last_or_first(states: Any) -> Any:
    floats = [a for a in jax.tree.leaves(states) if jnp.issubdtype(a.dtype, jnp.inexact)]
    tame = jnp.asarray(True)
    for leaf in floats:
        size = jnp.max(jnp.abs(leaf).reshape(leaf.shape[0], -1), axis=1, initial=0)
        tame &= jnp.max(size) <= _BLOWN * (1 + size[0])  # false for NaN
    return jax.tree.map(lambda a: jnp.where(tame, a[-1], a[0]), states)


def predict_chain(
    chain: JacobianChain, step: Step, params: Any, xs: Any, *, tied: bool, lag: int,
    threshold: float,
) -> Prediction:  # fmt: skip
    """Predict from the chain of the prefix."""
    declares = hasattr(step, "repeated_term") and tied
    prediction = _predict(
        chain,
        lyapunov_spectrum(chain, 1, throw=False),
        params if declares else None,
        xs if declares else None,
        lag=jnp.asarray(lag, chain.dtype),
        threshold=jnp.asarray(threshold, chain.dtype),
        step=step if declares else None,
    )
    prediction = dataclasses.replace(prediction, lag=lag, threshold=threshold)
    if declares or not tied or not is_concrete((chain, params)):
        return prediction
    found = find_repeated_term(chain, params)
    if found is None:
        return prediction
    more = of_found_term(found, lag=lag, threshold=threshold)
    return dataclasses.replace(prediction, criteria=(*more, *prediction.criteria))


@compiled(static=("step",))
def _predict(
    chain: JacobianChain,
    spectrum: LyapunovSpectrum,
    params: Any,
    xs: Any,
    *,
    lag: Float[Array, ""],
    threshold: Float[Array, ""],
    step: Any,
) -> Prediction:
    settings: dict[str, Any] = {"lag": lag, "threshold": threshold}
    criteria: list[Criterion] = []
    term = repeated_term_of(step, params, tied=True)
    if term is not None:
        criteria += of_repeated_term(term, xs, **settings)
    if chain.length:
        criteria += linearized(chain, **settings)
        source, needs = f"QR over a prefix of {chain.length} steps", "a prefix"
        rate, error = spectrum.exponents[0], rate_error(spectrum, chain.length)
        name = "leading exponent of the prefix"
        exponent = from_rate(name, "estimate", source, needs, rate, error=error, **settings)
        criteria.append(exponent)
    verdict, period = _verdict(chain, tuple(criteria), **settings)
    bad = (spectrum.status == int(Status.NONFINITE)) | jnp.isnan(verdict.rate)
    status = jnp.where(bad, int(Status.NONFINITE), int(Status.OK))
    status = jnp.where(chain.length == 0, int(Status.EMPTY), status).astype(jnp.int32)
    ok = status == int(Status.OK)
    known = jax.tree.map(lambda a: jnp.where(ok, a, jnp.nan).astype(chain.dtype), verdict[:4])
    return Prediction(
        regime_code=jnp.where(ok, verdict.regime_code, UNDECIDED).astype(jnp.int32),
        rate=known[0],
        rate_error=known[1],
        horizon=known[2],
        horizon_interval=known[3],
        criteria=tuple(criteria),
        basis=verdict.basis,
        period=period,
        status=status,
        first_bad_step=spectrum.first_bad_step,
        lag=0,
        threshold=0.0,
        prefix=chain.length,
    )


def _verdict(
    chain: JacobianChain, criteria: tuple[Criterion, ...], *, lag: Any, threshold: Any
) -> tuple[Verdict, Array]:
    """Conclude from the growth on the prefix, or from Jacobians that repeat."""
    if chain.length == 0:
        nan, zero = jnp.asarray(jnp.nan, chain.dtype), jnp.asarray(0, jnp.int32)
        return Verdict(nan, nan, nan, jnp.stack([nan, nan]), zero, zero), zero
    passes = passes_of(chain)
    growth = growth_of(passes)
    trend = trend_of(far_curves(passes, growth.curves[:, 0]), passes)
    recurrence = recurrence_of(growth.prints)
    replayed = lax.cond(
        recurs(recurrence, trend),
        lambda: replay(last_matrices(passes.first()), recurrence.period),
        lambda: unknown_replay(chain.dtype),
    )
    bound = certified_rate(criteria).astype(chain.dtype)
    curves = growth.curves.reshape(-1, growth.curves.shape[-1])
    verdict = conclude(curves, trend, recurrence, replayed, bound, lag=lag, threshold=threshold)
    return verdict, recurrence.period


def as_criterion(prediction: Prediction) -> Criterion:
    """Give the prediction as one more row beside the criteria."""
    source = f"from {prediction.prefix} steps"
    rate, error = prediction.rate, prediction.rate_error
    settings: dict[str, Any] = {"lag": prediction.lag, "threshold": prediction.threshold}
    row = from_rate("prediction", "estimate", source, "a prefix", rate, error=error, **settings)
    return dataclasses.replace(row, code=prediction.regime_code)


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
