"""HiPPO-LegS against Legendre integrals, exact fractions, matrix exponentials, the literature."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special

from gradhorizon.theory import bounds, hippo

EPS = np.finfo(float).eps


@pytest.mark.parametrize("power", [0, 1, 3])
def test_the_matrix_keeps_legendre_coefficients(power):
    """f = s^m has coefficients t^m c with (m - A) c = B, and c_n = ∫ u^m √(2n+1) P_n(2u-1) du."""
    n = 6
    ours = np.linalg.solve(power * np.eye(n) - hippo.legs(n), hippo.legs_inputs(n))
    for i in range(n):
        exact = scipy.integrate.quad(
            lambda u, i=i: (
                u**power * math.sqrt(2 * i + 1) * scipy.special.eval_legendre(i, 2 * u - 1)
            ),
            0,
            1,
        )[0]
        assert abs(ours[i] - exact) <= 1e-12


@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_eigenvectors_are_exact(n):
    A, values = np.asarray(hippo.legs(n)), np.asarray(hippo.legs_eigenvalues(n))
    vectors, _ = hippo.legs_eigenvectors(n)
    residual = np.linalg.norm(A @ vectors - vectors * values[None])
    assert residual <= 1e-12 * np.linalg.norm(A) * np.linalg.norm(vectors)
    assert np.allclose(np.diag(vectors), np.sqrt(2 * np.arange(n) + 1))


@pytest.mark.parametrize("n", [1, 5, 12])
def test_the_inverse_is_exact_in_fractions(n):
    """Entries without their roots are integers; two such matrices multiply to the identity."""
    vectors, inverse = (np.asarray(m) for m in hippo.legs_eigenvectors(n))
    q = np.sqrt(2 * np.arange(n) + 1)
    first, second = vectors / q[:, None], inverse * q[None, :]
    assert np.abs(first - np.rint(first)).max() <= 4 * EPS * np.abs(first).max()
    left = [[int(v) for v in row] for row in np.rint(first)]
    right = [[int(v) for v in row] for row in np.rint(second)]
    product = [
        [sum(left[i][k] * right[k][j] for k in range(n)) for j in range(n)] for i in range(n)
    ]
    assert product == [[int(i == j) for j in range(n)] for i in range(n)]


def test_plain_binomials_do_not_diagonalize_it():
    """The lemma is for another scaling of the polynomials: row i needs √(2i+1)."""
    n = 6
    vectors, _ = (np.asarray(m) for m in hippo.legs_eigenvectors(n))
    plain = vectors / np.sqrt(2 * np.arange(n) + 1)[:, None]
    A = np.asarray(hippo.legs(n))
    residual = np.linalg.norm(A @ plain + plain * np.arange(1.0, n + 1)[None])
    assert residual > 0.01 * np.linalg.norm(A @ plain)


@pytest.mark.parametrize(
    ("n", "largest", "departure"), [(8, 210, 41.327957), (16, 319770, 173.320512)]
)
def test_numbers_of_the_literature(n, largest, departure):
    assert hippo.largest_binomial(n) == largest <= 2 ** (4 * n / 3)
    assert abs(float(hippo.henrici_departure(n)) - departure) <= 5.1e-7
    A = np.asarray(hippo.legs(n))
    squares = np.sum(A**2) - np.sum(np.arange(1.0, n + 1) ** 2)
    assert abs(float(hippo.henrici_departure(n)) - math.sqrt(squares)) <= 1e-11
    binomials = [math.comb(i + j, i - j) for i in range(n) for j in range(i + 1)]
    assert hippo.largest_binomial(n) == max(binomials)


def test_departure_is_that_of_any_matrix():
    assert abs(hippo.henrici_departure(5) - bounds.henrici_departure(hippo.legs(5))) <= 1e-10


@pytest.mark.parametrize("n", [2, 7])
def test_nothing_grows_in_orthonormal_coordinates(n):
    A = np.asarray(hippo.legs(n))
    exact = np.array([-(1 + n**2) / 2, *([-0.5] * (n - 1))])
    assert np.abs(np.linalg.eigvalsh((A + A.T) / 2) - exact).max() <= 1e-12
    for t in (0.01, 0.3, 2.0):
        assert np.linalg.norm(scipy.linalg.expm(t * A), 2) <= math.exp(-t / 2) * (1 + 1e-12)


def test_the_slowest_mode_arrives_n_times_larger_than_its_rate_says():
    for n in (2, 4, 6):
        A = np.asarray(hippo.legs(n))
        size = np.linalg.norm(scipy.linalg.expm(25 * A), 2) * math.exp(25)
        assert abs(size / n - 1) <= 1e-6
        assert abs(float(hippo.eigenvalue_conditions(n)[0]) - n) <= 4 * n * EPS


def test_conditions_are_reached_by_the_worst_perturbation():
    """E = ε w vᵀ of unit norm moves λ_j by κ_j ε to first order."""
    n, size = 5, 1e-8
    vectors, inverse = (np.asarray(m) for m in hippo.legs_eigenvectors(n))
    conditions = np.asarray(hippo.eigenvalue_conditions(n))
    for j in range(n):
        left, right = inverse[j], vectors[:, j]
        worst = np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
        moved = np.linalg.eigvals(np.asarray(hippo.legs(n)) + size * worst)
        shift = np.min(np.abs(moved + (j + 1) - conditions[j] * size))
        assert shift <= 1e-4 * conditions[j] * size, j


@pytest.mark.parametrize("n", [1, 2, 9, 16])
def test_normal_part_has_half_as_its_real_part(n):
    root = np.sqrt(np.arange(n) + 0.5)
    normal = np.asarray(hippo.legs(n)) + np.outer(root, root)
    assert np.abs(normal @ normal.T - normal.T @ normal).max() <= 1e-10 * n**4
    exact = np.linalg.eigvals(normal)
    exact = exact[np.argsort(-exact.imag)]
    ours = np.asarray(hippo.normal_eigenvalues(n))
    assert np.abs(ours - exact).max() <= 1e-12 * n**2
    assert np.abs(ours.real + 0.5).max() == 0


def test_largest_frequency_grows_like_the_square_of_the_size():
    ratios = [float(hippo.normal_eigenvalues(n)[0].imag) * math.pi / n**2 for n in (16, 64, 128)]
    assert np.all(np.abs(np.array(ratios) - 1) <= 0.02)


# --- discretization ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", hippo.METHODS)
def test_matrix_and_eigenvalues_follow_one_rule(method):
    A = hippo.legs(6)
    step = hippo.discretize_matrix(A, 0.3, method=method)
    values = hippo.discretize(hippo.legs_eigenvalues(6), 0.3, method=method)
    assert np.abs(np.diag(step) - values).max() <= 1e-13  # triangular: its eigenvalues
    exact = {
        "zoh": lambda: scipy.linalg.expm(0.3 * np.asarray(A)),
        "bilinear": lambda: np.linalg.inv(np.eye(6) - 0.15 * A) @ (np.eye(6) + 0.15 * A),
        "euler": lambda: np.eye(6) + 0.3 * A,
        "backward": lambda: np.linalg.inv(np.eye(6) - 0.3 * A),
    }[method]()
    assert np.abs(step - exact).max() <= 1e-12


@pytest.mark.parametrize(("method", "order"), [("bilinear", 2), ("euler", 1), ("backward", 1)])
def test_order_against_the_exact_step(method, order):
    """Local error dt^(order + 1), global dt^order: halving dt divides it by 2^order."""
    rate = jnp.asarray(-1.0 + 2.0j)

    def error(steps):
        return abs(hippo.discretize(rate, 1 / steps, method=method) ** steps - np.exp(-1.0 + 2.0j))

    ratio = float(error(512) / error(1024))
    assert abs(ratio / 2**order - 1) <= 0.02


def test_stability():
    fast = jnp.asarray([-1.0, -100.0, -0.5 + 300j])
    for method in ("zoh", "bilinear", "backward"):
        assert np.all(np.abs(hippo.discretize(fast, 1.0, method=method)) < 1)
    assert abs(float(hippo.discretize(-1e6, 1.0, method="bilinear")) + 1) <= 1e-5
    # Euler: |1 - N dt| = 1 at dt = 2/N
    assert abs(float(hippo.discretize(-16.0, 2 / 16, method="euler"))) == 1


def test_dtypes_transformations_and_batches():
    low = jnp.asarray([-1.0, -2.0], jnp.float32)
    for method in hippo.METHODS:
        assert hippo.discretize(low, 0.1, method=method).dtype == jnp.float32
        step = hippo.discretize_matrix(jnp.eye(2, dtype=jnp.float32), 0.1, method=method)
        assert step.dtype == jnp.float32
    mixed = hippo.discretize(jnp.asarray(1j, jnp.complex64), 0.5)
    assert mixed.dtype == jnp.complex64
    steps = jnp.asarray([0.1, 0.2])
    batch = jax.jit(jax.vmap(lambda dt: hippo.discretize_matrix(hippo.legs(3), dt)))(steps)
    assert np.allclose(batch[1], scipy.linalg.expm(0.2 * np.asarray(hippo.legs(3))), rtol=1e-12)


# --- HiPPO's own recurrence --------------------------------------------------------------------


def rational_product(n, stop):
    """Multiply Π (I + A/k), k = 1 … stop, in fractions; A scaled to integers by a similarity."""
    A = [[-(2 * j + 1) * (i > j) - (i + 1) * (i == j) for j in range(n)] for i in range(n)]
    product = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]
    for k in range(1, stop + 1):
        factor = [
            [Fraction(int(i == j)) + Fraction(A[i][j], k) for j in range(n)] for i in range(n)
        ]
        product = [
            [sum(factor[i][m] * product[m][j] for m in range(n)) for j in range(n)]
            for i in range(n)
        ]
    return product


def test_recurrence_from_the_beginning_grows_by_binomials_and_then_vanishes():
    n = 7
    for stop in (0, 2, 3, 6):
        exact = [abs(rational_product(n, stop)[i][i]) for i in range(n)]
        assert exact == [abs(scipy.special.binom(i, stop)) for i in range(n)]
        ours = np.exp(hippo.recurrence_log_eigenvalues(n, 0, stop))
        assert np.allclose(ours, [float(v) for v in exact], rtol=1e-13, atol=0)
    # Cayley and Hamilton: the product of N factors is the characteristic polynomial of A
    assert all(v == 0 for row in rational_product(n, n) for v in row)
    assert np.all(np.isneginf(hippo.recurrence_log_eigenvalues(n, 0, n)))


def test_recurrence_forgets_by_a_power_far_out():
    logs = np.asarray(hippo.recurrence_log_eigenvalues(4, 1000, 4000))
    order = np.arange(1.0, 5.0)
    exact = [
        math.lgamma(4001 - j) - math.lgamma(4001) - math.lgamma(1001 - j) + math.lgamma(1001)
        for j in order
    ]
    assert np.abs(logs - exact).max() <= 1e-10
    assert np.abs(logs + order * math.log(4)).max() <= 16 / 1000


@pytest.mark.usefixtures("unchecked_types")
def test_errors():
    with pytest.raises(ValueError, match="`n` must be at least 1. Received 0"):
        hippo.legs(0)
    with pytest.raises(TypeError, match="`n` must be an integer"):
        hippo.legs_eigenvectors(2.5)
    with pytest.raises(ValueError, match="`method` must be one of zoh, bilinear, euler, backward"):
        hippo.discretize(-1.0, 0.1, method="tustin")
    with pytest.raises(ValueError, match="`method` must be one of"):
        hippo.discretize_matrix(np.eye(2), 0.1, method="foh")
    with pytest.raises(ValueError, match="`stop` must be at least 3"):
        hippo.recurrence_log_eigenvalues(2, 3, 2)
