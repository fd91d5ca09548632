"""Advice: the number it names does what it says."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

LAG = 40
CELLS = {
    "lstm": (gh.cells.lstm, "forget_bias"),
    "min_gru": (gh.cells.min_gru, "keep_bias"),
    "cfn": (gh.cells.cfn, "forget_bias"),
}


@pytest.mark.parametrize("name", list(CELLS))
def test_the_bias_that_is_named_lets_the_gradient_reach_the_lag(name):
    make, argument = CELLS[name]
    xs = jnp.zeros((LAG, 2))  # no input: the gates stand where their biases put them
    quiet = {"recurrent_init": gh.inits.identity(0.0)} if name == "lstm" else {}
    loss = (lambda states: jnp.sum(states[0][-1])) if name == "lstm" else None  # on the memory c

    def verdict(bias):
        cell = make(3, 2, **{argument: bias}, **quiet)
        params = cell.init(jax.random.key(0))
        return gh.diagnose(cell.step, params, cell.initial_state(), xs, loss=loss)

    before = verdict(-1.0)
    assert str(before.regime) == "VANISHING"
    sentence = next(s for s in before.advice if f"`{argument}`" in s)
    bias = float(re.search(r"a bias of about (-?\d+\.\d+)", sentence)[1])
    np.testing.assert_allclose(bias, np.log(1 / np.expm1(np.log(1e3) / LAG)), atol=0.006)
    assert str(verdict(bias + 0.02).regime) == "BALANCED"


def test_cells_of_other_libraries_are_told_of_their_gate():
    step, params, h0 = gh.adapters.from_equinox(eqx.nn.GRUCell(2, 3, key=jax.random.key(0)))
    diagnosis = gh.diagnose(step, params, h0, jnp.ones((LAG, 2)))
    assert any(s.startswith("Let the gate keep more, through its bias") for s in diagnosis.advice)
