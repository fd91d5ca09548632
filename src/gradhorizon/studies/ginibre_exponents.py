"""Newman's exponents of products of Gaussian matrices, with their fluctuations."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import special

from gradhorizon import plots
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_matrix

TITLE = "Fresh random factors have exact exponents; one repeated factor has d times the variance"
QUESTION = "How fast do products of random matrices grow, in all directions, and how surely?"
SOURCE = (
    "Newman, Commun. Math. Phys. 103 (1986) 121; Forrester 2013; Kostlan 1992; Akemann & Burda "
    "2012 (eigenvalue moduli of products)."
)
REAL, COMPLEX = "real", "complex"
SIZES = {REAL: 8, COMPLEX: 5}
# λ_k and the variance of ln R_kk per step for entries of variance 1
TABLE = {
    REAL: (
        (0.9746324245, 0.8981519106, 0.8079657578, 0.6981519106, 0.5579657578, 0.3648185773,
         0.0579657578, -0.6351814227),
        (0.07095574, 0.08258944, 0.09873352, 0.12258944, 0.16123352, 0.23370055, 0.41123352,
         1.23370055),
    ),
    COMPLEX: (
        (0.7530588342, 0.6280588342, 0.4613921675, 0.2113921675, -0.2886078325),
        (0.05533074, 0.07095574, 0.09873352, 0.16123352, 0.41123352),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    steps: int = 20_000
    moduli_size: int = 4
    moduli_depth: int = 10
    moduli_draws: int = 4000


SMALL = Settings(steps=2000, moduli_draws=1000)


class Result(NamedTuple):
    """Growth of the frame in every step, and eigenvalues of products."""

    settings: Settings
    steps: dict[str, np.ndarray]  # ln R_kk of every step, (steps, N), by kind of entry
    det_residual: float
    pair_gap: float  # between the two real exponents of one complex direction
    log_moduli: dict[bool, np.ndarray]  # tied -> ln |z_k| (draws, N)
    log_det: dict[bool, np.ndarray]  # tied -> ln |det P| (draws,), factor by factor


def compute(settings: Settings) -> Result:
    """Measure the exponents of real and complex products, and the moduli of short ones."""
    rng = np.random.default_rng(settings.seed)
    real = rng.normal(size=(settings.steps, SIZES[REAL], SIZES[REAL]))
    parts = rng.normal(size=(2, settings.steps, SIZES[COMPLEX], SIZES[COMPLEX]))
    one, two = (_frame_growth(m) for m in (real, realified(parts / math.sqrt(2))))
    pairs = two[0].reshape(settings.steps, SIZES[COMPLEX], 2)
    gap = float(np.max(np.abs(pairs[..., 0] - pairs[..., 1])))
    residual = max(one[1], two[1])
    moduli, dets = _moduli(rng, settings)
    return Result(settings, {REAL: one[0], COMPLEX: pairs[..., 0]}, residual, gap, moduli, dets)


def realified(parts: np.ndarray) -> np.ndarray:
    """Write complex matrices as real ones that act on (Re h_1, Im h_1, Re h_2, …).

    In this order the frame's subspaces of even dimension are complex, and R_kk appears twice.
    """
    re, im = parts
    blocks = np.stack([np.stack([re, -im], axis=-1), np.stack([im, re], axis=-1)], axis=-3)
    size = 2 * re.shape[-1]
    return blocks.reshape(*re.shape[:-2], size, size)


def _frame_growth(matrices: np.ndarray) -> tuple[np.ndarray, float]:
    """Give ln R_kk of every step by one QR per step, without burn-in."""
    spectrum = lyapunov_spectrum(matrices, orthonormalize_every=1, windows=len(matrices))
    return np.asarray(spectrum.windows), float(spectrum.det_residual)


def _moduli(rng: Any, settings: Settings) -> tuple[dict[bool, np.ndarray], dict[bool, np.ndarray]]:
    """Draw powers and products of complex matrices with E|a|² = 1/N."""
    n, d = settings.moduli_size, settings.moduli_depth
    parts = rng.normal(size=(2, settings.moduli_draws, d, n, n))
    factors = (parts[0] + 1j * parts[1]) / math.sqrt(2 * n)
    product = factors[:, 0]
    for layer in range(1, d):
        product = factors[:, layer] @ product
    tied = d * np.log(np.abs(np.linalg.eigvals(factors[:, 0])))
    untied = np.log(np.abs(np.linalg.eigvals(product)))
    logs = np.linalg.slogdet(factors)[1]
    return {True: tied, False: untied}, {True: d * logs[:, 0], False: logs.sum(axis=1)}


def degrees(kind: str) -> np.ndarray:
    """Give the shape of the Γ law of R_kk² for k = 1 … N: (N-k+1)/2, or N-k+1 if complex."""
    orders = np.arange(SIZES[kind], 0, -1.0)
    return orders / 2 if kind == REAL else orders


def exact(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Give Newman's exponents and the variances per step, entries of variance 1."""
    is_complex, n = kind == COMPLEX, SIZES[kind]
    exponents = random_matrix.ginibre_exponents(n, variance=1.0, complex_entries=is_complex)
    variances = random_matrix.ginibre_exponent_variances(n, complex_entries=is_complex)
    return np.asarray(exponents), np.asarray(variances)


def log_modulus_density(values: np.ndarray, size: int, depth: int, *, tied: bool) -> np.ndarray:
    """Give the density of ln |z| over all eigenvalues of a complex product.

    2 ln |z| is a sum of `depth` independent ln Γ(k, 1) - ln N, or `depth` times one of them, k
    drawn from 1 … N. The law follows from E Γ^is = Γ(k + is)/Γ(k) by Fourier's integral.
    """
    s = np.linspace(0, 40 / depth, 801)
    total = np.zeros_like(values)
    for k in range(1, size + 1):
        if tied:
            log_mean = special.loggamma(k + 0.5j * s * depth) - special.loggamma(k)
        else:
            log_mean = depth * (special.loggamma(k + 0.5j * s) - special.loggamma(k))
        shift = values[:, None] + depth * math.log(size) / 2
        waves = np.exp(log_mean[None] - 1j * s[None] * shift).real
        total += (waves.sum(axis=1) - waves[:, 0] / 2) * (s[1] - s[0]) / math.pi
    return total / size


def checks(result: Result) -> list[Check]:
    """Compare with the exact laws; tolerances are four standard errors unless said."""
    return [*_exponent_checks(result), *_moduli_checks(result)]


def _exponent_checks(result: Result) -> list[Check]:
    found, count = [], result.settings.steps
    for kind, logs in result.steps.items():
        exponents, variances = exact(kind)
        for name, values, table, digits in (
            ("λ_k", exponents, TABLE[kind][0], 1e-10),
            ("variance of ln R_kk", variances, TABLE[kind][1], 1e-8),
        ):
            worst = float(np.max(np.abs(values - np.array(table))))
            label = f"{kind}, N = {SIZES[kind]}: {name} of theory against the table, worst"
            found.append(Check(label, worst, 0.0, digits, "ψ and ψ' in closed form"))
        z_scores = (logs.mean(axis=0) - exponents) / np.sqrt(variances / count)
        for k, (value, z) in enumerate(zip(logs.mean(axis=0), z_scores, strict=True), 1):
            tolerance = 4 * math.sqrt(variances[k - 1] / count)
            label = f"{kind}, N = {SIZES[kind]}: λ_{k} (z = {z:+.2f})"
            found.append(Check(label, float(value), TABLE[kind][0][k - 1], tolerance, _NEWMAN))
        freedom = SIZES[kind]
        label = f"{kind}, N = {freedom}: sum of squared z-scores"
        found.append(Check(label, float(np.sum(z_scores**2)), float(freedom),
                           4 * math.sqrt(2 * freedom), "independent R_kk: χ² law"))  # fmt: skip
        excess = special.polygamma(3, degrees(kind)) / special.polygamma(1, degrees(kind)) ** 2
        ratios = logs.var(axis=0, ddof=1) / variances
        worst = np.max(np.abs(ratios - 1) / np.sqrt((2 + excess) / count))
        label = f"{kind}, N = {freedom}: variances of ln R_kk, worst z"
        found.append(Check(label, float(worst), 0.0, 4.0, "ψ'; error from ψ'''"))
        correlation = np.corrcoef(logs.T) - np.eye(freedom)
        label = f"{kind}, N = {freedom}: largest correlation of two R_kk"
        found.append(Check(label, float(np.max(np.abs(correlation))), 0.0, 4 / math.sqrt(count),
                           "independent at every step"))  # fmt: skip
    return [
        *found,
        Check("complex: distance of the two real exponents of a direction, worst step",
              result.pair_gap, 0.0, 1e-10, "exactly equal"),
        Check("|Σ λ - mean ln |det||", result.det_residual, 0.0, 1e-12, "identity"),
    ]  # fmt: skip


_NEWMAN = "Newman 1986"


def _moduli_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    n, d, draws = s.moduli_size, s.moduli_depth, s.moduli_draws
    k = np.arange(1, n + 1)
    excess = special.polygamma(3, k).sum() / special.polygamma(1, k).sum() ** 2
    pooled = {True: 49.900849, False: 33.202333}
    for tied, variance in ((True, 74.2156), (False, 7.42156)):
        label = f"{_TIED[tied]}, N = {n}, d = {d}"
        dets, moduli = result.log_det[tied], result.log_moduli[tied]
        spread = 4 * math.sqrt((2 + excess / (1 if tied else d)) / draws)
        error = 4 * math.sqrt(variance / draws)
        squares = np.mean(moduli**2, axis=1)
        found += [
            Check(f"{label}: variance of ln |det|", float(dets.var(ddof=1)), variance,
                  spread * variance, "Σ ψ'(k)/4 times d² or d"),
            Check(f"{label}: mean of ln |det|", float(dets.mean()), -17.603534, error,
                  "d Σ (ψ(k) - ln N)/2"),
            Check(f"{label}: mean of ln² |z_k|", float(squares.mean()), pooled[tied],
                  4 * float(squares.std(ddof=1)) / math.sqrt(draws), "Kostlan; Akemann & Burda"),
            Check(f"{label}: largest distance of the distributions of ln |z|",
                  _distance(moduli, n, d, tied=tied), 0.0, 2 / math.sqrt(draws * n),
                  "exact law; Kolmogorov-Smirnov"),
            Check(f"{label}: Σ ln |z_k| - ln |det|, worst draw",
                  float(np.max(np.abs(moduli.sum(axis=1) - dets))), 0.0, 1e-5,
                  "identity, to the rounding of eigenvalues"),
        ]  # fmt: skip
    ratio = result.log_det[True].var() / result.log_det[False].var()
    error = math.sqrt((2 + excess) / draws + (2 + excess / d) / draws)
    found.append(Check("variance of ln |det|: tied / untied", float(ratio), float(d),
                       4 * error * d, "exactly d"))  # fmt: skip
    return found


_TIED = {True: "one factor repeated", False: "fresh factors"}


def _distance(moduli: np.ndarray, size: int, depth: int, *, tied: bool) -> float:
    """Give the largest distance between the empirical and the exact distribution of ln |z|."""
    grid = np.linspace(-70, 20, 1801)
    density = log_modulus_density(grid, size, depth, tied=tied)
    parts = (density[1:] + density[:-1]) * (grid[1] - grid[0]) / 2
    below = np.concatenate([np.zeros(1), np.cumsum(parts)])
    values = np.sort(moduli.ravel())
    shares = (np.arange(values.size) + 0.5) / values.size
    return float(np.max(np.abs(np.interp(values, grid, below) - shares)))


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    scores = []
    for kind, logs in result.steps.items():
        exponents, variances = exact(kind)
        scores.append((logs.mean(axis=0) - exponents) / np.sqrt(variances / s.steps))
    worst = np.max(np.abs(np.concatenate(scores)))
    tied, untied = (result.log_det[t].var(ddof=1) for t in (True, False))
    return (
        f"As Newman's formula says: {sum(SIZES.values())} exponents measured over {s.steps} steps "
        f"lie within {worst:.1f} standard errors of it; after {s.moduli_depth} factors ln |det| "
        f"has a variance of {untied:.2f} if they are fresh and {tied:.1f} if one is repeated."
    )


def draw(result: Result) -> Figure:
    """Draw exponents, their z-scores along the run, the law of a step, eigenvalue moduli."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_exponents(panels[0, 0], result)
        _draw_scores(panels[0, 1], result)
        _draw_steps(panels[1, 0], result)
        _draw_moduli(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


_LOOKS = {REAL: plots.COLORS["blue"], COMPLEX: plots.COLORS["orange"]}


def _draw_exponents(axes: Any, result: Result) -> None:
    for kind, color in _LOOKS.items():
        n, logs = SIZES[kind], result.steps[kind]
        places = np.linspace(0.7, n + 0.2, 200)
        orders = n - places + 1
        law = (
            (math.log(2) + special.digamma(orders / 2)) / 2
            if kind == REAL
            else special.digamma(orders) / 2
        )
        axes.plot(places, law, color=color, linewidth=1.2)
        errors = logs.std(axis=0, ddof=1) / math.sqrt(len(logs))
        axes.errorbar(np.arange(1, n + 1), logs.mean(axis=0), errors, fmt="o", color=color,
                      markersize=4)  # fmt: skip
    axes.text(5.6, 0.56, "real, N = 8", color=_LOOKS[REAL], fontsize=8)
    axes.text(4.75, -0.42, "complex, N = 5", color=_LOOKS[COMPLEX], fontsize=8, ha="right")
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.set_ylim(-0.8, 1.15)
    axes.set_title("all exponents (lines: Newman)")
    axes.set_xlabel("index k")
    axes.set_ylabel("λₖ (nats per step)")


def _draw_scores(axes: Any, result: Result) -> None:
    """Draw z of the running means: an unbiased estimate wanders between the same bounds."""
    count = result.settings.steps
    places = np.unique(np.geomspace(1, count, 160).astype(int))
    for kind, color in _LOOKS.items():
        exponents, variances = exact(kind)
        means = np.cumsum(result.steps[kind], axis=0)[places - 1] / places[:, None]
        scores = (means - exponents) / np.sqrt(variances / places[:, None])
        axes.semilogx(places, scores, color=color, linewidth=0.8, alpha=0.75)
    axes.axhspan(-2, 2, color=plots.COLORS["gray"], alpha=0.13, linewidth=0)
    for level in (-4, 4):
        axes.axhline(level, color=plots.COLORS["gray"], linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(1.2, 4.15, "tolerance of the checks", fontsize=7.5, color=plots.COLORS["gray"])
    axes.set_xlim(1, count)
    axes.set_ylim(-5, 5)
    axes.set_title("unbiased from the first step on")
    axes.set_xlabel("steps averaged")
    axes.set_ylabel("(estimate − exact) / exact error")


def _draw_steps(axes: Any, result: Result) -> None:
    """Draw the distribution of ln R_kk in one step beside the law of ln χ."""
    logs, shapes = result.steps[REAL], degrees(REAL)
    edges = np.linspace(-4.0, 2.2, 63)
    grid = np.linspace(-4.0, 3.0, 400)
    for k, color in ((1, "blue"), (5, "violet"), (8, "red")):
        counts, _ = np.histogram(logs[:, k - 1], edges)
        heights = counts / len(logs) / np.diff(edges)
        axes.stairs(heights, edges, fill=True, color=plots.COLORS[color], alpha=0.3)
        a = shapes[k - 1]
        u = 2 * grid - math.log(2)
        law = 2 * np.exp(a * u - np.exp(u) - special.gammaln(a))
        axes.plot(grid, law, color=plots.COLORS[color], linewidth=1.2)
        top = int(np.argmax(law))
        sd = math.sqrt(special.polygamma(1, a)) / 2
        place = {1: (6, -4, "left"), 5: (-8, 0, "right"), 8: (-34, 4, "right")}[k]
        axes.annotate(f"k = {k}: sd {sd:.3f}", (grid[top], law[top]), xytext=place[:2],
                      textcoords="offset points", ha=place[2], fontsize=8,
                      color=plots.COLORS[color])  # fmt: skip
    axes.set_xlim(-4, 3)
    axes.set_ylim(0, 1.7)
    axes.set_title("growth of direction k in one step (real, N = 8)")
    axes.set_xlabel("ln Rₖₖ (nats)")
    axes.set_ylabel("density (lines: ln χ)")


def _draw_moduli(axes: Any, result: Result) -> None:
    """Draw the distribution of eigenvalue moduli for fresh and for repeated factors."""
    s = result.settings
    n, d = s.moduli_size, s.moduli_depth
    edges = np.linspace(-25, 10, 71)
    grid = np.linspace(-25, 19, 400)
    for tied, color in ((True, plots.COLORS["red"]), (False, plots.COLORS["blue"])):
        counts, _ = np.histogram(result.log_moduli[tied], edges)
        heights = counts / result.log_moduli[tied].size / np.diff(edges)
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.3)
        axes.plot(grid, log_modulus_density(grid, n, d, tied=tied), color=color, linewidth=1.2)
    for tied, place in ((True, (2.7, 0.052)), (False, (1.2, 0.115))):
        variance = result.log_det[tied].var(ddof=1)
        exact_variance = random_matrix.log_modulus_moments(n, d, tied=tied)[1].sum()
        label = f"{_TIED[tied]}:\nVar ln |det| = {variance:.3g}\n(exact {exact_variance:.3g})"
        axes.text(*place, label, color=plots.COLORS["red" if tied else "blue"], fontsize=8)
    axes.set_xlim(-25, 19)
    axes.set_ylim(0, 0.165)
    axes.set_title(f"eigenvalues after d = {d} complex factors")
    axes.set_xlabel(f"ln |z| (nats, N = {n})")
    axes.set_ylabel("density (lines: exact)")
