"""Orthonormalizing a frame too rarely: the lower exponents are rounding noise, silently.

Between two QR factorizations all columns of the frame turn towards the fastest direction. After
k steps column i has kept exp(-(λ_1 - λ_i) k) of itself; below the unit roundoff nothing of it is
left, and the factorization measures noise: no NaN, no overflow, and λ_1 as good as ever.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.studies import _qr_rounding as rounding
from gradhorizon.studies._qr_rounding import Recipe, common_recipe
from gradhorizon.studies._study import Check

TITLE = "Orthonormalized too rarely, the lower Lyapunov exponents are rounding noise, silently"
QUESTION = "How often must the frame be orthonormalized, and who notices when it is not?"
SOURCE = (
    "Benettin et al. 1980; the common recipe of one QR factorization every fixed number of steps, "
    "on a random tanh network."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A chaotic network h' = tanh(W h), W Gaussian of variance g²/N, and the intervals tried."""

    seed: int = 0
    size: int = 32
    gain: float = 3.0
    burn_in: int = 500
    steps: int = 2000
    intervals: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 3, 5, 10, 20, 50])
    own: list[int] = dataclasses.field(default_factory=lambda: [2, 3, 5, 20])
    lags: list[int] = dataclasses.field(
        default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200, 500]
    )


SMALL = Settings(
    size=16, burn_in=200, steps=300, intervals=[1, 2, 5, 20, 50], own=[20], lags=[1, 10, 50]
)


class Own(NamedTuple):
    """What the package says with one setting of `orthonormalize_every`."""

    exponents: np.ndarray
    estimate: float  # its own largest rounding error
    residual: float  # its own second route to the sum
    converged: bool
    factorizations: int


class Result(NamedTuple):
    """Spectra by interval, in nats per step."""

    settings: Settings
    log_dets: np.ndarray  # ln |det J_t|, (T,)
    rows: np.ndarray  # norms of the rows of J_t, (T, N)
    double: dict[int, Recipe]  # the common recipe in float64
    single: dict[int, Recipe]  # and in float32
    own: dict[str, Own]  # the package, by interval and "auto"
    sums: np.ndarray  # Σ ln R_ii of QR at every step over the last steps, (lags, N)
    singular: np.ndarray  # ln σ_i of the same products, (lags, N)
    example: tuple[float, float]  # ln R_11 and ln σ_1 of two factors

    @property
    def log_det(self) -> float:
        """Mean ln |det J_t|, the exact sum of all exponents."""
        return float(self.log_dets.mean())


def compute(settings: Settings) -> Result:
    """Run one chain through the common recipe and through the package."""
    s = settings
    J = network_chain(s)
    log_dets, rows = np.linalg.slogdet(J)[1], np.linalg.norm(J, axis=2)
    double = {k: common_recipe(J, k) for k in s.intervals}
    single = {k: common_recipe(J.astype(np.float32), k) for k in s.intervals}
    own = {str(k): _own(J, k) for k in [*s.own, "auto"]}
    sums = np.array([common_recipe(J[-lag:], 1).sums for lag in s.lags])
    singular = singular_spectrum(jnp.asarray(J[-s.lags[-1] :]), lags=s.lags)
    pair = np.array([[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.5]]])
    largest = math.log(np.linalg.norm(pair[1] @ pair[0], 2))
    example = (float(common_recipe(pair, 1).sums[0]), largest)
    values = np.asarray(singular.log_values)
    return Result(s, log_dets, rows, double, single, own, sums, values, example)


def network_chain(s: Settings) -> np.ndarray:
    """Give J_t = diag(1 - h_t²) W along an orbit, shape (T, N, N)."""
    rng = np.random.default_rng(s.seed)
    W = s.gain * rng.standard_normal((s.size, s.size)) / math.sqrt(s.size)
    h = np.tanh(rng.standard_normal(s.size))
    factors = []
    for _ in range(s.burn_in + s.steps):
        h = np.tanh(W @ h)
        factors.append((1 - h**2)[:, None] * W)
    return np.array(factors[s.burn_in :])


def _own(J: np.ndarray, every: Any) -> Own:
    found = lyapunov_spectrum(jnp.asarray(J), orthonormalize_every=every)
    return Own(
        np.asarray(found.exponents), float(jnp.max(found.rounding_errors)),
        float(found.det_residual), bool(found.converged), int(found.factorizations),
    )  # fmt: skip


def floor(exponents: np.ndarray, every: int, dtype: Any) -> float:
    """Give λ_1 - ln(1/u)/k: below it, nothing of a column outlives k steps; u = eps/2."""
    return float(exponents[0] + math.log(np.finfo(dtype).eps / 2) / every)


def last_exponent(result: Result, every: int, dtype: Any) -> rounding.Expected | None:
    """Give the last exponent that rounding leaves, per step; None if more than that is left."""
    recipe = _spectra(result)[dtype][every]
    exact = result.double[1].exponents
    rows = result.rows[every - 1 : recipe.steps : every]
    resolved = int(np.sum(exact > floor(exact, every, dtype)))
    value, tolerance = rounding.lost_entry(recipe, rows, dtype, resolved)
    if every * exact[-1] > value - 2 * tolerance:
        return None
    return rounding.Expected(value / every, tolerance / every)


def _spectra(result: Result) -> dict[Any, dict[int, Recipe]]:
    return {np.float64: result.double, np.float32: result.single}


def checks(result: Result) -> list[Check]:
    """Compare recipes with the determinant, the floor and one another."""
    return [*_recipe_checks(result), *_own_checks(result), *_singular_checks(result)]


def _recipe_checks(result: Result) -> list[Check]:
    exact, last = result.double[1].exponents, result.double[result.settings.intervals[-1]]
    every = last.steps // len(last.log_last)
    overlap = 4 * math.pi / 2 / math.sqrt(len(last.log_last))
    found = [
        Check("QR at every step: |Σ λ_i - mean ln |det J_t||",
              abs(float(exact.sum()) - result.log_det), 0.0, 1e-10, "determinants multiply"),
        Check(f"QR every {every} steps: λ_1, difference", float(last.exponents[0] - exact[0]),
              0.0, 1e-10, "the fastest direction is safe, which makes the loss silent"),
        Check(f"QR every {every} steps: growth of column N per step",
              float(last.log_column.mean()) / every, float(exact[0]), overlap / every,
              "λ_1; it overlaps with the fastest direction as column 1 does, up to four standard "
              "errors of ln |g / g'|, g and g' normal, over the T/k factorizations"),
    ]  # fmt: skip
    return [*found, *_floor_checks(result), *_loss_checks(result)]


def _floor_checks(result: Result) -> list[Check]:
    """Check the last exponents where nothing but rounding can be left of them."""
    found = []
    for dtype, spectra in _spectra(result).items():
        for every, recipe in spectra.items():
            expected = last_exponent(result, every, dtype)
            if expected is not None:
                found.append(
                    Check(f"{np.dtype(dtype)}, QR every {every} steps: last exponent",
                          float(recipe.log_last.mean()) / every, *expected,
                          "rounding: (1/k) mean ln(c u ‖a_N‖ √N min_i ‖J_i‖/‖J‖_F), i the rows, "
                          "ε ≤ c ≤ 2ε √N; four standard errors over the T/k factorizations")
                )  # fmt: skip
    return found


def _loss_checks(result: Result) -> list[Check]:
    """Check the first digits that are lost, while the error is still a small share of R_NN."""
    found, n = [], result.settings.size
    for every, recipe in result.double.items():
        expected = rounding.first_loss(recipe, n, float)
        if every == 1 or expected.value + expected.tolerance > 0:
            continue
        exact = result.log_dets[: recipe.steps].reshape(-1, every).sum(axis=1)
        error = np.mean(np.log(np.abs(recipe.log_det - exact)))
        found.append(
            Check(f"QR every {every} steps: mean ln of a factorization's error of ln |det|",
                  float(error), *expected,
                  "ln(c u ‖a_N‖/R_NN), u e^(k (λ_1 - λ_N)) in the mean, ε/√N ≤ c ≤ 2ε √N; four "
                  "standard errors")
        )  # fmt: skip
    return found


def _own_checks(result: Result) -> list[Check]:
    s, exact = result.settings, result.double[1].exponents
    auto = result.own["auto"]
    found = [
        Check("automatic interval: largest difference from QR at every step",
              float(np.max(np.abs(auto.exponents - exact))), 0.0, 1e-8, "documented bound"),
        Check("automatic interval: |Σ λ_i - mean ln |det J_t||",
              abs(float(auto.exponents.sum()) - result.log_det), 0.0, 1e-8 * s.size,
              "determinants multiply"),
    ]  # fmt: skip
    for every in s.own:
        own = result.own[str(every)]
        error = abs(float(own.exponents.sum()) - result.log_det)
        if error > 1e-3:
            found.append(
                Check(f"package, every {every} steps, sum wrong by {error:.1g}: says converged",
                      float(own.converged), 0.0, 0.0, "a lost digit is reported")
            )  # fmt: skip
        found.append(
            Check(f"package, every {every} steps: its residual of the sum", own.residual, error,
                  1e-6 * max(error, 1e-3), "mean ln |det J_t| by LAPACK")
        )  # fmt: skip
    return found


def _singular_checks(result: Result) -> list[Check]:
    row = len(result.settings.lags) // 2
    gap = result.sums.sum(axis=1) - result.singular.sum(axis=1)
    ahead = result.sums[:, 0] - result.singular[:, 0]
    frame, singular = result.example
    return [
        Check("two factors: ln σ_1 of J_2 J_1", singular, math.log((math.sqrt(41) + 5) / 4), 1e-13,
              "J_1 = [[1, 1], [0, 1]], J_2 = diag(2, 1/2)"),
        Check("two factors: Σ ln R_11", frame, math.log(2), 1e-13, "the frame's growth is less"),
        Check("sums of ln R_ii and ln σ_i over all i, worst relative difference",
              float(np.max(np.abs(gap) / np.abs(result.sums.sum(axis=1)))), 0.0, 1e-11,
              "both are ln |det Φ|"),
        Check("largest Σ ln R_11 - ln σ_1 over all lags", max(0.0, float(ahead.max())), 0.0, 1e-10,
              "a column's growth is at most σ_1"),
        Check(f"share of indices where both differ by > 0.01 nats, lag {result.settings.lags[row]}",
              float(np.mean(np.abs(np.sort(result.sums[row])[::-1] - result.singular[row]) > 0.01)),
              1.0, 0.2, "different quantities at finite T"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    exact = result.double[1].exponents
    last = result.settings.intervals[-1]
    auto = result.own["auto"]
    coarse = result.double[last].exponents
    wrong = coarse.sum() - exact.sum()
    return (
        f"Every k ≤ 18/(λ₁ - λ_N) steps: here the spread is {exact[0] - exact[-1]:.1f} nats per "
        f"step, so every second step at most. QR every {last} steps still gives λ₁ to all digits, "
        f"but λ_N = {coarse[-1]:.2f} instead of {exact[-1]:.2f}, and a sum that is "
        f"off by {wrong:.0f} nats per step, without any warning. The package reports it, and its "
        f"automatic interval agrees with QR at every step to "
        f"{np.max(np.abs(auto.exponents - exact)):.0e}."
    )


def draw(result: Result) -> Figure:
    """Draw spectra by interval, their errors, and the difference from singular values."""
    figure, panels = plots.new_figure(8.4, 3.5, ncols=3)
    with plots.style():
        _draw_spectra(panels[0], result)
        _draw_errors(panels[1], result)
        _draw_singular(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


RED, ORANGE, BLUE, GRAY, VIOLET = (
    plots.COLORS[c] for c in ("red", "orange", "blue", "gray", "violet")
)


def _draw_spectra(axes: Any, result: Result) -> None:
    exact, n = result.double[1].exponents, result.settings.size
    index = np.arange(1, n + 1)
    axes.plot(index, exact, color="black", linewidth=1.2)
    axes.plot(index, result.own["auto"].exponents, "o", color=BLUE, markersize=3)
    shown = [k for k in result.settings.intervals if k >= 5][-4:]
    shown = [shown[0], *shown[-2:]]
    for every, color in zip(shown, (VIOLET, ORANGE, RED), strict=True):
        values, height = result.double[every].exponents, floor(exact, every, float)
        axes.plot(index, values, ".", color=color, markersize=4)
        noise = last_exponent(result, every, np.float64)
        if noise is not None:
            axes.errorbar(n + 1, noise.value, noise.tolerance, fmt="D", color=color, markersize=3,
                          linewidth=1)  # fmt: skip
        axes.axhline(height, color=color, linewidth=0.8, linestyle=(0, (4, 2)))
        left = every == shown[0]
        axes.annotate(f"every {every} steps", (1 if left else n, height),
                      xytext=(0, -3 if left else 2), ha="left" if left else "right",
                      textcoords="offset points", va="top" if left else "bottom", color=color,
                      fontsize=8)  # fmt: skip
    label = "every step (line)\nand automatic"
    axes.annotate(label, (n // 2, exact[n // 2]), xytext=(-4, -14), ha="right", va="top",
                  textcoords="offset points", color=BLUE, fontsize=8)  # fmt: skip
    axes.set_ylim(exact[-1] - 1, 1)
    axes.set_title(f"exponents, N = {n}, g = {result.settings.gain:g}")
    axes.set_xlabel("index i")
    axes.set_ylabel("λᵢ (nats per step); dashed: floor")
    axes.text(1, exact[-1] - 0.9, "diamonds: last exponent\nby error analysis", fontsize=7.5)


def _draw_errors(axes: Any, result: Result) -> None:
    s, exact = result.settings, result.double[1].exponents
    spread = exact[0] - exact[-1]
    grid = np.linspace(1, 50, 400)
    for spectra, dtype, color, name in (
        (result.single, np.float32, ORANGE, "float32"), (result.double, np.float64, RED, "float64"),
    ):  # fmt: skip
        errors = [max(abs(spectra[k].exponents.sum() - result.log_det), 1e-17) for k in s.intervals]
        law = np.log(np.finfo(dtype).eps / 2) + grid * spread
        rising = law < math.log(errors[-1])
        axes.plot(grid[rising], np.exp(law[rising]), color=color, linewidth=1.2)
        axes.plot(s.intervals, errors, "o", color=color, markersize=4)
        above = dtype is np.float32
        axes.annotate(name, (1, errors[0]), xytext=(-3, 34 if above else -6),
                      textcoords="offset points", va="bottom" if above else "top",
                      color=color, fontsize=8)  # fmt: skip
    own = [(k, result.own[str(k)].residual) for k in s.own]
    axes.plot(*zip(*own, strict=True), "s", color=BLUE, markersize=8, fillstyle="none")
    auto = abs(result.own["auto"].exponents.sum() - result.log_det)
    auto = max(float(auto), 2e-16)  # none at all in some runs
    axes.axhline(auto, color=BLUE, linewidth=1)
    axes.annotate("automatic interval", (50, auto), xytext=(0, 3), textcoords="offset points",
                  ha="right", color=BLUE, fontsize=8)  # fmt: skip
    axes.text(50, 1e-6, "squares: what the\npackage reports\n"
              r"lines: $u\,e^{k(\lambda_1-\lambda_N)}$", ha="right", va="top",
              fontsize=7.5)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_ylim(1e-16, 1e4)
    axes.set_title("error of the sum of exponents")
    axes.set_xlabel("steps k between two QR")
    axes.set_ylabel("|Σ λᵢ − mean ln |det J|| (nats per step)")


def _draw_singular(axes: Any, result: Result) -> None:
    lags = np.array(result.settings.lags)
    ordered = np.sort(result.sums, axis=1)[:, ::-1]
    away = np.abs(ordered - result.singular)
    middle = result.settings.size // 2
    for index, color in ((0, RED), (middle, VIOLET)):
        name = f"i = {index + 1}"
        axes.plot(lags, away[:, index], "o-", color=color, markersize=3.5, linewidth=1)
        axes.annotate(name, (lags[-1], away[-1, index]), xytext=(5, 0), color=color, fontsize=8,
                      textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("not singular values")
    axes.set_xlabel("lag T (steps), QR at each")
    axes.set_ylabel("|Σ ln Rᵢᵢ − ln σᵢ| (nats)")
