"""All steps of a recurrent network solved at once: conditioned as its gradient grows.

h_t = f(h_{t-1}), t = 1 … T, is one system of equations. Its Jacobian has the identity on the
diagonal and -J_t below; the inverse holds the long Jacobians Φ(t, s). Newton's iteration on it
("DEER") needs few rounds when they decay, and a fixed share of T when they grow.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import special

from gradhorizon import plots
from gradhorizon.studies import _parallel_newton as solver
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds

TITLE = "Solving all time steps at once pays only where gradients vanish: λ₁ < 0"
QUESTION = "When can a recurrent network be evaluated in parallel over time?"
SOURCE = (
    "Gonzalez et al. 2025, Predictability enables parallelization of nonlinear state space models "
    "(arXiv:2508.16817), theorem 2; Lim et al. 2024, DEER (arXiv:2309.12252)."
)
# smallest singular value, lower and upper bound of the chain h_t = a h_{t-1}, T = 40
SCALAR = {
    0.5: (0.502789163, 0.5, 1.0),
    1.0: (0.038782663544, 0.025, 1.0),
    1.1: (0.004230816512, 0.002259414414, 0.024304420967),
    1.5: (7.536477e-8, 4.521887e-8, 1.356566e-7),
}
STEPS = 40


@dataclasses.dataclass(frozen=True)
class Settings:
    """Networks x' = W tanh x + input, W Gaussian of variance g²/D with a zero diagonal.

    The first two lengths are to stand in the ratio of the last two. `noise` is the variance of
    the white input of the driven networks.
    """

    seed: int = 0
    size: int = 100
    gains: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 0.8, 1.1, 1.3, 1.5, 1.7, 2.0, 2.5]
    )
    noise: float = 0.5
    driven_gains: list[float] = dataclasses.field(default_factory=lambda: [1.0, 1.3, 1.6, 1.9, 2.3])
    networks: int = 3
    lengths: list[int] = dataclasses.field(default_factory=lambda: [30, 100, 300, 1000])
    tolerance: float = 1e-10
    exponent_steps: int = 2000
    burn_in: int = 3000
    pairs: int = 5
    points: int = 41


SMALL = Settings(
    size=32, gains=[0.6, 3.0], driven_gains=[1.0, 3.5], networks=2, lengths=[20, 60, 120, 360],
    exponent_steps=600, burn_in=300, pairs=5, points=5,
)  # fmt: skip


class Result(NamedTuple):
    """Scalar chains, and networks."""

    settings: Settings
    factors: np.ndarray
    scalar: np.ndarray  # measured ln √μ of the factors
    networks: list[solver.Network]


def compute(settings: Settings) -> Result:
    """Decompose scalar chains; solve, and condition, random networks."""
    s = settings
    factors = np.unique(np.concatenate([np.linspace(0.4, 1.6, s.points), list(SCALAR)]))
    scalar = np.log([solver.smallest_of_scalar(a, STEPS) for a in factors])
    kinds = [(g, 0.0) for g in s.gains] + [(g, s.noise) for g in s.driven_gains]
    networks = [
        solver.measured(np.random.default_rng([s.seed, i]), gain, noise, s)
        for gain, noise in kinds
        for i in range(s.networks)
    ]
    return Result(s, factors, scalar, networks)


def checks(result: Result) -> list[Check]:
    """Compare with closed forms, the theorem and the sign of the exponents."""
    return [
        *_scalar_checks(result),
        *_theorem_checks(result),
        *_growth_checks(result),
        *_rounding_checks(result),
    ]


def _scalar_checks(result: Result) -> list[Check]:
    found = []
    for factor, (smallest, lower, upper) in SCALAR.items():
        value = math.exp(result.scalar[np.searchsorted(result.factors, factor)])
        both = bounds.conditioning(math.log(factor), STEPS)
        source = "arXiv:2508.16817, theorem 2, a = b = 1"
        label = f"scalar chain, a = {factor:g}, T = {STEPS}"
        found += [
            Check(f"{label}: √μ", value, smallest, 1e-6 * smallest, "singular values"),
            Check(f"{label}: lower bound", math.exp(both.log_lower), lower, 1e-6 * lower, source),
            Check(f"{label}: upper bound", math.exp(both.log_upper), upper, 1e-6 * upper, source),
        ]  # fmt: skip
    exact = closed_form(result.factors)
    one = math.exp(result.scalar[np.searchsorted(result.factors, 1.0)])
    return [
        *found,
        Check("scalar chain, a = 1: √μ", one, 2 * math.sin(math.pi / (2 * (2 * STEPS + 1))), 1e-12,
              "2 sin(π/(2(2T + 1)))"),
        Check("scalar chains: ln √μ, worst deviation from the closed form",
              float(np.max(np.abs(result.scalar - exact))), 0.0, 1e-10, "docs/derivations.md"),
    ]  # fmt: skip


def closed_form(factors: np.ndarray) -> np.ndarray:
    """Give ln √μ of scalar chains exactly."""
    return np.asarray(
        jax.vmap(lambda a: bounds.scalar_conditioning(a, STEPS))(jnp.asarray(factors))
    )


def _theorem_checks(result: Result) -> list[Check]:
    s, networks = result.settings, result.networks
    outside = [max(n.sandwich[0] - n.sandwich[1], n.sandwich[1] - n.sandwich[2]) for n in networks]
    lanczos = [abs(n.lanczos - n.sandwich[1]) for n in networks]
    grown = [float(n.log_smallest[-1]) + n.log_gradient for n in networks]
    other = [abs(int(n.rounds[s.lengths[0] - 1]) - n.alone) for n in networks]
    return [
        Check(f"networks, T = {s.pairs}: largest violation of the theorem's bounds on ln √μ",
              max(0.0, *outside), 0.0, 1e-10, "theorem 2 with a, b of all products"),
        Check(f"networks, T = {s.pairs}: ln √μ by Lanczos against a dense decomposition, worst",
              max(lanczos), 0.0, 1e-6, "two algorithms"),
        Check("networks: largest violation of √μ ≤ 1/(growth of a gradient), in ln",
              max(0.0, *grown), 0.0, 1e-6, "‖L⁻¹‖ is at least the norm of each block Φ(t, s)"),
        Check("Newton's solution: worst distance from the sequential one, in units of residual/√μ",
              max(n.deviation for n in networks), 0.0, 1.0, "‖L⁻¹‖ = 1/√μ"),
        Check(f"rounds for T = {s.lengths[0]}: alone less as a part of T = {s.lengths[-1]}, worst",
              float(max(other)), 0.0, 0.0, "early steps know nothing of later ones"),
        Check("largest violation of rounds ≤ T",
              float(max(0, *(np.max(n.rounds - np.arange(1, n.rounds.size + 1))
                             for n in networks))), 0.0, 0.0,
              "each round makes at least one more step exact"),
    ]  # fmt: skip


def decided(result: Result, sign: int) -> list[solver.Network]:
    """Give the networks whose products over T leave the solver's tolerance behind, by sign of λ₁.

    |λ₁| T > ln(1/tolerance) at the last length but one, and |λ₁| above four standard errors.
    """
    s = result.settings
    scale = -math.log(s.tolerance) / s.lengths[-2]
    return [n for n in result.networks if sign * n.exponent > max(scale, 4 * n.error)]


def power(network: solver.Network, s: Settings) -> float:
    """Give the power of T in the number of rounds between the last two lengths."""
    first, last = s.lengths[-2:]
    return math.log(network.rounds[last - 1] / network.rounds[first - 1]) / math.log(last / first)


def averaged(values: Any) -> tuple[float, float]:
    """Give mean and standard error over networks."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def allowance(values: Any) -> float:
    """Give four standard errors of the mean, more for few networks: Student's t at that level."""
    degrees = len(values) - 1
    return averaged(values)[1] * -float(special.stdtrit(degrees, special.ndtr(-4.0)))


def line(network: solver.Network, s: Settings) -> tuple[float, float]:
    """Fit a line to the rounds from the second length on: rounds per step, and rounds at t = 0."""
    steps = np.arange(s.lengths[1], s.lengths[-1] + 1)
    slope, offset = np.polyfit(steps, network.rounds[steps - 1], 1)
    return float(slope), float(offset)


def _growth_checks(result: Result) -> list[Check]:
    s = result.settings
    stable, chaotic = decided(result, -1), decided(result, 1)
    a, b, c, d = (length - 1 for length in s.lengths)
    half = (b + d) // 2
    added = [(n.rounds[d] - n.rounds[c]) - (n.rounds[b] - n.rounds[a]) for n in stable]
    ratios = [(n.rounds[d] - n.rounds[half]) / (n.rounds[half] - n.rounds[b]) for n in chaotic]
    powers = [power(n, s) for n in chaotic]
    wrong = sum((power(n, s) > 0.5) != (n.exponent > 0) for n in stable + chaotic)
    falls = [-(n.log_smallest[-1] - n.log_smallest[-2]) / (d - c) - n.exponent for n in chaotic]
    low, high = f"{len(stable)} networks of λ₁ < 0", f"{len(chaotic)} networks of λ₁ > 0"
    between, errors = f"T = {s.lengths[-2]} to {s.lengths[-1]}", "four standard errors"
    return [
        Check(f"networks decided by T = {s.lengths[-2]}: how many take rounds that grow faster "
              "than √T though λ₁ < 0, or slower though λ₁ > 0", float(wrong), 0.0, 0.0,
              "the jump at λ₁ = 0, Fig. 2 of the source"),
        Check(f"{low}: rounds added, {between}, less those added from T = {s.lengths[0]} to "
              f"{s.lengths[1]}, if positive", max(averaged(added)[0], 0.0), 0.0, allowance(added),
              f"no faster than ln T; {errors}"),
        Check(f"{high}: rounds added, T = {half + 1} to {s.lengths[-1]}, over those added from "
              f"T = {s.lengths[1]} to {half + 1}", averaged(ratios)[0], 1.0, allowance(ratios),
              f"a line in T; {errors}"),
        Check(f"{high}: power of T in the number of rounds, {between}", averaged(powers)[0], 1.0,
              allowance(powers), f"in proportion to T; {errors}"),
        Check(f"{high}: fall of ln √μ per step, {between}, less λ₁", averaged(falls)[0], 0.0,
              allowance(falls), f"theorem 2: both bounds fall as e^(-λT); {errors}"),
    ]  # fmt: skip


def _rounding_checks(result: Result) -> list[Check]:
    s = result.settings
    broken = [(n, *breaks(n, s)) for n in decided(result, 1)]
    last, tail = s.lengths[-1], s.lengths[-1] // 10
    late = [(n, found / expected) for n, found, expected in broken if expected < last - 2 * tail]
    slopes = [(n.plain[last - 1] - n.plain[last - tail - 1]) / tail for n, _ in late]
    ratios = [ratio for _, ratio in late]
    if len(late) < 2:  # sequences too short for it
        return []
    errors = "four standard errors"
    return [
        Check(f"solved steps computed anew: rounds per step over the last {tail}, {len(late)} "
              "networks", averaged(slopes)[0], 1.0, allowance(slopes),
              f"one more step is reproduced to the last bit in each round; {errors}"),
        Check(f"solved steps computed anew: T from which that is so, over ln(√tolerance/eps)/"
              f"(λ₁(1 - rounds per step)), {len(late)} networks", averaged(ratios)[0], 1.0,
              allowance(ratios), f"a rounding error that grew to √tolerance; {errors}"),
    ]  # fmt: skip


def breaks(network: solver.Network, s: Settings) -> tuple[float, float]:
    """Give the length from which rounding costs a round for each step: measured, expected.

    The steps that are reproduced to the last bit, one more in each round, fall behind those that
    are solved; once eps e^(λ lag) reaches √tolerance, which the next round would square, they lead.
    """
    slope, offset = line(network, s)
    last = s.lengths[-1]
    found = (last + offset - network.plain[last - 1]) / (1 - slope)
    digits = math.log(math.sqrt(s.tolerance) / np.finfo(float).eps)
    return found, digits / (network.exponent * (1 - slope))


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    stable, chaotic = decided(result, -1), decided(result, 1)
    powers, error = averaged([power(n, s) for n in chaotic])
    most = max(n.rounds[-1] for n in stable)
    few, many = (f(n.rounds[-1] for n in chaotic) for f in (min, max))
    text = (
        f"Only while gradients vanish: {len(stable)} networks with λ₁ < 0 are solved over "
        f"{s.lengths[-1]} steps in at most {most} rounds of Newton's method, {len(chaotic)} with "
        f"λ₁ > 0 in {few} to {many}, in proportion to T^p with p = {powers:.3f} ± {error:.3f}."
    )
    several = slow_though_stable(result)
    if several:
        slowest = max(several, key=lambda n: n.rounds[-1])
        text += (
            f" λ₁ < 0 alone is not enough: {len(several)} networks without input, in which several "
            f"orbits attract (-h as well as h), take up to {slowest.rounds[-1]} (λ₁ = "
            f"{slowest.exponent:.3f}, √μ = 10^{slowest.log_smallest[-1] / plots.LN10:.1f})."
        )
    return text


def slow_though_stable(result: Result) -> list[solver.Network]:
    """Give the networks whose rounds grow faster than √T though their products vanish over T."""
    s = result.settings
    edge = math.log(s.tolerance) / s.lengths[-1]
    return [n for n in result.networks if n.exponent < edge and power(n, s) > 0.5]


def draw(result: Result) -> Figure:
    """Draw the conditioning of scalar chains and of networks, and Newton's rounds."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_scalar(panels[0, 0], result)
        _draw_conditioning(panels[0, 1], result)
        _draw_rounds(panels[1, 0], result)
        _draw_lengths(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


SHADES = [plots.COLORS[c] for c in ("blue", "olive", "violet", "red")]
GRAY = plots.COLORS["gray"]


def _draw_scalar(axes: Any, result: Result) -> None:
    logs = np.log(result.factors)
    both = jax.vmap(lambda rate: bounds.conditioning(rate, STEPS))(jnp.asarray(logs))
    lower, upper = (np.exp(np.asarray(bound)) for bound in both)
    axes.fill_between(result.factors, lower, upper, color=plots.COLORS["olive"], alpha=0.25,
                      linewidth=0)  # fmt: skip
    axes.semilogy(result.factors, np.exp(closed_form(result.factors)), color=plots.COLORS["blue"])
    axes.plot(result.factors, np.exp(result.scalar), "o", color=plots.COLORS["blue"], markersize=3)
    axes.axvline(1, color=GRAY, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(0.4, 1e-5, "band: theorem\nline: closed form\npoints: measured", fontsize=7.5,
              va="top")  # fmt: skip
    axes.set_ylim(1e-9, 3)
    axes.set_title(f"hₜ = a hₜ₋₁, {STEPS} steps")
    axes.set_xlabel("factor a = exp λ")
    axes.set_ylabel("smallest singular value √μ")


def _by_exponent(axes: Any, result: Result, values: np.ndarray) -> None:
    """Draw values (networks, lengths) over the networks' exponents: every network a point."""
    places = np.array([n.exponent for n in result.networks])
    errors = np.array([n.error for n in result.networks])
    driven = np.array([n.driven for n in result.networks])
    for column, color in zip(range(values.shape[1]), SHADES, strict=False):
        for chosen, face in ((~driven, color), (driven, "white")):
            axes.errorbar(places[chosen], values[chosen, column], xerr=errors[chosen], fmt="o",
                          color=color, markerfacecolor=face, markersize=3.2, linewidth=0.7,
                          markeredgewidth=0.8)  # fmt: skip
    axes.axvline(0, color=GRAY, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlabel("λ₁ of the network (nats per step)")


def _draw_conditioning(axes: Any, result: Result) -> None:
    s = result.settings
    values = np.array([n.log_smallest for n in result.networks])
    places = [n.exponent for n in result.networks]
    low, high = min(places), max(places)
    axes.plot([low, 0, high], [0, 0, high], color="black", linewidth=1)
    _by_exponent(axes, result, -values / np.array(s.lengths))
    axes.text(0.03, 0.42, "line: T → ∞\nfilled: no input\nopen: white input",
              transform=axes.transAxes, fontsize=7.5)  # fmt: skip
    for row, (length, color) in enumerate(zip(s.lengths, SHADES, strict=False)):
        axes.text(0.03, 0.9 - 0.075 * row, f"T = {length}", transform=axes.transAxes, color=color,
                  fontsize=8)  # fmt: skip
    axes.set_title(f"random tanh networks, N = {s.size}")
    axes.set_ylabel("−ln √μ / T (nats per step)")


def _draw_rounds(axes: Any, result: Result) -> None:
    s = result.settings
    values = np.array([[n.rounds[t - 1] for t in s.lengths] for n in result.networks], dtype=float)
    _by_exponent(axes, result, values)
    last = int(np.argmax([n.exponent for n in result.networks]))
    for length, value, color in zip(s.lengths, values[last], SHADES, strict=False):
        axes.annotate(f"T = {length}", (result.networks[last].exponent, value), xytext=(7, 0),
                      textcoords="offset points", va="center", color=color, fontsize=8,
                      annotation_clip=False)  # fmt: skip
    several = slow_though_stable(result)
    if several:
        slowest = max(several, key=lambda n: n.rounds[-1])
        place = (slowest.exponent, slowest.rounds[-1])
        axes.annotate("λ₁ < 0, no input,\nseveral attracting orbits", place,
                      xytext=(-18, 8), textcoords="offset points", ha="right", fontsize=7.5,
                      arrowprops={"arrowstyle": "-", "linewidth": 0.7})  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(1, 1.6 * s.lengths[-1])
    axes.set_title("rounds of Newton's method: a jump at λ₁ = 0")
    axes.set_ylabel("rounds until solved")


def _draw_lengths(axes: Any, result: Result) -> None:
    """Draw the rounds over T on both sides, and what rounding costs if no step is kept."""
    s = result.settings
    steps = np.arange(1, s.lengths[-1] + 1)
    axes.plot(steps, steps, color="black", linewidth=1)
    for n in decided(result, 1):
        axes.plot(steps, n.plain, color=GRAY, linewidth=0.7, linestyle=(0, (3, 1)))
        axes.plot(steps, n.rounds, color=plots.COLORS["red"], linewidth=0.9)
    for n in slow_though_stable(result):
        axes.plot(steps, n.rounds, color=plots.COLORS["violet"], linewidth=0.9)
    for n in decided(result, -1):
        axes.plot(steps, n.rounds, color=plots.COLORS["blue"], linewidth=0.9)
    words = (
        ("as many as steps", "black"),
        ("λ₁ > 0, solved steps computed anew", GRAY),
        ("λ₁ > 0, solved steps kept", plots.COLORS["red"]),
        ("λ₁ < 0, several attracting orbits", plots.COLORS["violet"]),
        ("λ₁ < 0", plots.COLORS["blue"]),
    )
    for row, (text, color) in enumerate(words):
        axes.text(0.03, 0.93 - 0.075 * row, text, transform=axes.transAxes, color=color,
                  fontsize=7.5)  # fmt: skip
    axes.set_xlim(0, s.lengths[-1])
    axes.set_ylim(-0.01 * s.lengths[-1], s.lengths[-1])
    axes.set_title("rounds over the length of the sequence")
    axes.set_xlabel("steps T")
    axes.set_ylabel("rounds until solved")
