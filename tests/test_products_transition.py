"""ln ‖Φ(T, T-k)‖₂ for every lag, against explicit products and exact growth."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

EPS = np.finfo(float).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_norm_of_explicit_products(dtype):
    J = np.random.default_rng(0).normal(size=(12, 5, 5)).astype(dtype)
    product, expected = np.eye(5), [0.0]
    for matrix in J.astype(float)[::-1]:
        product = product @ matrix
        expected.append(np.log(np.linalg.norm(product, 2)))
    ours = gh.transition_norms(J)
    assert ours.dtype == dtype
    assert np.max(np.abs(np.asarray(ours, float) - expected)) <= 1000 * np.finfo(dtype).eps


def test_order_of_factors_matters():
    """σ_max(J_2 J_1) = (√41 + 5)/4; reversed it would be (√26 + √10)/4."""
    J = jnp.array([[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.5]]])
    assert abs(gh.transition_norms(J)[2] - np.log((np.sqrt(41) + 5) / 4)) <= 10 * EPS


def test_growth_that_is_undone_in_one_direction_is_not_lost():
    """Hourglass: D^h, a rotation, D^-h. A rescaled product loses everything but rounding."""
    n, half = 6, 200
    D = np.diag(np.linspace(0.5, 2.0, n))
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))[0]
    J = np.concatenate(
        [np.broadcast_to(D, (half, n, n)), Q[None], np.broadcast_to(np.linalg.inv(D), (half, n, n))]
    )
    ours = gh.transition_norms(J)
    singular = gh.singular_spectrum(J, lags=[half, half + 1, 2 * half + 1])
    bars = np.asarray(singular.error_bars[:, 0])
    expected = np.asarray(singular.log_values[:, 0])
    got = np.asarray(ours)[[half, half + 1, 2 * half + 1]]
    assert np.all(np.abs(got - expected) <= bars)
    assert abs(got[0] - half * np.log(2.0)) <= 1e-10


def test_far_beyond_the_range_of_floats():
    J = np.broadcast_to(np.diag([1e-3, 1e-5]).astype(np.float32), (2000, 2, 2))
    norms = np.asarray(gh.transition_norms(J), float)
    expected = np.arange(2001) * np.log(np.float32(1e-3).astype(float))
    assert np.all(np.abs(norms - expected) <= 10 * np.finfo(np.float32).eps * (1 - expected))


def test_nilpotent_product_is_exactly_zero():
    shift = np.broadcast_to(np.eye(4, k=1), (6, 4, 4))
    norms = gh.transition_norms(shift)
    assert np.max(np.abs(norms[:4])) <= 10 * EPS
    assert np.all(norms[4:] == -np.inf)


def test_bounds_every_gradient():
    J = np.random.default_rng(2).normal(size=(40, 6, 6)) / 2
    norms = np.asarray(gh.transition_norms(J))
    for seed in range(5):
        u = np.random.default_rng(seed).normal(size=6)
        assert np.all(np.asarray(gh.backpropagate(J, u).by_lag) <= norms + 1e-12)
