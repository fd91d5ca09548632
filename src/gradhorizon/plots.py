"""Records in, Matplotlib axes out. Nothing is computed here but positions on paper.

One style for every figure: readable at column width, colors that stay apart for color-blind
readers, labels on the curves rather than in a legend, growth in decades on the axis although it
is kept in nats in the records.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator
from typing import Any

import cycler
import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradhorizon.regimes._text import headline, steps
from gradhorizon.regimes.criteria import Criterion
from gradhorizon.regimes.diagnose import Diagnosis
from gradhorizon.regimes.matrix import MatrixCriteria

LN10 = float(np.log(10.0))
COLORS = {
    "blue": "#3f90da",
    "orange": "#e76300",
    "red": "#bd1f01",
    "gray": "#717581",
    "violet": "#832db6",
    "olive": "#8a7d1a",
}
REGIME_COLORS = {
    "VANISHING": COLORS["blue"],
    "BALANCED": COLORS["olive"],
    "EXPLODING": COLORS["red"],
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler.cycler(color=list(COLORS.values())),
    "lines.linewidth": 1.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "svg.hashsalt": "gradhorizon",
    "text.usetex": False,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the package's style inside a `with` block and restore what was there."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float = 7.0, height: float = 3.0, **layout: Any) -> tuple[Figure, Any]:
    """Make a figure with axes, without touching `pyplot`'s global state.

    Parameters
    ----------
    width, height
        Size in inches.
    layout
        Passed to `Figure.subplots`, such as ``ncols=2``.

    Returns
    -------
    tuple
        The figure and what `subplots` gives.
    """
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(**layout)


def save(figure: Figure, target: Any, *, kind: str = "png") -> None:
    """Write a figure so that a second run gives the same bytes (no dates inside).

    Parameters
    ----------
    figure
        The figure.
    target
        A path or a binary stream.
    kind
        "png", "pdf" or "svg".
    """
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with style():
        figure.savefig(target, format=kind, metadata=metadata)


def png(figure: Figure) -> bytes:
    """Give a figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    save(figure, stream)
    return stream.getvalue()


def escape(text: Any) -> str:
    """Make a user's string safe to draw: no math mode, no control characters, no novels."""
    clean = "".join(c if c.isprintable() else " " for c in str(text))
    clean = clean if len(clean) <= 80 else clean[:79] + "…"
    return clean.replace("$", r"\$")


def gradient_profile(
    axes: Axes,
    by_lag: Any,
    *,
    label: str = "",
    color: str | None = None,
    threshold: float | None = None,
) -> None:
    """Draw the gradient's size against lag, in decades relative to lag 0.

    Parameters
    ----------
    axes
        Where to draw.
    by_lag
        ln of the gradient's size at lag 0 … T relative to lag 0, shape (T + 1,).
    label
        Written at the end of the curve.
    color
        A Matplotlib color.
    threshold
        ε; the window [ε, 1/ε] is shaded if given.
    """
    decades = np.asarray(by_lag, dtype=float) / LN10
    decades = np.where(np.isfinite(decades), decades, np.nan)
    lags = np.arange(decades.size)
    (line,) = axes.plot(lags, decades, color=color)
    _label_end(axes, lags, decades, label, line.get_color())
    _decade_axis(axes, "gradient size relative to lag 0")
    axes.set_xlabel("lag k (steps back from the loss)")
    axes.set_xlim(0, max(lags[-1], 1))
    if threshold is not None:
        width = -np.log10(threshold)
        axes.axhspan(-width, width, color=COLORS["gray"], alpha=0.12, linewidth=0)


def singular_values(axes: Axes, spectrum: Any, *, threshold: float | None = None) -> None:
    """Draw the singular values of Φ(T, T-k) against lag, one curve per rank.

    Parameters
    ----------
    axes
        Where to draw.
    spectrum
        A `SingularSpectrum` computed with `lags`.
    threshold
        ε; drawn as the line above which a direction counts as alive.
    """
    lags = np.asarray(spectrum.lags)
    order = np.argsort(lags)
    decades = np.asarray(spectrum.log_values, dtype=float)[order] / LN10
    decades = np.where(np.isfinite(decades), decades, np.nan)
    n = decades.shape[1]
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, n))
    for rank in range(n):
        axes.plot(lags[order], decades[:, rank], color=shades[rank], linewidth=0.9)
    if lags.size > 1 and lags.max() > 16:
        axes.set_xscale("log", base=2)
    if threshold is not None:
        level = np.log10(threshold)
        axes.axhline(level, color=COLORS["gray"], linestyle=(0, (4, 2)), linewidth=1)
        axes.annotate(
            "alive above ε",
            (lags.max(), level),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
        finite = decades[np.isfinite(decades)]
        if finite.size:
            axes.set_ylim(max(finite.min(), 4 * level) - 0.5, max(finite.max(), 0) + 1)
    _decade_axis(axes, "singular values of Φ(T, T−k)")
    axes.set_xlabel("lag k (steps)")


def matrix_spectrum(axes: Axes, W: Any, *, slope_bound: float = 1.0) -> None:
    """Draw the eigenvalues of the repeated matrix and the unit circle.

    Parameters
    ----------
    axes
        Where to draw.
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ; the circle of radius 1/γ, inside which the certificate speaks, is drawn too when it
        differs from 1.
    """
    eigenvalues = np.linalg.eigvals(np.asarray(W, dtype=float))
    largest = float(np.linalg.norm(np.asarray(W, dtype=float), 2))
    angle = np.linspace(0, 2 * np.pi, 256)
    axes.plot(np.cos(angle), np.sin(angle), color=COLORS["gray"], linewidth=1)
    axes.plot(
        largest * np.cos(angle),
        largest * np.sin(angle),
        color=COLORS["gray"],
        linewidth=1,
        linestyle=(0, (2, 2)),
    )
    if slope_bound != 1.0:
        axes.plot(
            np.cos(angle) / slope_bound,
            np.sin(angle) / slope_bound,
            color=COLORS["olive"],
            linewidth=1,
        )
    outside = np.abs(eigenvalues) > 1
    for part, color in ((~outside, COLORS["blue"]), (outside, COLORS["red"])):
        axes.plot(eigenvalues.real[part], eigenvalues.imag[part], "o", color=color, markersize=3)
    axes.set_aspect("equal")
    axes.set_xlabel("Re")
    axes.set_ylabel("Im")
    axes.set_title(f"eigenvalues of W; dotted: σ₁ = {largest:.3g}")


def criteria(axes: Axes, rows: tuple[Criterion, ...], *, lag: int) -> None:
    """Draw the criteria as a panel: rate as a bar, verdict in words.

    Parameters
    ----------
    axes
        Where to draw.
    rows
        The criteria, drawn from top to bottom.
    lag
        The lag their verdicts speak about.
    """
    rates = np.array([float(c.rate) for c in rows])
    shown = np.where(np.isfinite(rates), rates, 0.0)
    places = np.arange(len(rows))[::-1]
    verdicts = [str(c.verdict) if c.verdict else "" for c in rows]
    colors = [REGIME_COLORS.get(v, COLORS["gray"]) for v in verdicts]
    axes.barh(places, shown, color=colors, height=0.55)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [c.name for c in rows])
    axes.tick_params(axis="y", length=0)
    spread = max(np.abs(shown).max(), 1e-3)
    axes.set_xlim(-1.3 * spread, 1.9 * spread)
    for place, c, verdict in zip(places, rows, verdicts, strict=True):
        word = (
            verdict.lower()
            if verdict
            else ("does not apply" if np.isnan(float(c.rate)) else "says nothing")
        )
        axes.text(1.85 * spread, place, word, ha="right", va="center", fontsize=7.5)
    axes.set_xlabel("nats per step")
    axes.set_title(f"what each rule says at lag {lag}")
    axes.spines["left"].set_visible(False)


def exponents(axes: Axes, spectrum: Any) -> None:
    """Draw the Lyapunov spectrum with its standard errors.

    Parameters
    ----------
    axes
        Where to draw.
    spectrum
        A `LyapunovSpectrum`.
    """
    values = np.asarray(spectrum.exponents, dtype=float)
    errors = np.asarray(spectrum.standard_errors, dtype=float)
    errors = np.where(np.isfinite(errors), errors, 0)
    places = np.arange(1, values.size + 1)
    usable = np.isfinite(values)
    axes.errorbar(
        places[usable],
        values[usable],
        yerr=errors[usable],
        fmt="o",
        markersize=3,
        linewidth=1,
        color=COLORS["blue"],
    )
    axes.axhline(0, color=COLORS["gray"], linewidth=0.8)
    missing = int((~usable).sum())
    title = "Lyapunov exponents" + (f" ({missing} are −∞)" if missing else "")
    axes.set_title(title)
    axes.set_xlabel("index i")
    axes.set_ylabel("λᵢ (nats per step)")


def matrix(criteria_of_w: MatrixCriteria, W: Any) -> Figure:
    """Draw what a repeated matrix says: its spectrum, and its singular values."""
    figure, (left, right) = new_figure(7.0, 3.2, ncols=2)
    with style():
        matrix_spectrum(left, W, slope_bound=float(criteria_of_w.slope_bound))
        values = np.asarray(criteria_of_w.singular_values, dtype=float)
        right.plot(np.arange(1, values.size + 1), values, "o", markersize=3, color=COLORS["blue"])
        right.axhline(1 / float(criteria_of_w.slope_bound), color=COLORS["olive"], linewidth=1)
        right.set_title("singular values of W; line: 1/γ")
        right.set_xlabel("index i")
        right.set_ylim(bottom=0)
    return figure


def diagnosis(record: Diagnosis) -> Figure:
    """Draw a diagnosis: gradient against lag, singular values, criteria, exponents.

    Parameters
    ----------
    record
        A concrete `Diagnosis`.

    Returns
    -------
    Figure
        Four panels, the verdict as the title.
    """
    with style():
        figure = Figure(figsize=(8.4, 6.0), layout="constrained")
        FigureCanvasAgg(figure)
        halves: Any = figure.subfigures(2, 1)
        above, below = halves
        left, right = above.subplots(1, 2)
        gradient_profile(left, record.profile.by_lag, threshold=record.threshold)
        horizon = float(record.horizon)
        if record.horizon_observed:
            _mark_horizon(left, horizon)
        left.set_title("gradient against lag (shaded: [ε, 1/ε])")
        singular_values(right, record.singular, threshold=record.threshold)
        right.set_title("singular values against lag")
        left, right = below.subplots(1, 2)
        criteria(left, record.criteria, lag=record.lag)
        exponents(right, record.lyapunov)
        title = textwrap.fill(headline(record), 96)
        figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _mark_horizon(axes: Axes, horizon: float) -> None:
    """Draw the horizon as a labeled vertical line."""
    axes.axvline(horizon, color=COLORS["red"], linewidth=1)
    axes.annotate(
        f"horizon {steps(horizon)}",
        (horizon, 0.96),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        va="top",
        textcoords="offset points",
        color=COLORS["red"],
        fontsize=8,
    )


def _decade_axis(axes: Axes, label: str) -> None:
    """Label an axis of decades with powers of ten."""
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"$10^{{{v:.0f}}}$"))
    axes.set_ylabel(label)


def _label_end(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, color: Any) -> None:
    """Write a label at the last finite point of a curve."""
    usable = np.flatnonzero(np.isfinite(y))
    if label and usable.size:
        last = usable[-1]
        axes.annotate(
            escape(label),
            (x[last], y[last]),
            xytext=(3, 0),
            va="center",
            textcoords="offset points",
            color=color,
            fontsize=8,
            annotation_clip=False,
        )
