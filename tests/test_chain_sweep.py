"""A chain too long to keep every state gives what a short one gives, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.chain import _sweep

T, N = 53, 3


def driven(params, state, x):
    """Two leaves, one of them a counter without derivative."""
    h, count = state
    return jnp.tanh(params["W"] @ h + x + 0.01 * count.astype(h.dtype)), count + 1


def layered(params, h, x):
    return jnp.tanh(params["W"] @ h) + x


def networks():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(T, N))
    W = rng.normal(size=(N, N))
    stack = rng.normal(size=(T, N, N))
    return {
        "tied, with a counter": (driven, {"W": W}, (np.ones(N), 0), xs, True),
        "untied": (layered, {"W": stack}, np.ones(N), xs, False),
    }


@pytest.fixture(params=list(networks()))
def chains(request, monkeypatch):
    """Give one network as a dense chain, and as one that keeps every eighth state."""
    step, params, h0, xs, tied = networks()[request.param]
    dense = gh.jacobian_chain(step, params, h0, xs, tied=tied)
    monkeypatch.setattr(_sweep, "choose_stride", lambda *_: 8)
    monkeypatch.setattr("gradhorizon.chain.jacobian.choose_stride", lambda *_: 8)
    sparse = gh.jacobian_chain(step, params, h0, xs, tied=tied)
    assert (dense.stride, sparse.stride) == (1, 8)
    assert sparse.items[0].shape == (7, N)
    assert sparse.residuals is None
    return dense, sparse


def equal(one, other):
    """Compare two pytrees; the same arithmetic in another program rounds a little differently."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-12, atol=1e-12)


def test_matrices_and_single_links(chains):
    dense, sparse = chains
    equal(dense.matrices(), sparse.matrices())
    for t in (1, 8, 9, 48, 49, T):
        equal(sparse.at(t).matrix(), dense.matrices()[t - 1])
        v = jnp.arange(1.0, N + 1)[:, None]
        equal(sparse.at(t).push(v), dense.at(t).matrix() @ v)
        equal(sparse.at(t).pull(v), dense.at(t).matrix().T @ v)
    equal(dense.dense().items, sparse.dense().items)
    equal(dense.final, sparse.final)


@pytest.mark.parametrize(("start", "stop"), [(0, T), (0, 16), (8, 24), (5, 30), (50, T), (7, 7)])
def test_segments(chains, start, stop):
    dense, sparse = chains
    one, other = dense.segment(start, stop), sparse.segment(start, stop)
    assert one.length == other.length == stop - start
    equal(one.matrices(), other.matrices())
    equal(one.final, other.final)


def test_analyses(chains):
    dense, sparse = chains
    equal(gh.lyapunov_spectrum(dense).exponents, gh.lyapunov_spectrum(sparse).exponents)
    equal(gh.lyapunov_spectrum(dense, 1).exponents, gh.lyapunov_spectrum(sparse, 1).exponents)
    equal(gh.transition_norms(dense), gh.transition_norms(sparse))
    lags = [0, 7, 8, 50, T]
    one, other = (gh.singular_spectrum(c, lags=lags) for c in chains)
    error = np.abs(np.asarray(one.log_values - other.log_values))
    assert np.all(error <= np.asarray(one.error_bars) + np.asarray(other.error_bars))
    u = np.ones(N)
    equal(gh.backpropagate(dense, u).log_norms, gh.backpropagate(sparse, u).log_norms)


def test_gradient_profile_of_a_loss_on_all_states(monkeypatch):
    step, params, h0, xs, _ = networks()["tied, with a counter"]

    def loss(states):
        return jnp.sum(states[0] ** 2)

    dense = gh.gradient_profile(step, params, h0, xs, loss)
    monkeypatch.setattr("gradhorizon.chain.jacobian.choose_stride", lambda *_: 8)
    equal(dense.log_norms, gh.gradient_profile(step, params, h0, xs, loss).log_norms)


def test_a_bad_state_is_named_in_a_sparse_chain(monkeypatch):
    monkeypatch.setattr("gradhorizon.chain.jacobian.choose_stride", lambda *_: 8)
    xs = np.arange(1.0, T + 1)
    step = lambda w, h, x: jnp.where(x == 20, jnp.inf, w * h)  # noqa: E731
    chain = gh.jacobian_chain(step, 0.9, 1.0, xs)
    assert gh.lyapunov_spectrum(chain, throw=False).first_bad_step == 20


def test_what_is_kept_depends_on_the_bytes_of_a_step(monkeypatch):
    step, params, h0, xs, _ = networks()["tied, with a counter"]
    chain = gh.jacobian_chain(step, params, h0, xs)
    kept = jax.tree.leaves((chain.items[:2], chain.residuals))
    total = sum(a.nbytes for a in kept)
    monkeypatch.setattr(_sweep, "STORED_BYTES", total)
    assert gh.jacobian_chain(step, params, h0, xs).stride == 1
    monkeypatch.setattr(_sweep, "STORED_BYTES", total - 1)
    monkeypatch.setattr(_sweep, "_STRETCH_BYTES", total // T * 17)
    assert gh.jacobian_chain(step, params, h0, xs).stride == 16


def test_derivatives_flow_through_stored_residuals():
    """d/dw of the product of slopes, against the composed derivative."""

    def last(w):
        chain = gh.jacobian_chain(lambda w, h, x: jnp.tanh(w * h + x), w, 0.3, np.ones(5))
        return jnp.sum(jnp.log(jnp.abs(chain.matrices())))

    def composed(w):
        h, total = 0.3, 0.0
        for _ in range(5):
            h = jnp.tanh(w * h + 1.0)
            total = total + jnp.log(w * (1 - h**2))
        return total

    assert abs(jax.grad(last)(0.7) - jax.grad(composed)(0.7)) <= 1e-12
