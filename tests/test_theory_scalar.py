"""Scalar laws of tied and untied products against simulation and elementary constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

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


def two_factor_cdf(x):
    """P(|w_1 w_2| ≤ y) = (2/π) ∫_0^y K_0 = y (K_0 L_{-1} + K_1 L_0), L the modified Struve."""
    y = np.minimum(np.exp(x), 40.0)
    struve = special.k0(y) * special.modstruve(-1, y) + special.k1(y) * special.modstruve(0, y)
    return y * struve


def three_factor_cdf(x):
    """Condition on the third factor; the integrand is smooth and falls off at both ends."""
    t = np.arange(-4000, 400) / 100
    return np.sum(two_factor_cdf(x - t) * 2 * stats.norm.pdf(np.exp(t)) * np.exp(t)) / 100


@pytest.mark.parametrize("x", [-20.0, -3.0, -0.5, 0.0, 1.2])
def test_untied_law_of_one_and_two_factors(x):
    one = 2 * stats.norm.cdf(np.exp(x)) - 1
    assert abs(float(scalar.log_product_cdf(x, 1)) - one) <= 100 * EPS
    assert abs(float(scalar.log_product_cdf(x, 2)) - two_factor_cdf(x)) <= 1e-11
    shifted = scalar.log_product_cdf(x + 2 * np.log(3.0), 2, variance=9.0)
    assert abs(float(shifted) - float(scalar.log_product_cdf(x, 2))) <= 100 * EPS


def test_untied_law_of_three_factors():
    values = np.array([-2.0, 0.3])
    ours = np.asarray(scalar.log_product_cdf(values, 3))
    for x, p in zip(values, ours, strict=True):
        assert abs(p - three_factor_cdf(x)) <= 1e-9


@pytest.mark.parametrize("depth", [1, 7, 100, 3000])
def test_untied_law_has_the_mean_and_variance_of_the_sum(depth):
    """E X = ∫ (1[x > 0] - F), E X² = ∫ 2x (1[x > 0] - F), by the trapezoid rule."""
    mean = float(scalar.log_product_mean(depth))
    sd = float(scalar.log_product_sd(depth, tied=False))
    x = np.arange(-3000, 1001) * sd / 100
    F = np.asarray(scalar.log_product_cdf(x + mean, depth))
    assert np.min(np.diff(F)) >= -100 * EPS * depth
    step = (x > 0).astype(float)
    step[x == 0] = 0.5
    assert abs(np.trapezoid(step - F, x)) <= 1e-4 * sd
    assert abs(np.trapezoid(2 * x * (step - F), x) / sd**2 - 1) <= 1e-4


def test_untied_balance_probability():
    """Against 1e5 draws of 50 factors, balanced on average; four standard errors."""
    rng = np.random.default_rng(2)
    depth, mean = 50, float(scalar.mean_log_abs())
    logs = np.log(np.abs(rng.normal(size=(100_000, depth)))).sum(axis=1) - depth * mean
    p = float(
        scalar.balance_probability(depth, 1e-3, tied=False, variance=float(np.exp(-2 * mean)))
    )
    assert abs(np.mean(np.abs(logs) <= np.log(1e3)) - p) <= 4 * np.sqrt(p * (1 - p) / 100_000)
    one = [float(scalar.balance_probability(1, 0.2, tied=t, variance=1.7)) for t in (True, False)]
    assert abs(one[0] - one[1]) <= 100 * EPS
    for variance in (1e-30, 1e30):
        assert 0 <= float(scalar.balance_probability(7, 1e-3, tied=False, variance=variance)) <= EPS


def test_chance_of_exploding_falls_with_fresh_factors():
    """Shares among 4e5 draws: .20909, .07824, .01887, .00147 at depth 2, 5, 10, 20."""
    for depth, share in ((2, 0.20909), (5, 0.07824), (10, 0.01887), (20, 0.00147)):
        p = float(scalar.exploding_probability(depth=depth))
        assert abs(p - share) <= 4 * np.sqrt(p / 400_000)


def test_probability_of_exploding_does_not_depend_on_depth():
    assert abs(float(scalar.exploding_probability()) - 0.317310507863) <= 1e-12
    assert abs(float(scalar.exploding_probability(4.0)) - 2 * stats.norm.sf(0.5)) <= 10 * EPS


def test_variance_preserving_factors():
    v = float(scalar.factor_variance(0.3, 7))
    assert abs(v**7 - 0.3) <= 10 * EPS


def test_variance_of_the_logarithm():
    """ψ'(1/2)/4."""
    assert abs(float(scalar.var_log_abs()) - special.polygamma(1, 0.5) / 4) <= 10 * EPS


def test_float32_in_float32_out():
    one = jnp.float32(1.0)
    assert scalar.mean_log_abs(one).dtype == jnp.float32
    assert scalar.factor_variance(one, 3).dtype == jnp.float32
    for depth in (1, 5, 200):
        ours = scalar.log_product_cdf(jnp.float32(-2.0), depth)
        assert ours.dtype == jnp.float32
        # phases of size s x + d arg φ, at most some 100, rounded to float32
        assert abs(float(ours) - float(scalar.log_product_cdf(-2.0, depth))) <= 1e-5


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


def test_density_is_the_derivative_under_jit_and_vmap():
    """d/dx P(ln|w| ≤ x) = 2 φ(e^x) e^x."""
    x = jnp.array([-4.0, 0.0, 1.0])
    ours = jax.jit(jax.vmap(jax.grad(lambda v: scalar.log_product_cdf(v, 1))))(x)
    exact = 2 * stats.norm.pdf(np.exp(np.asarray(x))) * np.exp(np.asarray(x))
    assert np.max(np.abs(np.asarray(ours) - exact)) <= 1e-13
