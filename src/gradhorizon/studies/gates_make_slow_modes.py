"""Gates make slow modes: what the bias of the gate that keeps the state does to the gradient."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import inits
from gradhorizon.studies import _gates_networks as networks
from gradhorizon.studies._study import Check

TITLE = "Gates: the bias of the gate that keeps the state sets the time constant, −1/ln σ(b)"
QUESTION = "How do gates make gradients last?"
SOURCE = (
    "Can, Krishnamurthy & Schwab 2020 (gates make slow modes, eigenvalues gather near 1); Tallec & "
    "Ollivier 2018 (time constants and chrono initialization); support of D + LW after Ahmadian, "
    "Fumarola & Miller 2015."
)
LOOK = {
    "LSTM": ("blue", "o"),
    "GRU": ("orange", "s"),
    "minimal RNN": ("violet", "D"),
    "minGRU": ("olive", "^"),
}
_DEPTH = (("red", 0.0), ("violet", 2.0), ("blue", 4.0))  # colors of the biases in the plane
_KEPT = math.log(0.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 3
    size: int = 48  # numbers in the state
    length: int = 500  # steps, and the longest memory that chrono initialization asks for
    lag: int = 32
    lowest: float = -1.0
    highest: float = 6.0
    biases: int = 8
    cells: int = len(networks.CELLS)
    draws: int = 8  # of chrono initialization
    cloud_units: int = 400
    cloud_gain: float = 4.0
    cloud_length: int = 60


SMALL = Settings(size=16, length=160, lag=16, biases=3, cells=2, cloud_units=150, cloud_length=30)


class Result(NamedTuple):
    """What was measured at every bias, in the plane, and along the memory path."""

    settings: Settings
    biases: np.ndarray
    measured: dict[str, list[networks.Measured]]
    silent: dict[str, list[networks.Measured]]
    rows: np.ndarray  # |u_i|² of the gate of every unit of the minGRU
    mean_field: dict[str, np.ndarray]
    clouds: dict[float, networks.Cloud]
    memories: dict[float, networks.Measured]  # silent LSTMs by bias
    chrono: list[networks.Measured]


def compute(settings: Settings) -> Result:
    """Measure the cells at every bias, with random weights and with none."""
    s = settings
    for_weights, for_inputs, for_cloud, for_chrono = jax.random.split(jax.random.key(s.seed), 4)
    xs = jax.random.normal(for_inputs, (s.length, s.size))
    biases = np.linspace(s.lowest, s.highest, s.biases)
    names = networks.CELLS[: s.cells]

    def at(name: str, bias: Any, silent: bool, key: Any = for_weights) -> networks.Measured:
        cell = networks.build(name, s.size, bias, silent=silent)
        return networks.measure(cell, key, 0 * xs if silent else xs, s.lag)

    gates = networks.build("minGRU", s.size, 0.0).init(for_weights)["U"][: s.size]
    spread = inits.chrono(float(s.length))
    return Result(
        s,
        biases,
        measured={name: [at(name, b, False) for b in biases] for name in names},
        silent={name: [at(name, b, True) for b in biases[::2]] for name in names},
        rows=np.sum(np.asarray(gates) ** 2, axis=1),
        mean_field={
            name: np.array([networks.mean_field_rate(name, float(b)) for b in biases])
            for name in names
        },
        clouds={
            b: networks.eigenvalue_cloud(for_cloud, s.cloud_units, s.cloud_gain, b, s.cloud_length)
            for _, b in _DEPTH
        },
        memories={b: at("LSTM", b, True) for b in (1.0, 3.0, 5.0)},
        chrono=[at("LSTM", spread, True, key) for key in jax.random.split(for_chrono, s.draws)],
    )


def slow(result: Result, name: str) -> np.ndarray:
    """Give singular values of at least 1/2 at the lag, per unit, one number for each bias."""
    return np.array([np.sum(m.log_values >= _KEPT) / m.units for m in result.measured[name]])


def chrono_path(result: Result) -> np.ndarray:
    """Give ln of the memory path, the root mean square over the units of all draws."""
    squares = np.array([2 * m.by_lag for m in result.chrono])
    return (np.logaddexp.reduce(squares, axis=0) - math.log(len(squares))) / 2


def gates_alone(result: Result, bias: Any) -> np.ndarray:
    """Give P(Σ_k ln σ(a_k) ≥ ln ½) over the lag for gates of variance 1, sums taken as normal."""
    lag, found = result.settings.lag, []
    for b in np.atleast_1d(bias):
        mean, variance = networks.gate_moments(1.0, float(b))
        deviation = math.sqrt(2 * lag * variance)
        found.append(0.5 * math.erfc((_KEPT - lag * mean) / deviation))
    return np.array(found)


def checks(result: Result) -> list[Check]:
    """Compare with closed forms, mean field, and the law of the support."""
    return [
        *_silent_checks(result),
        *_input_checks(result),
        *_mean_field_checks(result),
        *_slow_checks(result),
        *_cloud_checks(result),
        *_chrono_checks(result),
    ]


def _silent_checks(result: Result) -> list[Check]:
    """Check ln σ(b) per step, in gates and in singular values, at weights of zero."""
    s, law = result.settings, -np.logaddexp(0, -result.biases[::2])
    found = []
    for name in result.measured:
        off = max(
            float(np.max(np.abs(m.rates - rate)))
            for m, rate in zip(result.silent[name], law, strict=True)
        )
        found.append(Check(f"{name}, weights 0: |rate - ln σ(b)|, nats per step", off, 0.0, 1e-12,
                           "every gate stays at its bias"))  # fmt: skip
        # in the LSTM the output h' = o tanh c' adds half of c: a column of norm √(1 + 1/4)
        extra = 0.5 * math.log(1.25) if name == "LSTM" else 0.0
        off = max(
            float(np.max(np.abs(m.log_values[: m.units] - s.lag * rate - extra)))
            for m, rate in zip(result.silent[name], law, strict=True)
        )
        source = "k ln σ(b)" + (" + ½ ln(5/4)" if extra else "")
        found.append(Check(f"{name}, weights 0: |ln σ_i - law| at lag {s.lag}", off, 0.0, 1e-10,
                           source))  # fmt: skip
    return found


def _input_checks(result: Result) -> list[Check]:
    """Check the minGRU, whose gates are exactly Gaussian, unit by unit."""
    s, worst = result.settings, 0.0
    for bias, m in zip(result.biases, result.measured["minGRU"], strict=True):
        for square, rate in zip(result.rows, m.rates, strict=True):
            mean, variance = networks.gate_moments(float(square), float(bias))
            worst = max(worst, abs(float(rate) - mean) / math.sqrt(variance / s.length))
    return [
        Check("minGRU: largest |z| of E ln(1 - z) over units and biases", worst, 0.0, 5.0,
              "Gaussian quadrature with the variance of each unit"),
    ]  # fmt: skip


def _mean_field_checks(result: Result) -> list[Check]:
    """Check the mean rate of the gates with random weights against mean field."""
    found = []
    for name in result.measured:
        rates = np.array([m.rates.mean() for m in result.measured[name]])
        ratio = rates / result.mean_field[name]
        units = result.measured[name][0].units
        found.append(
            Check(f"{name}: rate of the gates over mean field, mean over biases",
                  float(ratio.mean()), 1.0, 0.03 + 0.6 / math.sqrt(units * len(ratio)),
                  "E ln σ(a) at the fixed point; tied weights and finite width")
        )  # fmt: skip
    return found


def _slow_checks(result: Result) -> list[Check]:
    """Check how many singular values of Φ stay near 1 at the smallest and largest bias."""
    units = result.settings.size
    expected = gates_alone(result, result.biases)
    spread = 4 * np.sqrt(np.maximum(expected * (1 - expected), 1 / units) / units)
    off = np.abs(slow(result, "minGRU") - expected)
    found = [
        Check("minGRU: slow modes per unit, largest distance from the law in units of 4 sd",
              float(np.max(off / spread)), 0.0, 1.0, "normal law of Σ ln(1 - z); binomial sd"),
    ]  # fmt: skip
    for name in result.measured:
        first, last = slow(result, name)[[0, -1]]
        found += [
            Check(f"{name}: slow modes per unit at b = {result.biases[0]:g}", float(first), 0.0,
                  0.05, "ln σ(b) decays it within a few steps"),
            Check(f"{name}: slow modes per unit at b = {result.biases[-1]:g}", float(last), 1.0,
                  0.1, "one for every unit"),
        ]  # fmt: skip
    return found


def _cloud_checks(result: Result) -> list[Check]:
    """Check that eigenvalues lie where the law says, and that the bias pinches them to 1."""
    found = []
    for bias, cloud in result.clouds.items():
        inside = np.mean(networks.density(cloud, cloud.eigenvalues) > 0.85)
        found.append(
            Check(f"minimal RNN, b = {bias:g}: eigenvalues inside the predicted support",
                  float(inside), 1.0, 0.03, "g²/N Σ L²/|λ - D|² ≥ 1, less 15 % for finite N")
        )  # fmt: skip
    near = [float(np.mean(np.abs(c.eigenvalues - 1) < 0.1)) for c in result.clouds.values()]
    gates = [float(np.mean(c.gates > 0.9)) for c in result.clouds.values()]
    size = result.settings.cloud_units
    found.append(
        Check("eigenvalues within 0.1 of 1 at b = 4, beside the share of gates above 0.9",
              near[-1], gates[-1], 0.06 + 2 / math.sqrt(size), "they gather where gates do")
    )  # fmt: skip
    return found


def _chrono_checks(result: Result) -> list[Check]:
    """Check time constants and gradient after chrono initialization against their laws."""
    longest, lags = result.settings.length, result.chrono[0].lags
    constants = np.concatenate([-1 / m.rates for m in result.chrono])
    count = constants.size
    mean, variance = networks.chrono_law(longest, lags)
    errors = np.sqrt(variance / count) / mean
    z = np.abs(np.expm1(2 * chrono_path(result) - np.log(mean))) / errors
    constant = result.memories[3.0]
    exact = -constant.lags * math.log1p(math.exp(-3.0))
    return [
        Check("chrono: Kolmogorov distance of the time constants",
              networks.chrono_distance(longest, constants), 0.0, 1.95 / math.sqrt(count),
              "τ = 1/ln(1 + 1/u), u uniform on [1, T - 1]; 0.1 % quantile"),
        Check("chrono: largest |z| of the squared gradient over lags", float(np.max(z)), 0.0, 4.0,
              "E (u/(1 + u))^2k by quadrature"),
        Check("b = 3: |ln of the memory path - k ln σ(3)|",
              float(np.max(np.abs(constant.by_lag - exact))), 0.0, 1e-10,
              "constant error carousel"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    middle = int(np.argmin(np.abs(result.biases - 4)))
    bias = result.biases[middle]
    constants = {n: -1 / np.mean(m[middle].rates) for n, m in result.measured.items()}
    listed = ", ".join(f"{name} {value:.0f}" for name, value in constants.items())
    law = 1 / math.log1p(math.exp(-bias))
    first, last = slow(result, "LSTM")[[0, -1]]
    passed = math.exp(float(chrono_path(result)[-1]))
    return (
        f"A bias of {bias:g} gives a time constant of {law:.0f} steps at weights 0, and with "
        f"random weights {listed}; singular values of Φ above 1/2 over {s.lag} steps rise from "
        f"{first:.2g} to {last:.2g} per unit of an LSTM as the bias rises from "
        f"{result.biases[0]:g} to {result.biases[-1]:g}. After chrono initialization the memory "
        f"still passes {passed:.2g} of the gradient over {s.length} steps."
    )


def draw(result: Result) -> Figure:
    """Draw time constants, slow modes, the plane, and the memory path."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_constants(panels[0, 0], result)
        _draw_slow(panels[0, 1], result)
        _draw_plane(panels[1, 0], result)
        _draw_memory(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_constants(axes: Any, result: Result) -> None:
    bias = np.linspace(result.biases[0] - 0.3, result.biases[-1] + 0.3, 200)
    axes.semilogy(bias, 1 / np.log1p(np.exp(-bias)), color="black", linewidth=1.2)
    for place, name in enumerate(result.measured):
        color, marker = LOOK[name]
        shift = 0.09 * (place - 1.5)  # beside one another
        constants = np.array([-1 / m.rates for m in result.measured[name]])
        middle = np.median(constants, axis=1)
        low, high = np.quantile(constants, [0.1, 0.9], axis=1)
        axes.errorbar(result.biases + shift, middle, yerr=[middle - low, high - middle],
                      fmt=marker, markersize=4, linewidth=1, color=plots.COLORS[color],
                      label=name)  # fmt: skip
        axes.semilogy(result.biases, -1 / result.mean_field[name], color=plots.COLORS[color],
                      linewidth=0.8, linestyle=(0, (4, 2)))  # fmt: skip
    axes.annotate("weights 0: −1/ln σ(b)", (3.2, 1 / math.log1p(math.exp(-3.2))), xytext=(-8, 8),
                  textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.legend(loc="lower right", fontsize=8, title="random weights,\ndashed: mean field",
                title_fontsize=7.5, alignment="left")  # fmt: skip
    axes.set_title("time constants of the units")
    axes.set_xlabel("bias b of the forget, update or keep gate")
    axes.set_ylabel("steps (median, 10 – 90 %)")


def _draw_slow(axes: Any, result: Result) -> None:
    bias = np.linspace(result.biases[0] - 0.3, result.biases[-1] + 0.3, 200)
    law = gates_alone(result, bias)
    axes.plot(bias, law, color="black", linewidth=1)
    for name in result.measured:
        color, marker = LOOK[name]
        axes.plot(result.biases, slow(result, name), marker, markersize=4.5,
                  color=plots.COLORS[color], label=name)  # fmt: skip
    lag = result.settings.lag
    sharp = math.log(1 / math.expm1(math.log(2) / lag))  # σ(b)^k = ½
    axes.axvline(sharp, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("weights 0:\nall at once", (sharp, 0.62), xytext=(-5, 0), fontsize=8, ha="right",
                  textcoords="offset points", va="top")  # fmt: skip
    middle = int(np.argmin(np.abs(law - 0.6)))
    axes.annotate("gates\nalone", (bias[middle], law[middle]), xytext=(7, 0), fontsize=8,
                  textcoords="offset points", va="center")  # fmt: skip
    axes.legend(loc="upper left", fontsize=8)
    axes.set_title(f"slow modes: σᵢ(Φ) ≥ ½ over {lag} steps")
    axes.set_xlabel("bias b of the forget, update or keep gate")
    axes.set_ylabel("share of the units")


def _draw_plane(axes: Any, result: Result) -> None:
    x, y = np.meshgrid(np.linspace(-0.25, 1.35, 321), np.linspace(-0.55, 0.55, 221))
    for color, bias in _DEPTH:
        cloud, shade = result.clouds[bias], plots.COLORS[color]
        axes.plot(
            np.real(cloud.eigenvalues), np.imag(cloud.eigenvalues), ".", markersize=2.2, color=shade
        )
        axes.contour(x, y, networks.density(cloud, x + 1j * y), levels=[1.0], colors=[shade],
                     linewidths=1.2)  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 256)
    axes.plot(np.cos(angle), np.sin(angle), color=plots.COLORS["gray"], linewidth=0.8)
    for place, (color, bias) in enumerate(_DEPTH):
        axes.text(0.02, 0.97 - 0.08 * place, f"b = {bias:g}", color=plots.COLORS[color],
                  transform=axes.transAxes, fontsize=8, va="top", fontweight="bold")  # fmt: skip
    axes.set_aspect("equal")
    axes.set_xlim(-0.25, 1.35)
    axes.set_ylim(-0.55, 0.55)
    axes.set_xlabel("Re λ")
    axes.set_ylabel("Im λ")
    axes.set_title("minimal RNN: eigenvalues of J gather near 1")
    axes.text(0.02, 0.03, "lines: predicted edge", transform=axes.transAxes, fontsize=8)


def _draw_memory(axes: Any, result: Result) -> None:
    longest, lags = result.settings.length, result.chrono[0].lags
    fine = np.geomspace(1, longest, 300)
    curves = {
        f"b = {bias:g}": (m.by_lag, -fine * math.log1p(math.exp(-bias)))
        for bias, m in result.memories.items()
    }
    law = 0.5 * np.log(networks.chrono_law(longest, fine)[0])
    curves[f"chrono,\nT = {longest}"] = (chrono_path(result), law)
    for (label, (points, line)), shade in zip(
        curves.items(), ("gray", "violet", "blue", "red"), strict=True
    ):
        color = plots.COLORS[shade]
        axes.plot(fine, line / plots.LN10, color=color, linewidth=1.3)
        axes.plot(lags, points / plots.LN10, "o", markersize=3.5, color=color)
        last = np.flatnonzero(line / plots.LN10 > -2.7)[-1]
        axes.annotate(label, (fine[last], line[last] / plots.LN10), xytext=(6, 0), fontsize=8,
                      textcoords="offset points", va="center", color=color)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(1, 4 * longest)
    axes.set_ylim(-3.05, 0.15)
    axes.set_yticks([-3, -2, -1, 0], ["$10^{-3}$", "$10^{-2}$", "$10^{-1}$", "1"])
    axes.set_title("LSTM: memory path, gates at their bias")
    axes.set_xlabel("lag k (steps)")
    axes.set_ylabel("gradient passed, rms over units")
