"""Maps and flows whose exponents are known, through the functions that analyze networks."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import maps
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from gradhorizon.studies._study import Check

TITLE = "Exponents of textbook maps and flows come out within four standard errors of what is known"
QUESTION = "Are the exponents right where they are known?"
SOURCE = (
    "Exact values by elementary arguments; numerical ones from J. C. Sprott, Chaos and Time-Series "
    "Analysis (2003), and of the towel map from Rössler 1979, as quoted in the literature."
)
GOLDEN = math.log((3 + math.sqrt(5)) / 2)


class Case(NamedTuple):
    """A system, how long it is run, and what is known of it, in nats per unit time."""

    label: str
    make: Callable[[], Any]
    steps: int
    burn_in: int
    known: tuple[float, ...]  # exponents from the first on; a quoted one is rounded
    digits: float  # a unit of the last digit of quoted values, which may be cut off, or 0
    total: float  # the exact sum of all exponents; NaN if there is none
    total_error: float  # of the sum, from the integrator or rounding


CASES = {
    "logistic": Case("logistic map, r = 4", maps.logistic, 400_000, 100, (math.log(2),), 0.0,
                     math.nan, 0.0),
    "cat": Case("Arnold's cat map", maps.cat, 20_000, 50, (GOLDEN, -GOLDEN), 0.0, 0.0, 1e-12),
    "henon": Case("Hénon map", maps.henon, 200_000, 100, (0.41922, -1.62319), 1e-5,
                  math.log(0.3), 1e-12),
    "ikeda": Case("Ikeda map, u = 0.9", maps.ikeda, 60_000, 100, (), 0.0, 2 * math.log(0.9),
                  1e-12),
    "standard": Case("standard map, K = 10", maps.standard, 60_000, 100, (), 0.0, 0.0,
                     1e-12),
    "towel": Case("folded towel map", maps.folded_towel, 100_000, 100, (0.43, 0.37, -3.3),
                  0.01, math.nan, 0.0),
    "lorenz": Case("Lorenz flow", maps.lorenz, 400_000, 10_000, (0.9056, 0.0, -14.5723),
                   1e-4, -41 / 3, 1e-4),
    "rossler": Case("Rössler flow", lambda: maps.rossler(0.02), 200_000, 10_000,
                    (0.0714, 0.0, -5.3943), 1e-4, math.nan, 0.0),
    "linz_sprott": Case("Linz-Sprott flow", maps.linz_sprott, 200_000, 10_000,
                        (0.0362, 0.0, -0.6362), 1e-4, -0.6, 1e-6),
}  # fmt: skip


class Fixed(NamedTuple):
    """A fixed point in closed form, where the exponents are those of one matrix."""

    point: tuple[float, ...]
    matrix: list[list[float]]  # the derivative there, of a flow that of its field
    steps: int  # few enough that rounding does not carry the orbit away
    burn_in: int  # enough for an aligned frame


def _rossler_point() -> Fixed:
    a, b, c = 0.2, 0.2, 5.7
    x = (c - math.sqrt(c * c - 4 * a * b)) / 2
    return Fixed((x, -x / a, x / a), [[0, -1, -1], [1, a, 0], [x / a, 0, x - c]], 400, 400)


FIXED = {
    "logistic": Fixed((0.0,), [[4]], 20_000, 100),
    "standard": Fixed((0.0, 0.0), [[11, 1], [10, 1]], 3_000, 100),
    "lorenz": Fixed((0.0, 0.0, 0.0), [[-10, 10, 0], [28, -1, 0], [0, 0, -8 / 3]], 20_000, 10_000),
    "rossler": _rossler_point(),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which systems, and by how much their runs are shortened."""

    systems: list[str] = dataclasses.field(default_factory=lambda: list(CASES))
    shorten: int = 1


SMALL = Settings(systems=["logistic", "cat", "henon", "lorenz"], shorten=20)


class Measured(NamedTuple):
    """Exponents of one system in nats per unit time."""

    exponents: np.ndarray
    errors: np.ndarray
    history: np.ndarray  # running means of the first exponent
    times: np.ndarray  # of the history
    duration: float


class Result(NamedTuple):
    """What was measured, by system."""

    settings: Settings
    measured: dict[str, Measured]
    fixed: dict[str, np.ndarray]  # exponents at the fixed points, per step


def compute(settings: Settings) -> Result:
    """Run every system, and those with a fixed point in closed form once more from there."""
    found, fixed = {}, {}
    for name in settings.systems:
        case = CASES[name]
        system = case.make()
        steps = case.steps // settings.shorten
        spectrum = _spectrum(system, steps, case.burn_in)
        found[name] = Measured(
            np.asarray(spectrum.exponents) / system.dt,
            np.asarray(spectrum.standard_errors) / system.dt,
            np.asarray(spectrum.history[:, 0]) / system.dt,
            np.cumsum(np.asarray(spectrum.window_lengths)) * system.dt,
            steps * system.dt,
        )
        if name in FIXED:
            still = system._replace(h0=jnp.asarray(FIXED[name].point, system.h0.dtype))
            spectrum = _spectrum(still, FIXED[name].steps, FIXED[name].burn_in)
            fixed[name] = np.asarray(spectrum.exponents)
    return Result(settings, found, fixed)


def _spectrum(system: maps.System, steps: int, burn_in: int) -> LyapunovSpectrum:
    chain = jacobian_chain(*system, length=steps + burn_in)
    return lyapunov_spectrum(chain, burn_in=burn_in, windows=64)


def fixed_exponents(name: str) -> np.ndarray:
    """Give ln|μ_i| of a map, ln|R(dt μ_i)| of a flow, R(z) = 1 + z + z²/2 + z³/6 + z⁴/24."""
    dt = CASES[name].make().dt
    factors = np.linalg.eigvals(np.array(FIXED[name].matrix, float))
    if name in ("lorenz", "rossler"):
        z = dt * factors
        factors = 1 + z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
    return np.sort(np.log(np.abs(factors)))[::-1]


def allowed(name: str, measured: Measured, index: int) -> tuple[float, str]:
    """Give how far a measured exponent may be from a known one, and why."""
    if name == "cat":
        return 1e-12, "exact: constant factors and an aligned frame leave only rounding"
    if name == "logistic":
        # ln |f'(x)| = ln 2 + ½ ln(x'(1 - x')) - ½ ln(x(1 - x)), where 1 - x is u at least
        ends = -0.5 * math.log(np.finfo(float).eps / 2)
        return ends / measured.duration, "exact; the sum telescopes to ½ ln x(1 - x) at both ends"
    error = 4 * float(measured.errors[index])
    return error + CASES[name].digits, "literature; four standard errors, its last digit"


def checks(result: Result) -> list[Check]:
    """Compare every exponent with what is known of it, and sums with their exact values."""
    found = []
    for name, measured in result.measured.items():
        case = CASES[name]
        for index, known in enumerate(case.known):
            found.append(
                Check(f"{case.label}: λ_{index + 1}", float(measured.exponents[index]), known,
                      *allowed(name, measured, index))
            )  # fmt: skip
        if math.isfinite(case.total):
            found.append(
                Check(f"{case.label}: Σ λ_i", float(measured.exponents.sum()), case.total,
                      case.total_error, "exact: the constant divergence or determinant")
            )  # fmt: skip
    found += _fixed_checks(result)
    if "standard" in result.measured:
        measured = result.measured["standard"]
        found.append(
            Check("standard map, K = 10: λ_1", float(measured.exponents[0]), math.log(5),
                  0.012 + 4 * float(measured.errors[0]), "ln(K/2), up to O(1/K²)")
        )  # fmt: skip
    if "lorenz" in result.measured:
        measured = result.measured["lorenz"]
        first, second, third = measured.exponents
        dimension = 2 + (first + second) / -third
        found.append(
            Check("Lorenz flow: Kaplan-Yorke dimension", float(dimension), 2.062,
                  4 * float(measured.errors[0]) / 14.57 + 1e-3, "2 + (λ_1 + λ_2)/|λ_3|")
        )  # fmt: skip
    return found


def _fixed_checks(result: Result) -> list[Check]:
    found = []
    for name, exponents in result.fixed.items():
        known = fixed_exponents(name)
        # a complex pair turns in its plane: only the sum of both is the same at all times
        whole = np.append(known[:-1] - known[1:] > 1e-9, True)
        away = np.cumsum(exponents - known)[whole]
        found.append(
            Check(f"{CASES[name].label}, at a fixed point: λ_1 + … + λ_j per step, largest error",
                  float(np.max(np.abs(away))), 0.0, 1e-10,
                  "eigenvalues of the derivative there; those of the scheme for a flow")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    measured = result.measured
    logistic, lorenz = measured["logistic"], measured["lorenz"]
    total = float(lorenz.exponents.sum())
    count = sum(len(CASES[name].known) for name in measured)
    return (
        f"Yes: all {count} known exponents of {len(measured)} systems are met within four standard "
        f"errors, the exact ones to rounding or O(1/T); logistic map {logistic.exponents[0]:.5f} "
        "(ln 2 = 0.69315), Lorenz "
        f"{lorenz.exponents[0]:.3f} ± {lorenz.errors[0]:.3f} (0.9056) with a sum of {total:.5f} "
        "(-41/3 = -13.66667)."
    )


def draw(result: Result) -> Figure:
    """Draw the exponents beside the known ones, their deviations, and their convergence."""
    figure, panels = plots.new_figure(8.4, 4.2, ncols=3, width_ratios=[1.25, 1.0, 1.0])
    with plots.style():
        _draw_exponents(panels[0], result)
        _draw_deviations(panels[1], result)
        _draw_convergence(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


BLUE, RED, ORANGE, GRAY = (plots.COLORS[c] for c in ("blue", "red", "orange", "gray"))


def _draw_exponents(axes: Any, result: Result) -> None:
    names = list(result.measured)
    for row, name in enumerate(names):
        measured, case = result.measured[name], CASES[name]
        axes.plot(case.known, np.full(len(case.known), row), "o", color=RED, markersize=9,
                  fillstyle="none")  # fmt: skip
        axes.errorbar(measured.exponents, np.full(measured.exponents.size, row),
                      xerr=measured.errors, fmt="o", color=BLUE, markersize=3.5,
                      linewidth=1)  # fmt: skip
    axes.axvline(0, color=GRAY, linewidth=0.8)
    axes.set_yticks(range(len(names)), [CASES[name].label for name in names])
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xscale("symlog", linthresh=0.1, linscale=0.5)
    axes.set_xlim(-30, 4)
    axes.set_xticks([-10, -1, -0.1, 0, 0.1, 1], ["−10", "−1", "−0.1", "0", "0.1", "1"])
    axes.minorticks_off()
    axes.set_title("all exponents")
    axes.set_xlabel("λᵢ (nats per step or unit time)\ncircles: known, points: measured")


def _draw_deviations(axes: Any, result: Result) -> None:
    names = list(result.measured)
    for row, name in enumerate(names):
        measured, case = result.measured[name], CASES[name]
        for index, known in enumerate(case.known):
            place = row + 0.22 * (index - (len(case.known) - 1) / 2)
            size = abs(float(measured.exponents[index]) - known)
            limit, _ = allowed(name, measured, index)
            axes.plot([limit], [place], "|", color=GRAY, markersize=8)
            axes.plot([max(size, 1e-16)], [place], "o", color=BLUE, markersize=3.5)
        if math.isfinite(case.total):
            size = abs(float(measured.exponents.sum()) - case.total)
            axes.plot([max(size, 1e-16)], [row], "D", color=ORANGE, markersize=4)
    axes.set_yticks(range(len(names)), [])
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log")
    axes.set_xlim(3e-17, 1)
    axes.set_xticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
    axes.set_title("distance from the known")
    axes.set_xlabel("points: exponents (bars: allowed),\ndiamonds: exact sums")


def _draw_convergence(axes: Any, result: Result) -> None:
    looks = (("logistic", BLUE, "logistic map"),
             ("lorenz", RED, "Lorenz flow"))  # fmt: skip
    for name, color, text in looks:
        measured = result.measured[name]
        size = np.abs(measured.history - CASES[name].known[0])
        axes.loglog(measured.times, size, "o", color=color, markersize=3)
        axes.annotate(text, (measured.times[0], size.max()), xytext=(0, 8), color=color,
                      textcoords="offset points", fontsize=8, ha="left")  # fmt: skip
        if name == "lorenz":
            error = measured.errors[0] * np.sqrt(measured.times[-1] / measured.times)
            axes.plot(measured.times, error, color=color, linewidth=1.2)
        else:
            axes.plot(measured.times, 1 / measured.times, color=color, linewidth=1.2)
    axes.set_title("approach of λ₁")
    axes.set_xlabel("steps, or units of time, T")
    axes.set_ylabel("|λ₁(T) − known| (points)")
    axes.text(0.03, 0.03, "lines: 1/T, and the package's\nstandard error ∝ 1/√T",
              transform=axes.transAxes, fontsize=7.5)  # fmt: skip
