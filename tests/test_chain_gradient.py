"""The gradient profile is jax.grad, at any length, in either precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from cases import NETWORKS, case, real_leaves, real_part, run_plainly
from gradhorizon.chain.gradient import generic_profile

DTYPES = [np.float32, np.float64]


def stacked_loss(states):
    """A loss on every state, all leaves, unequal weights."""
    total = 0.0
    for number, leaf in enumerate(real_leaves(states)):
        flat = leaf.reshape(leaf.shape[0], -1)
        weights = jnp.cos(jnp.arange(1, flat.shape[0] + 1) + number).astype(leaf.dtype)
        total = total + jnp.sum(weights * jnp.sum(jnp.square(flat), axis=1))
    return total


def final_loss(states):
    """A loss on the last state only."""
    return sum(jnp.sum(jnp.sin(leaf[-1]) + leaf[-1]) for leaf in real_leaves(states))


def gradients(network, loss):
    """Differentiate the plain loop with respect to pushes on every state, h_0 included."""
    n = real_part(network.h0).size

    def total(pushes):
        from cases import with_real_part

        h0 = with_real_part(network.h0, real_part(network.h0) + pushes[0])
        states = run_plainly(network, h0=h0, pushes=pushes[1:])
        return loss(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))

    pushes = jnp.zeros((network.length + 1, n), real_part(network.h0).dtype)
    return jax.jit(jax.grad(total))(pushes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [stacked_loss, final_loss])
@pytest.mark.parametrize("name", NETWORKS)
def test_profile_equals_jax_grad(name, loss, dtype):
    network = case(name, dtype)
    profile = gh.gradient_profile(
        network.step,
        network.params,
        network.h0,
        network.xs,
        loss,
        length=network.length,
        tied=network.tied,
    )
    expected = gradients(network, loss)
    norms = np.linalg.norm(np.asarray(expected, np.float64), axis=1)
    assert profile.log_norms.dtype == dtype
    assert profile.status == gh.Status.OK
    # cancellation between explicit and propagated terms: relative to the largest gradient
    eps = 200 * np.finfo(dtype).eps * norms.max() / norms
    assert np.all(np.abs(np.exp(np.asarray(profile.log_norms, float)) - norms) <= eps * norms)
    largest = np.max(np.abs(expected), axis=1)
    assert np.all(np.abs(np.exp(np.asarray(profile.log_max, float)) - largest) <= eps * norms)


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_hundred_thousand_steps_in_float32(gain):
    """Against a float64 recursion scaled at every step, on the same float32 matrix."""
    n, steps = 16, 100_000
    cell = gh.cells.linear(n, 0, recurrent_init=gh.inits.gaussian(gain), dtype=np.float32)
    params = cell.init(jax.random.key(0))
    u = np.cos(np.arange(n)).astype(np.float32)
    h0 = jnp.zeros(n, jnp.float32)
    profile = gh.gradient_profile(
        cell.step, params, h0, None, lambda hs: jnp.sum(hs[-1] * u), length=steps
    )
    W = np.asarray(params["W"], np.float64)
    v, log, expected = np.asarray(u, np.float64), 0.0, []
    for _ in range(steps + 1):
        size = np.linalg.norm(v)
        log += np.log(size)
        expected.append(log)
        v = W.T @ (v / size)
    expected = np.array(expected[::-1])
    ours = np.asarray(profile.log_norms, np.float64)
    assert np.all(np.isfinite(ours))
    # rounding: at most a few eps per step accumulate, plus the eps of the result itself
    k = np.arange(steps + 1)[::-1]
    eps = np.finfo(np.float32).eps
    assert np.all(np.abs(ours - expected) <= 10 * eps * (np.sqrt(n) * k + np.abs(expected) + 1))


def test_chaotic_network_of_a_hundred_thousand_steps_stays_finite():
    """tanh network with gain 3 in float32: the same pull-back in float64 on the same states."""
    n, steps = 8, 100_000
    cell = gh.cells.elman(n, 0, recurrent_init=gh.inits.gaussian(3.0), dtype=np.float32)
    params = cell.init(jax.random.key(1))
    h0 = jnp.full(n, 0.3, jnp.float32)
    chain = gh.jacobian_chain(cell.step, params, h0, length=steps)
    profile = gh.backpropagate(chain, jnp.ones(n, jnp.float32))
    W = np.asarray(params["W"], np.float64)
    states = np.asarray(gh.unroll(cell.step, params, h0, length=steps).states, np.float64)
    v, log = np.ones(n), np.log(np.sqrt(n))
    v /= np.sqrt(n)
    expected = [log]
    for h in states[:-1][::-1]:
        slope = 1 / np.cosh(W @ h) ** 2
        v = W.T @ (slope * v)
        size = np.linalg.norm(v)
        log, v = log + np.log(size), v / size
        expected.append(log)
    ours = np.asarray(profile.log_norms, np.float64)[::-1]
    assert np.all(np.isfinite(ours))
    # the slopes are those of float32 pre-activations: relative error about 2 |a| eps each
    k = np.arange(steps + 1)
    size = np.max(np.sum(np.abs(W), axis=1))
    assert np.all(np.abs(ours - expected) <= 10 * np.finfo(np.float32).eps * (k + 1) * n * size)


def test_backpropagate_follows_the_exact_two_step_example():
    """J_1 = [[1, 1], [0, 1]], J_2 = diag(2, 1/2): J_1ᵀ J_2ᵀ e_1 = (2, 2)."""
    J = jnp.array([[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.5]]])
    profile = gh.backpropagate(J, jnp.array([1.0, 0.0]))
    expected = np.log([np.sqrt(8.0), 2.0, 1.0])
    assert np.max(np.abs(profile.log_norms - expected)) <= 10 * np.finfo(float).eps
    assert np.max(np.abs(profile.by_lag - expected[::-1])) <= 10 * np.finfo(float).eps


def test_backpropagate_takes_the_cotangent_as_a_state():
    network = case("lstm")
    chain = gh.jacobian_chain(network.step, network.params, network.h0, network.xs)
    pair = (jnp.arange(3.0), -jnp.arange(3.0))
    flat = gh.backpropagate(chain, jnp.concatenate(pair)).log_norms
    assert np.array_equal(gh.backpropagate(chain, pair).log_norms, flat)


def test_exact_zero_gradient_is_minus_infinity_from_there_on():
    J = jnp.stack([jnp.eye(2), jnp.eye(2), jnp.zeros((2, 2)), jnp.eye(2)])
    profile = gh.backpropagate(J, jnp.ones(2))
    assert profile.log_norms[:3].tolist() == [-np.inf] * 3
    assert np.all(np.isfinite(profile.log_norms[3:]))
    assert profile.status == gh.Status.OK


def test_explicit_terms_far_below_and_above_the_adjoint_are_added_exactly():
    """h' = h/2: dL/dh_t for L = Σ w_t h_t is Σ_{s≥t} w_s 2^{t-s}, with w over 600 orders."""
    steps = 60
    weights = np.ldexp(1.0, np.linspace(-1000, 1000, steps).astype(int))
    profile = gh.gradient_profile(
        lambda p, h, _: p * h,
        0.5,
        1.0,
        None,
        lambda hs: jnp.sum(hs * weights),
        length=steps,
    )
    total, expected = 0.0, []
    for w in weights[::-1]:
        total = total / 2 + w
        expected.append(np.log(total))
    expected.append(np.log(total / 2))
    assert np.max(np.abs(profile.log_norms - np.array(expected[::-1]))) <= 1e-15 * 1000


def test_generic_profile_is_the_frobenius_norm_for_small_states():
    J = jax.random.normal(jax.random.key(0), (9, 5, 5))
    profile = generic_profile(gh.JacobianChain.from_matrices(J))
    product = np.eye(5)
    expected = [0.0]
    for matrix in np.asarray(J)[::-1]:
        product = product @ matrix
        expected.append(np.log(np.linalg.norm(product) / np.sqrt(5)))
    assert np.max(np.abs(profile.by_lag - np.array(expected))) <= 1e-13


def test_vmapped_profiles_equal_single_ones():
    J = jax.random.normal(jax.random.key(0), (3, 20, 4, 4))
    together = jax.vmap(lambda c: gh.backpropagate(c, jnp.ones(4)).log_norms)(J)
    for b in range(3):
        alone = gh.backpropagate(J[b], jnp.ones(4)).log_norms
        assert np.max(np.abs(alone - together[b])) <= 1e-12


def test_profile_is_differentiable_away_from_exact_zeros():
    """d/dg of ln‖(gI)^T u‖ is T/g."""
    u = jnp.ones(3)

    def size(g):
        J = jnp.broadcast_to(g * jnp.eye(3), (10, 3, 3))
        return gh.backpropagate(J, u).log_norms[0]

    assert abs(jax.grad(size)(0.7) - 10 / 0.7) <= 1e-12


def test_empty_chain():
    profile = gh.backpropagate(jnp.zeros((0, 3, 3)), jnp.ones(3))
    assert profile.status == gh.Status.EMPTY
    assert profile.log_norms.shape == (1,)
    assert abs(profile.log_norms[0] - np.log(np.sqrt(3))) <= 1e-15
