"""Certificates, departure from normality, Kreiss constant and transient growth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, optimize, special

from gradhorizon.theory import bounds

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


def test_transient_growth_notices_a_direction_that_takes_over_late():
    """Three early blocks outgrow the late one a thousandfold before it reaches its peak."""
    A = linalg.block_diag(*[jordan(0.97, 30.0)] * 3, jordan(0.995, 6.0))
    powers = [np.linalg.norm(np.linalg.matrix_power(A, t), 2) for t in range(513)]
    peak = bounds.transient_growth(A)
    assert int(peak.time) == int(np.argmax(powers)) > 100
    assert abs(np.exp(float(peak.log_peak)) / max(powers) - 1) <= 1e-12
    # in float32 what a frame carries of the late direction underflows on the way
    peak = bounds.transient_growth(A.astype(np.float32))
    assert abs(int(peak.time) - int(np.argmax(powers))) <= 2  # flat to 1e-5 around the peak
    bound = 10 * len(A) * int(peak.time) * np.finfo(np.float32).eps  # of a product of t factors
    assert abs(float(peak.log_peak) - np.log(max(powers))) <= bound


def test_transient_growth_to_a_horizon():
    """‖A^t‖_F² = λ^{2t} (2 + t² M²/λ²) gives the powers before the peak."""
    peak = bounds.transient_growth(JORDAN, 4)
    assert int(peak.time) == 4
    squared = 0.9**8 * (2 + 16 * 25 / 0.81)
    largest = np.exp(2 * float(peak.log_peak))
    # σ_1² + σ_2² is that norm, σ_1 σ_2 = det = λ^8
    assert abs(largest + 0.9**16 / largest - squared) <= 1e-12 * squared
    in_float32 = bounds.transient_growth(JORDAN.astype(np.float32))
    assert in_float32.log_peak.dtype == jnp.float32
    assert int(in_float32.time) == 9


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


def jordan(value, coupling):
    return np.array([[value, coupling], [0.0, value]])


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


def test_grcar_matrix():
    """n = 32: spectral radius 2.249447777, 2-norm 3.222318496, Henrici departure 6.007086235."""
    A = grcar(32)
    assert abs(float(bounds.henrici_departure(A)) - 6.007086235) <= 1e-8
    rate = float(bounds.vanishing_certificate(A))
    assert abs(np.exp(rate) - 3.222318496) <= 1e-8


@pytest.mark.parametrize(("n", "departure"), [(8, 41.327957), (16, 173.320512)])
def test_henrici_of_hippo(n, departure):
    """HiPPO-LegS: A_ik = -√((2i+1)(2k+1)) below, -(i+1) on the diagonal; eigenvalues -1 … -N."""
    i = np.arange(n)
    A = -np.tril(np.sqrt(np.outer(2 * i + 1, 2 * i + 1)), -1) - np.diag(i + 1.0)
    assert abs(float(bounds.henrici_departure(A)) - departure) <= 1e-6
    exact = np.sqrt(np.sum(A**2) - np.sum((i + 1.0) ** 2))
    assert abs(float(bounds.henrici_departure(A)) - exact) <= 1e-12 * exact


def test_certified_horizon():
    """ln(1/ε)/ln(1/(γ σ_1)); infinite as soon as γ σ_1 ≥ 1."""
    W = np.diag([2.0, 0.5])
    exact = np.log(1e3) / np.log(2.0)
    assert abs(float(bounds.certified_horizon(W, 0.25)) - exact) <= 1e-13
    assert float(bounds.certified_horizon(W, 0.5)) == np.inf
    assert float(bounds.certified_horizon(W, 1.0)) == np.inf
    assert float(bounds.certified_horizon(np.zeros((2, 2)))) == 0.0
    assert bounds.certified_horizon(W.astype(np.float32), jnp.float32(0.25)).dtype == jnp.float32


@pytest.mark.parametrize(("activation", "slope"), [("tanh", 1.0), ("sigmoid", 0.25)])
def test_certificate_is_never_violated(activation, slope):
    """Pascanu et al. 2013, eqs. 5-7: γ σ_1 = .95 bounds every backward step, whatever the input."""
    rng = np.random.default_rng(6)
    function = {"tanh": np.tanh, "sigmoid": special.expit}[activation]
    derivative = {
        "tanh": lambda x: 1 / np.cosh(x) ** 2,
        "sigmoid": lambda x: special.expit(x) * special.expit(-x),
    }[activation]
    assert bounds.SLOPE_BOUNDS[activation] == slope
    for _ in range(20):
        W = rng.normal(size=(20, 20))
        W *= 0.95 / slope / np.linalg.norm(W, 2)
        rate = float(bounds.vanishing_certificate(W, slope))
        x, jacobians = rng.normal(size=20), []
        for u in rng.normal(size=(60, 20)):
            jacobians.append(W * derivative(x))  # x' = W φ(x) + u
            x = W @ function(x) + u
        delta = rng.normal(size=20)
        size = np.linalg.norm(delta)
        for k, J in enumerate(reversed(jacobians), start=1):
            delta = J.T @ delta
            assert np.linalg.norm(delta) <= np.exp(k * rate) * size * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(bounds.SLOPE_BOUNDS))
def test_slope_bounds_are_the_largest_slopes(name):
    functions = {
        "tanh": jnp.tanh, "relu": jax.nn.relu, "identity": lambda x: x, "sigmoid": jax.nn.sigmoid,
        "hard_tanh": lambda x: jnp.clip(x, -1, 1), "erf": jax.scipy.special.erf,
    }  # fmt: skip
    x = jnp.linspace(-3, 3, 601)  # contains 0, or slopes of 1 next to it
    slopes = np.asarray(jax.vmap(jax.grad(functions[name]))(x))
    assert abs(slopes.max() - bounds.SLOPE_BOUNDS[name]) <= 1e-15


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
    with pytest.raises(TypeError, match=r"`A` must be real. Received complex128\[2,2\]"):
        bounds.henrici_departure(1j * np.eye(2))
    with pytest.raises(ValueError, match="`horizon` must be at least 1"):
        bounds.transient_growth(np.eye(2), 0)
    with pytest.raises(ValueError, match="`threshold` must lie strictly between 0 and 1"):
        bounds.certified_horizon(np.eye(2), threshold=1.0)
    with pytest.raises(ValueError, match="`slope_bound` must be positive"):
        bounds.vanishing_certificate(np.eye(2), 0.0)
