"""Eigenvalues keep their size: a power of two in front of a matrix comes out exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon._eigenvalues import eigenvalues, spectral_radius

POWERS = {np.float32: (-100, -60, 0, 60, 100), np.float64: (-1000, -500, 0, 500, 1000)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_matrices_have_scaled_eigenvalues(dtype):
    matrix = np.random.default_rng(0).normal(size=(4, 4)).astype(dtype)
    expected = np.sort_complex(np.linalg.eigvals(matrix.astype(np.float64)))
    for power in POWERS[dtype]:
        scaled = jnp.asarray(np.ldexp(matrix, power))
        found = np.asarray(jax.jit(eigenvalues)(scaled))
        back = np.ldexp(found.real, -power) + 1j * np.ldexp(found.imag, -power)
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.sort_complex(back), expected, rtol=300 * eps)
        radius = np.ldexp(np.asarray(spectral_radius(scaled)), -power)
        np.testing.assert_allclose(radius, np.abs(expected).max(), rtol=100 * eps)


def test_zero_and_nan():
    assert spectral_radius(jnp.zeros((3, 3))) == 0
    assert jnp.isnan(spectral_radius(jnp.full((2, 2), jnp.nan)))


@pytest.mark.parametrize("size", [1e-30, 1e-14, 1e14, 1e30])
def test_public_functions_see_the_radius_of_small_and_large_float32_matrices(size):
    W = (np.array([[2.0, 1.0], [1.0, 3.0]]) * size).astype(np.float32)
    exact = (5 + np.sqrt(5)) / 2
    assert abs(float(gh.analyze_matrix(W).spectral_radius) / size - exact) <= 1e-5
    rescaled = gh.remedies.rescale(jnp.asarray(W), spectral_radius=1.0)
    np.testing.assert_allclose(rescaled, W / (exact * size), rtol=1e-5)
