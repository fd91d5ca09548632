"""Ginibre products against the literature's tables, identities and simulation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gradhorizon.theory import random_matrix as rm

# Newman 1986: evaluated formulas, entry variance 1
REAL_8 = [
    0.9746324245, 0.8981519106, 0.8079657578, 0.6981519106,
    0.5579657578, 0.3648185773, 0.0579657578, -0.6351814227,
]  # fmt: skip
COMPLEX_5 = [0.7530588342, 0.6280588342, 0.4613921675, 0.2113921675, -0.2886078325]
VARIANCE_8 = [
    0.07095574, 0.08258944, 0.09873352, 0.12258944, 0.16123352, 0.23370055, 0.41123352, 1.23370055,
]  # fmt: skip
VARIANCE_COMPLEX_5 = [0.05533074, 0.07095574, 0.09873352, 0.16123352, 0.41123352]


def test_tables_of_exponents_and_variances():
    assert np.max(np.abs(rm.ginibre_exponents(8, variance=1.0) - np.array(REAL_8))) <= 1e-10
    ours = rm.ginibre_exponents(5, variance=1.0, complex_entries=True)
    assert np.max(np.abs(ours - np.array(COMPLEX_5))) <= 1e-10
    assert np.max(np.abs(rm.ginibre_exponent_variances(8) - np.array(VARIANCE_8))) <= 1e-8
    ours = rm.ginibre_exponent_variances(5, complex_entries=True)
    assert np.max(np.abs(ours - np.array(VARIANCE_COMPLEX_5))) <= 1e-8


@pytest.mark.parametrize("n", [2, 4, 8])
def test_exponents_end_with_those_of_smaller_matrices(n):
    """λ_k depends on N - k alone, at entry variance 1; they sum to Σ (ln 2 + ψ(k/2))/2."""
    ours = np.asarray(rm.ginibre_exponents(n, variance=1.0))
    assert np.max(np.abs(ours - np.array(REAL_8)[-n:])) <= 1e-10
    exact = np.sum(np.log(2) + special.digamma(np.arange(1, n + 1) / 2)) / 2
    assert abs(ours.sum() - exact) <= 100 * n * np.finfo(float).eps
    scaled = np.asarray(rm.ginibre_exponents(n))
    assert np.max(np.abs(scaled - ours + np.log(n) / 2)) <= 1e-14


def test_leading_exponents_at_width_64_and_100():
    """λ_1 = -.007853186132, -.005016666000 and the gap .007999488164, about 1/(2N)."""
    first, second = (float(v) for v in rm.ginibre_exponents(64)[:2])
    assert abs(first + 0.007853186132) <= 1e-12
    assert abs(first - second - 0.007999488164) <= 1e-12
    assert abs(float(rm.ginibre_exponents(100)[0]) + 0.005016666) <= 1e-12


def test_sum_of_exponents_is_the_mean_log_determinant():
    """E ln|det| over 20000 real 4 × 4 matrices, entry variance 1/4."""
    rng = np.random.default_rng(0)
    logs = np.linalg.slogdet(rng.normal(size=(20_000, 4, 4)) / 2)[1]
    exact = float(np.sum(rm.ginibre_exponents(4)))
    assert abs(logs.mean() - exact) <= 4 * logs.std() / np.sqrt(20_000)
    assert abs(float(np.sum(rm.ginibre_exponent_variances(4))) / logs.var() - 1) <= 0.06


def test_untied_growth_at_width_64():
    mean, sd = rm.untied_growth(64, np.array([1, 100]))
    assert abs(float(mean[0]) + 0.007853186132) <= 1e-12
    assert abs(float(mean[1]) + 0.7853186132) <= 1e-10
    assert abs(float(sd[1]) - 0.890833) <= 1e-6
    # λ_1 = -1/(2N) + O(N^-2)
    assert abs(float(rm.ginibre_exponents(1000)[0]) + 1 / 2000) <= 2 / 1000**2


def test_modulus_laws_have_equal_means_and_a_variance_ratio_of_exactly_d():
    for n, depth in ((4, 10), (7, 33)):
        tied, untied = (rm.log_modulus_moments(n, depth, tied=t) for t in (True, False))
        assert np.array_equal(tied[0], untied[0])
        assert np.max(np.abs(tied[1] / untied[1] - depth)) <= 1e-12 * depth
    tied, untied = (rm.log_modulus_moments(4, 10, tied=t) for t in (True, False))
    assert abs(float(tied[1].sum()) - 74.2156) <= 5e-5
    assert abs(float(untied[1].sum()) - 7.42156) <= 5e-6
    assert abs(float(tied[0].sum()) + 17.603534) <= 1e-6


def test_pooled_second_moment_of_log_moduli():
    """E ln²|z_k| over k, N = 4, d = 10: entry variance 1 and 1/4."""
    table = {(True, 1.0): 36.936951, (False, 1.0): 20.238435,
             (True, None): 49.900849, (False, None): 33.202333}  # fmt: skip
    for (tied, variance), exact in table.items():
        mean, spread = rm.log_modulus_moments(4, 10, tied=tied, variance=variance)
        assert abs(float(jnp.mean(mean**2 + spread)) - exact) <= 1e-6


def test_spectral_radius_of_a_single_number():
    """|z|² is exponential: mean √π/2, variance 1 - π/4."""
    mean, sd = (float(v) for v in rm.spectral_radius_moments(1))
    assert abs(mean - np.sqrt(np.pi) / 2) <= 1e-13
    assert abs(sd - np.sqrt(1 - np.pi / 4)) <= 1e-12
    assert abs(float(rm.spectral_radius_cdf(0.7, 1)) - (1 - np.exp(-0.49))) <= 1e-15
    assert float(rm.spectral_radius_cdf(-1.0, 1)) == 0.0


@pytest.mark.parametrize(("n", "mean"), [(256, 1.043977), (1024, 1.026550)])
def test_mean_spectral_radius_of_large_matrices(n, mean):
    assert abs(float(rm.spectral_radius_moments(n)[0]) - mean) <= 6e-7


def test_spectral_radius_law():
    for n, exact in ((4, 0.384926962218), (10, 0.219135998858), (64, 0.021553600455)):
        assert abs(float(rm.spectral_radius_cdf(1.0, n)) - exact) <= 1e-11
    table = {10: (1.092638, 0.116924), 64: (1.067868, 0.038423), 100: (1.059657, 0.029584)}
    for n, (mean, sd) in table.items():
        ours = rm.spectral_radius_moments(n)
        assert abs(float(ours[0]) - mean) <= 2e-6
        assert abs(float(ours[1]) - sd) <= 2e-6


def test_spectral_radius_law_against_eigenvalues():
    rng = np.random.default_rng(3)
    shape = (3000, 6, 6)
    A = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(12)
    radii = np.abs(np.linalg.eigvals(A)).max(axis=1)
    for r in (0.8, 1.0, 1.2):
        p = float(rm.spectral_radius_cdf(r, 6))
        assert abs(np.mean(radii <= r) - p) <= 4 * math.sqrt(p * (1 - p) / 3000)


def test_fuss_catalan():
    table = {1: (1, 2, 5), 2: (1, 3, 12), 3: (1, 4, 22), 4: (1, 5, 35)}
    for depth, moments in table.items():
        for p, moment in enumerate(moments, start=1):
            assert float(rm.fuss_catalan_moment(p, depth)) == moment
    edges = {1: 2, 2: 2.598076, 3: 3.079201, 4: 3.493856, 50: 11.716270}
    for depth, edge in edges.items():
        assert abs(float(rm.fuss_catalan_edge(depth)) - edge) <= 1e-6
    # the p-th root of moments approaches the squared edge from below
    assert float(rm.fuss_catalan_moment(200, 2)) ** (1 / 200) < 2.598076**2


def test_tying_does_not_change_the_moments_at_small_depth():
    """N = 200, L = 2: both within 6 % of 1, 3, 12."""
    rng = np.random.default_rng(4)
    moments = {True: [], False: []}
    for _ in range(12):
        A, B = rng.normal(size=(2, 200, 200)) / np.sqrt(200)
        for tied, P in ((True, A @ A), (False, A @ B)):
            squares = np.linalg.svd(P, compute_uv=False) ** 2
            moments[tied].append([np.mean(squares**p) for p in (1, 2, 3)])
    for tied in (True, False):
        measured = np.mean(moments[tied], axis=0)
        exact = [float(rm.fuss_catalan_moment(p, 2)) for p in (1, 2, 3)]
        assert np.max(np.abs(measured / exact - 1)) <= 0.06


def test_optimal_gains():
    """Sussillo & Abbott's expectation, exact; table computed from ψ and the binomial."""
    table = {("linear", 10): 1.053017784, ("linear", 100): 1.005029271,
             ("relu", 10): 1.649222716, ("relu", 100): 1.432303566}  # fmt: skip
    for (activation, n), gain in table.items():
        assert abs(float(rm.optimal_gain(n, activation)) - gain) <= 1e-9


def test_growth_of_squared_norms():
    """Means -1.000608191 (N = 10), -.718568066 (N = 100); variance of ln ‖·‖² at N = 50 .108168."""
    assert abs(float(rm.log_growth_moments(10, "relu")[0]) + 1.000608191) <= 1e-9
    assert abs(float(rm.log_growth_moments(100, "relu")[0]) + 0.718568066) <= 1e-9
    assert abs(float(rm.log_growth_moments(50, "relu")[1]) - 0.108168) <= 1e-6
    mean, variance = (float(v) for v in rm.log_growth_moments(64))
    growth, sd = (float(v) for v in rm.untied_growth(64, 1))
    assert abs(mean / 2 - growth) <= 1e-15
    assert abs(np.sqrt(variance) / 2 - sd) <= 1e-15


def test_optimal_gain_keeps_the_mean_log_norm():
    rng = np.random.default_rng(5)
    n, draws = 10, 20_000
    gain = float(rm.optimal_gain(n, "relu"))
    W = gain * rng.normal(size=(draws, n, n)) / np.sqrt(n)
    h = np.maximum(rng.normal(size=(draws, n)), 0)
    new = np.maximum(np.einsum("dij,dj->di", W, h), 0)
    keep = (new > 0).any(axis=1) & (h > 0).any(axis=1)
    ratio = np.log(np.sum(new[keep] ** 2, 1) / np.sum(h[keep] ** 2, 1))
    assert abs(ratio.mean()) <= 4 * ratio.std() / np.sqrt(keep.sum())


def test_dtypes_and_transforms():
    one = jnp.float32(1.0)
    assert rm.ginibre_exponents(4, variance=one).dtype == jnp.float32
    assert rm.spectral_radius_cdf(one, 4).dtype == jnp.float32
    assert rm.untied_growth(8, np.arange(3), variance=one)[1].dtype == jnp.float32
    slope = jax.jit(jax.vmap(jax.grad(lambda v: rm.ginibre_exponents(3, variance=v)[0])))
    variances = jnp.array([0.5, 2.0])
    assert np.max(np.abs(slope(variances) - 0.5 / variances)) <= 1e-15


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        rm.ginibre_exponents(0)
    with pytest.raises(TypeError, match="`n` must be an integer"):
        rm.spectral_radius_cdf(1.0, 2.5)
    with pytest.raises(ValueError, match="`activation` must be 'linear' or 'relu'"):
        rm.optimal_gain(4, "tanh")
