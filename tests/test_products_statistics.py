"""Dimension, entropy and their errors against closed forms; the gradient and its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

import gradhorizon as gh


def constant(exponents, steps=200):
    return np.broadcast_to(np.diag(np.exp(exponents)), (steps, len(exponents), len(exponents)))


@pytest.mark.parametrize(
    ("exponents", "dimension", "entropy"),
    [
        ([1.0, 0.5, -2.0], 2.75, 1.5),
        ([0.25, 0.0, -0.5], 2.5, 0.25),
        ([-0.1, -0.2], 0.0, 0.0),
        ([0.3, 0.2, 0.1], 3.0, 0.6),
        ([0.5, -1.0, -3.0], 1.5, 0.5),
    ],
)
def test_of_constant_growth(exponents, dimension, entropy):
    spectrum = gh.lyapunov_spectrum(constant(exponents))
    assert abs(float(spectrum.kaplan_yorke_dimension.value) - dimension) <= 1e-12
    assert abs(float(spectrum.entropy_rate.value) - entropy) <= 1e-12
    assert float(spectrum.kaplan_yorke_dimension.standard_error) <= 1e-12
    assert float(spectrum.entropy_rate.standard_error) <= 1e-12


def test_dimension_needs_enough_exponents():
    spectrum = gh.lyapunov_spectrum(constant([0.5, 0.4, -2.0], 1000), 2, burn_in=500)
    assert np.isnan(spectrum.kaplan_yorke_dimension.value)
    assert np.isnan(spectrum.kaplan_yorke_dimension.standard_error)
    # a random frame of two is aligned to e^(-0.1 · 500) after the burn-in
    assert abs(float(spectrum.entropy_rate.value) - 0.9) <= 1e-12


def test_dead_directions_do_not_spoil_the_dimension():
    J = np.broadcast_to(np.diag([2.0, 0.5, 0.0]), (100, 3, 3))
    dimension = gh.lyapunov_spectrum(J).kaplan_yorke_dimension
    assert abs(float(dimension.value) - 2.0) <= 1e-12
    assert float(dimension.standard_error) <= 1e-12


def test_errors_of_gaussian_products_are_those_of_newman():
    """R_ii are independent: Var λ_i = ψ'((n-i+1)/2)/4 per step, weights as in the sums."""
    n, steps = 3, 20_000
    J = jax.random.normal(jax.random.key(3), (steps, n, n))
    spectrum = gh.lyapunov_spectrum(J)
    half = (n - np.arange(n)) / 2
    exact = (np.log(2) + digamma(half)) / 2
    variance = polygamma(1, half) / 4 / steps
    assert exact[1] > 0 > exact[2]
    j, last = 2, -exact[2]
    entropy, total = exact[:2].sum(), exact[:2].sum()
    checks = (
        (spectrum.entropy_rate, entropy, np.array([1.0, 1.0, 0.0])),
        (
            spectrum.kaplan_yorke_dimension,
            j + total / last,
            np.array([1 / last, 1 / last, total / last**2]),
        ),
    )
    for estimate, value, weights in checks:
        error = np.sqrt(np.sum(weights**2 * variance))
        assert abs(float(estimate.value) - value) < 4 * error
        # 32 windows: the estimate of the error has relative sd 1/√62
        assert abs(float(estimate.standard_error) / error - 1) < 4 / np.sqrt(62)


def test_henon_map():
    """Exponents 0.41922 and -1.62319, dimension 1.25827 (Sprott 2003)."""

    def henon(_, h, x):
        return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    chain = gh.jacobian_chain(henon, (), jnp.array([0.1, 0.1]), length=20_000)
    dimension = gh.lyapunov_spectrum(chain, state_burn_in=100).kaplan_yorke_dimension
    assert abs(float(dimension.value) - 1.25827) <= 4 * float(dimension.standard_error)
    assert float(dimension.standard_error) < 0.01


def network(gain, n=6):
    W = gain * np.random.default_rng(1).normal(size=(n, n)) / np.sqrt(n)
    return lambda p, h, x: jnp.tanh(p["W"] @ h + x), {"W": W}, np.full(n, 0.1)


@pytest.mark.parametrize(("k", "weights"), [(1, None), (3, [1.0, -0.5, 2.0])])
def test_gradient_against_central_differences(k, weights):
    step, params, h0 = network(1.0)
    xs = np.random.default_rng(2).normal(size=(40, 6))
    result = gh.lyapunov_gradient(step, params, h0, xs, k=k, weights=weights)
    assert result.status == gh.Status.OK
    direction = np.random.default_rng(3).normal(size=(6, 6))

    def value(s):
        chain = gh.jacobian_chain(step, {"W": params["W"] + s * direction}, h0, xs)
        exponents = gh.lyapunov_spectrum(chain, k, orthonormalize_every=1).exponents
        return float(np.sum(np.asarray(weights or [1.0]) * exponents))

    small = 1e-5  # truncation h², rounding eps/h: 1e-10 either way, times the third derivative
    slope = (value(small) - value(-small)) / (2 * small)
    assert abs(float(np.sum(result.gradient["W"] * direction)) - slope) <= 1e-6 * max(1, abs(slope))
    assert abs(float(result.value) - value(0.0)) <= 1e-11


def test_gradient_beyond_its_horizon_is_refused_by_name():
    step, params, h0 = network(4.0, n=24)
    with pytest.raises(gh.NumericalError, match="perturbations must grow by less than e\\^18"):
        gh.lyapunov_gradient(step, params, h0, np.zeros((600, 24)))
    result = gh.lyapunov_gradient(step, params, h0, np.zeros((600, 24)), throw=False)
    assert result.status == gh.Status.UNRESOLVED
    # λ_1 T, up to its fluctuation
    assert float(result.amplification) > 0.8 * 600 * float(result.value)
    short = gh.lyapunov_gradient(step, params, h0, np.zeros((20, 24)))
    assert float(short.amplification) < float(short.limit)


def test_gradient_of_a_dead_network_is_refused():
    with pytest.raises(gh.NumericalError, match="derivative of the exponents must be finite"):
        gh.lyapunov_gradient(lambda w, h, x: w * h, 0.0, 1.0, length=5)
    with pytest.raises(ValueError, match="`weights` must have k = 2 entries"):
        gh.lyapunov_gradient(lambda w, h, x: w * h, 0.5, np.ones(2), length=5, k=2, weights=[1.0])


def test_gradient_counts_what_the_states_amplify_during_the_burn_in():
    logistic = lambda r, h, x: r * h * (1 - h)  # noqa: E731
    with pytest.raises(gh.NumericalError, match="must grow by less than"):
        gh.lyapunov_gradient(logistic, 3.9, 0.3, length=60, burn_in=45)
