"""Moments of slopes and the spread of singular values, against closed forms and matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradhorizon.theory import isometry, mean_field


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_erf_slope_moments(q, power):
    """φ'^{2k} = (4/π)^k exp(-2k u²), so μ_k = (4/π)^k/√(1 + 4kq)."""
    exact = (4 / np.pi) ** power / np.sqrt(1 + 4 * power * q)
    assert abs(float(isometry.slope_moment("erf", q, power)) - exact) <= 1e-13


def test_first_moment_is_the_susceptibility():
    for activation in ("tanh", "sigmoid", "hard_tanh", jnp.tanh):
        ours = 1.7 * float(isometry.slope_moment(activation, 0.8, 1))
        chi = float(mean_field.susceptibility(activation, 1.7, 0.8))
        assert abs(ours - chi) <= 1e-15


def test_spreads_of_relu_and_tanh():
    """ReLU 2L and L; tanh at q = .5 has μ_2/μ_1² - 1 = .299244127 (Pennington et al. 2017)."""
    variance = isometry.singular_value_variance
    for depth in (1, 2, 4):
        assert abs(float(variance("relu", 0.7, depth, orthogonal=False)) - 2 * depth) <= 1e-11
        assert abs(float(variance("relu", 0.7, depth, orthogonal=True)) - depth) <= 1e-11
        ours = float(variance("tanh", 0.5, depth, orthogonal=True))
        assert abs(ours - depth * 0.299244127) <= depth * 1e-9
        ours = float(variance("tanh", 0.5, depth, orthogonal=False))
        assert abs(ours - depth * 1.299244127) <= depth * 1e-9


def test_orthogonal_tanh_reaches_isometry_and_relu_does_not():
    """As q → 0: μ_2/μ_1² - 1 = Var φ'²/μ_1² → 8 q², since φ'² = 1 - 2u² + …."""
    q = 1e-4
    ours = float(isometry.singular_value_variance("tanh", q, 1, orthogonal=True))
    assert abs(ours / (8 * q**2) - 1) <= 100 * q
    assert abs(float(isometry.singular_value_variance("relu", q, 1, orthogonal=True)) - 1) <= 1e-11


def test_spread_of_matrices():
    """N = 200, L = 2, tanh slopes at q = .5, six draws: within 12 %."""
    rng = np.random.default_rng(0)
    n, q = 200, 0.5
    spreads = {True: [], False: []}
    for _ in range(6):
        for orthogonal, found in spreads.items():
            P = np.eye(n)
            for _ in range(2):
                W = rng.normal(size=(n, n)) / np.sqrt(n)
                W = np.linalg.qr(W)[0] if orthogonal else W
                P = (1 / np.cosh(np.sqrt(q) * rng.normal(size=n)) ** 2)[:, None] * (W @ P)
            squares = np.linalg.svd(P, compute_uv=False) ** 2
            found.append(squares.var() / squares.mean() ** 2)
    for orthogonal, found in spreads.items():
        exact = float(isometry.singular_value_variance("tanh", q, 2, orthogonal=orthogonal))
        assert abs(np.mean(found) / exact - 1) <= 0.12


def test_float32_in_float32_out():
    assert isometry.slope_moment("tanh", jnp.float32(1.0), 2).dtype == jnp.float32
    ours = isometry.singular_value_variance("tanh", jnp.float32(1.0), 3, orthogonal=True)
    assert ours.dtype == jnp.float32


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`power` must be at least 1"):
        isometry.slope_moment("tanh", 1.0, 0)
    with pytest.raises(TypeError, match="`depth` must be an integer"):
        isometry.singular_value_variance("tanh", 1.0, 1.5, orthogonal=True)
