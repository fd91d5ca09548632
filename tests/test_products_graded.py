"""Steps whose Jacobian is graded: digits that the plain product with the frame would drown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import gradhorizon as gh


def factor_by_factor(steps):
    """Give exponents of J_t = A_t,m … A_t,1, with one LU after every factor; all n of them.

    A diagonal factor grades the rows of the frame, which pivoting keeps, and a factor W that is
    well conditioned mixes them after their growth was read off. The sum is checked against the
    determinants.
    """
    n, count = steps[0][0].shape[0], len(steps)
    frame, logs, total = np.eye(n), np.zeros(n), 0.0
    for factors in steps:
        for factor in factors:
            frame, upper = scipy.linalg.lu(factor @ frame, permute_l=True)[-2:]
            logs += np.log(np.abs(np.diag(upper)))
            total += np.linalg.slogdet(factor)[1]
    logs += np.log(np.abs(np.diag(np.linalg.qr(frame)[1])))
    assert abs(logs.sum() - total) <= 1e-8 * abs(total)
    return np.sort(logs / count)[::-1]


def saturated(n, gain, steps):
    """W and the slopes of x' = W tanh x along its attractor."""
    W = np.random.default_rng(1).standard_normal((n, n)) * gain / np.sqrt(n)
    cell = gh.cells.rate_network(n, 0)
    params = {"W": jnp.asarray(W), "b": jnp.zeros(n)}
    start = gh.unroll(cell.step, params, jnp.ones(n), length=300).states[-1]
    states = np.asarray(gh.unroll(cell.step, params, start, length=steps).states[:-1])
    chain = gh.jacobian_chain(cell.step, params, start, length=steps)
    return chain, W, 1 / np.cosh(states) ** 2


@pytest.mark.parametrize("k", [6, 12, 16])
def test_slopes_down_to_1e_30_cost_no_digits(k):
    chain, W, slopes = saturated(16, 20.0, 200)
    exact = factor_by_factor([(np.diag(s), W) for s in slopes])
    spectrum = gh.lyapunov_spectrum(chain, k)
    assert np.max(np.abs(np.asarray(spectrum.exponents) - exact[:k])) <= 1e-9
    assert np.all(np.asarray(spectrum.rounding_errors) <= 1e-9)
    assert spectrum.converged
    if k == 16:  # else nothing is tested: a QR at every step loses all digits of the last
        J = W[None] * slopes[:, None]
        frame, total = np.eye(16), 0.0
        for matrix in J:
            frame, upper = np.linalg.qr(matrix @ frame)
            total = total + np.log(np.abs(np.diag(upper)))
        assert np.max(np.abs(np.sort(total / 200)[::-1] - exact)) > 1


def test_slopes_down_to_1e_30_in_float32():
    _, W, slopes = saturated(16, 20.0, 200)
    W, slopes = W.astype(np.float32), np.maximum(slopes, 1e-24).astype(np.float32)
    exact = factor_by_factor([(np.diag(s), W) for s in slopes.astype(float)])
    spectrum = gh.lyapunov_spectrum(W[None] * slopes[:, None])
    wrong = np.abs(np.asarray(spectrum.exponents, float) - exact)
    assert np.max(wrong) <= 1e-3
    assert np.all(wrong <= 10 * np.asarray(spectrum.rounding_errors) + 1e-4)


def test_graded_rows_and_columns_at_once():
    rng = np.random.default_rng(5)
    n, steps = 12, 60
    scales = 10.0 ** rng.uniform(-18, 0, size=(2, steps, n))
    W = rng.normal(size=(steps, n, n))
    exact = factor_by_factor(
        [(np.diag(a), w, np.diag(b)) for a, w, b in zip(scales[0], W, scales[1], strict=True)]
    )
    spectrum = gh.lyapunov_spectrum(scales[1][..., None] * W * scales[0][:, None])
    assert np.max(np.abs(np.asarray(spectrum.exponents) - exact)) <= 1e-9
    assert spectrum.converged


def test_one_step_in_closed_form():
    """[[1, 1], [1, 2]] diag(1, 1e-20): rounding would make the second pivot an exact zero."""
    J = np.array([[[1.0, 1e-20], [1.0, 2e-20]]])
    exponents = gh.lyapunov_spectrum(J).exponents
    expected = np.array([np.log(2) / 2, np.log(1e-20) - np.log(2) / 2])
    assert np.max(np.abs(exponents - expected)) <= 1e-13


@pytest.mark.parametrize("k", [10, 40])
def test_dead_columns_are_minus_infinity_for_any_k(k):
    """J_t = W_t D, D with ones in r places: r exponents, those of the r × r blocks of W_t."""
    n, r, steps = 40, 6, 400
    rng = np.random.default_rng(3)
    alive = np.sort(rng.choice(n, r, replace=False))
    J = np.zeros((steps, n, n))
    J[:, :, alive] = rng.normal(size=(steps, n, r))
    spectrum = gh.lyapunov_spectrum(J, k)
    exponents = np.asarray(spectrum.exponents)
    assert np.all(np.isneginf(exponents[r:]))
    assert spectrum.rank_cap == r
    assert spectrum.status == gh.Status.RANK_DEFICIENT
    inner = gh.lyapunov_spectrum(J[:, alive][:, :, alive]).exponents
    # both frames differ by a bounded map: its logarithm, a few nats, over the time
    assert np.max(np.abs(exponents[:r] - inner)) <= 10 / steps


def derivative_errors(scales, weights):
    """Give how far derivatives of Σ weight_i λ_i are from a central difference, relatively."""
    rng = np.random.default_rng(2)
    W, direction = (jnp.asarray(rng.normal(size=(12, 4, 4))) for _ in range(2))
    used = len(weights)

    def value(shift):
        chain = (W + shift * direction) * jnp.asarray(scales)[:, None]
        exponents = gh.lyapunov_spectrum(chain, throw=False).exponents
        return jnp.vdot(jnp.asarray(weights), exponents[:used])

    h = 1e-6
    central = float(value(h) - value(-h)) / (2 * h)
    found = jax.grad(value)(0.0), jax.jvp(value, (0.0,), (1.0,))[1]
    return [abs(float(d) - central) / max(1.0, abs(central)) for d in found]


def test_derivatives_against_central_differences():
    scales = 10.0 ** np.random.default_rng(7).uniform(-22, 0, size=(12, 4))
    assert max(derivative_errors(scales, [1.0, -2.0, 3.0, 0.5])) <= 1e-6


def test_derivatives_of_the_finite_exponents_beside_dead_columns():
    scales = np.broadcast_to([0.0, 1.0, 0.0, 1.0], (12, 4))
    assert max(derivative_errors(scales, [1.0, -2.0])) <= 1e-6


def test_under_vmap():
    rng = np.random.default_rng(4)
    scales = 10.0 ** rng.uniform(-20, 0, size=(3, 20, 1, 5))
    J = jnp.asarray(rng.normal(size=(3, 20, 5, 5)) * scales)
    together = jax.vmap(lambda c: gh.lyapunov_spectrum(c, throw=False).exponents)(J)
    for single, row in zip(J, together, strict=True):
        assert np.max(np.abs(gh.lyapunov_spectrum(single).exponents - row)) <= 1e-11
