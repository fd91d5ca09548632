"""Haiku: every core against `hk.dynamic_unroll`, and every trap refused in words."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from foreign import HIDDEN, INPUTS, agrees_with_its_library, awake, keeps_by_its_gate, sequence

CORES = {
    "vanilla": lambda: hk.VanillaRNN(HIDDEN),
    "vanilla-one-bias": lambda: hk.VanillaRNN(HIDDEN, double_bias=False),
    "lstm": lambda: hk.LSTM(HIDDEN),
    "gru": lambda: hk.GRU(HIDDEN, b_init=hk.initializers.RandomNormal()),
    "deep": lambda: hk.DeepRNN([hk.LSTM(HIDDEN), jnp.tanh, hk.GRU(2)]),
}


def unrolled(build, params):
    """Run the library's own loop and give the final state."""
    net = hk.transform(lambda xs, h0: hk.dynamic_unroll(build(), xs, h0)[1])
    return lambda h0, xs: net.apply(params, None, xs, h0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CORES)
def test_cores_are_what_the_library_runs(name, dtype):
    adapted = gh.adapters.from_haiku(CORES[name], inputs=INPUTS, dtype=dtype)
    run = unrolled(CORES[name], adapted.params)
    agrees_with_its_library(adapted, run, sequence(dtype))


def test_the_state_stays_hidden_cell_and_its_gates_are_named():
    adapted = gh.adapters.from_haiku(CORES["lstm"], inputs=INPUTS)
    assert adapted.h0._fields == ("hidden", "cell")
    x = sequence(np.float64)[0]
    assert list(adapted.step.state_gates(adapted.params, adapted.h0, x)) == ["h", "c"]
    keeps_by_its_gate(adapted, x)


def test_the_gru_keeps_the_share_one_minus_z():
    """With a candidate that is zero, h' = (1 - z) h: the kept share can be read off."""
    step, params, h0 = gh.adapters.from_haiku(CORES["gru"], inputs=INPUTS)
    zeroed = {"gru": {k: v.at[..., 2 * HIDDEN :].set(0) for k, v in params["gru"].items()}}
    state, x = awake(h0, np.float64), sequence(np.float64)[0]
    kept = step.state_gates(zeroed, state, x)["h"]
    np.testing.assert_allclose(step(zeroed, state, x), kept * state, rtol=1e-14)
    np.testing.assert_array_equal(kept, step.state_gates(params, state, x)["h"])


@pytest.mark.parametrize("name", ["vanilla", "lstm", "gru"])
def test_input_sizes_are_read_off_the_parameters(name):
    first = gh.adapters.from_haiku(CORES[name], inputs=INPUTS)
    again = gh.adapters.from_haiku(CORES[name], first.params)
    assert again.step == first.step
    assert hash(again.step) == hash(first.step)


def test_every_form_that_users_hold():
    h0, x = hk.LSTMState(jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)), sequence(np.float64)[0]

    def function(x, state):
        return hk.LSTM(HIDDEN)(x, state)

    net = hk.transform(function)
    params = net.init(jax.random.key(1), x, h0)
    expected = net.apply(params, None, x, h0)[1]
    forms = [
        (function, {"h0": h0}), (net, {"h0": h0}), (hk.without_apply_rng(net), {"h0": h0}),
        (hk.transform_with_state(function), {"h0": h0}), (functools.partial(hk.LSTM, HIDDEN), {}),
        (lambda: [hk.LSTM(HIDDEN)], {"h0": (h0,)}),
    ]  # fmt: skip
    for form, settings in forms:
        step, weights, start = gh.adapters.from_haiku(form, params, INPUTS, **settings)
        got = jax.tree.leaves(step(weights, start, x))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_reset_core_takes_its_pair_of_inputs():
    def core():
        return hk.ResetCore(hk.GRU(HIDDEN))

    example = (jnp.zeros(INPUTS), jnp.asarray(False))
    step, params, h0 = gh.adapters.from_haiku(core, inputs=example)
    xs = (sequence(np.float64), jnp.arange(5) == 3)
    chain = gh.jacobian_chain(step, params, awake(h0, np.float64), xs)
    alive = np.any(np.asarray(chain.matrices()), axis=(1, 2))
    assert alive.tolist() == [True, True, True, False, True]  # a reset forgets everything


def noisy(x, state):
    state, _ = hk.GRU(HIDDEN)(x, state)
    with jax.numpy_dtype_promotion("standard"):
        return state, hk.dropout(hk.next_rng_key(), 0.5, state)


def normed(x, state, *, training):
    _, state = hk.GRU(HIDDEN)(x, state)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = hk.BatchNorm(True, True, 0.9)(state[None], is_training=training)[0]
    return state, state


def test_dropout_needs_a_key_and_batch_norm_its_evaluation_mode():
    h0, x = jnp.ones(HIDDEN), sequence(np.float64)[0]
    with pytest.raises(ValueError, match=r"`cell` must be deterministic.*noisy.*noise_key"):
        gh.adapters.from_haiku(noisy, inputs=INPUTS, h0=h0)
    key = jax.random.key(3)
    step, params, _ = gh.adapters.from_haiku(noisy, inputs=INPUTS, h0=h0, noise_key=key)
    expected = hk.transform(noisy).apply(params, key, x, h0)[1]
    for _ in range(2):
        np.testing.assert_array_equal(step(params, h0, x), expected)

    train = hk.transform_with_state(functools.partial(normed, training=True))
    still = hk.transform_with_state(functools.partial(normed, training=False))
    params, state = train.init(key, x, h0)
    with pytest.raises(ValueError, match=r"leave Haiku's own state as it is.*is_training=False"):
        gh.adapters.from_haiku(train, params, INPUTS, state=state, h0=h0)
    with pytest.raises(ValueError, match=r"`state` must hold what the cell asks for"):
        gh.adapters.from_haiku(still, params, INPUTS, h0=h0)
    adapted = gh.adapters.from_haiku(still, params, INPUTS, state=state, h0=h0)
    (expected, _), _ = still.apply(params, state, None, x, h0)
    np.testing.assert_allclose(adapted.step(adapted.params, h0, x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f(lambda xs: xs, inputs=2), ValueError, "called with .xs.*no causal step"),
        (lambda f: f(3), TypeError, "`cell` must be a function. Received int"),
        (lambda f: f(CORES["gru"]), ValueError, "`inputs` must be given"),
        (lambda f: f(CORES["gru"], 2), TypeError, "`params` must be a dictionary"),
        (lambda f: f(CORES["lstm"], {"a": {"w": jnp.ones(2)}}, 2), ValueError,
         "`params` must hold what the cell asks for"),
        (lambda f: f(lambda x, state: (x, state), inputs=2), ValueError, "`h0` must be given"),
        (lambda f: f(CORES["gru"], inputs=(4, 2)), ValueError, "unbatched.*jax.vmap"),
        (lambda f: f(CORES["gru"], inputs=2, h0=jnp.zeros((4, 3))), ValueError, "jax.vmap"),
    ],
)  # fmt: skip
def test_misuse_is_refused_in_words(make, kind, message):
    with pytest.raises(kind, match=message):
        make(gh.adapters.from_haiku)
