"""Remedies against closed forms: scaled orthogonal chains, linear networks, Pascanu's Ω."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

EPS = np.finfo(float).eps


def orthogonal(n, seed=0):
    return gh.inits.orthogonal()(jax.random.key(seed), (n, n), np.float64)


def test_critical_gain_of_a_linear_network_is_one_over_the_spectral_radius():
    """A real dominant eigenvalue; burn-in aligns the tangent, 1/T remains nowhere."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    W = basis @ np.diag([1.7, 0.9, 0.5, -0.4, 0.2, 0.1]) @ basis.T
    found = gh.remedies.critical_gain(
        lambda gain: gain * W, lambda W, h, x: W @ h, np.ones(6), length=2000, tolerance=1e-6
    )
    # the first 100 steps align the tangent to (0.9/1.7)^100 = 1e-28
    assert abs(found.gain * 1.7 - 1) <= 2e-6
    assert abs(float(found.exponent)) <= 2e-6


def test_critical_gain_for_another_target():
    Q = orthogonal(5)
    found = gh.remedies.critical_gain(
        lambda gain: gain * Q, lambda W, h, x: W @ h, jnp.ones(5), target=-0.3, length=60
    )
    assert abs(np.log(found.gain) + 0.3) <= 2e-4


def test_critical_gain_of_a_driven_tanh_network_balances_it():
    W = gh.inits.gaussian()(jax.random.key(1), (24, 24), np.float64)
    xs = 0.5 * jax.random.normal(jax.random.key(2), (600, 24))

    def step(W, h, x):
        return jnp.tanh(W @ h + x)

    found = gh.remedies.critical_gain(lambda g: g * W, step, jnp.zeros(24), xs)
    assert found.gain > 1
    assert found.evaluations < 40
    spectrum = gh.lyapunov_spectrum(
        gh.jacobian_chain(step, found.gain * W, jnp.zeros(24), xs), 1, burn_in=60
    )
    assert abs(float(spectrum.exponents[0])) <= 1e-3


def test_critical_gain_outside_the_bracket_is_refused():
    Q = orthogonal(3)
    with pytest.raises(ValueError, match=r"`bracket` must enclose the target 0\. Received expon"):
        gh.remedies.critical_gain(
            lambda g: g * Q, lambda W, h, x: W @ h, jnp.ones(3), length=20, bracket=(2.0, 3.0)
        )
    with pytest.raises(ValueError, match="`bracket` must be two increasing positive gains"):
        gh.remedies.critical_gain(
            lambda g: g * Q, lambda W, h, x: W @ h, jnp.ones(3), length=20, bracket=(3.0, 2.0)
        )


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3])
def test_omega_of_a_scaled_orthogonal_chain(alpha):
    """Ω = T (α - 1)² and dΩ/dα = 2T (α - 1) (Pascanu et al. 2013, eq. 9)."""
    Q, steps = orthogonal(4), 12

    def omega(a):
        return gh.remedies.omega_penalty(jnp.broadcast_to(a * Q, (steps, 4, 4)), jnp.ones(4))

    assert abs(float(omega(alpha)) - steps * (alpha - 1) ** 2) <= 1e-12
    assert abs(float(jax.grad(omega)(alpha)) - 2 * steps * (alpha - 1)) <= 1e-12


def test_omega_holds_states_and_adjoints_constant():
    """Immediate derivative only: Σ_t of the derivative of each term with δ_t frozen."""
    W = np.random.default_rng(0).normal(size=(3, 3))
    direction = np.random.default_rng(1).normal(size=(3, 3))
    u = np.array([1.0, -2.0, 0.5])

    def omega(s):
        J = jnp.broadcast_to(W + s * direction, (5, 3, 3))
        return gh.remedies.omega_penalty(J, u)

    expected, delta = 0.0, u / np.linalg.norm(u)
    for _ in range(5):
        pulled = W.T @ delta
        size = np.linalg.norm(pulled)
        expected += 2 * (size - 1) * pulled @ (direction.T @ delta) / size
        delta = pulled / size
    assert abs(float(jax.grad(omega)(0.0)) - expected) <= 1e-12 * max(1, abs(expected))


def test_flossing_loss_of_a_scaled_orthogonal_chain():
    """λ_i = ln g for all i: loss (ln g)² and derivative 2 ln g / g (Engelken 2023)."""
    Q = orthogonal(4, 3)

    def loss(g):
        return gh.remedies.flossing_loss(jnp.broadcast_to(g * Q, (30, 4, 4)), 3)

    for g in (0.6, 1.0, 1.8):
        assert abs(float(loss(g)) - np.log(g) ** 2) <= 1e-12
        assert abs(float(jax.grad(loss)(g)) - 2 * np.log(g) / g) <= 1e-10


def test_flossing_descends_towards_zero_exponents():
    W = gh.inits.gaussian(0.6)(jax.random.key(0), (6, 6), np.float64)
    xs = jax.random.normal(jax.random.key(1), (20, 6))

    def loss(W):
        chain = gh.jacobian_chain(lambda W, h, x: jnp.tanh(W @ h + 0.3 * x), W, jnp.zeros(6), xs)
        return gh.remedies.flossing_loss(chain, 2)

    before = float(loss(W))
    descend = jax.jit(jax.grad(loss))
    for _ in range(40):
        W = W - 0.2 * descend(W)
    assert float(loss(W)) < 0.1 * before


def test_orthogonality_penalty_and_rescale():
    assert float(gh.remedies.orthogonality_penalty(orthogonal(5))) <= 100 * EPS
    A = np.random.default_rng(0).normal(size=(7, 7))
    scaled = gh.remedies.rescale(A, spectral_radius=0.9)
    assert abs(np.abs(np.linalg.eigvals(scaled)).max() - 0.9) <= 1e-13
    scaled = gh.remedies.rescale(A, largest_singular_value=0.5)
    assert abs(np.linalg.norm(scaled, 2) - 0.5) <= 1e-13
    with pytest.raises(ValueError, match="`spectral_radius` must be given alone"):
        gh.remedies.rescale(A)
    with pytest.raises(ValueError, match=r"`W` must have a positive size to scale. Received 0\.0"):
        gh.remedies.rescale(np.eye(3, k=1), spectral_radius=1.0)


def test_adding_task_baseline():
    """Always answering 1 has mean squared error 1/6."""
    task = gh.tasks.adding(jax.random.key(0), 20_000, 12)
    square = (np.asarray(task.labels) - 1) ** 2
    assert abs(square.mean() - 1 / 6) <= 4 * square.std() / np.sqrt(20_000)
    markers = np.asarray(task.xs[:, :, 1])
    assert np.all(markers[:, :6].sum(axis=1) == 1)
    assert np.all(markers[:, 6:].sum(axis=1) == 1)


def test_copy_task_layout():
    task = gh.tasks.copy_memory(jax.random.key(0), 50, 30)
    inputs, targets = np.asarray(task.inputs), np.asarray(task.targets)
    assert inputs.shape == targets.shape == (50, 50)
    assert set(np.unique(inputs[:, :10])) == set(range(1, 9))
    assert np.all(inputs[:, 39] == 9)
    assert np.all(targets[:, :40] == 0)
    assert np.array_equal(targets[:, 40:], inputs[:, :10])


def test_digits_are_the_uci_test_set():
    """1797 images; per-class counts as documented with the data set."""
    digits = gh.tasks.sequential_digits(dtype=np.float32)
    assert digits.xs.shape == (1797, 64, 1)
    assert digits.xs.dtype == np.float32
    counts = np.bincount(np.asarray(digits.labels))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    flat = np.asarray(digits.xs, np.float64)
    assert abs(flat.mean()) <= 1e-6
    assert abs(flat.std() - 1) <= 1e-6
