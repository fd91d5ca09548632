"""Noise at the input of a random network keeps nearby states together: chaos sets in later."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.studies._random_networks import (
    Measured,
    curve,
    label_ends,
    largest_exponents,
    size_allowance,
)
from gradhorizon.studies._study import Check
from gradhorizon.theory import mean_field, random_network

TITLE = "Input noise suppresses chaos: with variance 0.5 the critical gain rises from 1 to 1.69"
QUESTION = "Does driving a random recurrent network with noise make its gradient explode less?"
SOURCE = (
    "Molgedey, Schuchhardt & Schuster 1992 (map); Schuecker, Goedeke & Helias 2018 (the flow, "
    "for which the boundary here is λ₁ = 0)."
)
# g_c(s²) of the map and two exponents, as N → ∞, by quadrature
BOUNDARY = {0.01: 1.193400725, 0.05: 1.327009661, 0.5: 1.686169464, 2.0: 2.065525625}
EXPONENTS = {(2.0, 0.5): 0.0919846, (1.5, 0.5): -0.0690423}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments, in JSON's types."""

    seed: int = 0
    size: int = 600
    steps: int = 1500
    networks: int = 2
    noises: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.05, 0.5, 2.0])
    gains: list[float] = dataclasses.field(default_factory=lambda: [1.25, 1.5, 2.0, 2.5, 3.0])
    plane_noises: list[float] = dataclasses.field(
        default_factory=lambda: [0.02, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0]
    )
    plane_gains: list[float] = dataclasses.field(
        default_factory=lambda: [1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3]
    )
    flow_noises: list[float] = dataclasses.field(
        default_factory=lambda: [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 1.8, 2.1]
    )


SMALL = Settings(
    size=200, steps=500, networks=2, noises=[0.0, 0.5], gains=[1.5, 2.0, 3.0],
    plane_noises=[0.1, 0.5, 2.0], plane_gains=[1.1, 1.5, 2.3], flow_noises=[],
)  # fmt: skip


class Result(NamedTuple):
    """Predictions and measurements over gain and noise."""

    settings: Settings
    grid: np.ndarray
    theory: dict[float, np.ndarray]  # by noise, over the grid of gains
    measured: dict[float, list[Measured]]  # by noise, over gains
    noise_grid: np.ndarray
    boundary: np.ndarray  # g_c of the map over the noise grid
    flow_boundary: np.ndarray  # g_c of the flow over flow_noises
    plane: np.ndarray  # (plane_noises, plane_gains): measured λ₁
    plane_error: np.ndarray
    plane_theory: np.ndarray


def compute(settings: Settings) -> Result:
    """Predict and measure λ₁ along gains and over the plane of gain and noise."""
    s = settings
    lines, plane = jax.random.split(jax.random.key(s.seed))
    grid = np.unique(np.concatenate([np.linspace(0.8, 3.2, 40), [1.0], s.gains]))
    theory = {noise: _exponents(grid, noise) for noise in s.noises}
    measured = {noise: [_measure(lines, g, noise, s) for g in s.gains] for noise in s.noises}
    noise_grid = np.concatenate([[0.0], np.geomspace(1e-4, 2.2, 60)])
    boundary = curve(random_network.critical_gain, noise_grid)
    flow_boundary = [float(random_network.critical_gain(n, leak=0.0)) for n in s.flow_noises]
    one = dataclasses.replace(s, networks=1)
    runs = [[_measure(plane, g, n, one) for g in s.plane_gains] for n in s.plane_noises]
    gains = np.array(s.plane_gains)
    return Result(
        s, grid, theory, measured, noise_grid, boundary, np.array(flow_boundary),
        np.array([[run.mean for run in row] for row in runs]),
        np.array([[run.error for run in row] for row in runs]),
        np.array([_exponents(gains, n) for n in s.plane_noises]),
    )  # fmt: skip


def _exponents(gains: np.ndarray, noise: float) -> np.ndarray:
    predict = random_network.largest_exponent
    return np.array([float(predict(float(g), noise_variance=noise)) for g in gains])


def _measure(key: Any, gain: float, noise: float, s: Settings) -> Measured:
    return largest_exponents(
        key, gain=gain, leak=1.0, noise=noise, size=s.size, steps=s.steps, networks=s.networks
    )


def checks(result: Result) -> list[Check]:
    """Compare with quadrature, with the mean field of deep networks, and networks with theory."""
    found = []
    for (gain, noise), expected in EXPONENTS.items():
        value = float(random_network.largest_exponent(gain, noise_variance=noise))
        name = f"g = {gain:g}, s² = {noise:g}: λ₁ of the map"
        found.append(Check(name, value, expected, 5e-8, "Molgedey et al. 1992, quadrature"))
    for noise, expected in BOUNDARY.items():
        value = float(random_network.critical_gain(noise))
        name = f"s² = {noise:g}: critical gain of the map"
        found.append(Check(name, value, expected, 1e-8, "λ₁ = 0, quadrature"))
    deep = float(mean_field.critical_sigma_w2("tanh", 0.5))
    value = float(random_network.critical_gain(0.5)) ** 2
    found.append(
        Check("s² = 0.5: squared critical gain", value, deep, 1e-8,
              "critical line of deep tanh networks at σ_b² = s²")
    )  # fmt: skip
    return [*found, *_network_checks(result)]


def _network_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for noise, values in result.measured.items():
        for gain, value in zip(s.gains, values, strict=True):
            expected = float(result.theory[noise][np.searchsorted(result.grid, gain)])
            found.append(
                Check(f"N = {s.size}, s² = {noise:g}, g = {gain:g}: λ₁", value.mean, expected,
                      4 * value.error + size_allowance(s.size),
                      "mean field; four standard errors and N^(-2/3)")
            )  # fmt: skip
    clear = np.abs(result.plane_theory) > 0.02
    agree = np.sign(result.plane) == np.sign(result.plane_theory)
    name = f"share of {clear.sum()} networks with |λ₁| > 0.02 whose sign is predicted"
    found.append(Check(name, float(agree[clear].mean()), 1.0, 0.0, "mean field"))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    quiet, noisy = (
        result.measured[noise][s.gains.index(1.5)].mean for noise in (0.0, 0.5)
    )  # fmt: skip
    return (
        f"Yes: at g = 1.5 noise of variance 0.5 turns λ₁ from {quiet:+.3f} to {noisy:+.3f} nats "
        f"per step (N = {s.size}), and moves the critical gain from 1 to {BOUNDARY[0.5]:.3f}."
    )


def draw(result: Result) -> Figure:
    """Draw exponents against gain, and the boundary of chaos with the signs of networks."""
    figure, (left, right) = plots.new_figure(8.4, 3.7, ncols=2)
    with plots.style():
        _draw_exponents(left, result)
        _draw_plane(right, result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_exponents(axes: Any, result: Result) -> None:
    s = result.settings
    colors = [plots.COLORS[c] for c in ("red", "orange", "violet", "blue")]
    ends = []
    for noise, color in zip(s.noises, colors, strict=False):
        axes.plot(result.grid, result.theory[noise], color=color)
        values = result.measured[noise]
        axes.errorbar(s.gains, [v.mean for v in values], [v.error for v in values], fmt="o",
                      color=color, markersize=3.5, linewidth=1)  # fmt: skip
        ends.append((float(result.theory[noise][-1]), f"s² = {noise:g}", color))
    label_ends(axes, float(result.grid[-1]), ends, gap=0.045)
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.set_ylim(-0.5, 0.42)
    axes.set_xlim(result.grid[0], 3.75)
    axes.set_xticks([1, 1.5, 2, 2.5, 3])
    axes.set_title(f"growth rate: theory, and N = {s.size}")
    axes.set_xlabel("gain g")
    axes.set_ylabel("λ₁ (nats per step)")


def _draw_plane(axes: Any, result: Result) -> None:
    s = result.settings
    axes.plot(result.noise_grid, result.boundary, color="black")
    if s.flow_noises:
        axes.plot(s.flow_noises, result.flow_boundary, color=plots.COLORS["gray"],
                  linestyle=(0, (4, 2)), linewidth=1)  # fmt: skip
    noises, gains = np.meshgrid(s.plane_noises, s.plane_gains, indexing="ij")
    looks = ((result.plane > 0, "^", plots.COLORS["red"]),
             (result.plane <= 0, "o", plots.COLORS["blue"]))  # fmt: skip
    for where, marker, color in looks:
        axes.plot(noises[where], gains[where], marker, color=color, markersize=4, linestyle="none")
    axes.set_xlim(-0.03, 2.22)
    axes.set_ylim(0.95, 2.75)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
    axes.text(0.03, 2.56, "▲ measured λ₁ > 0: exploding", color=plots.COLORS["red"], fontsize=8)
    axes.text(2.17, 0.99, "● measured λ₁ < 0: vanishing", color=plots.COLORS["blue"], fontsize=8,
              ha="right", bbox=box)  # fmt: skip
    axes.text(1.24, 1.79, "map, λ₁ = 0", fontsize=8, bbox=box)
    if s.flow_noises:
        axes.annotate("flow, λ₁ = 0", (s.flow_noises[-1], result.flow_boundary[-1]), xytext=(0, 5),
                      textcoords="offset points", ha="right", fontsize=8,
                      color=plots.COLORS["gray"])  # fmt: skip
    axes.set_title("boundary of chaos, and single networks (map)")
    axes.set_xlabel("noise variance s²")
    axes.set_ylabel("gain g")
