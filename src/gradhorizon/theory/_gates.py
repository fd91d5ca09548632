"""The minimal RNN and the GRU with fresh weights: moments of the state and χ.

With weights redrawn at every step the pre-activations of different gates and steps are
independent Gaussians of variance w Q + v, Q = E h². A gate u = σ(√q z + b) has slope u (1 - u).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon.theory._activations import function_and_slope
from gradhorizon.theory._largest import largest_fixed_point
from gradhorizon.theory._quadrature import deviation, gaussian_mean, grid

_GATE_SPACING, _CANDIDATE_SPACING = 16, 8  # 330 nodes for the gate, 658 for the candidate
_INNER, _EDGE = 9.0, 14.0  # the chance of |z| > 9 is 2e-19


class Gate(NamedTuple):
    """Moments of u = σ(√q z + b)."""

    mean: Array
    square: Array
    rest_square: Array  # E (1 - u)²
    slope_square: Array


class Candidate(NamedTuple):
    """Moments of the GRU's candidate n, and of the two ways in which it reads the state."""

    mean: Array
    square: Array
    through_state: Array  # E n'² r², the factor of w_n
    through_reset: Array  # E n'² (∂(pre-activation)/∂(reset's pre-activation))², of w_r


def inner_grid(dtype: np.dtype, *, every: int) -> tuple[Array, Array]:
    """Give the nodes in [-9, 9] of a coarse grid, and their weights."""
    nodes, weights = grid(dtype, every=every)
    inside = round(_INNER / _EDGE * nodes.size / 2)
    middle = slice(nodes.size // 2 - inside, nodes.size // 2 + inside)
    return nodes[middle], weights[middle]


def gate_moments(q: Array, bias: Array) -> Gate:
    """Give the moments of a logistic gate."""
    root = deviation(q)

    def mean(f: Callable[[Array], Array]) -> Array:
        return gaussian_mean(lambda z: f(root * z + bias), q.dtype)

    on, off = jax.nn.sigmoid, lambda a: jax.nn.sigmoid(-a)
    return Gate(
        mean(on),
        mean(lambda a: on(a) ** 2),
        mean(lambda a: off(a) ** 2),
        mean(lambda a: (on(a) * off(a)) ** 2),
    )


def minimal_rnn_moments(
    w2: Float[Array, ""], v2: Float[Array, ""], moment: Float[Array, ""], bias: Float[Array, ""]
) -> tuple[Array, Array, Array]:
    """Give Q, q and χ of h' = u h + (1 - u) z."""

    def drive(share: Array) -> Array:
        return (w2 * share + v2) * moment

    def advance(share: Array) -> Array:  # Q = share · R, since h averages over inputs
        gate = gate_moments(drive(share), bias)
        return share * gate.square + gate.rest_square

    share = jnp.where(moment > 0, largest_fixed_point(advance, w2.dtype), 0)
    gate = gate_moments(drive(share), bias)
    chi = gate.square + w2 * moment * (1 + share) * gate.slope_square
    return share * moment, drive(share), chi


def gru_moments(
    w2: Float[Array, "3"], v2: Float[Array, "3"], bias: Float[Array, "3"], *, after: bool
) -> tuple[Array, Array, Array]:
    """Give Q, the three q and χ of h' = z h + (1 - z) n, gates in the order r, z, n."""
    candidate = _candidate_after if after else _candidate_before

    def parts(moment: Array) -> tuple[Gate, Candidate]:
        update = gate_moments(w2[1] * moment + v2[1], bias[1])
        return update, candidate(moment, w2, v2, bias)

    def advance(moment: Array) -> Array:
        update, new = parts(moment)
        both = update.mean - update.square  # E z (1 - z)
        # E h = E n, and h is independent of the candidate
        kept = update.square * moment + 2 * both * new.mean**2
        return kept + update.rest_square * new.square

    moment = largest_fixed_point(advance, w2.dtype)
    update, new = parts(moment)
    q = w2 * moment + v2
    reset = gate_moments(q[0], bias[0])
    gap = moment - 2 * new.mean**2 + new.square  # E (h - n)²
    chi = update.square + w2[1] * gap * update.slope_square
    chi = chi + update.rest_square * (w2[2] * new.through_state + w2[0] * new.through_reset)
    return moment, q.at[2].set(w2[2] * moment * reset.square + v2[2]), chi


def _candidate_before(moment: Array, w2: Array, v2: Array, bias: Array) -> Candidate:
    """Give the moments of tanh(W_n (r h) + x + b), Gaussian before the tanh."""
    reset = gate_moments(w2[0] * moment + v2[0], bias[0])
    root = deviation(w2[2] * moment * reset.square + v2[2])
    tanh, slope = function_and_slope("tanh")

    def mean(f: Callable[[Array], Array]) -> Array:
        return gaussian_mean(lambda z: f(root * z + bias[2]), moment.dtype)

    steepness = mean(lambda a: slope(a) ** 2)
    return Candidate(
        mean(tanh),
        mean(lambda a: tanh(a) ** 2),
        steepness * reset.square,
        # a' = Σ_j W_ij h_j r'_j δ(W_r h)_j, of mean square w_n Q E r'² w_r
        steepness * w2[2] * moment * reset.slope_square,
    )


def _candidate_after(moment: Array, w2: Array, v2: Array, bias: Array) -> Candidate:
    """Give the moments of tanh(r y + x + b), y = W_n h: Gaussian only at a given r."""
    state, noise = w2[2] * moment, v2[2]
    spread = deviation(w2[0] * moment + v2[0])
    tanh, slope = function_and_slope("tanh")
    gates, gate_weights = inner_grid(moment.dtype, every=_GATE_SPACING)
    nodes, weights = inner_grid(moment.dtype, every=_CANDIDATE_SPACING)

    def given(z: Array) -> Array:
        a = spread * z + bias[0]
        reset, closed = jax.nn.sigmoid(a), jax.nn.sigmoid(-a)
        root = deviation(noise + reset**2 * state)
        total = root**2
        value, steepness = tanh(root * nodes + bias[2]), slope(root * nodes + bias[2]) ** 2
        # y given the pre-activation b + root ζ: mean r w ζ/root, variance w v/root²
        square = state * noise / total + (reset * state * nodes) ** 2 / total
        rows = (value, value**2, reset**2 * steepness, (reset * closed) ** 2 * steepness * square)
        return jnp.stack([jnp.sum(weights * row) for row in rows])

    means = jnp.sum(gate_weights[:, None] * lax.map(given, gates), axis=0)
    return Candidate(*means)
