"""Scalar laws of tied and untied products against simulation and elementary constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from gradhorizon.theory import scalar

EPS = np.finfo(float).eps


def test_constants_of_ln_abs_normal():
    """Against quadrature of the density."""
    mean = integrate.quad(lambda w: 2 * np.log(w) * stats.norm.pdf(w), 0, 40)[0]
    square = integrate.quad(lambda w: 2 * np.log(w) ** 2 * stats.norm.pdf(w), 0, 40)[0]
    assert abs(float(scalar.mean_log_abs()) - mean) <= 1e-8
    assert abs(scalar.SD_LOG_ABS**2 - (square - mean**2)) <= 1e-7
    assert abs(scalar.SD_LOG_ABS - 1.110720734540) <= 1e-12
    shifted = float(scalar.mean_log_abs(4.0)) - float(scalar.mean_log_abs())
    assert abs(shifted - np.log(2)) <= 10 * EPS


def test_standard_deviations_of_the_logarithm():
    """d π/√8 against √d π/√8, and both against 2e5 draws (their sd is known to 0.2 %)."""
    assert abs(float(scalar.log_product_sd(20, tied=True)) - 22.214415) <= 1e-6
    assert abs(float(scalar.log_product_sd(20, tied=False)) - 4.967294) <= 1e-6
    rng = np.random.default_rng(0)
    logs = np.log(np.abs(rng.normal(size=(200_000, 20))))
    untied, tied = logs.sum(axis=1), 20 * logs[:, 0]
    assert abs(untied.std() / float(scalar.log_product_sd(20, tied=False)) - 1) <= 0.02
    assert abs(tied.std() / float(scalar.log_product_sd(20, tied=True)) - 1) <= 0.02
    spread = float(scalar.log_product_sd(20, tied=False)) / np.sqrt(200_000)
    assert abs(untied.mean() - float(scalar.log_product_mean(20))) <= 4 * spread


def test_tied_balance_probability_is_that_of_one_factor():
    rng = np.random.default_rng(1)
    w = rng.normal(size=400_000) * 1.3
    for depth in (1, 5, 50):
        inside = np.mean(np.abs(depth * np.log(np.abs(w))) <= np.log(1e3))
        exact = float(scalar.balance_probability(depth, 1e-3, tied=True, variance=1.69))
        assert abs(inside - exact) <= 4 * np.sqrt(exact * (1 - exact) / w.size)


def test_untied_balance_probability_is_normal_within_its_error():
    """Berry-Esseen with E|X|³/σ³ = 2.6 for ln|w|: at most 0.4748·2.6/√d; measured far less."""
    rng = np.random.default_rng(2)
    depth = 50
    logs = np.log(np.abs(rng.normal(size=(100_000, depth)))).sum(axis=1)
    exact = np.mean(np.abs(logs - depth * float(scalar.mean_log_abs())) <= np.log(1e3))
    variance = float(np.exp(-2 * float(scalar.mean_log_abs())))
    ours = float(scalar.balance_probability(depth, 1e-3, tied=False, variance=variance))
    assert abs(ours - exact) <= 0.4748 * 2.6 / np.sqrt(depth)


def test_probability_of_exploding_does_not_depend_on_depth():
    assert abs(float(scalar.exploding_probability()) - 0.317310507863) <= 1e-12
    assert abs(float(scalar.exploding_probability(4.0)) - 2 * stats.norm.sf(0.5)) <= 10 * EPS


def test_variance_preserving_factors():
    v = float(scalar.factor_variance(0.3, 7))
    assert abs(v**7 - 0.3) <= 10 * EPS


def test_float32_in_float32_out():
    assert scalar.mean_log_abs(jnp.float32(1.0)).dtype == jnp.float32


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`variance` must be positive. Received -1"):
        scalar.mean_log_abs(-1.0)
    with pytest.raises(ValueError, match="`depth` must be at least 1"):
        scalar.log_product_sd(0, tied=True)
    with pytest.raises(ValueError, match="`threshold` must lie strictly between 0 and 1"):
        scalar.balance_probability(3, 2.0, tied=True)


def test_differentiable_in_the_variance():
    """d/dv E ln|w| = 1/(2v)."""
    assert abs(float(jax.grad(scalar.mean_log_abs)(0.7)) - 1 / 1.4) <= 10 * EPS
