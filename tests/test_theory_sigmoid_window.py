"""Nielsen's window and Hochreiter's self-loop against scans, root finding and printed numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from gradhorizon.theory import sigmoid_window


def test_widest_window():
    """0.447743204694 at |w| = 6.894151029; half of it is Hochreiter's bound 0.223871602347."""
    weight, width = (float(v) for v in sigmoid_window.widest())
    assert abs(width - 0.447743204694) <= 1e-11
    assert abs(weight - 6.894151029) <= 1e-8
    assert abs(float(sigmoid_window.width(weight)) - width) <= 1e-14
    grid = np.linspace(4, 30, 2601)
    assert np.max(np.asarray(sigmoid_window.width(grid))) <= width
    assert abs(float(sigmoid_window.width(20.0)) - 0.288727095) <= 1e-9
    assert abs(float(sigmoid_window.width(4.5)) - 0.308065413) <= 1e-9
    assert float(sigmoid_window.width(4.0)) == 0.0
    assert float(sigmoid_window.width(3.99)) == 0.0


@pytest.mark.parametrize("w", [4.5, 6.9, -12.0])
def test_window_is_where_the_factor_reaches_one(w):
    b = 0.7
    a = np.linspace(-2, 2, 400_001)
    inside = np.abs(np.asarray(sigmoid_window.factor(w, a, b))) >= 1
    measured = inside.sum() * (a[1] - a[0])
    assert abs(float(sigmoid_window.width(w)) - measured) <= 2 * (a[1] - a[0])


def test_nielsens_example_of_exploding_factors():
    """w = 100, z = 0: every factor is exactly 25."""
    w, z = 100.0, 0.3
    assert abs(float(sigmoid_window.factor(w, z, -w * z)) - 25.0) <= 1e-12
    # three layers more are 25³ = 15625 times as much
    assert abs(float(sigmoid_window.factor(w, z, -w * z)) ** 3 / 15625 - 1) <= 1e-12


@pytest.mark.parametrize("weight", [4.01, 5.0, 6.9, 100.0])
def test_width_by_root_finding(weight):
    """Half the width is where w σ'(w a) = 1; also (4/w) arcosh(√w/2)."""
    excess = lambda a: weight * special.expit(weight * a) * special.expit(-weight * a) - 1  # noqa: E731
    edge = optimize.brentq(excess, 0, 5, xtol=1e-15)
    assert abs(float(sigmoid_window.width(weight)) - 2 * edge) <= 1e-12
    assert (
        abs(float(sigmoid_window.width(-weight)) - 4 / weight * np.arccosh(weight**0.5 / 2))
        <= 1e-13
    )


def test_width_differentiates_everywhere():
    slope = jax.vmap(jax.grad(sigmoid_window.width))
    best, _ = sigmoid_window.widest()
    ours = slope(jnp.stack([jnp.asarray(0.0), jnp.asarray(3.0), jnp.asarray(4.0), best]))
    assert np.array_equal(ours[:3], np.zeros(3))
    assert abs(float(ours[3])) <= 1e-15  # flat at the widest


@pytest.mark.parametrize(
    ("y", "factor"),
    [(1.0, 0.2238716023), (0.5, 0.4477432047), (-0.25, 0.8954864094), (0.2, 1.1193580117)],
)
def test_largest_self_loop_factor(y, factor):
    """Hochreiter & Schmidhuber 1997, section 3.1; and a scan over the weight."""
    ours = float(sigmoid_window.largest_self_loop_factor(y))
    assert abs(ours - factor) <= 1e-10
    w = np.linspace(0, 20 / abs(y), 20_001)
    scanned = np.abs(w * special.expit(w * y) * special.expit(-w * y)).max()
    assert scanned <= ours * (1 + 1e-15)
    assert abs(scanned / ours - 1) <= 1e-6


def test_float32_in_float32_out():
    five = jnp.float32(5.0)
    assert sigmoid_window.width(five).dtype == jnp.float32
    assert sigmoid_window.factor(five, 0.1, 0).dtype == jnp.float32
    assert sigmoid_window.largest_self_loop_factor(five).dtype == jnp.float32
