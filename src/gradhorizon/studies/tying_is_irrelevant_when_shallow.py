"""Tying is irrelevant when shallow: up to depth √N a repeated factor acts like fresh ones."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.chain.gradient import pull_back
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.studies.isometry import gaussian_linear_density
from gradhorizon.theory import random_matrix

TITLE = "Repeating one factor changes nothing while the depth stays below √N"
QUESTION = "From which depth on does it matter that all factors are the same?"
SOURCE = (
    "Fuss-Catalan law; Haagerup & Larsen 2000 (powers); Newman 1986 (growth of fresh products). "
    "The scaling with √N is measured here."
)
DEPTHS = (1, 2, 3, 4)
POWERS = (1, 2, 3)
# sd of ln ‖W^d v‖ at N = 64 over 60 draws, by d: an independent simulation
TIED_SD = {53: 2.13, 198: 8.6, 383: 16.9}
CROSSING = 1.5  # sd tied over sd untied


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    width: int = 200
    draws: int = 12
    widths: int = 3  # of growth: N = 64, 256, 1024
    deep: int = 400  # steps of growth at N = 64,
    shallow: int = 128  # and at the others
    tied_draws: int = 300  # a third at N = 1024, where a draw costs most
    untied_draws: int = 300  # at N = 64; a third at 256, none at 1024

    @property
    def growth(self) -> list[tuple[int, int, int, int]]:
        """N, depth, draws tied and draws untied, for each width."""
        tied, untied = self.tied_draws, self.untied_draws
        rows = [
            (64, self.deep, tied, untied),
            (256, self.shallow, tied, untied // 3),
            (1024, self.shallow, tied // 3, 0),
        ]
        return rows[: self.widths]

    @property
    def sizes(self) -> list[int]:
        """The widths of growth."""
        return [row[0] for row in self.growth]


SMALL = Settings(width=64, widths=2, deep=200, shallow=64, tied_draws=150, untied_draws=40)


class Result(NamedTuple):
    """What the two experiments give, by tied."""

    settings: Settings
    logs: dict[bool, np.ndarray]  # ln σ (draws, depths, width)
    growth: dict[bool, dict[int, np.ndarray]]  # width -> ln ‖P_d v‖ (draws, depth + 1)


def compute(settings: Settings) -> Result:
    """Compute singular values at fixed depth, and follow growing vectors."""
    for_values, for_growth = jax.random.split(jax.random.key(settings.seed))
    growth: dict[bool, dict[int, np.ndarray]] = {True: {}, False: {}}
    for n, depth, *counts in settings.growth:
        for tied, draws in zip((True, False), counts, strict=True):
            if draws:
                growth[tied][n] = _growth(for_growth, n, depth, draws, tied=tied)
    return Result(settings, _singular_values(for_values, settings), growth)


def _singular_values(key: Any, settings: Settings) -> dict[bool, np.ndarray]:
    """Give ln σ of W^L and of W_L … W_1, for matrices of entry variance 1/N."""
    n, found = settings.width, {True: [], False: []}
    for k in jax.random.split(key, settings.draws):
        for_tied, for_untied = jax.random.split(k)
        fresh = jax.random.normal(for_untied, (max(DEPTHS), n, n)) / math.sqrt(n)
        one = jax.random.normal(for_tied, (1, n, n)) / math.sqrt(n)
        for tied, matrices in ((True, jnp.broadcast_to(one, fresh.shape)), (False, fresh)):
            spectrum = singular_spectrum(JacobianChain.from_matrices(matrices), lags=DEPTHS)
            found[tied].append(np.asarray(spectrum.log_values))
    return {tied: np.stack(values) for tied, values in found.items()}


def _growth(key: Any, n: int, depth: int, draws: int, *, tied: bool) -> np.ndarray:
    """Follow ln ‖P_d v‖ for a random unit vector, d = 0 … depth, over independent draws.

    The vector is pulled back through a linear network: transposed factors have the same law.
    """

    def one(key: Any) -> Any:
        for_matrices, for_vector = jax.random.split(key)
        shape = (n, n) if tied else (depth, n, n)
        matrices = jax.random.normal(for_matrices, shape) / math.sqrt(n)
        vector = jax.random.normal(for_vector, (n, 1))
        chain = jacobian_chain(_step, matrices, jnp.zeros(n), length=depth, tied=tied)
        return pull_back(chain, vector / jnp.linalg.norm(vector)).by_lag

    keys = jax.random.split(jax.random.fold_in(key, 2 * n + tied), draws)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda k: lax.map(one, k))(keys))


def _step(W: Any, h: Any, x: Any) -> Any:
    """Advance a linear network."""
    del x
    return W @ h


def moments(result: Result, tied: bool, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Give (1/N) tr (P Pᵀ)^p for p = 1, 2, 3: mean over the draws, and its standard error."""
    logs = result.logs[tied][:, DEPTHS.index(depth)]
    values = np.stack([np.exp(2 * p * logs).mean(axis=1) for p in POWERS])
    return values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(values.shape[1])


def excess(result: Result, n: int) -> np.ndarray:
    """Give sd of ln ‖W^d v‖ over the exact sd for fresh factors, d = 1, 2, …."""
    growth = result.growth[True][n]
    _, exact = random_matrix.untied_growth(n, np.arange(1, growth.shape[1]))
    return growth[:, 1:].std(axis=0, ddof=1) / np.asarray(exact)


def crossing(result: Result, n: int) -> float:
    """Give the depth at which tying has raised the scatter by half."""
    ratios = excess(result, n)
    after = int(np.argmax(ratios > CROSSING))
    low, high = ratios[after - 1], ratios[after]
    return after + float((CROSSING - low) / (high - low))


def checks(result: Result) -> list[Check]:
    """Compare with the exact laws at infinite width, and of fresh factors at any."""
    return [*_moment_checks(result), *_growth_checks(result), *_crossing_checks(result)]


def _moment_checks(result: Result) -> list[Check]:
    """Check three moments and the edge at each depth, tied and untied."""
    share = 0.06 * 200 / result.settings.width
    found = []
    for tied in (True, False):
        word = "tied" if tied else "untied"
        for depth in (2, 3):
            means, errors = moments(result, tied, depth)
            for p, value, error in zip(POWERS, means, errors, strict=True):
                exact = float(random_matrix.fuss_catalan_moment(p, depth))
                name = f"{word}: moment p = {p} at L = {depth}"
                tolerance = share * exact + 4 * float(error)
                found.append(Check(name, float(value), exact, tolerance, "Fuss-Catalan"))
        for i, depth in enumerate(DEPTHS):
            value = float(np.exp(result.logs[tied][:, i, 0]).mean())
            edge = float(random_matrix.fuss_catalan_edge(depth))
            name = f"{word}: largest σ at L = {depth}"
            tolerance = edge * 0.06 * (200 / result.settings.width) ** (2 / 3)
            found.append(Check(name, value, edge, tolerance, "√((L + 1)^(L+1)/L^L)"))
    return found


def _growth_checks(result: Result) -> list[Check]:
    """Check the growth at N = 64: the exact law of fresh factors, the known scatter of powers."""
    found = []
    n, depth, *_ = result.settings.growth[0]
    tied, untied = result.growth[True][n], result.growth[False][n]
    for d in (10, 198, depth):
        mean, sd = (float(v) for v in random_matrix.untied_growth(n, d))
        values = untied[:, d]
        error = 4 * sd / math.sqrt(values.size)
        name = f"untied, N = {n}, d = {d}: mean of ln ‖P_d v‖"
        found.append(Check(name, float(values.mean()), mean, error, "Newman 1986"))
        error = 4 * sd / math.sqrt(2 * (values.size - 1))
        name = f"untied, N = {n}, d = {d}: sd of ln ‖P_d v‖"
        found.append(Check(name, float(values.std(ddof=1)), sd, error, "Newman 1986"))
    for d, sd in ((d, sd) for d, sd in TIED_SD.items() if d <= depth):
        error = 4 * sd * math.sqrt(1 / 118 + 1 / (2 * len(tied) - 2))
        name = f"tied, N = {n}, d = {d}: sd of ln ‖P_d v‖"
        found.append(Check(name, float(tied[:, d].std(ddof=1)), sd, error, "60 other draws"))
    for word, values, power, tolerance in (
        ("tied", tied, 1.0, 0.15),
        ("untied", untied, 0.5, 4 * math.sqrt(0.75 / len(untied)) / math.log(4)),
    ):
        early, late = (values[:, d].std(ddof=1) for d in (depth // 4, depth))
        name = f"{word}, N = {n}: sd grows like d to the power"
        found.append(Check(name, math.log(late / early, 4), power, tolerance, "from d/4 to d"))
    return found


def _crossing_checks(result: Result) -> list[Check]:
    """Check that tying is not seen before √N, and that the crossover scales like it."""
    s, found = result.settings, []
    for n, _, draws, _ in s.growth:
        d = round(math.sqrt(n) / 2)
        error = 4 / math.sqrt(2 * draws)
        name = f"N = {n}, d = √N/2 = {d}: sd tied / untied"
        found.append(Check(name, float(excess(result, n)[d - 1]), 1.0, error, "no effect yet"))
    (n, _, first_draws, _), (last, _, last_draws, _) = s.growth[0], s.growth[-1]
    power = math.log(crossing(result, last) / crossing(result, n)) / math.log(last / n)
    name = f"depth where tying adds half to the sd grows like N to the power ({n} to {last})"
    tolerance = 4 * 1.5 * math.sqrt(1 / (2 * first_draws) + 1 / (2 * last_draws))
    found.append(Check(name, power, 0.5, tolerance / math.log(last / n), "√N"))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    third = [float(moments(result, tied, 3)[0][-1]) for tied in (True, False)]
    depths = " and ".join(f"{crossing(result, n):.0f} (N = {n})" for n in s.sizes)
    return (
        f"From about √N on: tying has raised the scatter of ln ‖P_d v‖ by half at depths {depths}. "
        f"Before, W^L and fresh factors share one spectrum: the third moment at L = 3 is "
        f"{third[0]:.1f} tied, {third[1]:.1f} untied, 22 by the Fuss-Catalan law."
    )


def draw(result: Result) -> Figure:
    """Draw moments, distribution, scatter against depth, and its collapse with √N."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_moments(panels[0, 0], result)
        _draw_density(panels[0, 1], result)
        _draw_scatter(panels[1, 0], result)
        _draw_collapse(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


_LOOK = {True: (plots.COLORS["red"], "tied: $W^L$"), False: (plots.COLORS["blue"], "untied: fresh")}
_SIZES = (plots.COLORS["orange"], plots.COLORS["violet"], plots.COLORS["olive"])


def _draw_moments(axes: Any, result: Result) -> None:
    """Draw the first three moments against depth."""
    for i, p in enumerate(POWERS):
        exact = [float(random_matrix.fuss_catalan_moment(p, depth)) for depth in DEPTHS]
        axes.semilogy(DEPTHS, exact, color="black", linewidth=1)
        axes.annotate(f"p = {p}", (DEPTHS[-1], exact[-1]), xytext=(10, 0), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
        for tied, (color, label) in _LOOK.items():
            found = np.array([[part[i] for part in moments(result, tied, d)] for d in DEPTHS])
            places = np.array(DEPTHS) + (-0.05 if tied else 0.05)
            axes.errorbar(places, found[:, 0], yerr=found[:, 1], fmt="o" if tied else "s",
                          markersize=3.5, linewidth=1, color=color,
                          label=label if i == 0 else None)  # fmt: skip
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlim(0.8, 4.6)
    axes.set_ylim(0.7, 60)
    axes.set_xticks(DEPTHS)
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_xlabel("depth L; lines: Fuss-Catalan")
    axes.set_ylabel("(1/N) tr (P Pᵀ)$^p$")
    axes.set_title(f"moments at fixed depth, N = {result.settings.width}")


def _draw_density(axes: Any, result: Result) -> None:
    """Draw the distribution of ln σ at L = 3, tied and untied."""
    depth = 3
    edges = np.arange(-4.0, 0.8, 0.1)
    for tied, (color, label) in _LOOK.items():
        decades = result.logs[tied][:, DEPTHS.index(depth)].ravel() / plots.LN10
        counts, _ = np.histogram(decades, edges)
        axes.stairs(counts / decades.size / np.diff(edges), edges, color=color, linewidth=1.4,
                    label=label)  # fmt: skip
    x, weighted = gaussian_linear_density(depth)
    axes.plot(np.log10(x) / 2, 2 * plots.LN10 * weighted, color="black", linewidth=1)
    edge = float(random_matrix.fuss_catalan_edge(depth))
    axes.annotate(f"edge\n{edge:.3f}", (math.log10(edge), 0.05), xytext=(6, 0),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlim(-3, 1)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(lambda v, _: f"$10^{{{v:.0f}}}$")
    axes.set_xticks([-3, -2, -1, 0, 1])
    axes.set_xlabel("singular value σ")
    axes.set_ylabel("density of log₁₀ σ")
    axes.set_title(f"singular values at L = {depth}; line: Fuss-Catalan")


def _draw_scatter(axes: Any, result: Result) -> None:
    """Draw the standard deviation of ln ‖P_d v‖ against depth."""
    for n, color in zip(result.settings.sizes, _SIZES, strict=False):
        tied = result.growth[True][n]
        depths = _spaced(tied.shape[1] - 1)
        _, exact = random_matrix.untied_growth(n, depths)
        exact = np.asarray(exact)
        axes.loglog(depths, exact, color=color, linewidth=1, linestyle=(0, (4, 2)))
        axes.loglog(depths, tied[:, depths].std(axis=0, ddof=1), "o", color=color, markersize=3.5)
        if n in result.growth[False]:
            untied = result.growth[False][n][:, depths].std(axis=0, ddof=1)
            axes.loglog(depths, untied, "s", color=color, markersize=3.5, fillstyle="none")
        axes.annotate(f"N = {n}", (depths[-1], exact[-1]), xytext=(5, 0), va="center",
                      textcoords="offset points", color=color, fontsize=8,
                      annotation_clip=False)  # fmt: skip
    axes.plot([], [], "o", color=plots.COLORS["gray"], markersize=3.5, label="tied")
    axes.plot([], [], "s", color=plots.COLORS["gray"], markersize=3.5, fillstyle="none",
              label="untied")  # fmt: skip
    axes.plot([], [], color=plots.COLORS["gray"], linewidth=1, linestyle=(0, (4, 2)),
              label="untied, exact: ∝ √d")  # fmt: skip
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlim(0.9, 1100)
    axes.set_xlabel("depth d")
    axes.set_ylabel("sd of ln ‖P$_d$ v‖ (nats)")
    axes.set_title("scatter against depth")


def _draw_collapse(axes: Any, result: Result) -> None:
    """Draw the excess scatter against d/√N: one curve for all widths."""
    for n, color in zip(result.settings.sizes, _SIZES, strict=False):
        ratios = excess(result, n)
        depths = np.arange(1, ratios.size + 1)
        axes.semilogx(depths / math.sqrt(n), ratios, color=color, label=f"N = {n}")
        axes.plot([crossing(result, n) / math.sqrt(n)], [CROSSING], "o", color=color, markersize=4)
    axes.axhline(1, color="black", linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(f"crossover: {CROSSING:g}", (0.12, CROSSING), xytext=(0, 3),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.axhline(CROSSING, color=plots.COLORS["gray"], linewidth=0.7)
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlim(0.1, 5)
    axes.set_ylim(0.6, 4.5)
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set_xlabel("d/√N")
    axes.set_ylabel("sd tied / sd untied (exact)")
    usual = np.mean([crossing(result, n) / math.sqrt(n) for n in result.settings.sizes])
    axes.set_title(f"tying begins to matter at d ≈ {usual:.1f} √N")


def _spaced(last: int) -> np.ndarray:
    """Give about 14 depths, evenly on a logarithmic axis."""
    return np.unique(np.round(np.geomspace(1, last, 14)).astype(int))
