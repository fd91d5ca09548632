"""The named horizons against their definitions, printed numbers and products in each format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradhorizon.theory import bounds, horizons, random_matrix


def test_lyapunov_horizon_is_where_the_product_leaves_the_window():
    for factor in (0.5, 2.0, 0.99):
        steps = float(horizons.lyapunov(np.log(factor)))
        inside = int(np.floor(steps))
        assert 1e-3 <= factor**inside <= 1e3
        assert not 1e-3 <= factor ** (inside + 1) <= 1e3
    assert float(horizons.lyapunov(0.0)) == np.inf
    assert abs(float(horizons.lyapunov(-0.1, threshold=np.exp(-2.0))) - 20) <= 1e-12


def test_certified_horizon():
    """The same as from the matrix; σ_1 = .95 and ε = 1e-3 give ln 1000/ln(1/.95)."""
    W = 0.95 * jnp.eye(3)
    ours = float(horizons.certified(0.95))
    assert abs(ours - np.log(1000) / -np.log(0.95)) <= 1e-10
    assert abs(ours / float(bounds.certified_horizon(W)) - 1) <= 1e-12
    assert float(horizons.certified(1.0)) == np.inf
    assert float(horizons.certified(5.0, 0.25)) == np.inf
    assert abs(float(horizons.certified(2.0, 0.25, 0.125)) - 3) <= 1e-14


def test_mean_field_scales():
    assert abs(float(horizons.memory_scale(0.9766013215)) - 42.2355) <= 1e-4
    assert abs(float(horizons.memory_scale(np.e)) + 1) <= 1e-14
    assert float(horizons.memory_scale(1.0)) == np.inf
    assert abs(float(horizons.correlation_depth(74.918)) - 449.508) <= 1e-10


def test_times_of_dynamics():
    """Lorenz doubles an error in .765; t .9^t peaks at 9.491 with height 19.397918 for M = 5."""
    assert abs(float(horizons.predictability_time(0.9056)) - 0.765) <= 5e-4
    assert float(horizons.predictability_time(-0.1)) == np.inf
    assert abs(float(horizons.transient_time(0.9)) - 9.491) <= 5e-4
    assert abs(float(horizons.transient_height(0.9, 5.0)) - 19.397918) <= 5e-7
    t = np.linspace(0, 200, 2_000_001)
    for lam, M in ((0.9, 5.0), (-0.97, 0.3)):
        height = abs(M) * t * abs(lam) ** (t - 1)
        best = np.argmax(height)
        assert abs(float(horizons.transient_time(lam)) - t[best]) <= 1e-4
        assert abs(float(horizons.transient_height(lam, M)) / height[best] - 1) <= 1e-8
    assert float(horizons.transient_time(1.0)) == np.inf
    assert float(horizons.learnability(0.99)) == pytest.approx(100)
    assert float(horizons.learnability(-1.5)) == np.inf


def test_direction_horizon_of_fresh_gaussian_matrices():
    """1/(λ_1 - λ_2) at N = 64 is 1/.007999488164, near 2N."""
    rates = random_matrix.ginibre_exponents(64)
    ours = float(horizons.direction(rates[0], rates[1]))
    assert abs(ours * 0.007999488164 - 1) <= 1e-9
    assert float(horizons.direction(0.3, 0.3)) == np.inf


def test_condition_horizon_is_where_the_small_direction_drowns():
    """diag(2, 1/2)^k rotated: the small singular value is lost once 4^k passes 2^53."""
    steps = float(horizons.condition(np.log(2.0), -np.log(2.0)))
    assert abs(steps - 26.5) <= 1e-12
    assert abs(float(horizons.condition(1.0, 0.0, "float32")) - 24 * np.log(2)) <= 1e-12
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    A = turn @ np.diag([2.0, 0.5]) @ turn.T
    for k, seen in ((13, True), (20, True), (33, False)):
        last = np.linalg.svd(np.linalg.matrix_power(A, k), compute_uv=False)[-1]
        assert (abs(last * 2.0**k - 1) < 0.1) == seen
    assert float(horizons.condition(0.2, 0.2)) == np.inf


@pytest.mark.parametrize(
    ("dtype", "flushed", "nats"),
    [("float32", True, 87.33655), ("float64", True, 708.39642), ("float32", False, 150 * np.log(2)),
     ("float64", False, 1075 * np.log(2)), ("bfloat16", True, 126 * np.log(2)),
     ("float16", False, 25 * np.log(2))],
)  # fmt: skip
def test_nats_that_a_format_holds(dtype, flushed, nats):
    ours = float(horizons.raw_product(-1.0, dtype, flushed=flushed))
    assert abs(ours - nats) <= 1e-5


@pytest.mark.parametrize(("dtype", "zero"), [("float32", 75), ("float64", 538)])
def test_numpy_products_of_quarters(dtype, zero):
    """First zero of 4^-k in NumPy, which keeps subnormals; 63 and 511 steps where flushed."""
    product, step = np.ones((), dtype), 0
    while product:
        product, step = product * np.asarray(0.25, dtype), step + 1
    assert step == zero
    ours = float(horizons.raw_product(-np.log(4.0), dtype, flushed=False))
    assert step - 1 < ours + 1e-9
    assert ours <= step + 1e-9
    held = {"float32": 63, "float64": 511}[dtype]
    assert int(float(horizons.raw_product(-np.log(4.0), dtype)) + 1e-9) == held


def test_overflow_and_standstill():
    ours = float(horizons.raw_product(np.log(2.0), "float32"))
    assert abs(ours - 128) <= 1e-6
    assert float(horizons.raw_product(0.0)) == np.inf


def test_jit_vmap_and_float32():
    rates = jnp.array([-0.5, 0.0, 0.3], jnp.float32)
    for f in (
        horizons.lyapunov, horizons.memory_scale, horizons.predictability_time,
        horizons.correlation_depth, horizons.learnability, horizons.transient_time,
        horizons.raw_product, horizons.certified,
        lambda r: horizons.direction(r, r - 1), lambda r: horizons.condition(r, r - 1),
        lambda r: horizons.transient_height(r, 2.0),
    ):  # fmt: skip
        alone = f(rates)
        assert alone.dtype == jnp.float32
        together = jax.jit(jax.vmap(f))(rates)
        assert np.allclose(together, alone, rtol=1e-6, equal_nan=True)
    slope = jax.grad(horizons.lyapunov)(-0.5)
    assert abs(float(slope) - np.log(1000) / 0.25) <= 1e-10


def test_bad_arguments():
    with pytest.raises(ValueError, match="`threshold` must lie strictly between 0 and 1"):
        horizons.lyapunov(0.1, threshold=2.0)
    with pytest.raises(ValueError, match="`dtype` must be one of bfloat16"):
        horizons.raw_product(0.1, "int8")
