"""Folds against printed values, root counting and iterated maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gradhorizon.theory import latch


@pytest.mark.parametrize(
    ("w", "bias"),
    [(1.1, 0.020481227178), (1.25, 0.077805169315), (1.5, 0.207546455322), (3.0, 1.303273908003)],
)
def test_tanh_latch_bias(w, bias):
    assert abs(float(latch.tanh_latch_bias(w)) - bias) <= 1e-10


def test_sigmoid_folds_at_five():
    """Pascanu et al. 2013, Fig. 3: |x| = ln((3 + √5)/2)."""
    folds = latch.sigmoid_folds(5.0)
    assert np.max(np.abs(folds.bias - jnp.array([-2.655610338631, -2.344389661369]))) <= 1e-10
    x = np.log((3 + np.sqrt(5)) / 2)
    assert np.max(np.abs(folds.state - jnp.array([x, -x]))) <= 1e-12


MAPS = {
    "tanh": (latch.tanh_folds, np.tanh, lambda a: np.cosh(a) ** -2.0, (1.1, 2.0, 7.0)),
    "sigmoid": (
        latch.sigmoid_folds,
        special.expit,
        lambda a: special.expit(a) * special.expit(-a),
        (4.2, 5.0, 12.0),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_folds_are_where_the_factor_is_one(name):
    find, function, slope, weights = MAPS[name]
    for w in weights:
        folds = find(w)
        a, b = np.asarray(folds.state), np.asarray(folds.bias)
        assert np.max(np.abs(w * slope(a) - 1)) <= 1e-12
        assert np.max(np.abs(w * function(a) + b - a)) <= 1e-12 * w
        h = 1e-4
        bend = w * (slope(a + h) - slope(a - h)) / (2 * h) / 2
        assert np.max(np.abs(np.abs(bend) - float(folds.curvature))) <= 1e-6
        assert bend[0] < 0 < bend[1]


@pytest.mark.parametrize("name", MAPS)
def test_three_fixed_points_between_the_folds_and_one_outside(name):
    find, function, _, weights = MAPS[name]
    for w in weights:
        low, high = np.asarray(find(w).bias)
        grid = np.linspace(-w - 2 * abs(low) - 1, w + 2 * abs(high) + 1, 200_001)
        width = high - low
        for b, count in (
            (low - 0.02 * width, 1), (low + 0.02 * width, 3), (high - 0.02 * width, 3),
            (high + 0.02 * width, 1),
        ):  # fmt: skip
            signs = np.sign(w * function(grid) + b - grid)
            assert np.sum(signs[1:] != signs[:-1]) == count


def test_no_folds_for_weak_weights():
    for w in (-3.0, 0.0, 1.0):
        assert np.all(np.isnan(latch.tanh_folds(w).bias))
        assert np.isnan(float(latch.tanh_latch_bias(w)))
    folds = latch.sigmoid_folds(jnp.array([3.0, 4.0, 6.0]))
    assert np.array_equal(np.isnan(folds.bias[:, 0]), [True, True, False])
    assert np.array_equal(np.isnan(folds.curvature), [True, True, False])
    gap = 1e-4  # h* → ⅔ (w - 1)^(3/2)
    assert abs(float(latch.tanh_latch_bias(1 + gap)) / (2 / 3 * gap**1.5) - 1) <= 2 * gap


def test_repeated_factor_at_the_symmetric_point():
    """(5/4)^50 = 70064.923216 by automatic differentiation of the map; exactly 1 at w = 4."""

    def last(x, w):
        for _ in range(50):
            x = w * jax.nn.sigmoid(x) - w / 2
        return x

    for w in (5.0, 4.0, 3.0):
        exact = float(jax.grad(last)(0.0, w))
        assert abs(float(jnp.exp(latch.symmetric_log_gradient(w, 50))) / exact - 1) <= 1e-12
    assert abs(np.exp(float(latch.symmetric_log_gradient(5.0, 50))) - 70064.923216) <= 1e-6
    assert float(latch.symmetric_log_gradient(4.0, 50)) == 0.0
    assert abs(float(latch.symmetric_log_gradient(2.0, 10**6)) + 10**6 * np.log(2)) <= 1e-6


def test_algebraic_decay_at_a_fold():
    """Iterate x' = 5 σ(x) + b at the fold from above: dx_t/dx_0 falls like t⁻², not e^-t."""
    folds = latch.sigmoid_folds(5.0)
    x0, b, c = float(folds.state[0]), float(folds.bias[0]), float(folds.curvature)
    distance = 0.01
    x, log_gradient = x0 + distance, 0.0
    for t in range(1, 100_001):
        s = special.expit(x)
        log_gradient += np.log(5 * s * (1 - s))
        x = 5 * s + b
        if t in (100, 10_000, 100_000):
            ours = float(latch.fold_gradient(c, distance, t))
            small = c * distance * np.log(1 + c * distance * t)
            assert abs(np.exp(log_gradient) / ours - 1) <= 8 * small
    assert -2.1 < log_gradient / np.log(c * distance * 1e5) < -1.9


def test_jit_vmap_grad_and_float32():
    weights = jnp.array([0.5, 1.5, 3.0])
    together = jax.jit(jax.vmap(latch.tanh_latch_bias))(weights)
    assert np.allclose(together, latch.tanh_latch_bias(weights), rtol=1e-14, equal_nan=True)
    # dh*/dw = tanh(a) at the fold, since the fold condition makes the other term vanish
    slope = jax.grad(latch.tanh_latch_bias)(3.0)
    assert abs(float(slope) - np.sqrt(1 - 1 / 3.0)) <= 1e-13
    low = jax.grad(lambda w: latch.sigmoid_folds(w).bias[0])(5.0)
    assert abs(float(low) + (1 + np.sqrt(1 - 4 / 5)) / 2) <= 1e-13
    folds = latch.sigmoid_folds(jnp.float32(5.0))
    assert {leaf.dtype for leaf in jax.tree.leaves(folds)} == {jnp.dtype("float32")}
    assert latch.symmetric_log_gradient(jnp.float32(5.0), 3).dtype == jnp.float32
    assert latch.fold_gradient(jnp.float32(0.2), 0.1, 10).dtype == jnp.float32


@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`steps` must be at least 0. Received -1"):
        latch.symmetric_log_gradient(5.0, -1)
    with pytest.raises(TypeError, match="`steps` must be an integer"):
        latch.symmetric_log_gradient(5.0, 2.5)
