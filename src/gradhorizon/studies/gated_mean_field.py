"""Mean field of the vanilla and of the minimal gated RNN: where gradients keep their size."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import elman, minimal_rnn
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.studies._study import Check
from gradhorizon.theory import gated_mean_field, mean_field

TITLE = "A gate turns the thin critical line of a vanilla RNN into a broad band of long memory"
QUESTION = "Why are gated networks easier to initialize than vanilla ones?"
SOURCE = (
    "Chen, Pennington & Schoenholz, ICML 2018 (parameter values read second-hand; the numbers are "
    "those of the formulas)."
)
MOMENT = 0.46  # R, the second moment of the inputs
INPUT = 1.39  # σ_v of the minimal RNN
POINT = 6.88  # σ_w at which χ is almost 1
# χ - 1 of the minimal RNN at σ_v = 1.39, R = 0.46 for (σ_w, μ_b), by quadrature
TABLE = {
    (3.0, -4.0): -0.919, (3.0, 0.0): -0.463, (3.0, 4.0): -0.049, (3.0, 6.0): -0.0076,
    (POINT, -2.0): -0.216, (POINT, 0.0): -0.001, (POINT, 2.0): 0.121, (POINT, 6.0): -0.007,
}  # fmt: skip
LONG = 50  # steps of ξ that count as long memory


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments, in JSON's types."""

    seed: int = 0
    weights: list[float] = dataclasses.field(
        default_factory=lambda: [1.0, 2.0, 3.0, 4.5, POINT, 9.0]
    )
    gains: list[float] = dataclasses.field(default_factory=lambda: [0.6, 0.9, 1.2, 1.6, 2.0])
    size: int = 400
    draws: int = 4
    steps: int = 70
    slow_steps: int = 300  # at μ_b = 4, where the state needs longer to settle
    untied_steps: int = 40
    grid: int = 26


SMALL = Settings(weights=[2.0, POINT], gains=[1.0, 1.6], size=200, draws=3, slow_steps=150,
                 grid=5)  # fmt: skip


class Measured(NamedTuple):
    """Q and χ of several networks, (draws, points, 2)."""

    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over the draws."""
        return self.values.mean(axis=0)

    @property
    def error(self) -> np.ndarray:
        """Standard error over the draws."""
        return self.values.std(axis=0, ddof=1) / math.sqrt(len(self.values))


class Result(NamedTuple):
    """Theory over two planes and along lines, networks at points, one Jacobian in full."""

    settings: Settings
    planes: dict[str, np.ndarray]  # ln χ: "vanilla" (σ_v, σ_w), "minimal" (μ_b, σ_w)
    lines: dict[float, np.ndarray]  # μ_b -> Q, χ at `weights` (points, 2)
    vanilla_line: np.ndarray  # χ at `gains`
    tied: dict[float, Measured]  # μ_b -> at `weights`
    untied: Measured  # at μ_b = 0
    vanilla: Measured  # at `gains`
    formula_gap: float  # between ‖J‖_F²/N of the chain and of the formula, relative


SPAN = {"vanilla": (0.4, 2.2), "minimal": (0.5, 10.0)}  # σ_w
HEIGHT = {"vanilla": (0.0, 1.0), "minimal": (-2.0, 8.0)}  # σ_v, μ_b
DRIVE = 0.2  # σ_v of the vanilla networks that are run


def compute(settings: Settings) -> Result:
    """Evaluate the theory over planes, and run networks at points."""
    s, rng = settings, np.random.default_rng(settings.seed)
    lines = {b: _minimal_theory(np.array([(w, b) for w in s.weights])) for b in (0.0, 4.0)}
    lengths = {0.0: s.steps, 4.0: s.slow_steps}
    tied = {b: _minimal(rng, s, b, lengths[b], tied=True) for b in lengths}
    untied = _minimal(rng, s, 0.0, s.untied_steps, tied=False)
    vanilla_line = _vanilla_theory(np.array([(w, DRIVE) for w in s.gains]))
    return Result(s, _planes(s), lines, vanilla_line, tied, untied, _vanilla(rng, s), _gap(rng))


def _nodes(name: str, settings: Settings) -> np.ndarray:
    """Give the points of a plane, (grid², 2)."""
    columns, rows = (np.linspace(*limits[name], settings.grid) for limits in (SPAN, HEIGHT))
    return np.array([(w, y) for y in rows for w in columns])


def _planes(settings: Settings) -> dict[str, np.ndarray]:
    """Give ln χ over both planes."""
    shape = (settings.grid, settings.grid)
    minimal = _minimal_theory(_nodes("minimal", settings))[:, 1]
    vanilla = _vanilla_theory(_nodes("vanilla", settings))
    return {
        "minimal": np.log(minimal).reshape(shape),
        "vanilla": np.log(vanilla).reshape(shape),
    }


@jax.jit
def _minimal_at(point: Any) -> Any:
    field = gated_mean_field.minimal_rnn(point[0] ** 2, INPUT**2, MOMENT, bias=point[1])
    return jnp.stack([field.state_moment, field.chi])


def _minimal_theory(points: np.ndarray) -> np.ndarray:
    """Give Q and χ of the minimal RNN at (σ_w, μ_b), one row each."""
    return np.array([np.asarray(_minimal_at(jnp.asarray(point))) for point in points])


@jax.jit
def _vanilla_at(point: Any) -> Any:
    sigma_w2, noise = point[0] ** 2, point[1] ** 2 * MOMENT
    q = mean_field.length_fixed_point("tanh", sigma_w2, noise)
    return mean_field.susceptibility("tanh", sigma_w2, q)


def _vanilla_theory(points: np.ndarray) -> np.ndarray:
    """Give χ of tanh(W h + V x) at (σ_w, σ_v)."""
    return np.array([float(_vanilla_at(jnp.asarray(point))) for point in points])


def _minimal(rng: Any, settings: Settings, bias: float, steps: int, *, tied: bool) -> Measured:
    """Run minimal RNNs at all σ_w; Q and χ over the second half of the steps.

    Inputs of ±√R: embedded ones enter the theory by their second moment only.
    """
    s, n = settings, settings.size
    step, times = minimal_rnn(n, n).step, () if tied else (steps,)
    root, found = math.sqrt(MOMENT), np.zeros((s.draws, len(s.weights), 2))
    run = jax.jit(lambda p, h, x: unroll(step, p, h, x, tied=tied).states)
    for draw in range(s.draws):
        normal = rng.normal(size=(2, *times, n, n)) / math.sqrt(n)
        signs, start = rng.choice([-1.0, 1.0], (steps, n)), rng.normal(size=n)
        params = {"V": INPUT * normal[1], "U": np.broadcast_to(np.eye(n), (*times, n, n)),
                  "b": np.zeros((*times, n)), "d": np.full((*times, n), bias)}  # fmt: skip
        for i, w in enumerate(s.weights):
            params["W"] = w * normal[0]
            first = math.sqrt(float(_minimal_at(jnp.asarray([w, bias]))[0])) * start
            states = np.asarray(run(params, first, math.atanh(root) * signs))
            late = slice(steps // 2, steps)
            chi = _growth(params, states[:-1], root * signs, late, tied=tied)
            found[draw, i] = np.mean(states[1:][late] ** 2), chi
    return Measured(found)


def _growth(params: Any, states: Any, inputs: Any, late: slice, *, tied: bool) -> float:
    """Give the mean of ‖J_t‖_F²/N, J = diag(u) + diag(u (1 - u) (h - z)) W."""
    h, z = states[late], inputs[late]
    W, V = (params[k] if tied else params[k][late] for k in "WV")
    side = "ij,tj->ti" if tied else "tij,tj->ti"
    drive = np.einsum(side, W, h, optimize=True) + np.einsum(side, V, z, optimize=True)
    bias = params["d"] if tied else params["d"][late]
    u = 1 / (1 + np.exp(-(drive + bias)))
    through = u * (1 - u) * (h - z)
    own, row = np.diagonal(W, axis1=-2, axis2=-1), np.sum(W**2, axis=-1)
    return float(np.mean(u**2 + 2 * u * through * own + through**2 * row))


def _vanilla(rng: Any, settings: Settings) -> Measured:
    """Run tied tanh networks at all gains; Q and χ over the second half."""
    s, n = settings, settings.size
    step, found = elman(n, n).step, np.zeros((s.draws, len(s.gains), 2))
    run = jax.jit(lambda p, h, x: unroll(step, p, h, x).states)
    for draw in range(s.draws):
        normal = rng.normal(size=(2, n, n)) / math.sqrt(n)
        inputs = math.sqrt(MOMENT) * rng.normal(size=(2 * s.steps, n))
        for i, w in enumerate(s.gains):
            params = {"W": w * normal[0], "U": DRIVE * normal[1], "b": np.zeros(n)}
            states = np.asarray(run(params, 0.3 * rng.normal(size=n), inputs))[s.steps :]
            squares = np.mean((1 - states**2) ** 2 * np.sum(params["W"] ** 2, axis=1))
            found[draw, i] = np.mean(states**2), squares
    return Measured(found)


def _gap(rng: Any) -> float:
    """Compare the formula of ‖J‖_F² with the Jacobians of a small chain."""
    n, steps = 12, 5
    params = {"W": 3 * rng.normal(size=(n, n)), "V": rng.normal(size=(n, n)), "U": np.eye(n),
              "b": np.zeros(n), "d": np.full(n, 0.5)}  # fmt: skip
    z, start = rng.uniform(-0.9, 0.9, (steps, n)), rng.normal(size=n)
    step = minimal_rnn(n, n).step
    xs = np.arctanh(z)
    chain = jacobian_chain(step, params, start, xs)
    states = np.asarray(unroll(step, params, start, xs).states)[:-1]
    exact = float(np.sum(np.asarray(chain.matrices()) ** 2)) / (n * steps)
    return _growth(params, states, z, slice(None), tied=True) / exact - 1


def checks(result: Result) -> list[Check]:
    """Compare theory with the table, and networks with theory."""
    return [*_theory_checks(result), *_network_checks(result)]


def _theory_checks(result: Result) -> list[Check]:
    source = "Chen et al. 2018, formulas by quadrature"
    field = gated_mean_field.minimal_rnn(POINT**2, INPUT**2, MOMENT)
    found = [
        Check("minimal RNN, σ_w = 6.88, μ_b = 0: Q", float(field.state_moment), 0.317897, 1e-6,
              source),
        Check("minimal RNN, σ_w = 6.88, μ_b = 0: q", float(field.preactivation_variance),
              15.936223, 1e-5, source),
        Check("minimal RNN, σ_w = 6.88, μ_b = 0: χ", float(field.chi), 0.998780, 1e-6, source),
    ]  # fmt: skip
    for (w, bias), expected in TABLE.items():
        chi = float(_minimal_at(jnp.asarray([w, bias]))[1])
        digits = 6e-5 if abs(expected) < 0.01 and bias == 6 and w == 3.0 else 6e-4
        found.append(Check(f"minimal RNN, σ_w = {w:g}, μ_b = {bias:g}: χ - 1", chi - 1, expected,
                           digits, source))  # fmt: skip
    q = mean_field.length_fixed_point("tanh", 1.0, 0.025**2 * MOMENT)
    chi = float(mean_field.susceptibility("tanh", 1.0, q))
    found += [
        Check("vanilla, σ_w = 1, σ_v = 0.025: q", float(q), 0.0121930035, 1e-9, source),
        Check("vanilla, σ_w = 1, σ_v = 0.025: χ", chi, 0.9766013215, 1e-9, source),
        Check("vanilla, σ_w = 1, σ_v = 0.025: ξ", -1 / math.log(chi), 42.2355, 1e-4, source),
    ]  # fmt: skip
    vanilla, minimal = (long_share(result, name) for name in ("vanilla", "minimal"))
    found.append(Check("long memory fills more of the minimal RNN's plane (1: yes)",
                       float(minimal > 2 * vanilla), 1.0, 0.0,
                       "broad band against narrow ridge"))  # fmt: skip
    return found


def long_share(result: Result, name: str) -> float:
    """Give the share of the plane with |ξ| > LONG."""
    columns = np.linspace(*SPAN[name], result.settings.grid)
    fine = np.linspace(*SPAN[name], 2000)  # the ridge is thinner than the grid
    rows = np.array([np.interp(fine, columns, row) for row in result.planes[name]])
    return float(np.mean(np.abs(rows) < 1 / LONG))


def _network_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    field = "mean field; four standard errors and the finite size"
    for i, w in enumerate(s.weights):
        for j, name in enumerate(("Q", "χ")):
            exact = float(result.lines[0.0][i, j])
            tolerance = 4 * float(result.untied.error[i, j]) + 5 * exact / s.size
            found.append(Check(f"untied, σ_w = {w:g}, μ_b = 0: {name}",
                               float(result.untied.mean[i, j]), exact, tolerance,
                               field))  # fmt: skip
    for i, w in enumerate(s.gains):
        exact = float(result.vanilla_line[i])
        tolerance = 4 * float(result.vanilla.error[i, 1]) + 5 * exact / s.size
        found.append(Check(f"vanilla, tied, σ_w = {w:g}, σ_v = {DRIVE:g}: χ",
                           float(result.vanilla.mean[i, 1]), exact, tolerance, field))  # fmt: skip
    i = s.weights.index(POINT)
    tied, error = result.tied[0.0].mean[i], result.tied[0.0].error[i]
    exact = result.lines[0.0][i]
    found += [
        Check("tied, σ_w = 6.88, μ_b = 0: Q / theory", float(tied[0] / exact[0]), 0.92,
              4 * float(error[0] / exact[0]) + 0.01, "weights that repeat: 8 % at N = 1000"),
        Check("tied, σ_w = 6.88, μ_b = 0: χ / theory", float(tied[1] / exact[1]), 0.987,
              4 * float(error[1] / exact[1]) + 0.01, "weights that repeat: 1.3 % at N = 1000"),
        Check("‖J‖_F² of the formula / of the chain, minus 1", result.formula_gap, 0.0, 1e-12,
              "identity"),
    ]  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    i = result.settings.weights.index(POINT)
    vanilla, minimal = (long_share(result, name) for name in ("vanilla", "minimal"))
    return (
        f"Because long memory (|ξ| above {LONG} steps) fills {minimal:.0%} of the plane of weights "
        f"and bias for the minimal RNN, {vanilla:.0%} of that of weights and input for a vanilla "
        f"one. The theory holds for fresh weights (Q = {result.untied.mean[i, 0]:.3f} against "
        f"{result.lines[0.0][i, 0]:.3f} at σ_w = {POINT:g}); repeated ones lie below it "
        f"({result.tied[0.0].mean[i, 0]:.3f})."
    )


def draw(result: Result) -> Figure:
    """Draw ξ over both planes, χ along lines, and the gap in Q."""
    figure, panels = plots.new_figure(8.4, 6.4, nrows=2, ncols=2)
    with plots.style():
        images = [_draw_plane(panels[0, i], result, n) for i, n in enumerate(SPAN)]
        bar = figure.colorbar(images[0], ax=panels[0], pad=0.02, aspect=24)
        bar.set_label("ln χ per step (olive: |ξ| > 50)")
        _draw_growth(panels[1, 0], result)
        _draw_moment(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_plane(axes: Any, result: Result, name: str) -> Any:
    """Draw ln χ with the critical line and the border of long memory."""
    columns, rows = (np.linspace(*limits[name], result.settings.grid) for limits in (SPAN, HEIGHT))
    plane = result.planes[name]
    image = axes.pcolormesh(columns, rows, plane, cmap="RdBu_r", vmin=-0.6, vmax=0.6,
                            shading="gouraud", rasterized=True)  # fmt: skip
    axes.contourf(columns, rows, plane, [-1 / LONG, 1 / LONG], colors=[plots.COLORS["olive"]],
                  alpha=0.55)  # fmt: skip
    axes.contour(columns, rows, plane, [0.0], colors="black", linewidths=1.4)
    axes.set_xlabel(r"$\sigma_w$")
    if name == "vanilla":
        axes.set_ylabel(r"input $\sigma_v$ (R = 0.46)")
        axes.set_title(f"vanilla: |ξ| > {LONG} on {long_share(result, name):.0%}")
    else:
        axes.plot([POINT], [0.0], "*", color="black", markersize=8)
        axes.annotate(f"{POINT:g}, as below", (POINT, 0.0), xytext=(7, 7), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_ylabel(r"gate's bias $\mu_b$ ($\sigma_v$ = 1.39)")
        axes.set_title(f"minimal RNN: |ξ| > {LONG} on {long_share(result, name):.0%}")
    return image


def _line(name: str, columns: np.ndarray, height: float) -> np.ndarray:
    points = np.array([(w, height) for w in columns])
    return _vanilla_theory(points) if name == "vanilla" else _minimal_theory(points)


def _draw_growth(axes: Any, result: Result) -> None:
    s = result.settings
    columns = np.linspace(0.3, 10.0, 40)
    narrow = np.linspace(0.3, 3.0, 30)
    axes.plot(narrow, _line("vanilla", narrow, DRIVE), color=plots.COLORS["red"], linewidth=1.2)
    axes.errorbar(s.gains, result.vanilla.mean[:, 1], result.vanilla.error[:, 1], fmt="^",
                  color=plots.COLORS["red"], markersize=4, linewidth=1)  # fmt: skip
    axes.text(2.55, 1.52, "vanilla", color=plots.COLORS["red"], fontsize=8)
    for bias, color in ((0.0, plots.COLORS["blue"]), (4.0, plots.COLORS["violet"])):
        law = _line("minimal", columns, bias)[:, 1]
        axes.plot(columns, law, color=color, linewidth=1.2)
        measured = result.tied[bias]
        axes.errorbar(s.weights, measured.mean[:, 1], measured.error[:, 1], fmt="o", color=color,
                      markersize=4, linewidth=1)  # fmt: skip
    axes.plot(s.weights, result.untied.mean[:, 1], "o", markerfacecolor="none", markersize=7,
              color=plots.COLORS["blue"])  # fmt: skip
    axes.text(2.2, 0.33, "minimal RNN, μ_b = 0".replace("μ_b", r"$\mu_b$"),
              color=plots.COLORS["blue"], fontsize=8)  # fmt: skip
    axes.text(7.0, 1.28, r"$\mu_b$ = 4", ha="right", color=plots.COLORS["violet"], fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylim(0, 1.75)
    axes.set_xlim(0, 10)
    axes.set_title("growth of the squared gradient")
    axes.set_xlabel(r"$\sigma_w$ (dots: tied, circles: untied, lines: theory)")
    axes.set_ylabel("χ per step")


def _draw_moment(axes: Any, result: Result) -> None:
    s = result.settings
    columns = np.linspace(0.3, 10.0, 40)
    color = plots.COLORS["blue"]
    axes.plot(columns, _line("minimal", columns, 0.0)[:, 0], color=color, linewidth=1.2)
    tied, untied = result.tied[0.0], result.untied
    axes.errorbar(s.weights, untied.mean[:, 0], untied.error[:, 0], fmt="o", markersize=7,
                  markerfacecolor="none", color=color, linewidth=1)  # fmt: skip
    axes.errorbar(s.weights, tied.mean[:, 0], tied.error[:, 0], fmt="o", markersize=4,
                  color=color, linewidth=1)  # fmt: skip
    i = s.weights.index(POINT)
    exact = result.lines[0.0][i, 0]
    axes.annotate(f"theory {exact:.3f}\nuntied {untied.mean[i, 0]:.3f}", (POINT, exact),
                  xytext=(-10, 14), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.annotate(f"tied {tied.mean[i, 0]:.3f}", (POINT, tied.mean[i, 0]), xytext=(8, -12),
                  textcoords="offset points", ha="left", fontsize=8)  # fmt: skip
    axes.set_xlim(0, 10)
    axes.set_title(f"repeated weights lie below (N = {s.size})")
    axes.set_xlabel(r"$\sigma_w$ (minimal RNN, $\mu_b$ = 0)")
    axes.set_ylabel("Q = E h²")
