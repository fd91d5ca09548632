"""Minimal RNN, minGRU and minLSTM: equations by hand, gates, exponents from the gate histogram."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import gradhorizon as gh
from cases import case

EPS = np.finfo(float).eps
sigmoid = scipy.special.expit


def numbers(params):
    return {name: np.asarray(leaf) for name, leaf in params.items()}


def by_hand(name, p, h, x):
    """One step from the paper's equations, quotients and all."""
    if name == "minimal":
        z = np.tanh(p["U"] @ x + p["b"])
        u = sigmoid(p["W"] @ h + p["V"] @ z + p["d"])
        return u * h + (1 - u) * z
    rows = p["U"] @ x + p["b"]
    if name == "min-gru":
        z, candidate = np.split(rows, 2)
        return (1 - sigmoid(z)) * h + sigmoid(z) * candidate
    i, f, candidate = np.split(rows, 3)
    i, f = sigmoid(i), sigmoid(f)
    return f / (f + i) * h + i / (f + i) * candidate


def shifted_biases(network, key):
    """Give the parameters with every bias drawn anew, so that none is zero."""
    keys = iter(jax.random.split(key, 3))
    draw = {
        name: jax.random.normal(next(keys), leaf.shape)
        for name, leaf in network.params.items()
        if name in ("b", "d")
    }
    return {**network.params, **draw}


@pytest.mark.parametrize("name", ["minimal", "min-gru", "min-lstm"])
def test_one_step_by_hand(name):
    network = case(name)
    params = shifted_biases(network, jax.random.key(1))
    x = network.xs[0]
    ours = network.step(params, network.h0, x)
    exact = by_hand(name, numbers(params), np.asarray(network.h0), np.asarray(x))
    assert np.max(np.abs(ours - exact)) <= 20 * EPS


def test_jacobian_of_the_minimal_rnn():
    network = case("minimal")
    params = shifted_biases(network, jax.random.key(1))
    p, h, x = numbers(params), np.asarray(network.h0), np.asarray(network.xs[0])
    z = np.tanh(p["U"] @ x + p["b"])
    u = sigmoid(p["W"] @ h + p["V"] @ z + p["d"])
    exact = np.diag(u) + (u * (1 - u) * (h - z))[:, None] * p["W"]
    J = gh.jacobian_chain(network.step, params, network.h0, network.xs[:1]).matrices()[0]
    assert np.max(np.abs(J - exact)) <= 20 * EPS
    assert np.allclose(network.step.state_gates(params, h, x)["h"], u, rtol=10 * EPS, atol=0)


@pytest.mark.parametrize("name", ["min-gru", "min-lstm"])
def test_the_gate_is_all_of_the_jacobian(name):
    network = case(name)
    params = shifted_biases(network, jax.random.key(1))
    gates = network.step.state_gates(params, network.h0, network.xs[0])
    J = gh.jacobian_chain(network.step, params, network.h0, network.xs[:1]).matrices()[0]
    assert np.max(np.abs(J - np.diag(gates["h"]))) <= 4 * EPS


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0, 7.0])
@pytest.mark.parametrize("name", ["minimal_rnn", "min_gru", "min_lstm"])
def test_without_weights_the_state_decays_by_sigmoid_of_the_bias(name, bias):
    """ln σ(b) per step, and the time constant -1/ln σ(b)."""
    keyword = {"minimal_rnn": "update_bias", "min_gru": "keep_bias", "min_lstm": "forget_bias"}
    more = {"recurrent_init": gh.inits.gaussian(0.0)} if name == "minimal_rnn" else {}
    cell = getattr(gh.cells, name)(3, 0, **{keyword[name]: bias}, **more)
    chain = gh.jacobian_chain(cell.step, cell.init(jax.random.key(0)), jnp.ones(3), length=60)
    keep = -np.log1p(np.exp(-bias))
    paths = gh.state_paths(chain, lags=[60])
    assert paths.gated == (True,)
    assert np.allclose(paths.units("h"), -1 / keep, rtol=1e-13, atol=0)
    for logs in paths.path("h", "h"):
        assert abs(float(logs[0]) - 60 * keep) <= 60 * 10 * EPS * max(1, abs(keep))


def gate_logs(cell, params, xs):
    """ln(1 - z) at every step, from the weights, in NumPy."""
    p, n = numbers(params), cell.initial_state().size
    return -np.logaddexp(0, np.asarray(xs) @ p["U"][:n].T + p["b"][:n])


def test_exponents_of_a_min_gru_are_the_means_of_its_gates():
    """J = diag(1 - z_t): singular values of Φ(T, 0) are Π(1 - z_t), unit by unit."""
    cell = gh.cells.min_gru(5, 3, keep_bias=gh.inits.chrono(30.0))
    params = cell.init(jax.random.key(0))
    xs = 2 * jax.random.normal(jax.random.key(1), (300, 3))
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    logs = np.sort(gate_logs(cell, params, xs).sum(axis=0))[::-1]
    assert np.max(np.abs(gh.singular_spectrum(chain).log_values - logs)) <= 1e-11
    exponents = gh.lyapunov_spectrum(chain).exponents
    assert np.max(np.abs(exponents - logs / 300)) <= 1e-2  # the frame turns to the axes


def test_exponents_of_a_min_gru_for_gaussian_inputs():
    """E ln(1 - z) = -E softplus(a), a ~ N(b_z, |U_z|²), by adaptive quadrature."""
    cell = gh.cells.min_gru(4, 3, keep_bias=1.0)
    params = cell.init(jax.random.key(3))
    xs = jax.random.normal(jax.random.key(4), (20_000, 3))
    paths = gh.state_paths(
        gh.jacobian_chain(cell.step, params, cell.initial_state(), xs), lags=[20_000]
    )
    p = numbers(params)
    scatter = gate_logs(cell, params, xs).std(axis=0) / np.sqrt(20_000)
    for unit in range(4):
        density = scipy.stats.norm(p["b"][unit], np.linalg.norm(p["U"][unit])).pdf
        exact = -scipy.integrate.quad(lambda a, d=density: np.logaddexp(0, a) * d(a), -20, 20)[0]
        assert abs(float(paths.self_rates[unit]) - exact) <= 4 * scatter[unit]


def test_normalized_gates_survive_where_both_gates_underflow():
    """σ(-800)/(σ(-800) + σ(-805)) is σ(5), though both are 0 in floats."""
    cell = gh.cells.min_lstm(2, 0, forget_bias=-800.0, input_bias=-805.0)
    params = cell.init(jax.random.key(0))
    J = gh.jacobian_chain(cell.step, params, jnp.ones(2), length=1).matrices()[0]
    assert np.max(np.abs(J - sigmoid(5.0) * np.eye(2))) <= 1e-12
    slope = jax.grad(lambda p: jnp.sum(cell.step(p, jnp.ones(2), None)))(params)
    assert np.all(np.isfinite(slope["b"]))


def test_a_forget_bias_alone_cannot_keep_more_than_two_thirds():
    cell = gh.cells.min_lstm(1, 0, forget_bias=50.0, input_bias=0.0)
    later = cell.step(cell.init(jax.random.key(0)), jnp.ones(1), None)
    assert abs(float(later[0]) - 2 / 3) <= 4 * EPS


@pytest.mark.parametrize(
    ("name", "keyword", "rows", "sign"),
    [
        ("minimal_rnn", "update_bias", ("d", 0), 1),
        ("min_gru", "keep_bias", ("b", 0), -1),
        ("min_lstm", "forget_bias", ("b", 1), 1),
        ("gru", "update_bias", ("b", 1), 1),
    ],
)
def test_biases_are_drawn_by_initializers(name, keyword, rows, sign):
    """Chrono biases lie in (0, ln(T - 1)) and differ; the weights do not depend on them."""
    build, (leaf, block) = getattr(gh.cells, name), rows
    drawn = build(6, 2, **{keyword: gh.inits.chrono(50.0)}).init(jax.random.key(1))
    given = build(6, 2, **{keyword: 0.5}).init(jax.random.key(1))
    bias = sign * np.asarray(drawn[leaf])[6 * block : 6 * (block + 1)]
    assert bias.min() >= 0
    assert bias.max() <= np.log(49)
    assert np.unique(bias).size == 6
    assert np.array_equal(sign * given[leaf][6 * block : 6 * (block + 1)], np.full(6, 0.5))
    assert np.array_equal(drawn["U"], given["U"])
    several = build(2, 2, **{keyword: [1.0, 2.0]}).init(jax.random.key(1))
    assert (sign * several[leaf][2 * block : 2 * (block + 1)]).tolist() == [1.0, 2.0]


@pytest.mark.usefixtures("unchecked_types")
def test_errors_name_argument_and_remedy():
    with pytest.raises(ValueError, match=r"`keep_bias` must be a number, 3 numbers, or an init"):
        gh.cells.min_gru(3, 1, keep_bias="chrono")
    with pytest.raises(ValueError, match=r"`forget_bias` must .* Pass a number or, for example"):
        gh.cells.min_lstm(3, 1, forget_bias=[1.0, 2.0])
    with pytest.raises(ValueError, match="`input_bias` must be a number"):
        gh.cells.min_lstm(3, 1, input_bias={})
    with pytest.raises(ValueError, match="`update_bias` must be a number"):
        gh.cells.gru(3, 1, update_bias=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="`hidden` must be at least 1"):
        gh.cells.minimal_rnn(0, 1)
    cell = gh.cells.min_gru(3, 1)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"`h0` must have shape \(3,\).*Batch with"):
        gh.unroll(cell.step, params, jnp.zeros((5, 3)), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"`xs\[t\]` must have shape \(1,\)"):
        gh.unroll(cell.step, params, jnp.zeros(3), jnp.zeros((4, 2)))
