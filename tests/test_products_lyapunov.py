"""Lyapunov exponents against closed forms, identities and an independent loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

import gradhorizon as gh

EPS = np.finfo(float).eps


def qr_loop(J):
    """The oracle: QR at every step in NumPy, frame starting as the identity."""
    frame, total = np.eye(J.shape[-1]), 0.0
    for matrix in np.asarray(J, float):
        frame, upper = np.linalg.qr(matrix @ frame)
        total = total + np.log(np.abs(np.diag(upper)))
    return total


def gaussian_chain(seed, steps, n, dtype=float):
    return np.random.default_rng(seed).normal(size=(steps, n, n)).astype(dtype)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_growth_is_diag_r_of_the_product_on_a_non_commuting_chain(n):
    """For short T the accumulated R is that of the explicit product: sees every bookkeeping bug."""
    J = gaussian_chain(n, 6, n)
    product = np.eye(n)
    for matrix in J:
        product = matrix @ product
    upper = np.linalg.qr(product)[1]
    expected = np.sort(np.log(np.abs(np.diag(upper))))[::-1] / 6
    condition = np.linalg.cond(product)
    ours = gh.lyapunov_spectrum(J).exponents
    assert np.max(np.abs(ours - expected)) <= 10 * EPS * n * condition


def test_constant_non_normal_chain_converges_to_eigenvalue_moduli():
    W = np.array([[0.9, 5.0, 0.0], [0.0, 0.5, 3.0], [0.0, 0.0, 1.2]])
    rotation = np.linalg.qr(gaussian_chain(0, 1, 3)[0])[0]
    J = np.broadcast_to(rotation @ W @ rotation.T, (400, 3, 3))
    exponents = gh.lyapunov_spectrum(J, burn_in=200).exponents
    # after 200 steps the frame is aligned to (0.9/1.2)^200 = 1e-25
    assert np.max(np.abs(exponents - np.log([1.2, 0.9, 0.5]))) <= 1000 * EPS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_numpy_loop_on_the_same_chain(dtype):
    J = gaussian_chain(4, 300, 8, dtype)
    spectrum = gh.lyapunov_spectrum(J)
    expected = np.sort(qr_loop(J))[::-1] / 300
    assert spectrum.exponents.dtype == dtype
    # one step loses at most eps times the condition of one factor
    condition = max(np.linalg.cond(matrix) for matrix in J.astype(float))
    allowed = 10 * np.finfo(dtype).eps * condition
    assert np.max(np.abs(np.asarray(spectrum.exponents, float) - expected)) <= allowed


def test_leading_exponents_equal_the_full_spectrum():
    J = gaussian_chain(1, 200, 6)
    full = gh.lyapunov_spectrum(J).exponents
    for k in (1, 2, 5):
        assert np.max(np.abs(gh.lyapunov_spectrum(J, k).exponents - full[:k])) <= 1e-12


def test_leading_exponent_outside_the_span_of_the_first_axes_is_found():
    """diag(1/2, 2): the first column of the identity never sees the 2."""
    J = np.broadcast_to(np.diag([0.5, 2.0, 0.1]), (400, 3, 3))
    exponents = gh.lyapunov_spectrum(J, 1, burn_in=100).exponents
    assert abs(exponents[0] - np.log(2.0)) <= 100 * EPS


def test_newman_exponents_and_variances_of_gaussian_products():
    """Newman 1986: λ_k = (ln 2 + ψ((N-k+1)/2))/2, variance ψ'((N-k+1)/2)/4 per step."""
    n, steps = 5, 20_000
    J = jax.random.normal(jax.random.key(7), (steps, n, n))
    spectrum = gh.lyapunov_spectrum(J)
    k = np.arange(1, n + 1)
    exact = (np.log(2) + digamma((n - k + 1) / 2)) / 2
    sd = np.sqrt(polygamma(1, (n - k + 1) / 2) / 4 / steps)
    z = (np.asarray(spectrum.exponents) - exact) / sd
    assert np.all(np.abs(z) < 4), z
    # 32 blocks: the estimated standard error itself has relative sd 1/sqrt(2·31) = 0.127
    assert np.all(np.abs(np.asarray(spectrum.standard_errors) / sd - 1) < 4 * 0.127)
    assert spectrum.converged


def test_sum_equals_mean_log_determinant():
    J = gaussian_chain(2, 150, 7)
    spectrum = gh.lyapunov_spectrum(J)
    mean = np.mean([np.linalg.slogdet(matrix)[1] for matrix in J])
    condition = max(np.linalg.cond(matrix) for matrix in J)
    assert abs(float(jnp.sum(spectrum.exponents)) - mean) <= 10 * EPS * condition
    assert float(spectrum.det_residual) <= 10 * EPS * condition


def chaotic_chain(dtype=np.float64):
    """tanh network, N = 32, g = 3, 500 steps discarded: a spread of 8.5 nats per step."""
    rng = np.random.default_rng(0)
    W = 3 * rng.normal(size=(32, 32)) / np.sqrt(32)
    h = np.tanh(rng.normal(size=32))
    for _ in range(500):
        h = np.tanh(W @ h)
    cell = gh.cells.elman(32, 0, dtype=dtype)
    params = {"W": W.astype(dtype), "b": np.zeros(32, dtype)}
    return gh.jacobian_chain(cell.step, params, h.astype(dtype), length=2000)


def test_too_long_an_interval_is_flagged_and_not_silently_wrong():
    chain = chaotic_chain()
    exact = gh.lyapunov_spectrum(chain)
    assert exact.converged
    assert float(exact.det_residual) < 1e-10
    reference = np.sort(qr_loop(chain.matrices()))[::-1] / 2000
    assert np.max(np.abs(exact.exponents - reference)) <= 1e-8
    for every in (4, 6, 20):
        spectrum = gh.lyapunov_spectrum(chain, orthonormalize_every=every)
        wrong = np.max(np.abs(spectrum.exponents - exact.exponents))
        assert wrong > 1e-6
        assert not spectrum.converged
        assert spectrum.status == gh.Status.NOT_CONVERGED
        assert float(spectrum.det_residual) > 1e-6
    leading = gh.lyapunov_spectrum(chain, 2, orthonormalize_every=10)
    assert leading.converged
    assert np.max(np.abs(leading.exponents - exact.exponents[:2])) <= 1e-6


def test_interval_that_does_not_divide_the_length():
    J = np.broadcast_to(0.9 * np.eye(3), (101, 3, 3)) + 1e-3 * gaussian_chain(3, 101, 3)
    every = gh.lyapunov_spectrum(J, orthonormalize_every=7)
    assert np.max(np.abs(every.exponents - gh.lyapunov_spectrum(J).exponents)) <= 1e-12


def test_lstm_without_weights_has_half_its_exponents_at_minus_infinity():
    """n exponents equal ln σ(b), n are -inf: the h rows of the Jacobian depend on c only."""
    for bias in (0.0, 1.0):
        cell = gh.cells.lstm(16, 0, forget_bias=bias, recurrent_init=gh.inits.gaussian(0.0))
        chain = gh.jacobian_chain(
            cell.step, cell.init(jax.random.key(0)), cell.initial_state(), length=60
        )
        spectrum = gh.lyapunov_spectrum(chain, burn_in=2)
        keep = -np.log1p(np.exp(-bias))
        assert np.max(np.abs(spectrum.exponents[:16] - keep)) <= 1e-12
        assert np.all(spectrum.exponents[16:] == -np.inf)
        assert spectrum.rank_cap == 16
        assert spectrum.status == gh.Status.RANK_DEFICIENT
        assert not np.any(np.isnan(spectrum.standard_errors))


def test_zero_column_gives_minus_infinity_not_a_mean_over_the_rest():
    J = np.stack([np.diag([2.0, 3.0]), np.diag([2.0, 0.0])] * 10)
    spectrum = gh.lyapunov_spectrum(J)
    assert abs(spectrum.exponents[0] - np.log(2)) <= 10 * EPS
    assert spectrum.exponents[1] == -np.inf


def test_input_driven_cell_has_exactly_n_exponents():
    """No spurious zero exponent from a step counter; scalar case has the exact mean."""
    u = jax.random.normal(jax.random.key(0), (300,))
    chain = gh.jacobian_chain(lambda w, h, x: jnp.tanh(w * h + x), 0.5, 0.0, u)
    states = np.asarray(gh.unroll(lambda w, h, x: jnp.tanh(w * h + x), 0.5, 0.0, u).states)
    exact = np.mean(np.log(0.5 * (1 - states[1:] ** 2)))
    spectrum = gh.lyapunov_spectrum(chain)
    assert spectrum.exponents.shape == (1,)
    assert abs(float(spectrum.exponents[0]) - exact) <= 1e-12


def test_counter_in_the_state_adds_no_exponent():
    def step(params, state, x):
        return {"h": jnp.tanh(params @ state["h"] + x), "t": state["t"] + 1}

    W = 0.5 * jax.random.normal(jax.random.key(0), (4, 4))
    xs = jax.random.normal(jax.random.key(1), (80, 4))
    with_counter = gh.jacobian_chain(step, W, {"h": jnp.zeros(4), "t": 0}, xs)
    plain = gh.jacobian_chain(lambda W, h, x: jnp.tanh(W @ h + x), W, jnp.zeros(4), xs)
    ours, expected = (gh.lyapunov_spectrum(c).exponents for c in (with_counter, plain))
    assert ours.shape == (4,)
    assert np.max(np.abs(ours - expected)) <= 1e-13


def test_generic_maps():
    """Arnold's cat map, and the sum of the Hénon map's exponents, ln 0.3 exactly."""
    cat = np.broadcast_to([[2.0, 1.0], [1.0, 1.0]], (2000, 2, 2))
    golden = np.log((3 + np.sqrt(5)) / 2)
    exponents = gh.lyapunov_spectrum(cat, burn_in=40).exponents
    assert np.max(np.abs(exponents - np.array([golden, -golden]))) <= 1e-12

    def henon(_, h, x):
        return jnp.stack([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    chain = gh.jacobian_chain(henon, (), jnp.array([0.1, 0.1]), length=20_000)
    spectrum = gh.lyapunov_spectrum(chain)
    assert abs(float(jnp.sum(spectrum.exponents)) - np.log(0.3)) <= 1e-12
    # 0.41922 (Sprott 2003); finite time: four standard errors
    assert abs(float(spectrum.exponents[0]) - 0.41922) <= 4 * float(spectrum.standard_errors[0])


@pytest.mark.parametrize("k", [1, 3])
def test_derivative_through_qr_against_central_differences(k):
    J = gaussian_chain(5, 30, 4)
    direction = gaussian_chain(6, 30, 4)

    def total(s):
        return jnp.sum(gh.lyapunov_spectrum(J + s * direction, k).exponents)

    slope = jax.grad(total)(0.0)
    step = 1e-5
    difference = (total(step) - total(-step)) / (2 * step)
    # truncation h² times the third derivative, and rounding eps/h
    assert abs(slope - difference) <= 1e-6 * max(1, abs(float(slope)))


def test_derivative_for_a_scaled_orthogonal_chain_is_one_over_gain():
    Q = np.linalg.qr(gaussian_chain(0, 1, 4)[0])[0]

    def leading(g):
        return gh.lyapunov_spectrum(g * jnp.broadcast_to(Q, (50, 4, 4))).exponents[0]

    assert abs(leading(0.7) - np.log(0.7)) <= 1e-13
    assert abs(jax.grad(leading)(0.7) - 1 / 0.7) <= 1e-12


def test_vmapped_chains_equal_single_ones():
    J = jnp.asarray(gaussian_chain(3, 120, 4)).reshape(3, 40, 4, 4)
    together = jax.vmap(lambda c: gh.lyapunov_spectrum(c).exponents)(J)
    for b in range(3):
        assert np.max(np.abs(gh.lyapunov_spectrum(J[b]).exponents - together[b])) <= 1e-11


def test_history_ends_at_the_exponents():
    spectrum = gh.lyapunov_spectrum(gaussian_chain(0, 100, 3), windows=20)
    assert spectrum.history.shape == (20, 3)
    assert np.max(np.abs(spectrum.history[-1] - spectrum.exponents)) <= 1e-14
