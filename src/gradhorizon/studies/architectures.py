"""Twelve architectures as they start: how far back the gradient reaches on a sequence of pixels."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.remedies import tasks
from gradhorizon.studies import _architectures_cells as cells
from gradhorizon.studies._study import Check

TITLE = "Architectures as they start: tanh and gated cells forget 64 steps; linear, residual do not"
QUESTION = "How far back does the gradient reach in each architecture before training?"
SOURCE = (
    "Digits of Alpaydin & Kaynak 1998, pixel by pixel (Le, Jaitly & Hinton 2015); exact laws of "
    "the IRNN, orthogonal, minGRU, LRU, S4D and selective recurrences."
)
GROUPS = ("blue", "orange", "violet")  # additive, gated, state space and oscillators
THRESHOLD = 1e-3
LAGS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
SMALL_NAMES = ("Elman, tanh", "IRNN", "orthogonal", "minGRU", "LRU")
_SHORT = 8  # a lag at which plain NumPy still has digits


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 4
    size: int = 32
    digits: int = 12
    names: int = len(cells.ARCHITECTURES)


SMALL = Settings(size=16, digits=2, names=len(SMALL_NAMES))


class Measured(NamedTuple):
    """One architecture on several digits."""

    network: cells.Network
    log_values: np.ndarray  # (digits, lags, n)
    laws: np.ndarray | None  # (digits, lags, n), exact
    plain: np.ndarray  # (digits, n), at the short lag by NumPy
    log_dets: np.ndarray  # (digits, lags), Σ ln |det J_t| by NumPy
    unresolved: int


class Result(NamedTuple):
    """All architectures, and two profiles beside those of `jax.grad`."""

    settings: Settings
    measured: dict[str, Measured]
    profiles: dict[str, tuple[np.ndarray, np.ndarray]]


def compute(settings: Settings) -> Result:
    """Draw the networks, read the digits, and find all singular values."""
    s = settings
    for_digits, *keys = jax.random.split(jax.random.key(s.seed), 1 + len(cells.ARCHITECTURES))
    pixels = tasks.sequential_digits().xs
    chosen = jax.random.choice(for_digits, len(pixels), (s.digits,), replace=False)
    names = tuple(cells.ARCHITECTURES) if s.names > len(SMALL_NAMES) else SMALL_NAMES
    networks = {
        name: cells.draw_network(name, s.size, key, pixels[chosen])
        for name, key in zip(names, keys, strict=False)
    }
    profiles = {
        name: _two_profiles(networks[name])
        for name in ("Elman, tanh", "GRU", "minimal RNN")
        if name in networks
    }
    return Result(s, {name: _measure(net) for name, net in networks.items()}, profiles)


def _measure(network: cells.Network) -> Measured:
    """Take the chain of every digit as matrices, so that all architectures share one program."""
    values, plain, dets, laws, unresolved = [], [], [], [], 0
    for digit in range(len(network.sequences)):
        matrices = network.chain(digit).matrices()
        spectrum = singular_spectrum(matrices, lags=LAGS)
        values.append(np.asarray(spectrum.log_values))
        unresolved += int(np.sum(~np.asarray(spectrum.resolved)))
        J = np.asarray(matrices)
        with np.errstate(divide="ignore"):
            product = np.linalg.multi_dot(J[::-1][:_SHORT])
            plain.append(np.log(np.linalg.svd(product, compute_uv=False)))
            each = np.linalg.slogdet(J)[1]
        dets.append([each[-lag:].sum() for lag in LAGS])
        exact = cells.exact_logs(network, digit)
        if exact is not None:
            laws.append([-np.sort(-exact[-lag:].sum(axis=0)) for lag in LAGS])
    return Measured(
        network,
        np.array(values),
        np.array(laws) if laws else None,
        np.array(plain),
        np.array(dets),
        unresolved,
    )


def _two_profiles(network: cells.Network) -> tuple[np.ndarray, np.ndarray]:
    """Give ln ‖∂L/∂h_t‖, t = 1 … T, for L = Σ h_T: by the package, and by `jax.grad`."""
    chain = network.chain(0)
    ours = backpropagate(chain.matrices(), jnp.ones(chain.size)).log_norms[1:]
    return np.asarray(ours), cells.gradient_by_autodiff(network, 0)


def root_mean_square(log_values: np.ndarray) -> np.ndarray:
    """Give ln of the gradient's size for a random loss, ½ ln mean σ², at lag 0 and LAGS."""
    with np.errstate(divide="ignore"):
        logs = 0.5 * (np.logaddexp.reduce(2 * log_values, axis=-1) - math.log(log_values.shape[-1]))
    return np.concatenate([np.zeros((*logs.shape[:-1], 1)), logs], axis=-1)


def horizon(measured: Measured) -> float:
    """Give the lag at which the median gradient leaves [ε, 1/ε]; inf if it does not."""
    size = np.abs(np.median(root_mean_square(measured.log_values), axis=0))
    lags, limit = np.array([0, *LAGS]), -math.log(THRESHOLD)
    outside = np.flatnonzero(size > limit)
    if outside.size == 0:
        return math.inf
    after = outside[0]
    if np.isinf(size[after]):
        return float(lags[after - 1])
    return float(np.interp(limit, size[after - 1 : after + 1], lags[after - 1 : after + 1]))


def alive(measured: Measured) -> float:
    """Give the directions with σ ≥ ε at the largest lag, mean over the digits."""
    return float(np.mean(np.sum(measured.log_values[:, -1] >= math.log(THRESHOLD), axis=-1)))


def checks(result: Result) -> list[Check]:
    """Compare with exact laws, certificates, plain NumPy, determinants and `jax.grad`."""
    found = []
    for name, m in result.measured.items():
        found += [*_law_checks(name, m), *_numpy_checks(name, m)]
        bound = cells.certificate(m.network)
        if math.isfinite(bound):
            excess = m.log_values[..., 0] - bound * np.array(LAGS)
            found.append(
                Check(f"{name}: growth above the certificate, nats",
                      max(float(np.max(excess)), 0.0), 0.0, 1e-9, "‖J‖ ≤ bound of the weights")
            )  # fmt: skip
    for name, (ours, autodiff) in result.profiles.items():
        off = float(np.max(np.abs(ours - autodiff)))
        found.append(
            Check(f"{name}: |ln gradient - jax.grad|, all lags", off, 0.0, 1e-8,
                  "jax.grad of the plain recursion")
        )  # fmt: skip
    return [*found, *_lru_checks(result), *_title_checks(result)]


def _title_checks(result: Result) -> list[Check]:
    """Check what the title says of two groups of cells.

    IRNN belongs to neither, and how far a handful of LRU units reaches is a matter of the draw.
    """
    forget = ("Elman, tanh", "LSTM", "GRU", "minimal RNN", "minGRU")
    keep = ("orthogonal", "residual", "S4D", "selective", "coRNN")
    reaches = {name: horizon(m) for name, m in result.measured.items()}  # SMALL: a part of them
    lost = np.mean([math.isfinite(reaches[name]) for name in forget if name in reaches])
    kept = np.mean([math.isinf(reaches[name]) for name in keep if name in reaches])
    reach = f"lag {LAGS[-1]} of the window 1e-3"
    return [
        Check("tanh and gated cells: share that forgets", float(lost), 1.0, 0.0, reach),
        Check("linear and residual cells: share that keeps", float(kept), 1.0, 0.0, reach),
    ]


def _law_checks(name: str, m: Measured) -> list[Check]:
    """Check all singular values at all lags against the law written with NumPy."""
    if m.laws is None:
        return []
    same = np.array_equal(np.isneginf(m.laws), np.isneginf(m.log_values))
    finite = np.isfinite(m.laws) & np.isfinite(m.log_values)
    off = float(np.max(np.abs(m.laws[finite] - m.log_values[finite]), initial=0.0))
    laws = {
        "orthogonal": "ln σ = 0",
        "IRNN": "σ is 1 or 0: units on all the way",
        "minGRU": "Σ ln(1 - z)",
        "LRU": "k ln |λ|",
        "S4D": "-k dt/2",
        "selective": "A Σ Δ",
    }
    found = [Check(f"{name}: |ln σ_i - law|, all lags and digits", off, 0.0, 1e-9, laws[name])]
    if np.isneginf(m.laws).any():
        found.append(
            Check(f"{name}: dead directions found where the law has them", float(same), 1.0, 0.0,
                  "exact zeros")
        )  # fmt: skip
    return found


def _numpy_checks(name: str, m: Measured) -> list[Check]:
    """Check against NumPy's SVD of a short product, and all lags against determinants."""
    ours = m.log_values[:, LAGS.index(_SHORT)]
    usable = m.plain > m.plain[:, :1] + math.log(1e-6)
    off = float(np.max(np.abs(ours[usable] - m.plain[usable]), initial=0.0))
    found = [
        Check(f"{name}: |ln σ_i - NumPy| at lag {_SHORT}", off, 0.0, 1e-8,
              "SVD of the plain product, values above 1e-6"),
        Check(f"{name}: unresolved singular values", float(m.unresolved), 0.0, 0.0,
              "self-check"),
    ]  # fmt: skip
    usable = np.isfinite(m.log_dets) & np.all(np.isfinite(m.log_values), axis=-1)
    if usable.any():
        off = np.abs(m.log_values[usable].sum(axis=-1) - m.log_dets[usable])
        found.append(
            Check(f"{name}: |Σ ln σ_i - Σ ln |det J_t||", float(np.max(off)), 0.0, 1e-6,
                  "LU of every factor by NumPy")
        )  # fmt: skip
    return found


def _lru_checks(result: Result) -> list[Check]:
    """Check the LRU's mean square gradient, Σ |λ_i|^{2k}/n: its factors are scaled rotations.

    The law of the ring, 1/(k + 1), holds in the mean over draws: `lru_ring` has enough of them.
    """
    found, m = [], result.measured["LRU"]
    laws = cells.exact_logs(m.network, 0)
    n, roundoff = m.log_values.shape[-1], np.finfo(m.log_values.dtype).eps / 2
    for lag in (4, 16, LAGS[-1]):
        expected = float(np.mean(np.exp(2 * lag * laws[0])))  # pyright: ignore[reportOptionalSubscript]
        # relative error of |λ|: 3 u of its two numbers and √5 u of a complex product, each step;
        # of ln |λ|, in the law: u; of a singular value of a nearly diagonal matrix: N u
        error = 2 * (lag * (3 + math.sqrt(5) + 1) + n) * roundoff
        value = np.mean(np.exp(2 * m.log_values[:, LAGS.index(lag)]), axis=-1)
        worst = value[np.argmax(np.abs(value - expected))]
        found.append(
            Check(f"LRU: mean σ² at lag {lag}, the digit farthest off", float(worst), expected,
                  error * expected, "mean |λ|^{2k} of these eigenvalues; rounding")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    last = LAGS[-1]
    reach = {name: horizon(m) for name, m in result.measured.items()}
    lost = ", ".join(f"{name} {h:.0f}" for name, h in reach.items() if math.isfinite(h))
    kept = [name for name, h in reach.items() if math.isinf(h)]
    n = result.settings.size
    counts = {name: alive(m) for name, m in result.measured.items()}
    most, least = max(counts, key=lambda k: counts[k]), min(counts, key=lambda k: counts[k])
    ends = f"the gradient falls to 1/1000 after ({lost}) steps" if lost else "no gradient is lost"
    return (
        f"On {last} pixels {ends}, and stays above it in {', '.join(kept)}. Of {n} directions "
        f"{counts[most]:.0f} are alive over all of them in {most}, {counts[least]:.0f} in {least}."
    )


def draw(result: Result) -> Figure:
    """Draw one panel for each architecture."""
    rows = math.ceil(len(result.measured) / 4)
    figure, panels = plots.new_figure(8.4, 2.0 * rows + 1.0, nrows=rows, ncols=4, sharex=True,
                                      sharey=True, squeeze=False)  # fmt: skip
    with plots.style():
        flat = panels.ravel()
        for place, (name, m) in enumerate(result.measured.items()):
            _draw_one(flat[place], name, m, plots.COLORS[GROUPS[min(place // 4, 2)]])
        for axes in flat[len(result.measured) :]:
            axes.set_visible(False)
        figure.supxlabel("lag k (steps back from the end). Black: root mean square, the gradient "
                         "of a random loss; circles: exact law", fontsize=8.5)  # fmt: skip
        figure.supylabel("singular values of Φ(T, T−k)", fontsize=8.5)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_one(axes: Any, name: str, m: Measured, color: str) -> None:
    lags = np.array([0, *LAGS])
    floor, n = -9.0, m.log_values.shape[-1]
    ranks = np.median(m.log_values, axis=0) / plots.LN10  # (lags, n)
    ranks = np.concatenate([np.zeros((1, n)), np.maximum(ranks, 2 * floor)])
    for rank in range(n):
        axes.plot(lags, ranks[:, rank], color=color, linewidth=0.5, alpha=0.45)
    middle = np.median(root_mean_square(m.log_values), axis=0) / plots.LN10
    axes.plot(lags, np.maximum(middle, 2 * floor), color="black", linewidth=1.8)
    if m.laws is not None:
        law = np.median(root_mean_square(m.laws), axis=0) / plots.LN10
        axes.plot(lags[1:], law[1:], "o", markersize=3, markerfacecolor="white", color="black")
    axes.axhspan(math.log10(THRESHOLD), -math.log10(THRESHOLD), color=plots.COLORS["gray"],
                 alpha=0.12, linewidth=0)  # fmt: skip
    reach, count = horizon(m), alive(m)
    words = f"horizon > {LAGS[-1]}" if math.isinf(reach) else f"horizon {reach:.0f}"
    note = cells.ARCHITECTURES[name].note
    axes.text(0.04, 0.98, f"{note}\n{words}, alive {count:.0f} of {n}", transform=axes.transAxes,
              fontsize=7.5, va="top")  # fmt: skip
    axes.set_title(name)
    axes.set_xlim(0, LAGS[-1])
    axes.set_xticks([0, 16, 32, 48, 64])
    axes.set_ylim(floor, 6.4)
    axes.set_yticks([-9, -6, -3, 0, 3], [f"$10^{{{v}}}$" if v else "1" for v in (-9, -6, -3, 0, 3)])
