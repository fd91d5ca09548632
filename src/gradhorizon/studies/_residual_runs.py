"""Measure residual networks h' = h + tanh(W h), looped or fresh, with the package's own tools."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon.cells import inits
from gradhorizon.cells.residual import residual
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.products.lyapunov import lyapunov_spectrum


class Measured(NamedTuple):
    """Networks of one kind and gain, after `every`, 2 `every`, … N blocks."""

    growth: np.ndarray  # ln of the growth through the first blocks, (draws, depths)
    squares: np.ndarray  # mean of h², (draws, depths)
    gradient: np.ndarray  # ln of the gradient's growth through all N blocks, (draws,)


def run(
    keys: Any, gain: float, start: float, *, width: int, loops: int, every: int, tied: bool
) -> Measured:
    """Measure networks whose W has entries of variance gain²/n, from h_0 ~ N(0, start²)."""
    found = _measure(
        keys, jnp.asarray(gain), jnp.asarray(start), n=width, loops=loops, every=every, tied=tied
    )
    return Measured(*map(np.asarray, found))


def _weights(key: Any, n: int, gain: Any, blocks: int | None) -> tuple[Any, Any]:
    """Draw the parameters of one block, or of many."""
    cell = residual(n, 0, scale=1.0, recurrent_init=inits.gaussian())
    one = blocks is None
    params = cell.init(key) if one else jax.vmap(cell.init)(jax.random.split(key, blocks))
    return cell.step, jax.tree.map(lambda leaf: gain * leaf, params)  # the biases are 0


@functools.partial(jax.jit, static_argnames=("n", "loops", "every", "tied"))
def _measure(
    keys: Any, gain: Array, start: Array, *, n: int, loops: int, every: int, tied: bool
) -> Any:
    """Give growth, mean squares and the gradient's growth of every draw."""

    def one(key: Any) -> Any:
        for_weights, for_state, for_cotangent = jax.random.split(key, 3)
        step, params = _weights(for_weights, n, gain, None if tied else loops)
        h = start * jax.random.normal(for_state, (n,))
        chain = jacobian_chain(step, params, h, length=loops, tied=tied)
        cotangent = jax.random.normal(for_cotangent, (n,))
        sizes = backpropagate(chain, cotangent, throw=False).by_lag[::-1]  # at block 0, 1, … N
        if tied:
            # of a deviation; what a gradient gains in the first blocks depends on the later ones
            rates = lyapunov_spectrum(
                chain, 1, orthonormalize_every=every, windows=loops // every, throw=False
            )
            growth = jnp.cumsum(rates.windows[:, 0] * rates.window_lengths)
        else:
            growth = sizes[0] - sizes[every::every]
        states = unroll(step, params, h, length=loops, tied=tied).states
        return growth, jnp.mean(jnp.square(states[every::every]), axis=1), sizes[0]

    return jax.lax.map(one, keys)


def log_radius(key: Any, gain: float, width: int) -> float:
    """Give ln of the spectral radius of I + W of the looped network that `run` draws from a key."""
    _, params = _weights(jax.random.split(key, 3)[0], width, gain, None)
    eigenvalues = 1 + np.linalg.eigvals(np.asarray(params["W"]))
    return math.log(np.abs(eigenvalues).max())


def mean_square(logs: np.ndarray) -> tuple[Any, Any]:
    """Give ½ ln E e^(2x), and its error, of x that are about Gaussian: mean and variance.

    A direct mean would hang on the largest of a few draws.
    """
    draws = len(logs)
    variance = np.var(logs, axis=0, ddof=1)
    error = np.sqrt(variance / draws + 2 * variance**2 / (draws - 1))
    return np.mean(logs, axis=0) + variance, error
