"""Stacks of cells: what is read, the triangle of the Jacobian, and what it implies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

EPS = np.finfo(float).eps
KEYS = jax.random.split(jax.random.key(0), 6)


def three_layers():
    """An LSTM (12 numbers) below a GRU (3) below an Elman layer (4), with inputs and a start."""
    layers = [gh.cells.lstm(6, 2), gh.cells.gru(3, 6), gh.cells.elman(4, 3)]
    cell = gh.cells.stacked(*layers)
    xs = jax.random.normal(KEYS[1], (9, 2))
    return layers, cell, cell.init(KEYS[0]), xs


def alone(layers, params, xs):
    """Run layer by layer: each on the outputs that the one below it has recorded."""
    chains, states = [], []
    for layer, weights in zip(layers, params, strict=True):
        start = layer.initial_state()
        chains.append(gh.jacobian_chain(layer.step, weights, start, xs))
        found = gh.unroll(layer.step, weights, start, xs).states
        states.append(found)
        xs = (found[1] if isinstance(found, tuple) else found)[1:]
    return chains, states


def test_layers_read_what_the_one_below_has_just_computed():
    layers, cell, params, xs = three_layers()
    stack = gh.unroll(cell.step, params, cell.initial_state(), xs).states
    _, states = alone(layers, params, xs)
    for ours, exact in zip(jax.tree.leaves(stack), jax.tree.leaves(states), strict=True):
        assert np.max(np.abs(ours - exact)) <= 20 * EPS


def test_jacobian_is_block_lower_triangular_with_the_layers_own_on_the_diagonal():
    layers, cell, params, xs = three_layers()
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    J = np.asarray(chain.matrices())
    starts = [0, 12, 15, 19]
    own, _ = alone(layers, params, xs)
    for low, high, single in zip(starts[:-1], starts[1:], own, strict=True):
        assert np.max(np.abs(J[:, low:high, low:high] - single.matrices())) <= 20 * EPS
        assert np.all(J[:, low:high, high:] == 0)
    assert np.all(np.max(np.abs(J[:, 15:, 12:15]), axis=(1, 2)) > 1e-3)  # and it is coupled


def test_determinants_add_up_over_layers():
    layers = [gh.cells.gru(3, 2), gh.cells.rate_network(4, 3, leak=0.3)]
    cell = gh.cells.stacked(*layers)
    params, xs = cell.init(KEYS[2]), jax.random.normal(KEYS[1], (40, 2))
    own, _ = alone(layers, params, xs)
    exact = sum(np.linalg.slogdet(np.asarray(c.matrices()))[1].sum() for c in own)
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    assert abs(float(gh.lyapunov_spectrum(chain).exponents.sum()) * 40 - exact) <= 1e-9


def linear_layer(moduli, inputs, seed):
    """A linear layer with real eigenvalues ±moduli in a random basis."""
    n = len(moduli)
    signs = np.where(np.arange(n) % 2, -1.0, 1.0)
    basis = np.random.default_rng(seed).normal(size=(n, n))
    W = basis @ np.diag(signs * np.array(moduli)) @ np.linalg.inv(basis)
    return gh.cells.linear(n, inputs, recurrent_init=lambda _k, _s, d: jnp.asarray(W, d))


def test_exponents_of_linear_layers_are_those_of_all_layers_together():
    """J is constant: its eigenvalues are the layers' own, hence the exponents ln|eigenvalue|."""
    lower, upper = [1.1, 0.6], [0.9, 0.4, 0.2]
    cell = gh.cells.stacked(linear_layer(lower, 1, 1), linear_layer(upper, 2, 2))
    params = cell.init(KEYS[3])
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), jnp.zeros((1600, 1)))
    J = np.asarray(chain.at(1).matrix())
    moduli = np.sort(np.abs(np.linalg.eigvals(J)))[::-1]
    exact = np.sort(np.array(lower + upper))[::-1]
    assert np.max(np.abs(moduli - exact)) <= 1e-12
    found = gh.lyapunov_spectrum(chain, burn_in=400).exponents
    assert np.max(np.abs(found - np.log(exact))) <= 1e-9


def test_exponents_of_a_driven_stack_are_those_of_its_layers_as_they_are_driven():
    """Finite-time exponents by QR differ by what aligns, O(1/T)."""
    layers = [gh.cells.min_gru(3, 2, keep_bias=jnp.array([0.0, 2.0, 4.0])),
              gh.cells.min_gru(2, 3, keep_bias=jnp.array([1.0, 3.0]))]  # fmt: skip
    cell = gh.cells.stacked(*layers)
    params, xs = cell.init(KEYS[4]), jax.random.normal(KEYS[1], (3000, 2))
    own, _ = alone(layers, params, xs)
    exact = np.concatenate([gh.lyapunov_spectrum(c).exponents for c in own])
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    found = gh.lyapunov_spectrum(chain).exponents
    assert np.max(np.abs(found - np.sort(exact)[::-1])) <= 5e-3


@pytest.mark.parametrize("decay", [0.9, 0.5])
def test_two_equal_layers_reach_further_than_each(decay):
    """∂h²_T/∂h¹_{T-k} = k a^k for h² reading h¹ with weight 1, and nothing goes the other way."""
    layer = gh.cells.linear(
        1, 1, recurrent_init=gh.inits.identity(decay), input_init=gh.inits.identity()
    )
    cell = gh.cells.stacked(layer, layer)
    params = cell.init(KEYS[0])
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), jnp.zeros((50, 1)))
    paths = gh.state_paths(chain, lags=[1, 7, 50])
    assert paths.names == ("layer 1 h", "layer 2 h")
    down = paths.path("layer 2 h", "layer 1 h")[1]
    lags = np.array([1, 7, 50])
    assert np.max(np.abs(down - (np.log(lags) + lags * math.log(decay)))) <= 1e-12
    assert paths.path("layer 1 h", "layer 2 h")[1].tolist() == [-math.inf] * 3


def test_gates_of_all_layers_are_shown_under_their_names():
    layers, cell, params, xs = three_layers()
    _, states = alone(layers, params, xs)
    now = (tuple(s[0] for s in states[0]), states[1][0], states[2][0])
    gates = cell.step.state_gates(params, now, xs[0])
    assert list(gates) == ["layer 1 c", "layer 1 h", "layer 2 h", "layer 3 h"]
    exact = layers[1].step.state_gates(params[1], now[1], states[0][1][1])["h"]
    assert np.allclose(gates["layer 2 h"], exact, rtol=10 * EPS, atol=0)
    assert gates["layer 1 h"] is None
    assert gates["layer 3 h"] is None
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    assert gh.state_paths(chain).gated == (True, False, True, False)


def test_complex_layers_are_read_as_real_and_imaginary_parts():
    lower, upper = gh.cells.unitary_rnn(2, 1), gh.cells.elman(3, 4)
    cell = gh.cells.stacked(lower, upper)
    params, x = cell.init(KEYS[5]), jnp.array([0.7])
    start = (jnp.array([0.1 + 0.2j, -0.3j]), jnp.zeros(3))
    below, above = cell.step(params, start, x)
    z = np.asarray(lower.step(params[0], start[0], x))
    parts = np.concatenate([z.real, z.imag])
    exact = np.tanh(np.asarray(params[1]["U"]) @ parts)
    assert np.max(np.abs(below - z)) <= 4 * EPS
    assert np.max(np.abs(above - exact)) <= 4 * EPS


def test_a_stack_of_stacks_is_the_flat_stack():
    layers, flat, params, xs = three_layers()
    nested = gh.cells.stacked(gh.cells.stacked(*layers[:2]), layers[2])
    deep = ((params[0], params[1]), params[2])
    ours = gh.unroll(nested.step, deep, nested.initial_state(), xs).states
    plain = gh.unroll(flat.step, params, flat.initial_state(), xs).states
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert np.array_equal(a, b)
    assert nested.step.inputs == 2


def test_own_read_functions_replace_what_is_read():
    lower, upper = gh.cells.lstm(2, 1), gh.cells.linear(2, 2)
    memory = gh.cells.stacked(lower, upper, read=lambda state: state[0])
    listed = gh.cells.stacked(lower, upper, read=[lambda state: state[0], None])
    params, x = memory.init(KEYS[0]), jnp.array([1.0])
    (c, _), above = memory.step(params, memory.initial_state(), x)
    assert np.max(np.abs(above - np.asarray(params[1]["U"]) @ np.asarray(c))) <= 4 * EPS
    again = listed.step(params, listed.initial_state(), x)[1]
    assert np.array_equal(above, again)


@pytest.mark.usefixtures("unchecked_types")
def test_layers_that_do_not_fit_are_refused_when_they_are_stacked():
    lstm, elman = gh.cells.lstm(3, 2), gh.cells.elman(4, 5)
    with pytest.raises(ValueError, match=r"`layer 2` must read vectors of 5 entries.*inputs=3"):
        gh.cells.stacked(lstm, elman)
    with pytest.raises(ValueError, match=r"`layer 2` must have the dtype of what layer 1 gives"):
        gh.cells.stacked(lstm, gh.cells.elman(4, 3, dtype=np.float32))
    with pytest.raises(ValueError, match="`cells` must name at least one layer"):
        gh.cells.stacked()
    with pytest.raises(TypeError, match=r"`layer 1` must be a Cell.*Wrap a step as"):
        gh.cells.stacked(lstm.step, elman)
    with pytest.raises(ValueError, match="`read` must have one entry for each of 2 layers"):
        gh.cells.stacked(lstm, gh.cells.elman(4, 3), read=[None])
    with pytest.raises(TypeError, match="`read` must be a function of a layer's state"):
        gh.cells.stacked(lstm, gh.cells.elman(4, 3), read=1)

    def pair(_params, h, x):
        return (h[1], h[0] + x)

    user = gh.Cell(lambda _key: (), pair, lambda: (jnp.zeros(2), jnp.zeros(2)))
    mixed = gh.cells.stacked(user, gh.cells.elman(3, 2))
    params = mixed.init(KEYS[0])
    with pytest.raises(ValueError, match=r"`read` must say which part of layer 1.*2 leaves"):
        gh.unroll(mixed.step, params, mixed.initial_state(), jnp.zeros((4, 2)))


@pytest.mark.usefixtures("unchecked_types")
def test_errors_inside_a_layer_name_it():
    _, cell, params, xs = three_layers()
    start = cell.initial_state()
    with pytest.raises(ValueError, match=r"layer 3 of the stack: `h0` must have shape \(4,\)"):
        gh.unroll(cell.step, params, (*start[:2], jnp.zeros(5)), xs)
    with pytest.raises(ValueError, match="`h0` must be a tuple with one entry for each of 3"):
        gh.unroll(cell.step, params, start[:2], xs)
    with pytest.raises(ValueError, match="`params` must be a tuple with one entry for each of 3"):
        gh.unroll(cell.step, params[:2], start, xs)
