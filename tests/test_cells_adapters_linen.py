"""Flax linen: every cell against `nn.RNN`, and every trap refused in words."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from foreign import HIDDEN, INPUTS, agrees_with_its_library, awake, keeps_by_its_gate, sequence

CELLS = {
    "simple": nn.SimpleCell(HIDDEN),
    "simple-residual": nn.SimpleCell(HIDDEN, residual=True),
    "lstm": nn.LSTMCell(HIDDEN, bias_init=nn.initializers.normal()),
    "optimized-lstm": nn.OptimizedLSTMCell(HIDDEN),
    "gru": nn.GRUCell(HIDDEN, bias_init=nn.initializers.normal()),
    "mgu": nn.MGUCell(HIDDEN),
    "mgu-no-reset": nn.MGUCell(HIDDEN, reset_gate=False),
}


def through_rnn(cell, params, h0, xs):
    """Run the library's own loop and give the final carry."""
    rnn = nn.RNN(cell, return_carry=True)
    return rnn.apply({"params": {"cell": params["params"]}}, xs, initial_carry=h0)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CELLS)
def test_cells_are_what_the_library_runs(name, dtype):
    adapted = gh.adapters.from_linen(CELLS[name], inputs=INPUTS, dtype=dtype)
    run = functools.partial(through_rnn, CELLS[name], adapted.params)
    agrees_with_its_library(adapted, run, sequence(dtype))


def test_convolutional_lstm_has_one_state_with_space_in_it():
    cell = nn.ConvLSTMCell(2, kernel_size=(3,))
    adapted = gh.adapters.from_linen(cell, inputs=(3, 1))
    assert [leaf.shape for leaf in adapted.h0] == [(3, 2), (3, 2)]
    xs = sequence(np.float64, (3, 1))
    run = functools.partial(through_rnn, cell, adapted.params)
    agrees_with_its_library(adapted, run, xs)
    keeps_by_its_gate(adapted, xs[0])


@pytest.mark.parametrize("name", ["lstm", "optimized-lstm"])
def test_forget_gates(name):
    adapted = gh.adapters.from_linen(CELLS[name], inputs=INPUTS)
    keeps_by_its_gate(adapted, sequence(np.float64)[0])


@pytest.mark.parametrize(("name", "letter"), [("gru", "z"), ("mgu", "f"), ("mgu-no-reset", "f")])
def test_update_gates_are_slopes_once_the_gates_stop_looking_at_the_state(name, letter):
    """With what the recurrent matrices see moved into the biases, J = diag(z) exactly."""
    step, params, h0 = gh.adapters.from_linen(CELLS[name], inputs=INPUTS)
    x, start = sequence(np.float64)[0], awake(h0, np.float64)
    weights = params["params"]
    still = jax.tree.map(lambda a: a, params)
    for gate in {"gru": "rzn"}.get(name, "fn"):
        seen = start @ weights[f"h{gate}"]["kernel"]
        own = still["params"][f"h{gate}"]
        own["kernel"] = jnp.zeros_like(own["kernel"])
        place = own if "bias" in own else still["params"][f"i{gate}"]
        place["bias"] = place["bias"] + seen
    slopes = jax.jacfwd(step, 1)(still, start, x)
    gate = step.state_gates(params, start, x)["h"]
    np.testing.assert_allclose(slopes, np.diag(gate), rtol=0, atol=1e-15)
    np.testing.assert_allclose(step(still, start, x), step(params, start, x), rtol=0, atol=1e-15)


def test_steps_of_equal_cells_share_compiled_programs():
    first = gh.adapters.from_linen(nn.GRUCell(HIDDEN), inputs=INPUTS)
    again = gh.adapters.from_linen(nn.GRUCell(HIDDEN), inputs=INPUTS, key=jax.random.key(1))
    other = gh.adapters.from_linen(nn.GRUCell(HIDDEN, gate_fn=jnp.tanh), inputs=INPUTS)
    assert first.step == again.step
    assert hash(first.step) == hash(again.step)
    assert first.step != other.step
    assert not np.array_equal(first.params["params"]["ir"]["kernel"],
                              again.params["params"]["ir"]["kernel"])  # fmt: skip


def test_variables_in_every_form_users_hold():
    cell = nn.LSTMCell(HIDDEN)
    x = jnp.zeros(INPUTS, np.float32)
    variables = cell.init(jax.random.key(4), cell.initialize_carry(jax.random.key(0), x.shape), x)
    whole = gh.adapters.from_linen(cell, variables)
    inner = gh.adapters.from_linen(cell, variables["params"])
    rnn = nn.RNN(cell)
    inside = rnn.init(jax.random.key(4), jnp.zeros((1, 1, INPUTS), np.float32))
    wrapped = gh.adapters.from_linen(rnn, inside)
    state, xs = awake(whole.h0, np.float64), sequence(np.float64)
    expected = whole.step(whole.params, state, xs[0])
    for got in (inner.step(inner.params, state, xs[0]), whole.step(inner.params, state, xs[0])):
        assert jax.tree.all(jax.tree.map(np.array_equal, got, expected))
    assert set(inner.params) == set(variables["params"])
    assert wrapped.step == whole.step
    for example in (INPUTS, (INPUTS,), x, xs[0], np.ones(INPUTS)):
        assert gh.adapters.from_linen(cell, variables, example).step == whole.step


class Block(nn.Module):
    """A module as users write them: two cells, a dense layer, an output beside the carry."""

    @nn.compact
    def __call__(self, carry, x):
        first, y = nn.GRUCell(3)(carry["low"], x)
        second, y = nn.SimpleCell(2)(carry["high"], y)
        return {"low": first, "high": second, "n": carry["n"] + 1, "key": carry["key"]}, nn.Dense(
            3
        )(y)


class Backward(nn.Module):
    """The same order that Haiku and Equinox have: input first, state last."""

    @nn.compact
    def __call__(self, x, state):
        state, y = nn.GRUCell(3)(state, x)
        return nn.Dense(3)(y), state


def test_modules_of_your_own_with_counters_and_keys():
    h0 = {"low": jnp.zeros(3), "high": jnp.zeros(2), "n": 0, "key": jax.random.key(5)}
    step, params, start = gh.adapters.from_linen(Block(), inputs=INPUTS, h0=h0)
    xs = sequence(np.float64)
    trajectory = gh.unroll(step, params, start, xs)
    assert int(trajectory.states["n"][-1]) == len(xs)
    assert gh.jacobian_chain(step, params, start, xs).size == 5
    carry = start
    for x in xs:
        carry, _ = Block().apply(params, carry, x)
    np.testing.assert_allclose(trajectory.states["low"][-1], carry["low"], atol=1e-15)


def test_names_tell_the_order_where_shapes_do_not():
    step, params, h0 = gh.adapters.from_linen(Backward(), inputs=3, h0=jnp.zeros(3))
    x, state = jnp.arange(3.0), jnp.full(3, 0.3)
    np.testing.assert_array_equal(step(params, state, x), Backward().apply(params, x, state)[1])
    with pytest.raises(ValueError, match="`order` must be one of 'auto', 'carry, x', 'x, carry'"):
        gh.adapters.from_linen(Backward(), inputs=3, h0=h0, order="x first")


def test_stacked_cells_feed_each_other():
    cells = [nn.LSTMCell(3), nn.RNN(nn.GRUCell(2))]
    adapted = gh.adapters.from_linen(cells, inputs=INPUTS)
    low, high = adapted.params

    def run(h0, xs):
        first, ys = nn.RNN(cells[0], return_carry=True).apply(
            {"params": {"cell": low["params"]}}, xs, initial_carry=h0[0])  # fmt: skip
        second, _ = nn.RNN(nn.GRUCell(2), return_carry=True).apply(
            {"params": {"cell": high["params"]}}, ys, initial_carry=h0[1])  # fmt: skip
        return first, second

    agrees_with_its_library(adapted, run, sequence(np.float64))
    gates = adapted.step.state_gates(adapted.params, adapted.h0, sequence(np.float64)[0])
    assert list(gates) == ["c[0]", "h[0]", "h[1]"]
    again = gh.adapters.from_linen(cells, list(adapted.params), INPUTS)
    assert again.step == adapted.step
    with pytest.raises(ValueError, match="`variables` must be a list of 2 for 2 cells"):
        gh.adapters.from_linen(cells, low)


class Noisy(nn.Module):
    train: bool = True
    norm: bool = False

    @nn.compact
    def __call__(self, carry, x):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            carry, _ = nn.GRUCell(3)(carry, x)
            if self.norm:
                carry = nn.BatchNorm(use_running_average=not self.train)(carry)
            else:
                carry = nn.Dropout(0.5, deterministic=not self.train)(carry)
        return carry, carry


def test_dropout_needs_a_key_and_batch_norm_its_evaluation_mode():
    h0, xs = jnp.zeros(3), sequence(np.float64)
    with pytest.raises(ValueError, match=r"`cell` must be deterministic.*Noisy.*noise_key"):
        gh.adapters.from_linen(Noisy(), inputs=INPUTS, h0=h0, noise_key=None)
    step, params, _ = gh.adapters.from_linen(
        Noisy(), inputs=INPUTS, h0=h0, noise_key=jax.random.key(2)
    )
    assert np.array_equal(step(params, h0, xs[0]), step(params, h0, xs[0]))
    assert not np.all(step(params, h0, xs[0]))  # some units are dropped
    quiet, params, _ = gh.adapters.from_linen(Noisy(train=False), inputs=INPUTS, h0=h0)
    assert np.all(quiet(params, h0, xs[0]))

    with pytest.raises(ValueError, match=r"leave its statistics as they are.*evaluation mode"):
        gh.adapters.from_linen(Noisy(norm=True), inputs=INPUTS, h0=h0)
    module = Noisy(train=False, norm=True)
    variables = module.init(jax.random.key(0), jnp.zeros(3), xs[0])
    shifted = {**variables, "batch_stats": jax.tree.map(lambda a: a + 1, variables["batch_stats"])}
    step, params, _ = gh.adapters.from_linen(module, shifted, INPUTS, h0=h0)
    np.testing.assert_allclose(
        step(params, h0, xs[0]), module.apply(shifted, h0, xs[0])[0], atol=1e-6
    )
    with pytest.raises(ValueError, match="`variables` must be those of Noisy"):
        gh.adapters.from_linen(module, {"params": variables["params"]}, INPUTS, h0=h0)


FORWARD, REVERSED = nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3), reverse=True)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f(nn.Bidirectional(FORWARD, REVERSED), inputs=2), ValueError,
         "`cell` must advance a state by one input.*reads the future.*no causal step, hence no h"),
        (lambda f: f(REVERSED, inputs=2), ValueError, "backward in time.*no causal step"),
        (lambda f: f(nn.Dense(3), inputs=2), ValueError, "called with .inputs.*no causal step"),
        (lambda f: f(nn.GRUCell), TypeError, "`cell` must be a flax.linen module.*Build it first"),
        (lambda f: f(3), TypeError, "`cell` must be a flax.linen module.*Received int"),
        (lambda f: f(nn.GRUCell(3)), ValueError, "`inputs` must be given for GRUCell of flax.lin"),
        (lambda f: f(nn.GRUCell(3), 2), TypeError, "`variables` must be a dictionary.*int"),
        (lambda f: f(nn.GRUCell(3), {"params": {}}, 2), ValueError, "`variables` must be those of"),
        (lambda f: f(Block(), inputs=2), ValueError, "`h0` must be given for Block of flax.linen"),
        (lambda f: f(nn.GRUCell(3), inputs=0), ValueError, "`inputs` must be at least 1"),
        (lambda f: f(nn.GRUCell(3), inputs=2, h0=jnp.zeros((4, 3))), ValueError,
         r"`h0` must be one unbatched state.*float64\[4,3\]. Batch with jax.vmap"),
        (lambda f: f(nn.GRUCell(3), inputs=(4, 2)), ValueError, "unbatched.*Batch with jax.vmap"),
        (lambda f: f(nn.LSTMCell(3), inputs=2, h0=jnp.zeros(3)), ValueError,
         "`cell` must be initialized with such a state"),
        (lambda f: f(Backward(), inputs=(5, 3), h0=jnp.zeros((5, 3))), ValueError,
         "`h0` must be one unbatched state; the cell takes each row for itself"),
        (lambda f: f(nn.GRUCell(3, dtype=jnp.float32), inputs=2), ValueError,
         "`cell` must compute in float64 throughout.*rounds to float32.*dtype=jnp.float64"),
        (lambda f: f(nn.GRUCell(3), inputs=2, dtype=int), TypeError, "`dtype` must be a floating"),
    ],
)  # fmt: skip
def test_misuse_is_refused_in_words(make, kind, message):
    with pytest.raises(kind, match=message):
        make(gh.adapters.from_linen)


def test_a_batch_is_refused_at_every_later_step_too(unchecked_types):
    step, params, _ = gh.adapters.from_linen(nn.GRUCell(3), inputs=2)
    xs = jnp.ones((5, 4, 2))
    with pytest.raises(ValueError, match=r"`h0` must be one unbatched state.*jax.vmap"):
        gh.jacobian_chain(step, params, jnp.zeros((4, 3)), xs)


def test_a_subclass_with_its_own_formula_declares_no_gates():
    class Leaky(nn.GRUCell):
        @nn.compact
        def __call__(self, carry, inputs):
            carry = 0.5 * carry + nn.Dense(self.features)(inputs)
            return carry, carry

    adapted = gh.adapters.from_linen(Leaky(3), inputs=2)
    assert not hasattr(adapted.step, "state_gates")


def test_half_precision_on_request():
    cell = nn.GRUCell(3, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="rounds to bfloat16.*pass dtype=jnp.bfloat16"):
        gh.adapters.from_linen(cell, inputs=2)
    adapted = gh.adapters.from_linen(cell, inputs=2, dtype=jnp.bfloat16)
    assert adapted.h0.dtype == jnp.bfloat16
    assert adapted.step(adapted.params, adapted.h0, jnp.ones(2)).dtype == jnp.bfloat16


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(ImportError, match=r'pip install "gradhorizon\[flax\]"'):
        gh.adapters.from_linen(object())
