"""A unit that holds a bit against noise: why its gradient must vanish."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import rate_network
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.theory import latch

TITLE = "What holds a bit against noise contracts, and what contracts forgets the gradient"
QUESTION = "Can one unit store a bit robustly and still pass the gradient on?"
SOURCE = (
    "Bengio, Simard & Frasconi, IEEE Trans. Neural Networks 5 (1994) 157, for the argument; the "
    "formulas of a' = w tanh(a) + h are elementary (docs/derivations.md)."
)
WEIGHTS = (1.1, 1.25, 1.5, 2.0, 3.0)
EXACT = {1.1: 0.020481227178, 1.25: 0.077805169315, 1.5: 0.207546455322, 3.0: 1.303273908003}
FOLD_WEIGHT, FOLD_START, PITCHFORK_START = 1.5, 0.01, 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to iterate, and how many noisy latches to watch."""

    seed: int = 0
    passage: int = 20_000
    lags: int = 60
    slow_steps: int = 10_000
    latches: int = 2_000
    noisy_steps: int = 1_000


SMALL = Settings(passage=4_000, latches=400, noisy_steps=300)


class Result(NamedTuple):
    """Withstood biases, gradients on attractors and at folds, and flipped bits."""

    settings: Settings
    withstood: np.ndarray  # by weight: the largest opposing bias that does not flip the bit
    states: np.ndarray  # attractors without bias, by weight
    by_lag: np.ndarray  # ln of the gradient on them, (weights, lags + 1)
    fold: np.ndarray  # ln da_t/da_0 at the fold, t = 1 …
    pitchfork: np.ndarray  # at w = 1, h = 0
    amplitudes: np.ndarray  # of the noise, over h*
    flipped: dict[float, np.ndarray]  # weight -> share of bits lost


def compute(settings: Settings) -> Result:
    """Push latches until they flip, pull gradients back, and shake them."""
    weights = np.array(WEIGHTS)
    states = _iterate(weights, 0.0, np.full(len(WEIGHTS), 5.0), 2000)
    by_lag = _attractor_gradients(weights, states, settings.lags)
    fold, pitchfork = _slow_gradients(settings.slow_steps)
    amplitudes = np.array([0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
    rng = np.random.default_rng(settings.seed)
    flipped = {w: _flipped(rng, w, amplitudes, settings) for w in (1.5, 3.0)}
    return Result(
        settings, _withstood(weights, settings.passage), states, by_lag, fold, pitchfork,
        amplitudes, flipped,
    )  # fmt: skip


def _iterate(weights: Any, bias: Any, a: Any, steps: int) -> np.ndarray:
    """Iterate a' = w tanh(a) + h in NumPy."""
    for _ in range(steps):
        a = weights * np.tanh(a) + bias
    return np.asarray(a)


def _withstood(weights: np.ndarray, steps: int) -> np.ndarray:
    """Find the bias that a stored bit just withstands, by pushing for `steps` steps.

    Δh beyond the fold the flip takes π/√(c Δh) steps: what just flips in T steps is
    Δh = (π/T)²/c beyond it.
    """
    low, high = np.zeros(len(weights)), weights.copy()
    rows = np.arange(len(weights))
    for _ in range(7):
        push = np.linspace(low, high, 32, axis=1)
        holds = _iterate(weights[:, None], -push, np.full(push.shape, 20.0), steps) > 0
        last = np.sum(holds, axis=1) - 1
        low, high = push[rows, last], push[rows, last + 1]
    curvature = np.asarray(latch.tanh_folds(weights).curvature)
    return (low + high) / 2 - (math.pi / steps) ** 2 / curvature


def _chain(weight: Any, bias: Any, start: Any, length: int) -> Any:
    step = rate_network(1, 0, activation="tanh").step
    params = {"W": jnp.reshape(weight, (1, 1)), "b": jnp.reshape(bias, (1,))}
    return jacobian_chain(step, params, jnp.reshape(start, (1,)), length=length)


def _attractor_gradients(weights: np.ndarray, states: np.ndarray, lags: int) -> np.ndarray:
    """Measure ln |∂a_T/∂a_{T-k}| on every attractor."""

    def one(weight: Any, state: Any) -> Any:
        chain = _chain(weight, jnp.zeros(()), state, lags)
        return backpropagate(chain, jnp.ones(1)).by_lag

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(weights), jnp.asarray(states)))


def _slow_gradients(steps: int) -> np.ndarray:
    """Measure ln ∂a_t/∂a_0 for all t, at a fold and at the pitchfork w = 1, h = 0."""
    folds = latch.tanh_folds(FOLD_WEIGHT)
    # at the lower fold the upper attractor is about to vanish: start just above it
    settings = jnp.array([
        [FOLD_WEIGHT, float(folds.bias[0]), float(folds.state[0]) + FOLD_START],
        [1.0, 0.0, PITCHFORK_START],
    ])  # fmt: skip

    def one(setting: Any) -> Any:
        chain = _chain(setting[0], setting[1], setting[2], steps)
        return jnp.cumsum(jnp.log(chain.matrices()[:, 0, 0]))

    return np.asarray(jax.jit(jax.vmap(one))(settings))


def _flipped(rng: Any, weight: float, amplitudes: np.ndarray, settings: Settings) -> np.ndarray:
    """Give the share of latches that lost a stored bit under uniform noise of each amplitude."""
    limit = amplitudes[:, None] * float(latch.tanh_latch_bias(weight))
    start = float(_iterate(weight, 0.0, 5.0, 2000))
    a = np.full((amplitudes.size, settings.latches), start)
    for _ in range(settings.noisy_steps):
        a = weight * np.tanh(a) + limit * rng.uniform(-1, 1, a.shape)
    return np.mean(a < 0, axis=1)


def rates(result: Result) -> np.ndarray:
    """Give ln(w sech²(a)) on the attractors."""
    return np.log(np.array(WEIGHTS)) - 2 * np.log(np.cosh(result.states))


def fold_theory(steps: np.ndarray) -> np.ndarray:
    """Give ln da_t/da_0 at the fold, to leading order (1 + c δ_0 t)⁻²."""
    curvature = latch.tanh_folds(FOLD_WEIGHT).curvature
    return np.log(np.asarray(latch.fold_gradient(curvature, FOLD_START, steps)))


def pitchfork_theory(steps: np.ndarray) -> np.ndarray:
    """Give the same at w = 1: δ' = δ - δ³/3, so (1 + 2 δ_0² t/3)^(-3/2)."""
    return -1.5 * np.log1p(2 * PITCHFORK_START**2 * steps / 3)


def checks(result: Result) -> list[Check]:
    """Compare with h*(w), with the factor on the attractor, and with the laws at the folds."""
    found = [
        Check(f"h* at w = {w:g}", float(latch.tanh_latch_bias(w)), expected, 1e-10,
              "w s - artanh s, s = √(1 - 1/w)")
        for w, expected in EXACT.items()
    ]  # fmt: skip
    steps = result.settings.passage
    curvature = np.asarray(latch.tanh_folds(np.array(WEIGHTS)).curvature)
    # the flip takes π/√(c Δh) plus a number of steps that depends on the curvature only
    tolerance = 40 / steps / curvature * (math.pi / steps) ** 2 / curvature
    error = result.withstood - np.asarray(latch.tanh_latch_bias(np.array(WEIGHTS)))
    near = float(latch.tanh_latch_bias(1.001)) / (2 / 3 * 0.001**1.5)
    found += [
        Check("bias that a stored bit withstands, worst deviation from h* in tolerances",
              float(np.max(np.abs(error) / tolerance)), 0.0, 1.0,
              f"pushed for {steps} steps, less (π/T)²/c"),
        Check("h* at w = 1.001 over 2/3 (w - 1)^(3/2)", near, 1.0, 2e-3, "series in w - 1"),
    ]  # fmt: skip
    return [*found, *_gradient_checks(result), *_noise_checks(result)]


def _gradient_checks(result: Result) -> list[Check]:
    """Check exponential decay on the attractors, and algebraic decay where they are born."""
    lags = np.arange(result.settings.lags + 1)
    deviation = result.by_lag - rates(result)[:, None] * lags
    steps = np.arange(1, result.settings.slow_steps + 1)
    tenth = result.settings.slow_steps // 10
    decade = math.log(10)
    found = [
        Check("gradient on the attractors: worst deviation of its logarithm",
              float(np.max(np.abs(deviation))), 0.0, 1e-10, "k ln(w sech²(a))"),
        Check("largest factor |M'| on an attractor, less 1, or 0 below",
              max(0.0, float(np.exp(rates(result)).max()) - 1), 0.0, 0.0,
              "a stable fixed point contracts"),
    ]  # fmt: skip
    for name, measured, theory, power in (
        ("fold", result.fold, fold_theory, 2.0),
        ("pitchfork", result.pitchfork, pitchfork_theory, 1.5),
    ):
        expected = theory(steps)
        slope = (measured[-1] - measured[tenth - 1]) / decade
        law = (expected[-1] - expected[tenth - 1]) / decade
        found += [
            Check(f"{name}: worst deviation of ln da_t/da_0 from the leading order",
                  float(np.max(np.abs(measured - expected))), 0.0, 0.1,
                  "of order δ_0 ln(1 + c δ_0 t)"),
            Check(f"{name}: power of t over the last decade", float(slope), float(law), 0.02,
                  f"leading order; tends to -{power:g}"),
        ]  # fmt: skip
    return found


def _noise_checks(result: Result) -> list[Check]:
    """Check that no bounded noise up to h* flips a bit, and that larger noise does."""
    found = []
    for weight, flipped in result.flipped.items():
        safe = result.amplitudes <= 1
        found += [
            Check(f"w = {weight:g}: share of bits lost under noise up to h*",
                  float(flipped[safe].max()), 0.0, 0.0,
                  "the map is monotone: no worse than a constant push of h*"),
            Check(f"w = {weight:g}: share of bits lost under the largest noise",
                  float(flipped[-1]), 0.5, 5 * 0.5 / math.sqrt(result.settings.latches),
                  "symmetry, once the start is forgotten; five standard errors"),
        ]  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    per_decade = -math.log(10) / rates(result)
    weak, strong = 0, len(WEIGHTS) - 1
    limits = [float(latch.tanh_latch_bias(w)) for w in WEIGHTS]
    return (
        f"No: at w = {WEIGHTS[weak]:g} a bit withstands inputs up to {limits[weak]:.3f} and the "
        f"gradient loses a decade in {per_decade[weak]:.1f} steps; at w = {WEIGHTS[strong]:g} it "
        f"withstands {limits[strong]:.2f} and loses a decade in {per_decade[strong]:.2f}. Only at "
        "the fold itself, where nothing is withstood, the decay is a power of time."
    )


def draw(result: Result) -> Figure:
    """Draw the latch's region, its gradient, its noise limit, and the decay at folds."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_region(panels[0, 0], result)
        _draw_gradients(panels[0, 1], result)
        _draw_noise(panels[1, 0], result)
        _draw_slow(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_region(axes: Any, result: Result) -> None:
    """Draw h*(w), and the biases found by pushing."""
    w = np.linspace(1.0, 3.2, 300)
    limit = np.nan_to_num(np.asarray(latch.tanh_latch_bias(w)))
    axes.fill_between(w, -limit, limit, color=plots.COLORS["blue"], alpha=0.15, linewidth=0)
    for sign in (-1, 1):
        axes.plot(w, sign * limit, color=plots.COLORS["blue"])
        axes.plot(WEIGHTS, sign * result.withstood, "o", color="black", markersize=4)
    axes.text(2.2, 0, "holds a bit", color=plots.COLORS["blue"], fontsize=9, va="center")
    axes.text(0.75, 1.1, "one attractor:\nforgets", fontsize=8.5, va="center")
    axes.text(2.05, 0.85, "±h*(w)", color=plots.COLORS["blue"], fontsize=9, ha="right")
    axes.set_xlim(0.7, 3.2)
    axes.set_xlabel("weight w")
    axes.set_ylabel("constant input h")
    axes.set_title("a' = w tanh(a) + h, pushed until it flips")


def _draw_gradients(axes: Any, result: Result) -> None:
    """Draw the gradient on the attractors against lag."""
    lags = np.arange(result.settings.lags + 1)
    colors = list(plots.COLORS.values())
    for i, w in enumerate(WEIGHTS):
        line = rates(result)[i] * lags / plots.LN10
        axes.plot(lags, line, color=colors[i], linewidth=1.2)
        axes.plot(lags[::5], result.by_lag[i, ::5] / plots.LN10, "o", color=colors[i], markersize=3)
        end = min(lags[-1], -11.3 * plots.LN10 / rates(result)[i])
        label = f"w = {w:g}" if i == 0 else f"{w:g}"
        axes.annotate(
            label,
            (end, rates(result)[i] * end / plots.LN10),
            xytext=(7, 2),
            textcoords="offset points",
            color=colors[i],
            fontsize=8.5,
            va="center",
        )
    axes.set_ylim(-12, 0.5)
    axes.set_xlim(0, lags[-1] * 1.22)
    axes.set_xlabel("lag k (steps)")
    axes.set_ylabel("log₁₀ of the gradient")
    axes.set_title("on the attractor (lines: k ln|M'|)")


def _draw_noise(axes: Any, result: Result) -> None:
    """Draw the share of bits lost against the amplitude of the noise."""
    count = result.settings.latches
    for (weight, flipped), color in zip(result.flipped.items(), ("orange", "violet"), strict=True):
        error = np.sqrt(flipped * (1 - flipped) / count)
        axes.errorbar(result.amplitudes, flipped, yerr=error, fmt="o-", markersize=4,
                      linewidth=0.9, color=plots.COLORS[color])  # fmt: skip
        place = int(np.argmax(flipped > 0.2))  # where the curve is steep, clear of the others
        axes.annotate(f"w = {weight:g}", (result.amplitudes[place], flipped[place]),
                      xytext=(8, -8), textcoords="offset points", fontsize=8.5,
                      color=plots.COLORS[color])  # fmt: skip
    axes.axvspan(0.4, 1, color=plots.COLORS["gray"], alpha=0.15, linewidth=0)
    axes.text(0.72, 0.28, "never lost", ha="center", va="center", rotation=90, fontsize=8.5)
    axes.set_xlim(0.4, result.amplitudes[-1] + 0.1)
    axes.set_xlabel("amplitude of uniform noise, in units of h*(w)")
    axes.set_ylabel(f"share of bits lost in {result.settings.noisy_steps} steps")
    axes.set_title("how much noise a stored bit survives")


def _draw_slow(axes: Any, result: Result) -> None:
    """Draw the gradient against time at the fold and at the pitchfork."""
    steps = np.arange(1, result.settings.slow_steps + 1)
    picked = np.unique(np.geomspace(1, steps.size, 25).astype(int)) - 1
    for name, measured, theory, color, (x, y, align) in (
        ("at the fold: $t^{-2}$", result.fold, fold_theory, "red", (400, -2.2, "right")),
        (
            "at w = 1, h = 0: $t^{-3/2}$",
            result.pitchfork,
            pitchfork_theory,
            "blue",
            (250, -0.4, "left"),
        ),
    ):
        axes.plot(steps, theory(steps) / plots.LN10, color=plots.COLORS[color], linewidth=1.2)
        axes.plot(steps[picked], measured[picked] / plots.LN10, "o", color=plots.COLORS[color],
                  markersize=3)  # fmt: skip
        axes.text(x, y, name, color=plots.COLORS[color], fontsize=8.5, ha=align)
    axes.set_xscale("log")
    axes.set_xlabel("steps t")
    axes.set_ylabel("log₁₀ of the gradient daₜ/da₀")
    axes.set_title("where attractors are born, a power law")
