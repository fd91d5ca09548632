"""The numerical radius against dense scans, closed forms and the power inequality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradhorizon.theory import bounds


def dense_scan(A):
    """Give max over 4001 angles of the largest eigenvalue; low by at most (π/8000)²/2."""
    t = np.linspace(0, np.pi, 4001)[:, None, None]
    stack = np.cos(t) * (A + A.T) / 2 + 1j * np.sin(t) * (A - A.T) / 2
    return np.linalg.eigvalsh(stack)[:, -1].max()


def matrices():
    rng = np.random.default_rng(1)
    for i in range(8):
        A = rng.normal(size=(4, 4))
        yield np.triu(A) if i % 2 else A
    yield rng.normal(size=(1, 1))
    yield from rng.normal(size=(6, 2, 2))


@pytest.mark.parametrize("A", list(matrices()))
def test_numerical_radius_is_the_maximum(A):
    ours, scan = float(bounds.numerical_radius(A)), dense_scan(A)
    assert scan * (1 - 1e-13) <= ours <= scan * (1 + 1e-7)
    radius, norm = np.abs(np.linalg.eigvals(A)).max(), np.linalg.norm(A, 2)
    assert radius * (1 - 1e-12) <= ours <= norm * (1 + 1e-12)
    assert norm <= 2 * ours * (1 + 1e-12)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_shift_has_cos_of_pi_over_n_plus_one(n):
    exact = np.cos(np.pi / (n + 1))
    assert abs(float(bounds.numerical_radius(np.eye(n, k=1))) - exact) <= 1e-14


@pytest.mark.parametrize(("value", "coupling"), [(0.9, 5.0), (-0.7, 0.3), (0.0, 2.0)])
def test_jordan_block_has_a_disk(value, coupling):
    """The numerical range is the disk around λ of radius M/2."""
    A = np.array([[value, coupling], [0.0, value]])
    exact = abs(value) + coupling / 2
    assert abs(float(bounds.numerical_radius(A)) - exact) <= 1e-13


def test_elliptic_range_of_two_by_two():
    """[[a, b], [-b, c]]: foci are the eigenvalues; with a + c = 0 the ellipse is centered at 0."""
    A = np.array([[0.3, 1.4], [-0.2, -0.3]])
    values = np.linalg.eigvals(A)
    minor = np.sqrt(np.sum(A**2) - np.sum(np.abs(values) ** 2))  # full axis
    exact = np.sqrt(minor**2 / 4 + np.abs(values[0]) ** 2)
    assert abs(float(bounds.numerical_radius(A)) - exact) <= 1e-12


def test_normal_matrices_have_their_spectral_radius():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert abs(float(bounds.numerical_radius(Q)) - 1) <= 1e-13
    S = Q @ np.diag([0.3, -2.0, 1.0, 0.1]) @ Q.T
    assert abs(float(bounds.numerical_radius(S)) - 2) <= 1e-13
    assert float(bounds.numerical_radius(np.zeros((4, 4)))) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_power_inequality_bounds_all_powers(seed):
    """w(A^t) ≤ w(A)^t, hence ‖A^t‖ ≤ 2 w^t, where σ_1^t is far above."""
    A = np.triu(np.random.default_rng(seed).normal(size=(4, 4)))
    w, norm = float(bounds.numerical_radius(A)), np.linalg.norm(A, 2)
    for t in (2, 3, 7, 20):
        power = np.linalg.matrix_power(A, t)
        assert float(bounds.numerical_radius(power)) <= w**t * (1 + 1e-12)
        assert np.linalg.norm(power, 2) <= 2 * w**t * (1 + 1e-12)
    assert 2 * w**20 < norm**20


def test_it_does_not_bound_products_with_slopes():
    """Why no certificate for D_t W follows: there is a W and signs D with ρ(D W) > w(W)."""
    rng = np.random.default_rng(0)
    signs = np.diag([1.0, 1.0, -1.0, -1.0])
    excess = []
    for _ in range(50):
        W = rng.normal(size=(4, 4))
        w = float(bounds.numerical_radius(W))
        excess.append(np.abs(np.linalg.eigvals(signs @ W)).max() / w)
    assert max(excess) > 1.02


def test_scales_transforms_and_dtypes():
    A = np.random.default_rng(3).normal(size=(4, 4))
    w = float(bounds.numerical_radius(A))
    for scale in (1e-150, 1e150):
        assert abs(float(bounds.numerical_radius(scale * A)) / (scale * w) - 1) <= 1e-12
    single = bounds.numerical_radius(A.astype(np.float32))
    assert single.dtype == jnp.float32
    assert abs(float(single) / w - 1) <= 100 * 4 * np.finfo(np.float32).eps
    stack = jax.vmap(bounds.numerical_radius)(jnp.asarray(np.stack([A, 2 * A.T])))
    assert np.max(np.abs(np.asarray(stack) / [w, 2 * w] - 1)) <= 1e-12
