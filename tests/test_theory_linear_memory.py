"""Linear recurrences against the stationary Lyapunov equation, series and adaptive integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, stats

from gradhorizon.theory import linear_memory as memory

ROWS = [
    (0.0, 0.9, 5.2631578947, 263.8868639743),
    (0.9, 0.9, 50.1385041551, 3756.9539828577),
    (0.999, 0.5, 3.9946719947, 15.9668621607),
]  # ρ, λ, E h², E (dh/dλ)²


def stationary(rho, lam):
    """Solve X = A X A^H + (1 - ρ²) B B^T for (x, h, dh/dλ)."""
    A = np.array([[rho, 0, 0], [rho, lam, 0], [0, 1, lam]])
    B = np.array([[1.0], [1.0], [0.0]])
    X = linalg.solve_discrete_lyapunov(A, (1 - rho**2) * B @ B.T)
    return X[1, 1].real, X[2, 2].real


@pytest.mark.parametrize(("rho", "lam", "state", "sensitivity"), ROWS)
def test_published_rows(rho, lam, state, sensitivity):
    assert abs(float(memory.ar1_state_moment(lam, rho)) / state - 1) <= 1e-10
    assert abs(float(memory.ar1_sensitivity_moment(lam, rho)) / sensitivity - 1) <= 1e-10


@pytest.mark.parametrize("lam", [0.0, 0.5, -0.8, 0.99, 0.3 + 0.8j, -0.6j])
@pytest.mark.parametrize("rho", [0.0, 0.9, -0.5])
def test_lyapunov_equation(lam, rho):
    state, sensitivity = stationary(rho, lam)
    assert abs(float(memory.ar1_state_moment(lam, rho)) / state - 1) <= 1e-9
    assert abs(float(memory.ar1_sensitivity_moment(lam, rho)) / sensitivity - 1) <= 1e-9


@pytest.mark.parametrize("lam", [0.7, -0.8, 0.3 + 0.8j])
def test_any_autocovariance_by_double_sums(lam):
    """An oscillating one, and E|h|² = Σ_jk λ^j conj(λ)^k R_(j-k) to 600 terms."""
    d = np.arange(400)
    R = 2.0 * 0.85**d * np.cos(0.7 * d)
    power = np.power(lam, np.arange(600))
    slope = np.concatenate([[0], np.arange(1, 600) * power[:-1]])
    full = linalg.toeplitz(np.concatenate([R, np.zeros(200)]))
    for ours, u in ((memory.state_moment, power), (memory.sensitivity_moment, slope)):
        exact = (u @ full @ np.conj(u)).real
        assert abs(float(ours(lam, R)) / exact - 1) <= 1e-11


def test_ar1_is_the_geometric_autocovariance():
    lams = jnp.array([0.2, -0.9, 0.97])
    R = 0.9 ** np.arange(800)
    for general, special in (
        (memory.state_moment, memory.ar1_state_moment),
        (memory.sensitivity_moment, memory.ar1_sensitivity_moment),
    ):
        ours = np.asarray(general(lams, R))
        assert np.max(np.abs(ours / np.asarray(special(lams, 0.9)) - 1)) <= 1e-12


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_curse_of_memory(rho):
    """E (dh/dλ)² (1 - λ)³ → (1 + ρ)/(4 (1 - ρ)), though |dh'/dh| = λ < 1."""
    gap = 1e-6
    ours = float(memory.ar1_sensitivity_moment(1 - gap, rho)) * gap**3
    assert abs(ours / ((1 + rho) / (1 - rho) / 4) - 1) <= 30 * gap
    # a constant input, ρ = 1: E h² = 1/(1-λ)², E (dh/dλ)² = 1/(1-λ)⁴
    assert abs(float(memory.ar1_state_moment(0.75, 1.0)) - 16) <= 1e-12
    assert abs(float(memory.ar1_sensitivity_moment(0.75, 1.0)) - 256) <= 1e-10


def test_no_stationary_law_beyond_the_circle():
    for lam in (1.0, -1.2, 0.8 + 0.6j, 1j):
        assert np.isnan(float(memory.ar1_state_moment(lam, 0.5)))
        assert np.isnan(float(memory.sensitivity_moment(lam, [1.0])))


def test_sensitivity_against_automatic_differentiation():
    """E (dh/dλ)² at ρ = λ = .9 from 2000 sequences of 300 steps, within 4 standard errors."""
    rho, lam, steps, runs = 0.9, 0.9, 300, 2000
    noise = np.random.default_rng(0).normal(size=(steps, runs))
    x = np.zeros((steps, runs))
    x[0] = noise[0]
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    x = jnp.asarray(x)

    def last(lam):
        return jax.lax.scan(lambda h, row: (lam * h + row, None), jnp.zeros(runs), x)[0]

    h, slope = jax.jvp(last, (lam,), (1.0,))
    for sample, exact in (
        (h, memory.ar1_state_moment(lam, rho)),
        (slope, memory.ar1_sensitivity_moment(lam, rho)),
    ):
        squares = np.asarray(sample) ** 2
        error = squares.std() / np.sqrt(runs)
        assert abs(squares.mean() - float(exact)) <= 4 * error


@pytest.mark.parametrize(("lam", "teacher"), [(0.3, 0.9), (-0.5, 0.99), (0.9, 0.9)])
def test_teacher_loss(lam, teacher):
    printed = 0.5 * (1 / (1 - lam**2) + 1 / (1 - teacher**2) - 2 / (1 - lam * teacher))
    assert abs(float(memory.teacher_loss(lam, teacher)) - printed) <= 1e-13 / (1 - teacher)
    curvature = jax.grad(jax.grad(memory.teacher_loss))(teacher, teacher)
    exact = float(memory.sensitivity_moment(teacher, [1.0]))
    assert abs(float(curvature) / exact - 1) <= 1e-11
    near = float(memory.teacher_loss(teacher + 1e-9, teacher))  # the printed form gives noise
    assert abs(near / (0.5 * exact * 1e-18) - 1) <= 1e-6


def test_horizons():
    """9.49, 99.5, 999.5 steps (Orvieto et al. 2023); S4D-Lin forgets by e in 2/Δ steps."""
    for lam, steps in ((0.9, 9.4912215810), (0.99, 99.4991624791), (0.999, 999.4999166)):
        assert abs(float(memory.horizon(lam)) - steps) <= 1e-6
        assert abs(float(memory.horizon(-1j * lam)) - steps) <= 1e-6
    assert float(memory.horizon(1.0)) == np.inf
    assert abs(float(memory.horizon(jnp.e)) + 1) <= 1e-14
    step = 0.01
    lam = np.exp(step * (-0.5 + 1j * np.pi * 3))
    assert abs(float(memory.s4d_horizon(step)) - float(memory.horizon(lam))) <= 1e-9
    assert abs(float(memory.s4d_horizon(step, 2.0)) - 50) <= 1e-12


def test_lru_ring_is_uniform():
    """|λ|² from uniform u is uniform on [r_min², r_max²]: the inverse map, and its ends."""
    u = jnp.linspace(0.01, 0.99, 99)
    nu = memory.lru_nu(u, 0.6, 0.95)
    lam = memory.lru_eigenvalue(nu, jnp.full(99, 0.3))
    squared = np.abs(np.asarray(lam)) ** 2
    assert np.max(np.abs(squared - (0.36 + u * (0.9025 - 0.36)))) <= 1e-14
    assert np.max(np.abs(np.angle(lam) - np.exp(0.3))) <= 1e-13
    gamma = np.asarray(memory.lru_normalization(nu))
    state = np.asarray(memory.state_moment(lam, [1.0]))
    assert np.max(np.abs(gamma**2 * state - 1)) <= 1e-13
    drawn = memory.lru_nu(jax.random.uniform(jax.random.key(0), (4000,)), 0.0, 1.0)
    sample = np.exp(-2 * np.exp(np.asarray(drawn)))
    assert stats.kstest(sample, "uniform").pvalue > 0.01


def test_lru_parametrization_lifts_the_curse():
    """The gradient in ν by the chain rule in plain NumPy; its limit ½ (1 + ρ)/(1 - ρ)."""
    for nu, rho in ((-2.0, 0.5), (0.3, -0.4), (-5.0, 0.9)):
        lam = np.exp(-np.exp(nu))
        slope = -lam * np.exp(nu)  # dλ/dν
        exact = (1 - lam**2) * slope**2 * stationary(rho, lam)[1]
        assert abs(float(memory.lru_sensitivity_moment(nu, rho)) / exact - 1) <= 1e-9
    limit = float(memory.lru_sensitivity_moment(np.log(1e-9), 0.5))
    assert abs(limit - 1.5) <= 1e-7
    lams = 1 - np.logspace(-6, -1, 6)
    ours = np.asarray(memory.lru_sensitivity_moment(np.log(-np.log(lams))))
    assert ours.min() > 0.4
    assert ours.max() < 0.6


def test_spectral_density_gives_the_same_moments():
    """E h² = (1/2π) ∫ f(ω)/|1 - λ e^{-iω}|² dω, and with the fourth power for dh/dλ."""
    lam, rho = 0.8, 0.6
    density = lambda w: (1 - rho**2) / abs(1 - rho * np.exp(-1j * w)) ** 2  # noqa: E731
    for power, ours in ((2, memory.ar1_state_moment), (4, memory.ar1_sensitivity_moment)):
        f = lambda w: density(w) / abs(1 - lam * np.exp(-1j * w)) ** power / np.pi  # noqa: B023, E731
        exact = integrate.quad(f, 0, np.pi, epsabs=1e-13, epsrel=1e-12)[0]
        assert abs(float(ours(lam, rho)) / exact - 1) <= 1e-11


def test_dtypes_jit_vmap_grad():
    half = jnp.float32(0.5)
    complex_half = jnp.complex64(0.5 + 0.1j)
    for value in (
        memory.ar1_state_moment(half, 0.3),
        memory.sensitivity_moment(complex_half, jnp.array([1.0, 0.2], jnp.float32)),
        memory.teacher_loss(half, 0.2),
        memory.horizon(complex_half),
        memory.lru_nu(half, 0.0, 1.0),
        memory.lru_normalization(half),
        memory.lru_sensitivity_moment(half),
        memory.s4d_horizon(half),
    ):
        assert value.dtype == jnp.float32
    assert memory.lru_eigenvalue(half, half).dtype == jnp.complex64
    lams = jnp.array([0.1, 0.7])
    f = lambda lam: memory.sensitivity_moment(lam, jnp.array([1.0, 0.4, 0.1]))  # noqa: E731
    assert np.allclose(jax.jit(jax.vmap(f))(lams), f(lams), rtol=1e-14)
    central = (f(0.7 + 1e-6) - f(0.7 - 1e-6)) / 2e-6
    assert abs(float(jax.grad(f)(0.7)) / float(central) - 1) <= 1e-7


def test_bad_arguments():
    with pytest.raises(ValueError, match="`autocovariance` must be the vector R_0"):
        memory.state_moment(0.5, 1.0)
    with pytest.raises(ValueError, match="`step` must be positive. Received 0.0"):
        memory.s4d_horizon(0.0)
