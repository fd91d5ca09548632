"""Deep sigmoid networks: how much slower each layer learns, and what it would take to stop it."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from gradhorizon import plots
from gradhorizon.cells import elman, feedforward
from gradhorizon.chain.gradient import backpropagate, pull_back
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.studies.depth import PUBLISHED
from gradhorizon.theory import mean_field, sigmoid_window

TITLE = "Each further sigmoid layer makes the first one learn 4.9 times slower"
QUESTION = "How fast do the layers of a sigmoid network learn, and would larger weights help?"
SOURCE = (
    "M. Nielsen, Neural Networks and Deep Learning (2015), chapter 5, with the gradient norms "
    "published beside it (MNIST; here surrogate images of the same sparsity and norm)."
)
FACTOR = 4.881841034263  # 1/√χ at σ_w = σ_b = 1
# medians and log10(last/first), mean and sd, of 150 networks on surrogate images, simulated
# independently of this package
REFERENCE = {2: ((0.0598, 0.298), 0.691, 0.066), 3: ((0.0121, 0.0578, 0.287), 1.381, 0.090)}
HIDDEN = (2, 3, 4, 5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 3
    draws: int = 150
    images: int = 1000
    units: int = 30
    wide: int = 300
    layers: int = 8
    wide_draws: int = 24
    scales: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 1.0, 2.0, 4.0, 7.0, 10.265, 15.0, 20.0]
    )


SMALL = Settings(
    draws=60, images=300, wide=150, wide_draws=12, scales=[1.0, 4.0, 10.265, 20.0]
)  # fmt: skip


class Result(NamedTuple):
    """Gradient norms before training, rates by weight scale, windows."""

    settings: Settings
    norms: dict[int, np.ndarray]  # hidden layers -> ‖∂C/∂b‖, (draws, layers)
    rates: np.ndarray  # nats per layer of the wide networks, (scales, draws)
    widths: dict[float, float]  # weight -> width of the window, from root finding
    exploding: float  # growth through three layers with w = 100 and z = 0
    trapezoid: tuple[float, float, float]  # q*, χ at σ_w = σ_b = 1, and the critical σ_w


def compute(settings: Settings) -> Result:
    """Differentiate Nielsen's networks, wide networks of several weight scales, and one unit."""
    rng = np.random.default_rng(settings.seed)
    images, targets = surrogate_images(rng, settings.images)
    norms = {hidden: _bias_gradients(rng, hidden, images, targets, settings) for hidden in HIDDEN}
    weights = (4.5, 6.894151029, 10.0, 20.0, 28.0)
    critical = _root(lambda s: trapezoid_mean_field(s)[1] - 1, 5.0, 20.0)
    return Result(
        settings, norms, _wide_rates(rng, settings), {w: _width(w) for w in weights},
        _exploding(), (*trapezoid_mean_field(1.0), critical),
    )  # fmt: skip


def surrogate_images(rng: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw sparse images in [0, 1]^784 of ten classes: a template each, intensities Beta(2, 1)."""
    templates = rng.random((10, 784)) < 0.19
    labels = rng.integers(0, 10, count)
    intensities = np.sqrt(rng.random((count, 784)))  # P(X ≤ x) = x² is Beta(2, 1)
    return templates[labels] * intensities, np.eye(10)[labels]


def _bias_gradients(
    rng: Any, hidden: int, images: np.ndarray, targets: np.ndarray, settings: Settings
) -> np.ndarray:
    """Give ‖mean over images of ∂C/∂b‖ of every hidden layer, at initialization."""
    sizes = [784, *([settings.units] * hidden), 10]
    weights = [
        rng.normal(size=(settings.draws, fan_out, fan_in)) / math.sqrt(fan_in)
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    biases = [rng.normal(size=(settings.draws, size)) for size in sizes[1:]]

    def cost(biases: Any, weights: Any) -> Any:
        a = jnp.asarray(images)
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            a = jax.nn.sigmoid(a @ W.T + b[None])
        z = a @ weights[-1].T + biases[-1][None]
        # cross-entropy of the sigmoid outputs, from their net inputs
        return jnp.mean(jnp.sum(jax.nn.softplus(z) - targets * z, axis=1))

    def norms(parameters: Any) -> Any:
        return jnp.stack([jnp.linalg.norm(g) for g in jax.grad(cost)(*parameters)[:-1]])

    return np.asarray(jax.jit(lambda p: jax.lax.map(norms, p))((biases, weights)))


def _wide_rates(rng: Any, settings: Settings) -> np.ndarray:
    """Measure nats per layer of a random cotangent, for every weight scale and draw."""
    n, depth = settings.wide, settings.layers
    settle = 4  # layers after which the activations have their stationary variance
    step = feedforward(n, depth + settle, activation="sigmoid").step

    @jax.jit
    def rate(scale: Any, W: Any, b: Any, start: Any, cotangent: Any) -> Any:
        chain = jacobian_chain(step, {"W": scale * W, "b": b}, start, tied=False)
        return pull_back(chain, cotangent).by_lag[depth] / depth

    rates = np.empty((len(settings.scales), settings.wide_draws))
    with jax.default_matmul_precision("highest"):
        for draw_index in range(settings.wide_draws):
            W = rng.normal(size=(depth + settle, n, n)) / math.sqrt(n)
            b = rng.normal(size=(depth + settle, n))
            start, cotangent = rng.random(n), rng.normal(size=(n, 1))
            for i, scale in enumerate(settings.scales):
                rates[i, draw_index] = rate(scale, W, b, start, cotangent)
    return rates


def _width(weight: float) -> float:
    """Find the ends of {a : |w σ'(w a)| ≥ 1} by bracketing."""
    end = _root(lambda a: weight / (2 + 2 * math.cosh(weight * a)) - 1, 0.0, 2.0)
    return 2 * end


def _exploding() -> float:
    """Measure the growth through three layers with w = 100 and biases that keep z at 0."""
    step = elman(1, 0, activation="sigmoid").step
    params = {"W": jnp.full((1, 1), 100.0), "b": jnp.full(1, -50.0)}
    chain = jacobian_chain(step, params, jnp.full(1, 0.5), length=3)
    return float(np.exp(backpropagate(chain, jnp.ones(1)).log_norms[0]))


def trapezoid_mean_field(sigma_w: float) -> tuple[float, float]:
    """Give q* and χ for biases N(0, 1) by the trapezoid rule and plain iteration."""
    z = np.linspace(-14, 14, 5601)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    q = 1.0
    for _ in range(60):
        q = 1 + sigma_w**2 * float(weight @ (0.5 * (1 + np.tanh(math.sqrt(q) * z / 2))) ** 2)
    slope = 0.25 / np.cosh(math.sqrt(q) * z / 2) ** 2
    return q, sigma_w**2 * float(weight @ slope**2)


def _root(function: Any, low: float, high: float) -> float:
    result: Any = optimize.brentq(function, low, high, xtol=1e-14)
    return float(result)


def theory_rate(sigma_w: float) -> float:
    """Give ½ ln χ, nats per layer."""
    q = mean_field.length_fixed_point("sigmoid", sigma_w**2, 1.0)
    return 0.5 * math.log(float(mean_field.susceptibility("sigmoid", sigma_w**2, q)))


def checks(result: Result) -> list[Check]:
    """Compare with mean field, the published norms, and closed forms."""
    q, chi, critical = result.trapezoid
    trapezoid = "trapezoid rule, plain iteration"
    found = [
        Check("factor per layer, mean field", math.exp(-theory_rate(1.0)), FACTOR, 1e-6,
              "1/√χ at σ_w = σ_b = 1"),
        Check("q*", q, 1.302134036306, 1e-9, trapezoid),
        Check("χ", chi, 0.041959734636, 1e-10, trapezoid),
        Check("½ ln χ at the critical weight scale", theory_rate(critical), 0.0, 1e-8,
              f"χ = 1 by {trapezoid}"),
        Check("growth through three layers, w = 100, z = 0", result.exploding, 15625.0, 1e-8,
              "25³, Nielsen ch. 5"),
    ]  # fmt: skip
    for hidden, norms in result.norms.items():
        found += _norm_checks(hidden, norms)
    return [*found, *_window_checks(result), *_scale_checks(result)]


def _norm_checks(hidden: int, norms: np.ndarray) -> list[Check]:
    """Check one depth: order, factor per layer, published and independent numbers."""
    ratios = np.log10(norms[:, -1] / norms[:, 0])
    factor = 10 ** (ratios.mean() / (hidden - 1))
    label = f"{hidden} hidden layers"
    found = [
        Check(f"{label}: share of draws with norms increasing to the output",
              float(np.mean(np.all(np.diff(norms, axis=1) > 0, axis=1))), 1.0, 0.0, "every draw"),
        Check(f"{label}: factor per layer", float(factor), FACTOR, 0.9,
              "mean field; 30 units and 10 outputs"),
    ]  # fmt: skip
    if hidden not in PUBLISHED:
        return found
    first, last = PUBLISHED[hidden][0], PUBLISHED[hidden][-1]
    medians, mean, sd = REFERENCE[hidden]
    error = 5 * sd * math.sqrt(1 / 150 + 1 / len(ratios))
    found += [
        Check(f"{label}: log10 of last/first norm, published", float(ratios.mean()),
              math.log10(last / first), 2 * float(ratios.std(ddof=1)),
              "Nielsen ch. 5, one network; two sd between draws"),
        Check(f"{label}: log10 of last/first norm, simulated", float(ratios.mean()), mean, error,
              "150 networks, simulated independently; five standard errors"),
        Check(f"{label}: log10 of the median first norm", float(np.log10(np.median(norms[:, 0]))),
              math.log10(medians[0]), 0.12, "the same simulation"),
    ]  # fmt: skip
    return found


def _window_checks(result: Result) -> list[Check]:
    """Check the widths of the window."""
    weight, width = (float(v) for v in sigmoid_window.widest())
    known = {4.5: 0.308065413, 20.0: 0.288727095}
    error = [w - float(sigmoid_window.width(v)) for v, w in result.widths.items()]
    found = [
        Check(f"width at w = {w:g}", result.widths[w], value, 1e-8, "closed form")
        for w, value in known.items()
    ]  # fmt: skip
    return [
        *found,
        Check("widest window", width, 0.447743204694, 1e-8, "Nielsen ch. 5"),
        Check("its |w|", weight, 6.894151029, 1e-8, "Nielsen ch. 5"),
        Check("widths by root finding, worst deviation", float(np.max(np.abs(error))), 0.0, 1e-10,
              "(2/|w|) ln(|w| (1 + √(1 - 4/|w|))/2 - 1)"),
    ]  # fmt: skip


def _scale_checks(result: Result) -> list[Check]:
    """Check the measured rate of wide networks at every weight scale."""
    s, found = result.settings, []
    for scale, rates in zip(s.scales, result.rates, strict=True):
        tolerance = 4 * float(rates.std(ddof=1)) / math.sqrt(rates.size) + 2 / s.wide
        found.append(
            Check(f"σ_w = {scale:g}, N = {s.wide}: rate in nats per layer", float(rates.mean()),
                  theory_rate(scale), tolerance,
                  "½ ln χ; four standard errors and the finite width")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    factors = [
        10 ** (np.log10(n[:, -1] / n[:, 0]).mean() / (h - 1)) for h, n in result.norms.items()
    ]
    deepest = HIDDEN[-1]
    ratio = 10 ** np.log10(result.norms[deepest][:, -1] / result.norms[deepest][:, 0]).mean()
    return (
        f"Each layer below the last learns {min(factors):.2f} to {max(factors):.2f} times slower "
        f"(mean field {FACTOR:.2f}), {ratio:.0f} times with {deepest} hidden layers; only weights "
        f"{result.trapezoid[2]:.1f} times larger would keep the gradient, and beyond that it "
        "explodes."
    )


def draw(result: Result) -> Figure:
    """Draw the norms by layer, their ratios, the factor by weight scale, and the window."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_norms(panels[0, 0], result)
        _draw_ratios(panels[0, 1], result)
        _draw_scales(panels[1, 0], result)
        _draw_window(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_norms(axes: Any, result: Result) -> None:
    """Draw the norms against the distance from the last hidden layer."""
    colors = ("violet", "blue", "orange", "olive")
    for i, (hidden, norms) in enumerate(result.norms.items()):
        below = np.arange(hidden)[::-1]
        logs = np.log10(norms)
        axes.errorbar(below + 0.08 * (i - 1.5), logs.mean(axis=0), yerr=logs.std(axis=0), fmt="o",
                      markersize=3.5, linewidth=1, color=plots.COLORS[colors[i]])  # fmt: skip
        axes.text(0.08, -3.35 + 0.27 * i, f"{hidden} hidden layers", fontsize=8,
                  color=plots.COLORS[colors[i]])  # fmt: skip
    for i, values in enumerate(PUBLISHED.values()):
        below = np.arange(len(values))[::-1]
        axes.plot(below + 0.08 * (i - 1.5), np.log10(values), "D", color=plots.COLORS["red"],
                  markersize=7, fillstyle="none", zorder=3)  # fmt: skip
    axes.text(0.08, -2.27, "◇ published", fontsize=8, color=plots.COLORS["red"])
    line = np.array([0.0, 4.2])
    last = np.mean([np.log10(n[:, -1]).mean() for n in result.norms.values()])
    axes.plot(line, last - line * math.log10(FACTOR), color="black", linewidth=1, zorder=0)
    axes.text(2.45, -1.85, "÷ 4.88 per layer", fontsize=8.5)
    axes.set_xticks(range(5))
    axes.set_xlabel("layers below the last hidden one")
    axes.set_ylabel("log₁₀ of the gradient norm ‖∂C/∂b‖")
    axes.set_title("Nielsen's networks before training")


def _draw_ratios(axes: Any, result: Result) -> None:
    """Draw the distribution of log10(last/first) with the published networks."""
    colors = ("violet", "blue", "orange", "olive")
    for (hidden, norms), color in zip(result.norms.items(), colors, strict=True):
        ratios = np.log10(norms[:, -1] / norms[:, 0])
        heights, *_ = axes.hist(ratios, bins=np.linspace(0.4, 3.4, 61), alpha=0.6,
                                color=plots.COLORS[color])  # fmt: skip
        axes.axvline((hidden - 1) * math.log10(FACTOR), ymax=0.82, color="black", linewidth=1)
        axes.text((hidden - 1) * math.log10(FACTOR) + 0.04, heights.max() + 1, f"{hidden} hidden",
                  fontsize=8.5, color=plots.COLORS[color], zorder=3)  # fmt: skip
        if hidden in PUBLISHED:
            value = math.log10(PUBLISHED[hidden][-1] / PUBLISHED[hidden][0])
            axes.plot([value], [1.2], "D", color=plots.COLORS["red"], markersize=4.5)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])
    top = axes.get_ylim()[1]
    look = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(3.4, top * 0.98, "lines: (layers - 1) log₁₀ 4.88, mean field\ndiamonds: published",
              fontsize=8, ha="right", va="top", bbox=look)  # fmt: skip
    axes.set_xlabel("log₁₀ of last norm / first norm")
    axes.set_ylabel("networks")
    axes.set_title("how much slower the first layer learns")


def _draw_scales(axes: Any, result: Result) -> None:
    """Draw the factor per layer against the scale of the weights."""
    scales = np.geomspace(0.4, 25, 30)
    axes.loglog(scales, [math.exp(-theory_rate(float(s))) for s in scales],
                color=plots.COLORS["blue"])  # fmt: skip
    middle, error = result.rates.mean(axis=1), result.rates.std(axis=1)
    values = np.exp(-middle)
    axes.errorbar(result.settings.scales, values, yerr=values * error, fmt="o", markersize=4,
                  linewidth=1, color=plots.COLORS["blue"])  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    critical = result.trapezoid[2]
    axes.annotate(f"kept at {critical:.2f}", (critical, 1), xytext=(4, 30), ha="center",
                  textcoords="offset points", fontsize=8.5,
                  arrowprops={"arrowstyle": "-", "linewidth": 0.8})  # fmt: skip
    axes.annotate("Nielsen: 4.88", (1, FACTOR), xytext=(6, 6), textcoords="offset points",
                  fontsize=8.5)  # fmt: skip
    axes.text(0.42, 0.8, "below the line the gradient grows", fontsize=8.5, va="center")
    axes.set_ylim(0.6, 14)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.minorticks_off()
    axes.set_xlabel("weight scale $σ_w$ (entries of variance $σ_w^2/N$)")
    axes.set_ylabel("shrink factor per layer")
    axes.set_title(f"would larger weights help? N = {result.settings.wide}")


def _draw_window(axes: Any, result: Result) -> None:
    """Draw the width of the interval of activations that do not shrink the gradient."""
    w = np.linspace(4.0, 30.0, 600)
    axes.plot(w, np.asarray(sigmoid_window.width(w)), color=plots.COLORS["violet"])
    axes.plot(list(result.widths), list(result.widths.values()), "o", markersize=4,
              color=plots.COLORS["violet"])  # fmt: skip
    best, width = (float(v) for v in sigmoid_window.widest())
    axes.annotate(f"at most {width:.4f}, at |w| = {best:.2f}", (best, width), xytext=(10, 2),
                  textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.axvspan(0, 4, color=plots.COLORS["gray"], alpha=0.15, linewidth=0)
    axes.text(2, 0.24, "always shrinks", rotation=90, ha="center", va="center", fontsize=8)
    axes.set_xlim(0, 30)
    axes.set_ylim(0, 0.52)
    axes.set_xlabel("weight |w|")
    axes.set_ylabel("width of the window of activations")
    axes.set_title("where one factor |w σ'(wa + b)| reaches 1")
