"""The networks on which `criteria_disagree` compares rules: how they are drawn and measured."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon.cells import elman, inits
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import JacobianChain, jacobian_chain
from gradhorizon.products.transition import transition_norms
from gradhorizon.regimes.regime import reach_of_profile, regime_of_reach

JORDAN = np.array([[0.9, 5.0], [0.0, 0.9]])


class Family(NamedTuple):
    """Networks of one kind: h' = φ(W h + x), every entry of x normal of sd `drive`."""

    activation: str
    matrix: str
    drive: float


FAMILIES = (
    Family("identity", "Gaussian", 0.0),
    Family("identity", "orthogonal", 0.0),
    Family("identity", "chain", 0.0),
    Family("identity", "low rank", 0.0),
    Family("tanh", "Gaussian", 0.1),
    Family("tanh", "Gaussian", 3.0),
    Family("tanh", "orthogonal", 0.1),
    Family("tanh", "orthogonal", 3.0),
    Family("tanh", "chain", 0.1),
    Family("tanh", "low rank", 0.1),
    Family("relu", "Gaussian", 1.0),
    Family("relu", "orthogonal", 1.0),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    hidden: int = 64
    draws: int = 60  # networks of each family
    rank: int = 4
    length: int = 200
    threshold: float = 1e-3
    squarings: int = 17  # linear networks are followed to lag 2^squarings


def matrices(kind: str, key: Any, settings: Settings) -> np.ndarray:
    """Draw the repeated matrices of a family, shape (draws, n, n), with a range of sizes."""
    n, count = settings.hidden, settings.draws
    for_size, for_shape, for_first, for_second = jax.random.split(key, 4)
    uniform = np.asarray(jax.random.uniform(for_size, (count, 1, 1)))
    shape = np.asarray(jax.random.uniform(for_shape, (count, 1, 1)))
    first = np.asarray(jax.random.normal(for_first, (count, n, n)))
    if kind == "Gaussian":
        return first / math.sqrt(n) * 0.4 * 6**uniform
    if kind == "orthogonal":
        size = 0.8 * 1.6**uniform
        size[0] = 1.0
        return np.asarray(jax.random.orthogonal(for_first, n, (count,))) * size
    if kind == "chain":  # each unit feeds itself and the next: as far from normal as can be
        return (0.3 + 0.9 * uniform) * np.eye(n) + (0.1 + 1.1 * shape) * np.eye(n, k=1)
    left = first[:, :, : settings.rank]
    right = np.asarray(jax.random.normal(for_second, left.shape))
    right = shape * left + np.sqrt(1 - shape**2) * right
    return left @ right.transpose(0, 2, 1) / n * 0.6 * 5**uniform


def measure(key: Any, weights: np.ndarray, settings: Settings) -> tuple[Any, Any, Any]:
    """Measure growth by lag and the regime of every network; one compilation per activation."""
    n, shape = settings.hidden, weights.shape[:2]
    keys = jax.random.split(key, shape)
    grown, codes = np.empty((*shape, settings.length + 1)), np.empty(shape, dtype=int)
    cotangents = np.empty((*shape, n))
    for activation in dict.fromkeys(f.activation for f in FAMILIES):
        members = np.array([f.activation == activation for f in FAMILIES])
        drives = np.array([f.drive for f in FAMILIES])[members]
        cell = elman(n, n, activation=activation, input_init=inits.identity())

        def one(case: Any, cell: Any = cell) -> Any:
            key, matrix, drive = case
            for_inputs, for_cotangent = jax.random.split(key)
            params = {"W": matrix, "U": jnp.eye(n), "b": jnp.zeros(n)}
            xs = drive * jax.random.normal(for_inputs, (settings.length, n))
            cotangent = jax.random.normal(for_cotangent, (n,))
            chain = jacobian_chain(cell.step, params, cell.initial_state(), xs)
            by_lag = backpropagate(chain, cotangent).by_lag
            reach = reach_of_profile(by_lag, by_lag[-1] / settings.length, settings.threshold)
            return by_lag, regime_of_reach(reach, settings.length), cotangent

        count = int(members.sum()) * shape[1]
        cases = (
            keys[members].reshape(count),
            weights[members].reshape(count, n, n),
            np.repeat(drives, shape[1]),
        )
        with jax.default_matmul_precision("highest"):
            found = jax.jit(lambda c, one=one: jax.lax.map(one, c))(cases)
        for target, values in zip((grown, codes, cotangents), found, strict=True):
            target[members] = np.asarray(values).reshape(-1, shape[1], *values.shape[1:])
    return grown, codes, cotangents


def log_power(powers: np.ndarray, squarings: int) -> np.ndarray:
    """Give ln ‖W^(2^squarings)‖_F by repeated squaring, the scale kept apart."""
    logs = np.zeros(powers.shape[:-2])
    for _ in range(squarings + 1):
        size = np.linalg.norm(powers, axis=(-2, -1))
        logs = 2 * logs + np.where(size > 0, np.log(np.where(size > 0, size, 1)), -np.inf)
        powers = powers / np.where(size > 0, size, 1)[..., None, None]
        powers = powers @ powers
    return logs


def numpy_growth(weights: np.ndarray, cotangents: np.ndarray, length: int) -> np.ndarray:
    """Give ln ‖(Wᵀ)^T δ‖ - ln ‖δ‖ by multiplying vectors, the scale kept apart."""
    vectors = cotangents / np.linalg.norm(cotangents, axis=-1, keepdims=True)
    logs = np.zeros(vectors.shape[:-1])
    for _ in range(length):
        vectors = np.einsum("...ij,...i->...j", weights, vectors)
        sizes = np.linalg.norm(vectors, axis=-1)
        logs, vectors = logs + np.log(sizes), vectors / sizes[..., None]
    return logs


def examples(key: Any, settings: Settings) -> dict[str, np.ndarray]:
    """Follow ‖Φ(T, T-k)‖ for a delay line, a Jordan block, a rotation and a driven network."""
    n, length = settings.hidden, settings.length
    for_rotation, for_weights, for_inputs = jax.random.split(key, 3)
    rotation = jax.random.orthogonal(for_rotation, n)
    linear = {"delay": np.eye(n, k=1), "jordan": JORDAN, "rotation": np.asarray(rotation)}
    found = {}
    for name, matrix in linear.items():
        chain = JacobianChain.from_matrices(np.broadcast_to(matrix, (length, *matrix.shape)))
        found[name] = np.asarray(transition_norms(chain))
    cell = elman(n, n, recurrent_init=inits.gaussian(1.5), input_init=inits.identity(3.0))
    xs = jax.random.normal(for_inputs, (length, n))
    chain = jacobian_chain(cell.step, cell.init(for_weights), cell.initial_state(), xs)
    return found | {"driven": np.asarray(transition_norms(chain))}
