"""Networks h_t = W tanh(h_{t-1}) + u_t, solved for all t at once by Newton's method."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse import linalg

from gradhorizon.cells import rate_network
from gradhorizon.cells.activations import sech2
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.products.lyapunov import lyapunov_spectrum
from gradhorizon.theory import bounds


class Network(NamedTuple):
    """What was measured of one network."""

    gain: float
    driven: bool
    exponent: float  # λ_1, nats per step
    error: float
    rounds: np.ndarray  # Newton's, until the first t steps are solved; solved steps are kept
    plain: np.ndarray  # the same if all steps are computed anew each round
    alone: int  # Newton's rounds for a system of the first length
    log_smallest: np.ndarray  # ln of the smallest singular value, by length
    log_gradient: float  # ln of the largest growth of one gradient, at the last length
    deviation: float  # of Newton's solution, over its bound to first order where that is < 1e-3
    sandwich: tuple[float, float, float]  # ln: lower bound, √μ, upper bound over `pairs` steps
    lanczos: float  # ln √μ over `pairs` steps, without forming the matrix


def measured(generator: np.random.Generator, gain: float, noise: float, s: Any) -> Network:
    """Measure one network from a state on its attractor."""
    W = gain / math.sqrt(s.size) * generator.standard_normal((s.size, s.size))
    np.fill_diagonal(W, 0)
    params = {"W": W, "U": math.sqrt(noise) * np.eye(s.size), "b": np.zeros(s.size)}
    params = {name: jnp.asarray(value) for name, value in params.items()}
    start, cotangent = generator.standard_normal((2, s.size))
    xs = generator.standard_normal((s.burn_in + s.exponent_steps, s.size))
    cell, last = rate_network(s.size, s.size), s.lengths[-1]
    states = np.asarray(unroll(cell.step, params, jnp.asarray(start), jnp.asarray(xs)).states)
    # where everything decays, what is left after the transient may be tiny: start at once
    first = s.burn_in if np.linalg.norm(states[s.burn_in]) > 1 else 0
    states, xs = states[first : first + last + 1], xs[first : first + s.exponent_steps]
    chain = jacobian_chain(cell.step, params, jnp.asarray(states[0]), jnp.asarray(xs))
    spectrum = lyapunov_spectrum(chain, 1, burn_in=s.exponent_steps // 8)
    gradient = backpropagate(chain.segment(1, last), jnp.asarray(cotangent)).by_lag
    smallest = [log_smallest_singular_value(W, states[1 : t + 1], 1e-2) for t in s.lengths]
    exponent, error = float(spectrum.exponents[0]), float(spectrum.standard_errors[0])
    kept, plain, alone, deviation = _solved(W, states, math.sqrt(noise) * xs[:last], smallest, s)
    return Network(
        gain, noise > 0, exponent, error, kept, plain, alone, np.array(smallest),
        float(np.max(gradient)), deviation,
        sandwich(W / np.cosh(states[: s.pairs, None]) ** 2, exponent),
        log_smallest_singular_value(W, states[1 : s.pairs + 1], 1e-8),
    )  # fmt: skip


def _solved(
    W: np.ndarray, states: np.ndarray, drive: np.ndarray, smallest: list[float], s: Any
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Solve with and without keeping solved steps, and alone; compare with the true states."""
    whole = newton(W, states[0], drive, s.tolerance, True)
    plain = newton(W, states[0], drive, s.tolerance, False)
    alone = newton(W, states[0], drive[: s.lengths[0]], s.tolerance, True)
    deviation = 0.0
    for length, log_smallest in zip(s.lengths, smallest, strict=True):
        # a residual r leaves an error of at most ‖r‖/√μ, to first order
        bound = s.tolerance * math.sqrt(length * s.size) / math.exp(log_smallest)
        away = float(np.max(np.abs(whole.states[:length] - states[1 : length + 1])))
        deviation = max(deviation, away / bound if bound < 1e-3 else 0.0)
    return np.asarray(whole.rounds), np.asarray(plain.rounds), int(alone.rounds[-1]), deviation


class Solution(NamedTuple):
    """All steps, and the round of Newton's method after which the first t of them were solved."""

    states: Float[Array, "T n"]
    rounds: Int[Array, " T"]


@jax.jit
def newton(
    W: Any,
    start: Any,
    drive: Any,
    tolerance: Any,
    keep: Any,
) -> Solution:
    """Solve for all steps at once, from the guess 0, until every residual is within `tolerance`.

    Shapes: W (n, n), start (n,), drive (T, n).

    Each round linearizes every step around the last guess and solves the linear recurrence;
    an associative scan would do that in parallel. States are kept inside the box |h_i| ≤
    Σ_j |W_ij| + |u_i|, which holds the solution, so that no guess overflows. If `keep`, the
    leading steps are left alone once they are solved; else they are computed anew each round.

    The first t steps know nothing of the later ones: one run tells the rounds for every length.
    """
    length = drive.shape[0]
    box = jnp.sum(jnp.abs(W), axis=1)[None] + jnp.abs(drive)

    def before(guess: Array) -> Array:
        return jnp.concatenate([start[None], guess[:-1]])

    def residuals(guess: Array) -> Array:
        """Give the largest residual of the first t steps, for every t."""
        wrong = guess - jnp.tanh(before(guess)) @ W.T - drive
        return jax.lax.cummax(jnp.max(jnp.abs(wrong), axis=1))

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        guess, count, rounds = carry
        solved = jnp.where(keep, jnp.sum(rounds > 0), 0)
        old = before(guess)
        value, slope = jnp.tanh(old), sech2(old)

        def step(t: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
            h, guess = item
            new = W @ (value[t] + slope[t] * (h - old[t])) + drive[t]
            new = jnp.clip(new, -box[t], box[t])
            return new, guess.at[t].set(new)

        _, guess = jax.lax.fori_loop(solved, length, step, (old[solved], guess))
        first = (rounds == 0) & (residuals(guess) <= tolerance)
        return guess, count + 1, jnp.where(first, count + 1, rounds)

    def unsolved(carry: tuple[Array, Array, Array]) -> Array:
        # T rounds solve T steps: each makes at least one more exact
        return (carry[2][-1] == 0) & (carry[1] <= length)

    guess = jnp.zeros_like(drive)
    carry = (guess, jnp.asarray(0, jnp.int32), jnp.zeros(length, jnp.int32))
    guess, _, rounds = jax.lax.while_loop(unsolved, body, carry)
    return Solution(guess, rounds)


def log_smallest_singular_value(W: Any, states: np.ndarray, tolerance: float) -> float:
    """Give ln √μ: Lanczos on the inverse, a forward recurrence and its transpose.

    `tolerance` is that of the residual: ln √μ is off by no more than half of it. Stable chains
    have close neighbors of the eigenvalue, which cost ten times the rounds at 1e-4.
    """
    slopes = 1 / np.cosh(states) ** 2
    size = states.size
    sparse: Any = linalg
    operator = sparse.LinearOperator(
        (size, size), matvec=lambda y: np.asarray(_inverse_twice(W, slopes, y)), dtype=float
    )
    start = np.random.default_rng(0).normal(size=size)
    (largest,) = sparse.eigsh(operator, k=1, tol=tolerance, v0=start, return_eigenvectors=False)
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


def sandwich(J: np.ndarray, rate: float) -> tuple[float, float, float]:
    """Give theorem 2 for J_1 … J_T with the a and b of all products, and ln √μ by SVD."""
    steps, n, _ = J.shape
    whole = np.eye(steps * n)
    for t in range(1, steps):
        whole[t * n : (t + 1) * n, (t - 1) * n : t * n] = -J[t]
    smallest = float(np.linalg.svd(whole, compute_uv=False)[-1])
    over = under = 1.0
    products = np.broadcast_to(np.eye(n), (steps, n, n))
    for lag in range(1, steps):
        products = J[lag:] @ products[:-1]
        norms = np.linalg.norm(products, 2, axis=(1, 2)) / math.exp(rate * lag)
        over, under = max(over, norms.max()), min(under, norms.min())
    found = bounds.conditioning(rate, steps, overshoot=over, undershoot=under)
    return float(found.log_lower), math.log(smallest), float(found.log_upper)


def smallest_of_scalar(factor: float, steps: int) -> float:
    """Give the smallest singular value of the scalar chain's matrix, as 1/‖its inverse‖."""
    lags = np.subtract.outer(np.arange(steps), np.arange(steps))
    return 1 / float(np.linalg.norm(np.tril(factor ** np.maximum(lags, 0)), 2))
