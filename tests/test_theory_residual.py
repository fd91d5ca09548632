"""Residual growth against exact sums, Bessel limits, quadrature, matrices and networks."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gradhorizon.theory import mean_field, random_network, residual
from gradhorizon.theory._residual_field import erfs, pair_means


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


def test_tanh_is_a_mixture_of_erfs():
    x = np.linspace(-30, 30, 6001)
    weights, slopes = erfs("tanh")
    assert np.abs(special.erf(np.outer(x, slopes)) @ weights - np.tanh(x)).max() <= 6e-7
    assert np.all(weights > 0)


@pytest.mark.parametrize("activation", ["tanh", "erf", "identity"])
def test_pair_means_by_quadrature(activation):
    """A trapezoid rule over the plane for (variance, variance, covariance)."""
    function, slope = {
        "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
        "erf": (special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
        "identity": (lambda x: x, np.ones_like),
    }[activation]
    z = np.arange(-9, 9, 0.02)
    w = np.exp(-(z**2) / 2) * 0.02 / np.sqrt(2 * np.pi)
    for a, b, c in ((1.0, 2.0, 0.7), (4.0, 4.0, -3.5), (9.0, 0.3, 0.0)):
        x = np.sqrt(a) * z[:, None]
        y = c / np.sqrt(a) * z[:, None] + np.sqrt(b - c**2 / a) * z
        exact = [w @ (f(x) * f(y)) @ w for f in (function, slope)]
        ours = pair_means(activation, jnp.asarray(a), jnp.array([b]), jnp.array([c]))
        assert np.allclose(np.ravel(ours), exact, rtol=0, atol=3e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_linear_blocks_are_the_sums(tied):
    found = residual.propagation("identity", 0.3, 1.7, 0.2, 40, tied=tied)
    for n in (0, 1, 7, 40):
        exact = float(residual.log_growth(0.3 * 1.7**0.5, n, tied=tied))
        assert abs(float(found.log_growth[n]) - exact) <= 1e-11
        assert abs(math.log(float(found.q[n]) / 0.2) - exact) <= 1e-11


@pytest.mark.parametrize("activation", ["tanh", "erf"])
def test_fresh_blocks_by_quadrature_of_every_layer(activation):
    q, growth, found = 1.4, 0.0, residual.propagation(activation, 0.7, 2.5, 1.4, 30, tied=False)
    for n in range(30):
        assert abs(float(found.q[n]) / q - 1) <= 1e-6
        assert abs(float(found.log_growth[n]) - growth) <= 1e-5
        growth += math.log1p(0.49 * float(mean_field.susceptibility(activation, 2.5, q)))
        q += 0.49 * float(mean_field.length_map(activation, q, 2.5, 0.0))


def test_fresh_blocks_deep_down():
    """q → ε² σ_w² N, χ - 1 → ε² σ_w² (4/3)/√(2π q): the logarithm grows like √N."""
    found = residual.propagation("tanh", 0.8, 4.0, 1.0, 40_000, tied=False)
    slope = float(found.log_growth[-1] - found.log_growth[10_000]) / (200 - 100)
    assert abs(slope / (2 * 1.6 * 4 / (3 * math.sqrt(2 * math.pi))) - 1) <= 0.01
    assert abs(float(found.q[-1]) / (2.56 * 40_000) - 1) <= 0.01


def test_one_block_deep_down():
    """States go straight: q → 2(1 - 2/π) (ε σ_w N)²; growth is a random flow's in ln N."""
    gain, found = 2.0, residual.propagation("tanh", 1.0, 4.0, 4.0, 400, tied=True)
    ratios = np.array([float(found.q[n]) / (gain * n) ** 2 for n in (100, 200, 400)])
    limit = 2 * (1 - 2 / math.pi)
    assert np.all(np.diff(ratios) > 0)
    assert abs(ratios[-1] - limit) <= 1 / 20
    # u = t v with t = gain n: dv/d ln t = -v + W tanh(t v), a random network of gain t
    rate = float(found.log_growth[160] - found.log_growth[100]) / 2 / math.log(1.6)
    flow = 1 + float(random_network.largest_exponent(gain * math.sqrt(16_000), leak=0.0))
    assert abs(rate / flow - 1) <= 0.02


@pytest.mark.parametrize("tied", [True, False])
def test_networks(tied):
    """Ten tanh blocks of 300 units, 120 draws: state and gradient within five standard errors."""
    rng = np.random.default_rng(1)
    n, loops, gain, squares, states = 300, 10, 1.5, [], []
    for _ in range(120):
        h, v = rng.normal(size=n), rng.normal(size=n) / np.sqrt(n)
        W = gain * rng.normal(size=(n, n)) / np.sqrt(n)
        for _ in range(loops):
            W = W if tied else gain * rng.normal(size=(n, n)) / np.sqrt(n)
            u = W @ h
            h, v = h + np.tanh(u), v + (W @ v) / np.cosh(u) ** 2
        squares.append(v @ v)
        states.append(gain**2 * h @ h / n)
    for values, name in ((squares, "log_growth"), (states, "q")):
        log_mean = np.log(np.mean(values))
        error = np.std(values) / np.mean(values) / np.sqrt(120)
        arguments = ("tanh", 1.0, gain**2, gain**2, loops)
        ours, other = (
            float(getattr(residual.propagation(*arguments, tied=t), name)[-1])
            for t in (tied, not tied)
        )
        if name == "q":
            ours, other = math.log(ours), math.log(other)
        assert abs(log_mean - ours) <= 5 * error
        assert abs(log_mean - other) >= 10 * error


def test_propagation_under_jit_vmap_grad_and_float32():
    f = lambda scale: residual.propagation("tanh", scale, 1.0, 1.0, 12, tied=True)  # noqa: E731
    scales = jnp.array([0.0, 0.4, 1.3])
    together = jax.jit(jax.vmap(f))(scales)
    assert together.q.shape == together.log_growth.shape == (3, 13)
    assert np.all(np.asarray(together.log_growth[0]) == 0)
    assert np.allclose(together.q[2], f(1.3).q, rtol=1e-13)
    last = lambda scale: f(scale).log_growth[-1]  # noqa: E731
    central = (last(0.4 + 1e-6) - last(0.4 - 1e-6)) / 2e-6
    assert abs(float(jax.grad(last)(0.4)) / float(central) - 1) <= 1e-6
    for tied in (True, False):
        double = residual.propagation("tanh", 1.3, 2.0, 1.0, 12, tied=tied)
        single = residual.propagation("tanh", jnp.float32(1.3), 2.0, 1.0, 12, tied=tied)
        assert single.q.dtype == single.log_growth.dtype == jnp.float32
        assert np.allclose(single.log_growth, double.log_growth, rtol=1e-4)
    nothing = residual.propagation("erf", 1.0, 1.0, 3.0, 0, tied=True)
    assert nothing.q.tolist() == [3.0]
    assert nothing.log_growth.tolist() == [0.0]


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_of_propagation():
    with pytest.raises(ValueError, match="`loops` must be at least 0"):
        residual.propagation("tanh", 1.0, 1.0, 1.0, -1, tied=True)
    with pytest.raises(ValueError, match="`activation` must be one of tanh, erf, identity"):
        residual.propagation("relu", 1.0, 1.0, 1.0, 3, tied=True)
