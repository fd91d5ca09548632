"""Cause 1: depth. A gradient in an early layer is a product of all later factors."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import elman, feedforward, inits
from gradhorizon.chain.gradient import backpropagate, pull_back
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.theory import mean_field, sigmoid_window

TITLE = "Depth: each sigmoid layer divides the gradient by about 4.9, in a deep net and in an RNN"
QUESTION = "Why do early layers of a deep network learn slowly?"
SOURCE = (
    "M. Nielsen, Neural Networks and Deep Learning (2015), chapter 5, and the gradient norms "
    "published with it; mean field after Schoenholz et al. 2017."
)
# ‖∂C/∂b‖ of the hidden layers at initialization, published with Nielsen's chapter 5
PUBLISHED = {2: (0.065741, 0.309218), 3: (0.011838, 0.059965, 0.283142)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    draws: int = 150
    images: int = 1000
    hidden: int = 30
    wide: int = 200
    wide_depth: int = 12
    wide_draws: int = 40


SMALL = Settings(draws=40, images=200, wide=100, wide_depth=8, wide_draws=16)


class Result(NamedTuple):
    """Norms by layer, and growth by depth."""

    settings: Settings
    norms: dict[int, np.ndarray]  # hidden layers -> (draws, layers)
    growth: dict[str, np.ndarray]  # "feedforward" and "recurrent": (draws, depth + 1) by lag
    exact_factors: float


def compute(settings: Settings) -> Result:
    """Measure Nielsen's networks, a deep network and an unrolled one, and his exact example."""
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    images, targets = surrogate_images(keys[0], settings.images)
    norms = {
        layers: _nielsen_norms(keys[1], layers, images, targets, settings) for layers in (2, 3)
    }
    return Result(settings, norms, _deep_growth(keys[2], settings), _exact_example())


def surrogate_images(key: Any, count: int) -> tuple[Any, Any]:
    """Draw inputs with the statistics that matter of MNIST: sparse, bounded, ten classes.

    Ten binary templates over 784 pixels with 19 % of them active, intensities Beta(2, 1), a
    norm of about 9.
    """
    for_templates, for_labels, for_values = jax.random.split(key, 3)
    templates = jax.random.bernoulli(for_templates, 0.19, (10, 784))
    labels = jax.random.randint(for_labels, (count,), 0, 10)
    values = jax.random.beta(for_values, 2.0, 1.0, (count, 784))
    return jnp.where(templates[labels], values, 0), jax.nn.one_hot(labels, 10, dtype=values.dtype)


def _nielsen_norms(key: Any, layers: int, images: Any, targets: Any, settings: Settings) -> Any:
    """Give ‖mean over images of ∂C/∂b‖ for every hidden layer and draw."""
    sizes = [784, *([settings.hidden] * layers), 10]

    def one(key: Any) -> Any:
        params = []
        layer_keys = jax.random.split(key, len(sizes) - 1)
        for k, (fan_in, fan_out) in zip(layer_keys, itertools.pairwise(sizes), strict=True):
            for_w, for_b = jax.random.split(k)
            weights = inits.gaussian()(for_w, (fan_out, fan_in), images.dtype)
            params.append((weights, jax.random.normal(for_b, (fan_out,))))
        gradients = jax.grad(_cross_entropy)(params, images, targets)
        return jnp.stack([jnp.linalg.norm(bias) for _, bias in gradients[:-1]])

    keys = jax.random.split(key, settings.draws)
    return np.asarray(jax.jit(lambda k: jax.lax.map(one, k))(keys))


def _cross_entropy(params: Any, images: Any, targets: Any) -> Any:
    """Give the mean cross-entropy of sigmoid outputs, as Nielsen trains with."""
    activation = images
    for weights, bias in params[:-1]:
        activation = jax.nn.sigmoid(activation @ weights.T + bias[None])
    weights, bias = params[-1]
    logits = activation @ weights.T + bias[None]
    losses = jax.nn.softplus(logits) - targets * logits
    return jnp.mean(jnp.sum(losses, axis=1))


def _deep_growth(key: Any, settings: Settings) -> dict[str, np.ndarray]:
    """Measure ln of the gradient against depth: fresh layers, and one cell unrolled."""
    n, depth = settings.wide, settings.wide_depth
    normal = inits.gaussian()
    deep = feedforward(n, depth, activation="sigmoid", bias_init=normal)
    cell = elman(n, 0, activation="sigmoid")

    def one(key: Any) -> tuple[Any, Any]:
        for_deep, for_cell, for_bias, for_state, for_cotangent = jax.random.split(key, 5)
        start = jax.random.uniform(for_state, (n,))
        params = cell.init(for_cell) | {"b": jax.random.normal(for_bias, (n,))}
        chains = (
            jacobian_chain(deep.step, deep.init(for_deep), start, tied=False),
            jacobian_chain(cell.step, params, start, length=depth),
        )
        cotangent = jax.random.normal(for_cotangent, (n, 1))
        first, second = (pull_back(chain, cotangent).by_lag for chain in chains)
        return first, second

    keys = jax.random.split(key, settings.wide_draws)
    with jax.default_matmul_precision("highest"):
        fresh, repeated = jax.jit(lambda k: jax.lax.map(one, k))(keys)
    return {"feedforward": np.asarray(fresh), "recurrent": np.asarray(repeated)}


def _exact_example() -> float:
    """Give the growth through three layers with w = 100 and biases that keep z at 0."""
    factor = sigmoid_window.factor(100.0, 0.5, -50.0)
    chain = JacobianChain.from_matrices(jnp.broadcast_to(factor, (3, 1, 1)))
    return float(jnp.exp(backpropagate(chain, jnp.ones(1)).log_norms[0]))


def mean_field_factor() -> float:
    """Give 1/√χ of Nielsen's initialization: σ_w² = 1, σ_b² = 1, logistic units."""
    q = mean_field.length_fixed_point("sigmoid", 1.0, 1.0)
    return 1 / math.sqrt(float(mean_field.susceptibility("sigmoid", 1.0, q)))


def checks(result: Result) -> list[Check]:
    """Compare with the published norms, mean field and closed forms."""
    weight, width = (float(v) for v in sigmoid_window.widest())
    grid = np.linspace(4.0, 30.0, 26_001)
    found = [
        Check("shrink factor per layer, mean field", mean_field_factor(), 4.881841034263, 1e-9,
              "q* = 1 + E σ², 1/√(E σ'²)"),
        Check("growth through three layers, w = 100, z = 0", result.exact_factors, 15625.0, 1e-8,
              "25³, Nielsen ch. 5"),
        Check("widest window", width, 0.447743204694, 1e-11, "Nielsen ch. 5"),
        Check("its |w|", weight, 6.894151029, 1e-8, "Nielsen ch. 5"),
        Check("widest window on a grid of w", float(np.max(sigmoid_window.width(grid))), width,
              1e-6, "maximum over 26001 weights"),
    ]  # fmt: skip
    for layers, norms in result.norms.items():
        found += _nielsen_checks(layers, norms)
    return found + _growth_checks(result)


def _nielsen_checks(layers: int, norms: np.ndarray) -> list[Check]:
    """Check one of Nielsen's networks: published ratio, factor per layer, order of layers."""
    ratios = np.log10(norms[:, -1] / norms[:, 0])
    published = math.log10(PUBLISHED[layers][-1] / PUBLISHED[layers][0])
    increasing = float(np.mean(np.all(np.diff(norms, axis=1) > 0, axis=1)))
    factor = 10 ** (ratios.mean() / (layers - 1))
    label = f"{layers} hidden layers"
    return [
        Check(f"{label}: log10 of last/first norm", float(ratios.mean()), published,
              2 * float(ratios.std(ddof=1)), "Nielsen ch. 5; tolerance: two sd between draws"),
        Check(f"{label}: factor per layer", float(factor), mean_field_factor(), 0.9,
              "mean field; N = 30 and 10 outputs"),
        Check(f"{label}: share of draws with norms increasing to the output", increasing, 1.0, 0.0,
              "every draw"),
    ]  # fmt: skip


def _growth_checks(result: Result) -> list[Check]:
    """Check the rates of the deep and of the unrolled network against mean field."""
    s, found = result.settings, []
    for name, growth in result.growth.items():
        rates = growth[:, -1] / s.wide_depth
        error = 4 * float(rates.std(ddof=1)) / math.sqrt(rates.size)
        tolerance = error + 2 / math.sqrt(s.wide * s.wide_depth)
        source = "mean field; four standard errors and the finite width"
        label = f"{name}, N = {s.wide}: rate in nats per layer"
        expected = -math.log(mean_field_factor())
        found.append(Check(label, float(rates.mean()), expected, tolerance, source))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    factors = [
        10 ** (np.log10(norms[:, -1] / norms[:, 0]).mean() / (layers - 1))
        for layers, norms in result.norms.items()
    ]
    return (
        f"Every sigmoid layer divides the gradient by {factors[0]:.2f} (two hidden layers) or "
        f"{factors[1]:.2f} (three), mean field says {mean_field_factor():.2f}; unrolling a "
        "recurrent network makes each step such a layer."
    )


def draw(result: Result) -> Figure:
    """Draw Nielsen's norms, the gradient against depth, and the sigmoid window."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=3)
    with plots.style():
        _draw_norms(panels[0], result)
        _draw_growth(panels[1], result)
        _draw_window(panels[2])
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_norms(axes: Any, result: Result) -> None:
    """Draw the norms of the three-layer network: draws, published values, mean field."""
    norms = result.norms[3]
    layers = np.arange(1, norms.shape[1] + 1)
    axes.semilogy(layers, norms.T, color=plots.COLORS["gray"], linewidth=0.4, alpha=0.4)
    middle = np.exp(np.log(norms).mean(axis=0))
    axes.semilogy(layers, middle, color=plots.COLORS["blue"], label="mean of the draws")
    axes.semilogy(layers, PUBLISHED[3], "D", color=plots.COLORS["red"], markersize=4.5,
                  label="published by Nielsen")  # fmt: skip
    theory = middle[-1] * mean_field_factor() ** (layers - layers[-1])
    axes.semilogy(layers, theory, color="black", linestyle=(0, (4, 2)), linewidth=1.2,
                  label="×4.88 per layer")  # fmt: skip
    axes.legend(loc="lower right", fontsize=7.5)
    axes.set_xticks(layers)
    axes.set_xlabel("hidden layer (3 is next to the output)")
    axes.set_ylabel("gradient norm ‖∂C/∂b‖")
    axes.set_title("sigmoid network, 150 draws" if norms.shape[0] == 150 else "sigmoid network")


def _draw_growth(axes: Any, result: Result) -> None:
    """Draw the gradient against depth for fresh layers and for one cell unrolled."""
    s = result.settings
    layers = np.arange(s.wide_depth + 1)
    looks = {
        "feedforward": (plots.COLORS["blue"], "fresh layers"),
        "recurrent": (plots.COLORS["orange"], "one cell, unrolled"),
    }
    for name, (color, label) in looks.items():
        decades = result.growth[name] / plots.LN10
        axes.plot(layers, decades.T, color=color, linewidth=0.3, alpha=0.35)
        broad = {"linewidth": 3.6} if name == "feedforward" else {}  # so that both show
        axes.plot(layers, decades.mean(axis=0), color=color, label=label, **broad)
    theory = -layers * math.log10(mean_field_factor())
    axes.plot(layers, theory, color="black", linestyle=(0, (4, 2)), linewidth=1.2,
              label="mean field")  # fmt: skip
    axes.legend(loc="lower left", fontsize=7.5)
    axes.set_xticks(range(0, s.wide_depth + 1, 3))
    axes.set_xlabel("layers or steps back")
    axes.set_ylabel("log₁₀ of the gradient's size")
    axes.set_title(f"deep net and RNN, N = {s.wide}")


def _draw_window(axes: Any) -> None:
    """Draw the width of the interval of activations that do not shrink the gradient."""
    weights = np.linspace(4.0, 30.0, 600)
    axes.plot(weights, np.asarray(sigmoid_window.width(weights)), color=plots.COLORS["violet"])
    weight, width = (float(v) for v in sigmoid_window.widest())
    axes.plot([weight], [width], "o", color=plots.COLORS["red"], markersize=4.5)
    axes.annotate(f"{width:.3f} at |w| = {weight:.2f}", (weight, width), xytext=(8, 0),
                  textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_xlim(0, 30)
    axes.set_ylim(0, 0.52)
    axes.axvspan(0, 4, color=plots.COLORS["gray"], alpha=0.15, linewidth=0)
    axes.text(2, 0.26, "always shrinks", rotation=90, ha="center", va="center", fontsize=7.5)
    axes.set_xlabel("|w|")
    axes.set_ylabel("width of the window in a")
    axes.set_title("where |w σ'(wa + b)| ≥ 1")
