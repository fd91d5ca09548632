"""The measured gradient of many networks: one backward pass each, in logarithms.

This is the reference that predictions are judged by. It shares no code with `chain` or
`products`: a forward scan keeps the states, a backward scan applies `jax.vjp` of the step to up
to 16 random orthonormal cotangents, whose root mean square is followed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from gradhorizon.studies._zoo import TRUTH, Group

LAGS, LENGTH = 1000, 1300
_COTANGENTS = 16
_BYTES = 1.5e8  # of stored states in one compiled call


class Reach(NamedTuple):
    """How far back gradients reach.

    Attributes
    ----------
    horizon
        The largest lag up to which the gradient stays inside [ε, 1/ε]; the last lag seen if it
        never leaves.
    side
        -1 or 1 where it left, 0 if it did not.
    """

    horizon: np.ndarray
    side: np.ndarray


def measure(
    group: Group, *, lags: int = LAGS, length: int = LENGTH, sequence: int = TRUTH
) -> np.ndarray:
    """Measure ln of the gradient's size at lag 0 … lags relative to lag 0, on fresh inputs.

    Parameters
    ----------
    group
        The networks.
    lags
        The longest lag.
    length
        Steps of the sequence, from the initial state; the first length - lags only settle.
    sequence
        `TRUTH`, or `AGAIN` for a second measurement with other inputs and cotangents.

    Returns
    -------
    np.ndarray
        Shape (networks, lags + 1); NaN for networks whose state or gradient is not finite.
    """
    frames = np.stack([_cotangents(network, sequence) for network in group.networks])
    arguments = (group.params, group.h0, group.inputs(length, sequence), frames)
    chunk = max(1, min(32, int(_BYTES / (8 * length * frames.shape[1]))))
    return in_chunks(_mapped(group.step, lags, length), arguments, chunk)


@functools.lru_cache(maxsize=8)
def _mapped(step: Any, lags: int, length: int) -> Callable[..., Any]:
    """Compile the measurement once for both sequences."""
    return jax.jit(jax.vmap(functools.partial(_growth, step, lags=lags, length=length)))


def in_chunks(function: Callable[..., Any], arguments: Any, size: int) -> Any:
    """Apply a mapped function to `size` members at a time; the last chunk is filled up."""
    count = len(jax.tree.leaves(arguments)[0])
    size = min(size, count)
    parts = []
    for start in range(0, count, size):
        places = np.minimum(np.arange(start, start + size), count - 1)
        part = function(*jax.tree.map(lambda a, p=places: a[p], arguments))
        parts.append(jax.tree.map(np.asarray, part))
    return jax.tree.map(lambda *a: np.concatenate(a)[:count], *parts)


def _cotangents(network: Any, sequence: int) -> np.ndarray:
    """Draw orthonormal rows, shape (min(n, 16), n)."""
    n = sum(np.size(leaf) for leaf in jax.tree.leaves(network.h0))
    rng = np.random.default_rng([*network.seed, 3 if sequence == TRUTH else 5])
    columns, _ = np.linalg.qr(rng.normal(size=(n, min(n, _COTANGENTS))))
    return columns.T


def _growth(
    step: Any, params: Any, h0: Any, xs: Any, frame: Array, *, lags: int, length: int
) -> Array:
    """Give ln of the root mean square of the pulled back cotangents at lag 0 … lags."""
    start, unravel = ravel_pytree(h0)

    def advance(h: Array, x: Any) -> Array:
        return ravel_pytree(step(params, unravel(h), x))[0]

    def forward(h: Array, x: Any) -> tuple[Array, Array]:
        return advance(h, x), h

    last, states = jax.lax.scan(forward, start, xs, length=length)

    def backward(carry: Any, item: Any) -> tuple[Any, Array]:
        adjoints, scale = carry
        h, x = item
        _, pull = jax.vjp(lambda h: advance(h, x), h)
        adjoints = jax.vmap(lambda v: pull(v)[0])(adjoints)
        size = jnp.sqrt(jnp.sum(adjoints**2))
        adjoints = adjoints / jnp.where(size > 0, size, 1)
        scale = scale + jnp.log(size)
        return (adjoints, scale), scale

    late = jax.tree.map(lambda a: a[length - lags :], (states, xs))
    frame = frame / jnp.sqrt(jnp.sum(frame**2))
    nothing = jnp.zeros((), frame.dtype)
    _, growth = jax.lax.scan(backward, (frame, nothing), late, reverse=True)
    growth = jnp.concatenate([nothing[None], growth[::-1]])
    return jnp.where(jnp.all(jnp.isfinite(last)), growth, jnp.nan)


def reach(growth: np.ndarray, threshold: float = 1e-3) -> Reach:
    """Find where measured gradients leave [ε, 1/ε].

    Parameters
    ----------
    growth
        ln of their size relative to lag 0, shape (networks, lags + 1).
    threshold
        ε.

    Returns
    -------
    Reach
        Horizon and side of each.
    """
    outside = np.abs(growth) > -math.log(threshold)
    left = outside.any(axis=1)
    exit_lag = outside.argmax(axis=1)
    horizon = np.where(left, exit_lag - 1, growth.shape[1] - 1)
    at_exit = np.take_along_axis(growth, exit_lag[:, None], axis=1)[:, 0]
    return Reach(horizon, np.where(left, np.sign(at_exit), 0).astype(int))
