"""The line χ = 1 that separates vanishing from exploding gradients, and finite networks near it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from gradhorizon import plots
from gradhorizon.studies._line_networks import (
    CUT,
    CUT_POINTS,
    Measured,
    Settings,
    correlation_rate,
    lengths,
    measure,
    measure_tied,
    rates,
    rates_of_theory,
    scales,
)
from gradhorizon.studies._study import Check
from gradhorizon.theory import isometry, mean_field

TITLE = "One line in the plane of weight and bias variance separates vanishing from exploding"
QUESTION = "How must a random network be initialized so that gradients neither vanish nor explode?"
SOURCE = (
    "Poole et al. 2016 and Schoenholz et al. 2017 (mean field of random networks); Molgedey, "
    "Schuchhardt & Schuster 1992 (recurrent networks with input noise)."
)
# σ_b²: q*, σ_w² on the critical line of tanh, by quadrature
LINE = {
    1e-5: (0.0203379531, 1.0395211285),
    1e-3: (0.1072923561, 1.1891895852),
    0.01: (0.2733009135, 1.4242052905),
    0.05: (0.5700478816, 1.7609546396),
    0.2: (1.1644962875, 2.2851524737),
    0.3: (1.4611694469, 2.5051271897),
}
# σ_w²: q*, χ, c*, ξ_c, ξ_q of tanh at σ_b² = 0.05, by quadrature
SCALES = {
    1.0: (0.19359252, 0.75903165, 1.0, 3.62698, 1.74763),
    1.3: (0.31531648, 0.88016351, 1.0, 7.83407, 1.78524),
    1.7: (0.53307563, 0.98674081, 1.0, 74.918, 1.55825),
    1.9: (0.65711185, 1.02845196, 0.838201, 39.352, 1.44095),
    2.5: (1.06395838, 1.13351570, 0.446804, 11.7956, 1.17987),
    4.0: (2.19549393, 1.34240241, 0.165065, 6.98027, 0.87329),
}
NOISE = {0.01: 1.193400725, 0.05: 1.327009661, 0.5: 1.686169464, 2.0: 2.065525625}
SPAN = {"tanh": (0.4, 4.4), "erf": (0.4, 4.4)}
TOP = 0.4  # largest σ_b² of the maps


SMALL = Settings(width=100, depth=30, steps=60, draws=6, map_columns=3, map_rows=2, grid=8)


class Result(NamedTuple):
    """Theory on a grid, fresh layers on the grid and on the cut, tied networks on the cut."""

    settings: Settings
    maps: dict[str, np.ndarray]  # ½ ln χ, (σ_b² nodes, σ_w² nodes)
    cut: Measured
    tied: np.ndarray  # ln of the gradient's size by lag, (draws, points, steps + 1)
    grids: dict[str, Measured]


def compute(settings: Settings) -> Result:
    """Evaluate the theory on a grid, and measure finite networks."""
    keys = jax.random.split(jax.random.key(settings.seed), 2)
    maps, grids, cut = {}, {}, None
    line = np.array([(w, CUT) for w in CUT_POINTS])
    for activation, span in SPAN.items():
        maps[activation] = _map(activation, span, settings)
        columns = np.linspace(span[0] + 0.3, span[1] - 0.3, settings.map_columns)
        rows = np.linspace(0.12, TOP - 0.05, settings.map_rows)
        points = np.array([(w, b) for b in rows for w in columns])
        if activation == "tanh":
            points = np.concatenate([line, points])
        found = measure(activation, keys[0], points, settings)
        if activation == "tanh":
            cut = Measured(points[: len(line)], *(a[:, : len(line)] for a in found[1:]))
            found = Measured(points[len(line) :], *(a[:, len(line) :] for a in found[1:]))
        grids[activation] = found
    assert cut is not None
    return Result(settings, maps, cut, measure_tied(keys[1], settings), grids)


def _map(activation: str, span: tuple[float, float], settings: Settings) -> np.ndarray:
    """Give ½ ln χ over the plane."""
    columns, rows = np.linspace(*span, settings.grid), np.linspace(1e-4, TOP, settings.grid)
    points = np.array([(w, b) for b in rows for w in columns])
    return rates_of_theory(activation, points).reshape(settings.grid, settings.grid)


def erf_line(sigma_b2: float) -> float:
    """Give σ_w² on the critical line of erf from its closed integrals, by Brent's method.

    χ = σ_w² (4/π)/√(1 + 4q) = 1 and q = σ_b² + σ_w² (2/π) asin(2q/(1 + 2q)).
    """

    def excess(q: float) -> float:
        weights = math.pi / 4 * math.sqrt(1 + 4 * q)
        return sigma_b2 + weights * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) - q

    q = float(np.asarray(optimize.brentq(excess, 1e-9, 50.0, xtol=1e-14)))
    return math.pi / 4 * math.sqrt(1 + 4 * q)


def checks(result: Result) -> list[Check]:
    """Compare theory with tables and closed forms, and finite networks with theory."""
    return [*_line_checks(), *_scale_checks(), *_measured_checks(result)]


def _line_checks() -> list[Check]:
    """Check the critical lines of tanh and erf."""
    line = {b: float(mean_field.critical_sigma_w2("tanh", b)) for b in LINE}
    q = {b: float(mean_field.length_fixed_point("tanh", w, b)) for b, w in line.items()}
    gains = {s: math.sqrt(float(mean_field.critical_sigma_w2("tanh", s))) for s in NOISE}
    rows = np.geomspace(1e-3, 2.0, 9)
    erf = max(abs(float(mean_field.critical_sigma_w2("erf", b)) - erf_line(b)) for b in rows)
    table = "adaptive quadrature"
    return [
        Check("tanh: critical σ_w² at σ_b² = 0", float(mean_field.critical_sigma_w2("tanh", 0.0)),
              1.0, 1e-12, "φ'(0) = 1"),
        Check("tanh: critical σ_w² at σ_b² = 0.05", line[CUT], LINE[CUT][1], 1e-8, table),
        Check("tanh: critical σ_w² at six σ_b², worst deviation",
              max(abs(line[b] - w) for b, (_, w) in LINE.items()), 0.0, 1e-8, table),
        Check("tanh: critical q* at six σ_b², worst deviation",
              max(abs(q[b] - v) for b, (v, _) in LINE.items()), 0.0, 1e-8, table),
        Check("tanh: critical gain under noise, four variances, worst deviation",
              max(abs(gains[s] - g) for s, g in NOISE.items()), 0.0, 1e-8,
              "same equation; Molgedey et al. 1992"),
        Check("erf: critical gain at σ_b² = 0",
              math.sqrt(float(mean_field.critical_sigma_w2("erf", 0.0))), math.sqrt(math.pi) / 2,
              1e-9, "√π/2"),
        Check("erf: critical σ_w² at nine σ_b², worst deviation", float(erf), 0.0, 1e-8,
              "closed integrals and Brent's method"),
    ]  # fmt: skip


def _scale_checks() -> list[Check]:
    """Check the fixed points and depth scales of tanh on the cut."""
    found = {w: scales("tanh", w, CUT) for w in SCALES}
    columns = {
        "q*": ("q", 1e-8, 0.0), "χ": ("chi", 1e-8, 0.0), "c*": ("correlation", 1e-6, 0.0),
        "ξ_c": ("xi_correlation", 0.0, 1e-3), "ξ_q": ("xi_length", 0.0, 1e-5),
    }  # fmt: skip
    out = []
    for i, (symbol, (field, absolute, relative)) in enumerate(columns.items()):
        deviations = [
            (float(getattr(found[w], field)) - row[i]) / (row[i] if relative else 1.0)
            for w, row in SCALES.items()
        ]
        kind = "relative deviation" if relative else "deviation"
        name = f"tanh, σ_b² = {CUT:g}: {symbol} at six σ_w², worst {kind}"
        worst = max(abs(d) for d in deviations)
        out.append(Check(name, worst, 0.0, absolute or relative, "adaptive quadrature"))
    return out


def _measured_checks(result: Result) -> list[Check]:
    """Check finite networks: what is left beyond four standard errors must be of order 1/N."""
    s, out = result.settings, []
    cases = [("tanh, fresh layers, cut", "tanh", result.cut)]
    cases += [(f"{a}, fresh layers, map", a, found) for a, found in result.grids.items()]
    for name, activation, found in cases:
        mean, error = rates(found.by_lag, s.settle)
        allowed = np.array([_finite_width(activation, point, s.width) for point in found.points])
        exact = rates_of_theory(activation, found.points)
        beyond = np.maximum(np.abs(mean - exact) - 4 * error, 0) / allowed
        out.append(
            Check(f"{name}: |rate - ½ ln χ| beyond four standard errors, in units of the finite "
                  "width's effect, worst", float(beyond.max()), 0.0, 2.0,
                  "(1 + 3 μ₂/μ₁²)/4N per layer")
        )  # fmt: skip
    exact = rates_of_theory("tanh", result.cut.points)
    mean, error = rates(result.tied, s.settle)
    beyond = float(np.max(np.abs(mean - exact) - 4 * error))
    out.append(
        Check("tanh, one cell unrolled: |rate - ½ ln χ| beyond four standard errors, worst",
              max(beyond, 0.0), 0.0, 3 / s.width, "mean field; O(1/N)")
    )  # fmt: skip
    at = [scales("tanh", w, CUT) for w in CUT_POINTS]
    mean, error = lengths(result.cut, s.settle)
    beyond = np.abs(mean / np.array([float(a.q) for a in at]) - 1) - 4 * error / mean
    out.append(Check("tanh, cut: relative deviation of q* beyond four standard errors, worst",
                     max(float(beyond.max()), 0.0), 0.0, 3 / s.width,
                     "mean field; O(1/N)"))  # fmt: skip
    fits = np.array([correlation_rate(result.cut, i) for i in range(len(CUT_POINTS))])
    exact = np.array([1 / float(a.xi_correlation) for a in at])
    beyond = float(np.max(np.abs(fits[:, 0] - exact) - 4 * fits[:, 1]))
    out.append(Check("tanh, cut: |1/ξ_c - theory| beyond four standard errors, worst",
                     max(beyond, 0.0), 0.0, 3 / s.width, "mean field; O(1/N)"))  # fmt: skip
    return out


def _finite_width(activation: str, point: np.ndarray, width: int) -> float:
    """Give by how much ln of a layer's growth lies below half the ln of its mean square.

    E ln r ≈ ln E r - Var r/2 for r = ‖Wᵀ D δ‖²/‖δ‖² with relative variance
    2/N + (3 μ₂/μ₁² - 1)/N, halved because the rate is that of the norm.
    """
    q = mean_field.length_fixed_point(activation, float(point[0]), float(point[1]))
    first, second = (float(isometry.slope_moment(activation, q, k)) for k in (1, 2))
    return (1 + 3 * second / first**2) / (4 * width)


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    critical = float(mean_field.critical_sigma_w2("tanh", CUT))
    mean, _ = rates(result.cut.by_lag, s.settle)
    tied, _ = rates(result.tied, s.settle)
    exact = rates_of_theory("tanh", result.cut.points)
    worst = [float(np.max(np.abs(m - exact))) for m in (mean, tied)]
    return (
        f"On the line χ = 1: σ_w² = {critical:.4f} for tanh at σ_b² = {CUT:g}, and 1 without "
        f"biases (erf: {math.pi / 4:.4f}). Finite networks follow: over σ_w² from "
        f"{CUT_POINTS[0]:g} to {CUT_POINTS[-1]:g} the rates at N = {s.width} lie within "
        f"{worst[0]:.3f} nats per layer of ½ ln χ for fresh layers and {worst[1]:.3f} for one cell "
        "unrolled."
    )


def draw(result: Result) -> Figure:
    """Draw both phase diagrams, growth by depth, and the cut: rates, variance, depth scale."""
    figure, panels = plots.new_figure(8.4, 5.8, nrows=2, ncols=3)
    with plots.style():
        _draw_map(panels[0, 0], "tanh", result)
        image = _draw_map(panels[0, 1], "erf", result)
        panels[0, 0].set_ylabel(r"variance of biases $\sigma_b^2$")
        bar = figure.colorbar(image, ax=panels[0, :2], location="bottom", aspect=50, shrink=0.9)
        bar.set_label(
            "nats per layer: color of the plane ½ ln χ, of the discs measured", fontsize=8
        )
        _draw_growth(panels[0, 2], result)
        _draw_rates(panels[1, 0], result)
        _draw_lengths(panels[1, 1], result)
        _draw_scales(panels[1, 2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_map(axes: Any, activation: str, result: Result) -> Any:
    """Draw theory as color and line, and networks as discs in the color of what they did."""
    s, span = result.settings, SPAN[activation]
    columns, rows = np.linspace(*span, s.grid), np.linspace(1e-4, TOP, s.grid)
    look = {"cmap": "RdBu_r", "vmin": -0.4, "vmax": 0.4}
    image = axes.pcolormesh(columns, rows, result.maps[activation], shading="gouraud",
                            rasterized=True, **look)  # fmt: skip
    heights = np.concatenate([[0], np.geomspace(1e-6, TOP, 60)])
    line = [float(mean_field.critical_sigma_w2(activation, b)) for b in heights]
    axes.plot(line, heights, color="black")
    found = result.grids[activation]
    mean, _ = rates(found.by_lag, s.settle)
    axes.scatter(*found.points.T, c=mean, s=34, edgecolors="black", linewidths=0.7, **look)
    if activation == "tanh":
        axes.axhline(CUT, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        axes.text(span[1] - 0.05, CUT, "cut below", fontsize=7, ha="right", va="bottom")
    for text, place, color in (("vanish", 0.13, "white"), ("explode", 0.83, "black")):
        axes.text(place, 0.955, text, fontsize=8, fontweight="bold", ha="center", va="center",
                  transform=axes.transAxes, color=color)  # fmt: skip
    axes.set_xlim(*span)
    axes.set_ylim(0, TOP)
    axes.set_xlabel(r"variance of weights $\sigma_w^2$")
    axes.set_title(f"{activation}: line χ = 1")
    return image


def _draw_growth(axes: Any, result: Result) -> None:
    """Draw the gradient by depth on both sides of the line and beside it."""
    s = result.settings
    looks = (  # color, and where the label goes: layer, points above the line
        (1.0, plots.COLORS["blue"], 16, -18),
        (1.7, plots.COLORS["olive"], 32, -25),
        (3.0, plots.COLORS["red"], 16, 12),
    )
    for sigma_w2, color, layer, shift in looks:
        index = CUT_POINTS.index(sigma_w2)
        lags = np.arange(s.depth - s.settle + 1)
        decades = result.cut.by_lag[:, index, : lags.size] / plots.LN10
        axes.plot(lags, decades.T, color=color, linewidth=0.4, alpha=0.5)
        rate = rates_of_theory("tanh", result.cut.points[index : index + 1])[0]
        axes.plot(lags, rate * lags / plots.LN10, color="black", linestyle=(0, (4, 2)),
                  linewidth=1.2)  # fmt: skip
        axes.annotate(rf"$\sigma_w^2$ = {sigma_w2:g}", (layer, rate * layer / plots.LN10),
                      xytext=(-6, shift), ha="right", textcoords="offset points", color=color,
                      fontsize=8)  # fmt: skip
    axes.set_xlabel("layers back")
    axes.set_ylabel("log₁₀ of the gradient's size")
    axes.set_title(f"deep tanh nets, N = {s.width}")


def _draw_rates(axes: Any, result: Result) -> None:
    """Draw measured rates along the cut and ½ ln χ."""
    s = result.settings
    line = np.linspace(CUT_POINTS[0], CUT_POINTS[-1], 80)
    points = np.stack([line, np.full_like(line, CUT)], axis=1)
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.8)
    axes.plot(line, rates_of_theory("tanh", points), color="black", linewidth=1.2,
              label="½ ln χ")  # fmt: skip
    looks = (
        (result.cut.by_lag, "o", plots.COLORS["blue"], "fresh layers"),
        (result.tied, "^", plots.COLORS["orange"], "one cell, noise"),
    )
    for by_lag, marker, color, label in looks:
        mean, error = rates(by_lag, s.settle)
        axes.errorbar(CUT_POINTS, mean, yerr=2 * error, fmt=marker, color=color, markersize=3.5,
                      linewidth=1, label=label)  # fmt: skip
    _mark_critical(axes)
    axes.legend(loc="lower right", fontsize=7.5)
    axes.set_ylabel("nats per layer or step")
    axes.set_title("growth rate on the cut")


def _draw_lengths(axes: Any, result: Result) -> None:
    """Draw the measured pre-activation variance along the cut and q*."""
    line = np.linspace(CUT_POINTS[0], CUT_POINTS[-1], 80)
    exact = [float(mean_field.length_fixed_point("tanh", w, CUT)) for w in line]
    axes.plot(line, exact, color="black", linewidth=1.2)
    mean, error = lengths(result.cut, result.settings.settle)
    axes.errorbar(CUT_POINTS, mean, yerr=2 * error, fmt="o", color=plots.COLORS["blue"],
                  markersize=3.5, linewidth=1)  # fmt: skip
    _mark_critical(axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("q*")
    axes.set_title("pre-activation variance")


def _draw_scales(axes: Any, result: Result) -> None:
    """Draw the measured depth scale of correlations along the cut and ξ_c."""
    critical = float(mean_field.critical_sigma_w2("tanh", CUT))
    below = np.linspace(CUT_POINTS[0], critical - 0.005, 60)
    points = np.stack([below, np.full_like(below, CUT)], axis=1)
    axes.plot(below, -1 / (2 * rates_of_theory("tanh", points)), color="black", linewidth=1.2)
    above = np.concatenate([critical + np.geomspace(0.03, 0.5, 8), np.linspace(2.5, 4, 5)])
    exact = [float(scales("tanh", float(w), CUT).xi_correlation) for w in above]
    axes.plot(above, exact, color="black", linewidth=1.2)
    for index, place in enumerate(CUT_POINTS):
        rate, error = correlation_rate(result.cut, index)
        ends = np.array([[1 / rate - 1 / (rate + 2 * error)], [1 / max(rate - 2 * error, 1e-3)]])
        ends[1] -= 1 / rate
        axes.errorbar(place, 1 / rate, yerr=ends, fmt="o", color=plots.COLORS["blue"],
                      markersize=3.5, linewidth=1)  # fmt: skip
    _mark_critical(axes)
    axes.set_yscale("log")
    axes.set_ylim(1.3, 400)
    axes.set_ylabel(r"$\xi_c$, layers")
    axes.set_title("depth scale of correlations", fontsize=9)


def _mark_critical(axes: Any) -> None:
    """Mark χ = 1 on the cut, and label the axis."""
    critical = float(mean_field.critical_sigma_w2("tanh", CUT))
    axes.axvline(critical, color=plots.COLORS["gray"], linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.set_xlabel(rf"$\sigma_w^2$ at $\sigma_b^2$ = {CUT:g}, tanh")
