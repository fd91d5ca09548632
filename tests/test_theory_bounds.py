"""Certificates, departure from normality and transient growth."""

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


def jordan(value, coupling):
    return np.array([[value, coupling], [0.0, value]])


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


FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "identity": lambda x: x,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": special.expit,
    "erf": special.erf,
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * special.expit(x),
}


def test_slope_bounds_are_the_largest_slopes():
    """Largest difference quotient on a fine grid: never above the bound, and close to it."""
    assert set(FUNCTIONS) == set(bounds.SLOPE_BOUNDS)
    step = 1e-4
    x = np.arange(-30, 30, step)
    for name, function in FUNCTIONS.items():
        largest = np.max(np.abs(np.diff(function(x)))) / step
        assert largest <= bounds.SLOPE_BOUNDS[name] * (1 + 1e-10), name
        # a quotient misses a smooth maximum by its curvature times step²/24
        tolerance = 1e-3 if name in ("softsign", "softplus") else 1e-8
        assert largest >= bounds.SLOPE_BOUNDS[name] - tolerance, name


def test_closed_forms_of_slope_bounds():
    """The stationary points of gelu' and silu', found by root search."""
    # φ'' of gelu is N(x) (2 - x²)
    x = optimize.brentq(lambda x: 2 - x**2, 1, 2, xtol=1e-15)
    slope = special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    assert abs(bounds.SLOPE_BOUNDS["gelu"] - slope) <= 1e-15
    x = optimize.brentq(lambda x: x * np.tanh(x / 2) - 2, 1, 4, xtol=1e-15)
    slope = special.expit(x) * (1 + x * special.expit(-x))
    assert abs(bounds.SLOPE_BOUNDS["silu"] - slope) <= 1e-15


def test_slope_bounds_agree_with_the_cells():
    from gradhorizon.cells import activations

    for name, activation in activations.KNOWN.items():
        assert bounds.SLOPE_BOUNDS[name] == activation.slope_bound


@pytest.mark.parametrize("leak", [0.1, 0.7, 1.0])
def test_leaky_certificate_is_never_violated(leak):
    """x' = (1 - l) x + l (W tanh x + u): the Jacobian is (1 - l) I + l W D."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=(12, 12))
    W *= 0.8 / np.linalg.norm(W, 2)
    rate = float(bounds.vanishing_certificate(W, leak=leak))
    assert abs(np.exp(rate) - (1 - leak + leak * 0.8)) <= 1e-14
    horizon = np.log(1e-3) / rate
    assert abs(float(bounds.certified_horizon(W, leak=leak)) / horizon - 1) <= 1e-13
    x, product = rng.normal(size=12), np.eye(12)
    for step in range(1, 80):
        slopes = 1 / np.cosh(x) ** 2
        product = ((1 - leak) * np.eye(12) + leak * W * slopes) @ product
        x = (1 - leak) * x + leak * (W @ np.tanh(x) + rng.normal(size=12))
        assert np.linalg.norm(product, 2) <= np.exp(step * rate) * (1 + 1e-12)


def test_hochreiter_bounds_every_path_and_is_weaker_than_pascanu():
    rng = np.random.default_rng(2)
    for n in (1, 3, 10):
        W = rng.uniform(-1, 1, size=(n, n))
        rate = float(bounds.hochreiter_certificate(W))
        assert abs(np.exp(rate) - n * np.abs(W).max() / 4) <= 1e-14
        assert rate >= float(bounds.vanishing_certificate(W, 0.25)) - 1e-14
        product = np.eye(n)
        for q in range(1, 12):
            product = rng.uniform(0, 0.25, size=n)[:, None] * (W @ product)
            assert np.abs(product).max() <= np.exp(q * rate) / n * (1 + 1e-12)
    # equality: all weights equal, all slopes at their maximum
    W = np.full((4, 4), 0.9)
    flow = np.linalg.matrix_power(W / 4, 5)
    rate = float(bounds.hochreiter_certificate(W))
    assert abs(flow.max() / (np.exp(5 * rate) / 4) - 1) <= 1e-13


def test_henrici_of_normal_and_of_jordan():
    S = np.random.default_rng(0).normal(size=(4, 4))
    # √ of a difference of equal numbers: rounding enters with its square root
    size = np.linalg.norm(S + S.T)
    assert float(bounds.henrici_departure(S + S.T)) <= size * np.sqrt(100 * np.finfo(float).eps)
    assert abs(float(bounds.henrici_departure(JORDAN)) - 5.0) <= 1e-12


def test_log_of_the_last_power_and_what_it_promises():
    """Below 1 it makes the peak the largest of all powers; JORDAN's 20th power is still above."""
    for horizon in (20, 100):
        found = bounds.transient_growth(JORDAN, horizon)
        last = np.linalg.norm(np.linalg.matrix_power(JORDAN, horizon), 2)
        assert abs(float(found.log_last) - np.log(last)) <= 1e-12


@pytest.mark.parametrize("n", [1, 2, 7])
def test_nilpotency_index(n):
    """The longest walk plus one; a permutation changes nothing, one cycle makes it 0."""
    order = np.random.default_rng(n).permutation(n)
    shift = np.eye(n, k=1)
    assert int(bounds.nilpotency_index(shift[order][:, order])) == n
    assert int(bounds.nilpotency_index(shift @ shift)) == (n + 1) // 2
    assert int(bounds.nilpotency_index(np.zeros((n, n)))) == 1
    shift[-1, 0] = 1e-300
    assert int(bounds.nilpotency_index(shift)) == 0


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
    with pytest.raises(ValueError, match="`slope_bound` must be positive"):
        bounds.hochreiter_certificate(np.eye(2), -1.0)
    with pytest.raises(ValueError, match=r"`leak` must lie in \(0, 1\]. Received 0.0"):
        bounds.vanishing_certificate(np.eye(2), leak=0.0)
    with pytest.raises(ValueError, match="`A` must be a square matrix"):
        bounds.numerical_radius(np.zeros((0, 0)))
