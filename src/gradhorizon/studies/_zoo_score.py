"""How predictions fared: accuracy of the regime, error of the horizon, coverage of its interval.

A measured horizon H says that the gradient left [ε, 1/ε] between lag H and lag H + 1; one of
1000 says that it had not left by then. A predicted horizon is a real number. Its error is its
distance from [H, H + 1] in ln, and it is defined only where the exit was observed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon.regimes.predict import predict
from gradhorizon.studies._zoo import PREFIX, Group
from gradhorizon.studies._zoo_truth import LAGS, in_chunks, reach

STEPS = 200  # of prefix
UNDECIDED = 2
CERTIFICATE = "largest singular value"
RULES = {
    "ρ(W) < 1": "spectral radius",
    "σ₁(W) < 1/γ": CERTIFICATE,
    "mean field χ < 1": "mean field χ",
    "ρ at the mean state": "spectral radius at the mean state",
    "exponent of the prefix": "leading exponent of the prefix",
}
CONSTANT = "375 steps"  # the folklore of 250 to 500 steps
SECOND = "a second measurement"  # what no prediction can better: the truth on other inputs
Records = dict[str, np.ndarray]


def predicted(group: Group, *, steps: int = STEPS, lag: int = LAGS) -> Records:
    """Predict every network of a group from a prefix; give the columns that are judged."""
    xs = group.inputs(steps, PREFIX)
    length = steps if xs is None else None

    def one(network: Any) -> dict[str, Any]:
        params, h0, xs = network
        return _columns(predict(group.step, params, h0, xs, lag=lag, length=length, throw=False))

    # one after the other: jaxlib 0.10 can deadlock where two batched LAPACK calls meet on two cores
    run = jax.jit(lambda *networks: jax.lax.map(one, networks))
    return in_chunks(run, (group.params, group.h0, xs), 32)


def _columns(prediction: Any) -> dict[str, Any]:
    """Take from a prediction what is judged; "certified" is the smallest certified rate."""
    low, high = prediction.horizon_interval
    found = {
        "code": prediction.regime_code,
        "rate": prediction.rate,
        "rate error": prediction.rate_error,
        "horizon": prediction.horizon,
        "low": low,
        "high": high,
        "status": prediction.status,
    }
    certified = jnp.asarray(jnp.inf, prediction.rate.dtype)
    for c in prediction.criteria:
        found |= {f"rate: {c.name}": c.rate, f"code: {c.name}": c.code}
        if c.kind == "certificate":
            certified = jnp.fmin(certified, c.rate)
    return found | {"certified": certified}


def records_of(
    group: Group, growth: np.ndarray, prediction: Records, again: np.ndarray | None = None
) -> Records:
    """Put measurement and prediction of a group side by side, one entry for each network.

    Parameters
    ----------
    group
        The networks.
    growth
        What `_zoo_truth.measure` gave.
    prediction
        What `predicted` gave, which becomes part of the record.
    again
        A second measurement like `growth`, or None.

    Returns
    -------
    dict of arrays
        Columns; those of a criterion are called ``rate: name`` and ``code: name``.
    """
    found = reach(growth)
    columns: Records = {
        "kind": np.array([n.kind for n in group.networks]),
        "family": np.array([n.family for n in group.networks]),
        "size": np.array([n.size for n in group.networks]),
        "inputs": np.array([getattr(n.process, "name", "none") for n in group.networks]),
        "seed": np.array([n.seed[-1] for n in group.networks]),
        "finite": np.logical_not(np.isnan(growth).any(axis=1)),
        "true horizon": found.horizon.astype(float),
        "true side": found.side,
        "true rate": growth[:, -1] / (growth.shape[1] - 1),
        "violation": _excess(growth, prediction["certified"]),
        **prediction,
    }
    if again is not None:
        second = reach(again)
        columns["second horizon"], columns["second side"] = second.horizon * 1.0, second.side
    return columns


def _excess(growth: np.ndarray, certified: np.ndarray) -> np.ndarray:
    """Give the largest excess of ln growth over a certified rate times the lag.

    A millionth of the growth is granted to rounding: measurements are kept in float32.
    """
    with np.errstate(invalid="ignore"):
        excess = growth - np.arange(growth.shape[1]) * certified[:, None] - 1e-6 * np.abs(growth)
    return np.nanmax(excess, axis=1, initial=-np.inf)


def joined(parts: list[Records]) -> Records:
    """Append records; a criterion that a group lacks is undecided there."""
    names = dict.fromkeys(name for part in parts for name in part)

    def column(part: Records, name: str) -> np.ndarray:
        if name in part:
            return part[name]
        return np.full(len(part["kind"]), UNDECIDED if name.startswith("code: ") else np.nan)

    return {name: np.concatenate([column(part, name) for part in parts]) for name in names}


def selected(records: Records, mask: np.ndarray) -> Records:
    """Keep some of the networks."""
    return {name: column[mask] for name, column in records.items()}


def horizon_error(horizon: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Give the relative error of predicted horizons: e^d - 1, d their ln-distance from [H, H+1].

    A horizon that is missing counts as infinitely wrong.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        above = np.where(horizon > true + 1, np.log(horizon / (true + 1)), 0)
        below = np.where(horizon < true, np.log(true / horizon), 0)
        error = np.expm1(above + below)
    return np.where(np.isnan(horizon), np.inf, error)


def covered(records: Records) -> np.ndarray:
    """Say which true horizons lie inside the 90 % interval; beyond the last lag, its upper end."""
    true, low, high = records["true horizon"], records["low"], records["high"]
    seen = records["true side"] != 0
    return np.where(seen, (low <= true + 1) & (high >= true), high >= LAGS)


def in_band(records: Records) -> np.ndarray:
    """Say where the regime is uncertain by the prediction's own interval."""
    certain = (records["low"] > LAGS) | (records["high"] < LAGS)
    return ~certain


def verdicts(records: Records) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Give code and horizon of `predict`, each rule of thumb alone, and a second measurement."""
    found = {"predict": (records["code"], records["horizon"])}
    for rule, name in RULES.items():
        if f"rate: {name}" in records:
            code, rate = records[f"code: {name}"], records[f"rate: {name}"]
            with np.errstate(divide="ignore"):
                horizon = np.where(code == UNDECIDED, np.nan, np.log(1e3) / np.abs(rate))
            found[rule] = code, horizon
    count = len(records["code"])
    found[CONSTANT] = np.full(count, -1), np.full(count, 375.0)
    if "second side" in records:
        # half a step in, since a measured H stands for an exit between H and H + 1
        found[SECOND] = records["second side"], records["second horizon"] + 0.5
    return found


def scores(records: Records) -> dict[str, Any]:
    """Count: networks, accuracies, errors, coverage, violations; for `predict` and every rule.

    Networks whose state or gradient overflows have no truth and are left out, but counted.
    """
    kept = selected(records, records["finite"])
    count, band, side = len(kept["code"]), in_band(kept), kept["true side"]
    seen = side != 0
    found: dict[str, Any] = {
        "networks": count,
        "left out": int(np.sum(~records["finite"])),
        "in band": int(band.sum()),
        "observed": int(seen.sum()),
        "covered": int(covered(kept).sum()),
        "certificate violations": int(np.sum(kept["violation"] > 1e-6)),
    }
    found["certificates"] = int(np.sum(kept.get(f"code: {CERTIFICATE}", np.zeros(0)) == -1))
    found["false certificates"] = int(
        np.sum((kept.get(f"code: {CERTIFICATE}", np.zeros(count)) == -1) & (side != -1))
    )
    found["confusion"] = [
        [int(np.sum((side == true) & (kept["code"] == said))) for said in (-1, 0, 1)]
        for true in (-1, 0, 1)
    ]
    for rule, (code, horizon) in verdicts(kept).items():
        right = code == side
        error = horizon_error(horizon, kept["true horizon"])[seen]
        found[rule] = {
            "right": int(right.sum()),
            "decided": int(np.sum(code != UNDECIDED)),
            "right outside band": int(right[~band].sum()),
            "median error": _quantile(error, 0.5),
            "90 % error": _quantile(error, 0.9),
        }
    return found


def _quantile(values: np.ndarray, level: float) -> float:
    """Give a value of the sample, so that infinite ones need no arithmetic; NaN if none."""
    if not values.size:
        return float("nan")
    return float(np.quantile(values, level, method="higher"))
