"""The automatic interval: as good as QR at every step, with fewer factorizations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh


def qr_loop(J):
    """The oracle: Householder QR at every step in NumPy, frame starting as the identity."""
    frame, total = np.eye(J.shape[-1]), 0.0
    for matrix in np.asarray(J, float):
        frame, upper = np.linalg.qr(matrix @ frame)
        total = total + np.log(np.abs(np.diag(upper)))
    return np.sort(total)[::-1] / len(J)


def tanh_chain(n, gain, steps, dtype=np.float64):
    rng = np.random.default_rng(0)
    W = gain * rng.normal(size=(n, n)) / np.sqrt(n)
    h = np.tanh(rng.normal(size=n))
    for _ in range(300):
        h = np.tanh(W @ h)
    step = lambda W, h, x: jnp.tanh(W @ h)  # noqa: E731
    return gh.jacobian_chain(step, W.astype(dtype), h.astype(dtype), length=steps)


def gaussian(n, steps, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, n, n)) / np.sqrt(n)


def with_jumps(n, steps):
    """Harmless factors, and here and there one that squeezes by 1e-7: no average foretells it."""
    chain = np.eye(n) + 0.02 * gaussian(n, steps)
    squeeze = np.diag(np.logspace(0, -7, n))
    for t in range(40, steps, 37):
        chain[t] = np.linalg.qr(gaussian(n, 1, seed=t)[0])[0] @ squeeze
    return chain


CHAINS = {
    "tanh, g = 1.5": lambda: tanh_chain(32, 1.5, 1000).matrices(),
    "tanh, g = 3": lambda: tanh_chain(32, 3.0, 1000).matrices(),
    "gaussian": lambda: gaussian(40, 400),
    "near identity": lambda: np.eye(32) + 0.02 * gaussian(32, 400),
    "jumps": lambda: with_jumps(32, 400),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_agrees_with_qr_at_every_step(name):
    J = CHAINS[name]()
    spectrum = gh.lyapunov_spectrum(J)
    assert np.max(np.abs(spectrum.exponents - qr_loop(J))) <= 1e-8
    assert np.all(np.asarray(spectrum.rounding_errors) <= 1e-7)
    assert spectrum.factorizations <= len(J)


def test_fewer_factorizations_where_the_spread_allows():
    counts = {
        name: int(gh.lyapunov_spectrum(CHAINS[name]()).factorizations) / len(CHAINS[name]())
        for name in ("tanh, g = 1.5", "near identity")
    }
    assert counts["tanh, g = 1.5"] < 0.5
    assert counts["near identity"] < 0.2
    chain = tanh_chain(64, 3.0, 400)
    leading = gh.lyapunov_spectrum(chain, 4)
    assert int(leading.factorizations) < 0.35 * 400
    full = gh.lyapunov_spectrum(chain, orthonormalize_every=1)
    assert np.max(np.abs(leading.exponents - full.exponents[:4])) <= 1e-8


@pytest.mark.parametrize("every", [2, 3, 4, 6])
def test_the_estimate_of_the_loss_follows_the_loss(every):
    """Over ten orders of magnitude, within the factor that the documentation promises."""
    for gain in (1.5, 3.0):
        chain = tanh_chain(32, gain, 600)
        J = chain.matrices()
        spectrum = gh.lyapunov_spectrum(chain, orthonormalize_every=every)
        loss = np.max(np.abs(spectrum.exponents - qr_loop(J)))
        estimate = float(np.max(spectrum.rounding_errors))
        if estimate < 0.1:
            assert loss <= 10 * estimate + 1e-12
        if estimate > 1e-6:
            assert not spectrum.converged


def test_float32_loses_no_more_than_float32_has():
    chain = tanh_chain(32, 1.5, 500, np.float32)
    spectrum = gh.lyapunov_spectrum(chain)
    assert spectrum.exponents.dtype == np.float32
    assert np.max(np.abs(np.asarray(spectrum.exponents, float) - qr_loop(chain.matrices()))) <= 1e-3


def test_frames_stay_in_range_between_factorizations():
    """Growth of e^60 a step overflows float32 in two steps; the leading exponent is exact."""
    big = float(np.float32(1e26))
    J = np.broadcast_to(np.float32(big) * np.eye(2, dtype=np.float32), (90, 2, 2))
    for sign in (1, -1):
        spectrum = gh.lyapunov_spectrum(J if sign > 0 else 1 / np.where(J > 0, J, np.inf), 1)
        assert abs(float(spectrum.exponents[0]) - sign * np.log(big)) <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 7, 11, 13, 50, 97])
def test_any_length(steps):
    J = gaussian(4, steps, seed=steps)
    error = np.max(np.abs(gh.lyapunov_spectrum(J).exponents - qr_loop(J)))
    assert error <= 1e-11


def test_windows_add_up_and_burn_in_leaves_out():
    J = gaussian(5, 130)
    spectrum = gh.lyapunov_spectrum(J, burn_in=10, windows=7)
    assert spectrum.windows.shape == (7, 5)
    assert float(jnp.sum(spectrum.window_lengths)) == 120
    total = spectrum.window_lengths @ spectrum.windows
    assert np.max(np.abs(total / 120 - spectrum.exponents)) <= 1e-13
    later = gh.lyapunov_spectrum(J[30:], windows=4).exponents
    skipped = gh.lyapunov_spectrum(J, state_burn_in=30, windows=4).exponents
    assert np.array_equal(skipped, later)
    # the growth of each window is that of an explicit product, continued from an aligned frame
    length = int(spectrum.window_lengths[0])
    frame, growth = np.eye(5), np.zeros(5)
    for t, matrix in enumerate(J[: 10 + length]):
        frame, upper = np.linalg.qr(matrix @ frame)
        growth += np.log(np.abs(np.diag(upper))) if t >= 10 else 0
    first = np.sort(growth / length)
    assert np.max(np.abs(np.sort(spectrum.windows[0]) - first)) <= 1e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": 0}, "`windows` must lie between 1 and 20. Received 0."),
        ({"windows": 21}, "`windows` must lie between 1 and 20. Received 21."),
        ({"state_burn_in": 20}, "`state_burn_in` must lie between 0 and 19. Received 20."),
        ({"state_burn_in": 15, "burn_in": 5}, "`burn_in` must lie between 0 and 4. Received 5."),
    ],
)
def test_misuse_is_worded(arguments, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        gh.lyapunov_spectrum(gaussian(3, 20), **arguments)


def test_under_vmap_and_grad():
    J = jnp.asarray(np.stack([gaussian(3, 30, seed=s) for s in range(3)]))
    together = jax.vmap(lambda c: gh.lyapunov_spectrum(c).exponents)(J)
    for b in range(3):
        assert np.max(np.abs(together[b] - qr_loop(J[b]))) <= 1e-11


def squeezed(n, steps, places, least=1e-6):
    """Harmless factors, and nearly singular ones at the given places."""
    chain = np.eye(n) + 0.01 * np.random.default_rng(5).normal(size=(steps, n, n))
    for t in places:
        Q = np.linalg.qr(np.random.default_rng(t).normal(size=(n, n)))[0]
        chain[t] = Q * np.r_[np.ones(n - 1), least]
    return chain


@pytest.mark.parametrize("n", [4, 32])
@pytest.mark.parametrize("places", [(104, 106), (104, 106, 108), (100, 102)])
def test_several_jumps_inside_one_group_lose_nothing(n, places):
    J = squeezed(n, 240, places)
    spectrum = gh.lyapunov_spectrum(J)
    assert np.max(np.abs(spectrum.exponents - qr_loop(J))) <= 1e-9


def test_underflow_inside_a_block_is_not_taken_for_a_zero():
    tiny = np.broadcast_to(np.diag([1.0, 0.9]), (200, 2, 2)).copy()
    tiny[[50, 51], 1, 1] = 1e-200
    spectrum = gh.lyapunov_spectrum(tiny)
    exact = (198 * np.log(0.9) + 2 * np.log(1e-200)) / 200
    assert abs(float(spectrum.exponents[1]) - exact) <= 1e-12
    assert spectrum.rank_cap == 2
    for J, every in (
        (np.broadcast_to(np.diag([1.0, 1e-50]), (100, 2, 2)), 10),
        (np.broadcast_to(np.diag([1.0, 0.01]).astype(np.float32), (100, 2, 2)), 25),
    ):
        fixed = gh.lyapunov_spectrum(J, orthonormalize_every=every)
        assert not fixed.converged
        exact = np.log(float(J[0, 1, 1]))
        assert abs(float(gh.lyapunov_spectrum(J).exponents[1]) - exact) <= 1e-4


def test_a_frame_confined_until_the_last_step_is_noticed():
    J = np.broadcast_to(np.diag([0.5, 2.0]), (400, 2, 2)).copy()
    J[-1] = [[1.0, 1.0], [1.0, -1.0]]
    assert abs(float(gh.lyapunov_spectrum(J, 1, burn_in=100).exponents[0]) - np.log(2)) <= 0.01


def test_bad_steps_are_counted_from_the_start_of_the_chain():
    J = gaussian(3, 60)
    J[29] = np.nan
    spectrum = gh.lyapunov_spectrum(J, state_burn_in=10, throw=False)
    assert spectrum.first_bad_step == 30
    assert np.isnan(spectrum.entropy_rate.value)
    assert np.isnan(spectrum.kaplan_yorke_dimension.standard_error)
