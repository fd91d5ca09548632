"""State-space cells against closed forms, plain NumPy recurrences and matrix exponentials."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy import stats

import gradhorizon as gh
from cases import case

DTYPES = [np.float32, np.float64]
NAMES = ["lru", "s4d", "selective"]


def as_numpy(params):
    return {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}


def complex_one(params, name):
    return params[f"{name}_re"] + 1j * params[f"{name}_im"]


def moduli(params):
    return np.exp(-np.exp(np.asarray(params["nu"], np.float64)))


def chain_of(cell, params, xs):
    return gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)


def spectrum_of(cell, params, xs):
    """Measure 12 exponents over 120 steps: through matrices all cells share one program."""
    matrices = chain_of(cell, params, xs).matrices()
    assert matrices.shape == (120, 12, 12)
    return gh.lyapunov_spectrum(matrices)


# --- LRU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_lru_exponents_are_the_logarithms_of_its_moduli_twice(dtype):
    cell = gh.cells.lru(6, 2, dtype=dtype)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (120, 2), dtype)
    spectrum = spectrum_of(cell, params, xs)
    exact = np.sort(np.log(moduli(params)))[::-1]
    allowed = 1e-12 if dtype == np.float64 else 20 * np.finfo(dtype).eps
    assert spectrum.exponents.dtype == dtype
    assert np.abs(np.asarray(spectrum.exponents) - np.repeat(exact, 2)).max() <= allowed
    assert np.abs(np.asarray(spectrum.pairs().values) - exact).max() <= allowed


@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.9, 0.999), (0.3, 0.7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lru_starts_uniform_on_its_ring(ring, dtype):
    low, high = ring
    cell = gh.cells.lru(3000, 0, r_min=low, r_max=high, max_phase=0.5, dtype=dtype)
    params = cell.init(jax.random.key(4))
    one = jnp.ones(3000, cell.initial_state().dtype)
    eigenvalues = np.asarray(cell.step(params, one, None), np.complex128)
    square = (np.abs(eigenvalues) ** 2 - low**2) / (high**2 - low**2)
    assert stats.kstest(square, "uniform").pvalue > 0.01
    assert stats.kstest(np.angle(eigenvalues) / 0.5, "uniform").pvalue > 0.01


def test_lru_in_float32_keeps_the_digits_of_long_horizons():
    """Of 200,000 units some have 1 - |λ|² near 1/200,000: |λ|² itself would keep two digits."""
    cell = gh.cells.lru(200_000, 1, dtype=np.float32)
    params = as_numpy(cell.init(jax.random.key(2)))
    gap = -np.expm1(-2 * np.exp(params["nu"]))
    error = np.abs(np.exp(2 * params["log_gamma"]) / gap - 1)
    assert gap.min() < 1e-4
    assert error.max() <= 100 * np.finfo(np.float32).eps
    assert stats.kstest(gap[gap < 1e-3] / 1e-3, "uniform").pvalue > 0.01
    assert np.unique(gap).size > 0.98 * gap.size


def test_lru_state_has_unit_variance_for_white_inputs():
    """The variance is the energy of the impulse response, γ²‖B_i‖² Σ_k |λ|^2k = ‖B_i‖²."""
    cell, steps = gh.cells.lru(40, 3, r_max=0.98), 1000
    params = cell.init(jax.random.key(3))
    energy = 0.0
    for channel in range(3):
        pulse = jnp.zeros((steps, 3)).at[0, channel].set(1.0)
        states = gh.unroll(cell.step, params, cell.initial_state(), pulse).states[1:]
        energy = energy + np.sum(np.abs(np.asarray(states)) ** 2, axis=0)
    size = np.sum(np.abs(complex_one(as_numpy(params), "B")) ** 2, axis=1)
    assert np.allclose(energy, size * (1 - moduli(params) ** (2 * steps)), rtol=1e-12, atol=0)
    wide = as_numpy(gh.cells.lru(4000, 3).init(jax.random.key(5)))
    draws = np.sum(np.abs(complex_one(wide, "B")) ** 2, axis=1)  # variance 1/3 each
    assert abs(draws.mean() - 1) <= 4 / math.sqrt(3 * 4000)


def test_lru_is_its_recurrence():
    network = case("lru")
    params, state = as_numpy(network.params), np.asarray(network.h0)
    eigenvalues = np.exp(-np.exp(params["nu"]) + 1j * np.exp(params["theta"]))
    taken = np.exp(params["log_gamma"])[:, None] * complex_one(params, "B")
    h = network.h0
    for x in np.asarray(network.xs):
        state = eigenvalues * state + taken @ x
        h = network.step(network.params, h, jnp.asarray(x))
        output = (complex_one(params, "C") @ state).real + params["D"] * x
        assert np.abs(network.step.output(network.params, h, jnp.asarray(x)) - output).max() < 1e-13
    assert np.abs(np.asarray(h) - state).max() <= 1e-14


# --- S4D ---------------------------------------------------------------------------------------


def legs(size):
    q = np.sqrt(2 * np.arange(size) + 1.0)
    return -np.tril(np.outer(q, q), -1) - np.diag(np.arange(size) + 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
def test_s4d_decays_by_half_its_time_step_at_every_frequency(init, dtype):
    """|exp(dt (-1/2 + iω))| = exp(-dt/2): exponents -dt/2 each, a horizon of 2/dt."""
    cell = gh.cells.s4d(2, 3, init=init, dtype=dtype)
    params = cell.init(jax.random.key(0))
    step = np.exp(np.asarray(params["log_dt"], np.float64))
    assert np.all((step >= 1e-3 * (1 - 1e-5)) & (step <= 0.1 * (1 + 1e-5)))
    spectrum = spectrum_of(cell, params, jnp.ones((120, 2), dtype))
    exponents = np.asarray(spectrum.pairs().values, np.float64)
    exact = np.sort(np.repeat(-step / 2, 3))[::-1]
    assert np.abs(exponents - exact).max() <= 20 * np.finfo(dtype).eps
    gates = np.abs(np.asarray(cell.step.state_gates(params, None, None)["h"], np.complex128))
    error = np.abs(gates - np.exp(-step / 2)[:, None]).max()
    assert error <= 4 * np.finfo(dtype).eps


def test_s4d_spectra_are_the_published_ones():
    def start(init, state=4):
        params = as_numpy(gh.cells.s4d(1, state, init=init).init(jax.random.key(0)))
        return (-np.exp(params["log_decay"]) + 1j * params["frequency"])[0]

    n = np.arange(4)
    assert np.allclose(start("lin"), -0.5 + 1j * np.pi * n, rtol=1e-15)
    # N = 8: (N/π)(N/(2n + 1) - 1)
    inverse = 8 / np.pi * np.array([7, 5 / 3, 3 / 5, 1 / 7])
    assert np.allclose(start("inv"), -0.5 + 1j * inverse, rtol=1e-14)
    assert np.allclose(start("real"), -(n + 1.0), rtol=1e-15)
    for state in (1, 4, 16):
        root = np.sqrt(np.arange(2 * state) + 0.5)
        exact = np.linalg.eigvals(legs(2 * state) + np.outer(root, root))
        exact = exact[exact.imag > 0]
        exact = exact[np.argsort(-exact.imag)]
        assert np.abs(start("legs", state) - exact).max() <= 1e-10 * np.abs(exact).max()


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s4d_is_the_state_space_made_discrete(discretization):
    """Hold: the exponential of [[A, B], [0, 0]] dt. Bilinear: (I - dt A/2)^-1 (I + dt A/2)."""
    cell = gh.cells.s4d(2, 3, discretization=discretization, dt_min=0.05, dt_max=0.2)
    params = cell.init(jax.random.key(1))
    params = params | {"B_im": params["B_im"] + 0.3, "log_decay": params["log_decay"] + 0.2}
    plain = as_numpy(params)
    xs = np.random.default_rng(0).normal(size=(6, 2))
    state = np.ones((2, 3), complex)
    h = jnp.asarray(state)
    for x in xs:
        for c in range(2):
            step = np.exp(plain["log_dt"][c])
            rate = np.diag(-np.exp(plain["log_decay"][c]) + 1j * plain["frequency"][c])
            into = complex_one(plain, "B")[c]
            if discretization == "zoh":
                whole = np.zeros((4, 4), complex)
                whole[:3, :3], whole[:3, 3] = rate, into
                whole = scipy.linalg.expm(whole * step)
                kept, taken = whole[:3, :3], whole[:3, 3]
            else:
                left = np.eye(3) - step * rate / 2
                kept = np.linalg.solve(left, np.eye(3) + step * rate / 2)
                taken = np.linalg.solve(left, step * into)
            state[c] = kept @ state[c] + taken * x[c]
        h = cell.step(params, h, jnp.asarray(x))
    assert np.abs(np.asarray(h) - state).max() <= 1e-13
    # the conjugate half of the real system doubles the real part
    both = np.concatenate([complex_one(plain, "C"), complex_one(plain, "C").conj()], axis=1)
    output = np.sum(both * np.concatenate([state, state.conj()], axis=1), axis=1)
    assert np.abs(output.imag).max() <= 1e-14
    expected = output.real + plain["D"] * xs[-1]
    assert np.abs(cell.step.output(params, h, jnp.asarray(xs[-1])) - expected).max() <= 1e-12


# --- selective ---------------------------------------------------------------------------------


def time_steps(plain, xs):
    return np.log1p(np.exp(xs @ plain["W_low"].T @ plain["W_dt"].T + plain["b_dt"]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_selective_exponents_are_a_times_the_mean_step(dtype):
    cell = gh.cells.selective(3, 4, rank=2, dtype=dtype)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (120, 3), dtype)
    mean = time_steps(as_numpy(params), np.asarray(xs, np.float64)).mean(axis=0)
    exact = np.sort(np.outer(mean, -np.arange(1.0, 5.0)).ravel())[::-1]
    spectrum = spectrum_of(cell, params, xs)
    allowed = 1e-12 if dtype == np.float64 else 200 * np.finfo(dtype).eps
    assert np.abs(np.asarray(spectrum.exponents, np.float64) - exact).max() <= allowed
    assert float(spectrum.exponents[0]) < 0


def test_selective_is_its_scan():
    network = case("selective")
    plain, state = as_numpy(network.params), np.array(network.h0)
    h = network.h0
    for x in np.asarray(network.xs):
        step = time_steps(plain, x)
        into = plain["W_B"] @ x
        for c in range(3):
            for n in range(2):
                kept = np.exp(-np.exp(plain["log_decay"][c, n]) * step[c])
                state[c, n] = kept * state[c, n] + step[c] * into[n] * x[c]
        h = network.step(network.params, h, jnp.asarray(x))
        output = state @ (plain["W_C"] @ x) + plain["D"] * x
        assert np.abs(network.step.output(network.params, h, jnp.asarray(x)) - output).max() < 1e-13
    assert np.abs(np.asarray(h) - state).max() <= 1e-14


def test_selective_steps_start_in_their_range():
    cell = gh.cells.selective(500, 1, dt_min=1e-3, dt_max=1e-1)
    params = as_numpy(cell.init(jax.random.key(0)))
    steps = time_steps(params, np.zeros(500))
    assert stats.kstest(np.log(steps / 1e-3) / np.log(100), "uniform").pvalue > 0.01
    assert params["W_low"].shape == (32, 500)


# --- all three ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gates_are_the_whole_derivative(name):
    """Diagonal recurrences keep nothing but their gates: J is their matrix on (re, im)."""
    network = case(name)
    chain = gh.jacobian_chain(network.step, network.params, network.h0, network.xs)
    gate = np.ravel(network.step.state_gates(network.params, network.h0, network.xs[0])["h"])
    if np.iscomplexobj(gate):
        turn = np.diag(gate.imag)
        expected = np.block([[np.diag(gate.real), -turn], [turn, np.diag(gate.real)]])
    else:
        expected = np.diag(gate)
    assert np.abs(np.asarray(chain.matrices()[0]) - expected).max() <= 1e-15


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_state_of_another_shape_are_refused(name):
    network = case(name)
    batch = jnp.stack([network.h0, network.h0])
    with pytest.raises(ValueError, match=r"`h0` must be .* have shape .*Batch with jax.vmap"):
        network.step(network.params, batch, network.xs[0])
    other = network.h0.real if jnp.iscomplexobj(network.h0) else network.h0.astype(complex)
    with pytest.raises(ValueError, match=r"`h0` must be (real|complex) .*initial_state"):
        network.step(network.params, other, network.xs[0])
    with pytest.raises(ValueError, match=r"`xs\[t\]` must have shape \(3,\)"):
        network.step(network.params, network.h0, jnp.ones(4))
    with pytest.raises(ValueError, match="`h0` must be"):
        network.step(network.params, None, network.xs[0])


@pytest.mark.usefixtures("unchecked_types")
def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="0 ≤ r_min < r_max ≤ 1. Received"):
        gh.cells.lru(3, 1, r_min=0.9, r_max=0.9)
    with pytest.raises(ValueError, match="0 ≤ r_min < r_max ≤ 1"):
        gh.cells.lru(3, 1, r_max=1.1)
    with pytest.raises(ValueError, match="`max_phase` must be positive"):
        gh.cells.lru(3, 1, max_phase=0)
    with pytest.raises(ValueError, match="`init` must be one of lin, inv, legs, real"):
        gh.cells.s4d(3, 1, init="linear")
    with pytest.raises(ValueError, match="`discretization` must be one of zoh, bilinear"):
        gh.cells.s4d(3, 1, discretization="euler")
    with pytest.raises(ValueError, match=r"`dt_max` must be at least dt_min = 0\.1"):
        gh.cells.s4d(3, 1, dt_min=0.1, dt_max=0.01)
    with pytest.raises(ValueError, match="`dt_min` must be positive"):
        gh.cells.selective(3, 1, dt_min=0.0)
    with pytest.raises(ValueError, match="`state` must be at least 1"):
        gh.cells.selective(3, 0)
    with pytest.raises(TypeError, match="`dtype` must be float32 or float64. Received float16"):
        gh.cells.lru(3, 1, dtype=np.float16)
