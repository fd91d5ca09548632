"""The ring of the LRU: how eigenvalues spread over a ring set how far its gradient reaches."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells.state_space import lru
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.studies._study import Check

TITLE = "LRU: a ring of eigenvalues gives the gradient a power law, not one horizon"
QUESTION = "What does the ring initialization of the LRU do to the gradient?"
SOURCE = (
    "Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu & De, ICML 2023, section 3: lemma 3.2 (the "
    "ring), normalization γ."
)
RINGS = {"whole disc": (0.0, 1.0), "0.9 to 0.999": (0.9, 0.999), "0.99 to 1": (0.99, 1.0)}
COLORS = {"whole disc": "blue", "0.9 to 0.999": "orange", "0.99 to 1": "violet"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    units: int = 4096  # complex ones, of the network whose gradient is followed
    lag: int = 3000
    small: int = 24  # of the network whose exponents are measured
    steps: int = 240
    inputs: int = 4
    pulse: int = 1000  # steps after an impulse
    threshold: float = 1e-3


SMALL = Settings(units=512, lag=400, small=12, steps=64, pulse=300)


class Ring(NamedTuple):
    """What was measured on one ring."""

    eigenvalues: np.ndarray  # of the large network
    by_lag: np.ndarray  # ln of its gradient's size at lag 0 … K, relative to lag 0
    exact: np.ndarray  # ln |λ| of the small network, descending
    exponents: np.ndarray  # measured by QR, each pair once
    alive: dict[int, int]  # lag -> complex directions above ε in the small network
    energies: np.ndarray  # of the impulse response, relative to ‖B_i‖² (1 - |λ|^2t)


class Result(NamedTuple):
    """All rings."""

    settings: Settings
    rings: dict[str, Ring]


def compute(settings: Settings) -> Result:
    """Measure gradient, exponents and state variance on three rings."""
    keys = jax.random.split(jax.random.key(settings.seed), len(RINGS))
    rings = {name: _ring(k, name, settings) for k, name in zip(keys, RINGS, strict=True)}
    return Result(settings, rings)


def _ring(key: Any, name: str, s: Settings) -> Ring:
    low, high = RINGS[name]
    keys = jax.random.split(key, 4)
    large = lru(s.units, 0, r_min=low, r_max=high)
    params = large.init(keys[0])
    chain = jacobian_chain(large.step, params, large.initial_state(), length=s.lag)
    cotangent = jax.random.normal(keys[1], (s.units,), large.initial_state().dtype)
    one = jnp.ones_like(cotangent)
    cell = lru(s.small, s.inputs, r_min=low, r_max=high)
    own = cell.init(keys[2])
    xs = jax.random.normal(keys[3], (s.steps, s.inputs))
    spread = jacobian_chain(cell.step, own, cell.initial_state(), xs)
    lags = (s.steps // 16, s.steps // 4, s.steps)
    counts = singular_spectrum(spread, lags=lags).pairs().values >= math.log(s.threshold)
    return Ring(
        eigenvalues=np.asarray(large.step(params, one, None)),
        by_lag=np.asarray(backpropagate(chain, cotangent).by_lag),
        exact=np.sort(-np.exp(np.asarray(own["nu"])))[::-1],
        exponents=np.asarray(lyapunov_spectrum(spread).pairs().values),
        alive={k: int(c) for k, c in zip(lags, np.sum(np.asarray(counts), axis=1), strict=True)},
        energies=_energies(cell, own, s),
    )


def _energies(cell: Any, params: Any, s: Settings) -> np.ndarray:
    """Give Σ_t |h_t|² after a unit impulse on each input, which is the variance for white inputs.

    Relative to what it must be after so many steps: 1 where γ² = 1 - |λ|².
    """
    energy = np.zeros(s.small)
    for channel in range(s.inputs):
        impulse = jnp.zeros((s.pulse, s.inputs)).at[0, channel].set(1.0)
        states = unroll(cell.step, params, cell.initial_state(), impulse).states[1:]
        energy = energy + np.sum(np.abs(np.asarray(states)) ** 2, axis=0)
    size = np.sum(np.asarray(params["B_re"]) ** 2 + np.asarray(params["B_im"]) ** 2, axis=1)
    return energy / size / -np.expm1(-2 * s.pulse * np.exp(np.asarray(params["nu"])))


def mean_square(name: str, lags: np.ndarray) -> np.ndarray:
    """Give E|λ|^2k for |λ|² uniform on the ring: (b^(k+1) - a^(k+1))/((k+1)(b - a))."""
    low, high = (r**2 for r in RINGS[name])
    powers = lags + 1.0
    return (high**powers - low**powers) / (powers * (high - low))


def share_alive(name: str, lag: int, threshold: float) -> float:
    """Give the probability that |λ|^k ≥ ε."""
    low, high = (r**2 for r in RINGS[name])
    return min(max((high - threshold ** (2 / lag)) / (high - low), 0.0), 1.0)


def quantiles(name: str, count: int) -> np.ndarray:
    """Give ln|λ| at the ranks (i - 1/2)/count of the ring, descending."""
    low, high = (r**2 for r in RINGS[name])
    return np.log(high - (high - low) * (np.arange(count) + 0.5) / count) / 2


def checks(result: Result) -> list[Check]:
    """Compare with the ring's distribution, its moments, and the closed-form exponents."""
    found: list[Check] = []
    for name, ring in result.rings.items():
        found += _ring_checks(name, ring, result.settings)
    return found


def _ring_checks(name: str, ring: Ring, s: Settings) -> list[Check]:
    low, high = RINGS[name]
    square = (np.abs(ring.eigenvalues) ** 2 - low**2) / (high**2 - low**2)
    phases = np.angle(ring.eigenvalues) / (2 * math.pi) % 1
    critical = 1.628 / math.sqrt(s.units)  # of the Kolmogorov-Smirnov distance, at 1 %
    found = [
        Check(f"{name}: distance of |λ|² from uniform", _distance(square), 0.0, critical,
              "Kolmogorov-Smirnov, p > 0.01"),
        Check(f"{name}: distance of the phase from uniform", _distance(phases), 0.0, critical,
              "Kolmogorov-Smirnov, p > 0.01"),
        Check(f"{name}: exponents against ln|λ|, worst",
              float(np.max(np.abs(ring.exponents - ring.exact))), 0.0, 1e-12, "exact"),
    ]  # fmt: skip
    found.append(
        Check(f"{name}: state variance for white inputs, worst deviation",
              float(np.max(np.abs(ring.energies - 1))), 0.0, 1e-10, "γ = √(1 - |λ|²)")
    )  # fmt: skip
    for lag in (10, 100, s.lag):
        second = float(mean_square(name, np.array([2.0 * lag]))[0])
        first = float(mean_square(name, np.array([float(lag)]))[0])
        # |δ_i|² of a complex Gaussian loss is exponential, and normalized by its mean
        spread = math.sqrt(2 * max(second - first**2, 0) / s.units)
        if spread < first / 5:  # enough units are left for a mean
            value = math.exp(2 * float(ring.by_lag[lag]))
            found.append(Check(f"{name}: squared gradient at lag {lag}", value, first, 4 * spread,
                               "E|λ|^2k; four standard errors"))  # fmt: skip
    for lag, count in ring.alive.items():
        share = share_alive(name, lag, s.threshold)
        error = 4 * math.sqrt(share * (1 - share) / s.small)
        found.append(Check(f"{name}: share alive at lag {lag}", count / s.small, share, error,
                           "P(|λ|^k ≥ ε); four standard errors"))  # fmt: skip
    return found


def _distance(sample: np.ndarray) -> float:
    """Give the largest distance of the empirical distribution from the uniform one."""
    ranks = np.arange(sample.size) / sample.size
    ordered = np.sort(sample)
    return float(max(np.max(ordered - ranks), np.max(ranks + 1 / sample.size - ordered)))


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s, parts = result.settings, []
    for name, ring in result.rings.items():
        parts.append(f"{math.exp(ring.by_lag[s.lag]):.2g} ({name})")
    worst = max(float(np.max(np.abs(r.exponents - r.exact))) for r in result.rings.values())
    typical = -1 / float(np.median(np.log(np.abs(result.rings["whole disc"].eigenvalues))))
    return (
        f"Each unit has its own horizon, and the sum of many exponentials is a power law: over the "
        f"whole disc the gradient falls like 1/√(k + 1), although the median unit forgets in "
        f"{typical:.2g} steps. At lag {s.lag} it is {', '.join(parts)} of its size; exponents "
        f"measured by QR are ln|λ| within {worst:.0e}."
    )


def draw(result: Result) -> Figure:
    """Draw the rings, the exponents, and the gradient against lag."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=3)
    with plots.style():
        _draw_rings(panels[0], result)
        _draw_exponents(panels[1], result)
        _draw_gradient(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_rings(axes: Any, result: Result) -> None:
    """Draw 250 eigenvalues of two rings in the unit disc, and the circle."""
    angle = np.linspace(0, 2 * np.pi, 256)
    axes.plot(np.cos(angle), np.sin(angle), color=plots.COLORS["gray"], linewidth=0.8)
    for name in ("whole disc", "0.9 to 0.999"):
        values = result.rings[name].eigenvalues[:250]
        axes.plot(
            np.real(values), np.imag(values), "o", color=plots.COLORS[COLORS[name]], markersize=2
        )
    axes.set_aspect("equal")
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.set_xlabel("Re λ")
    axes.set_ylabel("Im λ")
    axes.set_title("|λ|² uniform on a ring")


def _draw_exponents(axes: Any, result: Result) -> None:
    """Draw measured exponents by rank inside their exact values, and what the ring expects."""
    for name, ring in result.rings.items():
        color, count = plots.COLORS[COLORS[name]], ring.exponents.size
        ranks = np.arange(1, count + 1)
        axes.semilogy(ranks, -quantiles(name, count), color=color, linewidth=1)
        axes.semilogy(ranks, -ring.exact, "o", color="none", markeredgecolor="black",
                      markeredgewidth=0.5, markersize=5)  # fmt: skip
        axes.semilogy(ranks, -ring.exponents, "o", color=color, markersize=2.5)
    axes.set_ylim(top=4)
    axes.invert_yaxis()
    axes.set_xlabel("rank i")
    axes.set_ylabel("−λᵢ (nats per step)")
    axes.set_title("exponents ●, −ln|λ| ○, ring ―")


def _draw_gradient(axes: Any, result: Result) -> None:
    """Draw the gradient against lag on logarithmic axes, measured and expected."""
    s = result.settings
    lags = np.unique(np.geomspace(1, s.lag, 200).astype(int))
    shown = np.unique(np.geomspace(1, s.lag, 16).astype(int))
    for name, ring in result.rings.items():
        color, mean = plots.COLORS[COLORS[name]], mean_square(name, lags)
        spread = 2 * np.sqrt(2 * (mean_square(name, 2 * lags) - mean**2) / s.units)
        band = [np.sqrt(np.maximum(mean + sign * spread, 1e-12)) for sign in (-1, 1)]
        axes.fill_between(lags, *band, color=color, alpha=0.2, linewidth=0)
        axes.loglog(lags, np.sqrt(mean), color=color, linewidth=1)
        axes.loglog(shown, np.exp(ring.by_lag[shown]), "o", color=color, markersize=3)
    for name, x, y in (("whole disc", 0.05, 0.42), ("0.9 to 0.999", 0.52, 0.2),
                       ("0.99 to 1", 0.55, 0.93)):  # fmt: skip
        axes.text(x, y, name, transform=axes.transAxes, color=plots.COLORS[COLORS[name]],
                  fontsize=8)  # fmt: skip
    axes.set_xlim(1, s.lag)
    axes.set_ylim(1e-3, 1.5)
    axes.set_xlabel("lag k")
    axes.set_ylabel("gradient size relative to lag 0")
    axes.set_title("gradient (line: √E|λ|²ᵏ)")
