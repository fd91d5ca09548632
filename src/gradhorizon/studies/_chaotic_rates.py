"""The largest exponent of random flows of finite size, and its limit N → ∞."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon import plots
from gradhorizon.cells import maps
from gradhorizon.cells.activations import tanh
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.lyapunov import lyapunov_spectrum

# assumed: fluctuations of the mean field, of size 1/√N and mean 0, enter averages as their square
POWER = 1.0


def field(J: Any, x: Any, drive: Any) -> Array:
    """Give dx/dt in units of τ."""
    return -x + J @ tanh(x) + drive


def matrix(size: int, gain: float, generator: np.random.Generator) -> np.ndarray:
    """Draw J without autapses."""
    J = gain / math.sqrt(size) * generator.standard_normal((size, size))
    np.fill_diagonal(J, 0)
    return J


def measured(s: Any) -> dict[int, np.ndarray]:
    """Measure λ_1 alone, which needs one tangent only: larger networks, and more of them."""
    half, found = round(s.burn_in / s.dt) // 2, {}
    for n, count in zip(s.rate_sizes, s.rate_networks, strict=True):
        still = jnp.zeros((round((s.burn_in + s.duration) / s.dt), n))
        values = []
        for network in range(count):
            generator = np.random.default_rng([s.seed, network, n])
            J, start = matrix(n, s.gain, generator), generator.standard_normal(n)
            chain = jacobian_chain(maps.rk4(field, s.dt), jnp.asarray(J), jnp.asarray(start), still)
            spectrum = lyapunov_spectrum(chain, 1, state_burn_in=half, burn_in=half)
            values.append(float(spectrum.exponents[0]) / s.dt)
        found[n] = np.array(values)
    return found


class Line(NamedTuple):
    """λ_1 at N = ∞ from a line in a power of 1/N: value, slope, error of the value, χ²."""

    limit: float
    slope: float
    error: float
    chi2: float


def extrapolated(rates: dict[int, np.ndarray], power: float) -> Line:
    """Fit λ_1(N) = λ_1(∞) + a N^(-power), each size weighted by the scatter of its networks."""
    sizes = np.array(list(rates), dtype=float)
    means = np.array([v.mean() for v in rates.values()])
    errors = np.array([v.std(ddof=1) / math.sqrt(v.size) for v in rates.values()])
    design = np.stack([np.ones_like(sizes), sizes**-power], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    limit, slope = covariance @ design.T @ (means / errors)
    chi2 = np.sum((means / errors - design @ np.array([limit, slope])) ** 2)
    return Line(float(limit), float(slope), float(np.sqrt(covariance[0, 0])), float(chi2))


def fitted_power(rates: dict[int, np.ndarray], limit: float) -> tuple[float, float]:
    """Fit ln(limit - λ_1(N)) by a line in ln N: the power of 1/N and its standard error."""
    sizes = np.array(list(rates), dtype=float)
    gaps = np.array([limit - v.mean() for v in rates.values()])
    errors = np.array([v.std(ddof=1) / math.sqrt(v.size) for v in rates.values()]) / gaps
    design = np.stack([np.ones_like(sizes), -np.log(sizes)], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    _, power = covariance @ design.T @ (np.log(gaps) / errors)
    return float(power), float(np.sqrt(covariance[1, 1]))


def draw(axes: Any, rates: dict[int, np.ndarray], gain: float, expected: float) -> None:
    """Draw λ_1 of every network over 1/N, and the line to N = ∞."""
    fit, most = extrapolated(rates, POWER), min(rates) ** -POWER
    blue, red, gray = (plots.COLORS[c] for c in ("blue", "red", "gray"))
    axes.plot([0, most], [fit.limit, fit.limit + fit.slope * most], color=blue, linewidth=1)
    for n, values in rates.items():
        place = n**-POWER
        axes.plot(np.full(values.size, place), values, ".", color=gray, markersize=3)
        axes.errorbar([place], [values.mean()], [values.std(ddof=1) / math.sqrt(values.size)],
                      fmt="o", color=blue, markersize=4, linewidth=1.2)  # fmt: skip
    axes.errorbar([0], [fit.limit], [fit.error], fmt="o", color=blue, markerfacecolor="white",
                  markersize=4, linewidth=1.2, clip_on=False, zorder=5)  # fmt: skip
    axes.axhline(expected, color=red, linewidth=1)
    axes.annotate(f"mean field, N = ∞: {expected:.3f}", (most, expected), xytext=(0, 4),
                  textcoords="offset points", ha="right", color=red, fontsize=8)  # fmt: skip
    axes.text(0.03, 0.05, f"line to N = ∞: {fit.limit:.3f} ± {fit.error:.3f}\ngray: every network",
              transform=axes.transAxes, fontsize=7.5)  # fmt: skip
    axes.set_xticks([0, *(n**-POWER for n in rates)], ["∞", *map(str, rates)])
    axes.set_xlim(left=-0.02 * most)
    axes.set_title(f"largest exponent at g = {gain:g}: 1/N below N = ∞")
    axes.set_xlabel("N, spaced as 1/N")
    axes.set_ylabel("λ₁ (1/τ)")
