"""Moments of norms through fresh layers against exact χ² moments and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradhorizon.theory import norm_moments


def test_linear_layers_are_products_of_chi_squares():
    """E (χ²_n/n)² = 1 + 2/n, by SciPy's moments of χ²."""
    widths = [3, 10, 64, 1]
    exact = sum(np.log(stats.chi2(n).moment(2) / n**2) for n in widths)
    assert abs(float(norm_moments.log_fourth_moment(widths)) - exact) <= 1e-13


def test_relu_layers_are_mixtures_over_active_units():
    """K ~ Binomial(n, ½) active units: E (2 χ²_K/n)² = (4/n²) E K (K + 2)."""
    for n in (1, 4, 50):
        k = np.arange(n + 1)
        exact = np.sum(stats.binom.pmf(k, n, 0.5) * k * (k + 2)) * 4 / n**2
        ours = float(norm_moments.log_fourth_moment([n, n], "relu"))
        assert abs(ours - 2 * np.log(exact)) <= 1e-12


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_layers_of_matrices(activation):
    """Widths 30, 20, 40, 20000 draws: mean 1 and fourth moment within 5 standard errors."""
    rng, widths, draws = np.random.default_rng(0), (30, 20, 40), 20_000
    h = np.zeros((draws, 1, 5))
    h[:, 0, 0] = 1
    gain = 1.0 if activation == "linear" else 2.0
    for n in widths:
        W = rng.normal(size=(draws, n, h.shape[2])) * np.sqrt(gain / n)
        h = np.einsum("dij,dkj->dki", W, h)
        h = h if activation == "linear" else np.maximum(h, 0)
    squares = np.sum(h**2, axis=(1, 2))
    assert abs(squares.mean() - 1) <= 5 * squares.std() / np.sqrt(draws)
    fourth = squares**2
    exact = np.exp(float(norm_moments.log_fourth_moment(widths, activation)))
    assert abs(fourth.mean() - exact) <= 5 * fourth.std() / np.sqrt(draws)


def test_glorot():
    """Uniform ±1/√n has variance 1/(3n), a factor 1/3 = (1/√3)² per layer; Glorot's has 1."""
    n = 50
    variance = stats.uniform(-1 / np.sqrt(n), 2 / np.sqrt(n)).var()
    assert abs(float(norm_moments.gradient_factor(variance, n)) - 1 / 3) <= 1e-14
    balanced = norm_moments.glorot_variance(n, n)
    assert abs(float(norm_moments.gradient_factor(balanced, n)) - 1) <= 1e-15
    wide = norm_moments.glorot_variance(30, 90)
    factors = [float(norm_moments.gradient_factor(wide, m)) for m in (30, 90)]
    assert abs(np.mean(factors) - 1) <= 1e-15


def test_dtype_jit_and_depth():
    widths = jnp.full(100, 50, jnp.float32)
    ours = jax.jit(norm_moments.log_fourth_moment)(widths)
    assert ours.dtype == jnp.float32
    assert abs(float(ours) - 100 * np.log(1.04)) <= 1e-5
    assert float(norm_moments.log_fourth_moment(jnp.zeros(0))) == 0.0
    assert norm_moments.glorot_variance(jnp.float32(3), 5).dtype == jnp.float32
    assert norm_moments.gradient_factor(jnp.float32(3), 5).dtype == jnp.float32


def test_bad_arguments():
    with pytest.raises(ValueError, match="`widths` must be positive. Received 0.0"):
        norm_moments.log_fourth_moment([3, 0])
    with pytest.raises(ValueError, match="`widths` must be a vector"):
        norm_moments.log_fourth_moment(3)
    with pytest.raises(ValueError, match="`activation` must be 'linear' or 'relu'"):
        norm_moments.log_fourth_moment([3], "tanh")
