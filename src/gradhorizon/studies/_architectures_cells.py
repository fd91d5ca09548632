"""Twelve architectures with a state of the same size, and the exact laws of six of them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon.cells import (
    cornn,
    elman,
    gru,
    inits,
    lru,
    lstm,
    min_gru,
    minimal_rnn,
    orthogonal_rnn,
    residual,
    s4d,
    selective,
)
from gradhorizon.cells._cell import Cell
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain

STEPS = 64  # pixels of a digit


class Architecture(NamedTuple):
    """How one network is built for n numbers in its state."""

    build: Callable[[int], Cell]
    inputs: Callable[[int], int]
    note: str  # what to know about its initialization


def _one(_: int) -> int:
    return 1


ARCHITECTURES = {
    "Elman, tanh": Architecture(lambda n: elman(n, 1), _one, "Gaussian, gain 1"),
    "IRNN": Architecture(
        lambda n: elman(n, 1, activation="relu", recurrent_init=inits.identity()),
        _one,
        "ReLU, W = I",
    ),
    "orthogonal": Architecture(lambda n: orthogonal_rnn(n, 1), _one, "linear"),
    "residual": Architecture(
        lambda n: residual(n, 1, scale=1 / STEPS), _one, f"looped, ε = 1/{STEPS}"
    ),
    "LSTM": Architecture(lambda n: lstm(n // 2, 1), _one, "forget bias 1"),
    "GRU": Architecture(lambda n: gru(n, 1), _one, "update bias 0"),
    "minimal RNN": Architecture(lambda n: minimal_rnn(n, 1), _one, "update bias 0"),
    "minGRU": Architecture(lambda n: min_gru(n, 1), _one, "keep bias 0"),
    "LRU": Architecture(lambda n: lru(n // 2, 1), _one, "ring 0 … 1"),
    "S4D": Architecture(lambda n: s4d(n // 8, 4), lambda n: n // 8, "dt 0.001 … 0.1"),
    "selective": Architecture(lambda n: selective(n // 4, 4), lambda n: n // 4, "dt 0.001 … 0.1"),
    "coRNN": Architecture(lambda n: cornn(n // 2, 1), _one, "dt = 0.05"),
}


class Network(NamedTuple):
    """One network and the sequences it reads."""

    name: str
    cell: Cell
    params: Any
    sequences: np.ndarray  # (digits, T, m)

    def chain(self, sequence: int) -> JacobianChain:
        """Unroll the network over one sequence."""
        xs = jnp.asarray(self.sequences[sequence])
        return jacobian_chain(self.cell.step, self.params, self.cell.initial_state(), xs)


def draw_network(name: str, size: int, key: Any, pixels: Any) -> Network:
    """Draw weights; a pixel becomes m numbers by a fixed random vector where m > 1."""
    architecture = ARCHITECTURES[name]
    for_weights, for_vector = jax.random.split(key)
    cell = architecture.build(size)
    width = architecture.inputs(size)
    vector = jax.random.normal(for_vector, (1, width)) if width > 1 else jnp.ones((1, 1))
    sequences = np.asarray(pixels) @ np.asarray(vector)
    params = cell.init(for_weights)
    if name == "orthogonal":  # so that the steps share one matrix exponential
        params = cell.step.with_matrix(params)  # pyright: ignore[reportFunctionMemberAccess]
    return Network(name, cell, params, sequences)


def exact_logs(network: Network, sequence: int) -> np.ndarray | None:
    """Give ln |d_t,i| where every J_t is diagonal with entries d_t,i up to rotations, else None.

    Written with NumPy from the parameters alone, in the shape (T, n).
    """
    params = {name: np.asarray(leaf) for name, leaf in network.params.items()}
    xs = network.sequences[sequence]
    law = _LAWS.get(network.name)
    return None if law is None else law(params, xs)


def _zero(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    return np.zeros((len(xs), params["b"].size))


def _open(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Give 0 where a unit of the IRNN is positive, -inf where it is off."""
    state, rows = np.zeros(params["b"].size), []
    for x in xs:
        state = np.maximum(state + params["U"] @ x + params["b"], 0)
        rows.append(np.where(state > 0, 0.0, -np.inf))
    return np.array(rows)


def _kept(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Give ln(1 - z) of the minGRU."""
    units = params["b"].size // 2
    return -np.logaddexp(0, xs @ params["U"][:units].T + params["b"][:units])


def _ring(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Give ln |λ| of the LRU, twice for the real and the imaginary part."""
    return np.broadcast_to(np.repeat(-np.exp(params["nu"]), 2), (len(xs), 2 * params["nu"].size))


def _held(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Give dt Re A of the S4D, twice."""
    rates = -np.exp(params["log_decay"] + params["log_dt"][:, None])
    return np.broadcast_to(np.repeat(rates.ravel(), 2), (len(xs), 2 * rates.size))


def _selected(params: dict[str, np.ndarray], xs: np.ndarray) -> np.ndarray:
    """Give Δ(x) A of the selective scan."""
    steps = np.logaddexp(0, xs @ params["W_low"].T @ params["W_dt"].T + params["b_dt"])
    rows = -steps[:, :, None] * np.exp(params["log_decay"])
    return rows.reshape(len(xs), -1)


_LAWS = {
    "orthogonal": _zero,
    "IRNN": _open,
    "minGRU": _kept,
    "LRU": _ring,
    "S4D": _held,
    "selective": _selected,
}


def certificate(network: Network) -> float:
    """Give a bound of ln ‖J_t‖ from the weights: tanh has slopes up to 1; inf without one."""
    if network.name not in ("Elman, tanh", "residual"):
        return math.inf
    largest = float(np.linalg.norm(np.asarray(network.params["W"]), 2))
    return math.log(largest) if network.name == "Elman, tanh" else math.log1p(largest / STEPS)


def gradient_by_autodiff(network: Network, sequence: int) -> np.ndarray:
    """Give ln ‖∂L/∂h_t‖ for t = 1 … T by `jax.grad` of the plain recursion, L = Σ h_T."""
    xs = jnp.asarray(network.sequences[sequence])
    start = network.cell.initial_state()

    def loss(pushes: Any) -> Any:
        def advance(h: Any, row: Any) -> Any:
            x, push = row
            return network.cell.step(network.params, h, x) + push, None

        return jnp.sum(jax.lax.scan(advance, start, (xs, pushes))[0])

    gradient = jax.jit(jax.grad(loss))(jnp.zeros((len(xs), *start.shape), start.dtype))
    return np.log(np.linalg.norm(np.asarray(gradient), axis=1))
