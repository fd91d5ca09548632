"""Flax nnx: every cell against `nnx.RNN`, and every trap refused in words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradhorizon as gh
from foreign import HIDDEN, INPUTS, agrees_with_its_library, awake, keeps_by_its_gate, sequence

CELLS = {
    "simple": functools.partial(nnx.SimpleCell, dtype=None),
    "lstm": nnx.LSTMCell,
    "optimized-lstm": nnx.OptimizedLSTMCell,
    "gru": functools.partial(nnx.GRUCell, bias_init=nnx.initializers.normal()),
}


def build(name):
    return CELLS[name](INPUTS, HIDDEN, rngs=nnx.Rngs(0))


def with_params(cell, params):
    """Give a cell with other parameters, in variables of the present trace level."""
    return nnx.merge(nnx.graphdef(cell), jax.tree.map(lambda a: a, params))


def through_rnn(cell, params, h0, xs):
    """Run the library's own loop with cast parameters and give the final carry."""
    cell = with_params(cell, params)
    return nnx.RNN(cell, return_carry=True)(xs, initial_carry=h0)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CELLS)
def test_cells_are_what_the_library_runs(name, dtype):
    cell = build(name)
    adapted = gh.adapters.from_nnx(cell, dtype=dtype)
    run = functools.partial(through_rnn, cell, adapted.params)
    agrees_with_its_library(adapted, run, sequence(dtype))
    assert jax.tree.leaves(nnx.state(cell))[0].dtype == np.float32  # the module is left alone


@pytest.mark.parametrize("name", ["lstm", "optimized-lstm"])
def test_forget_gates(name):
    keeps_by_its_gate(gh.adapters.from_nnx(build(name)), sequence(np.float64)[0])


def test_update_gate_is_the_slope_once_the_gates_stop_looking_at_the_state():
    step, params, h0 = gh.adapters.from_nnx(build("gru"))
    x, start = sequence(np.float64)[0], awake(h0, np.float64)
    still = nnx.to_pure_dict(jax.tree.map(lambda a: a, params))
    seen = start @ still["dense_h"]["kernel"]
    gates = HIDDEN * 2  # the candidate's own product is scaled by r, so that its bias moves by r
    bias = still["dense_i"]["bias"] + seen
    reset = jax.nn.sigmoid(bias + x @ still["dense_i"]["kernel"])[:HIDDEN]
    bias = bias.at[gates:].add((reset - 1) * seen[gates:])
    still["dense_i"]["bias"] = bias
    still["dense_h"]["kernel"] = jnp.zeros_like(still["dense_h"]["kernel"])
    frozen = jax.tree.map(lambda a: a, params)
    nnx.replace_by_pure_dict(frozen, still)
    gate = step.state_gates(params, start, x)["h"]
    np.testing.assert_allclose(
        jax.jacfwd(step, 1)(frozen, start, x), np.diag(gate), rtol=0, atol=1e-15
    )
    np.testing.assert_allclose(step(frozen, start, x), step(params, start, x), atol=1e-15)


def test_steps_of_equal_cells_are_equal_and_rnn_is_unwrapped():
    first = gh.adapters.from_nnx(build("gru"))
    again = gh.adapters.from_nnx(nnx.RNN(CELLS["gru"](INPUTS, HIDDEN, rngs=nnx.Rngs(5))))
    assert first.step == again.step
    assert hash(first.step) == hash(again.step)
    assert first.step != gh.adapters.from_nnx(build("lstm")).step


def test_stacked_cells_feed_each_other():
    low, high = build("lstm"), nnx.GRUCell(HIDDEN, 2, rngs=nnx.Rngs(1))
    adapted = gh.adapters.from_nnx([low, high])

    def run(h0, xs):
        bottom, top = with_params(low, adapted.params[0]), with_params(high, adapted.params[1])
        first, ys = nnx.RNN(bottom, return_carry=True)(xs, initial_carry=h0[0])
        return first, nnx.RNN(top, return_carry=True)(ys, initial_carry=h0[1])[0]

    agrees_with_its_library(adapted, run, sequence(np.float64))


class Own(nnx.Module):
    """A user's module; what it does besides its carry is switched on by name."""

    def __init__(self, extra=""):
        rngs = nnx.Rngs(0)
        self.cell = nnx.GRUCell(INPUTS, HIDDEN, rngs=rngs)
        self.extra = extra
        if extra == "dropout":
            self.drop = nnx.Dropout(0.5, rngs=rngs)
        elif extra == "norm":
            self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        elif extra == "memory":
            self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, carry, x):
        h, n = carry
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            h, out = self.cell(h, x)
            if self.extra == "dropout":
                h = self.drop(h)
            elif self.extra == "norm":
                h = self.norm(h)
            elif self.extra == "memory":
                self.count[...] = self.count[...] + 1
        return (h, n + 1), out


CARRY = (jnp.ones(HIDDEN), 0)


def test_modules_of_your_own_carry_counters_along():
    step, params, h0 = gh.adapters.from_nnx(Own(), INPUTS, h0=CARRY)
    trajectory = gh.unroll(step, params, h0, sequence(np.float64))
    assert int(trajectory.states[1][-1]) == 5
    assert gh.jacobian_chain(step, params, h0, sequence(np.float64)).size == HIDDEN


@pytest.mark.parametrize(
    ("extra", "kind"), [("dropout", "RngCount"), ("norm", "BatchStat"), ("memory", "Variable")]
)
def test_what_changes_besides_the_carry_is_refused_unless_switched_off(extra, kind):
    module, x = Own(extra), sequence(np.float64)[0]
    before = jax.tree.leaves(nnx.state(module, nnx.Not(nnx.Param)))
    wanted = rf"`cell` must change nothing but its carry.*changes {kind}.*cell.eval"
    with pytest.raises(ValueError, match=wanted):
        gh.adapters.from_nnx(module, INPUTS, h0=CARRY)
    after = jax.tree.leaves(nnx.state(module, nnx.Not(nnx.Param)))
    assert all(a is b for a, b in zip(before, after, strict=True))
    if extra == "memory":
        return
    module.eval()
    step, params, h0 = gh.adapters.from_nnx(module, INPUTS, h0=CARRY)
    np.testing.assert_allclose(step(params, h0, x)[0], module(CARRY, x)[0][0], atol=1e-6)


def test_dropout_with_a_fixed_key_is_the_same_at_every_step_and_under_scan():
    step, params, h0 = gh.adapters.from_nnx(
        Own("dropout"), INPUTS, h0=CARRY, noise_key=jax.random.key(3)
    )
    xs = sequence(np.float64)
    states = gh.unroll(step, params, h0, xs).states[0][1:]
    off = np.asarray(states == 0)
    assert off[0].any()
    assert (off == off[0]).all()


def bidirectional():
    rnn = [nnx.RNN(nnx.GRUCell(2, 3, rngs=nnx.Rngs(0))) for _ in range(2)]
    return nnx.Bidirectional(*rnn)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f(nnx.SimpleCell(2, 3, rngs=nnx.Rngs(0))), ValueError,
         "`h0` must keep its dtype through the cell.*float64.*float32.*dtype=jnp.float64"),
        (lambda f: f(bidirectional()), ValueError, "reads the future.*no causal step"),
        (lambda f: f(nnx.RNN(build("gru"), reverse=True)), ValueError, "backward in time"),
        (lambda f: f(nnx.Linear(2, 3, rngs=nnx.Rngs(0))), ValueError, "called with .inputs."),
        (lambda f: f(nnx.GRUCell), TypeError, "`cell` must be a flax.nnx module.*Build it first"),
        (lambda f: f(Own()), ValueError, "`inputs` must be given for Own"),
        (lambda f: f(Own(), 2), ValueError, "`h0` must be given for Own"),
        (lambda f: f(build("gru"), (4, 2)), ValueError, "unbatched.*Batch with jax.vmap"),
        (lambda f: f(build("gru"), h0=jnp.zeros((4, 3))), ValueError, "Batch with jax.vmap"),
        (lambda f: f(build("gru"), 5), ValueError, "`cell` must accept a state"),
    ],
)  # fmt: skip
def test_misuse_is_refused_in_words(make, kind, message):
    with pytest.raises(kind, match=message):
        make(gh.adapters.from_nnx)


def test_the_simple_cell_runs_in_its_own_dtype_on_request():
    cell = nnx.SimpleCell(2, 3, rngs=nnx.Rngs(0))
    adapted = gh.adapters.from_nnx(cell, dtype=np.float32)
    assert adapted.step(adapted.params, adapted.h0, jnp.ones(2)).dtype == np.float32


def test_the_adapter_of_the_other_flax_is_named():
    import flax.linen as nn

    with pytest.raises(TypeError, match="Use gh.adapters.from_nnx"):
        gh.adapters.from_linen(build("gru"))
    with pytest.raises(TypeError, match="Use gh.adapters.from_linen"):
        gh.adapters.from_nnx(nn.GRUCell(3))
