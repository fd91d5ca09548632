"""All steps of a recurrent network solved at once: conditioned as its gradient grows.

h_t = f(h_{t-1}), t = 1 … T, is one system of equations. Its Jacobian has the identity on the
diagonal and -J_t below; the inverse holds the long Jacobians Φ(t, s). Newton's iteration on it
("DEER") needs few rounds when they decay, and about as many as there are steps when they grow.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from scipy.sparse import linalg

from gradhorizon import plots
from gradhorizon.cells import rate_network
from gradhorizon.cells.activations import sech2
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.studies._study import Check
from gradhorizon.theory import bounds

TITLE = "Solving all time steps at once works as long as gradients vanish: λ₁ < 0"
QUESTION = "When can a recurrent network be evaluated in parallel over time?"
SOURCE = (
    "Gonzalez et al. 2025, Predictability enables parallelization of nonlinear state space models "
    "(arXiv:2508.16817), theorem 2; Lim et al. 2024, DEER (arXiv:2309.12252)."
)
# smallest singular value, lower and upper bound of the chain h_t = a h_{t-1}, T = 40
SCALAR = {
    0.5: (0.502789163, 0.5, 1.0),
    1.0: (0.038782663544, 0.025, 1.0),
    1.1: (0.004230816512, 0.002259414414, 0.024304420967),
    1.5: (7.536477e-8, 4.521887e-8, 1.356566e-7),
}
STEPS = 40


@dataclasses.dataclass(frozen=True)
class Settings:
    """Networks x' = W tanh x, W Gaussian of variance g²/D with a zero diagonal."""

    seed: int = 0
    size: int = 100
    gains: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 0.7, 0.9, 1.1, 1.25, 1.4, 1.55, 1.75, 2.0]
    )
    networks: int = 1
    lengths: list[int] = dataclasses.field(default_factory=lambda: [30, 100, 300])
    tolerance: float = 1e-10
    exponent_steps: int = 2000
    burn_in: int = 500
    pairs: int = 10
    points: int = 41


SMALL = Settings(
    size=32, gains=[0.6, 3.0], networks=1, lengths=[30, 120], exponent_steps=1000, burn_in=200,
    pairs=8, points=5,
)  # fmt: skip


class Network(NamedTuple):
    """What was measured of one network."""

    gain: float
    exponent: float  # λ_1, nats per step
    error: float
    rounds: np.ndarray  # Newton's, by length
    log_smallest: np.ndarray  # ln of the smallest singular value, by length
    log_gradient: float  # ln of the largest growth of one gradient, at the last length
    deviation: float  # of Newton's solution from the sequential one, at the first length
    sandwich: tuple[float, float, float]  # ln: lower bound, √μ, upper bound over `pairs` steps
    lanczos: float  # ln √μ over `pairs` steps, without forming the matrix


class Result(NamedTuple):
    """Scalar chains, and networks."""

    settings: Settings
    factors: np.ndarray
    scalar: np.ndarray  # measured ln √μ of the factors
    networks: list[Network]


def compute(settings: Settings) -> Result:
    """Decompose scalar chains; solve, and condition, random networks."""
    s = settings
    factors = np.unique(np.concatenate([np.linspace(0.4, 1.6, s.points), list(SCALAR)]))
    scalar = np.log([_smallest_of_scalar(a) for a in factors])
    networks = [
        _network(jax.random.fold_in(jax.random.key(s.seed), i), gain, s)
        for gain in s.gains
        for i in range(s.networks)
    ]
    return Result(s, factors, scalar, networks)


def _smallest_of_scalar(factor: float) -> float:
    """Give the smallest singular value of the bidiagonal matrix, as 1/‖its inverse‖."""
    lags = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
    return 1 / float(np.linalg.norm(np.tril(factor ** np.maximum(lags, 0)), 2))


def _network(key: Any, gain: float, s: Settings) -> Network:
    """Measure one network from a state on its attractor."""
    for_w, for_start, for_loss = jax.random.split(key, 3)
    cell = rate_network(s.size, 0)
    W = gain / math.sqrt(s.size) * jax.random.normal(for_w, (s.size, s.size))
    params = {"W": W * (1 - jnp.eye(s.size)), "b": jnp.zeros(s.size)}
    start = jax.random.normal(for_start, (s.size,))
    start = unroll(cell.step, params, start, length=s.burn_in).states[-1]
    # where everything decays, what is left after the transient may be tiny: start anew
    start = jnp.where(jnp.linalg.norm(start) > 1, start, jax.random.normal(for_start, (s.size,)))
    chain = jacobian_chain(cell.step, params, start, length=s.exponent_steps)
    spectrum = lyapunov_spectrum(chain, 1, state_burn_in=s.burn_in // 2)
    cotangent = jax.random.normal(for_loss, (s.size,))
    rounds, smallest, deviation = [], [], math.nan
    whole = unroll(cell.step, params, start, length=s.lengths[-1]).states
    for length in s.lengths:
        states = whole[1 : length + 1]
        solution, count = newton(params["W"], start, length=length, tolerance=s.tolerance)
        if not rounds:
            deviation = float(jnp.max(jnp.abs(solution - states)))
        rounds.append(int(count))
        smallest.append(log_smallest_singular_value(params["W"], states))
    later = jacobian_chain(cell.step, params, whole[1], length=s.lengths[-1] - 1)
    gradient = float(jnp.max(backpropagate(later, cotangent).by_lag))
    # J_t = W diag(φ'(h_{t-1}))
    matrices = np.asarray(params["W"])[None] * np.asarray(sech2(whole[: s.pairs]))[:, None]
    exponent, error = float(spectrum.exponents[0]), float(spectrum.standard_errors[0])
    return Network(
        gain, exponent, error, np.array(rounds), np.array(smallest), gradient, deviation,
        _sandwich(matrices, exponent),
        log_smallest_singular_value(params["W"], whole[1 : s.pairs + 1]),
    )  # fmt: skip


def newton(
    W: Float[Array, "n n"], start: Float[Array, " n"], *, length: int, tolerance: float
) -> tuple[Float[Array, "T n"], Any]:
    """Solve h_t = W tanh(h_{t-1}), t = 1 … T, for all t at once, from the guess 0.

    Each round linearizes every step around the last guess and solves the linear recurrence;
    an associative scan would do that in parallel. States are kept inside the box |h_i| ≤
    Σ_j |W_ij|, which holds the solution, so that no guess overflows.
    """
    return _newton(W, start, tolerance, length)


@jax.jit(static_argnums=3)
def _newton(W: Any, start: Any, tolerance: Any, length: int) -> tuple[Array, Array]:
    box = jnp.sum(jnp.abs(W), axis=1)

    def before(guess: Array) -> Array:
        return jnp.concatenate([start[None], guess[:-1]])

    def residual(guess: Array) -> Array:
        return jnp.max(jnp.abs(guess - jnp.tanh(before(guess)) @ W.T))

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        guess, count, _ = carry
        old = before(guess)

        def step(h: Array, item: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            past, value, slope = item
            new = jnp.clip(W @ (value + slope * (h - past)), -box, box)
            return new, new

        _, guess = jax.lax.scan(step, start, (old, jnp.tanh(old), sech2(old)))
        return guess, count + 1, residual(guess)

    guess = jnp.zeros((length, start.size), start.dtype)
    carry = (guess, jnp.asarray(0, jnp.int32), residual(guess))
    unsolved = lambda c: (c[2] > tolerance) & (c[1] < length)  # noqa: E731
    guess, count, _ = jax.lax.while_loop(unsolved, body, carry)
    return guess, count


def log_smallest_singular_value(W: Any, states: Float[Array, "T n"]) -> float:
    """Give ln √μ: Lanczos on the inverse, a forward recurrence and its transpose."""
    slopes = sech2(states)
    size = states.size
    sparse: Any = linalg
    operator = sparse.LinearOperator(
        (size, size), matvec=lambda y: np.asarray(_inverse_twice(W, slopes, y)), dtype=float
    )
    start = np.random.default_rng(0).normal(size=size)
    (largest,) = sparse.eigsh(operator, k=1, tol=1e-8, v0=start, return_eigenvectors=False)
    return -0.5 * math.log(largest)


@jax.jit
def _inverse_twice(W: Any, slopes: Any, flat: Any) -> Array:
    """Give L⁻ᵀ L⁻¹ y, L with I on the diagonal and -J_t = -W diag(φ'(h_{t-1})) below."""
    first = jnp.zeros_like(slopes[0])

    def forward(v: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        y, slope = item
        new = W @ v + y
        return slope * new, new

    def backward(u: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        y, slope = item
        new = slope * (W.T @ u) + y
        return new, new

    _, inner = jax.lax.scan(forward, first, (jnp.reshape(flat, slopes.shape), slopes))
    _, outer = jax.lax.scan(backward, first, (inner, slopes), reverse=True)
    return jnp.ravel(outer)


def _sandwich(J: np.ndarray, rate: float) -> tuple[float, float, float]:
    """Give theorem 2 for J_1 … J_T with the a and b of all products, and ln √μ by SVD."""
    steps, n, _ = J.shape
    whole = np.eye(steps * n)
    for t in range(1, steps):
        whole[t * n : (t + 1) * n, (t - 1) * n : t * n] = -J[t]
    smallest = float(np.linalg.svd(whole, compute_uv=False)[-1])
    excess = [0.0]
    for s in range(steps):
        product = np.eye(n)
        for t in range(s + 1, steps):
            product = J[t] @ product
            excess.append(math.log(np.linalg.norm(product, 2)) - rate * (t - s))
    over, under = math.exp(max(excess)), math.exp(min(excess))
    found = bounds.conditioning(rate, steps, overshoot=over, undershoot=under)
    return float(found.log_lower), math.log(smallest), float(found.log_upper)


def checks(result: Result) -> list[Check]:
    """Compare with closed forms, the theorem and the sign of the exponents."""
    return [*_scalar_checks(result), *_theorem_checks(result), *_sign_checks(result)]


def _scalar_checks(result: Result) -> list[Check]:
    found = []
    for factor, (smallest, lower, upper) in SCALAR.items():
        value = math.exp(result.scalar[np.searchsorted(result.factors, factor)])
        both = bounds.conditioning(math.log(factor), STEPS)
        source = "arXiv:2508.16817, theorem 2, a = b = 1"
        label = f"scalar chain, a = {factor:g}, T = {STEPS}"
        found += [
            Check(f"{label}: √μ", value, smallest, 1e-6 * smallest, "singular values"),
            Check(f"{label}: lower bound", math.exp(both.log_lower), lower, 1e-6 * lower, source),
            Check(f"{label}: upper bound", math.exp(both.log_upper), upper, 1e-6 * upper, source),
        ]  # fmt: skip
    exact = closed_form(result.factors)
    one = math.exp(result.scalar[np.searchsorted(result.factors, 1.0)])
    return [
        *found,
        Check("scalar chain, a = 1: √μ", one, 2 * math.sin(math.pi / (2 * (2 * STEPS + 1))), 1e-12,
              "2 sin(π/(2(2T + 1)))"),
        Check("scalar chains: ln √μ, worst deviation from the closed form",
              float(np.max(np.abs(result.scalar - exact))), 0.0, 1e-10, "docs/derivations.md"),
    ]  # fmt: skip


def closed_form(factors: np.ndarray) -> np.ndarray:
    """Give ln √μ of scalar chains exactly."""
    return np.asarray(
        jax.vmap(lambda a: bounds.scalar_conditioning(a, STEPS))(jnp.asarray(factors))
    )


def _theorem_checks(result: Result) -> list[Check]:
    s, networks = result.settings, result.networks
    outside = [max(n.sandwich[0] - n.sandwich[1], n.sandwich[1] - n.sandwich[2]) for n in networks]
    lanczos = [abs(n.lanczos - n.sandwich[1]) for n in networks]
    grown = [float(n.log_smallest[-1]) + n.log_gradient for n in networks]
    # a residual r leaves an error of at most ‖r‖/√μ, to first order
    scale = s.tolerance * math.sqrt(s.lengths[0] * s.size)
    wrong = [n.deviation * math.exp(n.log_smallest[0]) / scale for n in networks]
    return [
        Check(f"networks, T = {s.pairs}: largest violation of the theorem's bounds on ln √μ",
              max(0.0, *outside), 0.0, 1e-10, "theorem 2 with a, b of all products"),
        Check(f"networks, T = {s.pairs}: ln √μ by Lanczos against a dense decomposition, worst",
              max(lanczos), 0.0, 1e-6, "two algorithms"),
        Check("networks: largest violation of √μ ≤ 1/(growth of a gradient), in ln",
              max(0.0, *grown), 0.0, 1e-6, "‖L⁻¹‖ is at least the norm of each block Φ(t, s)"),
        Check(f"Newton's solution, T = {s.lengths[0]}: worst distance from the sequential one, in "
              "units of residual/√μ", max(wrong), 0.0, 1.0, "‖L⁻¹‖ = 1/√μ"),
    ]  # fmt: skip


def _sign_checks(result: Result) -> list[Check]:
    s, found = result.settings, []
    stable = [n for n in result.networks if n.exponent < -0.05]
    chaotic = [n for n in result.networks if n.exponent > 0.05]
    middle, last = s.lengths[-2:]
    ratios = [n.rounds[-1] / n.rounds[-2] for n in stable]
    found.append(
        Check(f"λ₁ < -0.05: Newton's rounds at T = {last} over those at T = {middle}, worst",
              float(max(ratios)), 1.0, 0.3, "independent of T while long products vanish")
    )  # fmt: skip
    powers = [math.log(n.rounds[-1] / n.rounds[-2]) / math.log(last / middle) for n in chaotic]
    found.append(
        Check(f"λ₁ > 0.05: power of T in the number of rounds, T = {middle} to {last}, mean",
              float(np.mean(powers)), 1.0, 0.4, "in proportion to T, as in Fig. 2 of the source")
    )  # fmt: skip
    for n in chaotic:
        spread = n.error * math.sqrt(s.exponent_steps / last)
        found.append(
            Check(f"g = {n.gain:g}, T = {last}: -ln √μ per step", -float(n.log_smallest[-1]) / last,
                  n.exponent, 4 * spread + 10 / last,
                  "λ₁ of the network; four standard errors over T steps, ln a / T")
        )  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    s = result.settings
    stable = max(n.rounds[-1] for n in result.networks if n.exponent < -0.05)
    chaotic = [n for n in result.networks if n.exponent > 0.05]
    most = max(chaotic, key=lambda n: n.exponent)
    return (
        f"While gradients vanish: networks with λ₁ < -0.05 are solved over {s.lengths[-1]} steps "
        f"in at most {stable} rounds of Newton's method, however long the sequence. With λ₁ = "
        f"{most.exponent:.2f} the equations have √μ = 10^{most.log_smallest[-1] / plots.LN10:.0f} "
        f"and take {most.rounds[-1]} rounds, a number that grows with that of the steps."
    )


def draw(result: Result) -> Figure:
    """Draw the conditioning of scalar chains and of networks, and Newton's rounds."""
    figure, panels = plots.new_figure(8.4, 3.4, ncols=3)
    with plots.style():
        _draw_scalar(panels[0], result)
        _draw_conditioning(panels[1], result)
        _draw_rounds(panels[2], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


SHADES = [plots.COLORS[c] for c in ("blue", "violet", "red")]


def _draw_scalar(axes: Any, result: Result) -> None:
    logs = np.log(result.factors)
    both = jax.vmap(lambda rate: bounds.conditioning(rate, STEPS))(jnp.asarray(logs))
    lower, upper = (np.exp(np.asarray(bound)) for bound in both)
    axes.fill_between(result.factors, lower, upper, color=plots.COLORS["olive"], alpha=0.25,
                      linewidth=0)  # fmt: skip
    axes.semilogy(result.factors, np.exp(closed_form(result.factors)), color=plots.COLORS["blue"])
    axes.plot(result.factors, np.exp(result.scalar), "o", color=plots.COLORS["blue"], markersize=3)
    axes.axvline(1, color=plots.COLORS["gray"], linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(0.4, 1e-5, "band: theorem\nline: closed form\npoints: measured", fontsize=7.5,
              va="top")  # fmt: skip
    axes.set_ylim(1e-9, 3)
    axes.set_title(f"hₜ = a hₜ₋₁, {STEPS} steps")
    axes.set_xlabel("factor a = exp λ")
    axes.set_ylabel("smallest singular value √μ")


def _by_exponent(axes: Any, result: Result, values: np.ndarray) -> None:
    """Draw values (networks, lengths) over the networks' exponents."""
    places = [n.exponent for n in result.networks]
    errors = [n.error for n in result.networks]
    for column, color in zip(range(values.shape[1]), SHADES, strict=False):
        axes.errorbar(places, values[:, column], xerr=errors, fmt="o", color=color, markersize=3.5,
                      linewidth=0.8)  # fmt: skip
    axes.axvline(0, color=plots.COLORS["gray"], linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlabel("λ₁ of the network (nats per step)")


def _draw_conditioning(axes: Any, result: Result) -> None:
    s = result.settings
    values = np.array([n.log_smallest for n in result.networks]) / plots.LN10
    most = max(n.exponent for n in result.networks)
    for length, color in zip(s.lengths, SHADES, strict=False):
        axes.plot([0, most], [0, -most * (length - 1) / plots.LN10], color=color, linewidth=1.2)
    _by_exponent(axes, result, values)
    axes.text(0.03, 0.05, "lines: e^(−λ₁(T−1))", transform=axes.transAxes, fontsize=7.5)
    axes.set_ylim(1.2 * values.min(), 2)
    axes.set_title(f"random tanh networks, N = {s.size}")
    axes.set_ylabel("log₁₀ √μ")


def _draw_rounds(axes: Any, result: Result) -> None:
    s = result.settings
    values = np.array([n.rounds for n in result.networks], dtype=float)
    _by_exponent(axes, result, values)
    last = int(np.argmax([n.exponent for n in result.networks]))
    for length, value, color in zip(s.lengths, values[last], SHADES, strict=False):
        axes.annotate(f"T = {length}", (result.networks[last].exponent, value), xytext=(7, 0),
                      textcoords="offset points", va="center", color=color, fontsize=8,
                      annotation_clip=False)  # fmt: skip
    axes.set_yscale("log")
    axes.text(0.04, 0.93, "gradients vanish", transform=axes.transAxes, fontsize=7.5, va="top")
    axes.set_ylim(1, 1.6 * s.lengths[-1])
    axes.set_title("rounds of Newton's method")
    axes.set_ylabel("rounds until solved")
