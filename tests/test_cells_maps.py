"""Dynamical systems whose exponents are known, through the functions that analyze networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gradhorizon as gh

EPS = np.finfo(float).eps
GOLDEN = math.log((3 + math.sqrt(5)) / 2)


def rates(system, length, *, burn_in=1000, states=1000):
    """Give exponents per unit time with their standard errors."""
    chain = gh.jacobian_chain(*system, length=length)
    spectrum = gh.lyapunov_spectrum(chain, burn_in=burn_in, state_burn_in=states)
    errors = np.asarray(spectrum.standard_errors) / system.dt
    return np.asarray(spectrum.exponents) / system.dt, errors


def orbit(system, length):
    return np.asarray(jax.tree.leaves(gh.unroll(*system, length=length).states)[0])


def close(value, expected, tolerance):
    return np.all(np.abs(np.asarray(value) - np.asarray(expected)) <= tolerance)


# --- exponents: exact values, and those published (Sprott 2003, Wolf 1985 in bits)


def test_logistic_map_reaches_ln_2():
    """With x = sin²θ the map doubles θ: Σ ln|f'| = T ln 2 + ½ ln of the ratio of x(1 - x)."""
    system, length = gh.maps.logistic(), 1_000_000
    found, _ = rates(system, length, burn_in=0, states=0)
    ends = orbit(system, length)[[0, -1], 0]
    start, end = ends * (1 - ends)
    assert close(found, math.log(2), 1e-5)
    # near x = 1 rounding moves ln(1 - x) by eps/(1 - x), and 1 - x comes down to 1/T²
    assert close(found, math.log(2) + 0.5 * math.log(end / start) / length, 10 * EPS * length)


@pytest.mark.parametrize("slope", [1.5, 2.0])
def test_tent_map_has_the_logarithm_of_its_slope(slope):
    found, _ = rates(gh.maps.tent(slope), 5000)
    assert close(found, math.log(slope), 1e-12)


def test_baker_map_doubles_and_halves():
    found, _ = rates(gh.maps.baker(), 5000)
    assert close(found, [math.log(2), -math.log(2)], 1e-12)


def test_cat_map_has_the_golden_exponents():
    found, _ = rates(gh.maps.cat(), 20_000, burn_in=0, states=0)
    assert close(found, [GOLDEN, -GOLDEN], 1e-4)


def test_henon_exponents_are_the_published_ones():
    found, errors = rates(gh.maps.henon(), 100_000)
    assert close(found, [0.41922, -1.62319], 0.003)
    assert close(found / math.log(2), [0.603, -2.34], 4 * errors / math.log(2) + 0.005)
    assert close(found.sum(), math.log(0.3), 1e-12)


def test_folded_towel_has_two_positive_exponents():
    found, _ = rates(gh.maps.folded_towel(), 100_000)
    assert close(found, [0.432, 0.377, -3.30], 0.01)


def test_standard_map_preserves_area_and_stretches_by_half_of_K():
    strong, errors = rates(gh.maps.standard(10.0), 100_000)
    weak, _ = rates(gh.maps.standard(1.0), 100_000)
    assert close(strong[0], math.log(5), 4 * errors[0] + 0.01)  # ln(K/2) + O(1/K²)
    assert close(strong.sum(), 0, 1e-12)
    assert close(weak.sum(), 0, 1e-12)


def test_ikeda_map_shrinks_area_by_the_square_of_u():
    found, _ = rates(gh.maps.ikeda(0.9), 20_000)
    assert found[0] > 0.4
    assert close(found.sum(), 2 * math.log(0.9), 1e-12)


def test_diagonal_map_has_the_logarithms_of_its_factors():
    def step(params, h, x):
        return params * h

    system = gh.maps.System(step, jnp.array([1.1, 0.8]), jnp.ones(2))
    found, _ = rates(system, 2000, burn_in=0, states=0)
    assert close(found, np.log([1.1, 0.8]), 1e-12)
    assert system.dt == 1.0


def test_lorenz_exponents_are_the_published_ones():
    found, errors = rates(gh.maps.lorenz(0.008), 400_000)
    assert close(found[0], 0.9056, 0.01)
    assert close(found[1], 0, 4 * errors[1])
    assert close(found[2], -14.5723, 0.015)
    assert close(found.sum(), -41 / 3, 1e-4)


def test_lorenz_of_wolf_in_bits():
    """Same program, other constants: 2.16, 0, -32.4 bits; the sum -(16 + 1 + 4) in nats."""
    system = gh.maps.lorenz(0.008, sigma=16.0, rho=45.92, beta=4.0)
    found, errors = rates(system, 400_000)
    bits = found / math.log(2)
    assert close(bits[0], 2.16, 0.03)
    assert close(bits[1], 0, 4 * errors[1] / math.log(2))
    assert close(bits[2], -32.4, 0.1)
    assert close(found.sum(), -21, 0.02)  # the scheme's own error at this dt


def test_rossler_exponents_are_the_published_ones():
    """And their sum is the mean divergence a - c + ⟨x⟩, by the trapezoidal rule over the states."""
    system, length = gh.maps.rossler(0.025), 400_000
    found, errors = rates(system, length, burn_in=0)
    first = orbit(system, length)[1000:, 0]
    assert close(found[0], 0.0714, 0.004)
    assert close(found[1], 0, 4 * errors[1] + 1e-4)
    assert close(found[2], -5.3943, 4 * errors[2])
    assert close(found.sum(), 0.2 - 5.7 + np.trapezoid(first) / (length - 1000), 1e-3)


def test_linz_sprott_loses_volume_at_the_rate_of_its_damping():
    found, errors = rates(gh.maps.linz_sprott(0.05), 200_000)
    assert close(found[0], 0.0362, 4 * errors[0])
    assert close(found[1], 0, 4 * errors[1])
    assert close(found.sum(), -0.6, 1e-6)


def test_forced_van_der_pol_sums_to_its_mean_divergence():
    """Two exponents, one positive; μ(1 - ⟨x²⟩) by the trapezoidal rule over the states."""
    system, length = gh.maps.van_der_pol(0.01), 200_000
    found, errors = rates(system, length, burn_in=0)
    states = orbit(system, length)[1000:]
    divergence = 5 * (1 - states[:, 0] ** 2)
    assert found.shape == (2,)
    assert close(found[0], 0.085, 3 * errors[0])  # a numerical reference, slow to converge
    assert found[0] > 3 * errors[0]
    assert close(found.sum(), np.trapezoid(divergence) / (length - 1000), 1e-3)


def test_forced_van_der_pol_follows_its_variational_equation():
    """ln of what Φ does to the first unit vector and to areas, by an adaptive solver, to t = 20."""

    def field(t, state):
        x, v, first, second = state[0], state[1], state[2:4], state[4:6]
        J = np.array([[0, 1], [-10 * x * v - 1, 5 * (1 - x**2)]])
        force = 5 * math.cos(2.466 * t)
        return [v, 5 * (1 - x**2) * v - x + force, *(J @ first), *(J @ second)]

    start = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    end = solve_ivp(field, (0, 20), start, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    expected = math.log(np.hypot(*end[2:4])) / 20
    system = gh.maps.van_der_pol(0.002)
    found, _ = rates(system, 10_000, burn_in=0, states=0)
    assert close(max(found), expected, 1e-5)


@pytest.mark.parametrize("dt", [0.001, 0.1])
def test_linear_flow_grows_by_the_scheme_s_polynomial(dt):
    """One step multiplies by 1 + z + z²/2 + z³/6 + z⁴/24 at z = a dt, and so does its rate."""
    matrix = np.array([[-0.4, 2.0, 0.0], [-2.0, -0.4, 0.0], [0.0, 0.0, -0.9]])
    system = gh.maps.linear_flow(matrix, dt)
    found, _ = rates(system, 1500, burn_in=0, states=0)
    eigenvalues = np.array([-0.4 + 2j, -0.4 - 2j, -0.9])
    z = eigenvalues * dt
    growth = 1 + z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
    assert close(found, np.log(np.abs(growth)) / dt, 100 * EPS / dt)
    off = np.abs(eigenvalues) ** 5 * dt**4 / 60 + 100 * EPS / dt
    assert close(found, np.real(eigenvalues), off)


# --- derivatives and steps


def test_hand_written_jacobians_agree():
    """At points of the attractors; J of the standard map and of Ikeda's by their formulas."""
    x = 0.7
    J = gh.jacobian_chain(*gh.maps.logistic(3.7)._replace(h0=jnp.array([x])), length=1).matrices()
    assert close(J[0], 3.7 * (1 - 2 * x), 10 * EPS)
    system = gh.maps.standard(3.0)._replace(h0=jnp.array([2.0, 1.0]))
    J = gh.jacobian_chain(*system, length=1).matrices()[0]
    kick = 3 * math.cos(2.0)
    assert close(J, [[1 + kick, 1], [kick, 1]], 10 * EPS)
    z = 0.4 - 0.7j
    system = gh.maps.ikeda(0.8)._replace(h0=jnp.array([z.real, z.imag]))
    ahead = 1 + 0.8 * z * np.exp(1j * (0.4 - 6 / (1 + abs(z) ** 2)))
    assert close(gh.unroll(*system, length=1).states[-1], [ahead.real, ahead.imag], 10 * EPS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tent", "baker", "cat"])
def test_maps_of_the_unit_interval_do_not_run_out_of_digits(name, dtype):
    """Without new digits tent and baker end at 0 after 24 or 53 steps; the law is uniform."""
    system = getattr(gh.maps, name)(dtype=dtype)
    states = orbit(system, 4000)
    assert states.dtype == dtype
    late = states[100:, 0].astype(float)
    assert late.min() > 0
    assert late.max() < 1
    spread = 4 * math.sqrt(4 / late.size)  # four standard errors, orbits are correlated
    assert close(late.mean(), 0.5, spread * math.sqrt(1 / 12))
    assert close((late**2).mean(), 1 / 3, spread * math.sqrt(4 / 45))
    assert len(np.unique(late)) > 0.99 * late.size


def test_baker_shifts_its_digits_exactly():
    """x' - (2x mod 1) is the one digit that comes in; y keeps the one that left."""
    states = orbit(gh.maps.baker(), 1000)
    x, y = states.T
    incoming = x[1:] - (2 * x[:-1]) % 1
    assert set(np.unique(incoming)) == {0.0, EPS / 2}
    assert close((incoming > 0).mean(), 0.5, 4 * 0.5 / math.sqrt(1000))
    assert np.array_equal(y[1:], (y[:-1] + np.floor(2 * x[:-1])) / 2)


@pytest.mark.parametrize("name", ["lorenz", "rossler", "linz_sprott", "van_der_pol"])
def test_flows_follow_an_adaptive_solver(name):
    """SciPy's eighth-order scheme on the equations written out again."""
    system = getattr(gh.maps, name)(0.001)
    fields = {
        "lorenz": lambda t, h: [10 * (h[1] - h[0]), h[0] * (28 - h[2]) - h[1],
                                h[0] * h[1] - 8 / 3 * h[2]],
        "rossler": lambda t, h: [-h[1] - h[2], h[0] + 0.2 * h[1], 0.2 + h[2] * (h[0] - 5.7)],
        "linz_sprott": lambda t, h: [h[1], h[2], -0.6 * h[2] - h[1] + abs(h[0]) - 1],
        "van_der_pol": lambda t, h: [h[1], 5 * (1 - h[0] ** 2) * h[1] - h[0]
                                     + 5 * math.cos(2.466 * t)],
    }  # fmt: skip
    ours = orbit(system, 2000)
    theirs = solve_ivp(fields[name], (0, 2), ours[0], "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    assert close(ours[-1], theirs, 1e-6)  # dt⁴ = 1e-12 times growth; dt² at the kinks


def _error(field, start, exact, steps, *, timed):
    step = gh.maps.rk4(field, 2.0 / steps, timed=timed)
    h0 = jnp.array([start])
    system = gh.maps.System(step, {}, (h0, jnp.asarray(0, jnp.int32)) if timed else h0)
    return abs(orbit(system, steps)[-1, 0] - exact)


def test_rk4_converges_to_fourth_order():
    """Logistic growth, and a decay forced by cos t, both solved in closed form at time 2."""
    growth = 1 / (1 + 4 * math.exp(-2))
    forced = 0.5 * (math.cos(2) + math.sin(2) + math.exp(-2))
    cases = [
        (lambda params, h, x: h * (1 - h), 0.2, growth, False),
        (lambda params, h, x, time: jnp.cos(time) - h, 1.0, forced, True),
    ]
    for field, start, exact, timed in cases:
        coarse, fine = (_error(field, start, exact, n, timed=timed) for n in (20, 40))
        assert 3.9 < math.log2(coarse / fine) < 4.15


def test_inputs_are_held_during_a_step():
    """h' = x: the exact solution adds dt·x per step."""
    step = gh.maps.rk4(lambda params, h, x: x, 0.5)
    xs = jnp.array([[1.0], [4.0], [-2.0]])
    assert gh.unroll(step, {}, jnp.zeros(1), xs).states[:, 0].tolist() == [0.0, 0.5, 2.5, 1.5]


def test_states_may_be_trees():
    """An oscillator whose position and velocity are leaves, against cos t."""
    step = gh.maps.rk4(lambda params, h, x: {"q": h["v"], "v": -h["q"]}, 0.01)
    states = gh.unroll(step, {}, {"q": jnp.ones(1), "v": jnp.zeros(1)}, length=300).states
    assert close(states["q"][:, 0], np.cos(0.01 * np.arange(301)), 1e-9)


# --- through the rest of the package


def test_diagnose_finds_the_chaos_of_henon():
    found = gh.diagnose(*gh.maps.henon(), length=100)
    assert found.regime == gh.Regime.EXPLODING
    assert close(found.rate, 0.419, 0.16)  # 100 steps: 0.4/√100 a standard error


def test_parameters_may_be_mapped_and_jitted():
    """Σ λ = ln b for every b at once, in float32 too."""

    @jax.jit
    @jax.vmap
    def total(b):
        chain = gh.jacobian_chain(*gh.maps.henon(b=b, dtype=jnp.float32), length=100)
        return gh.lyapunov_spectrum(chain).exponents.sum()

    b = np.array([0.1, 0.2, 0.3], np.float32)
    found = total(jnp.asarray(b))
    assert found.dtype == np.float32
    assert close(found, np.log(b), 1e-5)


# --- misuse


def test_bad_arguments_are_refused(unchecked_types):
    with pytest.raises(ValueError, match=r"`dt` must be positive\. Received 0"):
        gh.maps.lorenz(0.0)
    with pytest.raises(TypeError, match=r"`field` must be a function field\(params, h, x\)"):
        gh.maps.rk4(3.0, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`matrix` must be a square matrix.*\[2,3\]"):
        gh.maps.linear_flow(np.ones((2, 3)))
    timed = gh.maps.rk4(lambda params, h, x, time: h, 0.1, timed=True)
    with pytest.raises(ValueError, match=r"`h0` must be the pair \(h, number of steps taken\)"):
        gh.unroll(timed, {}, jnp.ones(1), length=3)
    wrong = gh.maps.rk4(lambda params, h, x: (h, h), 0.1)
    with pytest.raises(ValueError, match="`field` must return a slope for every leaf"):
        gh.unroll(wrong, {}, jnp.ones(1), length=3)
