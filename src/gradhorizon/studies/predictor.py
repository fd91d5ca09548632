"""How well 200 steps foretell the gradient at a lag of 1,000, and how well rules of thumb do."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.studies import _zoo, _zoo_score, _zoo_truth
from gradhorizon.studies._study import Check

TITLE = "Prediction: 200 steps and the repeated term foretell the horizon; one rule alone does not"
QUESTION = "Can the gradient's regime be known without a long backward pass?"
SOURCE = (
    "Rules after Pascanu et al. 2013 (singular value), Jaeger 2001 (spectral radius), "
    "Schoenholz et al. 2017 (mean field)."
)
KINDS = (
    "tanh, gaussian", "tanh, dale", "tanh, orthogonal", "tanh, sparse", "tanh, low_rank",
    "autonomous tanh, gaussian", "relu, gaussian", "relu, orthogonal", "linear, gaussian",
    "linear, jordan", "leak 0.1, gaussian", "LSTM, orthogonal", "LSTM, gaussian",
    "GRU, gaussian", "minimal RNN, orthogonal",
)  # fmt: skip
SIZES = (32, 64)  # the first that a kind has, so that few programs are compiled
FAMILIES = {
    "tanh": ("blue", "o"),
    "autonomous": ("violet", "s"),
    "relu": ("red", "^"),
    "linear": ("olive", "D"),
    "leaky": ("gray", "v"),
    "gated": ("orange", "P"),
}
_REGIMES = ("vanishing", "balanced", "exploding")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many networks."""

    seed: int = 10
    networks: int = 24  # of each kind
    kinds: int = len(KINDS)


SMALL = Settings(kinds=2)


class Result(NamedTuple):
    """Measurement and prediction of every network."""

    settings: Settings
    records: _zoo_score.Records
    scores: dict[str, Any]


def compute(settings: Settings) -> Result:
    """Draw the networks, measure the gradients, predict, and count."""
    networks = [n for kind in KINDS[: settings.kinds] for n in _drawn(kind, settings)]
    parts = []
    for group in _zoo.group(networks):
        growth = _zoo_truth.measure(group)
        again = _zoo_truth.measure(group, sequence=_zoo.AGAIN)
        prediction = _zoo_score.predicted(group)
        parts.append(_zoo_score.records_of(group, growth, prediction, again))
    records = _zoo_score.joined(parts)
    return Result(settings, records, _zoo_score.scores(records))


def _drawn(kind: str, settings: Settings) -> list[_zoo.Network]:
    """Draw networks of one kind and of one size."""
    sizes = _zoo.KINDS[kind].sizes
    size = next(n for n in SIZES if n in sizes)
    drawn = _zoo.draw(kind, settings.networks * len(sizes), settings.seed)
    return [network for network in drawn if network.size == size]


def checks(result: Result) -> list[Check]:
    """Check coverage, accuracy and certificates; tolerances are binomial at this size."""
    found, predict = result.scores, result.scores["predict"]
    count, outside = found["networks"], found["networks"] - found["in band"]
    spread = 3 * math.sqrt(0.9 * 0.1 / count)
    missed = 3 * math.sqrt(0.01 * 0.99 / max(outside, 1))
    exact = np.isin(result.records["kind"], ["linear, gaussian", "linear, jordan"])
    checks = [
        Check("coverage of the 90 % interval", found["covered"] / count, 0.9, 0.05 + spread,
              "nominal; ±0.05 and three binomial standard errors"),
        Check("accuracy at lag 1000 outside the band",
              predict["right outside band"] / max(outside, 1), 1.0, 0.01 + missed,
              "at least 0.99; three binomial standard errors"),
        Check("certificates: largest excess of growth over the bound, nats",
              max(float(np.max(result.records["violation"], initial=0.0)), 0.0), 0.0, 1e-6,
              "‖Φ‖ ≤ bound^k, at every lag"),
        Check("certified networks that do not vanish",
              float(found["false certificates"]), 0.0, 0.0,
              "a certificate proves vanishing"),
        Check("networks whose state or gradient overflows",
              float(found["left out"]), 0.0, 0.03 * count,
              "gains are drawn so that states stay finite"),
        Check("networks whose prediction failed",
              float(np.sum(result.records["status"] != 0)), 0.0, 0.0, "status OK"),
        Check("confusion matrix: sum",
              float(np.sum(found["confusion"])), float(count), 0.0, "every network"),
    ]  # fmt: skip
    for name in ("predict", _zoo_score.SECOND):
        checks.append(
            Check(f"{name}: median error of the horizon", found[name]["median error"], 0.0, 0.3,
                  "agreement; first passages of two sequences differ by tens of percent")
        )  # fmt: skip
    if exact.any():
        errors = _zoo_score.horizon_error(
            result.records["horizon"], result.records["true horizon"]
        )[exact & (result.records["true side"] != 0)]
        checks.append(
            Check("linear networks: median error of the horizon",
                  float(np.median(errors)), 0.0, 0.1, "‖W^k‖ is known exactly")
        )  # fmt: skip
    return checks + _against_rules(result)


def _against_rules(result: Result) -> list[Check]:
    """Check that no rule of thumb alone does better, beyond three binomial standard errors."""
    found, count = result.scores, result.scores["networks"]
    best = max(found[rule]["right"] for rule in _rules(found)) / count
    lead = found["predict"]["right"] / count - best
    slack = 3 * math.sqrt(0.25 / count)
    return [
        Check("lead of the best rule of thumb over predict", max(-lead, 0.0), 0.0,
              slack, "predict sees what each of them sees; three binomial standard errors")
    ]  # fmt: skip


def _rules(found: dict[str, Any]) -> list[str]:
    """Name the rules of thumb that were scored."""
    return [rule for rule in (*_zoo_score.RULES, _zoo_score.CONSTANT) if rule in found]


def answer(result: Result) -> str:
    """Say what the figure shows."""
    found, predict = result.scores, result.scores["predict"]
    count, outside = found["networks"], found["networks"] - found["in band"]
    best = max(_rules(found), key=lambda rule: found[rule]["right"])
    return (
        f"Yes, within limits that it states: of {count} networks predict names the regime at lag "
        f"1000 for {predict['right'] / count:.1%}, for "
        f"{predict['right outside band'] / max(outside, 1):.1%} of the {outside} it is certain "
        f"about; its 90 % interval holds {found['covered'] / count:.1%} of the measured horizons; "
        f"the best rule of thumb ({best}) is right for {found[best]['right'] / count:.1%}."
    )


def draw(result: Result) -> Figure:
    """Draw predicted against measured horizons, the confusion matrix, and the rules."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=3, width_ratios=(1.25, 0.8, 0.9))
    with plots.style():
        _draw_horizons(panels[0], result)
        _draw_confusion(panels[1], result)
        _draw_rules(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_horizons(axes: Any, result: Result) -> None:
    """Draw every network, and interval bars of every sixth."""
    kept = _zoo_score.selected(result.records, result.records["finite"])
    top, line = 3e4, np.array([1, 1000])
    axes.fill_between(line, line / 1.5, line * 1.5, color=plots.COLORS["gray"], alpha=0.3,
                      linewidth=0)  # fmt: skip
    axes.annotate("within a factor\nof 1.5", (5, 5 / 1.5), xytext=(7, 0.55), fontsize=7,
                  arrowprops={"arrowstyle": "-", "linewidth": 0.7})  # fmt: skip
    axes.plot(line, line, color="black", linewidth=0.8)
    true = np.maximum(kept["true horizon"], 0) + 0.5
    for family, (color, marker) in FAMILIES.items():
        mine = kept["family"] == family
        if not mine.any():
            continue
        shown = np.clip(kept["horizon"], 0.5, top)
        axes.plot(true[mine], shown[mine], marker, color=plots.COLORS[color], markersize=2.6,
                  alpha=0.75, markeredgewidth=0, label=family)  # fmt: skip
        some = np.flatnonzero(mine)[::6]
        low, high = (np.clip(kept[end][some], 0.5, top) for end in ("low", "high"))
        axes.vlines(true[some], low, high, color=plots.COLORS[color], linewidth=0.5, alpha=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.8, 1500)
    axes.set_ylim(0.4, top * 1.4)
    axes.text(1000, 0.5, "not left by 1000 ↑", rotation=90, ha="right", va="bottom", fontsize=7)
    axes.legend(loc="upper left", fontsize=7, handletextpad=0.1, labelspacing=0.25)
    axes.set_xlabel("measured horizon (steps)")
    axes.set_ylabel("predicted horizon (steps)")
    axes.set_title(f"{len(true)} networks; bars: 90 %")


def _draw_confusion(axes: Any, result: Result) -> None:
    """Draw counts of measured against predicted regimes."""
    counts = np.array(result.scores["confusion"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.3, aspect="equal")
    for i, j in np.ndindex(3, 3):
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=9,
                  color="white" if share[i, j] > 0.75 else "black")  # fmt: skip
    axes.set_xticks(range(3), _REGIMES, rotation=30, ha="right", fontsize=7)
    axes.set_yticks(range(3), _REGIMES, fontsize=7)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("measured")
    axes.set_title("regime at lag 1000")


def _draw_rules(axes: Any, result: Result) -> None:
    """Draw the accuracy of predict, of each rule alone and of a second measurement."""
    found, count = result.scores, result.scores["networks"]
    names = ["predict", *_rules(found), _zoo_score.SECOND]
    places = np.arange(len(names))[::-1]
    shares = np.array([found[name]["right"] / count for name in names])
    errors = np.sqrt(shares * (1 - shares) / count)
    color = {"predict": plots.COLORS["orange"], _zoo_score.SECOND: "black"}
    for place, name, value, error in zip(places, names, shares, errors, strict=True):
        shade = color.get(name, plots.COLORS["gray"])
        axes.barh(place, value, xerr=error, color=shade, height=0.6,
                  error_kw={"linewidth": 0.8})  # fmt: skip
        inside = value > 0.2
        axes.text(0.02 if inside else value + 0.03, place, f"{value:.0%}", va="center",
                  fontsize=7, color="white" if inside else "black")  # fmt: skip
    axes.set_yticks(places, names, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of networks called right")
    axes.set_title("against rules of thumb")
