"""The unrolled RNN is the N-layer feedforward network with N copies of the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

LAYERS = 9
DTYPES = [np.float32, np.float64]


def problem(dtype):
    """A tanh RNN and the same parameters copied once per layer."""
    cell = gh.cells.elman(6, 2, recurrent_init=gh.inits.gaussian(1.3), dtype=dtype)
    params = cell.init(jax.random.key(0))
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (LAYERS, *a.shape)), params)
    xs = jax.random.normal(jax.random.key(1), (LAYERS, 2), dtype)
    h0 = jnp.linspace(-0.5, 0.5, 6).astype(dtype)
    return cell.step, params, copies, h0, xs


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_outputs(dtype):
    step, params, copies, h0, xs = problem(dtype)
    recurrent = gh.unroll(step, params, h0, xs).states
    layered = gh.unroll(step, copies, h0, xs, tied=False).states
    assert np.max(np.abs(recurrent - layered)) <= 10 * LAYERS * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_chain(dtype):
    step, params, copies, h0, xs = problem(dtype)
    recurrent = gh.jacobian_chain(step, params, h0, xs).matrices()
    layered = gh.jacobian_chain(step, copies, h0, xs, tied=False).matrices()
    assert np.max(np.abs(recurrent - layered)) <= 100 * LAYERS * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_gradient_is_the_sum_of_the_layer_gradients(dtype):
    step, params, copies, h0, xs = problem(dtype)

    def loss(states):
        return jnp.sum(jnp.square(states[-1])) + jnp.sum(states[4])

    tied = jax.grad(lambda p: loss(gh.unroll(step, p, h0, xs).states))(params)
    untied = jax.grad(lambda p: loss(gh.unroll(step, p, h0, xs, tied=False).states))(copies)
    for name, gradient in tied.items():
        by_layer = untied[name]
        assert by_layer.shape[0] == LAYERS
        # rounding of a sum: eps times the sum of the sizes, through LAYERS steps of growth
        allowed = 100 * LAYERS * np.finfo(dtype).eps * np.sum(np.abs(by_layer), axis=0).max()
        assert np.max(np.abs(gradient - jnp.sum(by_layer, axis=0))) <= allowed


def test_layer_gradient_is_adjoint_times_local_derivative():
    """∂L/∂b_t = diag(φ'(a_t)) δ_t: the profile's δ and the layer gradient are one object."""
    step, params, copies, h0, xs = problem(np.float64)
    untied = jax.grad(lambda p: jnp.sum(gh.unroll(step, p, h0, xs, tied=False).states[-1]))(copies)
    states = np.asarray(gh.unroll(step, params, h0, xs).states)
    chain = gh.jacobian_chain(step, params, h0, xs)
    profile = gh.backpropagate(chain, jnp.ones(6))
    for t in range(1, LAYERS + 1):
        slope = 1 - states[t] ** 2
        delta = np.asarray(untied["b"][t - 1]) / slope
        assert abs(np.log(np.linalg.norm(delta)) - profile.log_norms[t]) <= 1e-11
