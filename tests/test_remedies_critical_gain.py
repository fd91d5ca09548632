"""The critical gain against linear networks, whose exponent is ln(gain × spectral radius)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh


def linear(W, h, x):
    return W @ h


def orthogonal(n, seed=0):
    return gh.inits.orthogonal()(jax.random.key(seed), (n, n), np.float64)


def test_of_a_linear_network_is_one_over_the_spectral_radius():
    """A symmetric matrix: burn-in aligns the tangent, and nothing of O(1/T) is left."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    W = basis @ np.diag([1.7, 0.9, 0.5, -0.4, 0.2, 0.1]) @ basis.T
    found = gh.remedies.critical_gain(
        lambda gain: gain * W, linear, np.ones(6), length=2000, tolerance=1e-6
    )
    # the first 100 steps align the tangent to (0.9/1.7)^100 = 1e-28
    assert abs(found.gain * 1.7 - 1) <= 2e-6
    assert abs(float(found.exponent)) <= 2e-6
    assert found.status == gh.Status.OK


def test_of_an_orthogonal_matrix_is_one():
    """Every tangent keeps its length, at any T."""
    Q = orthogonal(5)
    found = gh.remedies.critical_gain(
        lambda gain: gain * Q, linear, jnp.ones(5), length=30, tolerance=1e-10
    )
    assert abs(found.gain - 1) <= 2e-10


def test_for_another_target():
    Q = orthogonal(5)
    found = gh.remedies.critical_gain(
        lambda gain: gain * Q, linear, jnp.ones(5), target=-0.3, length=60
    )
    assert abs(np.log(found.gain) + 0.3) <= 2e-4


def test_of_untied_layers_is_one_over_their_geometric_mean():
    """J_t = g s_t Q_t with orthogonal Q_t: the exponent is ln g + mean ln s_t after burn-in."""
    scales = np.exp(np.random.default_rng(0).normal(size=40))
    layers = jnp.stack([s * orthogonal(3, seed) for seed, s in enumerate(scales)])
    found = gh.remedies.critical_gain(
        lambda gain: gain * layers, linear, jnp.ones(3), tied=False, tolerance=1e-8
    )
    assert abs(np.log(found.gain) + np.log(scales[4:]).mean()) <= 2e-8


def test_of_a_driven_tanh_network_balances_it():
    W = gh.inits.gaussian()(jax.random.key(1), (24, 24), np.float64)
    xs = 0.5 * jax.random.normal(jax.random.key(2), (600, 24))

    def step(W, h, x):
        return jnp.tanh(W @ h + x)

    found = gh.remedies.critical_gain(lambda g: g * W, step, jnp.zeros(24), xs)
    # inputs saturate the units, and spectral radius 1 is not enough
    assert found.gain > 1 / np.abs(np.linalg.eigvals(W)).max()
    assert found.evaluations < 40
    spectrum = gh.lyapunov_spectrum(
        gh.jacobian_chain(step, found.gain * W, jnp.zeros(24), xs), 1, burn_in=60
    )
    exponent = float(spectrum.exponents[0])
    assert abs(exponent - float(found.exponent)) <= 1e-12
    # the gain is found to 1e-4; how steep the exponent is there, chaos decides
    assert found.status == gh.Status.OK
    assert abs(exponent) <= 1e-3 + 4 * float(found.standard_error)


def test_in_float32():
    Q = orthogonal(4).astype(np.float32)
    found = gh.remedies.critical_gain(
        lambda gain: gain * Q, linear, jnp.ones(4, np.float32), length=30
    )
    assert found.exponent.dtype == np.float32
    assert abs(found.gain - 1) <= 2e-4


def test_a_state_that_overflows_means_too_large_a_gain():
    """h grows like (1.1 g)^T and overflows below the bracket's end: 8^400 > 1.8e308."""
    found = gh.remedies.critical_gain(
        lambda gain: gain * 1.1 * jnp.eye(2), linear, jnp.ones(2), length=400, bracket=(0.1, 8.0)
    )
    assert abs(np.log(1.1 * found.gain)) <= 2e-4


def test_a_jump_past_the_target_is_reported():
    """λ = ln g - 1 below g = 2 and ln g + 1 above it: 0.7 is never reached."""
    Q = orthogonal(2)

    def make_params(gain):
        return gain * np.exp(-1.0 if gain < 2 else 1.0) * Q

    found = gh.remedies.critical_gain(
        make_params, linear, jnp.ones(2), target=0.7, length=50, bracket=(1.0, 3.0)
    )
    assert abs(np.log(found.gain / 2)) <= 2e-4
    assert found.status == gh.Status.NOT_CONVERGED


def search(**changes):
    settings = {"length": 20, "bracket": (0.5, 3.0), **changes}
    Q = orthogonal(3)
    return gh.remedies.critical_gain(lambda g: g * Q, linear, jnp.ones(3), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bracket": (2.0, 4.0)},
            r"`bracket` must enclose the target 0\. "
            r"Received exponent 0\.6931 at 2 and exponent 1\.386 at 4\. Widen it",
        ),
        ({"bracket": (3.0, 2.0)}, "`bracket` must be two increasing positive gains"),
        ({"bracket": (0.0, 2.0)}, "`bracket` must be two increasing positive gains"),
        ({"target": np.nan}, "`target` must be finite"),
        ({"tolerance": 0.0}, r"`tolerance` must lie in \[1e-12, 1\)"),
        ({"length": 0}, "`length` must be at least 1"),
    ],
)
def test_misuse_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        search(**changes)


def test_a_bracket_that_only_overflows_is_refused():
    with pytest.raises(ValueError, match="Received a state that overflows at 10 and a state"):
        search(length=400, bracket=(10.0, 20.0))
