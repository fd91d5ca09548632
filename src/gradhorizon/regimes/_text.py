"""Diagnosis and prediction as text: the verdict first, then why, then what would help."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from gradhorizon._record import Status
from gradhorizon.products import _pairs
from gradhorizon.regimes._combine import CONTINUED, RECURRENT, SEEN
from gradhorizon.regimes.criteria import Criterion, disagreements
from gradhorizon.regimes.regime import Regime

if TYPE_CHECKING:
    from gradhorizon.regimes.diagnose import Diagnosis
    from gradhorizon.regimes.forecast import DtypeForecast
    from gradhorizon.regimes.paths import StatePaths
    from gradhorizon.regimes.predict import Prediction

_WIDTH = 96
_SHOWN_PATHS = 9  # all paths of up to three parts
_POINTS = (0.05, 0.5, 0.95)  # of the time constants that are shown


def steps(number: Any) -> str:
    """Write a number of steps: whole, grouped, or the word for infinity."""
    value = float(number)
    if math.isnan(value):
        return "?"
    if math.isinf(value):
        return "without end"
    return f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def headline(diagnosis: "Diagnosis") -> str:
    """Give the verdict in one line: regime, lag, horizon."""
    if diagnosis.regime is None:
        status = Status(int(diagnosis.status))
        where = f" (step {int(diagnosis.first_bad_step)})" if diagnosis.first_bad_step >= 0 else ""
        return f"{status.name}{where}: {status.text}."
    horizon = float(diagnosis.horizon)
    far = f"{steps(horizon)} step" + ("" if round(horizon) == 1 else "s")
    if not diagnosis.horizon_observed and horizon > diagnosis.length:
        far = f"the whole {diagnosis.length} steps and more"
        if math.isfinite(horizon):
            far += f" (about {steps(horizon)}, by its rate)"
    verb = "reaches back"
    if diagnosis.regime is Regime.EXPLODING:
        verb = "stays in bounds for"
    return f"{diagnosis.regime} at lag {diagnosis.lag}: the gradient {verb} {far}."


def diagnosis_text(diagnosis: "Diagnosis") -> str:
    """Write the whole diagnosis."""
    lines = [headline(diagnosis)]
    if diagnosis.regime is None:
        return lines[0]
    rate, error = float(diagnosis.rate), float(diagnosis.rate_error)
    run = f"{diagnosis.length} steps, state of {_size(diagnosis)}"
    lines += [
        f"rate {rate:.4g} ± {error:.2g} nats per step (×{math.exp(rate):.4g} per step); "
        f"{run}, window ε = {diagnosis.threshold:g}",
        "",
        *criteria_table(diagnosis.criteria, diagnosis.lag, diagnosis.threshold),
        _disagreement(diagnosis.criteria[:-1], diagnosis.criteria[-1].verdict, "the last row"),
        "",
        *([] if diagnosis.paths is None else [*paths_text(diagnosis.paths), ""]),
        "directions alive: " + _alive(diagnosis),
        "plain backward pass: " + forecast_text(diagnosis.dtype_forecast),
        "",
        "what would help:",
    ]
    for sentence in diagnosis.advice:
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join([*lines, "", _checks(diagnosis)])


def prediction_text(prediction: "Prediction") -> str:
    """Write the whole prediction."""
    if prediction.regime is None or math.isnan(float(prediction.rate)):
        status = Status(int(prediction.status))
        return f"{status.name}: {status.text}."
    low, high = (steps(h) for h in prediction.horizon_interval)
    return "\n".join(
        [
            f"{prediction.regime} at lag {prediction.lag}: predicted horizon "
            f"{steps(prediction.horizon)} steps (90 %: {low} to {high}).",
            f"rate {float(prediction.rate):.4g} ± {float(prediction.rate_error):.2g} nats per "
            f"step from {prediction.prefix} steps",
            *textwrap.wrap(f"because {prediction.reason}", _WIDTH),
            "",
            *criteria_table(prediction.criteria, prediction.lag, prediction.threshold),
            _disagreement(prediction.criteria, prediction.regime, "the prediction"),
        ]
    )


def prediction_reason(prediction: "Prediction") -> str:
    """Say what a prediction rests on."""
    if int(prediction.status) != int(Status.OK):
        return Status(int(prediction.status)).text
    period, prefix = int(prediction.period), prediction.prefix
    same = "all steps have the same Jacobian"
    repeat = same if period == 1 else f"the step Jacobians repeat every {period} steps"
    basis = {
        RECURRENT: f"{repeat}: the gradient at any lag is a power of one product",
        SEEN: f"the gradient leaves the window within the prefix of {prefix} steps",
        CONTINUED: f"the growth seen on {prefix} steps is continued by its rate",
    }[int(prediction.basis)]
    certified = [c for c in prediction.criteria if c.kind == "certificate" and c.verdict]
    if certified and prediction.regime is Regime.VANISHING:
        basis += "; that it vanishes is certain, since no step can grow it"
    return f"{basis}."


def criteria_table(criteria: tuple[Criterion, ...], lag: int, threshold: float) -> list[str]:
    """Lay the criteria out as rows: value, rate, verdict, horizon, kind, what it needs."""
    says = f"says at lag {lag}"
    left, right = f"{'criterion':<34}{'value':>9}{'rate':>10}", f"{'kind':<13}needs"
    head = f"{left:<63}{says:<18}{'horizon':>12}  {right}"
    rows = [head, "-" * len(head)]
    for c in criteria:
        rate = float(c.rate)
        verdict = "does not apply" if math.isnan(rate) else c.verdict or "nothing"
        horizon = -math.log(threshold) / abs(rate) if rate else math.inf
        if math.isnan(rate) or (c.upper_bound and rate >= 0):
            horizon = math.nan
        shown = "-" if math.isnan(horizon) else steps(horizon)
        if c.upper_bound and rate < 0:
            shown = f"≤ {shown}"
        error = "" if math.isnan(float(c.error)) else f" ± {float(c.error):.2g}"
        error = error if len(error) < 10 else f" ± {float(c.error):.1g}"  # 4.3e-18 fills its column
        numbers = f"{float(c.value):>9.4g}{rate:>10.4g}{error:<10}"
        kind = f"{c.kind:<13}{c.needs}"
        rows.append(f"{c.name:<34}{numbers}{verdict!s:<18}{shown:>12}  {kind}")
    return rows


def _disagreement(criteria: tuple[Criterion, ...], reference: Any, whom: str) -> str:
    """Say which criteria contradict the best that is known."""
    wrong = disagreements(criteria, reference)
    if not wrong:
        return f"No criterion contradicts {whom}."
    verb = "contradicts" if len(wrong) == 1 else "contradict"
    return f"{', '.join(wrong)} {verb} {whom}."


def _size(diagnosis: "Diagnosis") -> str:
    """Write n, and how it comes about where entries are complex."""
    total, pairs = diagnosis.size, diagnosis.complex_entries
    if not pairs:
        return f"{total}"
    rest = "" if total == 2 * pairs else f" and {total - 2 * pairs} real"
    return f"{total} ({pairs} complex numbers as two real ones each{rest})"


def _alive(diagnosis: "Diagnosis") -> str:
    """Write how many singular values are above ε at each lag, until none is.

    Of a holomorphic step on a complex state each pair of equal values is counted once.
    """
    total, pairs, values = diagnosis.size, diagnosis.complex_entries, diagnosis.singular
    bars = (values.log_values, values.error_bars, values.resolved)
    halved = total == 2 * pairs and bool(np.all(_pairs.fits(*bars)))
    words = []
    for lag, found in zip(np.asarray(values.lags), np.asarray(diagnosis.alive), strict=True):
        count = found // 2 if halved else found
        words.append(f"{count} at lag {lag}" if count else f"none at lag {lag}")
        if count == 0:
            break
    whole = f"of {total}"
    if halved:
        whole = f"of {pairs} complex ones, equal pairs counted once"
    elif total == 2 * pairs:
        whole = f"of {total} real ones; they do not come in equal pairs"
    return ", ".join(words) + f" ({whole})"


def forecast_text(forecast: "DtypeForecast") -> str:
    """Write the fate of each format."""
    words = []
    rows = zip(
        forecast.formats,
        np.asarray(forecast.lags),
        np.asarray(forecast.fates),
        np.asarray(forecast.extrapolated),
        strict=True,
    )
    for name, lag, fate, beyond in rows:
        if fate == 0 or not math.isfinite(lag):
            words.append(f"{name} survives")
        else:
            about = "about " if beyond else ""
            words.append(f"{name} {'0' if fate < 0 else 'inf'} from lag {about}{steps(lag)}")
    rule = "flushed" if all(forecast.flushed) else "kept"
    if any(forecast.flushed) and not all(forecast.flushed):
        kept = [n for n, f in zip(forecast.formats, forecast.flushed, strict=True) if not f]
        rule = f"kept in {', '.join(kept)} only"
    return "; ".join(words) + f" (subnormals {rule} on this device)"


def paths_text(paths: "StatePaths") -> list[str]:
    """Write the paths at the largest lag, and quantiles of the time constants."""
    if paths.status != Status.OK:
        status = Status(int(paths.status))
        return [f"{status.name}: {status.text}."]
    names, row = paths.names, int(np.argmax(np.asarray(paths.lags)))
    direct, total = np.asarray(paths.direct)[row], np.asarray(paths.total)[row]
    pairs = [(b, a) for b in range(len(names)) for a in range(len(names))]
    if len(pairs) > _SHOWN_PATHS:
        pairs = sorted(pairs, key=lambda p: -total[p])[:_SHOWN_PATHS]
    head = f"paths back over {int(paths.lags[row])} steps, ln of what arrives:"
    table = [(f"  {names[b]} → {names[a]}", direct[b, a], total[b, a]) for b, a in pairs]
    width = max(len(head), *(len(label) for label, *_ in table))
    lines = [f"{head:<{width}}{'direct':>10}{'total':>10}"]
    lines += [f"{label:<{width}}{one:>10.4g}{every:>10.4g}" for label, one, every in table]
    if len(pairs) < len(names) ** 2:
        lines.append(f"  and {len(names) ** 2 - len(pairs)} smaller ones")
    parts = np.split(np.asarray(paths.self_rates, dtype=float), np.cumsum(paths.sizes)[:-1])
    for name, rates, gated in zip(names, parts, paths.gated, strict=True):
        low, middle, high = (_duration(r) for r in np.quantile(rates, _POINTS, method="nearest"))
        spread = f" (5 to 95 %: {low} to {high})" if low != high else ""
        what = "gate" if gated else "self-loop"
        lines.append(f"time constant of {name} in steps, by its {what}: {middle}{spread}")
    return lines


def _duration(rate: float) -> str:
    """Write -1/rate, or a word where it is infinite or the unit grows."""
    if rate > 0:
        return "growing"
    return "endless" if rate == 0 else f"{-1 / rate:.3g}"


def _checks(diagnosis: "Diagnosis") -> str:
    """Write whether the self-checks passed, naming those that did not."""
    failed = [c for c in diagnosis.checks if not c.passed]
    if not failed:
        return f"self-checks: all {len(diagnosis.checks)} passed"
    shown = "; ".join(
        f"{c.name} is off by {float(c.residual):.2g} (allowed {float(c.tolerance):.2g})"
        for c in failed
    )
    return f"self-checks FAILED: {shown}"
