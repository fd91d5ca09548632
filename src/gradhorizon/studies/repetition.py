"""Cause 2: the same term repeated. Why w·w·…·w is far less stable than w₁·w₂·…·w_d."""

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
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.studies._study import Check
from gradhorizon.theory import random_matrix, scalar

TITLE = "Repeating one factor makes a product grow like d, not like √d"
QUESTION = "Why is a recurrent network harder to balance than an equally deep feedforward one?"
SOURCE = (
    "Goodfellow, Bengio & Courville 2016, sections 8.2.5 and 10.7 (the contrast); Newman 1986 "
    "(untied exponents); Kostlan 1992 and Akemann & Burda 2012 (eigenvalue moduli)."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the three experiments."""

    seed: int = 0
    scalar_draws: int = 200_000
    scalar_depth: int = 20
    threshold: float = 1e-3
    moduli_size: int = 4
    moduli_depth: int = 10
    moduli_draws: int = 4000
    growth_size: int = 64
    growth_depth: int = 400
    growth_draws: int = 60


SMALL = Settings(scalar_draws=40_000, moduli_draws=1500, growth_depth=160, growth_draws=24)


class Result(NamedTuple):
    """What the three experiments give."""

    settings: Settings
    depths: np.ndarray
    scalar_sd: dict[bool, np.ndarray]  # by tied
    balance: dict[bool, np.ndarray]
    log_det: dict[bool, np.ndarray]
    growth: dict[bool, np.ndarray]  # (draws, depth + 1)
    log_radius: np.ndarray


def compute(settings: Settings) -> Result:
    """Draw scalar products, determinants of complex products, and growing vectors."""
    keys = jax.random.split(jax.random.key(settings.seed), 4)
    depths, sd, balance = _scalars(keys[0], settings)
    growth, log_radius = _growth(keys[2], keys[3], settings)
    return Result(
        settings, depths, sd, balance, _determinants(keys[1], settings), growth, log_radius
    )


def _scalars(key: Any, settings: Settings) -> tuple[np.ndarray, Any, Any]:
    """Give sd of ln|product| and the share inside the window, for depths up to 400.

    The factors are scaled so that E ln|w| = 0: products are then balanced on average.
    """
    last = 400
    logs = jnp.log(jnp.abs(jax.random.normal(key, (last, settings.scalar_draws // 20))))
    logs = np.asarray(logs) - float(scalar.mean_log_abs())
    untied = np.cumsum(logs, axis=0)
    depths = np.unique(np.geomspace(1, last, 16).astype(int))
    sums = {True: depths[:, None] * logs[0][None], False: untied[depths - 1]}
    width = -math.log(settings.threshold)
    sd = {tied: values.std(axis=1) for tied, values in sums.items()}
    share = {tied: np.mean(np.abs(values) <= width, axis=1) for tied, values in sums.items()}
    return depths, sd, share


def _determinants(key: Any, settings: Settings) -> dict[bool, np.ndarray]:
    """Give ln |det P| of powers and of products of complex Ginibre matrices."""
    n, d = settings.moduli_size, settings.moduli_depth
    parts = jax.random.normal(key, (2, settings.moduli_draws, d, n, n)) / math.sqrt(2 * n)
    logs = np.asarray(jnp.linalg.slogdet(lax.complex(parts[0], parts[1]))[1])
    return {True: d * logs[:, 0], False: logs.sum(axis=1)}


def _growth(key: Any, vector_key: Any, settings: Settings) -> tuple[Any, np.ndarray]:
    """Follow ln ‖P_k v‖, k = 0 … d, for one matrix repeated and for fresh matrices."""
    n, d = settings.growth_size, settings.growth_depth

    def one(keys: Any) -> tuple[Any, Any, Any]:
        for_matrices, for_vector = keys
        matrices = jax.random.normal(for_matrices, (d, n, n)) / math.sqrt(n)
        vector = jax.random.normal(for_vector, (n, 1))
        vector = vector / jnp.linalg.norm(vector)
        tied = jnp.broadcast_to(matrices[0], matrices.shape)
        grow = [
            pull_back(JacobianChain.from_matrices(chain), vector).by_lag
            for chain in (tied, matrices)
        ]
        return grow[0], grow[1], matrices[0]

    keys = (
        jax.random.split(key, settings.growth_draws),
        jax.random.split(vector_key, settings.growth_draws),
    )
    with jax.default_matmul_precision("highest"):
        tied, untied, first = jax.jit(lambda k: lax.map(one, k))(keys)
    radii = np.abs(np.linalg.eigvals(np.asarray(first))).max(axis=1)
    return {True: np.asarray(tied), False: np.asarray(untied)}, np.log(radii)


def checks(result: Result) -> list[Check]:
    """Compare with the exact laws; tolerances are four standard errors unless said."""
    return [*_scalar_checks(result), *_determinant_checks(result), *_growth_checks(result)]


def _scalar_checks(result: Result) -> list[Check]:
    s = result.settings
    found = []
    for tied in (True, False):
        exact = np.array([float(scalar.log_product_sd(int(d), tied=tied)) for d in result.depths])
        word = "tied: sd/(d·s)" if tied else "untied: sd/(√d·s)"
        draws = s.scalar_draws // 20
        # a sample sd has relative standard error √((κ - 1)/4N); ln|w| has κ = 7
        error = 4 * math.sqrt(6 / 4 / draws)
        worst = float(np.max(np.abs(result.scalar_sd[tied] / exact - 1)))
        found.append(Check(f"{word} at all depths, worst deviation", worst, 0.0, error, "exact"))
    share = result.balance[True][-1]
    variance = math.exp(-2 * float(scalar.mean_log_abs()))
    exact = float(
        scalar.balance_probability(
            int(result.depths[-1]), s.threshold, tied=True, variance=variance
        )
    )
    error = 4 * math.sqrt(exact / (s.scalar_draws // 20))
    found.append(Check("tied: chance of balance at d = 400", share, exact, error, "exact"))
    return found


def _determinant_checks(result: Result) -> list[Check]:
    s = result.settings
    found = []
    for tied in (True, False):
        mean, variance = random_matrix.log_modulus_moments(s.moduli_size, s.moduli_depth, tied=tied)
        mean, variance = float(mean.sum()), float(variance.sum())
        values, word = result.log_det[tied], "tied" if tied else "untied"
        error = 4 * math.sqrt(variance / values.size)
        found.append(
            Check(f"{word}: mean of ln |det P|", float(values.mean()), mean, error, "Kostlan 1992")
        )
        error = 4 * variance * math.sqrt(3 / values.size)  # kurtosis of ln Γ sums at most 4
        name = f"{word}: variance of ln |det P|"
        found.append(Check(name, float(values.var()), variance, error, "Akemann & Burda 2012"))
    ratio = float(result.log_det[True].var() / result.log_det[False].var())
    error = 4 * s.moduli_depth * math.sqrt(6 / s.moduli_draws)
    found.append(Check("variance ratio = d", ratio, float(s.moduli_depth), error, "exact"))
    return found


def _growth_checks(result: Result) -> list[Check]:
    s = result.settings
    d, draws = s.growth_depth, s.growth_draws
    mean, sd = (float(v) for v in random_matrix.untied_growth(s.growth_size, d))
    untied, tied = result.growth[False][:, -1], result.growth[True]
    found = [
        Check("untied: mean of ln ‖P_d v‖", float(untied.mean()), mean, 4 * sd / math.sqrt(draws),
              "Newman 1986"),
        Check("untied: sd of ln ‖P_d v‖", float(untied.std(ddof=1)), sd,
              4 * sd / math.sqrt(2 * (draws - 1)), "Newman 1986"),
    ]  # fmt: skip
    slope = (tied[:, -1] - tied[:, d // 2]) / (d - d // 2)
    name = "tied: slope of ln ‖P_d v‖ minus ln ρ(W), mean"
    # the approach to Gelfand's limit is O(1/d): a bounded oscillation over half the depth
    found.append(Check(name, float(np.mean(slope - result.log_radius)), 0.0, 2 / (d // 2),
                       "Gelfand"))  # fmt: skip
    name = "tied: sd of ln ‖P_d v‖ / (d · sd of ln ρ)"
    ratio = float(tied[:, -1].std(ddof=1) / d / result.log_radius.std(ddof=1))
    found.append(Check(name, ratio, 1.0, 0.25, "grows like d"))
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    d = result.settings.growth_depth
    tied, untied = (result.growth[t][:, -1].std(ddof=1) for t in (True, False))
    return (
        "Its product contains one factor d times: the logarithm scatters like d instead of √d. "
        f"At N = {result.settings.growth_size} and d = {d} the scatter is {tied:.1f} nats tied "
        f"against {untied:.1f} untied."
    )


def draw(result: Result) -> Figure:
    """Draw scatter, chance of balance, determinants, and growth."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_scatter(panels[0, 0], result)
        _draw_balance(panels[0, 1], result)
        _draw_determinants(panels[1, 0], result)
        _draw_growth(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


_LOOK = {
    True: (plots.COLORS["red"], "tied: one factor repeated"),
    False: (plots.COLORS["blue"], "untied: fresh factors"),
}


def _draw_scatter(axes: Any, result: Result) -> None:
    for tied, (color, label) in _LOOK.items():
        exact = [float(scalar.log_product_sd(int(d), tied=tied)) for d in result.depths]
        axes.loglog(result.depths, exact, color=color)
        axes.loglog(result.depths, result.scalar_sd[tied], "o", color=color, markersize=3.5)
        place = (result.depths[8], exact[8])
        shift = (-6, 4) if tied else (6, -10)
        axes.annotate(label, place, xytext=shift, textcoords="offset points", color=color,
                      ha="right" if tied else "left", fontsize=8)  # fmt: skip
    axes.set_title("scalar factors: scatter of ln |product|")
    axes.set_xlabel("depth d")
    axes.set_ylabel("standard deviation (nats)")


def _draw_balance(axes: Any, result: Result) -> None:
    variance = math.exp(-2 * float(scalar.mean_log_abs()))
    for tied, (color, _) in _LOOK.items():
        exact = [
            float(
                scalar.balance_probability(
                    int(d), result.settings.threshold, tied=tied, variance=variance
                )
            )
            for d in result.depths
        ]
        use = slice(None) if tied else result.depths >= 10
        axes.loglog(result.depths[use], np.array(exact)[use], color=color)
        axes.loglog(result.depths, result.balance[tied], "o", color=color, markersize=3.5)
    for text, place, color in (
        ("∝ 1/√d", (170, 0.55), plots.COLORS["blue"]),
        ("∝ 1/d", (170, 0.055), plots.COLORS["red"]),
    ):
        axes.text(*place, text, color=color, ha="center")
    axes.set_title("chance that the product stays in [ε, 1/ε]")
    axes.set_xlabel("depth d")
    axes.set_ylabel(f"probability (ε = {result.settings.threshold:g})")


def _draw_determinants(axes: Any, result: Result) -> None:
    s = result.settings
    low, high = np.percentile(result.log_det[True], [0.1, 99.9])
    edges = np.linspace(low, high, 60)
    for tied, (color, _) in _LOOK.items():
        axes.hist(result.log_det[tied], edges, density=True, color=color, alpha=0.55)
        mean, variance = random_matrix.log_modulus_moments(s.moduli_size, s.moduli_depth, tied=tied)
        grid = np.linspace(edges[0], edges[-1], 300)
        sd = math.sqrt(float(variance.sum()))
        normal = np.exp(-(((grid - float(mean.sum())) / sd) ** 2) / 2)
        axes.plot(grid, normal / (sd * math.sqrt(2 * math.pi)), color=color)
        place = float(mean.sum()) + 1.1 * sd
        axes.annotate("tied" if tied else "untied", (place, 0.218 / sd), xytext=(5, 3), color=color,
                      textcoords="offset points", fontsize=8)  # fmt: skip
    ratio = result.log_det[True].var() / result.log_det[False].var()
    axes.text(0.02, 0.9, f"variance ratio {ratio:.2f} (exact: d = {s.moduli_depth})",
              transform=axes.transAxes, fontsize=8)  # fmt: skip
    axes.set_title(f"ln |det| of {s.moduli_depth} complex {s.moduli_size}×{s.moduli_size} factors")
    axes.set_xlabel("ln |det P| (nats); lines: normal with the exact moments")
    axes.set_ylabel("density")


def _draw_growth(axes: Any, result: Result) -> None:
    s = result.settings
    depths = np.arange(s.growth_depth + 1)
    for tied, (color, _) in _LOOK.items():
        curves = result.growth[tied]
        axes.plot(depths, curves.T, color=color, linewidth=0.4, alpha=0.45)
    mean, sd = (np.asarray(v) for v in random_matrix.untied_growth(s.growth_size, depths))
    for side in (-1, 1):
        axes.plot(depths, mean + side * sd, color="black", linewidth=1, linestyle=(0, (4, 2)))
    middle = result.growth[True].mean(axis=0)
    axes.plot(depths, middle, color=plots.COLORS["red"], linewidth=2)
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    axes.annotate("mean of tied", (depths[-1], middle[-1]), xytext=(-4, 7), ha="right", bbox=paper,
                  textcoords="offset points", color=plots.COLORS["red"], fontsize=8)  # fmt: skip
    axes.annotate("untied: exact mean ± sd", (depths[-1], result.growth[True].min()),
                  xytext=(-4, -12), ha="right", textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_ylim(bottom=float(result.growth[True].min()) - 18)
    axes.set_title(f"ln ‖P$_d$ v‖ for N = {s.growth_size}, {s.growth_draws} draws each")
    axes.set_xlabel("depth d")
    axes.set_ylabel("nats")
