"""Residual blocks: the laws of their growth, tied and untied, and the path that skips."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from cases import case

EPS = np.finfo(float).eps


def log_norms(scale, loops, width, draws, *, tied):
    """Give ln ‖h_N‖² of linear blocks from unit starts, one for each draw."""
    cell = gh.cells.residual(width, 0, scale=scale, activation="identity")

    def one(key):
        for_start, for_params = jax.random.split(key)
        start = jax.random.normal(for_start, (width,))
        start = start / jnp.linalg.norm(start)
        if tied:
            params = cell.init(for_params)
        else:
            params = jax.vmap(cell.init)(jax.random.split(for_params, loops))
        states = gh.unroll(cell.step, params, start, length=loops, tied=tied).states
        return jnp.log(jnp.sum(jnp.square(states[-1])))

    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(jax.lax.map(one, keys, batch_size=50))


@pytest.mark.parametrize(("scale", "width"), [(1 / 8, 16), (0.02, 5)])
def test_fresh_layers_grow_by_one_plus_scale_squared_each(scale, width):
    """E‖h_N‖² = (1 + ε²)^N at every width."""
    loops, draws = 64, 400
    sizes = np.exp(log_norms(scale, loops, width, draws, tied=False))
    error = sizes.std() / math.sqrt(draws)
    assert abs(sizes.mean() - (1 + scale**2) ** loops) <= 4 * error


@pytest.mark.parametrize(("scale", "tolerance"), [(1 / 8, 0.64), (1 / 64, 0.08)])
def test_loops_add_up_coherently(scale, tolerance):
    """(1/2) ln E‖h_N‖² = (1/2) ln Σ_k C(N, k)² ε^2k: 6.4465 at ε = 1/√N, 0.4118 at 1/N."""
    loops = 64
    exact = 0.5 * math.log(sum(math.comb(loops, k) ** 2 * scale ** (2 * k) for k in range(65)))
    logs = log_norms(scale, loops, 64, 200, tied=True)
    found = 0.5 * (np.log(np.mean(np.exp(logs - logs.max()))) + logs.max())
    assert abs(found - exact) <= tolerance
    assert 0.5 * math.log((1 + scale**2) ** loops) < exact - 0.4 * exact  # far above fresh layers


def test_jacobian_is_identity_plus_the_scaled_block():
    network = case("residual")
    p = {k: np.asarray(v) for k, v in network.params.items()}
    h, x = np.asarray(network.h0), np.asarray(network.xs[0])
    a = p["W"] @ h + p["U"] @ x + p["b"]
    later = network.step(network.params, network.h0, network.xs[0])
    assert np.max(np.abs(later - (h + 0.3 * np.tanh(a)))) <= 4 * EPS
    J = gh.jacobian_chain(network.step, network.params, network.h0, network.xs[:1]).matrices()[0]
    assert np.max(np.abs(J - np.eye(4) - 0.3 * p["W"] / np.cosh(a)[:, None] ** 2)) <= 10 * EPS


def test_the_skip_connection_keeps_everything_and_the_block_is_the_detour():
    network = case("residual")
    chain = gh.jacobian_chain(network.step, network.params, network.h0, network.xs)
    paths, J = gh.state_paths(chain), np.asarray(chain.matrices())
    direct, total = paths.path("h", "h")
    assert direct.tolist() == [0.0] * len(paths.lags)
    products = [np.linalg.multi_dot([*J[::-1][:k], np.eye(4)]) for k in paths.lags]
    sizes = np.log([np.linalg.norm(product) / 2 for product in products])  # over √n, n = 4
    assert np.max(np.abs(total - sizes)) <= 100 * EPS
    assert np.max(np.abs(sizes)) > 0.1  # there is a detour to be seen
    assert np.all(np.isinf(paths.time_constants))


def test_a_block_of_scale_zero_is_the_identity():
    cell = gh.cells.residual(3, 0, scale=0.0)
    params = cell.init(jax.random.key(0))
    chain = gh.jacobian_chain(cell.step, params, jnp.ones(3), length=5)
    assert np.array_equal(chain.matrices(), np.broadcast_to(np.eye(3), (5, 3, 3)))


@pytest.mark.parametrize("scale", [-0.1, float("inf"), float("nan")])
def test_a_scale_that_makes_no_sense_is_refused(scale):
    with pytest.raises(ValueError, match="`scale` must be at least 0 and finite"):
        gh.cells.residual(3, 1, scale=scale)
