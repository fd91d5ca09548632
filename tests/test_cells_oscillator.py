"""coRNN: both discretizations by hand, volume, free oscillators, and the flow it approximates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from cases import case

EPS = np.finfo(float).eps
STILL = gh.inits.gaussian(0.0)


@pytest.mark.parametrize("damping", ["implicit", "explicit"])
def test_one_step_by_hand(damping):
    dt, gamma, epsilon = 0.3, 1.7, 0.9
    cell = gh.cells.cornn(3, 2, dt=dt, gamma=gamma, epsilon=epsilon, damping=damping)
    params = {**cell.init(jax.random.key(0)), "b": jnp.array([0.1, -0.2, 0.3])}
    p = {k: np.asarray(v) for k, v in params.items()}
    y, z, x = np.array([0.5, -1.0, 2.0]), np.array([0.3, 0.2, -0.4]), np.array([1.0, -1.0])
    push = np.tanh(p["W"] @ y + p["V"] @ z + p["U"] @ x + p["b"]) - gamma * y
    if damping == "implicit":  # z' + dt ε z' = z + dt push
        later = np.linalg.solve((1 + dt * epsilon) * np.eye(3), z + dt * push)
    else:
        later = z + dt * push - dt * epsilon * z
    ours = cell.step(params, (jnp.asarray(y), jnp.asarray(z)), jnp.asarray(x))
    assert np.max(np.abs(ours[1] - later)) <= 10 * EPS
    assert np.max(np.abs(ours[0] - (y + dt * later))) <= 10 * EPS


@pytest.mark.parametrize(
    ("damping", "epsilon", "factor"),
    [("implicit", 0.8, 1 / 1.4), ("explicit", 0.8, 0.6), ("implicit", 0.0, 1.0)],
)
def test_volume_changes_by_the_damping_alone(damping, epsilon, factor):
    """V = 0: det J_t is (1 + ε dt)^-n or (1 - ε dt)^n at every state; 1 without damping."""
    cell = gh.cells.cornn(4, 2, dt=0.5, epsilon=epsilon, damping=damping)
    params = cell.init(jax.random.key(0))
    params = {**params, "V": jnp.zeros((4, 4)), "W": 3 * params["W"]}
    xs = jax.random.normal(jax.random.key(1), (30, 2))
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    for J in np.asarray(chain.matrices()):
        assert abs(np.linalg.det(J) - factor**4) <= 1e-13
    total = gh.lyapunov_spectrum(chain).exponents.sum()
    assert abs(float(total) - 4 * np.log(factor)) <= 1e-12


@pytest.mark.parametrize("gamma", [4.0, 0.01])
def test_free_oscillators_have_the_exponents_of_their_two_by_two_map(gamma):
    """Underdamped: both -ln(1 + ε dt)/2. Overdamped: the two real eigenvalues."""
    dt, epsilon = 0.1, 0.5
    cell = gh.cells.cornn(
        2, 0, dt=dt, gamma=gamma, epsilon=epsilon, activation="identity", recurrent_init=STILL
    )
    chain = gh.jacobian_chain(
        cell.step, cell.init(jax.random.key(0)), cell.initial_state(), length=4000
    )
    d = 1 / (1 + epsilon * dt)
    one = np.array([[1 - dt**2 * gamma * d, dt * d], [-dt * gamma * d, d]])
    exact = np.log(np.abs(np.linalg.eigvals(one)))
    if gamma == 4.0:
        assert np.allclose(exact, np.log(d) / 2, rtol=1e-12)
    exact = np.sort(np.repeat(exact, 2))[::-1]
    found = gh.lyapunov_spectrum(chain, burn_in=2000).exponents
    assert np.max(np.abs(found - exact)) <= 2e-3  # O(1/T)
    assert abs(float(found.sum()) - 2 * np.log(d)) <= 1e-12


@pytest.mark.parametrize("damping", ["implicit", "explicit"])
def test_steps_approach_the_damped_oscillation_to_first_order(damping):
    """y(t) = e^(-εt/2) (cos ωt + ε/(2ω) sin ωt) from y = 1, y' = 0; the error halves with dt."""
    gamma, epsilon, end = 2.0, 0.4, 3.0
    omega = np.sqrt(gamma - epsilon**2 / 4)
    swing = np.cos(omega * end) + epsilon / (2 * omega) * np.sin(omega * end)
    exact = np.exp(-epsilon * end / 2) * swing
    errors = []
    for steps in (200, 400, 800):
        cell = gh.cells.cornn(
            1, 0, dt=end / steps, gamma=gamma, epsilon=epsilon, damping=damping,
            activation="identity", recurrent_init=STILL,
        )  # fmt: skip
        start = (jnp.ones(1), jnp.zeros(1))
        states = gh.unroll(cell.step, cell.init(jax.random.key(0)), start, length=steps).states
        errors.append(abs(float(states[0][-1, 0]) - exact))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(orders - 1) <= 0.05), orders


def test_positions_are_what_a_layer_above_reads():
    network = case("cornn")
    assert network.step.output(network.params, network.h0, None) is network.h0[0]


@pytest.mark.usefixtures("unchecked_types")
def test_errors_name_argument_and_remedy():
    with pytest.raises(ValueError, match="`dt` must be positive. Received 0"):
        gh.cells.cornn(3, 1, dt=0.0)
    with pytest.raises(ValueError, match="`epsilon` must be at least 0. Received -1"):
        gh.cells.cornn(3, 1, epsilon=-1.0)
    with pytest.raises(ValueError, match="`gamma` must be at least 0. Received nan"):
        gh.cells.cornn(3, 1, gamma=float("nan"))
    with pytest.raises(ValueError, match="`damping` must be 'implicit' or 'explicit'"):
        gh.cells.cornn(3, 1, damping="none")
    cell = gh.cells.cornn(3, 1)
    with pytest.raises(ValueError, match=r"`h0` must be the pair \(y, z\)"):
        gh.unroll(cell.step, cell.init(jax.random.key(0)), jnp.zeros(3), jnp.zeros((4, 1)))
