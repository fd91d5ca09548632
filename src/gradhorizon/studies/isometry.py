"""Dynamical isometry: orthogonal weights keep a deep Jacobian's singular values together."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from scipy import stats

from gradhorizon import plots
from gradhorizon.cells import feedforward, inits
from gradhorizon.cells.activations import activation_of
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.theory import isometry, mean_field, random_matrix

TITLE = "Isometry: orthogonal weights and slopes near 1 keep all singular values together"
QUESTION = "Which networks pass a gradient through many layers without stretching it?"
SOURCE = (
    "Pennington, Schoenholz & Ganguli, NeurIPS 2017 (variances, S-transforms); Saxe, McClelland & "
    "Ganguli 2013 (deep linear networks); Fuss-Catalan law for Gaussian factors."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiment."""

    seed: int = 0
    width: int = 200
    draws: int = 6
    doublings: int = 4

    @property
    def depths(self) -> tuple[int, ...]:
        """Give 1, 2, 4, and so on."""
        return tuple(2**i for i in range(self.doublings + 1))


SMALL = Settings(width=64, doublings=2)


class Unit(NamedTuple):
    """A unit, and the pre-activation variance at which it works."""

    label: str
    function: Any
    q: float
    q_bias: float  # what the biases contribute to q where the gradient is balanced
    moments: tuple[float, float]  # μ_1 and μ_2 of the squared slope
    color: str


def _hard_tanh(x: Any) -> Any:
    return jnp.clip(x, -1, 1)


@functools.cache
def units() -> dict[str, Unit]:
    """Give the five units; σ_w² is 1/μ_1 throughout, which balances the gradient on average.

    Of piecewise linear units the share p with slope 1 is both moments: no quadrature of steps.
    """
    share = math.erf(1 / math.sqrt(2))
    clipped = 1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi)  # E min(z², 1)
    found = {
        "linear": Unit("linear", "identity", 1.0, 0.0, (1.0, 1.0), plots.COLORS["gray"]),
        "relu": Unit("ReLU", "relu", 1.0, 0.0, (0.5, 0.5), plots.COLORS["red"]),
        "hard": Unit("hard tanh, q = 1", _hard_tanh, 1.0, 1 - clipped / share, (share, share),
                     plots.COLORS["orange"]),
    }  # fmt: skip
    for key, q, color in (("tanh", 0.5, "blue"), ("small", 0.05, "violet")):
        first, second = (float(isometry.slope_moment("tanh", q, k)) for k in (1, 2))
        kept = float(mean_field.length_map("tanh", q, 1 / first, 0.0))
        label = f"tanh, q = {q:g}"
        found[key] = Unit(label, "tanh", q, q - kept, (first, second), plots.COLORS[color])
    return found


CASES = [
    *((key, False) for key in ("linear", "relu", "hard", "tanh")),
    *((key, True) for key in ("linear", "relu", "hard", "tanh", "small")),
]


class Result(NamedTuple):
    """What the networks give."""

    settings: Settings
    logs: dict[tuple[str, bool], np.ndarray]  # (unit, orthogonal) -> ln σ (draws, depths, width)
    resolved: float  # share of all values


def compute(settings: Settings) -> Result:
    """Draw deep networks and compute the singular values of their last 1, 2, 4, … layers."""
    n, depth = settings.width, max(settings.depths)
    keys = jax.random.split(jax.random.key(settings.seed), settings.draws)
    logs: dict[tuple[str, bool], list[Any]] = {case: [] for case in CASES}
    resolved = []
    for orthogonal in (False, True):
        draw = jax.jit(lambda k, o=orthogonal: _draw(k, n, depth, orthogonal=o))
        drawn = [draw(k) for k in keys]
        for key, kind in CASES:
            for parts in drawn if kind == orthogonal else ():
                chain = JacobianChain.from_matrices(_layers(units()[key], *parts))
                spectrum = singular_spectrum(chain, lags=settings.depths)
                logs[key, kind].append(np.asarray(spectrum.log_values))
                resolved.append(np.asarray(spectrum.resolved))
    return Result(settings, {c: np.stack(v) for c, v in logs.items()}, float(np.mean(resolved)))


def _draw(key: Any, n: int, depth: int, *, orthogonal: bool) -> tuple[Any, Any, Any]:
    """Draw weights and biases of unit gain for all layers, and a normal input."""
    for_weights, for_biases, for_state = jax.random.split(key, 3)
    init = inits.orthogonal() if orthogonal else inits.gaussian()
    weights = jax.vmap(lambda k: init(k, (n, n), float))(jax.random.split(for_weights, depth))
    return weights, jax.random.normal(for_biases, (depth, n)), jax.random.normal(for_state, (n,))


def _layers(unit: Unit, weights: Any, biases: Any, normal: Any) -> Any:
    """Give the Jacobians of a network of such units, at a typical state."""
    depth, n, _ = weights.shape
    step = feedforward(n, depth, activation=unit.function).step
    params = {"W": weights / math.sqrt(unit.moments[0]), "b": biases * math.sqrt(unit.q_bias)}
    state = activation_of(unit.function).function(math.sqrt(unit.q) * normal)
    return jacobian_chain(step, params, state, tied=False).matrices()


def spread(result: Result, key: str, orthogonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give Var σ²/(mean σ²)² by depth: mean over the draws, and its standard error."""
    squares = np.exp(2 * result.logs[key, orthogonal])
    values = squares.var(axis=2) / squares.mean(axis=2) ** 2
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))


def law(key: str, depth: Any, *, orthogonal: bool) -> Any:
    """Give L μ_2/μ_1² (Gaussian) or L (μ_2/μ_1² - 1) (orthogonal)."""
    first, second = units()[key].moments
    return depth * (second / first**2 - (1 if orthogonal else 0))


def gaussian_linear_density(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Give x = σ² (descending) and its density times x for L Gaussian factors.

    Fuss-Catalan in parametric form, 0 < φ < π/(L + 1).
    """
    phi = math.pi / (depth + 1) * (1 - _SIDE)
    rise = np.sin((depth + 1) * phi) / np.sin(depth * phi)
    x = rise**depth * np.sin((depth + 1) * phi) / np.sin(phi)
    return x, rise * np.sin(phi) / math.pi


def orthogonal_masked_density(depth: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Give x = σ² (descending) and its density times x for orthogonal weights, slopes 0 or 1.

    With p the share of slopes 1 and m = E x/(z - x) the moment function, S = ((1 + m)/(p + m))^L
    up to scale; u = (m + p)/(m + 1) then solves z (u - p) = (1 - p) (u/p)^L, whose complex roots
    r e^{iφ}, 0 < φ < π/L, are closed. Zeros, of weight 1 - p, are left out. For L (1 - p) ≥ 1.
    """
    phi = math.pi / depth * (1 - _SIDE)
    rise = np.sin(depth * phi) / np.sin((depth - 1) * phi)
    x = (1 - share) / share * rise ** (depth - 1) * np.sin(depth * phi) / np.sin(phi)
    u = share * rise * np.exp(1j * phi)
    return x, (1 - share) / math.pi * u.imag / np.abs(1 - u) ** 2


# 1 - φ/φ_max, dense at both ends: at the edge, and at x → 0, which many values approach
_SIDE = 1 / (1 + np.exp(np.linspace(-16, 16, 20_001)))


def _cumulative(x: np.ndarray, weighted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integrate a density from parametric values, x descending: x ascending, the share below."""
    logs, weighted = np.log(x[::-1]), weighted[::-1]
    parts = np.diff(logs) * (weighted[1:] + weighted[:-1]) / 2
    return np.exp(logs), np.concatenate([np.zeros(1), np.cumsum(parts)])


def _moment(x: np.ndarray, weighted: np.ndarray, power: int) -> float:
    """Give ∫ x^power ρ dx."""
    return float(_cumulative(x, weighted * x**power)[1][-1])


def checks(result: Result) -> list[Check]:
    """Compare with the laws of infinite width; tolerances say what a finite one may add."""
    return [*_law_checks(result), *_density_checks(result), *_edge_checks(result)]


def _law_checks(result: Result) -> list[Check]:
    """Check the variances: the published numbers at L = 2 and 4, and all depths together."""
    s, found = result.settings, []
    tanh = float(isometry.singular_value_variance("tanh", 0.5, 1, orthogonal=True))
    found.append(Check("tanh, q = 0.5: μ_2/μ_1² - 1", tanh, 0.299244127, 1e-9, "quadrature"))
    published = {
        ("relu", False): (4.0, 8.0), ("relu", True): (2.0, 4.0),
        ("tanh", False): (2.598488, 5.196977), ("tanh", True): (0.598488, 1.196977),
    }  # fmt: skip
    for (key, orthogonal), expected in published.items():
        values, errors = spread(result, key, orthogonal)
        for depth, exact in zip((2, 4), expected, strict=True):
            i = s.depths.index(depth)
            tolerance = 0.12 * exact * 200 / s.width + 4 * float(errors[i])
            name = f"{units()[key].label}, {_WEIGHTS[orthogonal]}: variance at L = {depth}"
            found.append(Check(name, float(values[i]), exact, tolerance, _PENNINGTON))
    for key, orthogonal in CASES:
        if (key, orthogonal) == ("linear", True):
            continue
        values, _ = spread(result, key, orthogonal)
        ratio = float(np.mean(values / law(key, np.array(s.depths), orthogonal=orthogonal)))
        name = f"{units()[key].label}, {_WEIGHTS[orthogonal]}: variance / law, mean over depths"
        found.append(Check(name, ratio, 1.0, 0.12 * 200 / s.width, _PENNINGTON))
    worst = float(np.max(np.abs(result.logs["linear", True])))
    eps = float(np.finfo(float).eps)
    bound = 60 * s.width * max(s.depths) * eps
    found.append(Check("linear, orthogonal: largest |ln σ|", worst, 0.0, bound, "Saxe et al. 2013"))
    found.append(Check("share of singular values resolved", result.resolved, 1.0, 0.0, "exact"))
    return found


_PENNINGTON = "Pennington et al. 2017, N → ∞"
_WEIGHTS = {True: "orthogonal", False: "Gaussian"}


def _density_checks(result: Result) -> list[Check]:
    """Check the densities against exact moments, and the measured values against the densities."""
    s, found = result.settings, []
    depth = max(s.depths)
    laws = {
        ("linear", False): (gaussian_linear_density(depth), 1.0, depth + 1.0),
        ("relu", True): (orthogonal_masked_density(depth, 0.5), 0.5, depth + 1.0),
    }
    for (key, orthogonal), (density, weight, second) in laws.items():
        label = f"{units()[key].label}, {_WEIGHTS[orthogonal]}, L = {depth}"
        for power, exact in enumerate((weight, 1.0, second)):
            name = f"{label}: ∫ x^{power} ρ dx"
            found.append(Check(name, _moment(*density, power), exact, 1e-4 * exact, "exact"))
        x, below = _cumulative(*density)
        squares = np.sort(np.exp(2 * result.logs[key, orthogonal][:, -1]).ravel())
        shares = (np.arange(squares.size) + 0.5) / squares.size
        exact = 1 - weight + np.interp(squares, x, below)
        alive = squares > 0
        gap = float(np.max(np.abs(shares - exact)[alive]))
        surplus = _zeros_of_relu(depth, s.width) - 0.5 if key == "relu" else 0.0
        name = f"{label}: largest distance of the distributions"
        found.append(Check(name, gap, 0.0, 8 / s.width + surplus, "density at N → ∞"))
    zeros = float(np.mean(np.isneginf(result.logs["relu", True][:, -1])))
    expected = _zeros_of_relu(depth, s.width)
    tolerance = 4 * 0.5 / math.sqrt(s.width * s.draws)
    name = f"ReLU, orthogonal, L = {depth}: share of exact zeros"
    found.append(Check(name, zeros, expected, tolerance, "largest of L binomial counts"))
    return found


def _zeros_of_relu(depth: int, width: int) -> float:
    """Give the expected share of exact zeros: the layer with most dead units decides.

    Signs of pre-activations are independent and fair, for Gaussian and Haar weights alike.
    """
    below = stats.binom.cdf(np.arange(width), width, 0.5) ** depth
    return float(np.sum(1 - below)) / width


def _edge_checks(result: Result) -> list[Check]:
    """Check the largest singular values; they lie O(N^-2/3) below the edge."""
    s, found = result.settings, []
    tolerance = 0.06 * (200 / s.width) ** (2 / 3)
    for depth, edge in ((1, 2.0), (2, 2.598076), (4, 3.493856)):
        value = np.exp(result.logs["linear", False][:, s.depths.index(depth), 0]).mean()
        exact = float(random_matrix.fuss_catalan_edge(depth))
        name = f"linear, Gaussian, L = {depth}: edge"
        found.append(Check(name, exact, edge, 1e-6, "√((L + 1)^(L+1)/L^L)"))
        name = f"linear, Gaussian, L = {depth}: largest σ / edge"
        found.append(Check(name, float(value / exact), 1.0, tolerance, "edge at N → ∞"))
    edge = math.sqrt(4**4 / 3**3)  # σ² = (1 - p)/p · L^L/(L - 1)^(L-1) at φ → 0
    value = np.exp(result.logs["relu", True][:, s.depths.index(4), 0]).mean()
    name = "ReLU, orthogonal, L = 4: largest σ / edge"
    found.append(Check(name, float(value / edge), 1.0, tolerance, "√(4⁴/3³), from the density"))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    depth = result.settings.depths[-1]
    gaussian, relu, tanh = (
        float(spread(result, *case)[0][-1])
        for case in (("linear", False), ("relu", True), ("small", True))
    )
    return (
        f"Those with orthogonal weights and slopes near 1: behind {depth} layers the squared "
        f"singular values have a variance of {tanh:.2f} (mean²) for tanh at q = 0.05, against "
        f"{gaussian:.0f} for Gaussian weights without any nonlinearity, and {relu:.0f} for ReLU, "
        "which orthogonal weights cannot help."
    )


def draw(result: Result) -> Figure:
    """Draw two families of distributions, and the two variance laws."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_gaussian(panels[0, 0], result)
        _draw_orthogonal(panels[0, 1], result)
        for axes, orthogonal in ((panels[1, 0], False), (panels[1, 1], True)):
            _draw_law(axes, result, orthogonal=orthogonal)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _histogram(axes: Any, logs: np.ndarray, edges: np.ndarray, color: Any, alpha: float) -> None:
    """Draw the density of log₁₀ σ; exact zeros count in its weight and are not shown."""
    decades = logs.ravel() / plots.LN10
    counts, _ = np.histogram(decades, edges)
    density = counts / decades.size / np.diff(edges)
    axes.stairs(density, edges, fill=True, color=color, alpha=alpha)


def _draw_gaussian(axes: Any, result: Result) -> None:
    """Draw linear networks: Gaussian weights at three depths, orthogonal ones at all."""
    s = result.settings
    shown = [d for d in (1, 4, max(s.depths)) if d in s.depths]
    shades = [plots.COLORS[name] for name in ("blue", "violet", "red")]
    edges = np.arange(-6.0, 1.2, 0.15)
    for depth, color in zip(shown, shades, strict=False):
        logs = result.logs["linear", False][:, s.depths.index(depth)]
        _histogram(axes, logs, edges, color, 0.35)
        x, weighted = gaussian_linear_density(depth)
        density = 2 * plots.LN10 * weighted
        axes.plot(np.log10(x) / 2, density, color=color)
        place = {1: -0.5, 4: -1.4}.get(depth, -3.2)
        height = np.interp(place, np.log10(x[::-1]) / 2, density[::-1])
        axes.annotate(f"L = {depth}", (place, height), color=color, xytext=(-4, 5),
                      textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.axvline(0, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate("orthogonal weights:\nall at 1, at every L", (0, 0.98), fontsize=8, ha="right",
                  va="top", xycoords=("data", "axes fraction"), xytext=(-5, 0),
                  textcoords="offset points")  # fmt: skip
    axes.set_xlim(-5, 1.6)
    axes.set_ylim(0, None)
    axes.set_title("linear networks, Gaussian weights")
    _decades(axes)


def _draw_orthogonal(axes: Any, result: Result) -> None:
    """Draw orthogonal weights at the largest depth: ReLU against tanh."""
    depth = max(result.settings.depths)
    for key, width in (("relu", 0.15), ("tanh", 0.1), ("small", 0.05)):
        unit, logs = units()[key], result.logs[key, True][:, -1]
        edges = np.arange(-3.5, 1.3, width)
        _histogram(axes, logs, edges, unit.color, 0.4)
    x, weighted = orthogonal_masked_density(depth, 0.5)
    axes.plot(np.log10(x) / 2, 2 * plots.LN10 * weighted, color=units()["relu"].color)
    zeros = float(np.mean(np.isneginf(result.logs["relu", True][:, -1])))
    top = axes.get_ylim()[1]
    for key, text, place in (
        ("relu", f"ReLU; {100 * zeros:.0f} % are exactly 0", (-3.4, 0.09)),
        ("tanh", units()["tanh"].label, (-0.9, 0.17)),
        ("small", units()["small"].label, (-0.4, 0.6)),
    ):
        axes.text(place[0], place[1] * top, text, color=units()[key].color, fontsize=8,
                  ha="left" if key == "relu" else "right", va="center")  # fmt: skip
    axes.set_xlim(-3.5, 1.6)
    axes.set_title(f"orthogonal weights, L = {depth}")
    _decades(axes)


def _decades(axes: Any) -> None:
    axes.xaxis.set_major_formatter(lambda v, _: f"$10^{{{v:.0f}}}$")
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.set_xlabel("singular value σ of the Jacobian of L layers")
    axes.set_ylabel("density of log₁₀ σ")


def _draw_law(axes: Any, result: Result, *, orthogonal: bool) -> None:
    """Draw the variance of σ² against depth, measured and predicted."""
    depths = np.array(result.settings.depths)
    for key, kind in CASES:
        if kind != orthogonal or (key, kind) == ("linear", True):
            continue
        unit = units()[key]
        exact = law(key, depths, orthogonal=orthogonal)
        values, errors = spread(result, key, orthogonal)
        axes.loglog(depths, exact, color=unit.color)
        axes.errorbar(depths, values, yerr=errors, fmt="o", markersize=3.5, linewidth=1,
                      color=unit.color)  # fmt: skip
        shift = {"hard": 2, "tanh": -3, "linear": -5}.get(key, 0)  # labels closer than lines
        axes.annotate(unit.label, (depths[-1], exact[-1]), xytext=(7, shift), va="center",
                      textcoords="offset points", color=unit.color, fontsize=8,
                      annotation_clip=False)  # fmt: skip
    axes.set_xlim(0.9, depths[-1] * 4)
    axes.set_xticks(depths, [str(d) for d in depths])
    axes.minorticks_off()
    factor = "μ₂/μ₁² - 1" if orthogonal else "μ₂/μ₁²"
    axes.set_title(f"{_WEIGHTS[orthogonal]} weights: variance = L ({factor})")
    axes.set_xlabel("depth L")
    axes.set_ylabel("Var σ² / (mean σ²)²")
