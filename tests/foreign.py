"""How an adapted cell is compared with its own library: states, derivatives, gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gradhorizon as gh

T = 5
HIDDEN, INPUTS = 3, 2


def sequence(dtype, shape=(INPUTS,)):
    """Draw inputs."""
    return jax.random.normal(jax.random.key(7), (T, *shape), dtype)


def awake(tree, dtype):
    """Give a state of random numbers in the structure of `tree`: at zero many terms vanish."""
    vector, rebuild = ravel_pytree(tree)
    return rebuild(0.5 * jax.random.normal(jax.random.key(3), vector.shape, dtype))


def agrees_with_its_library(adapted, run, xs):
    """Compare with `run(h0, xs)`, the library's own loop, which gives the final carry.

    Final state, product of Jacobians against reverse mode through the library's loop, gradient
    against `jax.grad`; in float64 also forward mode, and central differences.
    """
    step, params, h0 = adapted
    dtype = xs.dtype
    eps = float(jnp.finfo(dtype).eps)
    start = awake(h0, dtype)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((params, h0)))
    final = jax.tree.map(lambda a: a[-1], gh.unroll(step, params, start, xs).states)
    vector, rebuild = ravel_pytree(start)

    def flat(v):
        return ravel_pytree(run(rebuild(v), xs))[0]

    assert jax.tree.structure(final) == jax.tree.structure(jax.eval_shape(run, start, xs))
    weights = jnp.arange(1.0, vector.size + 1, dtype=dtype)
    way = weights / jnp.linalg.norm(weights)
    size = jnp.asarray(1e-5, dtype)

    def oracles(v):
        gradient = jax.grad(lambda u: weights @ flat(u))(v)
        central = (flat(v + size * way) - flat(v - size * way)) / (2 * size)
        return flat(v), gradient, jax.jacrev(flat)(v), jax.jacfwd(flat)(v), central

    expected, gradient, reverse, forward, slope = map(np.asarray, jax.jit(oracles)(vector))
    np.testing.assert_allclose(ravel_pytree(final)[0], expected, rtol=0, atol=100 * eps)

    def loss(states):
        return weights @ ravel_pytree(jax.tree.map(lambda a: a[-1], states))[0]

    profile = gh.gradient_profile(step, params, start, xs, loss)
    norm = np.linalg.norm(gradient)
    assert np.exp(float(profile.log_norms[0])) == pytest.approx(norm, rel=1000 * eps)
    if dtype == np.float32:
        return
    matrices = gh.jacobian_chain(step, params, start, xs).matrices()
    product = np.linalg.multi_dot(list(np.asarray(matrices)[::-1]))
    scale = max(float(np.abs(reverse).max()), 1)
    np.testing.assert_allclose(product, reverse, rtol=0, atol=1e-14 * scale)
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=1e-15 * scale)
    np.testing.assert_allclose(product @ way, slope, rtol=0, atol=1e-9 * scale)


def keeps_by_its_gate(adapted, x):
    """Check the forget gate of an LSTM: along c, with the gates' inputs fixed, c' has slope f."""
    step, params, h0 = adapted
    start = awake(h0, x.dtype)
    gates = step.state_gates(params, start, x)
    memory = list(gates).index("c")
    assert gates["h"] is None
    leaves, tree = jax.tree.flatten(start)

    def next_memory(c):
        return jax.tree.leaves(
            step(params, jax.tree.unflatten(tree, [*leaves[:memory], c, *leaves[memory + 1 :]]), x)
        )[memory]

    block = jax.jacrev(next_memory)(leaves[memory])
    n = leaves[memory].size
    np.testing.assert_allclose(
        block.reshape(n, n), np.diag(np.ravel(gates["c"])), rtol=0, atol=1e-15
    )
