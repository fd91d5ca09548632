"""Residual networks h' = h + tanh(W h) of N blocks: one W looped, or a fresh one in every block.

Saturated blocks move the state at most by one unit each. Fresh ones push it at random, it
wanders by √N, and ever fewer units are in reach of their slope: χ - 1 falls like 1/√N. One W
pushes the same way for long: the state goes straight, by N, and the loop is the random rate
network of 1988 in logarithmic time, with a gain gN that grows.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.special import polygamma

from gradhorizon import plots
from gradhorizon.studies._random_networks import curve
from gradhorizon.studies._residual_runs import Measured, log_radius, mean_square, run
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_network
from gradhorizon.theory.residual import log_growth, propagation

TITLE = "Looped tanh residual blocks explode first, fresh ones in the end: (ln N)² against √N nats"
QUESTION = "Does a deep residual network explode more with one block looped, or with fresh blocks?"
SOURCE = (
    "Fresh blocks: Yang & Schoenholz 2017 (arXiv:1712.08969), gradients exp Θ(√N) for tanh. One "
    "block: docs/derivations.md, with the random network of Sompolinsky, Crisanti & Sommers 1988."
)
STRAIGHT = 2 * (1 - 2 / math.pi)  # of q/(gN)² for one block, N → ∞
# E φ'φ' → COULOMB/|τ| for signs, τ the difference in ln N
COULOMB = 2 / math.pi / math.sqrt(STRAIGHT * (1 - STRAIGHT))
FRESH = 4 / (3 * math.sqrt(2 * math.pi))  # of ½ ln E‖g‖²/(g√N) for fresh blocks, N → ∞


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments; entries of W have variance gain²/n, h_0 is N(0, 1)."""

    seed: int = 0
    gain: float = 3.0
    gains: list[float] = dataclasses.field(default_factory=lambda: [1.0, 2.0, 3.0])
    looped_width: int = 1024
    looped_draws: int = 60
    fresh_width: int = 128
    fresh_draws: int = 80
    silent_draws: int = 4
    every: int = 4  # blocks between two measurements
    loops: int = 128
    deepest: int = 1024  # of theory
    far: int = 40_000  # of theory for fresh blocks, whose cost is N
    flows: list[float] = dataclasses.field(  # gains of the random rate network
        default_factory=lambda: [8.0, 16.0, 32.0, 64.0, 96.0, 128.0]
    )


SMALL = Settings(
    gains=[3.0],
    looped_width=256,
    looped_draws=40,
    fresh_draws=40,
    silent_draws=2,
    loops=64,
    deepest=256,
    far=4000,
    flows=[],  # its compilation takes longest; tests/test_theory_residual.py compares the two
)


class Result(NamedTuple):
    """Measurement by (tied, gain), at the fixed point 0 too; theory by (tied, gain)."""

    settings: Settings
    measured: dict[tuple[bool, float], Measured]
    silent: np.ndarray  # ln of the growth at h = 0 of looped networks, (draws, depths)
    radius: np.ndarray  # ln of the spectral radius of I + W of the first of them
    flow: np.ndarray  # λ₁ of the random rate network at the gains `flows`
    theory: dict[tuple[bool, float], tuple[np.ndarray, np.ndarray]]  # E h², ½ ln E‖g‖²
    far: tuple[np.ndarray, np.ndarray]  # the same for fresh blocks, deeper


def compute(settings: Settings) -> Result:
    """Measure looped and fresh networks, and follow both as n → ∞."""
    s = settings
    keys = jax.random.split(jax.random.key(s.seed), max(s.looped_draws, s.fresh_draws))
    both = functools.partial(run, loops=s.loops, every=s.every)
    looped = functools.partial(both, keys[: s.looped_draws], width=s.looped_width, tied=True)
    fresh = functools.partial(both, keys[: s.fresh_draws], width=s.fresh_width, tied=False)
    measured = {}
    for gain in s.gains:
        measured[True, gain], measured[False, gain] = looped(gain, 1.0), fresh(gain, 1.0)
    silent = looped(s.gain, 0.0).growth
    radius = [log_radius(k, s.gain, s.looped_width) for k in keys[: s.silent_draws]]
    theory = {
        (tied, gain): _theory(gain, s.deepest, tied=tied)
        for tied in (True, False)
        for gain in s.gains
    }
    far = _theory(s.gain, s.far, tied=False)
    exponent = functools.partial(random_network.largest_exponent, leak=0.0)
    flow = curve(exponent, s.flows) if s.flows else np.array([])
    return Result(s, measured, silent, np.array(radius), flow, theory, far)


def _theory(gain: float, loops: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    found = propagation("tanh", 1.0, gain**2, gain**2, loops, tied=tied)
    return np.asarray(found.q) / gain**2, np.asarray(found.log_growth) / 2


def checks(result: Result) -> list[Check]:
    """Compare theory with its limits, networks with theory, and loops with fresh blocks."""
    return [
        *_fresh_limits(result),
        *_looped_limits(result),
        *_silent_checks(result),
        *_network_checks(result),
        *_order_checks(result),
    ]


def _fresh_limits(result: Result) -> list[Check]:
    s = result.settings
    squares, growth = result.far
    most, quarter = s.far, s.far // 4
    slope = (growth[most] - growth[quarter]) / (math.sqrt(most) - math.sqrt(quarter)) / s.gain
    power = math.log(growth[most] / growth[quarter]) / math.log(most / quarter)
    label = f"fresh, g = {s.gain:g}, N = {most}"
    return [
        Check(f"{label}: E h²/N", float(squares[most]) / most, 1.0, 2 / s.gain / math.sqrt(most),
              "a random walk, up to O(1/√N)"),
        Check(f"{label}: ½ ln E‖g‖² gains per g√N from N/4 on", float(slope), FRESH,
              1 / math.sqrt(most), "4/(3√(2π)), up to O(1/√N)"),
        Check(f"{label}: power of N in ½ ln E‖g‖²", power, 0.5, s.gain / math.sqrt(most),
              "published: exp Θ(√N) for tanh (Yang & Schoenholz 2017), up to O(g/√N)"),
    ]  # fmt: skip


def per_efold(growth: np.ndarray, low: int, high: int) -> float:
    """Give the nats gained from block `low` to `high` over ln(high/low)."""
    return float(growth[high] - growth[low]) / math.log(high / low)


def _looped_limits(result: Result) -> list[Check]:
    s, found = result.settings, []
    for gain in s.gains:
        squares, growth = result.theory[True, gain]
        at, before = (float(squares[n]) / n**2 for n in (s.deepest, s.deepest // 4))
        found.append(
            Check(f"looped, g = {gain:g}, N = {s.deepest}: E h²/N², extrapolated in 1/√N",
                  2 * at - before, STRAIGHT, 1 / (2 * math.sqrt(s.deepest)),
                  "2(1 - 2/π), from a random network of signs; half of 1/√N")
        )  # fmt: skip
        for strength, exponent in zip(s.flows[-3:], result.flow[-3:], strict=True):
            middle = strength / gain
            low, high = round(middle / 1.25), round(middle * 1.25)
            found.append(
                Check(f"looped, g = {gain:g}, gN = {strength:g}: nats per e-fold of depth",
                      per_efold(growth, low, high), 1 + float(exponent),
                      (1 + float(exponent)) * 2 / middle,
                      "1 + λ₁ of the random rate network of gain gN, up to O(1/N)")
            )  # fmt: skip
    growth = result.theory[True, s.gain][1]
    most, half, quarter = s.deepest, s.deepest // 2, s.deepest // 4
    first, last = per_efold(growth, quarter, half), per_efold(growth, half, most)
    rate = (first + last) / 2
    found.append(
        Check(f"looped, g = {s.gain:g}, N = {half}: what an e-fold adds to that rate",
              (last - first) / math.log(2), coulomb_slope(rate), 1 / rate**2,
              "ground state of Coulomb's potential on a line, cut off at 1/(gN): → A = 1.4286")
    )  # fmt: skip
    return found


def coulomb_slope(rate: float) -> float:
    """Give dκ/d ln N of κ/A = ln(gN/κ) - ψ(1 - ν) + const, ν = A/(2κ)."""
    nu = COULOMB / (2 * rate)
    return 1 / (1 / COULOMB + 1 / rate + float(polygamma(1, 1 - nu)) * nu / rate)


def _silent_checks(result: Result) -> list[Check]:
    s = result.settings
    few = 4 * s.every
    logs = result.silent[:, few // s.every - 1]
    value, error = mean_square(logs)
    copies = few * s.gain / (1 + s.gain)
    half = s.loops // 2
    rates = (result.silent[:, -1] - result.silent[:, half // s.every - 1]) / (s.loops - half)
    found = [
        Check(f"looped, g = {s.gain:g}, h = 0, N = {few}: ½ ln E‖g‖²", float(value),
              float(log_growth(s.gain, few, tied=True)) / 2,
              4 * float(error) + copies**2 / (2 * s.looped_width),
              "Σ C(N, k)² g^2k; four standard errors and revisited units, k²/2n")
    ]  # fmt: skip
    for draw, radius in enumerate(result.radius):
        found.append(
            Check(f"looped, g = {s.gain:g}, h = 0, network {draw}: λ₁", float(rates[draw]),
                  float(radius), math.log(s.looped_width) / (s.loops - half),
                  "ln of the largest |1 + μ|, μ the eigenvalues of the same W; (ln n)/T")
        )  # fmt: skip
    return found


def _kinds(result: Result) -> list[tuple[str, bool, float, Measured]]:
    s = result.settings
    widths = {True: s.looped_width, False: s.fresh_width}
    return [
        (f"{'looped' if t else 'fresh'}, n = {widths[t]}, g = {g:g}", t, g, m)
        for (t, g), m in result.measured.items()
    ]


def shown(settings: Settings) -> list[int]:
    """List the depths of the checks and points: 8, 16, 32, … N."""
    first = 2 * settings.every
    return [first * 2**k for k in range(int(math.log2(settings.loops / first)) + 1)]


def _network_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for label, tied, gain, measured in _kinds(result):
        squares, growth = result.theory[tied, gain]
        width = s.looped_width if tied else s.fresh_width
        logs = {
            f"N = {depth}: ½ ln of the mean squared growth": (depth, measured.growth[:, place])
            for depth in shown(s)[1::2]
            for place in [depth // s.every - 1]
        }
        logs[f"N = {s.loops}: ½ ln of the mean squared gradient"] = (s.loops, measured.gradient)
        for name, (depth, draws) in logs.items():
            value, error = mean_square(draws)
            allowed = 4 * float(error) + float(np.var(draws, ddof=1)) / 4
            found.append(
                Check(f"{label}, {name}", float(value), float(growth[depth]), allowed,
                      "theory, n → ∞; four standard errors and a quarter of the logarithm's "
                      "variance, which is 0 as n → ∞")
            )  # fmt: skip
        ratios = measured.squares[:, -1] / squares[s.loops]
        error = float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
        found.append(
            Check(f"{label}, N = {s.loops}: mean of h², in units of theory's",
                  float(ratios.mean()), 1.0, 4 * error + 1 / width,
                  "four standard errors and 1/n")
        )  # fmt: skip
    return found


def _order_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for depth, sign in ((2 * s.every, 1.0), (s.loops, -1.0)):
        place = depth // s.every - 1
        (a, x), (b, y) = (
            mean_square(result.measured[tied, s.gain].growth[:, place]) for tied in (True, False)
        )
        resolved = abs(a - b) > 2 * math.hypot(x, y)
        found.append(
            Check(f"g = {s.gain:g}, N = {depth}: sign of looped less fresh, 0 within two errors",
                  float(np.sign(a - b)) * float(resolved), sign, 0.0, "theory")
        )  # fmt: skip
    return found


def overtaken(result: Result, gain: float) -> float:
    """Give the depth from which fresh blocks explode more, by theory; ∞ beyond the deepest."""
    looped, fresh = (result.theory[tied, gain][1] for tied in (True, False))
    behind = np.flatnonzero(looped[2:] <= fresh[2:])
    return float(behind[0]) + 2 if behind.size else math.inf


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    depths = [shown(s)[0], s.loops]
    sizes = {
        (t, n): mean_square(result.measured[t, s.gain].growth[:, n // s.every - 1])[0] / plots.LN10
        for t in (True, False)
        for n in depths
    }
    first, last = (
        f"{n} blocks by 10^{sizes[True, n]:.1f} looped and 10^{sizes[False, n]:.1f} fresh"
        for n in depths
    )
    turn = overtaken(result, s.gain)
    return (
        f"At gain {s.gain:g} the gradient grows through {first}, through {last}; in theory fresh "
        f"blocks lead from N = {turn:.0f} on. Fresh, its logarithm grows like 0.53 g√N; looped, "
        f"by 1 + λ₁ nats per e-fold of depth, λ₁ the exponent of a random network of gain gN."
    )


def draw(result: Result) -> Figure:
    """Draw state and gradient against depth, and the gradient's growth per e-fold."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=3)
    with plots.style():
        _draw_states(panels[0], result)
        _draw_gradients(panels[1], result)
        _draw_rates(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


RED, ORANGE, BLUE, VIOLET, GRAY = (
    plots.COLORS[c] for c in ("red", "orange", "blue", "violet", "gray")
)
SHADES = (ORANGE, VIOLET, RED)  # of the gains, for looped blocks


def _draw_states(axes: Any, result: Result) -> None:
    s = result.settings
    places = np.array(shown(s))
    texts = {True: ("looped: straight,\n0.85 N", (-8, 0), "right", "bottom"),
             False: ("fresh: a random\nwalk, √N", (4, -7), "left", "top")}  # fmt: skip
    for tied, color in ((True, RED), (False, BLUE)):
        theory = np.sqrt(result.theory[tied, s.gain][0])
        depths = np.arange(1, theory.size)
        axes.loglog(depths, theory[1:], color=color)
        roots = np.sqrt(result.measured[tied, s.gain].squares[:, places // s.every - 1])
        error = roots.std(axis=0, ddof=1) / math.sqrt(len(roots))
        axes.errorbar(places, roots.mean(axis=0), error, fmt="o", color=color, markersize=3.2,
                      linewidth=1)  # fmt: skip
        text, shift, side, edge = texts[tied]
        axes.annotate(text, (40, theory[40]), xytext=shift, textcoords="offset points", ha=side,
                      va=edge, color=color, fontsize=8)  # fmt: skip
    axes.set_title(f"the state, g = {s.gain:g}")
    axes.set_xlabel("number of blocks N")
    axes.set_ylabel("rms of a unit of h")


def _draw_gradients(axes: Any, result: Result) -> None:
    s = result.settings
    places = np.array(shown(s))
    until = 2 * s.loops
    looks = [(True, s.gain, RED), (False, s.gain, BLUE)]
    if s.gains[0] != s.gain:
        looks += [(True, s.gains[0], ORANGE), (False, s.gains[0], GRAY)]
    for tied, gain, color in looks:
        theory = result.theory[tied, gain][1] / plots.LN10
        axes.plot(range(until + 1), theory[: until + 1], color=color)
        logs = result.measured[tied, gain].growth[:, places // s.every - 1]
        values, errors = (v / plots.LN10 for v in mean_square(logs))
        axes.errorbar(places, values, errors, fmt="o", color=color, markersize=3.2, linewidth=1)
        axes.annotate(f"{'looped' if tied else 'fresh'}, g = {gain:g}", (until, theory[until]),
                      xytext=(0, -34 if (tied, gain) == (False, s.gain) else -18), ha="right",
                      va="top", textcoords="offset points",
                      color=color, fontsize=8)  # fmt: skip
    steps = range(1, 25)
    sums = [sum(math.comb(n, k) ** 2 * s.gain ** (2 * k) for k in range(n + 1)) for n in steps]
    for line, color in ((np.log10(sums) / 2, RED),
                        (np.array(steps) * math.log10(1 + s.gain**2) / 2, BLUE)):  # fmt: skip
        axes.plot(steps, line, color=color, linewidth=1, linestyle=(0, (2, 2)))
    top = 1.06 * float(result.theory[False, s.gain][1][until]) / plots.LN10
    axes.text(0.09 * until, 0.97 * top, "dashed:\nh → 0", fontsize=8, va="top")
    axes.set_xlim(0, until)
    axes.set_ylim(0, top)
    axes.set_title("the gradient")
    axes.set_xlabel("number of blocks N")
    axes.set_ylabel("log₁₀ of the gradient's rms size")


def _draw_rates(axes: Any, result: Result) -> None:
    s = result.settings
    middles = np.geomspace(5, s.deepest / 1.25, 60)
    kinds = [(True, g, c) for g, c in zip(s.gains, SHADES[-len(s.gains) :], strict=True)]
    for row, (tied, gain, color) in enumerate([*kinds, (False, s.gain, BLUE)]):
        growth = result.theory[tied, gain][1]
        at = functools.partial(np.interp, xp=np.arange(growth.size), fp=growth)
        line = (at(1.25 * middles) - at(middles / 1.25)) / math.log(1.25**2)
        axes.semilogx(gain * middles, line, color=color, linewidth=1.2)
        places, values, errors = _measured_rates(result, tied, gain)
        axes.errorbar(gain * places, values, errors, fmt="o", color=color, markersize=3.2,
                      linewidth=1)  # fmt: skip
        if tied:
            axes.text(0.03, 0.95 - 0.075 * row, f"looped, g = {gain:g}", color=color, fontsize=8,
                      transform=axes.transAxes, va="top")  # fmt: skip
    axes.semilogx(s.flows, 1 + result.flow, color="black", linestyle=(0, (4, 2)), linewidth=1.2)
    axes.text(0.03, 0.95 - 0.075 * len(kinds), f"fresh, g = {s.gain:g}", color=BLUE, fontsize=8,
              transform=axes.transAxes, va="top")  # fmt: skip
    axes.text(0.98, 0.03, "dashed: 1 + λ₁ of a random\nnetwork of gain gN", fontsize=8,
              ha="right", transform=axes.transAxes)  # fmt: skip
    axes.set_xlim(8, 1200)
    axes.set_ylim(0.5, 9)
    axes.set_title("per e-fold of depth")
    axes.set_xlabel("gain × depth, gN")
    axes.set_ylabel("d ln(rms gradient) / d ln N")


def _measured_rates(result: Result, tied: bool, gain: float) -> tuple[np.ndarray, Any, Any]:
    """Give what each doubling of the depth adds, per e-fold, at its middle, with errors."""
    s = result.settings
    places = np.array(shown(s))
    logs = result.measured[tied, gain].growth[:, places // s.every - 1]
    values = np.diff(mean_square(logs)[0]) / math.log(2)
    gained = np.diff(logs, axis=1)
    varied = np.diff(np.square(logs - logs.mean(axis=0)), axis=1)
    errors = np.std(gained + varied, axis=0, ddof=1) / math.sqrt(len(logs)) / math.log(2)
    return np.sqrt(places[:-1] * places[1:]), values, errors
