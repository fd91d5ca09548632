"""`gradhorizon demo`: five recurrent networks, real sequences, one verdict each."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gradhorizon import plots
from gradhorizon._checks import worded
from gradhorizon._record import jsonable
from gradhorizon.cells import Cell, elman, gru, inits, lstm
from gradhorizon.chain.gradient import generic_profile
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.regimes._text import steps
from gradhorizon.regimes.diagnose import Diagnosis, diagnose
from gradhorizon.regimes.matrix import analyze_matrix
from gradhorizon.regimes.regime import reach_of_profile
from gradhorizon.remedies.tasks import sequential_digits

_STATE = 32  # numbers of state: an LSTM of half as many units, since its state is a pair
_IMAGES = 32
_THRESHOLD = 1e-3
_INPUT_GAIN = 0.5
_FILES = ("summary.json", "gradient_by_lag.png", "repeated_term.png")


class Entry(NamedTuple):
    """A network of the demonstration."""

    name: str
    title: str
    cell: Cell


def networks() -> tuple[Entry, ...]:
    """Give the five networks, as they are at initialization."""
    drive = inits.gaussian(_INPUT_GAIN)

    def tanh_rnn(gain: float) -> Cell:
        return elman(_STATE, 1, recurrent_init=inits.gaussian(gain), input_init=drive)

    return (
        Entry("elman-0.5", "tanh RNN, gain 0.5", tanh_rnn(0.5)),
        Entry("elman-1.5", "tanh RNN, gain 1.5", tanh_rnn(1.5)),
        Entry("elman-4", "tanh RNN, gain 4", tanh_rnn(4.0)),
        Entry("gru", "GRU", gru(_STATE, 1, input_init=drive)),
        Entry("lstm", "LSTM, forget bias 1", lstm(_STATE // 2, 1, input_init=drive)),
    )


class Result(NamedTuple):
    """What the demonstration keeps of one network."""

    entry: Entry
    diagnosis: Diagnosis
    by_lag: np.ndarray  # (images, T + 1)
    horizons: np.ndarray  # (images,)


def run_demo(folder: Path, *, quiet: bool) -> int:
    """Diagnose the five networks and write figures and numbers."""
    _claim(folder)
    jax.config.update("jax_enable_x64", True)
    out = sys.stdout.write
    sequences = sequential_digits(dtype=jnp.float64).xs[:_IMAGES]
    out(
        f"{_IMAGES} handwritten digits (UCI), read pixel by pixel: sequences of "
        f"{sequences.shape[1]} steps.\nFive networks with a state of {_STATE} numbers, at "
        "initialization; nothing is trained.\n\n"
    )
    results = []
    entries = networks()
    bar = tqdm(entries, disable=quiet, leave=False, file=sys.stderr)
    for number, entry in enumerate(bar):
        bar.set_description(entry.title)
        result = measure(entry, jax.random.key(number), sequences)
        results.append(result)
        bar.clear()
        out(_paragraph(result))
    _write(folder, results)
    first = results[0].diagnosis
    out(f"\nThe first verdict in full:\n\n{first}\n\n")
    out(f"Figures and numbers are in {folder}/ (start with gradient_by_lag.png).\n")
    out("Next: gradhorizon diagnose FILE.py:NAME for your own network (see the README), or\n")
    out("      gradhorizon figures --list for why repetition makes gradients unstable.\n")
    return 0


def measure(entry: Entry, key: Any, sequences: Any) -> Result:
    """Diagnose a network on the first sequence and profile its gradient on all of them."""
    params, h0 = jax.jit(entry.cell.init)(key), entry.cell.initial_state()
    diagnosis = diagnose(entry.cell.step, params, h0, sequences[0], threshold=_THRESHOLD)

    def matrices(xs: Any) -> Any:
        return jacobian_chain(entry.cell.step, params, h0, xs).matrices()

    by_lag, horizons = _reach(jax.jit(jax.vmap(matrices))(sequences), diagnosis.rate)
    return Result(entry, diagnosis, np.asarray(by_lag), np.asarray(horizons))


@jax.jit
def _reach(matrices: Any, rate: Any) -> tuple[Any, Any]:
    """Give profile and horizon of every sequence; compiled once for all networks."""

    def one(chain: Any) -> tuple[Any, Any]:
        by_lag = generic_profile(JacobianChain.from_matrices(chain)).by_lag
        return by_lag, reach_of_profile(by_lag, rate, _THRESHOLD).horizon

    return jax.vmap(one)(matrices)


def _claim(folder: Path) -> None:
    """Make the folder, or accept one of an earlier run; refuse anything else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(worded("output", "be a folder", folder))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "summary.json").exists():
        remedy = "Name an empty or a new one."
        raise ValueError(worded("output", "be empty or made by this command", folder, remedy))
    folder.mkdir(parents=True, exist_ok=True)


def _paragraph(result: Result) -> str:
    """Say the verdict of one network in three lines."""
    d = result.diagnosis
    low, middle, high = np.percentile(result.horizons, [0, 50, 100])
    return (
        f"{result.entry.title}\n  {str(d).splitlines()[0]}\n"
        f"  rate {float(d.rate):+.3f} ± {float(d.rate_error):.3f} nats per step; horizon over "
        f"{_IMAGES} images: median {steps(middle)}, from {steps(low)} to {steps(high)}\n"
    )


def _write(folder: Path, results: list[Result]) -> None:
    """Write the figures, then the summary that marks the folder as complete."""
    plots.save(overview(results), folder / "gradient_by_lag.png")
    for result in results:
        plots.save(result.diagnosis.plot(), folder / f"{result.entry.name}.png")
    last_rnn = results[2]
    W = last_rnn.entry.cell.init(jax.random.key(2))["W"]
    plots.save(plots.matrix(analyze_matrix(W), W), folder / "repeated_term.png")
    summary = {
        result.entry.name: {
            "title": result.entry.title,
            "regime": jsonable(result.diagnosis.regime),
            "rate": jsonable(result.diagnosis.rate),
            "rate_error": jsonable(result.diagnosis.rate_error),
            "horizon": jsonable(result.diagnosis.horizon),
            "horizon_observed": jsonable(result.diagnosis.horizon_observed),
            "horizon_by_image": jsonable(result.horizons),
            "alive": dict(
                zip(
                    map(str, result.diagnosis.singular.lags.tolist()),
                    result.diagnosis.alive.tolist(),
                    strict=True,
                )
            ),
            "advice": list(result.diagnosis.advice),
        }
        for result in results
    }
    temporary = folder / f".summary.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "summary.json")


def overview(results: list[Result]) -> Any:
    """Draw all networks in one figure: median over the images, band from 10 to 90 %."""
    figure, axes = plots.new_figure(7.0, 4.0)
    colors = list(plots.COLORS.values())
    with plots.style():
        for number, result in enumerate(results):
            decades = result.by_lag / plots.LN10
            low, high = np.percentile(decades, [10, 90], axis=0)
            lags = np.arange(decades.shape[1])
            axes.fill_between(lags, low, high, color=colors[number], alpha=0.2, linewidth=0)
            last = number == len(results) - 1
            middle = np.median(result.horizons)
            about = "about " if middle > lags[-1] else ""
            plots.gradient_profile(
                axes,
                np.median(result.by_lag, axis=0),
                label=f"{result.entry.title}: {about}{steps(middle)} steps",
                color=colors[number],
                threshold=_THRESHOLD if last else None,
            )
        axes.set_title("How far back the gradient reaches before it leaves the shaded window")
        axes.text(
            0.01,
            0.02,
            f"median and 10–90 % over {_IMAGES} digits read pixel by pixel, untrained networks",
            transform=axes.transAxes,
            fontsize=7.5,
            color=plots.COLORS["gray"],
        )
    return figure
