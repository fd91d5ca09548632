"""Cells and initializers against closed forms."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gradhorizon as gh
from cases import CELLS
from gradhorizon.cells import activations

EPS = np.finfo(float).eps


def zeros_like(tree):
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(CELLS))
def test_parameters_and_state_have_the_requested_dtype(name, dtype):
    cell = CELLS[name](dtype)
    for leaf in jax.tree.leaves((cell.init(jax.random.key(0)), cell.initial_state())):
        assert jnp.real(leaf).dtype == dtype


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0, 5.0])
def test_lstm_without_weights_keeps_sigmoid_of_the_forget_bias(bias):
    """All weights zero: dc'/dc = σ(b), dh'/dc = σ(0) σ(b), nothing depends on h."""
    cell = gh.cells.lstm(3, 2)
    params = zeros_like(cell.init(jax.random.key(0)))
    params = {**params, "b": params["b"].at[3:6].set(bias)}
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), jnp.zeros((4, 2)))
    keep = 1 / (1 + np.exp(-bias))
    expected = np.zeros((6, 6))
    expected[:3, :3] = keep * np.eye(3)
    expected[3:, :3] = 0.5 * keep * np.eye(3)
    for J in chain.matrices():
        assert np.max(np.abs(J - expected)) <= 10 * EPS


def test_gru_without_weights_halves_the_state():
    cell = gh.cells.gru(3, 2)
    params = zeros_like(cell.init(jax.random.key(0)))
    chain = gh.jacobian_chain(cell.step, params, jnp.ones(3), jnp.zeros((5, 2)))
    for J in chain.matrices():
        assert np.max(np.abs(J - 0.5 * np.eye(3))) <= 10 * EPS


def test_gru_update_bias_keeps_its_sigmoid():
    cell = gh.cells.gru(2, 0, update_bias=3.0)
    params = cell.init(jax.random.key(0))
    params = {**params, "W": jnp.zeros_like(params["W"])}
    J = gh.jacobian_chain(cell.step, params, jnp.ones(2), length=1).matrices()[0]
    assert np.max(np.abs(J - np.eye(2) / (1 + np.exp(-3.0)))) <= 10 * EPS


def test_lstm_gates_act_in_the_order_i_f_g_o():
    """One unit, chosen gates: c' = f c + i g and h' = o tanh(c') by hand."""
    cell = gh.cells.lstm(1, 0)
    params = {
        "W": jnp.array([[0.1], [0.2], [0.3], [0.4]]),
        "b": jnp.array([0.5, -0.6, 0.7, -0.8]),
    }
    c, h = cell.step(params, (jnp.array([2.0]), jnp.array([3.0])), None)

    def s(x):
        return 1 / (1 + np.exp(-x))

    i, f, g, o = s(0.3 + 0.5), s(0.6 - 0.6), np.tanh(0.9 + 0.7), s(1.2 - 0.8)
    memory = f * 2.0 + i * g
    assert abs(float(c[0]) - memory) <= 10 * EPS
    assert abs(float(h[0]) - o * np.tanh(memory)) <= 10 * EPS


def test_rate_network_interpolates_between_identity_and_map():
    W = jax.random.normal(jax.random.key(0), (3, 3))
    x = jnp.array([0.3, -0.2, 0.5])
    for leak in (1.0, 0.25):
        cell = gh.cells.rate_network(3, 0, leak=leak)
        params = {"W": W, "b": jnp.zeros(3)}
        J = gh.jacobian_chain(cell.step, params, x, length=1).matrices()[0]
        expected = (1 - leak) * np.eye(3) + leak * np.asarray(W) / np.cosh(np.asarray(x))[None] ** 2
        assert np.max(np.abs(J - expected)) <= 10 * EPS


def test_a_leak_keeps_its_complement_and_no_leak_declares_no_gate():
    """At fixed drive x' = (1 - leak) x + …: the path by the gate alone is (1 - leak)^k."""
    cell = gh.cells.rate_network(3, 0, leak=0.25)
    params = cell.init(jax.random.key(0))
    chain = gh.jacobian_chain(cell.step, params, jnp.ones(3), length=20)
    paths = gh.state_paths(chain, lags=[20])
    assert paths.gated == (True,)
    assert abs(float(paths.path("h", "h")[0][0]) - 20 * np.log(0.75)) <= 1e-13
    assert np.allclose(paths.time_constants, -1 / np.log(0.75), rtol=1e-13, atol=0)
    whole = gh.cells.rate_network(3, 0)
    assert gh.diagnose(whole.step, params, jnp.ones(3), length=8).paths is None


def test_relu_from_the_identity_passes_or_stops_each_unit():
    """Le, Jaitly & Hinton 2015: at W = I singular values of J and of every product are 0 or 1."""
    cell = gh.cells.elman(6, 2, activation="relu", recurrent_init=gh.inits.identity())
    params = cell.init(jax.random.key(0))
    xs = 0.3 * jax.random.normal(jax.random.key(1), (12, 2))
    chain = gh.jacobian_chain(cell.step, params, jnp.linspace(0, 3, 6), xs)
    states = np.asarray(gh.unroll(cell.step, params, jnp.linspace(0, 3, 6), xs).states)
    for J, later in zip(np.asarray(chain.matrices()), states[1:], strict=True):
        assert np.array_equal(J, np.diag((later > 0).astype(float)))
    alive = np.all(states[1:] > 0, axis=0).sum()
    assert 0 < alive < 6
    logs = np.asarray(gh.singular_spectrum(chain).log_values)
    assert np.max(np.abs(logs[:alive])) <= 12 * EPS
    assert np.all(np.isneginf(logs[alive:]))


@pytest.mark.parametrize("x", [0.0, 1.0, -3.0, 9.0, 19.5, -60.0, 300.0])
def test_derivatives_of_saturated_activations_keep_their_digits(x):
    with mpmath.workdps(60):
        tanh_slope = float(1 / mpmath.cosh(x) ** 2)
        sigmoid_slope = float(1 / (2 * mpmath.cosh(mpmath.mpf(x) / 2)) ** 2)
    ours = float(jax.grad(activations.tanh)(jnp.asarray(x)))
    assert abs(ours - tanh_slope) <= 20 * EPS * max(abs(x), 1) * tanh_slope
    ours = float(jax.grad(activations.sigmoid)(jnp.asarray(x)))
    assert abs(ours - sigmoid_slope) <= 20 * EPS * max(abs(x), 1) * sigmoid_slope
    back = float(jax.jacrev(activations.tanh)(jnp.asarray(x)))
    assert back == float(jax.jacfwd(activations.tanh)(jnp.asarray(x)))


def test_textbook_derivative_would_be_zero_there():
    """The reason for the custom rules: 1 - tanh² is exactly 0 at 19.5 in float64."""
    assert 1 - np.tanh(19.5) ** 2 == 0
    assert float(jax.grad(activations.tanh)(jnp.asarray(19.5))) > 0
    x = jnp.asarray(9.5, jnp.float32)
    assert float(jax.grad(activations.tanh)(x)) > 0


@pytest.mark.parametrize("name", list(activations.KNOWN))
def test_slope_bounds_are_reached_and_not_exceeded(name):
    known = activations.KNOWN[name]
    x = jnp.linspace(-6, 6, 4001)
    slopes = jnp.abs(jax.vmap(jax.grad(known.function))(x))
    assert float(jnp.max(slopes)) <= known.slope_bound * (1 + 10 * EPS)
    assert float(jnp.max(slopes)) >= known.slope_bound * (1 - 1e-5)  # grid contains the maximum


@pytest.mark.parametrize("shape", [(6, 6), (8, 5), (5, 8), (3, 4, 4)])
def test_orthogonal_init_has_equal_singular_values(shape):
    W = gh.inits.orthogonal(1.7)(jax.random.key(0), shape, np.float64)
    assert np.max(np.abs(np.linalg.svd(W, compute_uv=False) - 1.7)) <= 100 * EPS


def test_gaussian_init_has_variance_gain_squared_over_fan_in():
    n, m, gain = 300, 200, 0.8
    W = gh.inits.gaussian(gain)(jax.random.key(0), (n, m), np.float64)
    variance = gain**2 / m
    # the sample variance of N draws has standard error sqrt(2/N) relative
    assert abs(float(jnp.var(W)) / variance - 1) <= 4 * np.sqrt(2 / (n * m))
    assert abs(float(jnp.mean(W))) <= 4 * np.sqrt(variance / (n * m))


def test_sparse_init_has_its_nonzeros_and_its_spectral_radius():
    W = np.asarray(gh.inits.sparse(4, spectral_radius=0.9)(jax.random.key(2), (30, 30), np.float64))
    assert np.all((W != 0).sum(axis=1) == 4)
    assert abs(np.abs(np.linalg.eigvals(W)).max() - 0.9) <= 1e-12
    wide = np.asarray(
        gh.inits.sparse(4, spectral_radius=0.9)(jax.random.key(2), (6, 9), np.float64)
    )
    assert abs(np.linalg.norm(wide, 2) - 0.9) <= 1e-13


def test_identity_and_chrono_inits():
    assert np.array_equal(gh.inits.identity(0.5)(None, (3, 3), np.float64), 0.5 * np.eye(3))
    bias = gh.inits.chrono(50.0)(jax.random.key(0), (4000,), np.float64)
    # e^b is uniform on (1, 49): mean 25, variance 48²/12
    assert abs(float(jnp.mean(jnp.exp(bias))) - 25) <= 4 * 48 / np.sqrt(12 * 4000)
    cell = gh.cells.lstm(7, 0, forget_bias=gh.inits.chrono(50.0))
    forget = cell.init(jax.random.key(1))["b"][7:14]
    assert float(forget.min()) >= 0
    assert float(forget.max()) <= np.log(49)


def test_feedforward_draws_fresh_parameters_per_layer():
    net = gh.cells.feedforward(4, 6, bias_init=gh.inits.gaussian(1.0))
    params = net.init(jax.random.key(0))
    assert params["W"].shape == (6, 4, 4)
    assert params["b"].shape == (6, 4)
    assert np.unique(np.asarray(params["W"])).size == 96


@pytest.mark.usefixtures("unchecked_types")
def test_errors_name_argument_and_remedy():
    with pytest.raises(ValueError, match=r"`activation` must be one of .* Received 'tahn'\. Did"):
        gh.cells.elman(3, 1, activation="tahn")
    with pytest.raises(TypeError, match="`activation` must be a name or a function"):
        gh.cells.elman(3, 1, activation=3)
    with pytest.raises(ValueError, match="`hidden` must be at least 1. Received 0"):
        gh.cells.gru(0, 1)
    with pytest.raises(TypeError, match="`hidden` must be an integer"):
        gh.cells.gru(2.5, 1)
    with pytest.raises(ValueError, match=r"`leak` must lie in \(0, 1\]"):
        gh.cells.rate_network(3, 1, leak=1.5)
    with pytest.raises(ValueError, match="`nonzeros` must lie between 1 and 4"):
        gh.inits.sparse(5)(jax.random.key(0), (4, 4), np.float64)
    with pytest.raises(TypeError, match="`dtype` must be a floating-point type"):
        gh.cells.elman(3, 1, dtype=np.int32)
    cell = gh.cells.elman(3, 1)
    with pytest.raises(ValueError, match=r"`h0` must have shape \(3,\). Received .*Batch with"):
        gh.unroll(cell.step, cell.init(jax.random.key(0)), jnp.zeros((5, 3)), jnp.zeros((4, 1)))
    pair = gh.cells.lstm(3, 1)
    with pytest.raises(ValueError, match=r"`h0` must be the pair \(c, h\)"):
        gh.unroll(pair.step, pair.init(jax.random.key(0)), jnp.zeros(3), jnp.zeros((4, 1)))
