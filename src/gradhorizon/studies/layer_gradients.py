"""Glorot and Bengio: what the variance of the weights does to gradients on their way back."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import feedforward
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.studies._study import Check
from gradhorizon.theory import mean_field, norm_moments

TITLE = "Linear layers of weights uniform on ±1/√n divide gradients by √3; variance 1/n keeps them"
QUESTION = "How large must initial weights be for all layers to receive gradients of one size?"
SOURCE = (
    "Glorot & Bengio, AISTATS 2010, section 4.2 (read second-hand; the factors n Var W and their "
    "consequences are derived), mean field after Schoenholz et al. 2017."
)
STANDARD, NORMALIZED = "standard", "normalized"
CASES = (
    ("linear", STANDARD), ("linear", NORMALIZED), ("tanh", STANDARD), ("tanh", NORMALIZED),
    ("sigmoid", NORMALIZED),
)  # fmt: skip
_NAMES = {"linear": "identity", "tanh": "tanh", "sigmoid": "sigmoid"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiment."""

    seed: int = 0
    width: int = 500
    depth: int = 10
    draws: int = 24


SMALL = Settings(width=150, depth=6, draws=16)


class Theory(NamedTuple):
    """Mean squares per unit that mean field predicts, layer by layer."""

    state: np.ndarray  # E‖∂C/∂h_l‖², l = 0 … L, for a cotangent of norm 1
    drive: np.ndarray  # E‖∂C/∂a_l‖², l = 1 … L, a the pre-activation
    weight: np.ndarray  # E‖∂C/∂W_l‖²_F, l = 1 … L, for an input of norm 1
    variances: np.ndarray  # of the pre-activations of layers 1 … L


class Result(NamedTuple):
    """Gradients of networks and what theory says."""

    settings: Settings
    log_state: dict[tuple[str, str], np.ndarray]  # ln ‖∂C/∂h_l‖ (draws, L + 1)
    drive: dict[tuple[str, str], np.ndarray]  # ∂C/∂a_l (draws, L, n)
    weight: dict[tuple[str, str], np.ndarray]  # ‖∂C/∂W_l‖_F (draws, L)
    theory: dict[tuple[str, str], Theory]


def variance(init: str, width: int) -> float:
    """Give Var W: 1/(3n) of U(-1/√n, 1/√n), or 2/(n + n) of Glorot and Bengio."""
    if init == STANDARD:
        return 1 / (3 * width)
    return float(norm_moments.glorot_variance(float(width), float(width)))


def compute(settings: Settings) -> Result:
    """Draw networks, send one gradient back through each, and iterate the mean field."""
    s = settings
    rng = np.random.default_rng(s.seed)
    shape = (s.depth, s.width, s.width)
    logs: dict[Any, list[Any]] = {case: [] for case in CASES}
    drives, weights = ({case: [] for case in CASES} for _ in range(2))
    runs = {unit: _network(unit, s) for unit in _NAMES}
    for _ in range(s.draws):
        uniform = rng.uniform(-math.sqrt(3), math.sqrt(3), shape)  # of variance 1
        first, cotangent = _unit(rng.normal(size=s.width)), _unit(rng.normal(size=s.width))
        for unit, init in CASES:
            scaled = math.sqrt(variance(init, s.width)) * uniform
            found = runs[unit](scaled, math.sqrt(s.width) * first, cotangent)
            for store, value in zip((logs, drives, weights), found, strict=True):
                store[unit, init].append(np.asarray(value))
    theory = {case: predict(*case, s) for case in CASES}
    stacked = [{c: np.stack(v) for c, v in store.items()} for store in (logs, drives, weights)]
    return Result(s, stacked[0], stacked[1], stacked[2], theory)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _network(unit: str, settings: Settings) -> Any:
    """Build (W, h_0, v) -> ln ‖∂C/∂h‖, ∂C/∂a, ‖∂C/∂W‖/‖h_0‖ for the cost C = v·h_L."""
    s = settings
    step = feedforward(s.width, s.depth, activation=_NAMES[unit]).step

    @jax.jit
    def run(weights: Any, first: Any, cotangent: Any) -> Any:
        params = {"W": weights, "b": jnp.zeros((s.depth, s.width))}
        chain = jacobian_chain(step, params, first, tied=False)
        profile = backpropagate(chain, cotangent)

        def cost(params: Any) -> Any:
            return jnp.dot(cotangent, unroll(step, params, first, tied=False).states[-1])

        slopes = jax.grad(cost)(params)
        sizes = jnp.linalg.norm(slopes["W"], axis=(1, 2)) / jnp.linalg.norm(first)
        return profile.log_norms, slopes["b"], sizes

    return run


def predict(unit: str, init: str, settings: Settings) -> Theory:
    """Iterate the mean field: exact at every width for linear layers, as N → ∞ for others."""
    depth = settings.depth
    sigma_w2 = settings.width * variance(init, settings.width)
    q, chis, slopes, moments, variances = sigma_w2, [], [], [1.0], []
    for _ in range(depth):
        chi, following = sigma_w2, sigma_w2 * q
        if unit != "linear":
            chi = float(mean_field.susceptibility(unit, sigma_w2, q))
            following = float(mean_field.length_map(unit, q, sigma_w2, 0.0))
        variances.append(q)
        chis.append(chi)
        slopes.append(chi / sigma_w2)
        moments.append(following / sigma_w2)
        q = following
    state = np.cumprod([1.0, *chis[::-1]])[::-1]
    drive = state[1:] * np.array(slopes)
    return Theory(state, drive, drive * np.array(moments[:-1]), np.array(variances))


def checks(result: Result) -> list[Check]:
    """Compare with the exact factors of linear layers, and with mean field."""
    return [*_exact_checks(result), *_tanh_checks(result)]


def _relative_error(settings: Settings, layers: int) -> float:
    """Bound four standard errors of a mean squared gradient by the law of Gaussian weights."""
    widths = np.full(layers, float(settings.width))
    spread = math.expm1(float(norm_moments.log_fourth_moment(widths)))
    return 4 * math.sqrt(spread / settings.draws)


def _exact_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    n, L = s.width, s.depth
    for init, exact in ((STANDARD, 1 / 3), (NORMALIZED, 1.0)):
        v = variance(init, n)
        factor = float(norm_moments.gradient_factor(v, float(n)))
        found.append(Check(f"{init}: n Var W", factor, exact, 1e-12, "Glorot & Bengio 2010"))
        squares = np.exp(2 * result.log_state["linear", init])
        for lag in (1, L // 2, L):
            value = float(squares[:, L - lag].mean())
            label = f"linear, {init}: mean squared gradient {lag} layers back"
            found.append(Check(label, value, exact**lag, _relative_error(s, lag) * exact**lag,
                               "(n Var W)^k; four standard errors"))  # fmt: skip
        sizes = result.weight["linear", init] ** 2
        worst = float(np.max(np.abs(sizes.mean(axis=0) / exact ** (L - 1) - 1)))
        label = f"linear, {init}: ‖∂C/∂W_l‖² of all layers / (n Var W)^(L-1) - 1, worst"
        found.append(Check(label, worst, 0.0, _relative_error(s, L), "the same for every layer"))
    same = result.log_state["linear", NORMALIZED] - result.log_state["linear", STANDARD]
    expected = np.arange(L, -1, -1) * math.log(3) / 2
    found.append(Check("linear: normalized / standard, ln per layer, worst deviation from ln √3",
                       float(np.max(np.abs(same - expected))), 0.0, 1e-10,
                       "the same draws, scaled"))  # fmt: skip
    wide = float(norm_moments.glorot_variance(48.0, 16.0))
    found.append(Check("Var W between 48 and 16 units", wide, 1 / 32, 1e-15, "2/(n_in + n_out)"))
    return found


def _tanh_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for unit, init in CASES[2:]:
        theory = result.theory[unit, init]
        measured = {
            "∂C/∂h": np.exp(2 * result.log_state[unit, init][:, 0]),
            "∂C/∂a": np.sum(result.drive[unit, init][:, 0] ** 2, axis=1),
            "∂C/∂W": result.weight[unit, init][:, 0] ** 2,
        }
        for (name, values), exact in zip(
            measured.items(), (theory.state[0], theory.drive[0], theory.weight[0]), strict=True
        ):
            error = 4 * float(values.std(ddof=1)) / math.sqrt(s.draws)
            label = f"{unit}, {init}: ‖{name}‖² of the first layer / mean field"
            tolerance = error / exact + 2 * s.depth / s.width
            found.append(Check(label, float(values.mean() / exact), 1.0, tolerance,
                               "N → ∞; four standard errors and 2L/N"))  # fmt: skip
    ratio = _spread(result, STANDARD) / _spread(result, NORMALIZED)
    theory = [
        result.theory["tanh", init].drive[-1] / result.theory["tanh", init].drive[0]
        for init in (STANDARD, NORMALIZED)
    ]
    expected = math.sqrt(theory[0] / theory[1])
    found.append(Check("tanh: last/first layer's gradient, standard against normalized", ratio,
                       expected, 4 * expected * math.sqrt(2 * s.depth / s.width / s.draws)
                       + expected * 2 * s.depth / s.width, "mean field"))  # fmt: skip
    return found


def _spread(result: Result, init: str) -> float:
    """Give the root-mean-square gradient of the last layer over that of the first, for tanh."""
    squares = np.mean(result.drive["tanh", init] ** 2, axis=(0, 2))
    return math.sqrt(squares[-1] / squares[0])


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    standard, normalized = (_spread(result, init) for init in (STANDARD, NORMALIZED))
    return (
        f"Of variance 1/n: behind {s.depth} tanh layers of {s.width} units the first one gets a "
        f"gradient {normalized:.2g} times smaller than the last, but {standard:.0f} times with "
        f"weights uniform on ±1/√n, whose variance 1/(3n) takes a factor √3 = {math.sqrt(3):.2f} "
        "per linear layer."
    )


def draw(result: Result) -> Figure:
    """Draw histograms for both initializations, and gradients of states and of weights."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_histograms(panels[0, 0], result, STANDARD, "standard: uniform on ±1/√n")
        _draw_histograms(panels[0, 1], result, NORMALIZED, "normalized: variance 1/n")
        _draw_states(panels[1, 0], result)
        _draw_weights(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def tanh_density(x: np.ndarray, theory: Theory, layer: int) -> np.ndarray:
    """Give the density of √n ∂C/∂a = √n φ'(a) ∂C/∂h: normal ∂C/∂h, mixed over the slopes."""
    nodes = np.linspace(-6, 6, 241)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
    slopes = 1 / np.cosh(math.sqrt(theory.variances[layer - 1]) * nodes) ** 2
    sd = math.sqrt(theory.state[layer]) * slopes
    waves = np.exp(-((x[:, None] / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))
    return waves @ weights


def _draw_histograms(axes: Any, result: Result, init: str, title: str) -> None:
    """Draw the density of back-propagated gradients of tanh networks, layer by layer."""
    s, theory = result.settings, result.theory["tanh", init]
    drive = result.drive["tanh", init] * math.sqrt(s.width)
    shown = (s.depth, (s.depth + 2) // 2, 1)
    for place, (layer, color) in enumerate(zip(shown, ("red", "violet", "blue"), strict=True)):
        sd = math.sqrt(theory.drive[layer - 1])
        edges, grid = np.linspace(-3.5, 3.5, 57) * sd, np.linspace(-3.5, 3.5, 301) * sd
        counts, _ = np.histogram(drive[:, layer - 1], edges)
        heights = counts / drive[:, layer - 1].size / np.diff(edges)
        axes.stairs(heights, edges, fill=True, color=plots.COLORS[color], alpha=0.3)
        axes.plot(grid, tanh_density(grid, theory, layer), color=plots.COLORS[color],
                  linewidth=1.2)  # fmt: skip
        axes.text(0.97, 0.93 - 0.09 * place, f"layer {layer}: sd {sd:.2g}", fontsize=8,
                  color=plots.COLORS[color], transform=axes.transAxes, ha="right")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(0.02, 200)
    axes.set_xlim(-3, 3)
    axes.set_title(title)
    axes.set_xlabel("back-propagated gradient ∂C/∂a · √n (tanh)")
    axes.set_ylabel("density (lines: mean field)")


_LOOKS = {
    ("linear", STANDARD): ("blue", "linear, standard"),
    ("linear", NORMALIZED): ("gray", "linear, normalized"),
    ("tanh", STANDARD): ("violet", "tanh, standard"),
    ("tanh", NORMALIZED): ("orange", "tanh, normalized"),
    ("sigmoid", NORMALIZED): ("red", "sigmoid, normalized"),
}


def _points(axes: Any, layers: np.ndarray, squares: np.ndarray, law: np.ndarray, look: Any) -> None:
    """Draw root-mean-squares with errors, the prediction, and a label."""
    color = plots.COLORS[look[0]]
    mean = squares.mean(axis=0)
    error = squares.std(axis=0, ddof=1) / math.sqrt(len(squares)) / mean / 2
    rms = np.sqrt(mean)
    axes.plot(layers, np.sqrt(law), color=color, linewidth=1.2)
    axes.errorbar(layers, rms, rms * error, fmt="o", color=color, markersize=3.5, linewidth=1)
    axes.set_yscale("log")


def _draw_states(axes: Any, result: Result) -> None:
    L = result.settings.depth
    layers = np.arange(L + 1)
    for case, look in _LOOKS.items():
        squares = np.exp(2 * result.log_state[case])
        _points(axes, layers, squares, result.theory[case].state, look)
    places = {
        ("linear", NORMALIZED): (0.02, 1.3, "left"), ("tanh", NORMALIZED): (0.9, 0.15, "left"),
        ("sigmoid", NORMALIZED): (L - 1.2, 4e-4, "right"),
    }  # fmt: skip
    for case, (x, y, side) in places.items():
        axes.text(x, y, _LOOKS[case][1], color=plots.COLORS[_LOOKS[case][0]], fontsize=8, ha=side)
    first = math.sqrt(result.theory["linear", STANDARD].state[0])
    axes.text(-0.3, first * 4.5, "linear and tanh,\nstandard", color=plots.COLORS["violet"],
              fontsize=8)  # fmt: skip
    axes.set_ylim(top=4)
    axes.set_title("gradients of states: a factor per layer")
    axes.set_xlabel(f"layer l (L = {L} is the output)")
    axes.set_ylabel("root mean square ‖∂C/∂h‖")


def _draw_weights(axes: Any, result: Result) -> None:
    L = result.settings.depth
    layers = np.arange(1, L + 1)
    for case, look in _LOOKS.items():
        _points(axes, layers, result.weight[case] ** 2, result.theory[case].weight, look)
    for case, (color, text) in _LOOKS.items():
        law = np.sqrt(result.theory[case].weight)
        place = int(0.4 * (L - 1))
        lift = {("tanh", STANDARD): 0.42, ("sigmoid", NORMALIZED): 0.3}.get(case, 1.35)
        axes.text(layers[place], law[place] * lift, text, color=plots.COLORS[color], fontsize=8)
    axes.set_ylim(top=4)
    axes.set_title("gradients of weights: flat but for sigmoid")
    axes.set_xlabel("layer l")
    axes.set_ylabel("root mean square ‖∂C/∂W‖/‖input‖")
