"""The curse of memory: a linear unit whose state Jacobian never explodes, and whose gradient does.

h_t = λ h_{t-1} + x_t gives dh_t/dλ = Σ_k k λ^(k-1) x_{t-k}. Every step back costs a factor λ < 1,
and yet the terms grow up to the lag 1/(1 - λ) before they vanish.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from scipy.linalg import solve_discrete_lyapunov

from gradhorizon import plots
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.studies._study import Check
from gradhorizon.theory import linear_memory

TITLE = "The curse of memory: with λ → 1 gradients blow up like (1 − λ)⁻³ though no Jacobian does"
QUESTION = "Is a long memory safe once the state's Jacobian cannot explode?"
SOURCE = (
    "Zucchet & Orvieto, Recurrent neural networks: vanishing and exploding gradients are not the "
    "end of the story, NeurIPS 2024 (arXiv:2405.21064), Fig. 1."
)
# (ρ, λ): E h², E (dh/dλ)²
EXACT = {
    (0.0, 0.9): (5.2631578947, 263.8868639743),
    (0.9, 0.9): (50.1385041551, 3756.9539828577),
    (0.999, 0.5): (3.9946719947, 15.9668621607),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Correlations of the input, distances 1 - λ, and how many sequences are run."""

    seed: int = 0
    correlations: list[float] = dataclasses.field(
        default_factory=lambda: [0.0, 0.9, 0.99, 0.999, 1.0]
    )
    decades: list[float] = dataclasses.field(
        default_factory=lambda: [0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0]
    )
    sequences: int = 1000
    memories: float = 12.0
    lag_decades: list[float] = dataclasses.field(default_factory=lambda: [-1.0, -2.0, -3.0])
    lags: int = 10000


SMALL = Settings(decades=[0.0, -1.0, -2.0], sequences=400, lag_decades=[-1.0, -2.0], lags=1000)


class Result(NamedTuple):
    """Second moments over sequences, and the size of single terms by lag."""

    settings: Settings
    eigenvalues: np.ndarray  # (λ,)
    state: np.ndarray  # h at the end, (λ, ρ, sequences)
    sensitivity: np.ndarray  # dh/dλ at the end, (λ, ρ, sequences)
    log_jacobians: np.ndarray  # ln |∂h_T/∂h_{T-k}|, (lag eigenvalues, lags + 1)
    impulse: np.ndarray  # d h_k/dλ after a single input at step 0, (lag eigenvalues, lags + 1)


def unit(eigenvalue: Any, h: Any, x: Any) -> Any:
    """Advance h by one input."""
    return eigenvalue * h + x


def compute(settings: Settings) -> Result:
    """Differentiate the last state of many sequences, and the answer to one impulse."""
    s = settings
    eigenvalues = 1 - 10.0 ** np.array(s.decades)
    steps = math.ceil(s.memories / (1 - eigenvalues.max()))
    state, sensitivity = _last_states(
        jax.random.key(s.seed), jnp.asarray(eigenvalues), jnp.asarray(s.correlations),
        steps=steps, sequences=s.sequences,
    )  # fmt: skip
    jacobians, impulses = [], []
    for eigenvalue in 1 - 10.0 ** np.array(s.lag_decades):
        value = jnp.full(1, eigenvalue)
        chain = jacobian_chain(unit, value, jnp.zeros(1), jnp.zeros((s.lags, 1)))
        jacobians.append(backpropagate(chain, jnp.ones(1)).by_lag)
        impulses.append(_impulse(value[0], steps=s.lags))
    return Result(
        s, eigenvalues, np.asarray(state), np.asarray(sensitivity), np.array(jacobians),
        np.array(impulses),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("steps", "sequences"))
def _last_states(
    key: Any, eigenvalues: Any, correlations: Any, *, steps: int, sequences: int
) -> tuple[Array, Array]:
    """Give h and dh/dλ after `steps` correlated inputs, by forward-mode differentiation."""
    shape = (eigenvalues.size, correlations.size, sequences)
    rho = correlations[None, :, None]
    for_start, for_noise = jax.random.split(key)

    def last(eigenvalue: Any) -> Array:
        def body(carry: tuple[Array, Array], t: Any) -> tuple[tuple[Array, Array], None]:
            h, x = carry
            noise = jax.random.normal(jax.random.fold_in(for_noise, t), (1, *shape[1:]))
            # h first: x has unit variance from the start, and stays so
            return (unit(eigenvalue, h, x), rho * x + jnp.sqrt(1 - rho**2) * noise), None

        first = jax.random.normal(for_start, (1, *shape[1:]))
        start = (jnp.zeros(shape), first)
        (h, _), _ = jax.lax.scan(body, start, jnp.arange(steps))
        return h

    whole = jnp.broadcast_to(eigenvalues[:, None, None], shape)
    return jax.jvp(last, (whole,), (jnp.ones_like(whole),))


@functools.partial(jax.jit, static_argnames=("steps",))
def _impulse(eigenvalue: Any, *, steps: int) -> Array:
    """Give dh_k/dλ at k = 0 … steps after one input of 1 at step 0."""

    def states(value: Any) -> Array:
        body = lambda h, _: (unit(value, h, jnp.zeros_like(h)), h)  # noqa: E731
        return jax.lax.scan(body, jnp.ones_like(value), None, length=steps + 1)[1]

    return jax.jvp(states, (eigenvalue,), (jnp.ones_like(eigenvalue),))[1]


def moment(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the mean square over sequences, and its standard error."""
    squares = samples**2
    return squares.mean(axis=-1), squares.std(axis=-1, ddof=1) / math.sqrt(squares.shape[-1])


def lru_factor(eigenvalue: Any) -> np.ndarray:
    """Give (γ dλ/dν)² of λ = exp(-exp ν), γ = √(1 - λ²): what an LRU multiplies (dh/dλ)² by."""
    rate = -np.log(np.maximum(eigenvalue, 1e-300))
    nu = jnp.log(jnp.asarray(rate))
    slope = jax.vmap(jax.grad(lambda v: jnp.exp(-jnp.exp(v))))(nu)
    return np.asarray((slope * linear_memory.lru_normalization(nu)) ** 2)


def stationary(rho: float, lam: float) -> tuple[float, float]:
    """Give E h² and E (dh/dλ)² from the Lyapunov equation of the state (x, h, dh/dλ)."""
    advance = np.array([[rho, 0, 0], [rho, lam, 0], [0, 1, lam]])
    noise = (1 - rho**2) * np.outer([1, 1, 0], [1, 1, 0])
    covariance = solve_discrete_lyapunov(advance, noise)
    return float(covariance[1, 1]), float(covariance[2, 2])


def checks(result: Result) -> list[Check]:
    """Compare theory with its table and an equation, sequences with theory."""
    return [*_theory_checks(), *_lag_checks(result), *_sequence_checks(result)]


def _theory_checks() -> list[Check]:
    found = []
    source = "closed form, Zucchet & Orvieto 2024"
    for (rho, lam), numbers in EXACT.items():
        values = (linear_memory.ar1_state_moment, linear_memory.ar1_sensitivity_moment)
        names = ("E h²", "E (dh/dλ)²")
        solved = stationary(rho, lam)
        for name, value, number, other in zip(names, values, numbers, solved, strict=True):
            label = f"ρ = {rho:g}, λ = {lam:g}: {name}"
            exact = float(value(lam, rho))
            found += [
                Check(label, exact, number, 6e-11, source),
                Check(f"{label}, relative difference from the Lyapunov equation",
                      other / exact - 1, 0.0, 1e-9, "X = A X Aᵀ + Q"),
            ]  # fmt: skip
    near = np.array([1e-5, 1e-4])
    for rho, power in ((0.0, -3.0), (0.9, -3.0), (1.0, -4.0)):
        values = np.log(np.asarray(linear_memory.ar1_sensitivity_moment(1 - near, rho)))
        slope = float(np.diff(values)[0] / math.log(10))
        found.append(
            Check(f"ρ = {rho:g}: power of 1 - λ at 1 - λ = 1e-5 … 1e-4", slope, power, 5e-3,
                  "(1 + ρ)/(4(1 - ρ)) (1 - λ)⁻³, and (1 - λ)⁻⁴ for a constant input")
        )  # fmt: skip
    for rho in (0.0, 0.9):
        value = float(linear_memory.lru_sensitivity_moment(math.log(1e-7), rho))
        found.append(
            Check(f"ρ = {rho:g}: E (γ dh/dν)² of an LRU as λ → 1", value,
                  (1 + rho) / (2 * (1 - rho)), 1e-4, "½ (1 + ρ)/(1 - ρ)")
        )  # fmt: skip
    curvature = jax.grad(jax.grad(linear_memory.teacher_loss))(0.9, 0.9)
    found.append(
        Check("curvature of the loss against a teacher with λ* = 0.9", float(curvature),
              EXACT[0.0, 0.9][1], 1e-8, "½ E (h - h*)² has the curvature E (dh/dλ)²")
    )  # fmt: skip
    return found


def _lag_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    lags = np.arange(s.lags + 1)
    for row, decade in enumerate(s.lag_decades):
        lam = 1 - 10.0**decade
        logs = result.log_jacobians[row]
        exact = lags * math.log(lam)
        peak = int(np.argmax(result.impulse[row]))
        found += [
            Check(f"λ = {lam:g}: largest ∂h_T/∂h_t over all lags", float(np.exp(logs.max())), 1.0,
                  0.0, "λ^k ≤ 1: nothing explodes"),
            Check(f"λ = {lam:g}: ln ∂h_T/∂h_(T-k), worst relative deviation from k ln λ",
                  float(np.max(np.abs(logs - exact)[1:] / lags[1:])), 0.0, 1e-14, "exact"),
            Check(f"λ = {lam:g}: lag of the largest term of dh/dλ", float(peak),
                  -1 / math.log(lam), 1.0, "k λ^(k-1) peaks at -1/ln λ"),
            Check(f"λ = {lam:g}: its height times 1 - λ",
                  float(result.impulse[row][peak] * (1 - lam)), math.exp(-1), 1 - lam,
                  "1/e, up to O(1 - λ)"),
        ]  # fmt: skip
    return found


def _sequence_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    pairs = (
        ("E h²", result.state, linear_memory.ar1_state_moment),
        ("E (dh/dλ)²", result.sensitivity, linear_memory.ar1_sensitivity_moment),
    )
    for name, samples, theory in pairs:
        mean, error = moment(samples)
        for column, rho in enumerate(s.correlations):
            exact = np.asarray(theory(jnp.asarray(result.eigenvalues), rho))
            z = (mean[:, column] - exact) / error[:, column]
            found.append(
                Check(f"ρ = {rho:g}: {name} of {s.sequences} sequences, largest deviation over λ "
                      "in standard errors", float(np.max(np.abs(z))), 0.0, 4.0,
                      "closed form; four standard errors")
            )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    lam = float(result.eigenvalues[-1])
    mean, _ = moment(result.sensitivity)
    white, red = float(mean[-1, 0]), float(mean[-1, s.correlations.index(0.99)])
    factor = float(lru_factor(lam * np.ones(1))[0])
    return (
        f"No: at λ = {lam:g} no state Jacobian exceeds 1, and yet E (dh/dλ)² is {white:.1e} for "
        f"white inputs and {red:.1e} for inputs correlated over 100 steps (at λ = 0 it is 1). "
        f"The exponential parametrization of the LRU and its normalization multiply that by "
        f"{factor:.1e}: {white * factor:.2f} for white inputs, whatever the memory."
    )


def draw(result: Result) -> Figure:
    """Draw the gradient against 1 - λ, its terms against lag, and the LRU's remedy."""
    figure, panels = plots.new_figure(8.4, 3.5, ncols=3)
    with plots.style():
        _draw_curse(panels[0], result)
        _draw_terms(panels[1], result)
        _draw_remedy(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


GRID = 10.0 ** np.linspace(-4, -0.001, 161)  # 1 - λ
SHADES = [plots.COLORS[c] for c in ("blue", "olive", "orange", "red", "violet")]


def _curves(axes: Any, result: Result, lines: np.ndarray, factor: np.ndarray) -> None:
    """Draw one line for each ρ over GRID, and the sequences times `factor` on it."""
    mean, error = (values * factor[:, None] for values in moment(result.sensitivity))
    usable = factor > 0
    for column, color in enumerate(SHADES[: len(lines)]):
        axes.plot(GRID, lines[column], color=color)
        axes.errorbar(1 - result.eigenvalues[usable], mean[usable, column], error[usable, column],
                      fmt="o", color=color, markersize=3.2, linewidth=1)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, 1e-4)
    axes.set_xlabel("1 − λ (memory grows to the right)")


def _draw_curse(axes: Any, result: Result) -> None:
    theory = linear_memory.ar1_sensitivity_moment
    rhos = jnp.asarray(result.settings.correlations)[:, None]
    lines = np.asarray(jax.vmap(lambda rho: theory(jnp.asarray(1 - GRID), rho))(rhos))
    _curves(axes, result, lines, np.ones_like(result.eigenvalues))
    axes.set_ylim(0.5, 1e16)
    axes.set_yticks([1, 1e4, 1e8, 1e12, 1e16])
    axes.text(9e-2, 1e9, "constant input:\n(1 − λ)⁻⁴", color=SHADES[-1], fontsize=8, ha="center")
    axes.text(2e-2, 3, "white input:\n(1 − λ)⁻³", color=SHADES[0], fontsize=8, ha="left")
    axes.set_title("variance of dh/dλ (colors: right)")
    axes.set_ylabel("E (dh/dλ)²")


def _draw_terms(axes: Any, result: Result) -> None:
    s = result.settings
    lags = np.arange(s.lags + 1)
    colors = [plots.COLORS[c] for c in ("gray", "blue", "red")]
    shown = np.unique(np.rint(np.geomspace(1, s.lags, 28)).astype(int))
    for row, (decade, color) in enumerate(zip(s.lag_decades, colors, strict=False)):
        lam = 1 - 10.0**decade
        with np.errstate(divide="ignore"):
            terms = np.log10(lags) + (lags - 1) * math.log10(lam)
        axes.plot(lags[1:], terms[1:], color=color)
        with np.errstate(divide="ignore"):
            axes.plot(shown, np.log10(result.impulse[row][shown]), "o", color=color, markersize=3)
        axes.plot(lags[1:], result.log_jacobians[row][1:] / plots.LN10, color=color,
                  linestyle=(0, (4, 2)), linewidth=1.2)  # fmt: skip
        top = row == len(s.lag_decades) - 1
        place = int(np.argmax(terms)) if top else int(np.flatnonzero(terms > -0.6)[-1])
        axes.annotate(f"λ = {lam:g}" if top else f"{lam:g}", (lags[place], terms[place]),
                      xytext=(0, 5) if top else (-2, -3), textcoords="offset points", fontsize=8,
                      ha="center" if top else "right", color=color)  # fmt: skip
    axes.axhline(0, color=plots.COLORS["gray"], linewidth=0.6)
    axes.text(1.2, 4.5, "dashed: state Jacobian λᵏ ≤ 1\nsolid: share k λᵏ⁻¹ in dh/dλ",
              fontsize=7.5, va="top")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(1, s.lags)
    axes.set_ylim(-3, 4.5)
    axes.set_title("one input, k steps back")
    axes.set_xlabel("lag k (steps)")
    axes.set_ylabel("log₁₀ of the size")


def _draw_remedy(axes: Any, result: Result) -> None:
    s = result.settings
    rhos = jnp.asarray(s.correlations)[:, None]
    nu = jnp.log(-jnp.log1p(-jnp.asarray(GRID)))
    lines = np.asarray(jax.vmap(lambda r: linear_memory.lru_sensitivity_moment(nu, r))(rhos))
    factor = np.where(result.eigenvalues > 0, lru_factor(result.eigenvalues), 0.0)
    _curves(axes, result, lines, factor)
    for line, rho, color in zip(lines, s.correlations, SHADES, strict=False):
        axes.annotate(f"ρ = {rho:g}", (GRID[0], line[0]), xytext=(4, 0), va="center",
                      textcoords="offset points", color=color, fontsize=8,
                      annotation_clip=False)  # fmt: skip
    axes.set_ylim(bottom=3e-2)
    axes.set_title("the same for an LRU")
    axes.set_ylabel("E (γ dh/dν)², λ = exp(−exp ν)")
