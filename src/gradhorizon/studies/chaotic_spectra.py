"""Whole Lyapunov spectra of random rate networks: how many directions grow, and how fast.

τ dx/dt = -x + J tanh x + input, J Gaussian of variance g²/N without autapses (J_ii = 0), by the
Runge-Kutta scheme; the unit of time is τ. The trace of -1 + J D is -N, whatever the state.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import maps
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.studies import _chaotic_rates as flows
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_network

TITLE = "Chaos in random networks is extensive: over i/N, one spectrum for every size N"
QUESTION = "How many directions of a chaotic network's gradient explode, and how many vanish?"
SOURCE = (
    "Engelken, Wolf & Abbott (arXiv:2006.02427), whose findings are quoted in words only; "
    "largest exponent after Sompolinsky, Crisanti & Sommers 1988."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes, gains and strengths of the input, networks for each; times in units of τ."""

    seed: int = 0
    dt: float = 0.1
    gain: float = 4.0
    sizes: list[int] = dataclasses.field(default_factory=lambda: [96, 160, 256])
    networks: list[int] = dataclasses.field(default_factory=lambda: [8, 6, 3])
    gains: list[float] = dataclasses.field(default_factory=lambda: [2.0, 3.0, 6.0])
    strengths: list[float] = dataclasses.field(default_factory=lambda: [1.0, 2.0, 4.0])
    rate_sizes: list[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512])
    rate_networks: list[int] = dataclasses.field(default_factory=lambda: [32, 20, 10, 5])
    silent_gain: float = 0.8
    middle: int = 160
    burn_in: float = 40.0
    duration: float = 120.0


SMALL = Settings(
    sizes=[96],
    networks=[4],
    gains=[1.5],
    strengths=[4.0],
    rate_sizes=[192],
    rate_networks=[4],
    middle=96,
    burn_in=20.0,
    duration=50.0,
)


class Spectra(NamedTuple):
    """Spectra of networks that differ in J only, in units of 1/τ, shapes (networks, …)."""

    exponents: np.ndarray
    errors: np.ndarray
    dimensions: np.ndarray  # value and standard error
    entropies: np.ndarray


class Result(NamedTuple):
    """Spectra by size, by gain and by strength of the input, at the fixed point 0; λ_1 by size."""

    settings: Settings
    sizes: dict[int, Spectra]
    gains: dict[float, Spectra]
    strengths: dict[float, Spectra]
    silent: np.ndarray
    silent_theory: np.ndarray  # Re μ_i - 1, μ_i the eigenvalues of the same J
    rates: dict[int, np.ndarray]  # λ_1 of networks without input, in units of 1/τ


def compute(settings: Settings) -> Result:
    """Run several networks of each kind."""
    s = settings
    sizes = {}
    for n, count in zip(s.sizes, s.networks, strict=True):
        sizes[n] = _spectra(n, s.gain, 0.0, count, s)
    count = s.networks[s.sizes.index(s.middle)]
    gains = {g: _spectra(s.middle, g, 0.0, count, s) for g in s.gains}
    strengths = {v: _spectra(s.middle, s.gain, v, count, s) for v in s.strengths}
    gains[s.gain] = strengths[0.0] = sizes[s.middle]
    J = flows.matrix(s.middle, s.silent_gain, np.random.default_rng(s.seed))
    still = np.zeros((round((s.burn_in + s.duration) / s.dt), s.middle))
    silent = _measure(J, still[0], still, s)[0] / s.dt
    theory = random_network.silent_exponents(np.linalg.eigvals(J), leak=0.0)
    return Result(
        s, sizes, dict(sorted(gains.items())), dict(sorted(strengths.items())),
        silent, np.sort(np.asarray(theory))[::-1], _rates(sizes, s),
    )  # fmt: skip


def _rates(sizes: dict[int, Spectra], s: Settings) -> dict[int, np.ndarray]:
    """Join the largest exponents of the spectra with those of more and larger networks."""
    rates = flows.measured(s)
    for n, spectra in sizes.items():
        rates[n] = np.concatenate([rates.get(n, np.zeros(0)), spectra.exponents[:, 0]])
    return dict(sorted(rates.items()))


def _spectra(size: int, gain: float, strength: float, count: int, s: Settings) -> Spectra:
    """Measure networks that are driven by white noise, held constant over each step."""
    found = []
    for network in range(count):
        generator = np.random.default_rng([s.seed, network])
        J = flows.matrix(size, gain, generator)
        start = generator.standard_normal(size)
        noise = generator.standard_normal((round((s.burn_in + s.duration) / s.dt), size))
        drive = strength / math.sqrt(s.dt) * noise
        found.append(_measure(J, start, drive, s))
    exponents, errors, dimensions, entropies = map(np.array, zip(*found, strict=True))
    return Spectra(exponents / s.dt, errors / s.dt, dimensions, entropies / s.dt)


def _measure(
    J: np.ndarray, start: np.ndarray, drive: np.ndarray, s: Settings
) -> tuple[np.ndarray, ...]:
    """Give exponents, their errors, dimension and entropy rate, per step."""
    chain = jacobian_chain(maps.rk4(flows.field, s.dt), *map(jnp.asarray, (J, start, drive)))
    half = round(s.burn_in / s.dt) // 2
    found = lyapunov_spectrum(chain, state_burn_in=half, burn_in=half)
    both = (found.exponents, found.standard_errors)
    derived = (found.kaplan_yorke_dimension, found.entropy_rate)
    return tuple(np.array(value) for value in (*both, *derived))


def averaged(values: np.ndarray, errors: np.ndarray) -> tuple[Any, Any]:
    """Give the mean over networks and its standard error.

    From the scatter between networks, or within each if that is larger.
    """
    within = np.sqrt(np.mean(np.square(errors), axis=0) / len(values))
    between = np.std(values, axis=0, ddof=1) / math.sqrt(len(values))
    return np.mean(values, axis=0), np.maximum(within, between)


def per_unit(spectra: Spectra, name: str) -> tuple[float, float]:
    """Give the mean dimension or entropy rate over N, with its standard error."""
    mean, error = averaged(*getattr(spectra, name).T)
    n = spectra.exponents.shape[1]
    return float(mean) / n, float(error) / n


def at(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Give each network's values at i/N = `shares`."""
    n = values.shape[-1]
    return np.array([np.interp(shares, (np.arange(n) + 0.5) / n, v) for v in values])


def midpoints(exponents: np.ndarray) -> np.ndarray:
    """Give (λ_i + λ_(N+1-i))/2, all -1 for a spectrum that is point-symmetric about -1/τ."""
    return (exponents + exponents[..., ::-1]) / 2


def checks(result: Result) -> list[Check]:
    """Compare with the exact sums and fixed point, mean field, and what is known in words."""
    return [
        *_exact_checks(result),
        *_rate_checks(result),
        *_extensive_checks(result),
        *_shape_checks(result),
        *_trend_checks(result),
    ]


def _kinds(result: Result) -> list[tuple[str, float, float, Spectra]]:
    """List what was run: label, gain, strength, spectra; each once."""
    s = result.settings
    kinds = [(f"N = {n}, g = {s.gain:g}", s.gain, 0.0, x) for n, x in result.sizes.items()]
    for gain in s.gains:
        kinds.append((f"N = {s.middle}, g = {gain:g}", gain, 0.0, result.gains[gain]))
    for v in s.strengths:
        label = f"N = {s.middle}, g = {s.gain:g}, σ = {v:g}"
        kinds.append((label, s.gain, v, result.strengths[v]))
    return kinds


def _exact_checks(result: Result) -> list[Check]:
    s = result.settings
    found = []
    for label, _, _, spectra in _kinds(result):
        sums = spectra.exponents.mean(axis=1)
        found.append(
            Check(f"{label}: Σ λ_i/N, the network farthest from -1",
                  float(sums[np.argmax(np.abs(sums + 1))]), -1.0, 10 * s.dt**4 / 120,
                  "trace of -1 + J D, exact for the flow; the scheme adds dt⁴/120 for the leak "
                  "alone, allowed is ten times that")
        )  # fmt: skip
    away = result.silent - result.silent_theory
    label = f"N = {s.middle}, g = {s.silent_gain:g}, fixed point 0"
    found += [
        # a pair of eigenvalues turns the frame, and the sum over a part of a turn is left over T
        Check(f"{label}: λ_i, rms distance from Re μ_i - 1", float(np.sqrt(np.mean(away**2))), 0.0,
              2 / s.duration, "eigenvalues μ_i of the same J; O(1/T)"),
        Check(f"{label}: mean of (λ_i + 1)²", float(np.mean((result.silent + 1) ** 2)),
              s.silent_gain**2 / 4, 4 * s.silent_gain**2 * math.sqrt(3) / 2 / s.middle,
              "semicircle of radius g; four standard deviations over all J, √3 g²/2N each"),
    ]  # fmt: skip
    return found


def _rate_checks(result: Result) -> list[Check]:
    s = result.settings
    expected = float(random_network.largest_exponent(s.gain, leak=0.0))
    fit = flows.extrapolated(result.rates, flows.POWER)
    power, error = flows.fitted_power(result.rates, expected)
    freedom = len(result.rates) - 2
    strong, label = max(result.strengths), f"g = {s.gain:g}, N = {min(result.rates)} to "
    label += f"{max(result.rates)}"
    driven, driven_error = averaged(*(x[:, 0] for x in result.strengths[strong][:2]))
    sign = float(np.sign(driven)) * float(abs(driven) > 4 * driven_error)
    theory = random_network.largest_exponent(s.gain, leak=0.0, noise_variance=strong**2)
    return [
        Check(f"{label}: λ_1 at N = ∞, a line in 1/N", fit.limit, expected,
              4 * fit.error, "mean field; four standard errors, from the scatter of networks"),
        Check(f"{label}: χ² of that line", fit.chi2, float(freedom),
              4 * math.sqrt(2 * freedom) + 1e-6,
              f"{freedom} degrees of freedom, standard deviation √(2 × {freedom})"),
        Check(f"{label}: power of 1/N in the distance of λ_1 from mean field", power, flows.POWER,
              4 * error, "fluctuations of size 1/√N enter squared; four standard errors"),
        Check(f"N = {s.middle}, g = {s.gain:g}, σ = {strong:g}: sign of λ_1", sign,
              float(np.sign(theory)), 0.0, "mean field; beyond four standard errors"),
    ]  # fmt: skip


def _extensive_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    last = result.sizes[s.sizes[-1]]
    shares = np.linspace(0.1, 0.9, 9)
    final, final_error = averaged(at(last.exponents, shares), at(last.errors, shares))
    for n in s.sizes[:-1]:
        mean, error = averaged(*(at(x, shares) for x in result.sizes[n][:2]))
        away = mean - final
        worst = int(np.argmax(np.abs(away)))
        allowed = 4 * float(np.hypot(error, final_error)[worst]) + s.gain / n
        found.append(
            Check(f"g = {s.gain:g}: spectra over i/N, N = {n} less N = {s.sizes[-1]}, where "
                  "farthest apart", float(away[worst]), 0.0, allowed,
                  "extensive: one curve as N → ∞; four standard errors and g/N")
        )  # fmt: skip
    return found


def _shape_checks(result: Result) -> list[Check]:
    found = []
    for label, gain, _, spectra in _kinds(result):
        n = spectra.exponents.shape[1]
        middle = midpoints(spectra.exponents).mean(axis=0)
        found.append(
            Check(f"{label}: midpoint of λ_i and λ_(N+1-i), rms distance from -1",
                  float(np.sqrt(np.mean((middle + 1) ** 2))), 0.0, gain / n,
                  "point symmetry about -1/τ as N → ∞; g/N")
        )  # fmt: skip
    return found


def _trend_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for key, name in (("dimensions", "Kaplan-Yorke dimension"), ("entropies", "entropy rate")):
        for n, following in itertools.pairwise(s.sizes):
            (first, a), (final, b) = (per_unit(result.sizes[m], key) for m in (n, following))
            found.append(
                Check(f"{name} per unit, N = {n} less N = {following}", first - final, 0.0,
                      4 * math.hypot(a, b), "extensive; four standard errors")
            )  # fmt: skip
        strong, driven = max(result.strengths), result.strengths
        found.append(
            Check(f"{name}: sign of its change from σ = 0 to {strong:g}",
                  _sign(driven[0.0], driven[strong], key), -1.0, 0.0,
                  "fluctuating input reduces chaos")
        )  # fmt: skip
        low, high = min(result.gains), max(result.gains)
        found.append(
            Check(f"{name}: sign of its change from g = {low:g} to {high:g}",
                  _sign(result.gains[low], result.gains[high], key), 1.0, 0.0,
                  "rises from the onset")
        )  # fmt: skip
    return found


def _sign(first: Spectra, last: Spectra, key: str) -> float:
    """Give the sign of a change of the same networks that passes two standard errors, else 0."""
    (before, a), (after, b) = (getattr(spectra, key).T for spectra in (first, last))
    change, error = averaged(after - before, np.hypot(a, b))
    return float(np.sign(change)) * float(abs(change) > 2 * error)


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    n = s.sizes[-1]
    last = result.sizes[n]
    grow = float(np.mean(np.sum(last.exponents > 0, axis=1)))
    shares = [per_unit(result.sizes[m], "dimensions") for m in s.sizes]
    by_size = ", ".join(f"{v:.3f} ± {e:.3f}" for v, e in shares)
    rates = [per_unit(result.strengths[v], "entropies")[0] for v in result.strengths]
    fit = flows.extrapolated(result.rates, flows.POWER)
    theory = float(random_network.largest_exponent(s.gain, leak=0.0))
    return (
        f"Few explode: at g = {s.gain:g} and N = {n}, {grow:.0f} directions grow and "
        f"{n - grow:.0f} shrink; the mean of all rates is "
        f"{last.exponents.mean():.6f}/τ (exactly -1). The largest rate tends to "
        f"{fit.limit:.3f} ± {fit.error:.3f} as N → ∞ (mean field: {theory:.3f}). "
        f"The dimension per unit is {by_size} at N = "
        f"{', '.join(str(m) for m in s.sizes)}; an input of strength {max(result.strengths):g} "
        f"lowers the entropy rate per unit from {rates[0]:.4f} to {rates[-1]:.4f} nats/τ."
    )


def draw(result: Result) -> Figure:
    """Draw the spectra over i/N, λ_1 over N, and dimension and entropy over gain and input."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_spectra(panels[0, 0], result)
        s = result.settings
        expected = float(random_network.largest_exponent(s.gain, leak=0.0))
        flows.draw(panels[0, 1], result.rates, s.gain, expected)
        still = f"without input, N = {s.middle}"
        _draw_shares(panels[1, 0], result.gains, "gain g", still, result)
        driven = f"input at g = {s.gain:g}, N = {s.middle}"
        _draw_shares(panels[1, 1], result.strengths, "white noise of strength σ", driven, result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


SHADES = [plots.COLORS[c] for c in ("orange", "violet", "blue")]
RED, BLUE, GRAY = (plots.COLORS[c] for c in ("red", "blue", "gray"))


def _draw_spectra(axes: Any, result: Result) -> None:
    s = result.settings
    for row, (n, color) in enumerate(zip(s.sizes, SHADES, strict=False)):
        shares = (np.arange(n) + 0.5) / n
        mean = result.sizes[n].exponents.mean(axis=0)
        axes.plot(shares, mean, "o", color=color, markersize=2.5)
        axes.text(0.97, 0.78 - 0.075 * row, f"N = {n}", transform=axes.transAxes, color=color,
                  fontsize=8, ha="right")  # fmt: skip
        if n == s.sizes[-1]:
            axes.plot(1 - shares, -2 - mean, color="black", linewidth=0.8)
    axes.axhline(0, color=GRAY, linewidth=0.8)
    axes.axhline(-1, color=GRAY, linewidth=0.8, linestyle=(0, (4, 2)))
    turned = f"points: g = {s.gain:g}\nline: N = {s.sizes[-1]} turned\naround (½, −1/τ)"
    axes.text(0.03, 0.05, turned, transform=axes.transAxes, fontsize=7.5)
    axes.set_title("one spectrum for all N")
    axes.set_xlabel("i/N")
    axes.set_ylabel("λᵢ (1/τ)")


def _draw_shares(axes: Any, spectra: Any, label: str, title: str, result: Result) -> None:
    places = list(spectra)
    falls = spectra is result.strengths
    looks = (("dimensions", BLUE, 1, "dimension/N"),
             ("entropies", RED, 10, "10 × entropy rate/N"))  # fmt: skip
    for row, (key, color, factor, text) in enumerate(looks):
        found = np.transpose([per_unit(spectra[p], key) for p in places]) * factor
        axes.errorbar(places, *found, fmt="o-", color=color, markersize=3.5, linewidth=1)
        axes.text(0.98, (0.93 if falls else 0.12) - 0.08 * row, text, transform=axes.transAxes,
                  color=color, fontsize=8, ha="right")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("per unit (entropy: nats/τ)")
