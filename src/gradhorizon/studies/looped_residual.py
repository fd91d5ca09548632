"""Residual blocks h' = (I + ε W) h, looped or stacked, and how small ε must be.

A block applied N times is a recurrent network without inputs. With fresh matrices the paths
through the blocks add up in squares; with one matrix all C(N, k) paths through k copies of it
are the same vector, and add up as they are.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from scipy.optimize import root_scalar
from scipy.special import eval_legendre, i0

from gradhorizon import plots
from gradhorizon.cells import inits
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.theory import residual

TITLE = "Looping one residual block N times needs ε = 1/N, where fresh blocks bear 1/√N"
QUESTION = "How should the branch of a residual block be scaled when the block is looped?"
SOURCE = "Closed forms: docs/derivations.md (Wick's theorem for one and for many matrices)."
# ½ ln E‖h_N‖² of one looped matrix, n → ∞, from Σ C(N, k)² ε^2k
TIED_ROOT = {16: 2.7034, 64: 6.4465, 256: 14.2258, 1024: 30.0272}  # ε = 1/√N
TIED_INVERSE = {16: 0.4031, 64: 0.4097, 256: 0.4114, 1024: 0.4118}  # ε = 1/N
# where growth is measured to find the ε at which E‖h_N‖² = e, in units of theory's
BRACKET = (0.7, 0.85, 1.0, 1.15, 1.3)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments; fresh blocks are exact at every width, and may be narrow."""

    seed: int = 0
    loops: list[int] = dataclasses.field(default_factory=lambda: [4, 16, 64, 256])
    shown: int = 64
    looped_width: int = 256
    fresh_width: int = 32
    draws: int = 400
    largest: int = 1024


SMALL = Settings(loops=[16], shown=16, looped_width=96, fresh_width=16, draws=200)


class Growth(NamedTuple):
    """The logarithm of a mean over draws, with its standard error."""

    log_mean: np.ndarray
    error: np.ndarray


class Result(NamedTuple):
    """Growth of the gradient, by (looped or fresh, N)."""

    settings: Settings
    root: dict[tuple[bool, int], Growth]  # ε = 1/√N, at lags 0 … N
    inverse: dict[tuple[bool, int], Growth]  # ε = 1/N, at lags 0 … N
    largest: dict[tuple[bool, int], tuple[float, float]]  # ε with E‖h_N‖² = e, and its error


def residual_block(params: Any, h: Any, _: Any) -> Float[Array, " n"]:
    """Advance h by its branch; `params` is ε W, and there is no input."""
    return h + params @ h


def compute(settings: Settings) -> Result:
    """Send gradients back through looped and through fresh blocks, for many draws."""
    s = settings
    root, inverse, largest = {}, {}, {}
    for tied in (True, False):
        for loops in s.loops:
            exact = largest_scale(loops, tied=tied)
            scales = np.array([loops**-0.5, 1 / loops, *(exact * b for b in BRACKET)])
            key = jax.random.fold_in(jax.random.key(s.seed), 2 * loops + tied)
            width = s.looped_width if tied else s.fresh_width
            growth = _growth(
                jax.random.split(key, s.draws), scales, loops=loops, width=width, tied=tied
            )
            root[tied, loops] = Growth(growth.log_mean[0], growth.error[0])
            inverse[tied, loops] = Growth(growth.log_mean[1], growth.error[1])
            largest[tied, loops] = _crossing(growth, scales[2:])
    return Result(s, root, inverse, largest)


def _growth(keys: Any, scales: Any, *, loops: int, width: int, tied: bool) -> Growth:
    """Give ln of the mean squared gradient at every lag, shape (scales, N + 1)."""
    norms = np.asarray(_log_norms(keys, jnp.asarray(scales), loops=loops, width=width, tied=tied))
    peak = 2 * norms.max(axis=0)
    shares = np.exp(2 * norms - peak)
    mean = shares.mean(axis=0)
    error = shares.std(axis=0, ddof=1) / math.sqrt(len(norms)) / mean
    return Growth(np.log(mean) + peak, error)


@functools.partial(jax.jit, static_argnames=("loops", "width", "tied"))
def _log_norms(keys: Any, scales: Any, *, loops: int, width: int, tied: bool) -> Array:
    """Give ln of the gradient's size by lag, for every draw and scale."""

    def one(key: Any) -> Array:
        for_w, for_v = jax.random.split(key)
        shape = (width, width) if tied else (loops, width, width)
        # the initializer takes the last axis for the fan-in: entries of variance 1/n
        matrices = inits.gaussian()(for_w, shape, scales.dtype)
        cotangent = jax.random.normal(for_v, (width,))
        start = jnp.zeros(width, scales.dtype)

        def at(scale: Any) -> Array:
            chain = jacobian_chain(residual_block, scale * matrices, start, length=loops, tied=tied)
            return backpropagate(chain, cotangent, throw=False).by_lag

        return jax.lax.map(at, scales)

    return jax.lax.map(one, keys)


def _crossing(growth: Growth, scales: np.ndarray) -> tuple[float, float]:
    """Give the ε at which ln E‖h_N‖² passes 1, and its standard error."""
    ends, errors = growth.log_mean[2:, -1], growth.error[2:, -1]
    place = float(np.interp(1.0, ends, np.log(scales)))
    middle = len(scales) // 2
    slope = (ends[middle + 1] - ends[middle - 1]) / np.log(scales[middle + 1] / scales[middle - 1])
    return math.exp(place), math.exp(place) * float(errors[middle] / slope)


def largest_scale(loops: int, *, tied: bool) -> float:
    """Give the ε at which E‖h_N‖² = e: √(e^{1/N} - 1) for fresh blocks."""
    if not tied:
        return math.sqrt(math.expm1(1 / loops))
    bracket = (0.1 / loops, 1.5 / loops)
    return float(root_scalar(lambda e: legendre(e, loops) - 1, bracket=bracket, xtol=1e-15).root)


def legendre(scale: Any, loops: Any) -> Any:
    """Give ln Σ C(N, k)² x^k, x = ε² < 1, a second way: N ln(1 - x) + ln P_N((1 + x)/(1 - x))."""
    x = np.square(scale)
    return loops * np.log1p(-x) + np.log(eval_legendre(loops, (1 + x) / (1 - x)))


def revisits(loops: int, scale: float, width: int) -> float:
    """Allow for finite width: k²/(2n), the chance that a path through k copies meets a unit twice.

    k = εN/(1 + ε) copies contribute most to Σ C(N, k)² ε^2k.
    """
    copies = max(scale * loops / (1 + scale), 1.0)
    return copies**2 / (2 * width)


def checks(result: Result) -> list[Check]:
    """Compare theory with its table and limits, and draws with theory."""
    return [*_theory_checks(result), *_growth_checks(result), *_largest_checks(result)]


def _half(scale: float, loops: int, *, tied: bool) -> float:
    return float(residual.log_growth(scale, loops, tied=tied)) / 2


def _line(scale: Any, loops: Any, *, tied: bool) -> np.ndarray:
    """Give ½ ln E‖h_N‖² for many N at once."""
    return (legendre(scale, loops) if tied else loops * np.log1p(np.square(scale))) / 2


def _theory_checks(result: Result) -> list[Check]:
    most = result.settings.largest
    found = []
    for loops in TIED_ROOT:
        for name, scale, table in (
            ("1/√N", loops**-0.5, TIED_ROOT), ("1/N", 1 / loops, TIED_INVERSE),
        ):  # fmt: skip
            found.append(
                Check(f"looped, ε = {name}, N = {loops}: ½ ln E‖h_N‖²",
                      _half(scale, loops, tied=True), table[loops], 5.1e-5, "Σ C(N, k)² ε^2k")
            )  # fmt: skip
        found.append(
            Check(f"looped, ε = 1/√N, N = {loops}: the same by Legendre's polynomial",
                  float(legendre(loops**-0.5, loops)) / 2, _half(loops**-0.5, loops, tied=True),
                  1e-10, "Σ C(N, k)² x^k = (1 - x)^N P_N((1 + x)/(1 - x))")
        )  # fmt: skip
    limit = float(residual.log_growth_limit(1.0, tied=True)) / 2
    touching = root_scalar(lambda s: i0(2 * s) - math.e, bracket=(0.5, 2.0)).root
    return [
        *found,
        Check("looped, ε = 1/N, N → ∞: ½ ln E‖h_N‖²", limit, 0.411996770741, 1e-12,
              "½ ln I_0(2), I_0(2) = 2.279585302336"),
        Check(f"looped, ε = 1/N, N = {most}: distance from the limit",
              _half(1 / most, most, tied=True), limit, 1 / most, "½ ln I_0(2) + O(1/N)"),
        Check(f"fresh, ε = 1/√N, N = {most}: ½ ln E‖h_N‖²", _half(most**-0.5, most, tied=False),
              0.5, 1 / most, "(1 + 1/N)^N → e"),
        Check(f"fresh, ε = 1/N, N = {most}: ½ ln E‖h_N‖²", _half(1 / most, most, tied=False), 0.0,
              1 / most, "(1 + 1/N²)^N → 1"),
        Check(f"looped, N = {most}: N times the ε with E‖h_N‖² = e",
              most * largest_scale(most, tied=True), float(touching), 2 / most,
              "I_0(2s) = e, up to O(1/N)"),
    ]  # fmt: skip


def _growth_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for name, table in (("1/√N", result.root), ("1/N", result.inverse)):
        for (tied, loops), growth in table.items():
            scale = loops**-0.5 if name == "1/√N" else 1 / loops
            width = s.looped_width if tied else s.fresh_width
            source = "(1 + ε²)^N, exact at every width; four standard errors"
            tolerance = 2 * float(growth.error[-1])
            if tied:
                source = "Σ C(N, k)² ε^2k; four standard errors and revisited units"
                tolerance += revisits(loops, scale, width)
            label = f"{'looped' if tied else 'fresh'}, n = {width}, ε = {name}, N = {loops}"
            found.append(
                Check(f"{label}: ½ ln of the mean square", float(growth.log_mean[-1]) / 2,
                      _half(scale, loops, tied=tied), tolerance, source)
            )  # fmt: skip
    return found


def _largest_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    for (tied, loops), (scale, error) in result.largest.items():
        exact = largest_scale(loops, tied=tied)
        width = s.looped_width if tied else s.fresh_width
        # d ln E/d ln ε is about 2; the polygon between the scales of BRACKET adds a hundredth
        allowance = 0.01 + (revisits(loops, exact, width) if tied else 0.0)
        found.append(
            Check(f"{'looped' if tied else 'fresh'}, N = {loops}: ε with a mean square of e, "
                  "in units of theory's", scale / exact, 1.0, 4 * error / exact + allowance,
                  "closed form; four standard errors, interpolation, revisited units")
        )  # fmt: skip
    low, high = 64, s.largest
    for tied, power in ((True, -1.0), (False, -0.5)):
        ratio = largest_scale(high, tied=tied) / largest_scale(low, tied=tied)
        found.append(
            Check(f"{'looped' if tied else 'fresh'}: power of N in that ε, N = {low} to {high}",
                  math.log(ratio) / math.log(high / low), power, 1 / low,
                  "1/N looped, 1/√N fresh, up to O(1/N)")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    n = result.settings.shown
    root = {t: math.exp(result.root[t, n].log_mean[-1] / 2) for t in (True, False)}
    inverse = math.exp(result.inverse[True, n].log_mean[-1] / 2)
    return (
        f"With ε = 1/N: {n} loops of one matrix multiply the gradient by {inverse:.2f} (√I_0(2) = "
        f"1.51 as N → ∞), and never by more. At ε = 1/√N, which {n} fresh blocks turn into "
        f"{root[False]:.2f} (√e = 1.65), they multiply it by {root[True]:.0f}."
    )


def draw(result: Result) -> Figure:
    """Draw growth along the loops, growth against their number, and the largest ε."""
    figure, panels = plots.new_figure(8.4, 3.3, ncols=3)
    with plots.style():
        _draw_loops(panels[0], result)
        _draw_numbers(panels[1], result)
        _draw_largest(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


RED, ORANGE, BLUE, GRAY = (plots.COLORS[c] for c in ("red", "orange", "blue", "gray"))
# looped at 1/√N, looped at 1/N, fresh at 1/√N, fresh at 1/N
LOOKS = {
    ("root", True): (RED, "looped, ε = 1/√N"),
    ("inverse", True): (ORANGE, "looped, 1/N"),
    ("root", False): (BLUE, "fresh, 1/√N"),
    ("inverse", False): (GRAY, "fresh, 1/N"),
}


def _points(axes: Any, places: Any, growth: Any, color: str) -> None:
    """Draw the root mean square in decades with its standard errors."""
    means, errors = (np.asarray(v) / 2 / plots.LN10 for v in growth)
    axes.errorbar(places, means, errors, fmt="o", color=color, markersize=3.2, linewidth=1)


def _draw_loops(axes: Any, result: Result) -> None:
    n = result.settings.shown
    lags = np.unique(np.rint(np.linspace(0, n, 17)).astype(int))
    shifts = {("root", True): (-6, 0), ("root", False): (0, 7)}
    for (name, tied), (color, label) in LOOKS.items():
        growth = getattr(result, name)[tied, n]
        scale = n**-0.5 if name == "root" else 1 / n
        theory = _line(scale, np.arange(n + 1), tied=tied) / plots.LN10
        axes.plot(range(n + 1), theory, color=color)
        _points(axes, lags, (growth.log_mean[lags], growth.error[lags]), color)
        if name == "root":
            axes.annotate(label, (0.7 * n, theory[int(0.7 * n)]), xytext=shifts[name, tied],
                          textcoords="offset points", ha="right" if tied else "center",
                          color=color, fontsize=8)  # fmt: skip
    axes.annotate("1/N: looped", (n, 0), xytext=(-32, -13), textcoords="offset points",
                  ha="right", color=ORANGE, fontsize=8)  # fmt: skip
    axes.annotate("and fresh", (n, 0), xytext=(-30, -13), textcoords="offset points",
                  color=GRAY, fontsize=8)  # fmt: skip
    axes.set_xlim(0, 1.02 * n)
    axes.set_ylim(-0.35, 3.1)
    axes.set_title(f"along N = {n} blocks")
    axes.set_xlabel("blocks passed")
    axes.set_ylabel("log₁₀ of the gradient's rms size")


def _draw_numbers(axes: Any, result: Result) -> None:
    s = result.settings
    grid = np.unique(np.rint(np.geomspace(2, s.largest, 60)).astype(int))
    for (name, tied), (color, _) in LOOKS.items():
        scales = grid**-0.5 if name == "root" else 1 / grid
        axes.plot(grid, np.exp(_line(scales, grid, tied=tied)), color=color)
        measured = [getattr(result, name)[tied, n] for n in s.loops]
        sizes = np.exp([g.log_mean[-1] / 2 for g in measured])
        errors = sizes * np.array([g.error[-1] / 2 for g in measured])
        axes.errorbar(s.loops, sizes, errors, fmt="o", color=color, markersize=3.2, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(2, s.largest)
    axes.set_ylim(0.9, 2.6)
    axes.set_xticks([2**k for k in range(2, 11, 2)], [str(2**k) for k in range(2, 11, 2)])
    sizes = ", ".join(f"{math.exp(TIED_ROOT[n]):.0f} at N = {n}" for n in (16, 64))
    axes.text(4.6, 2.57, f"looped, 1/√N:\n{sizes}", color=RED, fontsize=8, va="top")
    texts = (("fresh, 1/√N → √e", math.exp(0.5), BLUE, 8),
             ("looped, 1/N → √I₀(2)", math.sqrt(i0(2.0)), ORANGE, -13),
             ("fresh, 1/N → 1", 1.0, GRAY, 4))  # fmt: skip
    for text, level, color, shift in texts:
        axes.annotate(text, (s.largest, level), xytext=(0, shift), textcoords="offset points",
                      ha="right", color=color, fontsize=8)  # fmt: skip
    axes.set_title("through all N blocks")
    axes.set_xlabel("number of blocks N")
    axes.set_ylabel("the gradient's rms size")


def _draw_largest(axes: Any, result: Result) -> None:
    s = result.settings
    whole = np.unique(np.rint(np.geomspace(2, s.largest, 24)).astype(int))
    labels = {True: ("one looped\nmatrix: ∝ 1/N", RED, (-6, -22), "right"),
              False: ("fresh matrices:\n1/√N", BLUE, (6, 8), "left")}  # fmt: skip
    for tied, (text, color, shift, side) in labels.items():
        theory = [largest_scale(int(n), tied=tied) for n in whole]
        axes.loglog(whole, theory, color=color)
        values, errors = np.transpose([result.largest[tied, n] for n in s.loops])
        axes.errorbar(s.loops, values, errors, fmt="o", color=color, markersize=3.2, linewidth=1)
        place = len(whole) // 2
        axes.annotate(text, (whole[place], theory[place]), xytext=shift, ha=side,
                      textcoords="offset points", color=color, fontsize=8)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([2**k for k in range(2, 11, 2)], [str(2**k) for k in range(2, 11, 2)])
    axes.set_xlim(2, s.largest)
    axes.set_title("the largest ε that is safe")
    axes.set_xlabel("number of blocks N")
    axes.set_ylabel("ε at which the mean square is e")
