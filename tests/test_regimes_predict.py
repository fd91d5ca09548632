"""The parts of a prediction against explicit products, closed forms and the statistics claimed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import gradhorizon as gh
from gradhorizon.regimes import _combine, _growth, _passes, _recurrence
from gradhorizon.regimes._growth import Trend

EPS = np.finfo(float).eps
WIDTH = math.log(1e3)


def driven(n=5, length=24, gain=1.2, seed=0):
    """Give a tanh network's step, parameters, state and inputs."""
    cell = gh.cells.elman(n, 2, recurrent_init=gh.inits.gaussian(gain))
    params = cell.init(jax.random.key(seed))
    xs = jax.random.normal(jax.random.key(seed + 1), (length, 2))
    return cell.step, params, cell.initial_state(), xs


def passes(length=24, **settings):
    return _passes.passes_of(gh.jacobian_chain(*driven(length=length, **settings)))


# --- passes and growth -------------------------------------------------------------------------


def test_passes_go_through_the_same_pieces_in_other_orders():
    step, params, h0, xs = driven(length=40)
    made = passes(length=40)
    seen = np.asarray(made.chains.items[3])
    assert made.repeated
    assert made.size == 5
    pieces = np.asarray(xs).reshape(8, 5, 2)
    for row, order in enumerate(made.groups):
        assert sorted(order.tolist()) == list(range(8))
        assert np.array_equal(seen[row].reshape(8, 5, 2), pieces[order])
    assert sorted(made.groups[:, -1].tolist()) == list(range(8))
    assert sorted(made.groups[:, 0].tolist()) == list(range(8))
    # passes start in the last state of the prefix but one or in h_0, and run the network itself
    states = gh.unroll(step, params, h0, xs).states
    for row, start in ((2, states[-2]), (5, h0)):
        h = np.asarray(start)
        for t in range(40):
            assert np.allclose(made.chains.items[0][row, t], h, atol=1e-13)
            h = np.asarray(step(params, h, seen[row, t]))


def test_passes_without_inputs_follow_on_one_another():
    cell = gh.cells.elman(12, 0, recurrent_init=gh.inits.gaussian(2.0))
    params = cell.init(jax.random.key(0))
    chain = gh.jacobian_chain(cell.step, params, jnp.ones(12), length=20)
    made = _passes.passes_of(chain)
    points = np.asarray(made.chains.items[0])
    long = np.asarray(gh.unroll(cell.step, params, jnp.ones(12), length=19 + 40).states)
    assert not made.repeated
    assert np.allclose(points[1, 0], long[19 + 20], atol=1e-9)
    assert np.allclose(points[2, 0], long[19 + 40], atol=1e-6)


@pytest.mark.parametrize("count", [2, 8])
def test_growth_equals_explicit_products_from_every_end(count):
    """‖Φ(t, t-k)ᵀ C‖_F/√m for the coframe C, and J_tᵀ u; n ≤ 4 makes C the identity."""
    step, params, h0, xs = driven(n=4, length=19)
    chain = gh.jacobian_chain(step, params, h0, xs)
    J = np.asarray(chain.matrices())
    ends = _growth.ends_of(19, count)
    growth = jax.jit(lambda c: _growth._growth(c, ends))(chain)
    assert ends[0] == 19
    assert min(ends) >= 10
    for row, end in enumerate(ends):
        product = np.eye(4)
        for k in range(1, end + 1):
            product = product @ J[end - k]
            exact = np.log(np.linalg.norm(product) / 2)
            assert abs(float(growth.curves[row, k]) - exact) <= 1e-12
        assert np.all(np.isnan(growth.curves[row, end + 1 :]))
    u = np.cos(np.arange(1, 5))
    assert np.allclose(growth.prints, np.einsum("tji,j->ti", J, u), atol=1e-13)


def test_far_growth_is_that_of_the_product_through_all_passes():
    made = passes(n=4, length=24)
    local = _growth.growth_of(made).curves[:, 0]
    far = np.asarray(_growth.far_curves(made, local))
    matrices = np.asarray(made.each(lambda chain: chain.matrices()))
    assert far.shape == (7, 25)
    block = np.eye(4)
    for row in reversed(range(8)):
        start = np.linalg.norm(block)
        for k in range(1, 25):
            block = matrices[row, 24 - k].T @ block
            if row < 7:
                assert abs(far[row, k] - np.log(np.linalg.norm(block) / start)) <= 1e-11


def test_slow_directions_decide_far_back_though_they_are_few():
    """diag(slow, fast, fast, …) with jitter: near its start the gradient falls, far back not."""

    def step(decay, h, x):
        return decay * h * (1 + 0.05 * x)

    decay = jnp.asarray([0.999, *[0.9] * 15])
    xs = jax.random.normal(jax.random.key(0), (120, 16))
    prediction = gh.predict(step, decay, jnp.ones(16), xs, lag=1000)
    exact = math.log(0.999) + float(jnp.mean(jnp.log1p(0.05 * xs[:, 0])))
    assert abs(float(prediction.rate) - exact) <= 3e-3
    assert int(prediction.basis) == _combine.CONTINUED


def scalar_passes(factors, *, repeated=False, groups=None):
    """Wrap scalar chains, one row of `factors` for each pass."""
    rows, length = factors.shape
    size = length // 8
    chain = gh.JacobianChain.from_matrices(factors[0][:, None, None])
    stack = jnp.asarray(factors)[:, :, None, None]
    many = jax.vmap(lambda m: gh.JacobianChain.from_matrices(m))(stack)
    del chain
    groups = np.broadcast_to(np.arange(rows)[:, None], (rows, 8)) if groups is None else groups
    return _passes.Passes(many, None, groups, size, repeated, not repeated)


def test_trend_of_independent_factors_has_the_right_error_and_diffusion():
    """ln factors ~ N(μ, s²): the error is s/√steps and the diffusion s², within sampling."""
    rng = np.random.default_rng(0)
    z, errors, diffusions = [], [], []
    run = jax.jit(lambda f: trend_numbers(f, None, repeated=False))
    for _ in range(200):
        logs = rng.normal(-0.1, 0.3, size=(8, 80))
        rate, error, diffusion = run(np.exp(logs))
        exact = logs[:, :70].mean()
        assert abs(float(rate) - exact) <= 1e-12
        z.append((float(rate) + 0.1) / float(error))
        errors.append(float(error) ** 2)
        diffusions.append(float(diffusion))
    # 8 pieces of 70: the larger of two mean squares is a little above the variance
    assert 1.0 <= np.mean(errors) / (0.09 / 560) <= 1.5
    assert 1.0 <= np.mean(diffusions) / 0.09 <= 1.5
    inside = np.mean(np.abs(z) <= stats.t.ppf(0.95, 7))
    assert 0.86 <= inside <= 0.98  # 90 % and above, four binomial errors


def trend_numbers(factors, groups, *, repeated):
    made = scalar_passes(factors, repeated=repeated, groups=groups)
    growth = _growth.growth_of(made)
    return _growth.trend_of(growth.curves[:, 0], made)[:3]


def test_trend_of_repeated_pieces_counts_each_piece_once():
    """Growth that depends on the piece alone: eight passes know no more than one does."""
    rng = np.random.default_rng(1)
    groups = _passes._orders(8)
    run = jax.jit(lambda f: trend_numbers(f, groups, repeated=True))
    z, diffusions = [], []
    for _ in range(200):
        effect = rng.normal(0.05, 0.2, size=8)
        rate, error, diffusion = run(np.exp(np.repeat(effect[groups], 10, axis=1)))
        z.append((float(rate) - 0.05) / float(error))
        diffusions.append(float(diffusion))
    assert 0.82 <= np.mean(np.abs(z) <= stats.t.ppf(0.95, 7)) <= 0.98
    assert abs(np.mean(diffusions) / (10 * 0.04) - 1) <= 0.2  # ten steps of one effect


# --- repeating Jacobians -----------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_repeating_jacobians_are_a_power_of_one_product(period):
    """Horizon and rate against eigenvalues and powers of the period, by NumPy."""
    rng = np.random.default_rng(period)
    cycle = rng.normal(size=(period, 4, 4)) / 2.2
    product = np.linalg.multi_dot([np.eye(4), *cycle[::-1], np.eye(4)])
    target = 0.97**period / np.abs(np.linalg.eigvals(product)).max()
    cycle *= target ** (1 / period)
    cycle = jnp.asarray(cycle)

    def step(params, h, x):
        return params[h["phase"] % period] @ h["v"], h["phase"] + 1

    def packed(params, h, x):
        v, phase = step(params, h, x)
        return {"v": v, "phase": phase}

    h0 = {"v": jnp.ones(4), "phase": jnp.asarray(0, jnp.int32)}
    prediction = gh.predict(packed, cycle, h0, None, lag=300, length=64)
    assert int(prediction.basis) == _combine.RECURRENT
    assert int(prediction.period) == period
    assert abs(float(prediction.rate) - math.log(0.97)) <= 1e-9
    sizes, power = [], np.eye(4)
    matrices = np.asarray(gh.jacobian_chain(packed, cycle, h0, length=64 + 400).matrices())
    end = 64 + 400 - 1  # any whole number of periods from the end that was followed
    found = float(prediction.horizon)
    exits = []
    for shift in range(period):
        power, k = np.eye(4), 0
        while np.linalg.norm(power) / 2 >= 1e-3:
            power = power @ matrices[end - shift - k]
            k += 1
        exits.append(k)
    assert min(exits) - 1 <= found <= max(exits)
    del sizes


def test_replay_and_recurrence_of_an_exact_zero():
    shift = np.diag(np.ones(5), -1)
    prediction = gh.predict(lambda W, h, x: W @ h, shift, np.ones(6), None, lag=100)
    assert 5 <= float(prediction.horizon) <= 6  # six powers, the sixth is zero
    assert float(prediction.rate) == -np.inf
    assert float(prediction.rate_error) == 0
    assert prediction.regime is gh.Regime.VANISHING


def test_different_jacobians_do_not_count_as_repeating():
    prediction = gh.predict(*driven(length=80), lag=100)
    assert int(prediction.basis) != _combine.RECURRENT
    recurrence = _recurrence.recurrence_of(_growth.growth_of(passes(length=80)).prints)
    assert float(recurrence.deviation) > 0.1


# --- the band and the verdict ------------------------------------------------------------------


def conclude(curve, rate, error, diffusion, *, lag=100, certified=np.inf, curves=None):
    curves = jnp.asarray(np.tile(curve, (16, 1)) if curves is None else curves)
    trend = Trend(jnp.asarray(rate), jnp.asarray(error), jnp.asarray(diffusion), 7)
    never = _recurrence.Recurrence(jnp.asarray(1, jnp.int32), jnp.asarray(np.inf))
    nothing = _recurrence.unknown_replay(np.dtype(float))
    bound = jnp.asarray(certified)
    return _combine.conclude(curves, trend, never, nothing, bound, lag=float(lag), threshold=1e-3)


@pytest.mark.parametrize("rate", [-0.5, -0.02, 0.003, 0.2])
def test_steady_growth_leaves_after_the_log_of_the_window_over_the_rate(rate):
    verdict = conclude(rate * np.arange(101), rate, 0.0, 0.0)
    exact = WIDTH / abs(rate)
    assert abs(float(verdict.horizon) / exact - 1) <= 1e-9
    low, high = np.asarray(verdict.horizon_interval)
    assert low == np.floor(low) <= exact <= high * (1 + 1e-9)
    assert int(verdict.regime_code) == (0 if exact >= 100 else np.sign(rate))
    assert int(verdict.basis) == (_combine.SEEN if exact <= 50 else _combine.CONTINUED)


def test_interval_solves_the_equation_of_the_band():
    """|rate| k = width ± t sqrt(D k + k² s²) at both ends."""
    rate, error, diffusion = -0.02, 0.002, 0.004
    verdict = conclude(rate * np.arange(201), rate, error, diffusion, lag=1000)
    t = _combine.half_width(7)
    for k, sign in zip(np.asarray(verdict.horizon_interval), (1, -1), strict=True):
        reach = 0.02 * k + sign * t * math.sqrt(diffusion * k + (error * k) ** 2)
        assert abs(reach - WIDTH) <= 0.05  # a whole step below, and the grid of lags


def test_growth_that_may_be_zero_has_no_upper_end():
    verdict = conclude(-0.001 * np.arange(101), -0.001, 0.002, 0.0001)
    assert np.isinf(verdict.horizon_interval[1])
    assert np.isfinite(verdict.horizon_interval[0])


def test_first_growth_then_decay_leaves_upwards():
    lags = np.arange(201)
    verdict = conclude(8 * np.exp(-(((lags - 40) / 30) ** 2)) - 0.1 * lags, -0.1, 0.0, 0.0)
    assert int(verdict.regime_code) == 0 if float(verdict.horizon) >= 100 else 1


def test_certificate_caps_the_horizon():
    verdict = conclude(-0.01 * np.arange(101), -0.01, 0.005, 0.01, certified=-0.05)
    assert float(verdict.horizon) <= WIDTH / 0.05
    assert float(verdict.horizon_interval[1]) <= WIDTH / 0.05


def test_exact_zeros_widen_the_interval_to_the_exits_seen():
    curves = np.tile(-0.01 * np.arange(101), (16, 1))
    for row, last in enumerate(range(20, 36)):
        curves[row, last:] = -np.inf
    verdict = conclude(None, -np.inf, 0.0, 0.0, curves=curves)
    low, high = np.asarray(verdict.horizon_interval)
    assert low <= 19
    assert high >= 35
    assert 26 <= float(verdict.horizon) <= 28  # the median of 20 … 35 less one


def test_interval_covers_fresh_runs():
    """Scalar random walks with drift: the interval of one run holds the exit of another."""
    rng = np.random.default_rng(3)
    groups = np.broadcast_to(np.arange(8)[:, None], (8, 8))
    rate, spread = -0.04, 0.12

    @jax.jit
    def interval(factors):
        made = _passes.Passes(
            jax.vmap(lambda m: gh.JacobianChain.from_matrices(m))(factors),
            None,
            groups,
            15,
            False,
            True,
        )
        growth = _growth.growth_of(made)
        trend = _growth.trend_of(growth.curves[:, 0], made)
        recurrence = _recurrence.recurrence_of(growth.prints)
        return _combine.conclude(
            growth.curves.reshape(16, -1), trend, recurrence,
            _recurrence.unknown_replay(np.dtype(float)), jnp.asarray(jnp.inf),
            lag=1000.0, threshold=1e-3,
        ).horizon_interval  # fmt: skip

    inside = []
    for _ in range(150):
        logs = rng.normal(rate, spread, size=(8, 120))
        low, high = np.asarray(interval(np.exp(logs)[:, :, None, None]))
        fresh = np.cumsum(rng.normal(rate, spread, size=4000))
        true = int(np.argmax(np.abs(fresh) > WIDTH))  # steps inside: the next one is outside
        inside.append(low <= true + 1 and high >= true)
    assert 0.80 <= np.mean(inside) <= 0.98  # 90 %, four binomial errors


# --- whole predictions -------------------------------------------------------------------------


def test_noise_suppresses_chaos_against_the_spectral_radius():
    """Strong input makes a network with ρ(W) = 1.5 vanish (Molgedey et al. 1992)."""
    n = 96
    cell = gh.cells.rate_network(n, n, recurrent_init=gh.inits.gaussian(1.5),
                                 input_init=gh.inits.identity(math.sqrt(0.5)))  # fmt: skip
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (200, n))
    prediction = gh.predict(cell.step, params, cell.initial_state(), xs)
    theory = -0.0690423
    assert abs(float(prediction.rate) - theory) <= 0.03 + 3 * float(prediction.rate_error)
    assert prediction.regime is gh.Regime.VANISHING
    by_name = {c.name: c for c in prediction.criteria}
    assert by_name["spectral radius"].verdict is gh.Regime.EXPLODING
    assert "spectral radius" in str(prediction).splitlines()[-1]


def test_a_period_two_orbit_is_found_and_its_mean_state_misleads():
    """h' = tanh(-1.5 h) flips between ±h*: the mean state 0 says exploding, the orbit vanishes."""
    cell = gh.cells.elman(3, 0, recurrent_init=gh.inits.identity(-1.5))
    prediction = gh.predict(cell.step, cell.init(jax.random.key(0)), jnp.full(3, 0.3), lag=200)
    star = 1.0
    for _ in range(500):
        star = math.tanh(1.5 * star)
    rate = math.log(1.5 * (1 - star**2))
    assert abs(float(prediction.rate) - rate) <= 1e-9
    assert prediction.regime is gh.Regime.VANISHING
    by_name = {c.name: c for c in prediction.criteria}
    assert by_name["spectral radius at the mean state"].verdict is gh.Regime.EXPLODING


def test_fixed_point_criterion_is_the_slope_at_the_fixed_point():
    cell = gh.cells.elman(2, 1, recurrent_init=gh.inits.identity(0.5))
    params = cell.init(jax.random.key(0)) | {"U": jnp.ones((2, 1))}
    prediction = gh.predict(cell.step, params, jnp.zeros(2), jnp.full((60, 1), 0.4), lag=50)
    star = 0.0
    for _ in range(500):
        star = math.tanh(0.5 * star + 0.4)
    by_name = {c.name: c for c in prediction.criteria}
    value = float(by_name["spectral radius at a fixed point"].value)
    assert abs(value - 0.5 * (1 - star**2)) <= 1e-12


def test_no_fixed_point_means_the_criterion_does_not_apply():
    prediction = gh.predict(lambda p, h, x: h + 1.0, 0.0, jnp.zeros(2), None, lag=50)
    by_name = {c.name: c for c in prediction.criteria}
    assert math.isnan(float(by_name["spectral radius at a fixed point"].rate))
    assert prediction.regime is gh.Regime.BALANCED
    assert np.isinf(float(prediction.horizon))


def test_network_that_explodes_is_not_run_to_overflow():
    """ReLU with gain 2: its state doubles each step and would overflow after the prefix."""
    cell = gh.cells.elman(4, 0, activation="relu", recurrent_init=gh.inits.identity(2.0))
    prediction = gh.predict(cell.step, cell.init(jax.random.key(0)), jnp.ones(4), lag=1000)
    assert abs(float(prediction.rate) - math.log(2)) <= 1e-12
    assert prediction.regime is gh.Regime.EXPLODING
    assert abs(float(prediction.horizon) - WIDTH / math.log(2)) <= 1e-9


def test_a_prefix_of_one_step_knows_nothing_but_its_own_growth():
    prediction = gh.predict(*driven(length=1), lag=50)
    assert float(prediction.rate_error) == abs(float(prediction.rate))


def test_reason_names_what_the_verdict_rests_on():
    one = gh.predict(lambda p, h, x: p * h, 0.5, jnp.ones(3), None, lag=50)
    assert one.reason.startswith("all steps have the same Jacobian")
    assert f"because {one.reason}" in str(one)
    assert one.to_dict()["reason"] == one.reason
    contraction = gh.predict(*driven(gain=0.2, length=60), lag=200)
    assert "certain" in contraction.reason
    assert "within the prefix of 60 steps" in contraction.reason


def test_non_finite_prefix_is_a_status():
    step, params, h0, xs = driven()
    broken = params | {"b": params["b"].at[0].set(jnp.inf)}
    prediction = gh.predict(lambda p, h, x: step(broken, h, x) * jnp.inf, params, h0, xs,
                            throw=False)  # fmt: skip
    assert prediction.regime is None
    assert math.isnan(float(prediction.rate))
    assert str(prediction).startswith("NONFINITE")
