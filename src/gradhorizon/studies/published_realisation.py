"""One random matrix that others published numbers of, drawn again digit by digit.

x' = J tanh x has det(dx'/dx) = det J Π φ'(x_i), so that the mean of all exponents is
ln|det J|/N + <ln φ'> for every realization and every orbit: an identity, without any limit.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import digamma, polygamma

from gradhorizon import plots
from gradhorizon.cells import rate_network
from gradhorizon.cells.activations import sech2
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_network

TITLE = "A published random network, digit by digit: its exponents sum to ln |det J| and ln φ′"
QUESTION = "Can a published realization of a random network be reproduced exactly?"
SOURCE = (
    "Clark 2026 (arXiv:2610.12426) and the data released with it; J = torch.randn(N, N, generator "
    "of seed 0, float64) g/√N on the CPU, N = 4096."
)
PUBLISHED_SIZE = 4096
# ln|det J|/N by gain, implied by the released mean exponents and mean log gains
LOG_DET = {3.0: 0.5988988238620867, 1.2: -0.31739190801338}
ENTRIES = (-0.1083005531, -0.0174961341, -0.0497257818)  # J_11, J_12, J_13 at g = 3
# g = 1.2: the mean of all exponents, and <ln φ'>
MEAN_EXPONENT, MEAN_LOG_GAIN = -0.5641020874977205, -0.24671017948434157


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the matrices, and of the networks that are run."""

    sizes: list[int] = dataclasses.field(
        default_factory=lambda: [16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    )
    network: int = 64
    gains: list[float] = dataclasses.field(
        default_factory=lambda: [1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
    )
    burn_in: int = 300
    steps: int = 1000


SMALL = Settings(sizes=[16, 64, 256], network=24, gains=[1.5, 8.0], burn_in=100, steps=300)


class Identity(NamedTuple):
    """Both sides of the identity for one network, and the second side's terms."""

    mean_exponent: float
    log_det: float
    log_slope: float


class Result(NamedTuple):
    """Determinants by size, and identities by gain."""

    settings: Settings
    entries: np.ndarray
    log_dets: dict[int, float]  # ln|det A|/N, A = √N J/g standard normal
    identities: dict[float, Identity]


def torch_normal(count: int, seed: int) -> np.ndarray:
    """Give what ``torch.randn`` gives on a CPU in float64, in blocks of 16 numbers.

    A Mersenne twister; 53 bits of two outputs for a uniform number; Box and Muller's transform
    of the first eight numbers of a block with the last eight.
    """
    if count % 16:
        text = f"`count` must be a multiple of 16. Received {count}."
        raise ValueError(text)
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)  # pyright: ignore[reportAttributeAccessIssue]
    words = twister.random_raw(2 * count).reshape(-1, 2)
    bits = ((words[:, 0] << np.uint64(32)) | words[:, 1]) & np.uint64(2**53 - 1)
    uniform = (bits * 2.0**-53).reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * math.pi * uniform[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def compute(settings: Settings) -> Result:
    """Draw the matrices, take their determinants, and run networks."""
    s = settings
    entries = torch_normal(16, 0)[:3] * 3.0 / math.sqrt(PUBLISHED_SIZE)
    log_dets = {}
    for n in s.sizes:
        log_dets[n] = float(np.linalg.slogdet(torch_normal(n * n, 0).reshape(n, n))[1]) / n
    return Result(s, entries, log_dets, {g: _identity(g, s) for g in s.gains})


def _identity(gain: float, s: Settings) -> Identity:
    """Measure all exponents of a smaller network, and what they must sum to."""
    n = s.network
    J = torch_normal(n * n, 0).reshape(n, n) * gain / math.sqrt(n)
    cell = rate_network(n, 0)
    params = {"W": jnp.asarray(J), "b": jnp.zeros(n)}
    start = jnp.asarray(torch_normal(-(-n // 16) * 16, 7919)[:n])
    start = unroll(cell.step, params, start, length=s.burn_in).states[-1]
    states = unroll(cell.step, params, start, length=s.steps).states[:-1]
    spectrum = lyapunov_spectrum(jacobian_chain(cell.step, params, start, length=s.steps))
    return Identity(
        float(jnp.mean(spectrum.exponents)),
        float(np.linalg.slogdet(J)[1]) / n,
        float(jnp.mean(jnp.log(sech2(states)))),
    )


def expected_log_det(size: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and sd of ln|det A|/N, A standard normal: |det A|² is a product of χ²_k."""
    means, errors = [], []
    for n in np.atleast_1d(size):
        k = np.arange(1, int(n) + 1)
        means.append(np.sum(math.log(2) + digamma(k / 2)) / 2 / n)
        errors.append(math.sqrt(np.sum(polygamma(1, k / 2)) / 4) / n)
    return np.array(means), np.array(errors)


def mean_field_exponent(gain: float) -> float:
    """Give the mean of all exponents as N → ∞: ln g - 1/2 + E ln φ'(√q z)."""
    q = float(random_network.stationary_variance(gain))
    z = np.linspace(-12, 12, 48_001)
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    x = np.abs(math.sqrt(q) * z)
    log_slope = 2 * (math.log(2) - x - np.log1p(np.exp(-2 * x)))  # ln sech²
    return math.log(gain) - 0.5 + float(np.sum(weight * log_slope))


def checks(result: Result) -> list[Check]:
    """Compare with the published digits, the law of the determinant, and the identity."""
    return [*_published_checks(result), *_identity_checks(result)]


def _published_checks(result: Result) -> list[Check]:
    found = []
    for place, (value, published) in enumerate(zip(result.entries, ENTRIES, strict=True)):
        found.append(
            Check(f"J_1{place + 1}, g = 3, N = {PUBLISHED_SIZE}", float(value), published, 6e-11,
                  "printed by torch's generator, seed 0")
        )  # fmt: skip
    found.append(
        Check("published ln|det J|/N: difference between g = 3 and g = 1.2",
              LOG_DET[3.0] - LOG_DET[1.2], math.log(3 / 1.2), 1e-10, "one matrix, scaled")
    )  # fmt: skip
    found.append(
        Check("published, g = 1.2: mean exponent - <ln φ'>", MEAN_EXPONENT - MEAN_LOG_GAIN,
              LOG_DET[1.2], 1e-14, "the identity, for the released numbers")
    )  # fmt: skip
    if PUBLISHED_SIZE in result.log_dets:
        for gain, published in LOG_DET.items():
            value = result.log_dets[PUBLISHED_SIZE] + math.log(gain / math.sqrt(PUBLISHED_SIZE))
            found.append(
                Check(f"ln|det J|/N, g = {gain:g}, N = {PUBLISHED_SIZE}", value, published, 1e-10,
                      "Clark 2026, released data")
            )  # fmt: skip
    for n, value in result.log_dets.items():
        mean, error = expected_log_det(n)
        found.append(
            Check(f"ln|det| per unit of seed 0, N = {n}: in standard deviations from the mean",
                  float((value - mean[0]) / error[0]), 0.0, 4.0, "|det|² is a product of χ²_k")
        )  # fmt: skip
    return found


def _identity_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for gain, identity in result.identities.items():
        label = f"N = {s.network}, g = {gain:g}"
        found += [
            Check(f"{label}: mean exponent", identity.mean_exponent,
                  identity.log_det + identity.log_slope, 1e-10, "ln|det J|/N + <ln φ'>, exact"),
            Check(f"{label}: mean exponent at infinite size", identity.mean_exponent,
                  mean_field_exponent(gain), 0.05 + 6 * gain / s.network, "mean field; O(1/N)"),
        ]  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    largest = max(result.log_dets)
    value = result.log_dets[largest] + math.log(3 / math.sqrt(largest))
    worst = max(abs(i.mean_exponent - i.log_det - i.log_slope) for i in result.identities.values())
    text = f"Yes: drawn again in NumPy, the matrix has ln|det J|/N = {value:.12f} at N = {largest}"
    if largest == PUBLISHED_SIZE:
        text += f" (released data: {LOG_DET[3.0]:.12f})"
    return (
        f"{text}; and all exponents of a network average to ln|det J|/N + <ln φ'> within "
        f"{worst:.0e} nats per step."
    )


def draw(result: Result) -> Figure:
    """Draw the determinant against size, and the mean exponent against gain."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=2)
    with plots.style():
        _draw_determinants(panels[0], result)
        _draw_identity(panels[1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


RED, BLUE, ORANGE, GRAY = (plots.COLORS[c] for c in ("red", "blue", "orange", "gray"))


def _draw_determinants(axes: Any, result: Result) -> None:
    sizes = np.array(result.settings.sizes)
    grid = np.unique(np.rint(np.geomspace(sizes[0], PUBLISHED_SIZE, 40)).astype(int))
    scale = np.log(3 / np.sqrt(grid))
    mean, error = expected_log_det(grid)
    axes.fill_between(grid, mean + scale - error, mean + scale + error, color=GRAY, alpha=0.3,
                      linewidth=0)  # fmt: skip
    axes.plot(grid, mean + scale, color="black", linewidth=1.2)
    values = [result.log_dets[n] + math.log(3 / math.sqrt(n)) for n in sizes]
    axes.plot(sizes, values, "o", color=BLUE, markersize=4)
    axes.plot([PUBLISHED_SIZE], [LOG_DET[3.0]], "o", color=RED, markersize=10, fillstyle="none")
    axes.annotate(f"published:\n{LOG_DET[3.0]:.10f}", (PUBLISHED_SIZE, LOG_DET[3.0]),
                  xytext=(4, 16), textcoords="offset points", ha="right", color=RED,
                  fontsize=8)  # fmt: skip
    axes.text(0.97, 0.05, "line, band: mean and sd over all J\npoints: torch's generator, seed 0",
              transform=axes.transAxes, ha="right", fontsize=7.5)  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = [2**k for k in (4, 6, 8, 10, 12)]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_title("one matrix, g = 3")
    axes.set_xlabel("number of units N")
    axes.set_ylabel("ln |det J|/N")


def _draw_identity(axes: Any, result: Result) -> None:
    gains = np.array(result.settings.gains)
    grid = np.linspace(1.05, gains[-1], 60)
    theory = [mean_field_exponent(float(g)) for g in grid]
    axes.plot(grid, theory, color="black", linewidth=1.2)
    found = list(result.identities.values())
    axes.plot(gains, [i.log_det + i.log_slope for i in found], "o", color=ORANGE, markersize=10,
              fillstyle="none")  # fmt: skip
    axes.plot(gains, [i.mean_exponent for i in found], "o", color=BLUE, markersize=4)
    axes.text(0.97, 0.95, "points: mean of all exponents (QR)\ncircles: ln |det J|/N + <ln φ′>\n"
              "line: mean field, N = ∞", transform=axes.transAxes, ha="right", va="top",
              fontsize=7.5)  # fmt: skip
    axes.set_title(f"exponents, seed 0 at N = {result.settings.network}")
    axes.set_xlabel("gain g")
    axes.set_ylabel("mean of λᵢ (nats per step)")
