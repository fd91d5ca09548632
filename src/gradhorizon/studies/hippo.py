"""HiPPO-LegS: why it is not diagonalized, and what its non-normality does to the gradient."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.products.transition import transition_norms
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds, hippo

TITLE = "HiPPO-LegS: eigenvectors that lose every digit, a gradient that outlasts its eigenvalues"
QUESTION = "Why is the HiPPO matrix not simply diagonalized, and what do its eigenvalues hide?"
SOURCE = (
    "Gu, Dao, Ermon, Rudra & Ré, NeurIPS 2020 (theorem 2, proposition 5); Gu, Goel & Ré, ICLR "
    "2022 (lemma 3.2: the binomials and their bound 2^(4N/3)); Henrici 1962."
)
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
DECIMALS = {np.float32: "single precision", np.float64: "double precision"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    largest: int = 32  # of the matrices that are diagonalized
    small: int = 4  # of those whose powers are followed
    middle: int = 16
    large: int = 64
    dt: float = 0.05
    duration: float = 16.0
    recurrence: int = 8  # size of the one whose time step shrinks with the history
    history: int = 1000  # and how many steps of it are followed

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes whose powers are followed, ascending."""
        return self.small, self.middle, self.large


SMALL = Settings(largest=24, middle=8, large=16, history=300)


class Result(NamedTuple):
    """What was measured."""

    settings: Settings
    amplified: np.ndarray  # ‖|V| |Λ| |V⁻¹|‖/‖A‖ for N = 1 …: by how much rounding grows
    rebuilt: dict[Any, np.ndarray]  # dtype -> relative error of V Λ V⁻¹, for N = 1 …
    held: dict[int, np.ndarray]  # N -> ln ‖exp(tA)‖₂ at t = 0, dt, …
    exponents: np.ndarray  # of the smallest of `sizes`
    early: np.ndarray  # ln ‖Φ(m, 0)‖₂ of the recurrence, m = 0 … 2N
    late: np.ndarray  # ln ‖Φ(T, T-k)‖₂ of the recurrence far out


def compute(settings: Settings) -> Result:
    """Diagonalize the matrix, follow its exponential, and run the recurrence it comes from."""
    s = settings
    sizes = range(1, s.largest + 1)
    steps = round(s.duration / s.dt)
    held, exponents = {}, np.zeros(0)
    for n in s.sizes:
        step = hippo.discretize_matrix(hippo.legs(n), s.dt)
        chain = jnp.broadcast_to(step, (steps, n, n))
        held[n] = np.asarray(transition_norms(chain))
        if n == s.sizes[0]:
            exponents = np.asarray(lyapunov_spectrum(chain, burn_in=steps // 2).exponents)
    factors = _factors(s.recurrence, s.history)
    # norms from the beginning: those of the transposed chain from its end
    beginning = np.swapaxes(factors[: 2 * s.recurrence], 1, 2)[::-1]
    far = factors[s.recurrence :]
    return Result(
        settings=s,
        amplified=np.array([_amplified(n) for n in sizes]),
        rebuilt={d: np.array([_rebuilt(n, d) for n in sizes]) for d in UNIT},
        held=held,
        exponents=exponents,
        early=np.asarray(transition_norms(jnp.asarray(beginning))),
        late=np.asarray(transition_norms(jnp.asarray(far))),
    )


def _factors(n: int, count: int) -> np.ndarray:
    """Give I + A/k for k = 1 … count."""
    A = np.asarray(hippo.legs(n), np.float64)
    return np.eye(n) + A / np.arange(1.0, count + 1)[:, None, None]


def _amplified(n: int) -> float:
    vectors, inverse = (np.abs(np.asarray(m)) for m in hippo.legs_eigenvectors(n))
    terms = (vectors * np.arange(1.0, n + 1)[None]) @ inverse
    return float(np.linalg.norm(terms, 2) / np.linalg.norm(np.asarray(hippo.legs(n)), 2))


def _rebuilt(n: int, dtype: Any) -> float:
    """Give ‖V Λ V⁻¹ - A‖/‖A‖ with the exact V and V⁻¹ rounded to a precision and used in it."""
    vectors, inverse = (np.asarray(m).astype(dtype) for m in hippo.legs_eigenvectors(n))
    values = np.asarray(hippo.legs_eigenvalues(n)).astype(dtype)
    exact = np.asarray(hippo.legs(n), np.float64)
    product = ((vectors * values[None]) @ inverse).astype(np.float64)
    return float(np.linalg.norm(product - exact, 2) / np.linalg.norm(exact, 2))


def lost_at(errors: np.ndarray) -> int:
    """Give the first N at which no digit is right."""
    return int(np.argmax(errors > 1)) + 1 if np.any(errors > 1) else errors.size + 1


def by_modes(n: int, start: int, stops: np.ndarray) -> np.ndarray:
    """Give ln ‖V diag(Π (1 - j/k)) V⁻¹‖₂, the recurrence from `start` by its eigenvalues."""
    vectors, inverse = (np.asarray(m) for m in hippo.legs_eigenvectors(n))
    norms = []
    for stop in stops:
        logs = np.asarray(hippo.recurrence_log_eigenvalues(n, start, int(stop)))
        norms.append(np.linalg.norm((vectors * np.exp(logs)[None]) @ inverse, 2))
    return np.log(norms)


def checks(result: Result) -> list[Check]:
    """Compare with published numbers, closed forms, and the exact modes."""
    return [*_spectrum_checks(result), *_held_checks(result), *_recurrence_checks(result)]


def _spectrum_checks(result: Result) -> list[Check]:
    vectors, _ = (np.asarray(m) for m in hippo.legs_eigenvectors(16))
    A, values = np.asarray(hippo.legs(16)), np.asarray(hippo.legs_eigenvalues(16))
    residual = np.linalg.norm(A @ vectors - vectors * values[None])
    residual /= np.linalg.norm(A) * np.linalg.norm(vectors)
    found = [
        Check("eigenvectors, N = 16: relative residual", float(residual), 0.0, 1e-12,
              "lemma 3.2 with rows scaled by √(2i+1)"),
    ]  # fmt: skip
    for n, largest, departure in ((8, 210.0, 41.327957), (16, 319770.0, 173.320512)):
        binomials = (
            np.asarray(hippo.legs_eigenvectors(n)[0]) / np.sqrt(2 * np.arange(n) + 1)[:, None]
        )
        found += [
            Check(f"largest binomial, N = {n}", float(np.abs(binomials).max()), largest, 1e-9,
                  "Gu et al. 2022"),
            Check(f"Henrici departure, N = {n}", float(bounds.henrici_departure(hippo.legs(n))),
                  departure, 1e-6, "√(N⁴/2 - N(4N² - 1)/6)"),
        ]  # fmt: skip
    for dtype, errors in result.rebuilt.items():
        expected = 1 + int(np.argmax(result.amplified * UNIT[dtype] > 1))
        if result.amplified[-1] * UNIT[dtype] > 1:
            found.append(
                Check(f"{DECIMALS[dtype]}: first N whose V Λ V⁻¹ has no right digit",
                      float(lost_at(errors)), float(expected), 3.0,
                      "the terms of the product times unit round-off pass ‖A‖")
            )  # fmt: skip
    return found


def _held_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    times = s.dt * np.arange(result.held[s.sizes[0]].size)
    for n, logs in result.held.items():
        found.append(
            Check(f"N = {n}: ln ‖exp(tA)‖ + t in the end", float(logs[-1] + times[-1]), math.log(n),
                  n**2 * math.exp(-times[-1]) + 1e-9, "ln N: condition of the eigenvalue -1")
        )  # fmt: skip
    worst = max(float(np.max(logs + times / 2)) for logs in result.held.values())
    exact = -s.dt * np.arange(1.0, s.sizes[0] + 1)
    settled = s.sizes[0] ** 2 * math.exp(-times[-1] / 2) / (times.size // 2)
    return [
        *found,
        Check("largest ln ‖exp(tA)‖ + t/2 over all t and N", worst, 0.0, 1e-10,
              "numerical range ends at -1/2; reached at t = 0"),
        Check("initial rate of the largest N", float(result.held[s.sizes[-1]][1] / s.dt), -0.5,
              s.dt, "numerical abscissa -1/2"),
        Check(f"N = {s.sizes[0]}: exponents against -dt, -2 dt, …, worst",
              float(np.max(np.abs(result.exponents - exact))), 0.0, settled, "eigenvalues -1 … -N; "
              "what alignment of the frame leaves after half of the steps"),
        Check(f"N = {s.sizes[0]}: sum of the exponents", float(np.sum(result.exponents)),
              float(np.sum(exact)), 1e-12, "trace of A, exact at any length"),
    ]  # fmt: skip


def _recurrence_checks(result: Result) -> list[Check]:
    s, n = result.settings, result.settings.recurrence
    middle = (n - 1) // 2
    product = np.eye(n, dtype=np.longdouble)
    for factor in _factors(n, middle).astype(np.longdouble):
        product = factor @ product
    exact = math.log(np.linalg.norm(product.astype(np.float64), 2))
    eigenvalue = math.exp(float(np.max(hippo.recurrence_log_eigenvalues(n, 0, middle))))
    far = np.array([s.history // 2, s.history // 4])
    modes = [by_modes(n, int(start), np.array([s.history]))[0] for start in far]
    measured = result.late[s.history - far]
    dead = float(np.exp(result.early[n] - result.early.max()))
    return [
        Check(f"recurrence: largest eigenvalue after {middle} steps", eigenvalue,
              float(math.comb(n - 1, middle)), 1e-6, "binomial C(N - 1, m)"),
        Check(f"recurrence: ln ‖Φ‖ after {middle} steps", float(result.early[middle]), exact,
              1e-9, "product in extended precision"),
        Check("recurrence: what is left after N steps, of its peak", dead, 0.0,
              1e-10, "Cayley and Hamilton: exactly 0"),
        Check("recurrence far out: ln ‖Φ(T, s)‖ against its exact modes, worst",
              float(np.max(np.abs(measured - modes))), 0.0, 1e-6, "Π (1 - j/k), j = 1 … N"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    single, double = (lost_at(errors) for errors in result.rebuilt.values())
    n = result.settings.sizes[-1]
    last = result.held[n][-1] + result.settings.dt * (result.held[n].size - 1)
    peak = float(np.exp(result.early.max()))
    return (
        f"Its eigenvectors are so close to parallel that rebuilding A from them has no right digit "
        f"from N = {single} in single and N = {double} in double precision. Nothing grows in the "
        f"coordinates of the orthonormal polynomials, but for N = {n} the gradient stays "
        f"{math.exp(last):.3g} times above what the slowest eigenvalue says; the recurrence that "
        f"HiPPO discretizes by Euler's rule grows {peak:.2g}-fold within its first "
        f"{result.settings.recurrence} steps, then forgets them exactly."
    )


def draw(result: Result) -> Figure:
    """Draw lost digits, the held gradient, and the recurrence early and far out."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_digits(panels[0, 0], result)
        _draw_held(panels[0, 1], result)
        _draw_early(panels[1, 0], result)
        _draw_late(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_digits(axes: Any, result: Result) -> None:
    """Draw the error of V Λ V⁻¹ in two precisions beside rounding times the size of its terms."""
    sizes = np.arange(1, result.amplified.size + 1)
    looks = zip(result.rebuilt.items(), (plots.COLORS["orange"], plots.COLORS["blue"]), strict=True)
    for (dtype, errors), color in looks:
        seen = errors > 0
        axes.semilogy(sizes[seen], errors[seen], "o", color=color, markersize=3)
        axes.semilogy(sizes, result.amplified * UNIT[dtype], color=color, linewidth=1)
        place = 9 if dtype is np.float32 else 21
        axes.annotate(DECIMALS[dtype].split()[0], (place, errors[place - 1]), xytext=(6, -7),
                      textcoords="offset points", color=color, fontsize=8)  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(0.5, 2.0, "all digits wrong", fontsize=7.5)
    axes.text(0.98, 0.04, "line: rounding of the terms", transform=axes.transAxes, ha="right",
              fontsize=7.5)  # fmt: skip
    axes.set_ylim(1e-18, 1e6)
    axes.set_xlabel("N")
    axes.set_ylabel("relative error of V Λ V⁻¹")
    axes.set_title("A from its eigenvectors, single and double")


def _draw_held(axes: Any, result: Result) -> None:
    """Draw ‖exp(tA)‖ relative to the slowest eigenvalue, with both asymptotes."""
    s, colors = result.settings, ("blue", "orange", "violet")
    times = s.dt * np.arange(result.held[s.sizes[0]].size)
    decades = times / 2 / plots.LN10
    axes.plot(times, decades, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
    for (n, logs), color in zip(result.held.items(), colors, strict=False):
        level, shade = math.log10(n), plots.COLORS[color]
        axes.plot(times, (logs + times) / plots.LN10, color=shade)
        axes.plot(times[-1:], [level], "D", color=shade, markersize=4, clip_on=False)
        axes.annotate(f"N = {n}", (times[-1], level), xytext=(-6, 5), textcoords="offset points",
                      ha="right", color=shade, fontsize=8)  # fmt: skip
    top = math.log10(s.sizes[-1]) + 0.35
    axes.annotate("no faster than $e^{t/2}$", (2 * plots.LN10 * 0.75 * top, 0.75 * top),
                  xytext=(-7, 0), textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.set_ylim(0, top)
    axes.set_xlim(0, times[-1])
    axes.set_xlabel("time t")
    axes.set_ylabel("log₁₀ of ‖exp(tA)‖ · eᵗ")
    axes.set_title("above its slowest eigenvalue (◆: N)")


def _draw_early(axes: Any, result: Result) -> None:
    """Draw the norm of the recurrence from its beginning, and its largest eigenvalue."""
    n = result.settings.recurrence
    steps = np.arange(result.early.size)
    largest = [float(np.max(hippo.recurrence_log_eigenvalues(n, 0, int(m)))) for m in range(n)]
    axes.plot(steps, result.early / plots.LN10, "o-", color=plots.COLORS["red"], markersize=3,
              linewidth=1)  # fmt: skip
    axes.plot(steps[:n], np.array(largest) / plots.LN10, color="black", linewidth=1.2,
              linestyle=(0, (4, 2)))  # fmt: skip
    axes.text(n / 2, 2.4, "largest singular value", color=plots.COLORS["red"], fontsize=8,
              ha="center")  # fmt: skip
    axes.text(0.46 * n, 0.3, f"eigenvalue, C({n - 1}, m)", fontsize=8, ha="center")
    axes.axvline(n, color=plots.COLORS["gray"], linewidth=0.8)
    axes.text(n + 0.2, 2.4, "exactly 0\nfrom here on", fontsize=8, va="center")
    axes.set_xlim(-0.3, 1.4 * n)
    axes.set_xlabel("steps m from the beginning")
    axes.set_ylabel("log₁₀ of Φ(m, 0)")
    axes.set_title(f"Euler's rule at the start, N = {n}")


def _draw_late(axes: Any, result: Result) -> None:
    """Draw the gradient of the recurrence against where it came from, far out."""
    s, n = result.settings, result.settings.recurrence
    starts = np.unique(np.geomspace(2 * n, s.history - 1, 24).astype(int))
    share = starts / s.history
    measured = result.late[s.history - starts]
    modes = [by_modes(n, int(start), np.array([s.history]))[0] for start in starts]
    axes.loglog(share, np.exp(modes), color="black", linewidth=1.2, linestyle=(0, (4, 2)),
                label="exact modes")  # fmt: skip
    axes.loglog(share, np.exp(measured), "o", color=plots.COLORS["blue"], markersize=3.5,
                label="measured")  # fmt: skip
    axes.loglog(
        share, share, color=plots.COLORS["gray"], linewidth=1, label="slowest eigenvalue, s/T"
    )
    axes.legend(loc="lower right", fontsize=7.5)
    axes.set_xlabel("s/T: where the gradient arrives")
    axes.set_ylabel("‖Φ(T, s)‖")
    axes.set_title(f"far out: a power of s/T (T = {s.history})")
