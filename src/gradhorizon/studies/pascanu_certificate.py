"""The certificate γ σ₁ < 1: it never errs, it says little, and nothing follows from γ σ₁ > 1."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import elman, inits
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.regimes.regime import reach_of_profile, regime_of_reach
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds, mean_field

TITLE = "γσ₁ < 1 proves vanishing without exception; γσ₁ > 1 proves nothing"
QUESTION = "What does the largest singular value of the repeated matrix prove?"
SOURCE = (
    "Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), section 2.1, eqs. 2 and 5-7; critical "
    "gain under input noise after Molgedey, Schuchhardt & Schuster 1992."
)
SLACK = 1e-12  # nats: the rounding of two logarithms that are compared
LOOKS = {
    "tanh": (plots.COLORS["blue"], "o"),
    "sigmoid": (plots.COLORS["olive"], "s"),
    "relu": (plots.COLORS["orange"], "^"),
    "erf": (plots.COLORS["violet"], "D"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    kinds: int = 4  # how many of the activations in LOOKS
    hidden: int = 50
    inputs: int = 10
    drive: float = 0.5  # standard deviation of U x
    length: int = 200
    bound: float = 0.95  # η = γ σ₁ of the first panel
    draws: int = 200  # networks of each activation at each γ σ₁
    certified: int = 9  # other values of γ σ₁ below 1
    uncertified: int = 22  # values from 1 to `highest`
    highest: float = 4.5
    threshold: float = 1e-3


SMALL = Settings(kinds=2, draws=16, certified=4, uncertified=8)


class Measured(NamedTuple):
    """Networks of one activation; every field starts with (points, draws)."""

    by_lag: Any  # ln of the gradient's size by lag, (points, draws, length + 1)
    rate_bound: Any  # ln(γ σ₁)
    gain: Any  # standard deviation of the entries of W times √N
    code: Any  # regime at the last lag: -1, 0, 1
    horizon: Any  # steps


class Result(NamedTuple):
    """Networks of each activation at every γ σ₁, and two references."""

    settings: Settings
    values: np.ndarray  # γ σ₁, ascending, (points,)
    found: dict[str, Measured]
    tight: np.ndarray  # growth by lag of linear units with W = η Q, Q orthogonal
    paper: dict[str, np.ndarray]  # γ σ₁ of the paper's two initializations, (draws,)


def compute(settings: Settings) -> Result:
    """Measure networks of every activation over a range of γ σ₁."""
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    values = sweep_values(settings)
    found = {a: _measure(a, keys[0], values, settings) for a in list(LOOKS)[: settings.kinds]}
    return Result(settings, values, found, _tight(keys[1], settings), _paper(keys[2], settings))


def sweep_values(settings: Settings) -> np.ndarray:
    """Give γ σ₁: `bound`, values with certified horizons even in the logarithm, linear ones."""
    horizons = np.geomspace(2.0, 1500.0, settings.certified)
    below = np.exp(math.log(settings.threshold) / horizons)
    above = np.linspace(1.0, settings.highest, settings.uncertified)
    return np.sort(np.concatenate([[settings.bound], below, above]))


def _measure(activation: str, key: Any, values: np.ndarray, settings: Settings) -> Measured:
    """Measure networks h' = φ(W h + U x) with γ σ₁(W) set; the same draws at every value."""
    slope, n = bounds.SLOPE_BOUNDS[activation], settings.hidden
    incoming = inits.gaussian(settings.drive)
    cell = elman(n, settings.inputs, activation=activation, input_init=incoming)

    def one(key: Any, value: Any) -> Measured:
        for_params, for_inputs, for_cotangent = jax.random.split(key, 3)
        params = cell.init(for_params)
        gain = value / (slope * jnp.linalg.norm(params["W"], ord=2))
        params = params | {"W": gain * params["W"]}
        xs = jax.random.normal(for_inputs, (settings.length, settings.inputs))
        chain = jacobian_chain(cell.step, params, cell.initial_state(), xs)
        by_lag = backpropagate(chain, jax.random.normal(for_cotangent, (n,))).by_lag
        reach = reach_of_profile(by_lag, by_lag[-1] / settings.length, settings.threshold)
        code = regime_of_reach(reach, settings.length)
        bound = bounds.vanishing_certificate(params["W"], slope)
        return Measured(by_lag, bound, gain, code, reach.horizon)

    keys, grid = jax.random.split(key, settings.draws), jnp.asarray(values)

    def row(value: Any) -> Measured:
        return jax.lax.map(lambda k: one(k, value), keys)

    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, jax.jit(lambda v: jax.lax.map(row, v))(grid))


def _tight(key: Any, settings: Settings) -> np.ndarray:
    """Measure a network that attains the bound: linear, W = η Q with Q orthogonal."""
    recurrent = inits.orthogonal(settings.bound)
    cell = elman(settings.hidden, 0, activation="identity", recurrent_init=recurrent)
    start = cell.initial_state()
    chain = jacobian_chain(cell.step, cell.init(key), start, length=settings.length)
    return np.asarray(backpropagate(chain, jax.random.normal(key, (settings.hidden,))).by_lag)


def _paper(key: Any, settings: Settings) -> dict[str, np.ndarray]:
    """Draw γ σ₁ of the paper's initializations: entries of sd 0.01 (sigmoid), 0.1 (tanh)."""
    shape = (settings.draws, settings.hidden, settings.hidden)
    largest = np.linalg.norm(np.asarray(jax.random.normal(key, shape)), 2, axis=(1, 2))
    deviations = {"sigmoid": 0.01, "tanh": 0.1}
    return {a: bounds.SLOPE_BOUNDS[a] * sd * largest for a, sd in deviations.items()}


def row_of_bound(result: Result) -> int:
    """Give the index of η = `bound` among the values."""
    return int(np.searchsorted(result.values, result.settings.bound))


def violations(found: Measured) -> tuple[int, int]:
    """Count the pairs of network and lag above the bound η^k, and all pairs."""
    lags = np.arange(found.by_lag.shape[-1])
    above = found.by_lag > lags * found.rate_bound[..., None] + SLACK
    return int(above.sum()), above.size


def mean_field_rates(result: Result) -> np.ndarray:
    """Give ½ ln χ of the tanh networks at every γ σ₁, nats per step."""
    rates = []
    for gain in result.found["tanh"].gain.mean(axis=1):
        q = mean_field.length_fixed_point("tanh", gain**2, result.settings.drive**2)
        rates.append(0.5 * math.log(float(mean_field.susceptibility("tanh", gain**2, q))))
    return np.array(rates)


def critical_value(result: Result) -> float:
    """Give the γ σ₁ at which mean field has the gradient of tanh networks neither grow nor fade."""
    gain = math.sqrt(float(mean_field.critical_sigma_w2("tanh", result.settings.drive**2)))
    return gain * float(np.mean(result.values[:, None] / result.found["tanh"].gain))


def checks(result: Result) -> list[Check]:
    """Compare with the bound, with closed forms and with mean field."""
    return [*_bound_checks(result), *_exact_checks(result), *_converse_checks(result)]


def _bound_checks(result: Result) -> list[Check]:
    """Count violations of the bound and of what follows from it."""
    s, found = result.settings, []
    exploding, too_long = 0, 0
    for activation, nets in result.found.items():
        bad, total = violations(nets)
        name = f"{activation}: pairs of network and lag above η^k, of {total}"
        found.append(Check(name, float(bad), 0.0, 0.0, "Pascanu et al. 2013; slack 1e-12"))
        certified = result.values < 1
        exploding += int(np.sum(nets.code[result.values <= 1] == 1))
        limit = -math.log(s.threshold) / -np.log(result.values[certified])
        too_long += int(np.sum(nets.horizon[certified] > limit[:, None]))
    vanished = [np.mean(m.code[row_of_bound(result)] == -1) for m in result.found.values()]
    return [
        *found,
        Check("networks that explode with γσ₁ ≤ 1", float(exploding), 0.0, 0.0,
              "γσ₁ > 1 is necessary"),
        Check("horizons beyond the certified one", float(too_long), 0.0, 0.0,
              "ln(1/ε)/ln(1/η) bounds them"),
        Check(f"share vanished at lag {s.length}, η = {s.bound:g}", float(np.mean(vanished)), 1.0,
              0.0, "certified from lag 135 on"),
    ]  # fmt: skip


def _exact_checks(result: Result) -> list[Check]:
    """Check the tight case, thresholds, and the initializations of the paper."""
    s = result.settings
    lags = np.arange(s.length + 1)
    horizon = float(bounds.certified_horizon(s.bound * jnp.eye(s.hidden), threshold=s.threshold))
    edge = 2 * math.sqrt(s.hidden)  # σ₁ of a Gaussian matrix, from below, at relative O(N^-2/3)
    below = s.hidden ** (-2 / 3)
    paper = {a: float(v.mean()) for a, v in result.paper.items()}
    return [
        Check("linear, W = ηQ: largest distance from η^k, nats",
              float(np.max(np.abs(result.tight - lags * math.log(s.bound)))), 0.0, SLACK,
              "‖Qᵀδ‖ = ‖δ‖: the bound is attained"),
        Check(f"certified horizon at η = {s.bound:g}, steps", horizon,
              math.log(1000) / math.log(20 / 19), 1e-9, "ln(1/ε)/ln(1/η)"),
        Check("sigmoid: ln(γσ₁) at σ₁ = 4",
              float(bounds.vanishing_certificate(4.0 * jnp.eye(3), 0.25)), 0.0, 1e-15,
              "Pascanu et al. 2013: the threshold is 4"),
        Check("γσ₁ of the paper's sigmoid start (sd 0.01), mean", paper["sigmoid"],
              0.25 * 0.01 * edge, 0.25 * 0.01 * edge * below, "edge 2√N, finite N"),
        Check("γσ₁ of the paper's tanh start (sd 0.1), mean", paper["tanh"], 0.1 * edge,
              0.1 * edge * below, "edge 2√N, finite N"),
    ]  # fmt: skip


def _converse_checks(result: Result) -> list[Check]:
    """Check that γσ₁ > 1 does not imply growth, and where growth begins by mean field."""
    s, beyond = result.settings, result.values > 1
    found = []
    for activation, nets in result.found.items():
        some = min(int(np.sum(nets.code[beyond] == -1)), 1)
        name = f"{activation}: a network with γσ₁ > 1 that vanishes (1 if found)"
        found.append(Check(name, float(some), 1.0, 0.0, "γσ₁ < 1 is not necessary"))
    rates = result.found["tanh"].by_lag[..., -1] / s.length
    error = 4 * rates.std(axis=1, ddof=1) / math.sqrt(s.draws)
    worst = float(np.max(np.abs(rates.mean(axis=1) - mean_field_rates(result)) - error))
    # ln ρ of a real Gaussian matrix of N = 50 lies 0.06 above its limit; so may these rates
    name = "tanh: rate minus ½ ln χ beyond four standard errors, worst, nats per step"
    return [*found, Check(name, max(worst, 0.0), 0.0, 3 / s.hidden, "mean field; finite N")]


def onset(result: Result) -> float:
    """Give the γ σ₁ at which the mean rate of the tanh networks crosses zero."""
    rates = result.found["tanh"].by_lag[..., -1].mean(axis=1)
    last = int(np.flatnonzero(rates < 0)[-1])
    pair = slice(last, last + 2)
    return float(np.interp(0, rates[pair], result.values[pair]))


def looseness(result: Result) -> dict[str, float]:
    """Give by how many decades the bound exceeds the median network at the last lag."""
    s = result.settings
    bound = s.length * math.log(s.bound)
    ends = {a: m.by_lag[row_of_bound(result), :, -1] for a, m in result.found.items()}
    return {a: (bound - float(np.median(end))) / plots.LN10 for a, end in ends.items()}


def answer(result: Result) -> str:
    """Say what the figure shows."""
    counts = [violations(m) for m in result.found.values()]
    bad, total = (sum(c) for c in zip(*counts, strict=True))
    median = float(np.median(result.found["tanh"].horizon[row_of_bound(result)]))
    limit = -math.log(result.settings.threshold) / -math.log(result.settings.bound)
    beyond = result.values > 1
    share = float(np.mean(result.found["tanh"].code[beyond & (result.values <= 2)] == -1))
    return (
        f"It proves an upper bound, (γσ₁)^k at lag k: {bad} violations in {total} pairs of network "
        f"and lag. The bound is loose: at γσ₁ = {result.settings.bound:g} it certifies a horizon "
        f"of at most {limit:.0f} steps, the median tanh network has {median:.0f} "
        f"({looseness(result)['tanh']:.0f} decades apart at lag {result.settings.length}). The "
        f"converse fails: {100 * share:.0f} % of the tanh networks with γσ₁ between 1 and 2 vanish "
        f"too; their mean rate crosses zero only at {onset(result):.2f} (mean field: "
        f"{critical_value(result):.2f})."
    )


def draw(result: Result) -> Figure:
    """Draw growth by lag, rates over γσ₁, horizons, and the share of each regime."""
    figure, panels = plots.new_figure(8.4, 6.4, nrows=2, ncols=2)
    with plots.style():
        _draw_lags(panels[0, 0], result)
        _draw_horizons(panels[0, 1], result)
        _draw_rates(panels[1, 0], result)
        _draw_shares(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_lags(axes: Any, result: Result) -> None:
    """Draw the range and the median of the gradient by lag, the bound, and who attains it."""
    s = result.settings
    lags = np.arange(s.length + 1)
    for activation, found in result.found.items():
        color, _ = LOOKS[activation]
        decades = found.by_lag[row_of_bound(result)] / plots.LN10
        low, middle, high = np.quantile(decades, [0, 0.5, 1], axis=0)
        axes.fill_between(lags, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(lags, middle, color=color, label=activation, **_line(activation))
    axes.plot(lags, lags * math.log10(s.bound), color="black", linestyle=(0, (4, 2)))
    axes.plot(lags[::20], result.tight[::20] / plots.LN10, "o", color="black", markersize=3.5)
    axes.text(s.length, -10, f"bound {s.bound:g}ᵏ; dots: W = {s.bound:g}·orthogonal, linear",
              ha="right", va="top", fontsize=7.5)  # fmt: skip
    axes.legend(loc="lower left", fontsize=7.5, title="median, range", title_fontsize=7.5)
    axes.set_title(f"γσ₁ = {s.bound:g}: {s.draws} networks each")
    axes.set_xlabel("lag k (steps back from the loss)")
    axes.set_ylabel("log₁₀ of the gradient's size")


def _line(activation: str) -> dict[str, float]:
    """Draw erf broad and below, so that tanh shows where the two coincide."""
    return {"linewidth": 3.2, "zorder": 1.9} if activation == "erf" else {"linewidth": 1.4}


def _draw_horizons(axes: Any, result: Result) -> None:
    """Draw the measured horizon against the certified one."""
    s = result.settings
    certified = result.values < 1
    limit = math.log(s.threshold) / np.log(result.values[certified])
    for i, (activation, found) in enumerate(result.found.items()):
        color, marker = LOOKS[activation]
        middle = np.mean(found.horizon[certified], axis=1)
        spread = np.std(found.horizon[certified], axis=1)
        beside = limit * 1.08 ** (i - 1.5)  # side by side: the values nearly coincide
        axes.errorbar(beside, middle, yerr=spread, fmt=marker, color=color, markersize=3.5,
                      linewidth=1)  # fmt: skip
    axes.plot(limit, limit, color="black", linestyle=(0, (4, 2)))
    ends = np.array([limit[0], limit[-1]])
    axes.fill_between(ends, ends, 4 * limit[-1], color=plots.COLORS["gray"], alpha=0.15,
                      linewidth=0)  # fmt: skip
    axes.text(0.07, 0.95, "excluded by the certificate", transform=axes.transAxes, va="top",
              fontsize=8)  # fmt: skip
    tight = float(np.sum(result.tight >= math.log(s.threshold)) - 1)
    place = (math.log(s.threshold) / math.log(s.bound), tight)
    axes.plot(*place, "o", color="black", markersize=5)
    axes.annotate(f"{s.bound:g}·orthogonal, linear", place, xytext=(-7, 0), ha="right",
                  va="center", textcoords="offset points", fontsize=7.5)  # fmt: skip
    start = math.log(s.threshold) / math.log(float(result.paper["sigmoid"].mean()))
    axes.axvline(start, color=LOOKS["sigmoid"][0], linewidth=0.8)
    axes.text(1.5 * start, 1, "Pascanu et al. start sigmoid networks here", va="center",
              fontsize=7.5, color=LOOKS["sigmoid"][0])  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1.5, 1.3 * limit[-1])
    axes.set_ylim(0.6, 1.3 * limit[-1])
    axes.set_title(f"horizon: measured against certified (ε = {s.threshold:g})")
    axes.set_xlabel("certified horizon ln(1/ε) / ln(1/γσ₁), steps")
    axes.set_ylabel("measured horizon, mean ± sd, steps")


def _draw_rates(axes: Any, result: Result) -> None:
    """Draw every network's rate against γσ₁, the bound, and mean field for tanh."""
    s = result.settings
    window = -math.log(s.threshold) / s.length
    axes.axhspan(-window, window, color=plots.COLORS["olive"], alpha=0.25, linewidth=0)
    for activation, found in result.found.items():
        color, _ = LOOKS[activation]
        rates = found.by_lag[..., -1] / s.length
        ends = rates.min(axis=1), rates.max(axis=1)
        axes.fill_between(result.values, *ends, color=color, alpha=0.15, linewidth=0)
        axes.plot(result.values, rates.mean(axis=1), color=color, **_line(activation))
    for text, place in (("relu", (3.9, 0.62)), ("sigmoid", (4.0, -0.42))):
        axes.text(*place, text, fontsize=8, ha="center", color=LOOKS[text][0])
    axes.text(0.08, 0.06, "balanced", fontsize=7.5, color=plots.COLORS["olive"])
    tanh = mean_field_rates(result)
    axes.plot(result.values, tanh, color="black", linewidth=1, linestyle=(0, (1, 1.5)))
    grid = np.linspace(0.05, s.highest, 300)
    axes.plot(grid, np.log(grid), color="black", linestyle=(0, (4, 2)))
    axes.axvline(1, color=plots.COLORS["gray"], linewidth=0.8)
    axes.text(2.6, math.log(2.6) + 0.1, "bound ln γσ₁", rotation=14, ha="center", fontsize=8)
    axes.set_xlim(0, s.highest + 0.05)
    axes.set_ylim(-2.2, 1.7)
    axes.set_title("rate: mean and range; dotted: mean field")
    axes.set_xlabel("γσ₁(W)")
    axes.set_ylabel(f"nats per step, over {s.length} steps")


def _draw_shares(axes: Any, result: Result) -> None:
    """Draw which share of the tanh networks vanishes, stays balanced, explodes."""
    s = result.settings
    code = result.found["tanh"].code
    use = result.values >= result.values[result.values < 1][0]
    shares = [np.mean(code[use] == c, axis=1) for c in (-1, 0, 1)]
    axes.stackplot(result.values[use], *shares, colors=list(plots.REGIME_COLORS.values()),
                   alpha=0.75, linewidth=0)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    critical = critical_value(result)
    axes.axvline(critical, color="black", linewidth=1, linestyle=(0, (1, 1.5)))
    axes.text(0.95, 0.5, "certified", rotation=90, ha="right", va="center", color="white",
              fontsize=8, fontweight="bold")  # fmt: skip
    axes.text(1.9, 0.5, "vanish, yet\nnot certified", ha="center", va="center", color="white",
              fontsize=8, fontweight="bold")  # fmt: skip
    axes.text(0.98, 0.5, "explode", ha="right", va="center", color="white", fontsize=8,
              fontweight="bold", transform=axes.transAxes)  # fmt: skip
    axes.annotate(f"χ = 1 at {critical:.2f}", (critical, 0.3), xytext=(-3, 0), ha="right",
                  va="center", textcoords="offset points", fontsize=8, rotation=90, color="white",
                  fontweight="bold")  # fmt: skip
    axes.set_xlim(0, s.highest)
    axes.set_ylim(0, 1)
    axes.set_title(f"tanh networks: regime at lag {s.length}")
    axes.set_xlabel("γσ₁(W)")
    axes.set_ylabel("share of networks")
