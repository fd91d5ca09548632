"""Looped residual growth against exact integer sums, Bessel limits and matrices."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gradhorizon.theory import residual


@pytest.mark.parametrize(
    ("loops", "half"), [(16, 2.7034), (64, 6.4465), (256, 14.2258), (1024, 30.0272)]
)
def test_tied_at_the_scale_that_fresh_layers_allow(loops, half):
    ours = float(residual.log_growth(1 / math.sqrt(loops), loops, tied=True)) / 2
    assert abs(ours - half) <= 5.1e-5


@pytest.mark.parametrize(
    ("loops", "half"), [(16, 0.4031), (64, 0.4097), (256, 0.4114), (1024, 0.4118)]
)
def test_tied_at_the_scale_of_loops(loops, half):
    ours = float(residual.log_growth(1 / loops, loops, tied=True)) / 2
    assert abs(ours - half) <= 5.1e-5


@pytest.mark.parametrize("loops", [0, 1, 7, 200])
def test_sums_of_fractions(loops):
    scale = Fraction(3, 16)
    tied = sum(math.comb(loops, k) ** 2 * scale ** (2 * k) for k in range(loops + 1))
    exact = math.log(tied.numerator) - math.log(tied.denominator)
    ours = float(residual.log_growth(3 / 16, loops, tied=True))
    assert abs(ours - exact) <= 1e-11 * max(exact, 1)
    untied = loops * math.log(1 + 9 / 256)
    assert abs(float(residual.log_growth(3 / 16, loops, tied=False)) - untied) <= 1e-13 * max(
        untied, 1
    )


def test_limits():
    """ε = 1/N: ln I_0(2) tied; ε = 1/√N untied: e; the 1/N corrections vanish."""
    tied = residual.log_growth_limit(1.0, tied=True)
    assert abs(float(tied) / 2 - 0.411996770741) <= 1e-12
    assert abs(float(jnp.exp(tied)) - 2.279585302336) <= 1e-11
    for s in (0.0, 0.5, 3.0):
        exact = math.log(special.i0(2 * s))
        assert abs(float(residual.log_growth_limit(s, tied=True)) - exact) <= 1e-13
        assert float(residual.log_growth_limit(s, tied=False)) == s**2
        ours = float(residual.log_growth(s / 4000, 4000, tied=True))
        assert abs(ours - exact) <= 4 * s**2 / 4000
        ours = float(residual.log_growth(s / 4000**0.5, 4000, tied=False))
        assert abs(ours - s**2) <= s**4 / 4000
    assert np.isfinite(float(residual.log_growth_limit(1e4, tied=True)))
    # the point of it: at ε = 1/√N loops grow by exp(2 · 30), fresh layers by e
    assert float(residual.log_growth(1 / 32, 1024, tied=True)) > 60


@pytest.mark.parametrize("tied", [True, False])
def test_loops_of_matrices(tied):
    """N = 16 loops, width 64, 200 draws: (1/2) ln E‖h‖² within 5 standard errors and O(N²/n)."""
    rng = np.random.default_rng(0)
    n, loops, scale, squares = 64, 16, 1 / 16, []
    for _ in range(200):
        h, W = np.eye(n)[0], rng.normal(size=(n, n)) / np.sqrt(n)
        for _ in range(loops):
            W = W if tied else rng.normal(size=(n, n)) / np.sqrt(n)
            h = h + scale * W @ h
        squares.append(h @ h)
    error = np.std(squares) / np.mean(squares) / np.sqrt(200)
    ours = float(residual.log_growth(scale, loops, tied=tied))
    other = float(residual.log_growth(scale, loops, tied=not tied))
    assert abs(np.log(np.mean(squares)) - ours) <= 5 * error
    assert abs(np.log(np.mean(squares)) - other) >= 10 * error


def test_jit_vmap_grad_and_float32():
    scales = jnp.array([[0.0, 0.1], [0.2, 0.3]])
    f = lambda eps: residual.log_growth(eps, 20, tied=True)  # noqa: E731
    together = f(scales)
    assert together.shape == (2, 2)
    assert float(together[0, 0]) == 0.0
    assert np.allclose(jax.jit(jax.vmap(jax.vmap(f)))(scales), together, rtol=1e-13)
    central = (f(0.2 + 1e-6) - f(0.2 - 1e-6)) / 2e-6
    assert abs(float(jax.grad(f)(0.2)) / float(central) - 1) <= 1e-8
    assert float(jax.grad(f)(0.0)) == 0.0
    for tied in (True, False):
        assert residual.log_growth(jnp.float32(0.1), 20, tied=tied).dtype == jnp.float32
        assert residual.log_growth_limit(jnp.float32(0.1), tied=tied).dtype == jnp.float32


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`loops` must be at least 0"):
        residual.log_growth(0.1, -1, tied=True)
