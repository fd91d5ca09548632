"""The chaos-free network falls to zero without inputs; its exponents are those of the biases."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

import gradhorizon as gh
from cases import case

EPS = np.finfo(float).eps
sigmoid = scipy.special.expit


def silent(seed=0, gain=3.0):
    """Five units with strong weights, scattered forget biases and no inputs."""
    cell = gh.cells.cfn(
        5, 0, forget_bias=jnp.array([2.5, -1.0, 0.3, 1.4, -2.0]),
        recurrent_init=gh.inits.gaussian(gain),
    )  # fmt: skip
    return cell, cell.init(jax.random.key(seed))


def log_theta(params):
    return np.sort(-np.logaddexp(0, -np.asarray(params["b"])[:5]))[::-1]


def test_one_step_by_hand():
    network = case("cfn")
    p = {k: np.asarray(v) for k, v in network.params.items()}
    h, x = np.asarray(network.h0), np.asarray(network.xs[0])
    theta, eta = np.split(sigmoid(p["W"] @ h + p["U"] @ x + p["b"]), 2)
    exact = theta * np.tanh(h) + eta * np.tanh(p["V"] @ x)
    assert p["b"].tolist() == [1.0] * 4 + [-1.0] * 4
    later = network.step(network.params, network.h0, network.xs[0])
    assert np.max(np.abs(later - exact)) <= 8 * EPS


def test_the_gate_is_the_derivative_at_what_the_weights_see():
    """Biases move so that W (h + v) + b stays W h + b: what is left is θ tanh'(h)."""
    network = case("cfn")
    h, x, b = 3 * network.h0, network.xs[0], network.params["b"]

    def moved(v):
        return network.step({**network.params, "b": b - network.params["W"] @ v}, h + v, x)

    full = jax.jacfwd(moved)(jnp.zeros_like(h))
    gates = network.step.state_gates(network.params, h, x)
    assert np.allclose(full, np.diag(gates["h"]), rtol=1e-13, atol=1e-15)


def test_at_rest_the_exponents_are_the_logarithms_of_the_forget_gates():
    cell, params = silent()
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), length=200)
    found = gh.singular_spectrum(chain).log_values / 200
    assert np.max(np.abs(found - log_theta(params))) <= 1e-12


def test_every_state_falls_to_rest_whatever_the_weights():
    """|h'_i| < |h_i|, hence no chaos: λ_1 = max ln θ_i < 0 after the fall."""
    cell, params = silent(seed=1, gain=20.0)
    start = 3 * jax.random.normal(jax.random.key(2), (5,))
    states = np.abs(gh.unroll(cell.step, params, start, length=60).states)
    assert np.all(states[1:] < states[:-1])
    chain = gh.jacobian_chain(cell.step, params, start, length=4000)
    spectrum = gh.lyapunov_spectrum(chain, burn_in=2000)
    assert np.max(np.abs(spectrum.exponents - log_theta(params))) <= 1e-3  # 1/T: alignment
    assert spectrum.exponents[0] < 0
