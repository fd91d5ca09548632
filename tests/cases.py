"""Every network that invariants run on, registered once.

A new cell is one line in `CELLS`; every invariant then holds on it or a test fails.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh


class Case(NamedTuple):
    """A network with its inputs, ready to be unrolled."""

    step: Callable[[Any, Any, Any], Any]
    params: Any
    h0: Any
    xs: Any
    length: int
    tied: bool


def _softsign(x):
    return x / (1 + jnp.abs(x))


CELLS = {
    "linear": lambda dtype: gh.cells.linear(4, 3, dtype=dtype),
    "elman-tanh": lambda dtype: gh.cells.elman(5, 3, dtype=dtype),
    "elman-relu": lambda dtype: gh.cells.elman(5, 3, activation="relu", dtype=dtype),
    "elman-sigmoid": lambda dtype: gh.cells.elman(5, 3, activation="sigmoid", dtype=dtype),
    "elman-erf": lambda dtype: gh.cells.elman(5, 3, activation="erf", dtype=dtype),
    "elman-identity": lambda dtype: gh.cells.elman(5, 3, activation="identity", dtype=dtype),
    "elman-callable": lambda dtype: gh.cells.elman(5, 3, activation=_softsign, dtype=dtype),
    "elman-one-unit": lambda dtype: gh.cells.elman(1, 1, dtype=dtype),
    "rate": lambda dtype: gh.cells.rate_network(5, 3, leak=0.3, dtype=dtype),
    "lstm": lambda dtype: gh.cells.lstm(3, 3, dtype=dtype),
    "gru": lambda dtype: gh.cells.gru(4, 3, dtype=dtype),
    "minimal": lambda dtype: gh.cells.minimal_rnn(4, 3, dtype=dtype),
    "min-gru": lambda dtype: gh.cells.min_gru(4, 3, dtype=dtype),
    "min-lstm": lambda dtype: gh.cells.min_lstm(4, 3, dtype=dtype),
    "cfn": lambda dtype: gh.cells.cfn(4, 3, dtype=dtype),
    "cornn": lambda dtype: gh.cells.cornn(3, 3, dt=0.3, dtype=dtype),
    "orthogonal": lambda dtype: gh.cells.orthogonal_rnn(4, 3, activation="tanh", dtype=dtype),
    "unitary": lambda dtype: gh.cells.unitary_rnn(3, 3, bias=-0.1, dtype=dtype),
    "residual": lambda dtype: gh.cells.residual(4, 3, scale=0.3, dtype=dtype),
    "stacked": lambda dtype: gh.cells.stacked(
        gh.cells.lstm(2, 3, dtype=dtype),
        gh.cells.unitary_rnn(2, 2, bias=-0.1, dtype=dtype),
        gh.cells.elman(3, 4, dtype=dtype),
    ),
    "lru": lambda dtype: gh.cells.lru(3, 3, dtype=dtype),
    "s4d": lambda dtype: gh.cells.s4d(3, 2, dtype=dtype),
    "selective": lambda dtype: gh.cells.selective(3, 2, dtype=dtype),
}
STEPS = 8


def _nested_step(params, h, x):
    """A user's step: nested state with a matrix leaf, a counter and a PRNG key beside floats."""
    fast = jnp.tanh(params["W"] @ h["fast"] + params["U"] @ x + h["slow"][0].sum())
    slow = (0.9 * h["slow"][0] + 0.1 * jnp.outer(fast, fast)[:2, :2], h["slow"][1])
    return {"fast": fast, "slow": slow, "count": h["count"] + 1, "key": h["key"]}


def _nested(dtype) -> Case:
    keys = jax.random.split(jax.random.key(5), 3)
    params = {
        "W": jax.random.normal(keys[0], (3, 3), dtype),
        "U": jax.random.normal(keys[1], (3, 2), dtype),
    }
    h0 = {
        "fast": jnp.full(3, 0.1, dtype),
        "slow": (jnp.full((2, 2), 0.2, dtype), jnp.asarray(0.3, dtype)),
        "count": jnp.asarray(0, jnp.int32),
        "key": jax.random.key(1),
    }
    xs = jax.random.normal(keys[2], (STEPS, 2), dtype)
    return Case(_nested_step, params, h0, xs, STEPS, True)


def _feedforward(dtype) -> Case:
    net = gh.cells.feedforward(4, STEPS, bias_init=gh.inits.gaussian(0.3), dtype=dtype)
    params = net.init(jax.random.key(3))
    return Case(net.step, params, jnp.linspace(-1, 1, 4).astype(dtype), None, STEPS, False)


def _cell(name, dtype) -> Case:
    cell = CELLS[name](dtype)
    for_params, for_inputs, for_state = jax.random.split(jax.random.key(len(name)), 3)
    width = 1 if name == "elman-one-unit" else 3
    xs = jax.random.normal(for_inputs, (STEPS, width), dtype)
    state = cell.initial_state()
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(for_state, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    start = [0.3 * jax.random.normal(k, v.shape, v.dtype) for k, v in pairs]
    return Case(cell.step, cell.init(for_params), jax.tree.unflatten(tree, start), xs, STEPS, True)


NETWORKS = [*CELLS, "nested", "feedforward"]


def case(name: str, dtype: Any = np.float64) -> Case:
    """Build a registered network in a dtype."""
    dtype = np.dtype(dtype)
    if name == "nested":
        return _nested(dtype)
    if name == "feedforward":
        return _feedforward(dtype)
    return _cell(name, dtype)


def real_leaves(tree: Any) -> list[Any]:
    """Give the floating-point leaves of a state; a complex one as its real and imaginary part."""
    found = []
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            found += [jnp.real(leaf), jnp.imag(leaf)]
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            found.append(leaf)
    return found


def real_part(tree: Any) -> Any:
    """Ravel the floating-point leaves of a state, in leaf order."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in real_leaves(tree)])


def with_real_part(tree: Any, vector: Any) -> Any:
    """Replace the floating-point leaves of a state by the entries of a vector."""
    leaves, structure = jax.tree.flatten(tree)
    start, new = 0, []
    for leaf in leaves:
        parts = []
        for part in real_leaves(leaf):
            parts.append(vector[start : start + part.size].reshape(part.shape))
            start += part.size
        new.append(jax.lax.complex(*parts) if len(parts) == 2 else [*parts, leaf][0])
    return jax.tree.unflatten(structure, new)


def run_plainly(network: Case, params: Any = None, h0: Any = None, pushes: Any = None) -> Any:
    """Run a network with a Python loop; `pushes` (T, n) are added to the states on the way.

    The oracle of the unrolled network: no scan, no package code.
    """
    params = network.params if params is None else params
    h = network.h0 if h0 is None else h0
    states = []
    for t in range(network.length):
        layer = params if network.tied else jax.tree.map(lambda a, t=t: a[t], params)
        x = None if network.xs is None else network.xs[t]
        h = network.step(layer, h, x)
        if pushes is not None:
            h = with_real_part(h, real_part(h) + pushes[t])
        states.append(h)
    return states
