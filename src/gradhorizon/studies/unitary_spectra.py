"""Identity, orthogonal and unitary recurrences: all singular values against lag."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import linalg

from gradhorizon import plots
from gradhorizon.cells import elman, linear, orthogonal_rnn, unitary_rnn
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.studies._study import Check

TITLE = "Orthogonal matrices keep every direction of the gradient; bounded slopes only take away"
QUESTION = "Which recurrent networks keep the gradient in all directions over long lags?"
SOURCE = (
    "Le, Jaitly & Hinton 2015 (identity and ReLU); Arjovsky, Shah & Bengio 2016 (modReLU); "
    "Vorontsov et al. 2017 (bounded singular values); all read second-hand: the bounds follow from "
    "the steps."
)
INPUTS = 4
MARGIN = 0.05  # m: singular values of W in [1 - m, 1 + m]
DRIVE = 0.3  # standard deviation of an input
BIAS = 0.02  # |b| of modReLU


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiment, in JSON's types."""

    seed: int = 0
    size: int = 32
    lags: list[int] = dataclasses.field(default_factory=lambda: [2**i for i in range(10)])


SMALL = Settings(size=16, lags=[1, 64])


class Case(NamedTuple):
    """One network: its spectrum, and what its states say of the determinant."""

    logs: np.ndarray  # ln σ (lags, n)
    resolved: float  # share of the values
    log_det: float  # over the whole chain, from the states; -inf if a unit was ever off
    alive: np.ndarray  # directions that ReLU left on, by lag, counted from the states


class Result(NamedTuple):
    """The networks in the order of the panels."""

    settings: Settings
    cases: dict[str, Case]


IRNN, ORTHOGONAL, MODRELU = "identity + ReLU", "orthogonal, linear", "unitary + modReLU, b < 0"
OUTWARD, GAUSSIAN, BOUNDED = "unitary + modReLU, b > 0", "Gaussian + tanh", "W within 1 ± m, linear"
TANH, UNITARY = "orthogonal + tanh", "unitary + modReLU, b = 0"


def compute(settings: Settings) -> Result:
    """Run the networks on one kind of input, and take the singular values of their Jacobians."""
    s = settings
    xs = DRIVE * np.random.default_rng(s.seed + 1).normal(size=(max(s.lags), INPUTS))
    cases = {}
    for name, (step, params, start) in _networks(s).items():
        chain = jacobian_chain(step, params, start, xs)
        spectrum = singular_spectrum(chain.matrices(), lags=s.lags)
        states = simulate(name, params, start, xs)
        cases[name] = Case(
            np.asarray(spectrum.log_values),
            float(np.mean(np.asarray(spectrum.resolved))),
            _log_det(name, params, states, xs),
            _alive(states, s.lags),
        )
    return Result(s, cases)


def simulate(name: str, params: Any, start: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Run a network in plain NumPy: h_0 … h_T."""
    W, U, b = (np.asarray(params[k]) for k in "WUb")
    states = [start]
    for x in xs:
        total = W @ states[-1]
        if np.iscomplexobj(W):
            total = total + U[: len(W)] @ x + 1j * (U[len(W) :] @ x)
            size = np.abs(total)
            states.append(np.maximum(size + b, 0) * total / size)
            continue
        total = total + U @ x + b
        unit = {IRNN: lambda a: np.maximum(a, 0), TANH: np.tanh, GAUSSIAN: np.tanh}
        states.append(unit.get(name, lambda a: a)(total))
    return np.array(states)


def _networks(settings: Settings) -> dict[str, Any]:
    """Give (step, params, h_0) of every network; all of n real numbers of state."""
    n = settings.size
    rng = np.random.default_rng(settings.seed)
    start = np.abs(rng.normal(size=n))
    first, second = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    incoming = rng.normal(size=(n, INPUTS)) / math.sqrt(INPUTS)
    additive = {"U": incoming, "b": np.zeros(n)}
    gaussian = {"W": rng.normal(size=(n, n)) / math.sqrt(n), **additive}
    bounded = {"W": first @ np.diag(np.exp(_log_stretch(n))) @ second, **additive}
    found = {
        IRNN: (elman(n, INPUTS, activation="relu").step, {"W": np.eye(n), **additive}, start),
        GAUSSIAN: (elman(n, INPUTS).step, gaussian, start),
        BOUNDED: (linear(n, INPUTS).step, bounded, start),
    }
    # both steps take W in place of the skew matrix that it is the exponential of
    skew = rng.normal(size=(n, n)) / math.sqrt(n)
    turning = {"W": linalg.expm(skew - skew.T), **additive}
    for name, activation in ((ORTHOGONAL, "identity"), (TANH, "tanh")):
        found[name] = (orthogonal_rnn(n, INPUTS, activation=activation).step, turning, start)
    half = n // 2
    skew = rng.normal(size=(half, half)) / math.sqrt(half)
    generator = ((skew - skew.T) + 1j * (skew + skew.T)) / math.sqrt(2)
    turning = {"W": linalg.expm(generator), "U": incoming}
    pair = start[:half] + 1j * start[half:]
    for name, bias in ((UNITARY, 0.0), (MODRELU, -BIAS), (OUTWARD, BIAS)):
        step = unitary_rnn(half, INPUTS).step
        found[name] = (step, turning | {"b": np.full(half, bias)}, pair)
    return found


def _log_stretch(size: int) -> np.ndarray:
    """Give ln of singular values 2m (σ(p) - ½) + 1, p evenly spaced."""
    return np.log1p(MARGIN * np.tanh(np.linspace(-3, 3, size)))


def _log_det(name: str, params: Any, states: np.ndarray, xs: np.ndarray) -> float:
    """Give ln |det Φ(T, 0)| from the slopes along the states."""
    steps, W = len(xs), np.asarray(params["W"])
    if name == IRNN:
        return 0.0 if bool(np.all(states[1:] > 0)) else -math.inf
    if name in (GAUSSIAN, TANH):
        slopes = float(np.sum(np.log1p(-(states[1:] ** 2))))
        return slopes + steps * float(np.linalg.slogdet(W)[1])
    if name in (BOUNDED, ORTHOGONAL):
        return steps * float(np.linalg.slogdet(W)[1])
    # modReLU: slope 1 along z, 1 + b/|z| across it
    re, im = np.split(xs @ np.asarray(params["U"]).T, 2, axis=1)
    size = np.abs(states[:-1] @ W.T + re + 1j * im)
    ratios = 1 + np.asarray(params["b"]) / size
    return float(np.sum(np.log(ratios))) if bool(np.all(ratios > 0)) else -math.inf


def _alive(states: np.ndarray, lags: list[int]) -> np.ndarray:
    """Count the units that stayed positive during the last k steps, for every lag k."""
    return np.array([np.sum(np.all(states[len(states) - k :] > 0, axis=0)) for k in lags])


def checks(result: Result) -> list[Check]:
    """Compare with what holds exactly; tolerances are bounds of rounding."""
    s = result.settings
    n, last = s.size, max(s.lags)
    rounding = 60 * n * last * float(np.finfo(float).eps)
    cases, found = result.cases, []
    values = np.exp(cases[IRNN].logs)
    distance = float(np.max(np.minimum(values, np.abs(values - 1))))
    counts = np.sum(values > 0.5, axis=1)
    found += [
        Check(f"{IRNN}: largest distance of a singular value from 0 and 1", distance, 0.0,
              rounding, "J = diag(0 or 1)"),
        Check(f"{IRNN}: directions left at any lag, against units that stayed on, worst",
              float(np.max(np.abs(counts - cases[IRNN].alive))), 0.0, 0.0, "counted in the states"),
    ]  # fmt: skip
    for name in (ORTHOGONAL, UNITARY):
        found.append(Check(f"{name}: largest |ln σ| at any lag",
                           float(np.max(np.abs(cases[name].logs))), 0.0, rounding,
                           "exactly 0"))  # fmt: skip
    for name in (MODRELU, TANH):
        found.append(Check(f"{name}: largest ln σ at any lag, if above 0",
                           max(0.0, float(np.max(cases[name].logs))), 0.0, rounding,
                           "slopes ≤ 1: only vanishing"))  # fmt: skip
    grown = float(cases[OUTWARD].logs[-1, 0])
    found.append(Check(f"{OUTWARD}: the largest σ grows (1: yes)", float(grown > 0.1), 1.0, 0.0,
                       "slopes 1 + b/|z| > 1"))  # fmt: skip
    lags = np.array(s.lags)[:, None]
    low, high = lags * math.log(1 - MARGIN), lags * math.log(1 + MARGIN)
    excess = np.maximum(cases[BOUNDED].logs - high, low - cases[BOUNDED].logs)
    found.append(Check(f"{BOUNDED}: largest violation of (1 ± m)^k, nats",
                       max(0.0, float(excess.max())), 0.0, rounding,
                       "Vorontsov et al. 2017"))  # fmt: skip
    stretch = last * float(np.sum(_log_stretch(n)))
    found.append(Check(f"{BOUNDED}: Σ ln σ", float(cases[BOUNDED].logs[-1].sum()), stretch,
                       n * rounding, "T Σ ln s_i"))  # fmt: skip
    for name in (MODRELU, OUTWARD, TANH, GAUSSIAN):
        case = cases[name]
        total = float(case.logs[-1].sum())
        if not math.isfinite(case.log_det):
            continue
        found.append(Check(f"{name}: Σ ln σ at lag {last}", total, case.log_det,
                           1e-9 * abs(case.log_det), "ln |det| from the slopes"))  # fmt: skip
    resolved = min(case.resolved for case in cases.values())
    found.append(Check("share of singular values resolved, least", resolved, 1.0, 0.0, "exact"))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    last, n = max(result.settings.lags), result.settings.size
    left = {
        name: int(np.sum(case.logs[-1] >= math.log(1e-3))) for name, case in result.cases.items()
    }
    return (
        f"Linear orthogonal and unitary ones keep all {n} directions at any lag; of those within a "
        f"factor 10³, {left[MODRELU]} are left at lag {last} with modReLU and b < 0, "
        f"{left[IRNN]} with the identity and ReLU, {left[TANH]} with an orthogonal matrix and "
        f"tanh, {left[GAUSSIAN]} with a Gaussian one."
    )


PANELS = ((IRNN, ORTHOGONAL, BOUNDED), (MODRELU, TANH, GAUSSIAN))


def draw(result: Result) -> Figure:
    """Draw all singular values of six networks against lag, with their bounds."""
    figure, panels = plots.new_figure(8.4, 5.6, nrows=2, ncols=3, sharex=True)
    with plots.style():
        for row, names in zip(panels, PANELS, strict=True):
            for axes, name in zip(row, names, strict=True):
                _draw_case(axes, result, name)
        for axes in panels[1]:
            axes.set_xlabel("lag k (steps)")
        panels[0, 0].set_ylabel("σ (0 or 1)")
        for axes in panels[0, 1:]:
            axes.set_ylabel("log₁₀ σ")
        panels[1, 0].set_ylabel("log₁₀ σ (lowest row: 10⁻¹⁶ or less)")
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


FLOOR = -16.0  # decades; smaller values are drawn here
NOTES = {
    ORTHOGONAL: (0.5, 0.62, "all exactly 1"),
    BOUNDED: (0.04, 0.88, f"lines: (1 ± m)ᵏ, m = {MARGIN:g}"),
    MODRELU: (0.04, 0.1, f"cannot exceed 1 (b = −{BIAS:g})"),
    TANH: (0.04, 0.1, "cannot exceed 1"),
    GAUSSIAN: (0.3, 0.92, "spreads from the first step"),
    IRNN: (0.04, 0.14, "the others are exactly 0"),
}


def _draw_case(axes: Any, result: Result, name: str) -> None:
    """Draw the singular values of one network, and the lines that they cannot cross."""
    s, case = result.settings, result.cases[name]
    lags = np.array(s.lags)
    reach = 1.15 * max(s.lags) * math.log10(1 + MARGIN)
    limits = {IRNN: (-2, 1), ORTHOGONAL: (-2, 2), BOUNDED: (-reach, reach)}
    bottom, top = limits.get(name, (FLOOR, 2))
    decades = np.maximum(case.logs / plots.LN10, bottom)
    color = plots.COLORS["olive" if name in PANELS[0] else "blue"]
    axes.plot(np.repeat(lags, s.size), decades.ravel(), "o", color=color, markersize=2.5,
              alpha=0.6)  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.9, zorder=0)
    if name == BOUNDED:
        grid = np.geomspace(1, lags[-1], 200)
        for bound in (1 - MARGIN, 1 + MARGIN):
            axes.plot(grid, grid * math.log10(bound), color="black", linewidth=0.9)
    if name == IRNN:
        for lag, count in zip(lags, case.alive, strict=True):
            axes.annotate(str(int(count)), (lag, 0), xytext=(0, 5), textcoords="offset points",
                          ha="center", fontsize=7.5)  # fmt: skip
        axes.text(0.04, 0.86, f"directions left, of {s.size}:", transform=axes.transAxes,
                  fontsize=8)  # fmt: skip
        axes.set_yticks([bottom, 0], ["0", "1"])
    x, y, text = NOTES[name]
    axes.text(x, y, text, transform=axes.transAxes, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.68, lags[-1] * 1.25)
    axes.set_ylim(bottom - 0.03 * (top - bottom), top)
    axes.set_title(name, fontsize=9)
