"""How well does `predict` foresee regime and horizon, and what is it to the rules of thumb?

Some 2,300 networks: the zoo, and networks while they are trained. The truth is measured by one
backward pass over 1,000 lags on fresh inputs. Half of the kinds were looked at while `predict`
was written (`TUNING`), the other half is reported. Options: --small, --records PATH.npz (one
entry for each network), --cache FOLDER (measured gradients, trained parameters), --networks N
(of each kind), --half tuning (half of the kinds only; nothing is stored).
"""

from _harness import race, store

import argparse
import hashlib
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import _trained

import gradhorizon as gh
from gradhorizon.studies import _zoo, _zoo_score, _zoo_truth

QUESTION = "Regime and horizon predicted from 200 steps, against the measured gradient"
TUNING = (
    "tanh, gaussian", "tanh, orthogonal", "tanh, heavy", "tanh, blocks", "tanh, ring",
    "tanh, circulant", "tanh, shift", "tanh, negative", "tanh, any gain, gaussian",
    "tanh, nilpotent", "autonomous tanh, gaussian", "autonomous tanh, antisymmetric",
    "autonomous tanh at the edge, orthogonal", "autonomous tanh at the edge, negative",
    "relu, gaussian", "relu, lognormal", "relu, near_identity", "autonomous relu, ring",
    "sigmoid, gaussian", "sigmoid, dale", "erf, orthogonal", "softsign, gaussian",
    "linear, gaussian", "linear, jordan", "autonomous linear, triangular", "leak 0.1, gaussian",
    "leak 0.1, autonomous, antisymmetric", "leak 0.5, relu, sparse", "LSTM, gaussian",
    "LSTM, large gain", "GRU, orthogonal", "GRU, autonomous", "minimal RNN, orthogonal",
    "trained elman, digits", "trained lstm, adding", "trained gru, digits",
    "trained minimal, adding",
)  # fmt: skip


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="toy sizes; nothing is stored")
    parser.add_argument("--records", type=Path, help="write one entry for each network here")
    default = Path(tempfile.gettempdir()) / "gradhorizon-predictor"
    parser.add_argument("--cache", type=Path, default=default, help="measured gradients")
    parser.add_argument("--networks", type=int, default=33, help="of each kind")
    parser.add_argument("--half", choices=("tuning", "report"), help="these kinds only")
    return parser.parse_args()


def fingerprint(group: _zoo.Group) -> str:
    """Name a group by its contents: step, parameters, states, input processes, seeds."""
    members = [(n.process, n.seed) for n in group.networks]
    text = re.sub(r" at 0x[0-9a-f]+", "", repr((group.step, members, _zoo_truth.LENGTH)))
    digest = hashlib.sha256(text.encode())
    for leaf in jax.tree.leaves((group.params, group.h0)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:24]


def measured(group: _zoo.Group, folder: Path, sequence: int = _zoo.TRUTH) -> np.ndarray:
    """Measure a group, or read what was measured before."""
    mark = "" if sequence == _zoo.TRUTH else f"-{sequence}"
    path = folder / f"{fingerprint(group)}{mark}.npy"
    if not path.exists():
        growth = _zoo_truth.measure(group, sequence=sequence).astype(np.float32)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, growth)
    return np.load(path).astype(np.float64)


def judge(networks: list[_zoo.Network], folder: Path) -> _zoo_score.Records:
    """Measure and predict all networks, group by group."""
    parts = []
    with tqdm.tqdm(total=len(networks), desc="judge", unit="networks") as bar:
        for group in _zoo.group(networks):
            growth, again = (measured(group, folder, s) for s in (_zoo.TRUTH, _zoo.AGAIN))
            prediction = _zoo_score.predicted(group)
            parts.append(_zoo_score.records_of(group, growth, prediction, again))
            bar.update(len(group.networks))
    return _zoo_score.joined(parts)


def row(label: str, records: _zoo_score.Records) -> dict[str, Any]:
    """Flatten the scores: counts and shares of predict, then those of each rule."""
    found = _zoo_score.scores(records)
    count, outside = found["networks"], found["networks"] - found["in band"]
    out: dict[str, Any] = {"networks of": label}
    out |= {k: v for k, v in found.items() if not isinstance(v, (dict, list))}
    out["coverage"] = share(found["covered"], count)
    for rule, score in ((k, v) for k, v in found.items() if isinstance(v, dict)):
        out |= {
            f"{rule}: accuracy": share(score["right"], count),
            f"{rule}: accuracy outside band": share(score["right outside band"], outside),
            f"{rule}: speaks": share(score["decided"], count),
            f"{rule}: median error": score["median error"],
            f"{rule}: 90 % error": score["90 % error"],
        }
    for true, line in zip(("vanishing", "balanced", "exploding"), found["confusion"], strict=True):
        for said, number in zip(("vanishing", "balanced", "exploding"), line, strict=True):
            out[f"{true} called {said}"] = number
    return {k: finite(v) for k, v in out.items()}


def share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def finite(value: Any) -> Any:
    """JSON knows no infinity: a quantile that is not finite is stored as missing."""
    return float("nan") if isinstance(value, float) and not math.isfinite(value) else value


def table(records: _zoo_score.Records) -> list[dict[str, Any]]:
    """Give totals of both halves, and one row for each kind."""
    tuning = np.isin(records["kind"], TUNING)
    kept = {"report half": ~tuning, "tuning half": tuning, "all": np.ones(tuning.size, bool)}
    rows = [
        row(label, _zoo_score.selected(records, mask)) for label, mask in kept.items() if mask.any()
    ]
    for kind in dict.fromkeys(records["kind"].tolist()):
        rows.append(row(kind, _zoo_score.selected(records, records["kind"] == kind)))
    return rows


def timings(*, small: bool) -> list[dict[str, Any]]:
    """Time predict at 200 steps against diagnose and gradient_profile at 10,000, in turn."""
    rows = []
    prefix, steps, sizes = (20, 100, (8,)) if small else (200, 10_000, (32, 128))
    for n in sizes:
        cells = {"elman": gh.cells.elman(n, 2), "lstm": gh.cells.lstm(n // 2, 2)}
        for name, cell in cells.items():  # an LSTM of n/2 units has a state of n numbers
            params, h0 = cell.init(jax.random.key(0)), cell.initial_state()
            xs = jax.random.normal(jax.random.key(1), (steps, 2))
            network = cell.step, params, h0
            turns = race(
                {
                    "predict": lambda a=network, x=xs: gh.predict(*a, x[:prefix]),
                    "gradient_profile": lambda a=network, x=xs: gh.gradient_profile(*a, x, last),
                    "diagnose": lambda a=network, x=xs: gh.diagnose(*a, x),
                },
                repeats=1,
            )
            base = turns["predict"]["best"]
            ratios = {f"{k}, times predict": turns[k]["best"] / base for k in turns}
            rows.append(
                {"networks of": f"time, {name}, state of {n}", "seconds of predict": base} | ratios
            )
    return rows


def last(states: Any) -> Any:
    """Take the sum of the last state as a loss."""
    return sum(jnp.sum(leaf[-1]) for leaf in jax.tree.leaves(states))


def main() -> None:
    given = options()
    jax.config.update("jax_enable_x64", True)
    count = 2 if given.small else given.networks
    kinds = list(_zoo.KINDS)[:: 8 if given.small else 1]
    networks = [n for kind in tqdm.tqdm(kinds, desc="draw") for n in _zoo.draw(kind, count)]
    networks += _trained.networks(given.cache / "trained", small=given.small)
    if given.half:
        networks = [n for n in networks if (n.kind in TUNING) == (given.half == "tuning")]
    records = judge(networks, given.cache / "truth")
    if given.records:
        given.records.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(given.records, **records)
    rows = table(records)
    for line in rows:
        sys.stdout.write(summary(line) + "\n")
    if given.small or (given.networks == 33 and not given.half):
        rows += timings(small=given.small)
        keys = dict.fromkeys(key for line in rows for key in line)
        store("predictor", QUESTION, [{k: r.get(k) for k in keys} for r in rows], small=given.small)


def summary(line: dict[str, Any]) -> str:
    """Say the main numbers of a row in one line."""
    names = ("accuracy", "accuracy outside band", "median error", "90 % error")
    numbers = " ".join(f"{line[f'predict: {name}']:7.3f}" for name in names)
    return (
        f"{line['networks of']:42s} {line['networks']:5d} in band {line['in band']:4d} "
        f"coverage {line['coverage']:.3f} | accuracy, outside band, error 50 %, 90 %: {numbers}"
    )


if __name__ == "__main__":
    main()
