"""Non-normal matrices: powers that grow by orders of magnitude before they vanish."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.products.transition import transition_norms
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds

TITLE = "A spectral radius below 1 does not keep gradients small: they first grow, then vanish"
QUESTION = "Why can the gradient explode although every eigenvalue lies inside the unit circle?"
SOURCE = (
    "Trefethen & Embree, Spectra and Pseudospectra (2005), chapters 14-18 (Kreiss matrix theorem); "
    "Horn & Johnson 1991, chapter 1 (numerical radius); Henrici 1962; Ganguli, Huh & Sompolinsky "
    "2008 (the delay line)."
)
JORDAN = np.array([[0.9, 5.0], [0.0, 0.9]])
LABELS = {
    "jordan": "Jordan block",
    "shift": "delay line",
    "grcar": "Grcar",
    "triangular": "random triangular",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the matrices, and how many powers are formed."""

    seed: int = 0
    size: int = 32
    radius: float = 0.95
    powers: int = 500


SMALL = Settings(powers=240)


class Result(NamedTuple):
    """Norms of powers, and what theory says of each matrix without forming any."""

    settings: Settings
    matrices: dict[str, np.ndarray]
    log_norms: dict[str, np.ndarray]  # ln ‖W^t‖, t = 0 … powers
    theory: dict[str, "Theory"]
    grcar: "Theory"  # of the unscaled matrix, n = 32


class Theory(NamedTuple):
    """Numbers of one matrix."""

    radius: float
    norm: float
    numerical_radius: float
    kreiss: float
    stability_radius: float
    henrici: float


def grcar(n: int) -> np.ndarray:
    """Give -1 below the diagonal, 1 on it and on the three diagonals above."""
    return np.eye(n) + sum(np.eye(n, k=j) for j in (1, 2, 3)) - np.eye(n, k=-1)


def compute(settings: Settings) -> Result:
    """Form the powers of four matrices, and their bounds."""
    matrices = _matrices(settings)
    log_norms = {}
    for name, W in matrices.items():
        chain = jnp.broadcast_to(jnp.asarray(W), (settings.powers, *W.shape))
        log_norms[name] = np.asarray(transition_norms(chain))
    theory = {name: _theory(W) for name, W in matrices.items()}
    return Result(settings, matrices, log_norms, theory, _theory(grcar(32)))


def _matrices(settings: Settings) -> dict[str, np.ndarray]:
    n = settings.size
    rng = np.random.default_rng(settings.seed)
    scaled = grcar(n) * (settings.radius / np.max(np.abs(np.linalg.eigvals(grcar(n)))))
    diagonal = rng.uniform(-settings.radius, settings.radius, n)
    diagonal[0] = settings.radius
    triangular = np.diag(diagonal) + np.triu(rng.normal(size=(n, n)), 1) / math.sqrt(n)
    return {"jordan": JORDAN, "shift": np.eye(n, k=1), "grcar": scaled, "triangular": triangular}


def _theory(W: np.ndarray) -> Theory:
    resolvent = bounds.resolvent(W)
    numbers = (
        np.max(np.abs(np.linalg.eigvals(W))),
        np.linalg.norm(W, 2),
        bounds.numerical_radius(W),
        resolvent.kreiss,
        resolvent.stability_radius,
        bounds.henrici_departure(W),
    )
    return Theory(*(float(number) for number in numbers))


def jordan_log_norms(times: np.ndarray) -> np.ndarray:
    """Give ln ‖A^t‖₂ of JORDAN from its Frobenius norm and determinant.

    ‖A^t‖_F² = λ^{2t} (2 + t² M²/λ²) is σ_1² + σ_2², and σ_1 σ_2 = λ^{2t}.
    """
    c = times * JORDAN[0, 1] / JORDAN[0, 0]
    return times * math.log(JORDAN[0, 0]) + np.log((np.abs(c) + np.sqrt(c**2 + 4)) / 2)


def checks(result: Result) -> list[Check]:
    """Compare with closed forms, published numbers and the theorems."""
    return [*_jordan_checks(result), *_exact_checks(result), *_theorem_checks(result)]


def _jordan_checks(result: Result) -> list[Check]:
    logs, theory = result.log_norms["jordan"], result.theory["jordan"]
    lam, coupling = JORDAN[0]
    times = np.arange(logs.size)
    exact = jordan_log_norms(times)
    height = coupling / (math.e * lam * abs(math.log(lam)))
    return [
        Check("Jordan block: largest power", float(np.exp(logs.max())), 19.378770, 1e-6,
              "closed form of σ_1 from trace and determinant"),
        Check("Jordan block: its step", float(np.argmax(logs)), 9.0, 0.0, "closed form"),
        Check("Jordan block: ln ‖W^t‖, worst deviation over all t",
              float(np.max(np.abs(logs - exact))), 0.0, 1e-10, "closed form"),
        Check("Jordan block: step of the peak, continuous in t", float(np.argmax(logs)),
              -1 / math.log(lam), 0.5, "-1/ln λ = 9.491"),
        Check("Jordan block: height of the peak, continuous in t", float(np.exp(logs.max())),
              height, 0.03, "M/(e λ |ln λ|) = 19.397918, for M t ≫ λ and t continuous"),
        Check("Jordan block: Kreiss constant", theory.kreiss, 12.52, 1e-5,
              "x (M + √(M² + 4a²))/(2a²), a = x + 1 - λ, at x = 1 - λ"),
        Check("Jordan block: e n K", math.e * 2 * theory.kreiss, 68.07, 0.005,
              "Kreiss matrix theorem"),
        Check("Jordan block: numerical radius", theory.numerical_radius, lam + coupling / 2, 1e-12,
              "disk of radius M/2 around λ"),
        Check("Jordan block: stability radius", theory.stability_radius,
              (math.sqrt(coupling**2 + 4 * (1 - lam) ** 2) - coupling) / 2, 1e-9,
              "σ_min of [[1 - λ, -M], [0, 1 - λ]]"),
    ]  # fmt: skip


def _exact_checks(result: Result) -> list[Check]:
    n, shift = result.settings.size, result.log_norms["shift"]
    return [
        Check("delay line: ln ‖W^t‖ for t < n, worst deviation", float(np.max(np.abs(shift[:n]))),
              0.0, 1e-13, "exact"),
        Check("delay line: largest ‖W^t‖ for t ≥ n", float(np.exp(shift[n:].max())), 0.0, 0.0,
              "exactly 0"),
        Check("delay line: numerical radius", result.theory["shift"].numerical_radius,
              math.cos(math.pi / (n + 1)), 1e-12, "cos(π/(n + 1))"),
        Check("Grcar, n = 32: spectral radius", result.grcar.radius, 2.249447777, 1e-6,
              "eigenvalues to √eps: they are ill-conditioned"),
        Check("Grcar, n = 32: 2-norm", result.grcar.norm, 3.222318496, 1e-8, "singular values"),
        Check("Grcar, n = 32: Henrici departure", result.grcar.henrici, 6.007086235, 1e-8,
              "√(‖A‖_F² - Σ|λ|²)"),
    ]  # fmt: skip


def _theorem_checks(result: Result) -> list[Check]:
    """Check the sandwich, both certificates and the asymptote on every matrix."""
    found = []
    for name, logs in result.log_norms.items():
        theory, n = result.theory[name], len(result.matrices[name])
        times, peak = np.arange(logs.size), float(np.exp(logs.max()))
        above = logs - math.log(2) - times * math.log(theory.numerical_radius)
        excess = [
            theory.kreiss / peak - 1,
            peak / (math.e * n * theory.kreiss) - 1,
            float(np.max(above)),
            float(np.max(logs - times * math.log(theory.norm))),
        ]
        found.append(
            Check(f"{LABELS[name]}: largest violation of K ≤ peak ≤ e n K, 2 w^t and σ_1^t",
                  max(0.0, *excess), 0.0, 1e-10, "theorems")
        )  # fmt: skip
    for name in ("grcar", "triangular"):
        logs, half = result.log_norms[name], result.settings.powers // 2
        slope = (logs[-1] - logs[half]) / (logs.size - 1 - half)
        # conjugate eigenvalues beat, a bounded oscillation over half of the powers
        tolerance = 2 / half
        found.append(
            Check(f"{LABELS[name]}: rate in the end, nats per step", float(slope),
                  math.log(result.theory[name].radius), tolerance, "Gelfand: ln ρ")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    parts = []
    for name in ("jordan", "triangular", "grcar"):
        logs = result.log_norms[name]
        peak = float(np.exp(logs.max()))
        parts.append(f"{peak:.3g}-fold by step {int(np.argmax(logs))} ({LABELS[name]})")
    radius = result.theory["grcar"].radius
    return (
        f"Because eigenvalues decide the limit only: with spectral radii of 0.9 to {radius:.3g} "
        f"powers first grow {', '.join(parts)}; a delay line of {result.settings.size} units has "
        f"radius 0, keeps norm 1 for {result.settings.size - 1} steps and then forgets everything."
    )


def draw(result: Result) -> Figure:
    """Draw the powers of the four matrices with their bounds."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        for axes, name in zip(panels.ravel(), result.matrices, strict=True):
            _DRAW[name](axes, result)
            _finish(axes, name, result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _finish(axes: Any, name: str, result: Result) -> None:
    """Write title and axis labels."""
    theory, n = result.theory[name], len(result.matrices[name])
    axes.set_title(f"{LABELS[name]}: ρ = {theory.radius:.3g}, σ₁ = {theory.norm:.3g}")
    axes.set_xlabel(f"step t (n = {n})")
    axes.set_ylabel("size of the power, ‖Wᵗ‖₂")


def _draw_powers(axes: Any, name: str, result: Result, last: int) -> np.ndarray:
    """Draw the norms of the powers up to `last`."""
    logs = result.log_norms[name][: last + 1]
    steps = np.arange(last + 1)
    every = slice(None, None, max(1, last // 60))
    axes.plot(steps[every], np.exp(logs)[every], "o", color=plots.COLORS["blue"], markersize=3)
    axes.set_xlim(0, last)
    return logs


def _draw_bounds(
    axes: Any, name: str, result: Result, last: int, limits: tuple[float, float]
) -> None:
    """Draw the Kreiss sandwich, both certificates and the asymptote of the eigenvalues."""
    theory, n = result.theory[name], len(result.matrices[name])
    bottom, top = limits
    steps = np.linspace(0, last, 2000)
    looks = (
        ("σ₁ᵗ", 0.0, theory.norm, plots.COLORS["orange"], 6),
        ("2wᵗ", math.log(2), theory.numerical_radius, plots.COLORS["violet"], 26),
    )
    for label, start, base, color, shift in looks:
        axes.plot(steps, np.exp(start + steps * math.log(base)), color=color, linewidth=1.3)
        leaves = math.log(top) / math.log(min(theory.norm, theory.numerical_radius))
        axes.annotate(label, (leaves, top), xytext=(shift, -4), textcoords="offset points",
                      va="top", fontsize=8.5, color=color)  # fmt: skip
    axes.plot(steps, theory.radius**steps, color="black", linestyle=(0, (4, 2)), linewidth=1.2)
    place = 0.6 * min(last, math.log(bottom) / math.log(theory.radius))
    axes.annotate("ρᵗ", (place, theory.radius**place), xytext=(-3, -3), fontsize=8.5,
                  textcoords="offset points", va="top", ha="right")  # fmt: skip
    ends = theory.kreiss, math.e * n * theory.kreiss
    axes.axhspan(*ends, color=plots.COLORS["olive"], alpha=0.2, linewidth=0)
    axes.text(0.98 * last, ends[1] / 1.1, "the largest power lies in [K, e n K]", ha="right",
              va="top", fontsize=7.5, color=plots.COLORS["olive"])  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)


def _draw_peak(axes: Any, logs: np.ndarray) -> None:
    """Mark the largest power."""
    peak = int(np.argmax(logs))
    axes.plot([peak], [np.exp(logs[peak])], "o", color=plots.COLORS["red"], markersize=4.5)
    axes.annotate(f"{np.exp(logs[peak]):.4g} at t = {peak}", (peak, np.exp(logs[peak])),
                  xytext=(4, 6), textcoords="offset points", fontsize=8,
                  color=plots.COLORS["red"])  # fmt: skip


def _draw_jordan(axes: Any, result: Result) -> None:
    """Draw the Jordan block: powers, closed form, peak."""
    last = 80
    logs = _draw_powers(axes, "jordan", result, last)
    grid = np.linspace(0, last, 400)
    axes.plot(grid, np.exp(jordan_log_norms(grid)), color=plots.COLORS["blue"], linewidth=1)
    _draw_bounds(axes, "jordan", result, last, (1e-4, 1e3))
    _draw_peak(axes, logs)


def _draw_shift(axes: Any, result: Result) -> None:
    """Draw the delay line: 1, then exactly 0, which is below every axis."""
    n = result.settings.size
    last = n + 12
    _draw_powers(axes, "shift", result, last)
    steps = np.arange(last + 1.0)
    w = result.theory["shift"].numerical_radius
    axes.plot(steps, 2 * w**steps, color=plots.COLORS["violet"], linewidth=1.3)
    axes.annotate("2wᵗ, w = cos(π/(n + 1))", (steps[2], 2 * w**2), xytext=(0, 4), fontsize=8.5,
                  textcoords="offset points", color=plots.COLORS["violet"])  # fmt: skip
    axes.plot(steps, np.ones_like(steps), color=plots.COLORS["orange"], linewidth=1.3, zorder=1)
    axes.text(last - 0.5, 0.97, "σ₁ᵗ", ha="right", va="top", color=plots.COLORS["orange"],
              fontsize=8.5)  # fmt: skip
    zeros = np.arange(n, last + 1)
    axes.plot(zeros, np.zeros(zeros.size), "o", color=plots.COLORS["blue"], markersize=3,
              clip_on=False)  # fmt: skip
    axes.plot(steps, np.where(steps == 0, 1, 0), color="black", linestyle=(0, (4, 2)),
              linewidth=1.2, zorder=1)  # fmt: skip
    axes.text(3, 0.04, "ρᵗ is 0 from the first step on", va="bottom", fontsize=8)
    axes.text((n + last) / 2, 0.12, f"exactly 0\nfrom t = {n} on", ha="center", fontsize=8,
              color=plots.COLORS["blue"])  # fmt: skip
    axes.set_ylim(-0.05, 2.3)


def _draw_grcar(axes: Any, result: Result) -> None:
    """Draw the Grcar matrix, scaled to a spectral radius below 1."""
    last = min(result.settings.powers, 400)
    logs = _draw_powers(axes, "grcar", result, last)
    _draw_bounds(axes, "grcar", result, last, (1e-6, 1e6))
    _draw_peak(axes, logs)


def _draw_triangular(axes: Any, result: Result) -> None:
    """Draw the random triangular matrix."""
    last = min(result.settings.powers, 240)
    logs = _draw_powers(axes, "triangular", result, last)
    _draw_bounds(axes, "triangular", result, last, (1e-4, 1e4))
    _draw_peak(axes, logs)


_DRAW = {
    "jordan": _draw_jordan,
    "shift": _draw_shift,
    "grcar": _draw_grcar,
    "triangular": _draw_triangular,
}
