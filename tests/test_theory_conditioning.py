"""Bounds and exact values of √μ against singular values of the residual Jacobian itself."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from gradhorizon.theory import bounds


def residual_jacobian(J):
    """Identity blocks on the diagonal, -J_t below: the derivative of h_t - f_t(h_{t-1})."""
    T, n, _ = J.shape
    matrix = np.eye((T + 1) * n)
    for t in range(T):
        matrix[(t + 1) * n : (t + 2) * n, t * n : (t + 1) * n] = -J[t]
    return matrix


# σ_min, lower and upper bound of scalar chains of 40 steps
TABLE = {
    0.5: (0.502789163, 0.5, 1.0),
    1.0: (0.038782663544, 0.025, 1.0),
    1.1: (0.004230816512, 0.002259414414, 0.024304420967),
    1.5: (7.536477e-8, 4.521887e-8, 1.356566e-7),
}


@pytest.mark.parametrize("a", sorted(TABLE))
def test_table_of_scalar_chains(a):
    exact, lower, upper = TABLE[a]
    found = bounds.conditioning(np.log(a), 40)
    numbers = [bounds.scalar_conditioning(a, 40), found.log_lower, found.log_upper]
    for value, wanted in zip(numbers, (exact, lower, upper), strict=True):
        assert abs(np.exp(float(value)) / wanted - 1) <= 1e-6  # the digits printed
    assert found.log_lower <= numbers[0] + 1e-12
    assert numbers[0] <= found.log_upper + 1e-12


@pytest.mark.parametrize("length", [2, 3, 40, 200])
def test_scalar_chain_at_one(length):
    root = np.exp(float(bounds.scalar_conditioning(1.0, length)))
    assert abs(root - 2 * np.sin(np.pi / (2 * (2 * length + 1)))) <= 1e-12 * root


@pytest.mark.parametrize("length", [2, 3, 17, 40])
def test_scalar_chain_equals_the_singular_value(length):
    """σ_min = 1/‖M⁻¹‖, with M⁻¹ written down: a^(i-j) below the diagonal."""
    edge = 1 + 1 / length
    for a in (0.0, 1e-6, 0.3, 0.999, edge * (1 - 1e-9), edge, edge * (1 + 1e-9), 1.2, -1.2, 3.0):
        i, j = np.indices((length, length))
        inverse = np.where(i >= j, np.float64(a) ** np.maximum(i - j, 0), 0.0)
        exact = -np.log(np.linalg.norm(inverse, 2))
        assert abs(float(bounds.scalar_conditioning(a, length)) - exact) <= 1e-13 * length


def test_scalar_chain_far_below_the_smallest_float():
    """a = 2, T = 3000: κ → ln a, so ln √μ → ln(a - 1/a) - T ln a, up to e^{-2Tκ}."""
    exact = mpmath.log(mpmath.mpf(3) / 2) - 3000 * mpmath.log(2)
    assert abs(float(bounds.scalar_conditioning(2.0, 3000)) - float(exact)) <= 1e-12 * 3000


@pytest.mark.parametrize("seed", range(3))
def test_bounds_enclose_chains_of_matrices(seed):
    """a and b taken from all products of a random non-normal chain."""
    rng = np.random.default_rng(seed)
    T, n, rate = 12, 3, (-0.2, 0.0, 0.15)[seed]
    J = np.triu(rng.normal(size=(T, n, n)), 1) + np.exp(rate) * np.eye(n)
    ratios = []
    for s in range(T + 1):
        product = np.eye(n)
        for t in range(s, T + 1):
            ratios.append(np.linalg.norm(product, 2) / np.exp(rate * (t - s)))
            product = J[t] @ product if t < T else product
    smallest = np.linalg.svd(residual_jacobian(J), compute_uv=False)[-1]
    found = bounds.conditioning(rate, T + 1, overshoot=max(ratios), undershoot=min(1.0, *ratios))
    assert found.log_lower <= np.log(smallest) + 1e-12
    assert np.log(smallest) <= found.log_upper + 1e-12
    assert max(ratios) > 2  # without the overshoot the lower bound would be wrong
    if rate <= 0:
        naive = bounds.conditioning(rate, T + 1)
        assert naive.log_lower > np.log(smallest)


def test_transforms_and_dtypes():
    factors = jnp.array([0.5, 1.0, 1.5])
    together = jax.vmap(lambda a: bounds.scalar_conditioning(a, 40))(factors)
    alone = [float(bounds.scalar_conditioning(float(a), 40)) for a in factors]
    assert np.max(np.abs(np.asarray(together) - alone)) <= 1e-12
    for a in (0.5, 1.5):
        step = 1e-6
        ends = [float(bounds.scalar_conditioning(a + s, 40)) for s in (-step, step)]
        slope = jax.grad(lambda a: bounds.scalar_conditioning(a, 40))(a)
        assert abs(float(slope) - (ends[1] - ends[0]) / (2 * step)) <= 1e-6 * max(1, abs(slope))
    single = bounds.scalar_conditioning(np.float32(1.5), 40)
    assert single.dtype == jnp.float32
    assert abs(float(single) - alone[2]) <= 40 * 4 * np.finfo(np.float32).eps
    for bound in bounds.conditioning(np.float32(0.1), 40):
        assert bound.dtype == jnp.float32
    at_zero = jax.grad(lambda r: bounds.conditioning(r, 40).log_lower)(0.3)
    assert np.isfinite(float(at_zero))


def test_geometric_sum_is_smooth_at_zero_and_never_overflows():
    for rate in (-1e-9, 0.0, 1e-9, 1e-3, 5.0):
        exact = -mpmath.log(sum(mpmath.e ** (mpmath.mpf(rate) * k) for k in range(50)))
        assert abs(float(bounds.conditioning(rate, 50).log_lower) - float(exact)) <= 1e-12
    assert abs(float(bounds.conditioning(5.0, 10_000).log_lower) + 49_995) <= 0.01


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`overshoot` must be at least 1"):
        bounds.conditioning(0.1, 5, overshoot=0.5)
    with pytest.raises(ValueError, match=r"`undershoot` must lie in \(0, 1\]"):
        bounds.conditioning(0.1, 5, undershoot=1.5)
    with pytest.raises(ValueError, match="`length` must be at least 2"):
        bounds.scalar_conditioning(0.5, 1)
    with pytest.raises(ValueError, match="`factor` must be finite"):
        bounds.scalar_conditioning(np.inf, 5)
    with pytest.raises(TypeError, match="`length` must be an integer"):
        bounds.conditioning(0.1, 2.5)
