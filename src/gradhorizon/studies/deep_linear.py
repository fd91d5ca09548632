"""Deep linear networks: singular values at the start, learning curves, learning times."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import integrate

from gradhorizon import plots
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.remedies import tasks
from gradhorizon.studies import _deep_linear_training as training
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_matrix

TITLE = "Orthogonal weights let deep linear networks learn in about the same number of steps"
QUESTION = "Does a deeper network have to learn more slowly?"
SOURCE = (
    "Saxe, McClelland & Ganguli 2013/2014, arXiv:1312.6120 (learning curves of decoupled modes; "
    "depth-independent learning, read second-hand); Newman 1986 for Gaussian factors."
)
SHARE = 0.01  # a mode has been learned at this distance from its target, relative


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments, in JSON's types."""

    seed: int = 0
    width: int = 64
    lags: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128])
    modes: list[float] = dataclasses.field(default_factory=lambda: [4.0, 3.0, 2.0, 1.0])
    start: float = 1e-3  # strength u_0 of every mode of the two-layer network
    flow_depths: list[int] = dataclasses.field(default_factory=lambda: [2, 3, 4, 8, 16, 32])
    flow_target: float = 2.0
    depths: list[int] = dataclasses.field(default_factory=lambda: [2, 4, 8, 16, 32])
    draws: int = 5
    limit: int = 3000


SMALL = Settings(width=16, lags=[1, 4, 32], flow_depths=[2, 8], depths=[2, 8, 16], draws=2)


class Result(NamedTuple):
    """Singular values at the start, flows beside their closed forms, and learning times."""

    settings: Settings
    logs: dict[bool, np.ndarray]  # orthogonal -> ln σ (lags, width)
    times: np.ndarray
    strengths: np.ndarray  # u of every mode (times, modes)
    crosstalk: float  # largest entry of the product off the modes
    flow_times: np.ndarray  # t at which the mode is learned, by depth
    targets: np.ndarray  # singular values of the digits' target
    steps: dict[bool, np.ndarray]  # orthogonal -> fewest steps (depths, draws)


def compute(settings: Settings) -> Result:
    """Measure singular values, follow gradient flows, and count steps of gradient descent."""
    s = settings
    rng = np.random.default_rng(s.seed)
    logs = {kind: _spectra(rng, s, orthogonal=kind) for kind in (True, False)}
    times, strengths, crosstalk = _two_layers(rng, s)
    flow_times = np.array([_flow_time(rng, depth, s.flow_target) for depth in s.flow_depths])
    target = digits_target()
    steps = {kind: _learning(rng, s, target, orthogonal=kind) for kind in (True, False)}
    values = np.linalg.svd(target, compute_uv=False)
    return Result(s, logs, times, strengths, crosstalk, flow_times, values, steps)


def _weights(rng: Any, rows: int, columns: int, *, orthogonal: bool) -> np.ndarray:
    """Draw a Haar orthogonal matrix (rows of one), or Gaussian entries of variance 1/fan-in."""
    entries = rng.normal(size=(columns, columns))
    if not orthogonal:
        return entries[:rows] / math.sqrt(columns)
    q, r = np.linalg.qr(entries)
    return (q * np.sign(np.diag(r)))[:rows]


def _spectra(rng: Any, settings: Settings, *, orthogonal: bool) -> np.ndarray:
    """Give ln σ_i of the products of the last 1, 2, 4, … layers."""
    n = settings.width
    layers = [_weights(rng, n, n, orthogonal=orthogonal) for _ in range(max(settings.lags))]
    spectrum = singular_spectrum(np.stack(layers), lags=settings.lags)
    return np.asarray(spectrum.log_values)


def _two_layers(rng: Any, settings: Settings) -> tuple[np.ndarray, np.ndarray, float]:
    """Follow a two-layer network whose weights are aligned with the modes of its target."""
    modes, n = np.array(settings.modes), len(settings.modes)
    left, middle, right = (_weights(rng, n, n, orthogonal=True) for _ in range(3))
    size = math.sqrt(settings.start)
    weights = [size * middle @ right.T, size * left @ middle.T]
    target = left @ np.diag(modes) @ right.T
    last = 1.25 * learning_time(2, modes.min(), settings.start, 0.99 * modes.min())
    count = 500
    products = training.flow(weights, target, dt=last / count, steps=count)
    rotated = np.array([left.T @ p @ right for p in products])
    strengths = np.diagonal(rotated, axis1=1, axis2=2)
    off = float(np.max(np.abs(rotated - strengths[:, :, None] * np.eye(n))))
    return np.linspace(0, last, count + 1), strengths, off


def _flow_time(rng: Any, depth: int, target: float) -> float:
    """Follow L orthogonal layers whose product meets its target; when the first mode is learned."""
    n, last = 4, 1.1 * learning_time(depth, target, 1.0, (1 - SHARE) * target)
    weights = [_weights(rng, n, n, orthogonal=True) for _ in range(depth)]
    basis = _weights(rng, n, n, orthogonal=True)
    modes = np.linspace(target, 1.0, n)
    start = training.product(weights)
    goal = start @ basis @ np.diag(modes) @ basis.T
    count = 400
    products = training.flow(weights, goal, dt=last / count, steps=count)
    strength = [float(basis[:, 0] @ start.T @ p @ basis[:, 0]) for p in products]
    # ln(s - u) is nearly straight in t, so that interpolation loses nothing
    distance = np.log(target - np.array(strength))
    return float(np.interp(-math.log(SHARE * target), -distance, np.linspace(0, last, count + 1)))


def learning_time(depth: float | int, target: float, start: float, end: float) -> float:
    """Give t from u_0 to u_f of a mode: du/dt = L u^{2 - 2/L} (s - u), all layers alike.

    For L = 2 it is ln(u_f (s - u_0)/(u_0 (s - u_f)))/(2s).
    """

    def slowness(log_u: float) -> float:
        u = math.exp(log_u)
        return u ** (2 / depth - 1) / (depth * (target - u))

    value = integrate.quad(slowness, math.log(start), math.log(end), epsabs=0, epsrel=1e-11)[0]
    return float(value)


def two_layer_time(target: float, start: float, end: float) -> float:
    """Give the closed form for L = 2, in units of τ."""
    return math.log(end * (target - start) / (start * (target - end))) / (2 * target)


def two_layer_strength(times: Any, target: float, start: float) -> Any:
    """Give u(t) = s/(1 + (s/u_0 - 1) e^{-2st}), the closed form solved for u."""
    return target / (1 + (target / start - 1) * np.exp(-2 * target * times))


def infinite_time(target: float, start: float, end: float) -> float:
    """Give the limit of L t as L → ∞: ∫ du/(u² (s - u))."""
    logs = math.log(end * (target - start) / (start * (target - end)))
    return logs / target**2 + (1 / start - 1 / end) / target


def digits_target() -> np.ndarray:
    """Give the best linear map from whitened images to centered labels, scaled to norm 1."""
    digits = tasks.sequential_digits()
    images, labels = np.asarray(digits.xs[..., 0], float), np.eye(10)[np.asarray(digits.labels)]
    images, labels = images - images.mean(axis=0), labels - labels.mean(axis=0)
    variances, basis = np.linalg.eigh(images.T @ images / len(images))
    kept = variances > 1e-3 * variances[-1]
    whitened = images @ basis[:, kept] / np.sqrt(variances[kept])
    target = labels.T @ whitened / len(images)
    return target / np.linalg.norm(target, 2)


def _learning(rng: Any, settings: Settings, target: np.ndarray, *, orthogonal: bool) -> np.ndarray:
    """Count the steps to a loss of 1 % at the best of several rates, for every depth and draw."""
    s, (classes, n) = settings, target.shape
    found = np.zeros((len(s.depths), s.draws), int)
    for i, depth in enumerate(s.depths):
        for draw in range(s.draws):
            shapes = [(n, n)] * (depth - 1) + [(classes, n)]
            weights = [_weights(rng, *shape, orthogonal=orthogonal) for shape in shapes]
            fewest = s.limit
            for power in range(1, -7, -1):
                steps = training.steps_to_learn(
                    weights, target, rate=2.0**power / depth, share=SHARE, limit=fewest
                )
                if fewest < s.limit and steps >= fewest:
                    break  # smaller rates only take longer
                fewest = min(fewest, steps)
            found[i, draw] = fewest
    return found


def checks(result: Result) -> list[Check]:
    """Compare with closed forms; the counts of steps only with what they must show."""
    return [*_start_checks(result), *_flow_checks(result), *_step_checks(result)]


def _start_checks(result: Result) -> list[Check]:
    s = result.settings
    n, last = s.width, max(s.lags)
    exponents = np.asarray(random_matrix.ginibre_exponents(n))
    variances = np.asarray(random_matrix.ginibre_exponent_variances(n))
    bound = 60 * n * last * float(np.finfo(float).eps)
    sums = result.logs[False].sum(axis=1)
    found = [
        Check(f"orthogonal, up to {last} layers: largest |ln σ|",
              float(np.max(np.abs(result.logs[True]))), 0.0, bound, "exactly 1: Saxe et al. 2013"),
    ]  # fmt: skip
    for i in (0, len(s.lags) - 1):
        lag = s.lags[i]
        found.append(
            Check(f"Gaussian, {lag} layers: ln |det|", float(sums[i]), lag * float(exponents.sum()),
                  4 * math.sqrt(lag * float(variances.sum())), "Newman 1986; four sd")
        )  # fmt: skip
    for rank, name in ((0, "largest"), (n - 1, "smallest")):
        # one product: fluctuation, and an O(1) offset of singular values against exponents
        tolerance = 4 * math.sqrt(last * float(variances[rank])) + math.log(n)
        found.append(
            Check(f"Gaussian, {last} layers: ln of the {name} σ",
                  float(result.logs[False][-1, rank]), last * float(exponents[rank]), tolerance,
                  "L λ; four sd and ln N")
        )  # fmt: skip
    return found


def _flow_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for i, mode in enumerate(s.modes):
        exact = two_layer_strength(result.times, mode, s.start)
        worst = float(np.max(np.abs(result.strengths[:, i] - exact)))
        found.append(Check(f"two layers, s = {mode:g}: u(t), worst deviation", worst, 0.0,
                           1e-5 * mode, "closed form; Runge-Kutta"))  # fmt: skip
    found.append(Check("two layers: largest entry off the modes", result.crosstalk, 0.0, 1e-12,
                       "aligned modes stay decoupled"))  # fmt: skip
    for depth, value in zip(s.flow_depths, result.flow_times, strict=True):
        end = (1 - SHARE) * s.flow_target
        exact = learning_time(depth, s.flow_target, 1.0, end)
        found.append(Check(f"{depth} orthogonal layers: time to learn s = {s.flow_target:g}",
                           float(value), exact, 1e-4 * exact, "quadrature"))  # fmt: skip
    target, start, end = 3.0, 0.1, 2.9
    found += [
        Check("L = 2: quadrature against the closed form", learning_time(2, target, start, end),
              two_layer_time(target, start, end), 1e-9, "(1/2s) ln(u_f (s - u_0)/(u_0 (s - u_f)))"),
        Check("L t at L = 10⁶ against the limit", 1e6 * learning_time(1e6, target, start, end),
              infinite_time(target, start, end), 1e-4, "∫ du/(u² (s - u))"),
    ]  # fmt: skip
    return found


def _step_checks(result: Result) -> list[Check]:
    s = result.settings
    medians = {kind: np.median(steps, axis=1) for kind, steps in result.steps.items()}
    growth = math.log(medians[False][-1] / medians[False][0]) / math.log(s.depths[-1] / s.depths[0])
    eight = s.depths.index(8)
    return [
        Check(f"orthogonal: steps to learn, {s.depths[-1]} layers / 8 layers",
              float(medians[True][-1] / medians[True][eight]), 1.0, 0.5,
              "independent of depth; whole steps"),
        Check("Gaussian: steps to learn grow at least as the depth: exponent, capped at 1",
              min(growth, 1.0), 1.0, 0.1, "Saxe et al. 2013"),
        Check("deepest network: share of draws in which orthogonal weights learn in fewer steps",
              float(np.mean(result.steps[True][-1] < result.steps[False][-1])), 1.0, 0.0,
              "Saxe et al. 2013"),
        Check("largest singular value of the target", float(result.targets[0]), 1.0, 1e-12,
              "scaled"),
        Check("smallest singular value of the target", float(result.targets[-1]), 0.0, 1e-10,
              "centered labels sum to 0"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    few, many = (np.median(result.steps[kind], axis=1) for kind in (True, False))
    return (
        f"No: with orthogonal weights whitened digits are learned in {few[0]:.0f} gradient steps "
        f"by {s.depths[0]} linear layers and in {few[-1]:.0f} by {s.depths[-1]}; with Gaussian "
        f"weights of the same variance the steps grow from {many[0]:.0f} to {many[-1]:.0f}."
    )


def draw(result: Result) -> Figure:
    """Draw singular values, learning curves, the time of a mode, and steps on the digits."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_start(panels[0, 0], result)
        _draw_curves(panels[0, 1], result)
        _draw_times(panels[1, 0], result)
        _draw_steps(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_start(axes: Any, result: Result) -> None:
    s = result.settings
    lags, n = np.array(s.lags), s.width
    exponents = np.asarray(random_matrix.ginibre_exponents(n))
    ranks = sorted({0, n // 4, n // 2, 3 * n // 4, n - 1})
    for rank in ranks:
        axes.plot(lags, lags * exponents[rank] / plots.LN10, color=plots.COLORS["red"],
                  linewidth=1)  # fmt: skip
        axes.plot(lags, result.logs[False][:, rank] / plots.LN10, "o", color=plots.COLORS["red"],
                  markersize=3.5)  # fmt: skip
    for rank in (0, n - 1):
        axes.plot(lags, result.logs[True][:, rank] / plots.LN10, "^", color=plots.COLORS["blue"],
                  markersize=4)  # fmt: skip
    axes.axhline(0, color=plots.COLORS["blue"], linewidth=1)
    last = lags[-1]
    axes.text(last, 4, "orthogonal: all exactly 1", color=plots.COLORS["blue"], fontsize=8,
              ha="right", va="bottom")  # fmt: skip
    axes.text(0.03, 0.08, f"Gaussian: ranks {', '.join(str(r + 1) for r in ranks)}\n(lines: "
              "Newman's exponents × L)", color=plots.COLORS["red"], fontsize=8,
              transform=axes.transAxes)  # fmt: skip
    axes.set_ylim(top=16)
    axes.set_title(f"the start: singular values (N = {n})")
    axes.set_xlabel("layers L")
    axes.set_ylabel("log₁₀ σ of the product")


def _draw_curves(axes: Any, result: Result) -> None:
    s = result.settings
    colors = [plots.COLORS[c] for c in ("red", "orange", "violet", "blue")]
    shown = slice(None, None, 18)
    for i, mode in enumerate(s.modes):
        color = colors[i % len(colors)]
        axes.plot(result.times, two_layer_strength(result.times, mode, s.start), color=color,
                  linewidth=1.2)  # fmt: skip
        axes.plot(result.times[shown], result.strengths[shown, i], "o", color=color, markersize=3)
        half = two_layer_time(mode, s.start, 0.5 * mode)
        axes.annotate(f"s = {mode:g}", (result.times[-1], mode), xytext=(-2, 4),
                      textcoords="offset points", color=color, fontsize=8, ha="right")  # fmt: skip
        axes.plot([half], [mode / 2], "D", color="black", markersize=3)
    axes.text(0.97, 0.06, "◆ (1/2s) ln((s − u₀)/u₀)", fontsize=8, ha="right",
              transform=axes.transAxes)  # fmt: skip
    axes.set_ylim(0, 1.12 * max(s.modes))
    axes.set_xlim(0, result.times[-1])
    axes.set_title("two layers learn mode by mode")
    axes.set_xlabel("time t (units of τ)")
    axes.set_ylabel("strength u of the mode")


def _draw_times(axes: Any, result: Result) -> None:
    s = result.settings
    end = (1 - SHARE) * s.flow_target
    depths = np.geomspace(1, 100, 60)
    law = [d * learning_time(d, s.flow_target, 1.0, end) for d in depths]
    axes.semilogx(depths, law, color=plots.COLORS["blue"], linewidth=1.2)
    axes.semilogx(s.flow_depths, np.array(s.flow_depths) * result.flow_times, "o",
                  color=plots.COLORS["blue"], markersize=4)  # fmt: skip
    limit = infinite_time(s.flow_target, 1.0, end)
    axes.axhline(limit, color=plots.COLORS["gray"], linewidth=1, linestyle=(0, (4, 2)))
    axes.text(1.1, limit * 1.02, "limit L → ∞", fontsize=8, color=plots.COLORS["gray"], va="bottom")
    axes.set_ylim(0, max(*law, limit) * 1.15)
    axes.set_title("L orthogonal layers: one mode, u from 1 to 2")
    axes.set_xlabel("layers L")
    axes.set_ylabel("L t / τ to 99 % (steps at rate 1/L)")


def _draw_steps(axes: Any, result: Result) -> None:
    s = result.settings
    looks = {True: ("blue", "^", "orthogonal"), False: ("red", "o", "Gaussian")}
    for kind, (color, marker, label) in looks.items():
        steps = result.steps[kind]
        middle = np.median(steps, axis=1)
        spread = [middle - steps.min(axis=1), steps.max(axis=1) - middle]
        axes.errorbar(s.depths, middle, spread, fmt=marker, color=plots.COLORS[color],
                      markersize=4, linewidth=1)  # fmt: skip
        axes.annotate(label, (s.depths[-1], middle[-1]), xytext=(-8, 12 if kind else -3),
                      textcoords="offset points", ha="right", color=plots.COLORS[color],
                      fontsize=8)  # fmt: skip
    depths = np.array(s.depths)
    guide = np.median(result.steps[False][0]) * depths / depths[0]
    axes.plot(depths, guide, color=plots.COLORS["gray"], linewidth=1, linestyle=(0, (4, 2)))
    axes.text(depths[-1], guide[-1] * 0.75, "∝ L", color=plots.COLORS["gray"], fontsize=8,
              ha="right", va="top")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(s.depths, [str(d) for d in s.depths])
    axes.set_title("whitened digits: gradient descent")
    axes.set_xlabel("layers L")
    axes.set_ylabel("steps to 1 % of the loss, best rate")
