"""A two-unit LSTM without input that is chaotic (Laurent & von Brecht 2016).

Weights as quoted from the paper; no biases. Its state (c, h) has four numbers. No closed form is
known: the exponents are compared with plain NumPy QR of Jacobians written out by hand.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

GATES = {
    "i": [[-1.0, -4.0], [-3.0, -2.0]],
    "f": [[-2.0, 6.0], [0.0, -6.0]],
    "g": [[-1.0, -6.0], [6.0, -9.0]],
    "o": [[4.0, 1.0], [-9.0, -7.0]],
}
STARTS = [((0.0, 0.0), (0.2, 0.3)), ((0.5, -0.2), (-0.4, 0.1)), ((-1.0, 1.0), (0.6, -0.7))]
LENGTH, LEFT_OUT = 31_000, 1000


def network(dtype=np.float64):
    cell = gh.cells.lstm(2, 0, forget_bias=0.0, dtype=dtype)
    W = np.concatenate([GATES[gate] for gate in "ifgo"]).astype(dtype)
    return cell.step, {"W": jnp.asarray(W), "b": jnp.zeros(8, dtype)}


def numpy_jacobian(c, h):
    """Write out ∂(c', h')/∂(c, h) at one state, with c' = f c + i g and h' = o tanh c'."""
    i, f, o = (1 / (1 + np.exp(-np.array(GATES[gate]) @ h)) for gate in "ifo")
    g = np.tanh(np.array(GATES["g"]) @ h)
    through = (
        np.diag(f * (1 - f) * c) @ GATES["f"]
        + np.diag(i * (1 - i) * g) @ GATES["i"]
        + np.diag(i * (1 - g**2)) @ GATES["g"]
    )
    memory = np.hstack([np.diag(f), through])
    later = f * c + i * g
    slope = np.diag(o / np.cosh(later) ** 2)
    crossing = np.diag(o * (1 - o) * np.tanh(later)) @ GATES["o"]
    output = slope @ memory + np.hstack([np.zeros((2, 2)), crossing])
    return np.vstack([memory, output]), later, o * np.tanh(later)


def numpy_exponents(start, length, left_out):
    """Follow orbit and frame in NumPy, one Householder QR per step."""
    c, h = (np.array(part) for part in start)
    frame, sums = np.eye(4), np.zeros(4)
    for t in range(length):
        J, c, h = numpy_jacobian(c, h)
        frame, R = np.linalg.qr(J @ frame)
        if t >= left_out:
            sums += np.log(np.abs(np.diag(R)))
    return sums / (length - left_out)


@pytest.fixture(scope="module")
def spectra():
    step, params = network()
    found = []
    for start in STARTS:
        h0 = tuple(jnp.asarray(part) for part in start)
        chain = gh.jacobian_chain(step, params, h0, length=LENGTH)
        found.append(gh.lyapunov_spectrum(chain, burn_in=LEFT_OUT))
    return found


def test_the_weights_give_the_published_chaos(spectra):
    for spectrum in spectra:
        assert abs(spectrum.exponents[0] - 0.169) <= 0.004
        errors = 4 * np.asarray(spectrum.standard_errors) + 0.005  # references have three digits
        distance = np.asarray(spectrum.exponents) - [0.169, -0.384, -1.676, -4.62]
        assert np.all(np.abs(distance) <= errors)
        assert spectrum.converged


def test_plain_numpy_finds_the_same_exponents(spectra):
    """Orbits part by rounding after some 200 steps; what agrees are the averages."""
    expected = numpy_exponents(STARTS[0], 21_000, 1000)
    ours = spectra[0]
    error = 4 * np.asarray(ours.standard_errors) * np.sqrt(1 + 30 / 20)
    assert np.all(np.abs(ours.exponents - expected) <= error)


def test_jacobians_are_those_written_out_by_hand():
    step, params = network()
    h0 = tuple(jnp.asarray(part) for part in STARTS[1])
    chain = gh.jacobian_chain(step, params, h0, length=60)
    c, h = (np.array(part) for part in STARTS[1])
    for J in np.asarray(chain.matrices()):
        expected, later, out = numpy_jacobian(c, h)
        # the states themselves part like e^(0.17 t) from a rounding error
        assert np.max(np.abs(J - expected)) <= 1e-9
        c, h = later, out


def test_short_products_grow_as_numpy_says():
    """Sums of ln R_ii over 60 steps, before the orbits part."""
    step, params = network()
    h0 = tuple(jnp.asarray(part) for part in STARTS[2])
    chain = gh.jacobian_chain(step, params, h0, length=60)
    found = gh.lyapunov_spectrum(chain).exponents
    expected = np.sort(numpy_exponents(STARTS[2], 60, 0))[::-1]
    assert np.max(np.abs(found - expected)) <= 1e-8


def test_the_gradient_explodes_though_every_state_is_bounded():
    step, params = network()
    h0 = tuple(jnp.asarray(part) for part in STARTS[0])
    states = gh.unroll(step, params, h0, length=300).states
    assert float(jnp.max(jnp.abs(states[1]))) < 1
    cotangent = (jnp.ones(2), jnp.ones(2))
    chain = gh.jacobian_chain(step, params, h0, length=300)
    profile = gh.backpropagate(chain, cotangent)
    rate = float(profile.log_norms[0] - profile.log_norms[-1]) / 300
    assert abs(rate - 0.169) <= 0.12  # 300 steps of a rate that scatters by 0.6 a step
