"""Bifurcations of a one-unit network: where attractors vanish, and where gradients explode."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure
from scipy.optimize import brentq

from gradhorizon import plots
from gradhorizon.cells import rate_network
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.theory import latch

TITLE = "Gradients explode on the boundary between two attractors, and vanish inside their basins"
QUESTION = "What do bifurcations have to do with exploding gradients?"
SOURCE = (
    "Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), Fig. 3: x' = w σ(x) + b at w = 5; "
    "Doya 1993 for the folds."
)
STEPS, SHOWN = 50, 20  # steps of the checks, and of the map that is drawn


@dataclasses.dataclass(frozen=True)
class Settings:
    """The unit, the grid over bias and start, and how long to watch it near a fold."""

    weight: float = 5.0
    biases: int = 121
    starts: int = 241
    passage: int = 20_000


SMALL = Settings(biases=41, starts=121, passage=4_000)


class Result(NamedTuple):
    """Attractors, gradients and passage times."""

    settings: Settings
    biases: np.ndarray
    attractors: np.ndarray  # (biases, 2): reached from far below and from far above
    starts: np.ndarray
    growth: np.ndarray  # ln |dx_t/dx_0|, (biases, starts, 50)
    boundary_growth: np.ndarray  # on the unstable fixed point, NaN where there is none
    section: np.ndarray  # ln |dx_t/dx_0| at b = -w/2 by lag, (starts, 50)
    fold_factor: np.ndarray  # measured repeated factor at both folds
    found_folds: np.ndarray  # from the time that passing takes
    beyond: np.ndarray  # distances beyond the upper fold
    passage: np.ndarray  # steps to pass there


def fixed_points(weight: float, bias: float) -> list[float]:
    """Solve x = w σ(x) + b by bracketing between the turning points of x - w σ(x)."""

    def excess(x: float) -> float:
        return x - weight / (1 + math.exp(-x)) - bias

    turn = 2 * math.atanh(math.sqrt(1 - 4 / weight))
    ends = [bias - 1, -turn, turn, bias + weight + 1]
    pairs = itertools.pairwise(ends)
    return [_root(excess, *p) for p in pairs if excess(p[0]) * excess(p[1]) < 0]


def _root(function: Any, low: float, high: float) -> float:
    result: Any = brentq(function, low, high, xtol=1e-15)
    return float(result)


def slope(weight: float, x: Any) -> Any:
    """Give w σ'(x)."""
    return weight / (2 + 2 * np.cosh(x))


def compute(settings: Settings) -> Result:
    """Iterate to the attractors, map the gradient, and time the passage beyond the folds."""
    w = settings.weight
    biases = np.linspace(-3.1, -1.9, settings.biases)
    starts = np.linspace(-4.0, 4.0, settings.starts)
    points = [fixed_points(w, b) for b in biases]
    unstable = np.array([p[1] if len(p) == 3 else np.nan for p in points])
    everywhere = np.repeat(np.nan_to_num(unstable)[:, None], settings.starts + 1, axis=1)
    everywhere[:, 1:] = starts
    growth = np.asarray(_log_gradients(w, biases, everywhere))
    middle = np.asarray(_log_gradients(w, np.array([-w / 2]), starts[None]))[0]
    at_folds = np.asarray(latch.sigmoid_folds(w).state)
    folds = latch.sigmoid_folds(w)
    at_folds = _log_gradients(w, np.asarray(folds.bias), np.asarray(folds.state)[:, None])
    beyond = np.geomspace(0.3, 30 * (math.pi / settings.passage) ** 2, 9)
    return Result(
        settings,
        biases,
        _iterate(w, biases[:, None], np.array([[-20.0, 20.0]]), settings.passage),
        starts,
        growth[:, 1:],
        np.where(np.isnan(unstable), np.nan, growth[:, 0, -1]),
        middle,
        np.exp(at_folds[:, 0, 0]),
        _folds_from_passage(settings),
        beyond,
        _passage_times(settings, float(folds.bias[1]) + beyond),
    )


def _log_gradients(weight: float, biases: Any, starts: Any) -> np.ndarray:
    """Measure ln |dx_t/dx_0|, t = 1 … 50, for every bias and each of its starts."""
    params = {"W": jnp.full((1, 1), weight)}
    return np.asarray(_growth(params, jnp.asarray(biases), jnp.asarray(starts)))


@jax.jit
def _growth(params: Any, biases: Any, starts: Any) -> Any:
    step = rate_network(1, 0, activation="sigmoid").step

    def one(bias: Any, start: Any) -> Any:
        chain = jacobian_chain(step, params | {"b": bias[None]}, start[None], length=STEPS)
        return jnp.cumsum(jnp.log(jnp.abs(chain.matrices()[:, 0, 0])))

    return jax.vmap(jax.vmap(one, (None, 0)))(biases, starts)


def _iterate(weight: float, biases: Any, x: Any, steps: int) -> np.ndarray:
    """Iterate x' = w σ(x) + b in NumPy."""
    for _ in range(steps):
        x = weight / (1 + np.exp(-x)) + biases
    return np.asarray(x)


def _folds_from_passage(settings: Settings) -> np.ndarray:
    """Find both folds from dynamics alone: the bias at which passing takes all steps allowed.

    Beyond a fold the unit needs π/√(c Δb) steps to pass where the fixed points were; the bias
    at which it just passes in T steps therefore lies Δb = (π/T)²/c beyond the fold.
    """
    w, steps = settings.weight, settings.passage
    curvature = float(latch.sigmoid_folds(w).curvature)
    # at the lower fold the upper attractor vanishes, at the upper fold the lower one
    low, high = np.array([-2.8, -2.5]), np.array([-2.5, -2.2])
    begins = np.array([[20.0], [-20.0]])
    for _ in range(5):
        grid = np.linspace(low, high, 64, axis=1)
        is_high = _iterate(w, grid, np.broadcast_to(begins, grid.shape), steps) > 0
        first = np.argmax(is_high, axis=1)
        rows = np.arange(2)
        low, high = grid[rows, first - 1], grid[rows, first]
    return (low + high) / 2 + np.array([1, -1]) * (math.pi / steps) ** 2 / curvature


def _passage_times(settings: Settings, biases: np.ndarray) -> np.ndarray:
    """Count the steps from far below to the upper side, for biases beyond the upper fold."""
    x, steps = np.full(biases.size, -20.0), np.zeros(biases.size)
    while np.any(x < 0):
        steps += x < 0
        x = settings.weight / (1 + np.exp(-x)) + biases
    return steps


def checks(result: Result) -> list[Check]:
    """Compare the folds, the attractors and the gradients with closed forms."""
    w = result.settings.weight
    folds = latch.sigmoid_folds(w)
    state = math.log((3 + math.sqrt(5)) / 2)
    solved = _root(lambda x: slope(w, x) - 1, 0.1, 5.0)
    bias = solved - w / (1 + math.exp(-solved))
    time_limit = result.settings.passage
    found = [
        Check("lower fold, b", float(folds.bias[0]), -2.655610338631, 1e-10, "w σ'(x) = 1"),
        Check("upper fold, b", float(folds.bias[1]), -2.344389661369, 1e-10, "w σ'(x) = 1"),
        Check("lower fold, x", float(folds.state[0]), state, 1e-10, "ln((3 + √5)/2) at w = 5"),
        Check("upper fold, x", float(folds.state[1]), -state, 1e-10, "minus that"),
        Check("lower fold, b, from a root finder", float(bias), -2.655610338631, 1e-10,
              "w σ'(x) = 1 solved by bracketing"),
    ]  # fmt: skip
    # passing takes π/√(c Δb) plus a constant number of steps, about 10
    tolerance = 20 / time_limit * 2 * (math.pi / time_limit) ** 2 / float(folds.curvature)
    for name, value, expected in zip(
        ("lower", "upper"), result.found_folds, (-2.655610338631, -2.344389661369), strict=True
    ):
        found.append(
            Check(
                f"{name} fold, b, from the time passing takes",
                float(value),
                expected,
                tolerance,
                f"bias at which it takes {time_limit} steps, less (π/T)²/c",
            )
        )
    for name, value in zip(("lower", "upper"), result.fold_factor, strict=True):
        found.append(Check(f"{name} fold: repeated factor", float(value), 1.0, 1e-10,
                           "exactly 1 at a fold"))  # fmt: skip
    return [*found, *_attractor_checks(result), *_gradient_checks(result)]


def _attractor_checks(result: Result) -> list[Check]:
    """Check where there are two attractors, which ones, and the time to pass beyond a fold."""
    w = result.settings.weight
    points = [fixed_points(w, b) for b in result.biases]
    two = result.attractors[:, 1] - result.attractors[:, 0] > 1e-3
    inside = np.array([len(p) == 3 for p in points])
    error = [max(abs(a[0] - p[0]), abs(a[1] - p[-1]))
             for a, p in zip(result.attractors, points, strict=True)]  # fmt: skip
    curvature = float(latch.sigmoid_folds(w).curvature)
    ratio = result.passage[-1] * math.sqrt(curvature * result.beyond[-1]) / math.pi
    return [
        Check("biases where two attractors were seen, but not expected or reverse",
              float(np.sum(two != inside)), 0.0, 0.0, "two between the folds, one outside"),
        Check("attractors: worst deviation from the fixed points", float(max(error)), 0.0, 1e-10,
              "root finder on x = w σ(x) + b"),
        Check("passage just beyond the upper fold, over π/√(c Δb)", float(ratio), 1.0,
              20 / float(result.passage[-1]), "flow δ' = Δb + c δ²; some ten steps at the ends"),
    ]  # fmt: skip


def _gradient_checks(result: Result) -> list[Check]:
    """Check the gradient on the boundary, where it is largest, and inside the basins."""
    w, b = result.settings.weight, result.biases
    folds = np.asarray(latch.sigmoid_folds(w).bias)
    inside = (b > folds[0]) & (b < folds[1])
    points = {bias: fixed_points(w, bias) for bias in b[inside]}
    boundary = np.array([p[1] for p in points.values()])
    expected = STEPS * np.log(slope(w, boundary))
    largest = result.starts[np.argmax(result.growth[inside, :, -1], axis=1)]
    clear = (b[inside] > folds[0] + 0.05) & (b[inside] < folds[1] - 0.05)
    spacing = float(result.starts[1] - result.starts[0])
    ends = result.section[[0, -1], :]
    rates = (ends[:, -1] - ends[:, 24]) / (STEPS - 25)
    attractor = fixed_points(w, -w / 2)[2]
    middle = len(result.starts) // 2
    outside = result.growth[(b < folds[0] - 0.1) | (b > folds[1] + 0.1), :, -1]
    return [
        Check("on the boundary at b = -w/2: dx_50/dx_0", float(np.exp(result.section[middle, -1])),
              70064.923216, 7e-6, "(w/4)⁵⁰"),
        Check("on the boundary: ln |dx_50/dx_0|, worst deviation over biases",
              float(np.max(np.abs(result.boundary_growth[inside] - expected))), 0.0, 1e-6,
              "50 ln(w σ'(x)) at the unstable fixed point"),
        Check("start of the largest gradient: worst distance from the boundary",
              float(np.max(np.abs(largest - boundary)[clear])), 0.0, spacing,
              "grid spacing; biases at least 0.05 from a fold"),
        Check("in both basins at b = -w/2: rate, nats per step, worst deviation",
              float(np.max(np.abs(rates - math.log(slope(w, attractor))))), 0.0, 1e-3,
              "ln(w σ'(x)) at the attractors; after 25 steps the approach has decayed"),
        Check("biases 0.1 or more outside the folds: largest ln |dx_50/dx_0|",
              max(0.0, float(outside.max())), 0.0, 0.0, "below 0: one attractor, no boundary"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    folds = np.asarray(latch.sigmoid_folds(result.settings.weight).bias)
    middle = len(result.starts) // 2
    peak, ends = np.exp(result.section[middle, -1]), np.exp(result.section[[0, -1], -1])
    return (
        f"Between the folds at b = {folds[0]:.6f} and {folds[1]:.6f} the unit has two attractors; "
        f"a start on the boundary between their basins has a gradient of {peak:.0f} after "
        f"{STEPS} steps, a start inside a basin one of {max(ends):.1e}; 0.1 beyond the folds no "
        "start has a gradient above 1."
    )


def draw(result: Result) -> Figure:
    """Draw the bifurcation diagram, the gradient over it, a section, and the passage times."""
    figure, panels = plots.new_figure(8.4, 6.4, nrows=2, ncols=2)
    with plots.style():
        _draw_bifurcations(panels[0, 0], result)
        _draw_map(figure, panels[0, 1], result)
        _draw_section(panels[1, 0], result)
        _draw_passage(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_branches(axes: Any, weight: float, stable: str, unstable: str) -> None:
    """Draw the fixed points against b, the unstable ones dashed."""
    turn = float(latch.sigmoid_folds(weight).state[0])
    for low, high, color, look in (
        (-6.0, -turn, stable, "-"),
        (-turn, turn, unstable, (0, (4, 2))),
        (turn, 6.0, stable, "-"),
    ):
        x = np.linspace(low, high, 400)
        axes.plot(x - weight / (1 + np.exp(-x)), x, color=color, linestyle=look, linewidth=1.3)


def _draw_bifurcations(axes: Any, result: Result) -> None:
    """Draw fixed points as lines, the attractors reached as points, and the folds."""
    _draw_branches(axes, result.settings.weight, plots.COLORS["blue"], plots.COLORS["red"])
    for column in range(2):
        axes.plot(result.biases[::2], result.attractors[::2, column], "o", markersize=3,
                  color=plots.COLORS["blue"])  # fmt: skip
    folds = latch.sigmoid_folds(result.settings.weight)
    axes.plot(folds.bias, folds.state, "D", color="black", markersize=4.5)
    for i, (shift, align) in enumerate((((-6, 4), "right"), ((6, -4), "left"))):
        b, x = float(folds.bias[i]), float(folds.state[i])
        axes.annotate(f"fold\nb = {b:.4f}", (b, x), xytext=shift, textcoords="offset points",
                      ha=align, va="center", fontsize=8)  # fmt: skip
    axes.text(-2.33, 0.25, "boundary", color=plots.COLORS["red"], fontsize=8.5)
    axes.text(-2.6, 2.35, "upper attractor", color=plots.COLORS["blue"], fontsize=8.5, ha="right")
    axes.text(-2.4, -2.45, "lower attractor", color=plots.COLORS["blue"], fontsize=8.5)
    axes.set_xlim(result.biases[0], result.biases[-1])
    axes.set_ylim(-4, 4)
    axes.set_xlabel(f"bias b (w = {result.settings.weight:g})")
    axes.set_ylabel("state x")
    axes.set_title("fixed points, and where iteration ends")


def _draw_map(figure: Any, axes: Any, result: Result) -> None:
    """Draw the gradient over bias and start."""
    decades = result.growth[:, :, SHOWN - 1].T / plots.LN10
    b, x = result.biases, result.starts
    image = axes.imshow(decades, origin="lower", extent=(b[0], b[-1], x[0], x[-1]), aspect="auto",
                        norm=colors.TwoSlopeNorm(0, -6, 2), cmap="RdBu_r",
                        interpolation="nearest")  # fmt: skip
    bar = figure.colorbar(image, ax=axes, pad=0.02, ticks=range(-6, 3, 2))
    bar.set_label(f"log₁₀ of the gradient, {SHOWN} steps")
    _draw_branches(axes, result.settings.weight, "none", "black")
    axes.set_xlim(b[0], b[-1])
    axes.set_ylim(x[0], x[-1])
    axes.text(-2.38, 0.45, "boundary", fontsize=8.5, color="white")
    axes.set_xlabel("bias b")
    axes.set_ylabel("start x₀")
    axes.set_title(f"gradient |dx/dx₀| after {SHOWN} steps")


def _draw_section(axes: Any, result: Result) -> None:
    """Draw the gradient against the start at b = -w/2, for three lags."""
    looks = ((10, "blue"), (25, "orange"), (50, "red"))
    growth = math.log10(result.settings.weight / 4)
    for lag, color in looks:
        decades = result.section[:, lag - 1] / plots.LN10
        axes.plot(result.starts, decades, "o-", color=plots.COLORS[color], markersize=2,
                  linewidth=0.8)  # fmt: skip
        axes.plot([0], [lag * growth], "D", color="black", markersize=4)
        axes.annotate(
            f"{lag} steps",
            (result.starts[-1], decades[-1]),
            xytext=(-2, 11),
            ha="right",
            textcoords="offset points",
            color=plots.COLORS[color],
            fontsize=8.5,
        )
    axes.annotate("(w/4)ᵗ on the boundary", (0, 50 * growth), xytext=(10, 0), va="center",
                  textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.set_xlabel("start x₀ (b = -w/2)")
    axes.set_ylabel("log₁₀ of the gradient |dxₜ/dx₀|")
    axes.set_title("across the boundary")


def _draw_passage(axes: Any, result: Result) -> None:
    """Draw the steps that passing takes beyond the fold."""
    curvature = float(latch.sigmoid_folds(result.settings.weight).curvature)
    ends = np.array([result.beyond.min() / 2, result.beyond.max() * 2])
    axes.loglog(ends, math.pi / np.sqrt(curvature * ends), color=plots.COLORS["violet"])
    axes.loglog(result.beyond, result.passage, "o", color=plots.COLORS["violet"], markersize=4)
    axes.text(1e-3, 500, "π/√(c Δb)", color=plots.COLORS["violet"], fontsize=9)
    axes.set_xlabel("distance Δb of the bias beyond the upper fold")
    axes.set_ylabel("steps to reach the upper side")
    axes.set_title("beyond a fold, its ghost holds the state")
