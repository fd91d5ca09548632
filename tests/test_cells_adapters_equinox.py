"""Equinox: every cell against `lax.scan` as its documentation writes it, and every trap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from foreign import HIDDEN, INPUTS, agrees_with_its_library, awake, keeps_by_its_gate, sequence

KEY = jax.random.key(0)
CELLS = {
    "gru": lambda: eqx.nn.GRUCell(INPUTS, HIDDEN, key=KEY),
    "gru-no-bias": lambda: eqx.nn.GRUCell(INPUTS, HIDDEN, use_bias=False, key=KEY),
    "lstm": lambda: eqx.nn.LSTMCell(INPUTS, HIDDEN, key=KEY),
    "lstm-no-bias": lambda: eqx.nn.LSTMCell(INPUTS, HIDDEN, use_bias=False, key=KEY),
}


def by_scan(cell):
    """Give the loop that Equinox documents for its cells."""
    return lambda h0, xs: jax.lax.scan(lambda h, x: (cell(x, h), None), h0, xs)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CELLS)
def test_cells_are_what_the_library_runs(name, dtype):
    cell = CELLS[name]()
    adapted = gh.adapters.from_equinox(cell, dtype=dtype)
    cast = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, cell)
    agrees_with_its_library(adapted, by_scan(cast), sequence(dtype))


def test_the_state_keeps_the_order_h_c_and_its_gates_are_named():
    adapted = gh.adapters.from_equinox(CELLS["lstm"]())
    x = sequence(np.float64)[0]
    assert list(adapted.step.state_gates(adapted.params, adapted.h0, x)) == ["h", "c"]
    keeps_by_its_gate(adapted, x)


@pytest.mark.parametrize("name", ["gru", "gru-no-bias"])
def test_update_gate_is_what_remains_where_the_candidate_is_zero(name):
    """With a candidate that is zero, h' = z h: the gate can be read off the state."""
    cell = CELLS[name]()
    rows = slice(2 * HIDDEN, None)
    silent = (cell.weight_ih.at[rows].set(0), cell.weight_hh.at[rows].set(0))
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh), cell, silent)
    if cell.use_bias:
        cell = eqx.tree_at(lambda c: (c.bias, c.bias_n), cell,
                           (cell.bias.at[rows].set(0), 0 * cell.bias_n))  # fmt: skip
    step, params, h0 = gh.adapters.from_equinox(cell)
    state, x = awake(h0, np.float64), sequence(np.float64)[0]
    gate = step.state_gates(params, state, x)["h"]
    np.testing.assert_allclose(step(params, state, x), gate * state, rtol=1e-14)


def test_one_gru_in_three_libraries_is_one_chain():
    import flax.linen as nn

    ours = gh.cells.gru(HIDDEN, INPUTS)
    weights = ours.init(KEY)
    noise = jax.random.split(jax.random.key(1), 2)
    weights["b"] = jax.random.normal(noise[0], weights["b"].shape)
    weights["d"] = jax.random.normal(noise[1], weights["d"].shape)
    cell = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), CELLS["gru"](),
        (weights["U"], weights["W"], weights["b"], weights["d"]))  # fmt: skip
    flax = {}
    for i, gate in enumerate("rzn"):
        rows = slice(i * HIDDEN, (i + 1) * HIDDEN)
        flax[f"i{gate}"] = {"kernel": weights["U"][rows].T, "bias": weights["b"][rows]}
        flax[f"h{gate}"] = {"kernel": weights["W"][rows].T}
    flax["hn"]["bias"] = weights["d"]
    xs, start = sequence(np.float64), jnp.full(HIDDEN, 0.3)
    networks = [
        (ours.step, weights),
        gh.adapters.from_linen(nn.GRUCell(HIDDEN), flax)[:2],
        gh.adapters.from_equinox(cell)[:2],
    ]
    chains = [gh.jacobian_chain(step, params, start, xs).matrices() for step, params in networks]
    gates = [step.state_gates(params, start, xs[0])["h"] for step, params in networks]
    for chain, gate in zip(chains[1:], gates[1:], strict=True):
        np.testing.assert_allclose(chain, chains[0], rtol=0, atol=1e-15)
        np.testing.assert_allclose(gate, gates[0], rtol=0, atol=1e-15)


def test_steps_of_equal_cells_share_compiled_programs():
    first = gh.adapters.from_equinox(eqx.nn.GRUCell(INPUTS, HIDDEN, key=jax.random.key(1)))
    again = gh.adapters.from_equinox(CELLS["gru"]())
    assert first.step == again.step
    assert hash(first.step) == hash(again.step)
    assert first.step != gh.adapters.from_equinox(CELLS["gru-no-bias"]()).step


def test_stacked_cells_feed_each_other_the_output_h():
    low, high = CELLS["lstm"](), eqx.nn.GRUCell(HIDDEN, 2, key=KEY)
    adapted = gh.adapters.from_equinox([low, high])

    def body(carry, x):
        first = low(x, carry[0])
        return (first, high(first[0], carry[1])), None

    agrees_with_its_library(
        adapted, lambda h0, xs: jax.lax.scan(body, h0, xs)[0], sequence(np.float64)
    )


class Echo(eqx.Module):
    """An echo state with an activation field, a counter and a PRNG key in its state."""

    W: jax.Array
    activation: object
    hidden_size: int

    def initial_state(self):
        return {"h": jnp.zeros(self.hidden_size), "n": 0, "key": jax.random.key(1)}

    def __call__(self, x, state):
        h = self.activation(self.W @ state["h"] + x[0])
        return h.sum(), {"h": h, "n": state["n"] + 1, "key": state["key"]}


def test_modules_of_your_own_carry_counters_and_keys_along():
    cell = Echo(0.9 * jnp.eye(3), jnp.tanh, 3)
    adapted = gh.adapters.from_equinox(cell, INPUTS)
    xs = sequence(np.float64)
    trajectory = gh.unroll(*adapted, xs)
    assert int(trajectory.states["n"][-1]) == len(xs)
    assert gh.jacobian_chain(*adapted, xs).size == 3
    assert adapted.step == gh.adapters.from_equinox(Echo(jnp.eye(3), jnp.tanh, 3), 2).step
    assert adapted.step != gh.adapters.from_equinox(Echo(jnp.eye(3), jnp.sin, 3), 2).step


class Unclear(eqx.Module):
    W: jax.Array
    readout: bool = False

    def __call__(self, a, b):
        h = jnp.tanh(self.W @ b + 0.1 * a)
        return (h, 2 * h) if self.readout else h


class Readout(eqx.Module):
    W: jax.Array

    def __call__(self, x, h):
        h = jnp.tanh(self.W @ h + x)
        return h, self.W @ h


def test_what_names_and_shapes_leave_open_is_asked():
    W, h0 = 0.5 * jnp.eye(3), jnp.full(3, 0.2)
    x = jnp.arange(3.0)
    with pytest.raises(ValueError, match=r"`carry` must be told apart from the input.*order="):
        gh.adapters.from_equinox(Unclear(W), 3, h0=h0)
    step, params, _ = gh.adapters.from_equinox(Unclear(W), 3, h0=h0, order="x, carry")
    np.testing.assert_array_equal(step(params, h0, x), Unclear(W)(x, h0))
    step, params, _ = gh.adapters.from_equinox(Unclear(W), 3, h0=h0, order="carry, x")
    np.testing.assert_array_equal(step(params, h0, x), Unclear(W)(h0, x))
    with pytest.raises(ValueError, match=r"`carry` must be told apart from the output.*returns="):
        gh.adapters.from_equinox(Readout(W), 3, h0=h0)
    for returns, place in (("carry, out", 0), ("out, carry", 1)):
        step, params, _ = gh.adapters.from_equinox(Readout(W), 3, h0=h0, returns=returns)
        np.testing.assert_array_equal(step(params, h0, x), Readout(W)(x, h0)[place])


class Noisy(eqx.Module):
    cell: eqx.nn.GRUCell
    drop: eqx.nn.Dropout

    def __call__(self, x, state, *, key=None):
        with jax.numpy_dtype_promotion("standard"):
            return self.drop(self.cell(x, state), key=key)


def test_dropout_needs_inference_mode_or_a_key():
    cell, x = Noisy(CELLS["gru"](), eqx.nn.Dropout(0.5)), sequence(np.float64)[0]
    h0 = jnp.ones(HIDDEN)
    with pytest.raises(ValueError, match=r"`cell` must be deterministic.*inference_mode"):
        gh.adapters.from_equinox(cell, INPUTS, h0=h0)
    quiet = gh.adapters.from_equinox(eqx.nn.inference_mode(cell), INPUTS, h0=h0)
    np.testing.assert_array_equal(quiet.step(quiet.params, h0, x), cell.cell(x, h0))
    noisy = gh.adapters.from_equinox(cell, INPUTS, h0=h0, noise_key=jax.random.key(3))
    first, second = (noisy.step(noisy.params, h0, x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.any(first == 0)


class Normed(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, x, state):
        return state + x.sum()


def batch_norm():
    return Normed(eqx.nn.BatchNorm(3, axis_name="batch", mode="batch"))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f(batch_norm(), 2, h0=jnp.zeros(3)), ValueError, "keep no statistics in an"),
        (lambda f: f(eqx.nn.MLP(2, 3, 4, 1, key=KEY)), ValueError, "called with .x.*causal step"),
        (lambda f: f(eqx.nn.GRUCell), TypeError, "`cell` must be an equinox module.*Build it"),
        (lambda f: f(jnp.tanh), TypeError, "`cell` must be an equinox module"),
        (lambda f: f(Readout(jnp.eye(3)), 3), ValueError, "`h0` must be given for Readout"),
        (lambda f: f(Readout(jnp.eye(3)), h0=jnp.zeros(3)), ValueError, "`inputs` must be given"),
        (lambda f: f(CELLS["gru"](), (4, 2)), ValueError,
         r"`inputs` must be one unbatched input.*float64\[4,2\]. Batch with jax.vmap"),
        (lambda f: f(CELLS["gru"](), h0=jnp.zeros((4, 3))), ValueError, "Batch with jax.vmap"),
        (lambda f: f(CELLS["gru"](), 5), ValueError, "`cell` must accept a state float64.3."),
        (lambda f: f(CELLS["lstm"](), h0=jnp.zeros(3)), ValueError, "`cell` must accept a state"),
        (lambda f: f(CELLS["gru"](), returns="both"), ValueError, "`returns` must be one of"),
    ],
)  # fmt: skip
def test_misuse_is_refused_in_words(make, kind, message):
    with pytest.raises(kind, match=message):
        make(gh.adapters.from_equinox)


def test_float64_needs_x64_mode():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match="`dtype` must be at most float32 while"):
            gh.adapters.from_equinox(CELLS["gru"](), dtype=np.float64)
        wide = eqx.tree_at(lambda c: c.weight_hh, CELLS["gru"](), np.zeros((9, 3)))
        with pytest.raises(ValueError, match="`params.weight_hh` must be float32 while"):
            gh.adapters.from_equinox(wide)


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r'`from_equinox` must find.*"gradhorizon\[equinox\]"'):
        gh.adapters.from_equinox(object())


class TwoParts(eqx.Module):
    """A module whose state has two leaves and which returns nothing but the state."""

    weight: jax.Array

    def __call__(self, x, state):
        fast, slow = state
        fast = jnp.tanh(self.weight @ slow + x)
        return fast, slow / 2 + fast


def test_a_state_of_several_leaves_needs_no_output_beside_it():
    h0 = (jnp.zeros(3), jnp.ones(3))
    step, params, start = gh.adapters.from_equinox(TwoParts(jnp.eye(3)), h0=h0, inputs=3)
    fast, slow = step(params, start, jnp.zeros(3))
    np.testing.assert_allclose(fast, np.tanh(np.ones(3)), rtol=1e-15)
    np.testing.assert_allclose(slow, 0.5 + np.tanh(np.ones(3)), rtol=1e-15)


def test_adapted_cells_stack_with_those_of_the_package():
    lower = gh.adapters.from_equinox(eqx.nn.LSTMCell(2, 3, key=jax.random.key(0)))
    layer = gh.Cell(lambda key: lower.params, lower.step, lambda: lower.h0)
    upper = gh.cells.gru(4, 3)
    cell = gh.cells.stacked(layer, upper)
    params, h0 = cell.init(jax.random.key(1)), cell.initial_state()
    x = jnp.ones(2)
    below, above = cell.step(params, h0, x)
    hidden = lower.step(lower.params, lower.h0, x)[0]  # equinox keeps (h, c)
    np.testing.assert_array_equal(below[0], hidden)
    np.testing.assert_allclose(above, upper.step(params[1], h0[1], hidden), rtol=1e-14)
