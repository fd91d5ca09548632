"""Correlation depth: how many layers a random network lets through, and how many can be trained."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize, stats

from gradhorizon import plots
from gradhorizon.cells import feedforward
from gradhorizon.chain.unroll import unroll
from gradhorizon.remedies import tasks
from gradhorizon.studies import _tanh_training
from gradhorizon.studies._study import Check
from gradhorizon.theory import mean_field

TITLE = "A network can be trained while two inputs remain distinguishable: a few correlation depths"
QUESTION = "How deep can a tanh network be and still learn?"
SOURCE = (
    "Schoenholz, Gilmer, Ganguli & Sohl-Dickstein, ICLR 2017 (depth scales; the rule of 6 ξ_c was "
    "read second-hand); Poole et al. 2016."
)
BIAS = 0.05  # σ_b²
# ξ_c of tanh at σ_b² = 0.05 for σ_w², by quadrature
CORRELATION_DEPTH = {
    1.0: 3.62698, 1.3: 7.83407, 1.7: 74.918, 1.9: 39.352, 2.5: 11.7956, 4.0: 6.98027,
}  # fmt: skip
CRITICAL = (1.7609546396, 0.5700478816)  # σ_w² and q* on the critical line
FOLLOWED = (1.0, 1.76, 2.5, 4.0)  # σ_w² whose correlations are followed
START = 0.6  # the correlation of the two inputs
CHANCE, LEARNED = 0.1, 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments, in JSON's types."""

    seed: int = 0
    weights: list[float] = dataclasses.field(
        default_factory=lambda: [0.75 + 0.25 * i for i in range(14)]
    )
    depths: list[int] = dataclasses.field(default_factory=lambda: [6, 10, 16, 25, 40, 63])
    width: int = 100
    steps: int = 300
    batch: int = 32
    rate: float = 0.004
    pair_width: int = 400
    pair_depth: int = 60
    pair_draws: int = 12


SMALL = Settings(
    weights=[0.75, 1.75, 4.0], depths=[8, 48], pair_width=200, pair_depth=30, pair_draws=8
)


class Result(NamedTuple):
    """Depth scales of theory, correlations by layer, and accuracies after training."""

    settings: Settings
    depth_scale: np.ndarray  # ξ_c at `weights`
    measured: np.ndarray  # correlation of two inputs (draws, followed, layers)
    predicted: np.ndarray  # (followed, layers)
    accuracy: np.ndarray  # (depths, weights)


def compute(settings: Settings) -> Result:
    """Iterate the correlation map, follow pairs through networks, and train networks."""
    s = settings
    scale = np.array([correlation_depth(w) for w in s.weights])
    predicted = np.array([correlations(w, s.pair_depth) for w in FOLLOWED])
    return Result(s, scale, _follow(s), predicted, _train(s))


@functools.cache
def fixed_variance(sigma_w2: float) -> float:
    """Give q* of tanh at σ_b² = 0.05."""
    return float(mean_field.length_fixed_point("tanh", sigma_w2, BIAS))


_NODES = np.linspace(-8, 8, 161)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


def _pair_mean(function: Any, sigma_w2: float, c: float) -> float:
    """Give E f(u₁) f(u₂) at variance q* and correlation c, by the trapezoidal rule."""
    root = math.sqrt(fixed_variance(sigma_w2))
    other = function(root * (c * _NODES[:, None] + math.sqrt(1 - c * c) * _NODES))
    return float((_WEIGHTS * function(root * _NODES)) @ other @ _WEIGHTS)


def correlation_map(sigma_w2: float, c: float) -> float:
    """Give c' = (σ_w² E φ(u₁) φ(u₂) + σ_b²)/q*: the correlation one layer on."""
    mean = _pair_mean(np.tanh, sigma_w2, min(c, 1.0))
    return (sigma_w2 * mean + BIAS) / fixed_variance(sigma_w2)


def _slope(z: np.ndarray) -> np.ndarray:
    return 1 / np.cosh(z) ** 2


@functools.cache
def correlation_depth(sigma_w2: float) -> float:
    """Give ξ_c = -1/ln(σ_w² E φ'(u₁) φ'(u₂)) at the stable fixed point c* of the map."""
    c = 1.0
    if sigma_w2 * _pair_mean(_slope, sigma_w2, 1.0) > 1:
        c = optimize.brentq(lambda c: correlation_map(sigma_w2, c) - c, 0, 1 - 1e-7, xtol=1e-13)
    return -1 / math.log(sigma_w2 * _pair_mean(_slope, sigma_w2, float(np.asarray(c))))


def correlations(sigma_w2: float, depth: int) -> np.ndarray:
    """Iterate the map from START through the layers."""
    found = [START]
    for _ in range(depth - 1):
        found.append(correlation_map(sigma_w2, found[-1]))
    return np.array(found)


def _follow(settings: Settings) -> np.ndarray:
    """Measure the correlation of pre-activations of two inputs in every layer."""
    s = settings
    n, layers, rng = s.pair_width, s.pair_depth - 1, np.random.default_rng(s.seed)
    step = feedforward(n, layers).step

    @jax.jit
    def along(params: Any, pair: Any) -> Any:
        hidden = jax.vmap(lambda h: unroll(step, params, h, tied=False).states)(jnp.tanh(pair))
        drive = jnp.einsum("lij,plj->lpi", params["W"], hidden[:, :-1]) + params["b"][:, None]
        sizes = jnp.linalg.norm(drive, axis=2)
        return jnp.sum(drive[:, 0] * drive[:, 1], axis=1) / (sizes[:, 0] * sizes[:, 1])

    found = np.full((s.pair_draws, len(FOLLOWED), s.pair_depth), START)
    for draw in range(s.pair_draws):
        weights = rng.normal(size=(layers, n, n)) / math.sqrt(n)
        biases, normal = rng.normal(size=(layers, n)), rng.normal(size=(2, n))
        pair = np.stack([normal[0], START * normal[0] + math.sqrt(1 - START**2) * normal[1]])
        for i, w in enumerate(FOLLOWED):
            params = {"W": math.sqrt(w) * weights, "b": math.sqrt(BIAS) * biases}
            found[draw, i, 1:] = along(params, math.sqrt(fixed_variance(w)) * pair)
    return found


def _train(settings: Settings) -> np.ndarray:
    """Train one network at every point; the accuracies."""
    s = settings
    digits = tasks.sequential_digits(dtype=jnp.float32)
    images, labels = np.asarray(digits.xs[..., 0]), np.asarray(digits.labels)
    accuracy = np.zeros((len(s.depths), len(s.weights)))
    for i, depth in enumerate(s.depths):
        for j, sigma_w2 in enumerate(s.weights):
            rng = np.random.default_rng([s.seed, depth, j])
            network = _tanh_training.draw_network(
                rng, images.shape[1], s.width, depth, sigma_w2, BIAS
            )
            accuracy[i, j] = _tanh_training.train(
                rng, network, images, labels, steps=s.steps, batch=s.batch, rate=s.rate
            )
    return accuracy


def ratios(result: Result) -> np.ndarray:
    """Give L/ξ_c of every trained network, (depths, weights)."""
    return np.array(result.settings.depths)[:, None] / result.depth_scale


def checks(result: Result) -> list[Check]:
    """Compare scales with the table, networks with the map, training with the scales."""
    return [*_scale_checks(), *_pair_checks(result), *_training_checks(result)]


def _scale_checks() -> list[Check]:
    found = [
        Check(f"σ_w² = {w:g}: ξ_c", correlation_depth(w), xi, 1e-3 * xi, _TABLE)
        for w, xi in CORRELATION_DEPTH.items()
    ]
    for w in (1.3, 2.5):
        library = float(mean_field.depth_scales("tanh", w, BIAS).xi_correlation)
        found.append(Check(f"σ_w² = {w:g}: ξ_c of the library", library, correlation_depth(w),
                           1e-3 * library, "second quadrature, Brent's method"))  # fmt: skip
    critical = float(mean_field.critical_sigma_w2("tanh", BIAS))
    return [
        *found,
        Check("critical σ_w²", critical, CRITICAL[0], 1e-8, _TABLE),
        Check("q* there", fixed_variance(critical), CRITICAL[1], 1e-7, _TABLE),
    ]


_TABLE = "quadrature; Schoenholz et al. 2017"


def _pair_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    mean = result.measured.mean(axis=0)
    errors = result.measured.std(axis=0, ddof=1) / math.sqrt(s.pair_draws)
    for i, w in enumerate(FOLLOWED):
        for layer in (2, 8, s.pair_depth - 1):
            tolerance = 4 * float(errors[i, layer]) + 8 / s.pair_width
            found.append(
                Check(f"σ_w² = {w:g}, layer {layer + 1}: correlation of two inputs",
                      float(mean[i, layer]), float(result.predicted[i, layer]), tolerance,
                      "mean field; four standard errors and the finite width")
            )  # fmt: skip
    return found


def _training_checks(result: Result) -> list[Check]:
    s, ratio = result.settings, ratios(result)
    learned = result.accuracy > LEARNED
    shallow, deep = ratio < 2, ratio > 12
    critical = int(np.argmax(result.depth_scale))
    ranks = [stats.rankdata(a.ravel()) for a in (ratio, result.accuracy)]
    order = np.corrcoef(*ranks)[0, 1]
    reach = learned.sum(axis=0)
    return [
        Check("share of networks with L < 2 ξ_c that learn", float(np.mean(learned[shallow])), 1.0,
              0.0, "shallower than the correlation depth"),
        Check("share of networks with L > 12 ξ_c that learn", float(np.mean(learned[deep])), 0.0,
              0.0, "twice 6 ξ_c"),
        Check("accuracy of networks with L > 12 ξ_c, mean", float(result.accuracy[deep].mean()),
              CHANCE, 0.05, "guessing one of ten"),
        Check(f"σ_w² = {s.weights[critical]:g}, next to the critical line: how many more of the "
              "depths learn at another", float(reach.max() - reach[critical]), 0.0,
              0.0, "the longest correlation depth"),
        Check("rank correlation of accuracy and L/ξ_c", float(order), -1.0, 0.5,
              "monotone but for the optimizer"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    learned, ratio = result.accuracy > LEARNED, ratios(result)
    deepest = [
        max((r for r, ok in zip(ratio[:, j], learned[:, j], strict=True) if ok), default=0.0)
        for j in range(len(s.weights))
        if not learned[-1, j]
    ]
    critical = int(np.argmax(result.depth_scale))
    reach = max(d for d, ok in zip(s.depths, learned[:, critical], strict=True) if ok)
    return (
        f"A few correlation depths: after {s.steps} gradient steps networks with at most "
        f"{min(deepest):.1f} to {max(deepest):.1f} ξ_c layers have learned the digits; next to the "
        f"critical line (σ_w² = {s.weights[critical]:g}, ξ_c = {result.depth_scale[critical]:.0f}) "
        f"{reach} layers still do."
    )


def draw(result: Result) -> Figure:
    """Draw correlations by layer, accuracies over the plane, accuracies against L/ξ_c."""
    figure, panels = plots.new_figure(8.4, 3.7, ncols=3, gridspec_kw={"width_ratios": [1, 1.35, 1]})
    with plots.style():
        _draw_pairs(panels[0], result)
        _draw_map(figure, panels[1], result)
        _draw_collapse(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_pairs(axes: Any, result: Result) -> None:
    s = result.settings
    layers = np.arange(1, s.pair_depth + 1)
    colors = [plots.COLORS[c] for c in ("blue", "olive", "orange", "red")]
    shown = layers[:: max(1, s.pair_depth // 12)] - 1
    for i, (w, color) in enumerate(zip(FOLLOWED, colors, strict=True)):
        axes.plot(layers, result.predicted[i], color=color, linewidth=1.2)
        errors = result.measured[:, i].std(axis=0, ddof=1) / math.sqrt(s.pair_draws)
        axes.errorbar(layers[shown], result.measured[:, i].mean(axis=0)[shown], errors[shown],
                      fmt="o", color=color, markersize=3, linewidth=1)  # fmt: skip
        place = int(0.62 * s.pair_depth)
        height = result.predicted[i, place]
        shift = {1.0: 7, 1.76: -13, 2.5: 13, 4.0: 12}[w]
        axes.annotate(f"σ_w² = {w:g}".replace("σ_w²", r"$\sigma_w^2$"), (place, height),
                      xytext=(0, shift), textcoords="offset points", color=color,
                      fontsize=8)  # fmt: skip
    axes.set_ylim(0, 1.12)
    axes.set_xlim(0, s.pair_depth + 1)
    axes.set_title("do two inputs stay apart?")
    axes.set_xlabel("layer")
    axes.set_ylabel(f"correlation (points: N = {s.pair_width})")


def _edges(values: np.ndarray) -> np.ndarray:
    """Give the borders of cells around values."""
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


def _draw_map(figure: Figure, axes: Any, result: Result) -> None:
    s = result.settings
    columns = _edges(np.array(s.weights))
    rows = np.exp(_edges(np.log(s.depths)))
    image = axes.pcolormesh(columns, rows, result.accuracy, cmap="cividis", vmin=0.0, vmax=1.0,
                            rasterized=True)  # fmt: skip
    grid = np.concatenate([np.linspace(columns[0], 1.74, 24), np.linspace(1.78, columns[-1], 40)])
    limits = 6 * np.array([correlation_depth(float(w)) for w in grid])
    for part in (grid < CRITICAL[0], grid > CRITICAL[0]):
        axes.plot(grid[part], limits[part], color="white", linewidth=2)
    axes.text(0.98 * columns[-1], 0.72 * limits[-1], "$L = 6\\,\\xi_c$", color="white", ha="right",
              va="top", fontsize=9)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(rows[0], rows[-1])
    axes.set_xlim(columns[0], columns[-1])
    axes.set_yticks(s.depths, [str(d) for d in s.depths])
    axes.minorticks_off()
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label("accuracy (chance: 0.1)")
    axes.set_title(f"tanh nets after {s.steps} steps")
    axes.set_xlabel(r"variance of weights $\sigma_w^2$ ($\sigma_b^2$ = 0.05)")
    axes.set_ylabel("layers L")


def _draw_collapse(axes: Any, result: Result) -> None:
    s, ratio = result.settings, ratios(result)
    ordered = np.array(s.weights) < CRITICAL[0]
    for part, color, marker in ((ordered, "blue", "o"), (~ordered, "red", "^")):
        axes.semilogx(ratio[:, part].ravel(), result.accuracy[:, part].ravel(), marker,
                      color=plots.COLORS[color], markersize=3.5, alpha=0.8)  # fmt: skip
    axes.axvline(6, color="black", linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(r"$6\,\xi_c$", (6, 0.03), xytext=(-4, 0), textcoords="offset points",
                  ha="right", fontsize=8.5)  # fmt: skip
    axes.axhline(CHANCE, color=plots.COLORS["gray"], linewidth=0.8)
    axes.text(0.03, 0.20, "▲ chaotic side", color=plots.COLORS["red"], fontsize=8,
              transform=axes.transAxes)  # fmt: skip
    axes.text(0.03, 0.28, "● ordered side", color=plots.COLORS["blue"], fontsize=8,
              transform=axes.transAxes)  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.set_title("one scale for both sides")
    axes.set_xlabel(r"layers / correlation depth, $L/\xi_c$")
    axes.set_ylabel("accuracy")
