"""Penalties and rescaling against scaled orthogonal chains and singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

EPS = np.finfo(float).eps


def orthogonal(n, seed=0):
    return gh.inits.orthogonal()(jax.random.key(seed), (n, n), np.float64)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3])
def test_omega_of_a_scaled_orthogonal_chain(alpha):
    """Ω = T (α - 1)² and dΩ/dα = 2T (α - 1) (Pascanu et al. 2013, eq. 9)."""
    Q, steps = orthogonal(4), 12

    def omega(a):
        return gh.remedies.omega_penalty(jnp.broadcast_to(a * Q, (steps, 4, 4)), jnp.ones(4))

    assert abs(float(omega(alpha)) - steps * (alpha - 1) ** 2) <= 1e-12
    assert abs(float(jax.grad(omega)(alpha)) - 2 * steps * (alpha - 1)) <= 1e-12


def test_omega_does_not_overflow():
    """(1e3)^400 leaves every range; Ω = T (α - 1)² does not."""
    J = jnp.broadcast_to(1e3 * orthogonal(3), (400, 3, 3))
    omega = float(gh.remedies.omega_penalty(1e-3 * 1.5 * J, 1e-200 * jnp.ones(3)))
    assert abs(omega - 400 * 0.25) <= 1e-10
    large = float(gh.remedies.omega_penalty(J, 1e200 * jnp.ones(3)))
    assert abs(large / (400 * 999.0**2) - 1) <= 1e-12


def test_omega_after_a_dead_step():
    """J_3 = 0: the steps above it give 0, itself and the two below it 1 each."""
    J = jnp.broadcast_to(jnp.eye(2), (5, 2, 2)).at[2].set(0.0)

    def omega(J):
        return gh.remedies.omega_penalty(J, jnp.ones(2))

    assert float(omega(J)) == pytest.approx(3.0, abs=10 * EPS)
    assert np.all(np.isfinite(jax.grad(omega)(J)))


def test_omega_holds_adjoints_constant():
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


@pytest.mark.parametrize("tied", [True, False])
def test_omega_holds_states_constant(tied):
    """Eq. 10: dΩ/dW of a tanh network by hand, h_{t-1} and δ_t frozen, J_t = diag(1 - h²) W.

    With r = diag(1 - h²) δ the pull-back is Wᵀ r, and W enters through it and through h.
    """
    rng = np.random.default_rng(3)
    n, steps = 4, 6
    W = rng.normal(size=(n, n)) / 2
    xs, u = rng.normal(size=(steps, n)), rng.normal(size=n)

    def omega(params):
        chain = gh.jacobian_chain(
            lambda W, h, x: jnp.tanh(W @ h + x), params, jnp.zeros(n), xs, tied=tied
        )
        return gh.remedies.omega_penalty(chain, u)

    states = [np.zeros(n)]
    for x in xs:
        states.append(np.tanh(W @ states[-1] + x))
    terms, delta = [], u / np.linalg.norm(u)
    for t in range(steps, 0, -1):
        slope = 1 - states[t] ** 2
        pulled = W.T @ (slope * delta)
        size = np.linalg.norm(pulled)
        unit = pulled / size
        # d(pulled) = dWᵀ r + Wᵀ (d slope · δ), d slope = -2 h slope · (dW h_{t-1})
        through_slope = -2 * states[t] * slope * delta * (W @ unit)
        by_hand = np.outer(slope * delta, unit) + np.outer(through_slope, states[t - 1])
        terms.insert(0, 2 * (size - 1) * by_hand)
        delta = unit
    expected = np.sum(terms, axis=0) if tied else np.array(terms)
    params = jnp.asarray(W) if tied else jnp.broadcast_to(W, (steps, n, n))
    assert np.abs(np.asarray(jax.grad(omega)(params)) - expected).max() <= 1e-12


def test_omega_refuses_a_cotangent_without_direction():
    J = jnp.broadcast_to(jnp.eye(3), (2, 3, 3))
    with pytest.raises(ValueError, match="`cotangent` must have n = 3 entries"):
        gh.remedies.omega_penalty(J, jnp.ones(2))
    with pytest.raises(ValueError, match="`cotangent` must have a direction"):
        gh.remedies.omega_penalty(J, jnp.zeros(3))


def test_flossing_loss_of_a_scaled_orthogonal_chain():
    """λ_i = ln g for all i: loss (ln g)² and derivative 2 ln g / g (Engelken 2023)."""
    Q = orthogonal(4, 3)

    def loss(g):
        return gh.remedies.flossing_loss(jnp.broadcast_to(g * Q, (30, 4, 4)), 3)

    for g in (0.6, 1.0, 1.8):
        assert abs(float(loss(g)) - np.log(g) ** 2) <= 1e-12
        assert abs(float(jax.grad(loss)(g)) - 2 * np.log(g) / g) <= 1e-10


def test_flossing_loss_averages_over_exponents_and_knows_its_target():
    """Diagonal factors: λ = (ln 3, ln 2, ln 1/2), distances from the target ln 2."""
    J = jnp.broadcast_to(jnp.diag(jnp.array([3.0, 2.0, 0.5])), (20, 3, 3))
    expected = np.mean(np.log([1.5, 1.0, 0.25]) ** 2)
    assert abs(float(gh.remedies.flossing_loss(J, 3, np.log(2.0))) - expected) <= 1e-12


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


def test_penalties_are_traceable_in_float32():
    J = jnp.broadcast_to(1.5 * orthogonal(3).astype(np.float32), (10, 3, 3))
    u = jnp.ones(3, np.float32)
    omega = jax.jit(gh.remedies.omega_penalty)(J, u)
    flossing = jax.jit(lambda J: gh.remedies.flossing_loss(J, 2))(J)
    assert omega.dtype == flossing.dtype == np.float32
    assert abs(float(omega) - 2.5) <= 100 * np.finfo(np.float32).eps
    assert abs(float(flossing) - np.log(1.5) ** 2) <= 100 * np.finfo(np.float32).eps


def test_orthogonality_penalty_sums_over_singular_values():
    """‖WᵀW - I‖_F² = Σ (σ_i² - 1)²."""
    assert float(gh.remedies.orthogonality_penalty(orthogonal(5))) <= 100 * EPS
    A = np.random.default_rng(0).normal(size=(7, 4))
    expected = np.sum((np.linalg.svd(A, compute_uv=False) ** 2 - 1) ** 2)
    assert abs(float(gh.remedies.orthogonality_penalty(A)) / expected - 1) <= 100 * EPS
    with pytest.raises(ValueError, match="`W` must be a matrix with m ≥ n"):
        gh.remedies.orthogonality_penalty(A.T)


def test_rescale():
    A = np.random.default_rng(0).normal(size=(7, 7))
    scaled = gh.remedies.rescale(A, spectral_radius=0.9)
    assert abs(np.abs(np.linalg.eigvals(scaled)).max() - 0.9) <= 1e-13
    scaled = gh.remedies.rescale(A, largest_singular_value=0.5)
    assert abs(np.linalg.norm(scaled, 2) - 0.5) <= 1e-13
    single = gh.remedies.rescale(A.astype(np.float32), spectral_radius=np.float64(0.9))
    assert single.dtype == np.float32


def test_rescale_refuses_what_it_cannot_do():
    A = np.eye(3)
    with pytest.raises(ValueError, match="`spectral_radius` must be given alone"):
        gh.remedies.rescale(A)
    with pytest.raises(ValueError, match="`spectral_radius` must be given alone"):
        gh.remedies.rescale(A, spectral_radius=1.0, largest_singular_value=1.0)
    with pytest.raises(ValueError, match="`spectral_radius` must be positive"):
        gh.remedies.rescale(A, spectral_radius=-1.0)
    with pytest.raises(ValueError, match=r"`W` must have a positive size to scale. Received 0\.0"):
        gh.remedies.rescale(np.eye(3, k=1), spectral_radius=1.0)
    with pytest.raises(ValueError, match="`W` must be square"):
        gh.remedies.rescale(A[:2], spectral_radius=1.0)
    with pytest.raises(TypeError, match="`W` must be real and floating point"):
        gh.remedies.rescale(np.eye(3, dtype=int), spectral_radius=1.0)
