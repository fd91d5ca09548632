"""The Kreiss constant and the distance to instability, against dense scans and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, optimize

from gradhorizon.theory import bounds

JORDAN = np.array([[0.9, 5.0], [0.0, 0.9]])


def grcar(n):
    return np.eye(n) + sum(np.eye(n, k=j) for j in (1, 2, 3)) - np.eye(n, k=-1)


def jordan(value, coupling):
    return np.array([[value, coupling], [0.0, value]])


@pytest.mark.parametrize("seed", range(3))
def test_kreiss_sandwich(seed):
    """K ≤ sup ‖A^t‖ ≤ e n K for the true constant; ours bounds it from below."""
    A = np.random.default_rng(seed).normal(size=(4, 4))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    ours = float(bounds.kreiss(A))
    powers = max(np.linalg.norm(np.linalg.matrix_power(A, t), 2) for t in range(300))
    assert 1 <= ours <= powers * (1 + 1e-12)
    # a scan of the circle much finer than ours cannot beat it by more than one part in 1000
    z = (
        (1 + np.logspace(-3.5, 0.8, 120))[:, None] * np.exp(1j * np.linspace(0, np.pi, 180))
    ).ravel()
    smallest = np.linalg.svd(z[:, None, None] * np.eye(4) - A, compute_uv=False)[:, -1]
    assert np.max((np.abs(z) - 1) / smallest) <= ours * 1.001


def kreiss_of_jordan(value, coupling):
    """On the real axis ‖(zI - A)⁻¹‖ = (M + √(M² + 4a²))/(2a²), a = z - λ: a scan of one line."""

    def negative(log_excess):
        a = np.exp(log_excess) + 1 - value
        norm = (coupling + np.sqrt(coupling**2 + 4 * a**2)) / (2 * a**2)
        return -np.exp(log_excess) * norm

    found = optimize.minimize_scalar(negative, bounds=(-14, 3), method="bounded")
    return -found.fun


@pytest.mark.parametrize(("value", "coupling"), [(0.9, 5.0), (0.99, 0.3), (0.999, 0.01)])
def test_kreiss_of_jordan_blocks(value, coupling):
    exact = kreiss_of_jordan(value, coupling)
    assert exact * (1 - 1e-5) <= float(bounds.kreiss(jordan(value, coupling))) <= exact * (1 + 1e-9)


def test_kreiss_of_the_jordan_block_bounds_its_largest_power():
    """12.52 ≤ 19.38 ≤ e n K = 68.07."""
    ours = float(bounds.kreiss(JORDAN))
    assert round(ours, 2) == 12.52
    assert ours <= 19.378770 <= np.e * 2 * ours
    assert round(np.e * 2 * ours, 2) == 68.07
    assert float(bounds.kreiss(1.01 * np.eye(2))) == np.inf


@pytest.mark.parametrize("angle", [0.3, 0.7, 1.03, 2.9])
@pytest.mark.parametrize("value", [0.99, 0.999])
def test_kreiss_finds_narrow_peaks_at_every_angle(angle, value):
    """The real form of two Jordan blocks, at λ e^{±iθ}."""
    c, s = value * np.cos(angle), value * np.sin(angle)
    R = np.array([[c, -s], [s, c]])
    coupling = 30 * (1 - value)
    A = np.block([[R, coupling * np.eye(2)], [np.zeros((2, 2)), R]])
    exact = kreiss_of_jordan(value, coupling)
    assert exact * (1 - 1e-5) <= float(bounds.kreiss(A)) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_kreiss_of_orthogonal_matrices_is_one(seed):
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    for dtype in (np.float32, np.float64):
        assert float(bounds.kreiss(Q.astype(dtype))) == 1.0


def test_kreiss_in_float32_stays_a_lower_bound():
    for M in (JORDAN, 0.97 * np.eye(8) + np.eye(8, k=1)):
        powers = max(np.linalg.norm(np.linalg.matrix_power(M, t), 2) for t in range(600))
        ours = bounds.kreiss(M.astype(np.float32))
        assert ours.dtype == jnp.float32
        assert 1 < float(ours) <= powers


def dense_scan(A):
    """Give K by a scan of 25 × 60 points and a simplex search from the best three."""
    n, T = len(A), linalg.schur(A, output="complex")[0]

    def negative(point):
        z = (1 + np.exp(point[0])) * np.exp(1j * point[1])
        return -np.exp(point[0]) / np.linalg.svd(z * np.eye(n) - T, compute_uv=False)[-1]

    low = np.log((1 - np.abs(np.diag(T)).max()) / (4 * n))
    points = [(s, t) for s in np.linspace(low, 2, 25) for t in np.linspace(0, np.pi, 60)]
    order = np.argsort([negative(p) for p in points])[:9:4]
    options = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 200}
    search = [optimize.minimize(negative, points[i], method="Nelder-Mead", options=options)
              for i in order]  # fmt: skip
    return max(1.0, -min(found.fun for found in search))


def hard_matrices():
    rng = np.random.default_rng(5)
    G = grcar(16)
    yield "grcar", G * (0.98 / np.abs(np.linalg.eigvals(G)).max())
    for i in range(2):
        yield (
            f"triangular {i}",
            np.triu(0.6 * rng.normal(size=(16, 16)), 1) + np.diag(rng.uniform(-0.97, 0.97, 16)),
        )
    T = np.triu(0.5 * rng.normal(size=(16, 16)), 2)
    for i in range(0, 16, 2):
        c = rng.uniform(0.9, 0.99) * np.exp(1j * rng.uniform(0, np.pi))
        T[i : i + 2, i : i + 2] = [[c.real, -c.imag], [c.imag, c.real]]
    Q = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    yield "rotations, coupled", Q @ T @ Q.T


@pytest.mark.parametrize(("name", "A"), list(hard_matrices()))
def test_kreiss_is_close_to_the_supremum_and_never_above(name, A):
    exact = dense_scan(A)
    assert exact * (1 - 1e-3) <= float(bounds.kreiss(A)) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_kreiss_peaks_at_an_angle_that_no_eigenvalue_has(sign):
    """All eigenvalues are 0; all powers of a positive matrix add up at z > 0, or at z < 0."""
    A = sign * np.triu(np.full((16, 16), 0.3), 1) + 0.0  # no -0, whose angle is π

    def negative(s):
        resolvent = np.linalg.inv(sign * (1 + np.exp(s)) * np.eye(16) - A)
        return -np.exp(s) * np.linalg.norm(resolvent, 2)

    exact = -optimize.minimize_scalar(negative, bounds=(-6, 3), method="bounded").fun
    assert exact > 2
    assert exact * (1 - 1e-4) <= float(bounds.kreiss(A)) <= exact * (1 + 1e-9)


def test_rounding_in_float32_never_lifts_the_bound():
    """σ_min of about 1e-6 is known to 10 % in float32; float64 sees the same matrix exactly."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        t = rng.uniform(0, np.pi)
        Q = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        A = (Q @ jordan(1 - 1e-4, 1e-2) @ Q.T).astype(np.float32)
        exact = float(bounds.kreiss(A.astype(np.float64)))
        assert exact > 5
        assert 0.5 * exact <= float(bounds.kreiss(A)) <= exact * (1 + 1e-6)


def test_kreiss_under_vmap_and_of_large_entries():
    stack = jnp.asarray(np.stack([JORDAN, 0.5 * np.eye(2), 3 * np.eye(2)]))
    found = jax.vmap(bounds.kreiss)(stack)
    assert abs(float(found[0]) - 12.52) <= 1e-5
    assert found[1:].tolist() == [1.0, np.inf]
    # x M/(1 + x)² is M/4 at x = 1; σ_min = 4/M there is raised by n eps M
    large = float(bounds.kreiss(np.array([[0.0, 1e6], [0.0, 0.0]])))
    lowered = 2 * np.finfo(float).eps * 1e12 / 4
    assert 1 - 1.1 * lowered <= large / 2.5e5 <= 1 + 1e-9


@pytest.mark.parametrize("neutral", [1.0, 0.999, 0.5])
def test_an_eigenvalue_outside_makes_kreiss_infinite(neutral):
    """Also if another lies on the circle, and only if it is outside beyond rounding."""
    assert float(bounds.kreiss(np.diag([1.5, neutral]))) == np.inf
    assert float(bounds.kreiss(np.diag([1 + 1e-9, neutral]))) == np.inf
    assert float(bounds.kreiss(np.diag([1 + 1e-16, neutral]))) == 1.0


def test_stability_radius_of_normal_matrices_is_the_distance_of_the_spectrum():
    rng = np.random.default_rng(0)
    for _ in range(3):
        Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
        moduli, angles = rng.uniform(0.1, 1.6, 3), rng.uniform(0, np.pi, 3)
        blocks = [m * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
                  for m, t in zip(moduli, angles, strict=True)]  # fmt: skip
        A = Q @ linalg.block_diag(*blocks) @ Q.T
        exact = np.min(np.abs(1 - moduli))
        assert abs(float(bounds.stability_radius(A)) - exact) <= 1e-6


@pytest.mark.parametrize(("value", "coupling"), [(0.9, 5.0), (0.99, 0.3), (0.5, 0.0)])
def test_stability_radius_of_jordan_blocks(value, coupling):
    """σ_min of [[d, -M], [0, d]] with d = 1 - λ."""
    d = 1 - value
    exact = (np.sqrt(coupling**2 + 4 * d**2) - coupling) / 2
    assert abs(float(bounds.stability_radius(jordan(value, coupling))) / exact - 1) <= 1e-9


def test_a_perturbation_of_the_stability_radius_reaches_the_circle():
    """E = -σ u v*, from the singular vectors where a fine scan finds the smallest σ."""
    A = 0.98 / 2.3 * grcar(12)
    radius = float(bounds.stability_radius(A))
    z = np.exp(1j * np.linspace(0, np.pi, 4001))
    sizes = np.linalg.svd(z[:, None, None] * np.eye(12) - A, compute_uv=False)[:, -1]
    assert sizes.min() * (1 - 1e-4) <= radius <= sizes.min() * (1 + 1e-6)
    u, s, vh = np.linalg.svd(z[sizes.argmin()] * np.eye(12) - A)
    moved = np.linalg.eigvals(A + s[-1] * np.outer(u[:, -1], vh[-1]))
    assert np.min(np.abs(moved - z[sizes.argmin()])) <= 1e-6
