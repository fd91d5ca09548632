"""The largest Lyapunov exponent of random networks against gain: theory, and networks run."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import inits, rate_network
from gradhorizon.chain.unroll import unroll
from gradhorizon.studies._random_networks import (
    Measured,
    curve,
    label_ends,
    largest_exponents,
    size_allowance,
)
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_network

TITLE = "Random networks turn chaotic at gain 1, at a rate that mean field predicts"
QUESTION = "How fast does the gradient of a large random recurrent network grow?"
SOURCE = (
    "Sompolinsky, Crisanti & Sommers 1988 (flow); Molgedey, Schuchhardt & Schuster 1992 (map); "
    "leaky networks between them: docs/derivations.md."
)
# λ₁ per step of x' = J tanh x, and per unit time of dx/dt = -x + J tanh x, as N → ∞
MAP = {1.5: 0.065217211913, 2.0: 0.154724229831, 3.0: 0.310249315145, 5.0: 0.532427941632}
FLOW = {1.5: 0.0467462, 2.0: 0.1124580, 3.0: 0.2354606}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments, in JSON's types; a small leak stands for the flow."""

    seed: int = 0
    gains: list[float] = dataclasses.field(default_factory=lambda: [1.25, 1.5, 2.0, 3.0, 4.0, 5.0])
    leaks: list[float] = dataclasses.field(default_factory=lambda: [1.0, 0.9, 0.1])
    size: int = 512
    steps: int = 3000
    networks: int = 3
    sizes: list[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512, 1024])
    small_gains: list[float] = dataclasses.field(default_factory=lambda: [1.2, 1.5, 3.0])
    small_networks: int = 4
    points: int = 24
    lag_gains: list[float] = dataclasses.field(default_factory=lambda: [1.5, 3.0])
    lag_networks: int = 6


SMALL = Settings(
    gains=[1.5, 3.0], leaks=[1.0, 0.1], size=256, steps=800, networks=3, sizes=[256],
    small_gains=[1.5, 3.0], points=3, lag_gains=[],
)  # fmt: skip


class Result(NamedTuple):
    """Predictions on grids of gains, and what was measured."""

    settings: Settings
    grid: np.ndarray
    theory: dict[float, np.ndarray]  # by leak; 0 is the flow
    near: np.ndarray  # g - 1
    ratios: dict[float, np.ndarray]  # λ₁/(g - 1)², by leak
    measured: dict[float, list[Measured]]  # by leak, over gains
    small: dict[float, list[Measured]]  # by gain, over sizes, leak 1
    lags: np.ndarray
    covariance: dict[float, np.ndarray]  # by gain: (networks, lags), C(t) at the smallest leak


def compute(settings: Settings) -> Result:
    """Predict on grids; run networks at several gains, leaks and sizes."""
    s = settings
    keys = jax.random.split(jax.random.key(s.seed), 3)
    grid = np.unique(np.concatenate([np.linspace(0.6, 5.4, s.points), s.gains, [1.0]]))
    near = np.geomspace(0.01, 1.0, s.points)
    theory = {leak: _exponents(grid, leak) for leak in (*s.leaks, 0.0)}
    ratios = {leak: _exponents(1 + near, leak) / near**2 for leak in (1.0, 0.99, 0.9, 0.0)}
    measured = {
        leak: [_measure(keys[0], g, leak, s.size, steps_at(leak, s), s.networks) for g in s.gains]
        for leak in s.leaks
    }
    small = {
        gain: [_measure(keys[1], gain, 1.0, n, s.steps, s.small_networks) for n in s.sizes]
        for gain in s.small_gains
    }
    lags = np.arange(0, 20.1, 1.0)
    covariance = {g: _covariance(keys[2], g, lags, s) for g in s.lag_gains}
    return Result(s, grid, theory, near, ratios, measured, small, lags, covariance)


def steps_at(leak: float, s: Settings) -> int:
    """Run a small leak twice as long: a step of it is a small part of a unit of time."""
    return s.steps if leak > 0.5 else 2 * s.steps


def _exponents(gains: np.ndarray, leak: float) -> np.ndarray:
    """Predict λ₁ at many gains; only leak 1 itself takes the short way."""
    if leak == 1:
        return curve(random_network.largest_exponent, gains)
    return np.array([float(random_network.largest_exponent(float(g), leak=leak)) for g in gains])


def _measure(key: Any, gain: float, leak: float, size: int, steps: int, networks: int) -> Measured:
    return largest_exponents(
        key, gain=gain, leak=leak, noise=0.0, size=size, steps=steps, networks=networks
    )


def _covariance(key: Any, gain: float, lags: np.ndarray, s: Settings) -> np.ndarray:
    """Average x(t) x(t + lag) over units and time, at the smallest leak, for each network."""
    leak = min(s.leaks)
    cell = rate_network(s.size, 0, leak=leak, recurrent_init=inits.gaussian(gain))
    places = np.rint(lags / leak).astype(int)
    found = []
    for network in jax.random.split(key, s.lag_networks):
        start = jax.random.normal(network, (s.size,))
        states = unroll(cell.step, cell.init(network), start, length=steps_at(leak, s)).states
        states = np.asarray(states)[steps_at(leak, s) // 3 :]
        count = len(states) - places[-1]
        found.append([np.mean(states[:count] * states[k : k + count]) for k in places])
    return np.array(found)


def checks(result: Result) -> list[Check]:
    """Compare predictions with quadrature and the literature, networks with predictions."""
    return [*_theory_checks(result), *_network_checks(result)]


def _theory_checks(result: Result) -> list[Check]:
    found = []
    for gain, expected in MAP.items():
        value = float(random_network.largest_exponent(gain))
        found.append(Check(f"map, g = {gain:g}: λ₁", value, expected, 1e-9, "Molgedey et al. 1992"))
    flow = "Sompolinsky et al. 1988"
    for gain, expected in FLOW.items():
        value = float(random_network.largest_exponent(gain, leak=0.0))
        found.append(Check(f"flow, g = {gain:g}: λ₁ per unit time", value, expected, 1e-6, flow))
    first = result.near[0]
    law = "limit g → 1; the next order at g = 1.01"
    found += [
        Check("map: λ₁/(g-1)² at g = 1.01", float(result.ratios[1.0][0]), 2 / 3, 3 * first, law),
        Check("flow: λ₁/(g-1)² at g = 1.01", float(result.ratios[0.0][0]), 1 / 2, 3 * first, law),
        Check("leak 0.9: λ₁/(g-1)² at g = 1.01", float(result.ratios[0.9][0]), 1 / 2, 3 * first,
              law + "; like the flow"),
    ]  # fmt: skip
    return found


def _network_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for leak, values in result.measured.items():
        for gain, value in zip(s.gains, values, strict=True):
            if gain < 1.5:
                continue  # so close to the onset the lower left panel is the point
            expected = float(result.theory[leak][np.searchsorted(result.grid, gain)])
            found.append(
                Check(f"N = {s.size}, leak {leak:g}, g = {gain:g}: λ₁", value.mean, expected,
                      4 * value.error + size_allowance(s.size),
                      "mean field; four standard errors and N^(-2/3)")
            )  # fmt: skip
    leak = min(s.leaks)
    for gain, covariance in result.covariance.items():
        expected = float(random_network.stationary_variance(gain, leak=leak))
        error = 4 * float(covariance[:, 0].std(ddof=1)) / np.sqrt(len(covariance))
        found.append(
            Check(f"N = {s.size}, leak {leak:g}, g = {gain:g}: variance of x",
                  float(covariance[:, 0].mean()), expected, error + 12 / s.size * expected,
                  "mean field; four standard errors and a share 12/N")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    gain = 1.5
    exact = float(random_network.largest_exponent(gain))
    first, last = result.small[gain][0].mean / exact, result.small[gain][-1].mean / exact
    three = s.gains.index(3.0)
    return (
        "As the mean field says: at g = 3 by "
        f"{MAP[3.0]:.3f} nats per step in the map (measured {result.measured[1.0][three].mean:.3f} "
        f"at N = {s.size}) and {FLOW[3.0]:.3f} per unit time in the flow; near the onset finite "
        f"networks lag behind, at g = {gain:g} they reach {first:.0%} of the rate with "
        f"{s.sizes[0]} units and {last:.0%} with {s.sizes[-1]}."
    )


def draw(result: Result) -> Figure:
    """Draw exponents against gain, their onset, the approach to N = ∞, and autocovariances."""
    figure, panels = plots.new_figure(8.4, 6.4, nrows=2, ncols=2)
    with plots.style():
        _draw_exponents(panels[0, 0], result)
        _draw_onset(panels[0, 1], result)
        _draw_sizes(panels[1, 0], result)
        _draw_covariance(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


_COLORS = [plots.COLORS[c] for c in ("red", "violet", "blue", "orange", "olive")]


def _draw_exponents(axes: Any, result: Result) -> None:
    s = result.settings
    names = {1.0: "map (leak 1)", min(s.leaks): f"leak {min(s.leaks):g}"}
    ends = []
    for leak, color in zip(s.leaks, _COLORS, strict=False):
        axes.plot(result.grid, result.theory[leak], color=color)
        values = result.measured[leak]
        axes.errorbar(s.gains, [v.mean for v in values], [v.error for v in values], fmt="o",
                      color=color, markersize=3.5, linewidth=1)  # fmt: skip
        ends.append((float(result.theory[leak][-1]), names.get(leak, f"leak {leak:g}"), color))
    axes.plot(result.grid, result.theory[0.0], color="black", linewidth=1, linestyle=(0, (2, 2)))
    ends.append((float(result.theory[0.0][-1]), "flow (leak 0)", "black"))
    label_ends(axes, float(result.grid[-1]), ends, gap=0.05)
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.set_xlim(result.grid[0], 7.2)
    axes.set_ylim(-0.2, 0.65)
    axes.set_xticks(range(1, 6))
    axes.text(7.1, 0.04, "finite networks lie below N = ∞,\nmost where states change slowly",
              ha="right", fontsize=7.5, color=plots.COLORS["gray"])  # fmt: skip
    axes.set_title(f"growth rate: theory, and N = {s.size}")
    axes.set_xlabel("gain g")
    axes.set_ylabel("λ₁ (nats per unit time)")


def _draw_onset(axes: Any, result: Result) -> None:
    names = {1.0: "map (leak 1)", 0.99: "leak 0.99", 0.9: "leak 0.9", 0.0: "flow (leak 0)"}
    colors = (_COLORS[0], plots.COLORS["orange"], plots.COLORS["violet"], "black")
    for leak, color in zip(names, colors, strict=True):
        dashes = (0, (2, 2)) if leak == 0 else "-"
        axes.semilogx(result.near, result.ratios[leak], color=color, linestyle=dashes)
    for level, text in ((2 / 3, "2/3"), (1 / 2, "1/2")):
        axes.axhline(level, color=plots.COLORS["gray"], linewidth=0.8, linestyle=(0, (4, 2)))
        axes.annotate(text, (1.0, level), xytext=(3, 0), textcoords="offset points", va="center",
                      fontsize=8, color=plots.COLORS["gray"], annotation_clip=False)  # fmt: skip
    places = (
        (0.12, 1.0, (34, 6), colors[0]),
        (0.33, 0.9, (-34, -10), colors[2]),
        (0.05, 0.0, (-24, -16), "black"),
    )
    for place, leak, shift, color in places:
        height = float(np.interp(place, result.near, result.ratios[leak]))
        axes.annotate(names[leak], (place, height), xytext=shift, textcoords="offset points",
                      ha="center", color=color, fontsize=8)  # fmt: skip
    height = float(np.interp(0.3, result.near, result.ratios[0.99]))
    axes.annotate(names[0.99], (0.3, height), xytext=(0.42, 0.41), color=colors[1], fontsize=8,
                  arrowprops={"arrowstyle": "-", "color": colors[1], "linewidth": 0.7})  # fmt: skip
    axes.set_ylim(0, 0.75)
    axes.set_xlim(result.near[0], result.near[-1])
    axes.set_title("onset: every leak below 1 ends as the flow")
    axes.set_xlabel("g − 1")
    axes.set_ylabel("λ₁/(g − 1)² (theory)")


def _draw_sizes(axes: Any, result: Result) -> None:
    s = result.settings
    axes.hlines(1, s.sizes[0] / 1.2, s.sizes[-1], color=plots.COLORS["gray"], linewidth=0.8)
    colors = (plots.COLORS["orange"], plots.COLORS["violet"], plots.COLORS["red"])
    ends = []
    for gain, color in zip(s.small_gains, colors, strict=False):
        exact = float(random_network.largest_exponent(gain))
        values = result.small[gain]
        means = np.array([v.mean for v in values]) / exact
        errors = np.array([v.error for v in values]) / exact
        axes.errorbar(s.sizes, means, errors, fmt="o-", color=color, markersize=3.5, linewidth=1)
        ends.append((float(means[-1]), f"g = {gain:g}", color))
    label_ends(axes, s.sizes[-1], ends, gap=0.2)
    axes.set_ylim(top=1.45)
    axes.set_xscale("log", base=2)
    axes.set_xticks(s.sizes, [str(n) for n in s.sizes])
    axes.set_xlim(s.sizes[0] / 1.2, s.sizes[-1] * 2)
    axes.set_title("the map at finite size: suppressed near onset")
    axes.set_xlabel("number of units N")
    axes.set_ylabel("measured λ₁ / λ₁(N = ∞)")


def _draw_covariance(axes: Any, result: Result) -> None:
    s = result.settings
    leak = min(s.leaks)
    for gain, color in zip(
        s.lag_gains, (plots.COLORS["violet"], plots.COLORS["red"]), strict=False
    ):
        theory = random_network.autocovariance(gain, leak=leak)
        times, values = np.asarray(theory.times), np.asarray(theory.values)
        inside = times <= result.lags[-1] * 1.02
        axes.plot(times[inside], values[inside] / values[0], color=color)
        shares = result.covariance[gain] / values[0]
        error = shares.std(axis=0, ddof=1) / np.sqrt(len(shares))
        axes.errorbar(result.lags, shares.mean(axis=0), error, fmt="o", color=color, markersize=3,
                      linewidth=1)  # fmt: skip
        place = 11.0 if gain < 2 else 3.0
        height = float(np.interp(place, times, values / values[0]))
        axes.annotate(f"g = {gain:g}", (place, height), xytext=(-34, -8), color=color,
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.set_xticks([0, 5, 10, 15, 20])
    axes.set_title(f"memory of a unit's state (leak {leak:g})")
    axes.set_xlabel("lag t (unit times)")
    axes.set_ylabel("E x(s) x(s + t) / theory's C(0)")
