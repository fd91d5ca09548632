"""Hochreiter's bound: what one logistic unit can do to the error that flows through it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from gradhorizon import plots
from gradhorizon.cells import elman
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.theory import sigmoid_window

TITLE = "A logistic self-loop can amplify the error only at small activations, and never for long"
QUESTION = "How large can the factor be that a logistic unit puts into the gradient?"
SOURCE = (
    "Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735, section 3.1, after Hochreiter "
    "1991 (read second-hand; every number here follows from the formula)."
)
NET, LIMIT = 1.543404638418, 0.223871602347  # net* tanh(net*/2) = 1, and net* σ'(net*)
TABLE = {1.0: 0.2238716023, 0.5: 0.4477432047, 0.25: 0.8954864094, 0.2: 1.1193580117}
WINDOW = 0.447743204694  # width of Nielsen's widest window


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    weights: int = 81
    steps: int = 2_000
    units: int = 10
    share: float = 0.9  # of the largest weight that the bound allows, 4/n
    networks: int = 200
    lags: int = 40


SMALL = Settings(weights=41, steps=600, networks=40)


class Result(NamedTuple):
    """Factors of one unit, rates of self-loops, and error flow through networks."""

    settings: Settings
    weights: np.ndarray
    factors: dict[float, np.ndarray]  # activation -> |w σ'(w y)| by weight, from derivatives
    peaks: dict[float, tuple[float, float]]  # activation -> weight and largest factor
    largest_at_4: float  # |w σ'(net)| over many nets at w = 4
    loop_weights: np.ndarray
    loop_rates: np.ndarray
    flow: np.ndarray  # ln max |∂y_i(t)/∂y_j(t-q)|, (networks, lags)
    tight_flow: np.ndarray  # the same for the network that attains the bound


def compute(settings: Settings) -> Result:
    """Differentiate single units, run self-loops, and pull errors through networks."""
    weights = np.linspace(-40, 40, 401)
    activations = [*TABLE, LIMIT]
    factors = {y: np.asarray(_factor(jnp.asarray(weights), y)) for y in activations}
    peaks = {y: _peak(y) for y in [*activations, *np.geomspace(0.05, 1.0, 13).tolist()]}
    nets = np.linspace(-10, 10, 2001)
    at_4 = np.asarray(_factor(jnp.full(nets.size, 4.0), jnp.asarray(nets / 4)))
    loops = np.append(np.linspace(-20, 20, settings.weights), critical_loop()[0])
    flow, tight = _flows(settings)
    return Result(
        settings, weights, factors, peaks, float(at_4.max()), loops,
        _loop_rates(loops, settings.steps), flow, tight,
    )  # fmt: skip


@jax.jit
def _factor(weight: Any, activation: Any) -> Any:
    """Differentiate one step of a unit without bias: |∂y'/∂y| of y' = σ(w y)."""
    step = elman(1, 0, activation="sigmoid").step

    def one(w: Any, y: Any) -> Any:
        params = {"W": jnp.reshape(w, (1, 1)), "b": jnp.zeros(1)}
        chain = jacobian_chain(step, params, jnp.reshape(y, (1,)), length=1)
        return jnp.abs(chain.matrices()[0, 0, 0])

    return jax.vmap(one)(weight, jnp.broadcast_to(jnp.asarray(activation), weight.shape))


def _peak(activation: float) -> tuple[float, float]:
    """Maximize |w σ'(w y)| over w numerically."""

    def negative(w: float) -> float:
        return -w / (2 + 2 * math.cosh(w * activation))

    found: Any = optimize.minimize_scalar(
        negative, bounds=(0.1, 10 / activation), method="bounded", options={"xatol": 1e-10}
    )
    return float(found.x), float(-found.fun)


def _loop_rates(weights: np.ndarray, steps: int) -> np.ndarray:
    """Measure the exponent of y' = σ(w y), after a burn-in of a quarter."""
    step = elman(1, 0, activation="sigmoid").step

    def one(w: Any) -> Any:
        params = {"W": jnp.reshape(w, (1, 1)), "b": jnp.zeros(1)}
        chain = jacobian_chain(step, params, jnp.full(1, 0.4), length=steps)
        return lyapunov_spectrum(chain, burn_in=steps // 4).exponents[0]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(weights)))


def _flows(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Measure the largest entry of every long Jacobian, random networks and the tight one.

    The tight network has all weights at w_max and biases that keep every net input at 0.
    """
    n = settings.units
    largest = settings.share * 4 / n
    step = elman(n, 0, activation="sigmoid").step
    rng = np.random.default_rng(settings.seed)
    W = rng.uniform(-largest, largest, (settings.networks + 1, n, n))
    b = rng.normal(size=(settings.networks + 1, n))
    W[0], b[0] = largest, -n * largest / 2

    def one(W: Any, b: Any) -> Any:
        start = jnp.full(n, 0.5)
        matrices = jacobian_chain(step, {"W": W, "b": b}, start, length=settings.lags).matrices()

        def longer(product: Any, J: Any) -> Any:
            product = jnp.matmul(product, J, precision="highest")
            return product, jnp.log(jnp.max(jnp.abs(product)))

        return jax.lax.scan(longer, jnp.eye(n), matrices[::-1])[1]

    flow = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(W), jnp.asarray(b)))
    return flow[1:], flow[0]


def critical_loop() -> tuple[float, float]:
    """Solve for the negative weight at which the fixed point of y = σ(w y) has factor -1.

    There w y = ln(y/(1 - y)), so the factor w y (1 - y) is -(1 - y) ln((1 - y)/y).
    """
    y = _root(lambda y: (1 - y) * math.log((1 - y) / y) - 1, 0.05, 0.4)
    return math.log(y / (1 - y)) / y, y


def loop_rate(weight: float) -> float:
    """Give the exponent of y' = σ(w y) from its fixed point, or its cycle of two."""

    def step(y: float) -> float:
        return 1 / (1 + math.exp(-weight * y))

    if weight > critical_loop()[0]:
        y = _root(lambda y: step(y) - y, 0.0, 1.0)
        return math.log(abs(weight) * y * (1 - y))
    fixed = _root(lambda y: step(y) - y, 0.0, 1.0)
    # the smaller point of the cycle: step∘step lies above the diagonal to its left
    low = _root(lambda y: step(step(y)) - y, 0.0, fixed * (1 - 1e-4))
    high = step(low)
    return (math.log(weight**2 * low * (1 - low) * high * (1 - high))) / 2


def _root(function: Any, low: float, high: float) -> float:
    result: Any = optimize.brentq(function, low, high, xtol=1e-15)
    return float(result)


def checks(result: Result) -> list[Check]:
    """Compare with Hochreiter's bound, its table, and the exact rates of self-loops."""
    net = _root(lambda u: u * math.tanh(u / 2) - 1, 0.5, 3.0)
    bound = sigmoid_window.largest_self_loop_factor
    found = [
        Check("net*", net, NET, 1e-10, "net* tanh(net*/2) = 1"),
        Check("net* σ'(net*)", float(bound(1.0)), LIMIT, 1e-10, "largest factor times |y|"),
        Check("twice that", 2 * float(bound(1.0)), WINDOW, 1e-10, "Nielsen's widest window"),
        Check("largest factor at |y| = 0.223871602347", float(bound(LIMIT)), 1.0, 1e-10,
              "a loop without bias can explode only below"),
        Check("largest |w σ'| at w = 4", result.largest_at_4, 1.0, 1e-12,
              "σ' ≤ 1/4: below |w| = 4 every unit shrinks the error"),
    ]  # fmt: skip
    for y, expected in TABLE.items():
        found += [
            Check(f"largest factor at y = {y:g}, closed form", float(bound(y)), expected, 1e-10,
                  "net* σ'(net*)/|y|"),
            Check(f"largest factor at y = {y:g}, maximized over w", result.peaks[y][1], expected,
                  1e-10, "net* σ'(net*)/|y|"),
        ]  # fmt: skip
    measured = [np.abs(result.weights) / (2 + 2 * np.cosh(result.weights * y)) - f
                for y, f in result.factors.items()]  # fmt: skip
    found.append(Check("derivative of one step, worst deviation from |w σ'(w y)|",
                       float(np.max(np.abs(measured))), 0.0, 1e-13, "formula"))  # fmt: skip
    return [*found, *_loop_checks(result), *_flow_checks(result)]


def _loop_checks(result: Result) -> list[Check]:
    """Check the rates of self-loops that run freely."""
    weights, steps = result.loop_weights[:-1], result.settings.steps
    # away from w = 0, whose rate is -∞, and from the critical weight, where the approach is slow
    clear = (np.abs(weights - critical_loop()[0]) > 0.5) & (weights != 0)
    exact = np.array([loop_rate(float(w)) for w in weights[clear]])
    deviation = np.abs(result.loop_rates[:-1][clear] - exact)
    largest = float(result.loop_rates.max())
    return [
        Check("self-loops: worst deviation of the rate, nats per step", float(deviation.max()),
              0.0, 1e-6, "root finder: fixed point, or cycle of two below w = -5.87"),
        Check("self-loops: largest rate, or 0 below", max(0.0, largest), 0.0, 0.0,
              "σ(w y) is monotone in y: no chaos"),
        Check("self-loop at the critical weight: rate", float(result.loop_rates[-1]), 0.0,
              3 * math.log(steps) / steps, "factor -1: the gradient decays like a power of time"),
    ]  # fmt: skip


def _flow_checks(result: Result) -> list[Check]:
    """Check the bound on n units, and that one network attains it."""
    s = result.settings
    bound = np.arange(1, s.lags + 1) * math.log(s.share) - math.log(s.units)
    return [
        Check(f"n = {s.units}: error flow above τ^q/n, in nats, or 0 below",
              max(0.0, float(np.max(result.flow - bound))), 0.0, 1e-12,
              "|w| ≤ w_max: n^(q-1) (w_max/4)^q, τ = n w_max/4"),
        Check(f"n = {s.units}: error flow of equal weights at net 0, worst deviation in nats",
              float(np.max(np.abs(result.tight_flow - bound))), 0.0, 1e-12,
              "τ^q/n is attained"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    critical = critical_loop()
    return (
        f"At most {LIMIT:.6f}/|y| without bias, so only activations below {LIMIT:.3f} can amplify; "
        f"left to itself no self-loop does (rates ≤ {result.loop_rates.max():.1e}, closest to 0 "
        f"at w = {critical[0]:.2f}), and {s.units} units with |w| ≤ {s.share * 4 / s.units:.2g} "
        f"pass on at most {s.share:g}^q/{s.units} of an error over q steps."
    )


def draw(result: Result) -> Figure:
    """Draw the factor, its maximum, the rates of self-loops, and the error flow."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_factor(panels[0, 0], result)
        _draw_peaks(panels[0, 1], result)
        _draw_loops(panels[1, 0], result)
        _draw_flow(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_factor(axes: Any, result: Result) -> None:
    """Draw the factor against the weight for several activations."""
    w = np.linspace(0, 20, 500)
    measured = (result.weights >= 0) & (result.weights <= 20)
    for y, color in ((1.0, "gray"), (0.5, "violet"), (0.25, "blue"), (0.2, "red")):
        axes.plot(w, w / (2 + 2 * np.cosh(w * y)), color=plots.COLORS[color], linewidth=1.2)
        axes.plot(result.weights[measured][::5], result.factors[y][measured][::5], "o",
                  color=plots.COLORS[color], markersize=3)  # fmt: skip
        place, height = result.peaks[y]
        axes.plot([place], [height], "D", color="black", markersize=4)
        axes.annotate(f"y = {y:g}", (place, height), xytext=(2, 5), textcoords="offset points",
                      fontsize=8.5, color=plots.COLORS[color])  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlim(0, 20)
    axes.set_ylim(0, 1.3)
    axes.set_xlabel("weight w")
    axes.set_ylabel("factor |w σ'(w y)|")
    axes.set_title("one unit fed by the activation y")


def _draw_peaks(axes: Any, result: Result) -> None:
    """Draw the largest factor against the activation."""
    y = np.geomspace(0.05, 1, 200)
    bound = np.asarray(sigmoid_window.largest_self_loop_factor(y))
    axes.loglog(y, bound, color=plots.COLORS["orange"])
    axes.loglog(list(result.peaks), [peak[1] for peak in result.peaks.values()], "o",
                color=plots.COLORS["orange"], markersize=4)  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.axvspan(0.05, LIMIT, color=plots.COLORS["red"], alpha=0.1, linewidth=0)
    axes.text(0.055, 0.3, f"can amplify:\n|y| < {LIMIT:.4f}", fontsize=8.5)
    axes.text(0.95, 1.4, "always shrinks", fontsize=8.5, ha="right")
    axes.text(0.14, 2.2, "0.22387/|y|", fontsize=8.5, color=plots.COLORS["orange"])
    axes.set_xlim(0.05, 1)
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    axes.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set_xlabel("activation |y| one step before")
    axes.set_ylabel("largest factor over all weights")
    axes.set_title("the bound, and maxima found numerically")


def _draw_loops(axes: Any, result: Result) -> None:
    """Draw the exponent of the self-loop against its weight."""
    critical = critical_loop()[0]
    for low, high in ((-20, critical - 1e-3), (critical + 1e-3, -0.02), (0.02, 20)):
        w = np.linspace(low, high, 300)
        axes.plot(w, [loop_rate(float(v)) for v in w], color=plots.COLORS["blue"], linewidth=1.2)
    axes.plot(result.loop_weights, result.loop_rates, "o", color=plots.COLORS["blue"], markersize=3)
    axes.axhline(0, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.annotate(f"two-cycle below\nw = {critical:.2f}", (critical, 0), xytext=(-19.5, -4.2),
                  fontsize=8.5, arrowprops={"arrowstyle": "-", "linewidth": 0.8})  # fmt: skip
    axes.set_ylim(-6, 0.4)
    axes.set_xlim(-20.5, 20.5)
    axes.set_xlabel("weight w of the self-loop")
    axes.set_ylabel("rate (nats per step)")
    axes.set_title("y' = σ(w y), left to itself")


def _draw_flow(axes: Any, result: Result) -> None:
    """Draw the error flow through networks against the bound."""
    s = result.settings
    q = np.arange(1, s.lags + 1)
    log_tau = math.log10(s.share)
    middle = result.flow.mean(axis=0) / plots.LN10
    spread = result.flow.std(axis=0) / plots.LN10
    axes.errorbar(q[::3], middle[::3], yerr=spread[::3], fmt="o", markersize=3, linewidth=1,
                  color=plots.COLORS["gray"])  # fmt: skip
    axes.plot(q, q * log_tau - math.log10(s.units), color=plots.COLORS["red"])
    axes.plot(q[::3], result.tight_flow[::3] / plots.LN10, "o", color=plots.COLORS["red"],
              markersize=3.5)  # fmt: skip
    axes.text(12, 0.4, "bound $τ^q/n$, attained by equal weights", fontsize=8.5,
              color=plots.COLORS["red"])  # fmt: skip
    axes.text(q[-1] * 0.55, middle[q.size // 2] + 1, f"{s.networks} random networks",
              fontsize=8.5, color=plots.COLORS["gray"])  # fmt: skip
    axes.set_ylim(top=3)
    axes.set_xlabel("steps q")
    axes.set_ylabel("log₁₀ of the largest error flow")
    axes.set_title(f"n = {s.units} units, |w| ≤ {s.share:g} · 4/n")
