"""Spectral radius and largest singular value against the measured gradient: who errs, and where."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from gradhorizon import plots
from gradhorizon.regimes.regime import UNDECIDED, regime_of_rate
from gradhorizon.studies._criteria_networks import (
    FAMILIES,
    JORDAN,
    Family,
    Settings,
    examples,
    log_power,
    matrices,
    measure,
    numpy_growth,
)
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds

TITLE = "Spectral radius against singular values: only γσ₁ < 1 is never wrong, and it is rarely met"
QUESTION = "Does the spectral radius of the repeated matrix tell whether gradients vanish?"
SOURCE = (
    "Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), section 2.1; Trefethen & Embree, Spectra "
    "and Pseudospectra (2005), chapters 14-18; delay line after Ganguli, Huh & Sompolinsky 2008."
)
MARKERS = {"Gaussian": "o", "orthogonal": "s", "chain": "^", "low rank": "D"}
RULES = ("spectral radius", "σ₁ as a bound", "σ₁ as a rate", "ρ and σ₁ agree")
VERDICTS = {-1: "vanishing", 0: "balanced", 1: "exploding"}
SMALL = Settings(draws=20)


class Result(NamedTuple):
    """Where every network lies, what it does, and the gradients of a few telling ones."""

    settings: Settings
    radius: np.ndarray  # γ ρ(W), (families, draws)
    largest: np.ndarray  # γ σ₁(W)
    by_lag: np.ndarray  # ln of the gradient's size by lag, (families, draws, length + 1)
    code: np.ndarray  # measured regime at the last lag: -1, 0, 1
    powers: np.ndarray  # ln ‖W^(2^squarings)‖_F of the linear networks, (linear families, draws)
    numpy_growth: np.ndarray  # growth of the linear networks at the last lag by plain NumPy
    examples: dict[str, np.ndarray]  # ln ‖Φ(T, T-k)‖ by lag


def compute(settings: Settings) -> Result:
    """Draw every family, measure its gradients, and place them in the plane of both criteria."""
    keys = jax.random.split(jax.random.key(settings.seed), len(FAMILIES) + 1)
    weights = np.stack(
        [matrices(f.matrix, k, settings) for f, k in zip(FAMILIES, keys, strict=False)]
    )
    slopes = np.array([bounds.SLOPE_BOUNDS[f.activation] for f in FAMILIES])[:, None]
    radius = slopes * np.abs(np.linalg.eigvals(weights)).max(axis=-1)
    largest = slopes * np.linalg.norm(weights, 2, axis=(2, 3))
    by_lag, code, cotangents = measure(keys[-1], weights, settings)
    linear = np.array([f.activation == "identity" for f in FAMILIES])
    powers = log_power(weights[linear], settings.squarings)
    growth = numpy_growth(weights[linear], cotangents[linear], settings.length)
    telling = examples(keys[-1], settings)
    return Result(settings, radius, largest, by_lag, code, powers, growth, telling)


def said(result: Result) -> dict[str, np.ndarray]:
    """Give what every rule says of every network at the last lag: -1, 0, 1 or `UNDECIDED`."""
    s = result.settings
    by_radius, by_largest = (
        np.asarray(regime_of_rate(np.log(v), s.length, s.threshold))
        for v in (result.radius, result.largest)
    )
    bound = np.where(by_largest == -1, -1, UNDECIDED)
    both = np.where(by_radius == by_largest, by_radius, UNDECIDED)
    return dict(zip(RULES, (by_radius, bound, by_largest, both), strict=True))


def scores(result: Result, rule: str) -> dict[int, tuple[int, int]]:
    """Count for each verdict of a rule how often it was right, and how often it was given."""
    verdict = said(result)[rule]
    return {
        code: (int(np.sum((verdict == code) & (result.code == code))), int(np.sum(verdict == code)))
        for code in VERDICTS
    }


def checks(result: Result) -> list[Check]:
    """Compare with exact statements about matrices and their powers."""
    return [*_logic_checks(result), *_linear_checks(result), *_example_checks(result)]


def _logic_checks(result: Result) -> list[Check]:
    """Count exceptions to what is proven, and exhibit what is not."""
    s, verdicts = result.settings, said(result)
    lags = np.arange(s.length + 1)
    above = result.by_lag > lags * np.log(result.largest)[..., None] + 1e-10
    wrong = {
        rule: {code: given - right for code, (right, given) in scores(result, rule).items()}
        for rule in RULES
    }
    zero = (
        ("networks with ρ > σ₁", np.sum(result.radius > result.largest * (1 + 1e-12)),
         "an eigenvalue is at most the norm"),
        ("pairs of network and lag above (γσ₁)^k", above.sum(), "Pascanu et al. 2013"),
        ("σ₁ as a bound: false 'vanishing'", wrong[RULES[1]][-1], "certificate"),
        ("ρ and σ₁ agree: false 'vanishing'", wrong[RULES[3]][-1], "it contains the certificate"),
        ("networks that explode with γσ₁ ≤ 1",
         np.sum((result.code == 1) & (result.largest <= 1 - 1e-12)), "γσ₁ > 1 is necessary"),
    )  # fmt: skip
    linear = _linear()
    some = (
        ("linear, ρ says vanishing, explodes by the lag",
         np.any((verdicts[RULES[0]] == -1)[linear] & (result.code == 1)[linear])),
        ("driven, ρ and σ₁ say exploding, vanishes",
         np.any((verdicts[RULES[3]] == 1)[~linear] & (result.code == -1)[~linear])),
        ("γσ₁ > 1 and ρ > 1, balanced", np.any((result.radius > 1) & (result.code == 0))),
    )  # fmt: skip
    return [
        *(Check(name, float(count), 0.0, 0.0, source) for name, count, source in zero),
        *(Check(f"{name} (1 if found)", float(found), 1.0, 0.0, "a counterexample suffices")
          for name, found in some),
    ]  # fmt: skip


def _linear() -> np.ndarray:
    """Say for every family whether its units are linear."""
    return np.array([f.activation == "identity" for f in FAMILIES])


def _linear_checks(result: Result) -> list[Check]:
    """Check linear networks, for which powers of W are the whole story."""
    s = result.settings
    lags = np.arange(s.length + 1)
    row = FAMILIES.index(Family("identity", "orthogonal", 0.0))
    straight = result.by_lag[row] - lags * np.log(result.largest[row])[:, None]
    ends = result.by_lag[_linear()][..., -1]
    small = result.radius[_linear()] < 0.99  # closer to 1 the power is still too low to tell
    exceptions = np.sum(result.powers[small] > math.log(s.threshold))
    return [
        Check(f"linear, ρ < 0.99, not vanished at lag 2^{s.squarings}", float(exceptions), 0.0, 0.0,
              "ρ < 1: W^t → 0"),
        Check("linear: growth against powers of W in NumPy, worst, nats",
              float(np.max(np.abs(ends - result.numpy_growth))), 0.0, 1e-9, "same numbers"),
        Check("linear, orthogonal: distance from k ln σ, worst, nats",
              float(np.max(np.abs(straight))), 0.0, 1e-11, "‖Qᵀδ‖ = ‖δ‖"),
        Check("linear, orthogonal, σ = 1: regime code (balanced is 0)",
              float(result.code[row, 0]), 0.0, 0.0, "exact at every lag"),
    ]  # fmt: skip


def _example_checks(result: Result) -> list[Check]:
    """Check the telling examples against their closed forms."""
    jordan, delay = result.examples["jordan"], result.examples["delay"]
    peak = bounds.transient_growth(JORDAN, 64)
    n = result.settings.hidden
    lags = np.arange(jordan.size)
    lam, coupling = JORDAN[0]
    # singular values of λ^t [[1, a], [0, 1]], a = tM/λ: (√(4 + a²) ± a)/2
    slope = lags * coupling / lam
    exact = lags * math.log(lam) + np.arcsinh(slope / 2)
    return [
        Check("Jordan block: largest ‖W^t‖", math.exp(float(jordan.max())), 19.378770, 5e-7,
              "powers of [[.9, 5], [0, .9]]"),
        Check("Jordan block: its time t", float(np.argmax(jordan)), 9.0, 0.0, "the same"),
        Check("Jordan block: largest ‖W^t‖, by powers", math.exp(float(peak.log_peak)), 19.378770,
              5e-7, "theory.bounds.transient_growth"),
        Check("Jordan block: all lags against the closed form, worst, nats",
              float(np.max(np.abs(jordan - exact))), 0.0, 1e-10, "t ln λ + arsinh(tM/2λ)"),
        Check("delay line, ρ = 0: growth before lag N, worst, nats",
              float(np.max(np.abs(delay[:n]))), 0.0, 1e-12, "a shift keeps norms"),
        Check("delay line: share of lags from N on with gradient exactly 0",
              float(np.mean(np.isneginf(delay[n:]))), 1.0, 0.0, "nilpotent"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    right, given = scores(result, RULES[0])[-1]
    exploding_right, exploding = scores(result, RULES[0])[1]
    bound_right, bound = scores(result, RULES[1])[-1]
    both_right, both = scores(result, RULES[3])[1]
    total = result.code.size
    return (
        f"Only in the end, and only for linear networks. Of {total} networks at lag "
        f"{result.settings.length}, 'ρ < 1: vanishing' was right {right} of {given} times, "
        f"'ρ > 1: exploding' {exploding_right} of {exploding}; where ρ and σ₁ agreed on exploding "
        f"{both_right} of {both}. The certificate γσ₁ < 1 never erred ({bound_right} of {bound}), "
        f"and was silent on {total - bound}."
    )


def draw(result: Result) -> Figure:
    """Draw the plane of both criteria twice, the table of rules, and telling examples."""
    figure, panels = plots.new_figure(8.4, 7.4, nrows=2, ncols=2)
    with plots.style():
        _draw_plane(panels[0, 0], result, linear=True)
        _draw_plane(panels[0, 1], result, linear=False)
        _draw_table(panels[1, 0], result)
        _draw_examples(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_plane(axes: Any, result: Result, *, linear: bool) -> None:
    """Draw networks at (γρ, γσ₁), colored by what their gradient did."""
    for family, radius, largest, code in zip(
        FAMILIES, result.radius, result.largest, result.code, strict=True
    ):
        if (family.activation == "identity") != linear:
            continue
        colors = np.array([plots.REGIME_COLORS[VERDICTS[int(c)].upper()] for c in code])
        hollow = family.drive > 1
        axes.scatter(radius, largest, s=16 if hollow else 13, marker=MARKERS[family.matrix],
                     facecolors="none" if hollow else colors, edgecolors=colors, linewidths=0.9,
                     alpha=0.85)  # fmt: skip
    low, high = 0.15, 6.0
    axes.fill_between([low, high], [low, high], low, color=plots.COLORS["gray"], alpha=0.15,
                      linewidth=0)  # fmt: skip
    for line in (axes.axvline, axes.axhline):
        line(1, color="black", linewidth=0.8)
    axes.text(3.1, 1.5, "impossible:\nρ > σ₁", fontsize=7.5, ha="center", va="center")
    axes.text(0.165, 0.52, "both < 1", fontsize=7.5, va="top")
    axes.text(0.165, 5.7, "disagree: ρ < 1 < σ₁", fontsize=7.5, va="top")
    axes.text(5.7, 5.7, "both > 1", fontsize=7.5, ha="right", va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0.3, high)
    ticks = [0.2, 0.5, 1, 2, 5]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    axes.set_yticks(ticks[1:], [f"{t:g}" for t in ticks[1:]], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("γρ(W), spectral radius times slope")
    axes.set_ylabel("γσ₁(W)")
    words = "linear networks" if linear else "tanh and relu networks"
    axes.set_title(f"{words}: regime at lag {result.settings.length}")
    _legend(axes, linear=linear)


def _legend(axes: Any, *, linear: bool) -> None:
    """Explain colors (in the linear panel) and markers."""
    if linear:
        handles = [
            Line2D([], [], marker="o", linestyle="", color=plots.REGIME_COLORS[v.upper()],
                   markersize=4, label=v)
            for v in VERDICTS.values()
        ]  # fmt: skip
    else:
        handles = [
            Line2D([], [], marker=m, linestyle="", color=plots.COLORS["gray"], markersize=4,
                   label=kind)
            for kind, m in MARKERS.items()
        ]  # fmt: skip
        handles.append(
            Line2D([], [], marker="o", linestyle="", color=plots.COLORS["gray"], markersize=4,
                   markerfacecolor="none", label="strong input")
        )  # fmt: skip
    axes.legend(handles=handles, loc="lower right", fontsize=7, handletextpad=0.1,
                borderaxespad=0.2, labelspacing=0.25)  # fmt: skip


def _draw_table(axes: Any, result: Result) -> None:
    """Draw for each rule and verdict how often it was right."""
    columns = [*VERDICTS.values(), "says nothing"]
    for i, rule in enumerate(RULES):
        given_in_all = 0
        for j, (right, given) in enumerate(scores(result, rule).values()):
            share = right / given if given else 0.0
            given_in_all += given
            axes.add_patch(_cell(j, i, alpha=0.85 * share))
            text = f"{100 * share:.0f} %\nof {given}" if given else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=8)
        silent = result.code.size - given_in_all
        axes.text(3, i, f"{silent}" if silent else "–", ha="center", va="center", fontsize=8)
    axes.set_xlim(-0.5, 3.5)
    axes.set_ylim(3.5, -0.5)
    axes.set_xticks(range(4), columns)
    axes.xaxis.tick_top()
    axes.set_yticks(range(4), RULES)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"right when it says … ({result.code.size} networks)")


def _cell(column: int, row: int, *, alpha: float) -> Any:
    """Make one cell of the table."""
    corner = (column - 0.47, row - 0.45)
    return Rectangle(corner, 0.94, 0.9, color=plots.COLORS["olive"], alpha=alpha, linewidth=0)


def _draw_examples(axes: Any, result: Result) -> None:
    """Draw ‖Φ(T, T-k)‖ of networks that one of the rules misjudges."""
    s = result.settings
    looks = {
        "rotation": ("orthogonal, linear: ρ = σ₁ = 1", (100, 0.25), plots.COLORS["olive"]),
        "jordan": ("Jordan block, linear: ρ = 0.9, σ₁ = 5.2", (12, 1.5), plots.COLORS["violet"]),
        "delay": (f"delay line, linear:\nρ = 0, σ₁ = 1, N = {s.hidden}", (68, -5.2),
                  plots.COLORS["orange"]),
        "driven": ("← tanh, strong input:\nρ ≈ 1.5, σ₁ ≈ 3", (68, -8.4), plots.COLORS["blue"]),
    }  # fmt: skip
    floor = -9.5
    for name, (label, place, color) in looks.items():
        decades = result.examples[name] / plots.LN10
        decades = np.where(np.isneginf(decades), floor - 5, decades)
        axes.plot(np.arange(decades.size), decades, color=color)
        axes.text(*place, label, color=color, fontsize=7.5, va="bottom")
    axes.axhspan(-3, 3, color=plots.COLORS["gray"], alpha=0.12, linewidth=0)
    axes.text(s.length, -2.9, "balanced", fontsize=7.5, ha="right", va="bottom")
    axes.set_xlim(0, s.length)
    axes.set_ylim(floor, 3.4)
    axes.set_title("largest growth of any gradient, by lag")
    axes.set_xlabel("lag k (steps back from the loss)")
    axes.set_ylabel("log₁₀ ‖Φ(T, T−k)‖")
