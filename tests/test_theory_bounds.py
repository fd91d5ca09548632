"""Certificates, departure from normality, Kreiss constant, transient growth, Nielsen's window."""

import numpy as np
import pytest

from gradhorizon.theory import bounds, sigmoid_window

JORDAN = np.array([[0.9, 5.0], [0.0, 0.9]])


def grcar(n):
    return np.eye(n) + sum(np.eye(n, k=j) for j in (1, 2, 3)) - np.eye(n, k=-1)


def test_jordan_block_grows_nineteenfold_at_step_nine():
    peak = bounds.transient_growth(JORDAN)
    assert abs(np.exp(float(peak.log_peak)) - 19.378770) <= 1e-6
    assert int(peak.time) == 9
    powers = [np.linalg.norm(np.linalg.matrix_power(JORDAN, t), 2) for t in range(100)]
    assert abs(np.exp(float(peak.log_peak)) - max(powers)) <= 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_transient_growth_equals_explicit_powers(seed):
    A = np.random.default_rng(seed).normal(size=(5, 5))
    A *= 0.97 / np.abs(np.linalg.eigvals(A)).max()
    powers = [np.linalg.norm(np.linalg.matrix_power(A, t), 2) for t in range(513)]
    peak = bounds.transient_growth(A)
    assert int(peak.time) == int(np.argmax(powers))
    assert abs(np.exp(float(peak.log_peak)) / max(powers) - 1) <= 1e-12


def test_transient_growth_of_a_contraction_and_of_an_explosion():
    assert float(bounds.transient_growth(0.5 * np.eye(3)).log_peak) == 0.0
    peak = bounds.transient_growth(1e5 * np.eye(3))
    assert int(peak.time) == 512
    assert abs(float(peak.log_peak) / (512 * np.log(1e5)) - 1) <= 1e-13


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


def test_kreiss_of_the_jordan_block():
    """12.52 on the real axis; sandwiched by the largest power 19.38 and e n K = 68.07."""
    ours = float(bounds.kreiss(JORDAN))
    assert abs(ours - 12.52) <= 1e-5
    assert ours <= 19.378770 <= np.e * 2 * ours
    assert float(bounds.kreiss(1.01 * np.eye(2))) == np.inf


def test_grcar_matrix():
    """n = 32: spectral radius 2.249447777, 2-norm 3.222318496, Henrici departure 6.007086235."""
    A = grcar(32)
    assert abs(float(bounds.henrici_departure(A)) - 6.007086235) <= 1e-8
    rate = float(bounds.vanishing_certificate(A))
    assert abs(np.exp(rate) - 3.222318496) <= 1e-8


def test_henrici_of_normal_and_of_jordan():
    S = np.random.default_rng(0).normal(size=(4, 4))
    # √ of a difference of equal numbers: rounding enters with its square root
    size = np.linalg.norm(S + S.T)
    assert float(bounds.henrici_departure(S + S.T)) <= size * np.sqrt(100 * np.finfo(float).eps)
    assert abs(float(bounds.henrici_departure(JORDAN)) - 5.0) <= 1e-12


def test_nilpotent_shift_keeps_norm_one_until_it_dies():
    peak = bounds.transient_growth(np.eye(6, k=1))
    assert float(peak.log_peak) == pytest.approx(0.0, abs=1e-14)
    assert int(peak.time) == 0


@pytest.mark.usefixtures("unchecked_types")
def test_bad_matrices():
    for function in (bounds.kreiss, bounds.henrici_departure, bounds.transient_growth):
        with pytest.raises(
            ValueError, match=r"`A` must be a square matrix. Received float64\[2,3\]"
        ):
            function(np.ones((2, 3)))
    with pytest.raises(ValueError, match="`slope_bound` must be positive"):
        bounds.vanishing_certificate(np.eye(2), 0.0)


def test_widest_window():
    """0.447743204694 at |w| = 6.894151029; half of it is Hochreiter's bound 0.223871602347."""
    weight, width = (float(v) for v in sigmoid_window.widest())
    assert abs(width - 0.447743204694) <= 1e-11
    assert abs(weight - 6.894151029) <= 1e-8
    assert abs(float(sigmoid_window.width(weight)) - width) <= 1e-14
    grid = np.linspace(4, 30, 2601)
    assert np.max(np.asarray(sigmoid_window.width(grid))) <= width
    assert abs(float(sigmoid_window.width(20.0)) - 0.288727095) <= 1e-9
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
