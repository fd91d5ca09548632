"""Regime, horizon, forecast, criteria, prediction and diagnosis against exact networks."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.regimes import forecast as forecasting
from gradhorizon.regimes import regime as regimes

EPS = np.finfo(float).eps


def scaled(params, h, x):
    return params * h


def diagnose_scaled(gain, length, **settings):
    return gh.diagnose(scaled, gain, jnp.ones(3), length=length, **settings)


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.0, 1.2])
@pytest.mark.parametrize("threshold", [1e-3, 1e-1])
def test_horizon_of_a_scaled_identity_is_exact(gain, threshold):
    """Largest k with gain^k inside the window: floor(ln(1/ε)/|ln gain|)."""
    diagnosis = diagnose_scaled(gain, 100, threshold=threshold)
    rate = math.log(gain)
    assert abs(float(diagnosis.rate) - rate) <= 1e-14
    steady = math.inf if rate == 0 else -math.log(threshold) / abs(rate)
    if steady < 100:
        assert diagnosis.horizon_observed
        assert float(diagnosis.horizon) == math.floor(steady)
        assert diagnosis.regime == ("VANISHING" if gain < 1 else "EXPLODING")
    else:
        assert not diagnosis.horizon_observed
        assert diagnosis.regime is gh.Regime.BALANCED
        assert float(diagnosis.horizon) == pytest.approx(steady, rel=1e-10)


def test_regime_is_a_statement_about_a_lag():
    rate, steps = math.log(0.9), 65  # ln(1000)/|ln 0.9| = 65.56
    inside = diagnose_scaled(0.9, 200, lag=steps)
    outside = diagnose_scaled(0.9, 200, lag=steps + 1)
    assert inside.regime is gh.Regime.BALANCED
    assert outside.regime is gh.Regime.VANISHING
    assert abs(float(inside.rate) - rate) <= 1e-14
    beyond = diagnose_scaled(0.9, 20, lag=100)
    assert beyond.regime is gh.Regime.VANISHING


def test_first_exit_decides_for_transient_growth():
    """A Jordan block grows 19-fold, then vanishes: with ε = 0.1 it leaves upward first."""
    W = jnp.array([[0.9, 5.0], [0.0, 0.9]])
    arguments = (lambda W, h, x: W @ h, W, jnp.ones(2))
    narrow = gh.diagnose(*arguments, length=300, threshold=0.1)
    assert narrow.regime is gh.Regime.EXPLODING
    wide = gh.diagnose(*arguments, length=300, threshold=1e-3)
    assert wide.regime is gh.Regime.VANISHING
    # the horizon follows from the Frobenius norm of W^k over √2
    norms = [np.linalg.norm(np.linalg.matrix_power(W, k)) / np.sqrt(2) for k in range(301)]
    exact = next(k for k, size in enumerate(norms) if size < 1e-3) - 1
    assert float(wide.horizon) == exact


def test_lstm_memory_reaches_as_far_as_the_forget_gate_says():
    """All weights zero: σ(b) per step; b = 1 falls to 1e-3 after 22.051 steps."""
    cell = gh.cells.lstm(4, 0, forget_bias=1.0, recurrent_init=gh.inits.gaussian(0.0))
    params = cell.init(jax.random.key(0))
    diagnosis = gh.diagnose(
        cell.step, params, cell.initial_state(), length=80, loss=lambda s: jnp.sum(s[0][-1])
    )
    assert float(diagnosis.horizon) == 22
    assert abs(float(diagnosis.prediction.horizon) - 22.051) <= 1.5
    assert diagnosis.alive[-1] == 0
    assert any("forget_bias" in sentence for sentence in diagnosis.advice)


def test_profile_of_a_loss_is_jax_grad():
    cell = gh.cells.gru(5, 2)
    params, h0 = cell.init(jax.random.key(0)), cell.initial_state()
    xs = jax.random.normal(jax.random.key(1), (30, 2))
    diagnosis = gh.diagnose(cell.step, params, h0, xs, loss=lambda hs: jnp.sum(jnp.sin(hs[-1])))
    gradient = jax.grad(lambda h: jnp.sum(jnp.sin(gh.unroll(cell.step, params, h, xs).states[-1])))
    expected = np.log(np.linalg.norm(gradient(h0)))
    assert abs(float(diagnosis.profile.log_norms[0]) - expected) <= 1e-12


def test_checks_pass_on_sound_networks_and_name_their_identity():
    cell = gh.cells.elman(8, 2, recurrent_init=gh.inits.gaussian(1.4))
    xs = jax.random.normal(jax.random.key(0), (60, 2))
    diagnosis = gh.diagnose(cell.step, cell.init(jax.random.key(1)), cell.initial_state(), xs)
    assert len(diagnosis.checks) == 3
    assert all(check.passed for check in diagnosis.checks)
    assert float(diagnosis.checks[0].residual) < 1e-12
    assert float(diagnosis.checks[0].tolerance) < 1e-8
    assert "self-checks: all 3 passed" in str(diagnosis)


def test_a_wrong_derivative_rule_fails_the_check_against_automatic_differentiation(monkeypatch):
    from gradhorizon.regimes import checks

    jax.clear_caches()
    original = checks._vjp_of_unroll
    monkeypatch.setattr(checks, "_vjp_of_unroll", lambda *a: 1.001 * original(*a))
    diagnosis = diagnose_scaled(0.9, 31)
    jax.clear_caches()
    assert not diagnosis.checks[0].passed
    assert "self-checks FAILED: chain product against jax.vjp" in str(diagnosis)


def test_alive_directions_of_a_known_spectrum():
    """σ_i(W^k) = d_i^k for a diagonal W."""
    d = np.array([1.0, 0.9, 0.5, 0.1, 0.0])
    diagnosis = gh.diagnose(lambda W, h, x: W * h, jnp.asarray(d), jnp.ones(5), length=64)
    lags = np.asarray(diagnosis.singular.lags)
    exact = [int(np.sum(d**k >= 1e-3)) for k in lags]
    assert diagnosis.alive.tolist() == exact


# --- criteria and prediction -------------------------------------------------------------------


def by_name(record):
    return {c.name: c for c in record.criteria}


def test_criteria_of_a_linear_network_agree_with_its_eigenvalues():
    W = gh.inits.gaussian(0.8)(jax.random.key(0), (20, 20), np.float64)
    cell = gh.cells.linear(20, 0)
    params = {"W": W, "b": jnp.zeros(20)}
    prediction = gh.predict(cell.step, params, jnp.ones(20), length=400, lag=100)
    rules = by_name(prediction)
    radius = np.abs(np.linalg.eigvals(W)).max()
    assert abs(float(rules["spectral radius"].value) - radius) <= 1e-12
    assert abs(float(rules["largest singular value"].value) - np.linalg.norm(W, 2)) <= 1e-12
    assert abs(float(rules["spectral radius at the mean state"].value) - radius) <= 1e-12
    assert abs(float(prediction.rate) - np.log(radius)) <= 4 * float(prediction.rate_error)
    chi = 20 * np.mean(np.asarray(W) ** 2)
    assert abs(float(rules["mean field χ"].value) - chi) <= 1e-10


def test_certificate_proves_vanishing_and_nothing_else():
    for gain, verdict in ((0.3, gh.Regime.VANISHING), (3.0, None)):
        cell = gh.cells.elman(10, 0, recurrent_init=gh.inits.orthogonal(gain))
        params = cell.init(jax.random.key(0))
        prediction = gh.predict(cell.step, params, jnp.full(10, 0.1), lag=50)
        certificate = by_name(prediction)["largest singular value"]
        assert certificate.kind == "certificate"
        assert certificate.verdict is verdict
    assert gain == 3.0


def test_certificate_knows_the_slope_of_the_logistic_function():
    """γ = 1/4: σ_1 = 3.9 is still certified to vanish."""
    cell = gh.cells.elman(10, 0, activation="sigmoid", recurrent_init=gh.inits.orthogonal(3.9))
    prediction = gh.predict(cell.step, cell.init(jax.random.key(0)), jnp.zeros(10), lag=1000)
    certificate = by_name(prediction)["largest singular value"]
    assert abs(float(certificate.value) - 3.9 / 4) <= 1e-12
    assert certificate.verdict is gh.Regime.VANISHING


def test_leak_enters_certificate_and_spectral_radius():
    cell = gh.cells.rate_network(6, 0, leak=0.2, recurrent_init=gh.inits.identity(0.5))
    prediction = gh.predict(cell.step, cell.init(jax.random.key(0)), jnp.zeros(6), lag=200)
    rules = by_name(prediction)
    assert abs(float(rules["largest singular value"].value) - 0.9) <= 1e-14
    assert abs(float(rules["spectral radius"].value) - 0.9) <= 1e-14
    assert "mean field χ" not in rules


def test_mean_field_declines_matrices_that_do_not_look_random():
    cell = gh.cells.elman(30, 0, recurrent_init=gh.inits.identity(1.5))
    prediction = gh.predict(cell.step, cell.init(jax.random.key(0)), jnp.full(30, 0.1), lag=50)
    rule = by_name(prediction)["mean field χ"]
    assert math.isnan(float(rule.rate))
    assert rule.verdict is None
    assert "does not apply" in str(prediction)


def test_mean_field_predicts_a_large_driven_network():
    """χ at N = 300 with unit-variance input: the measured exponent within 0.05 nats."""
    n = 300
    cell = gh.cells.elman(n, 1, recurrent_init=gh.inits.gaussian(2.0))
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (200, 1))
    prediction = gh.predict(cell.step, params, cell.initial_state(), xs, lag=100)
    rule = by_name(prediction)["mean field χ"]
    # one shared input is a rank-one drive: finite-size and O(1/T) corrections
    assert abs(float(rule.rate) - float(prediction.rate)) <= 0.05 + 4 * float(prediction.rate_error)


@pytest.mark.parametrize("name", ["elman", "gru", "lstm", "rate"])
def test_prediction_from_a_prefix_meets_the_measurement(name):
    """On fresh inputs: rate within four errors of both, regimes equal away from the edge."""
    cells = {
        "elman": gh.cells.elman(16, 2, recurrent_init=gh.inits.gaussian(0.6)),
        "gru": gh.cells.gru(16, 2),
        "lstm": gh.cells.lstm(8, 2, forget_bias=0.0),
        "rate": gh.cells.rate_network(16, 2, leak=0.3, recurrent_init=gh.inits.gaussian(0.5)),
    }
    cell = cells[name]
    params, h0 = cell.init(jax.random.key(0)), cell.initial_state()
    xs = jax.random.normal(jax.random.key(1), (600, 2))
    prediction = gh.predict(cell.step, params, h0, xs[:150], lag=400)
    measured = gh.diagnose(cell.step, params, h0, xs, lag=400)
    error = math.hypot(float(prediction.rate_error), float(measured.rate_error))
    assert abs(float(prediction.rate) - float(measured.rate)) <= 4 * error
    assert prediction.regime is measured.regime
    low, high = (float(v) for v in prediction.horizon_interval)
    assert low <= float(prediction.horizon) <= high


def test_predict_and_diagnose_under_vmap_and_jit():
    cell = gh.cells.elman(6, 2, recurrent_init=gh.inits.gaussian(0.7))
    params, h0 = cell.init(jax.random.key(0)), cell.initial_state()
    batch = jax.random.normal(jax.random.key(1), (3, 40, 2))
    together = jax.vmap(lambda xs: gh.predict(cell.step, params, h0, xs, lag=50))(batch)
    assert together.regime.shape == (3,)
    for b in range(3):
        alone = gh.predict(cell.step, params, h0, batch[b], lag=50)
        assert abs(float(together.rate[b]) - float(alone.rate)) <= 1e-12
        assert together.regime[b] is alone.regime
    compiled = jax.jit(lambda xs: gh.diagnose(cell.step, params, h0, xs))(batch[0])
    plain = gh.diagnose(cell.step, params, h0, batch[0])
    assert compiled.regime is plain.regime
    assert abs(float(compiled.horizon) - float(plain.horizon)) <= 1e-9
    assert np.max(np.abs(compiled.profile.log_norms - plain.profile.log_norms)) <= 1e-11


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_keep_the_input_dtype(dtype):
    cell = gh.cells.gru(4, 2, dtype=dtype)
    xs = jax.random.normal(jax.random.key(1), (25, 2), dtype)
    d = gh.diagnose(cell.step, cell.init(jax.random.key(0)), cell.initial_state(), xs)
    for value in (d.rate, d.rate_error, d.horizon, d.profile.log_norms, d.singular.log_values):
        assert value.dtype == dtype
    for rule in d.criteria:
        assert rule.rate.dtype == dtype


@pytest.mark.parametrize("form", ["activation", "preactivation", "transposed"])
def test_repeated_term_of_a_plain_step_is_found(form):
    """The parameter that all step Jacobians contain, with rows or columns scaled."""
    W = gh.inits.gaussian(1.3)(jax.random.key(0), (12, 12), np.float64)
    xs = 0.5 * jax.random.normal(jax.random.key(1), (40, 12))
    steps = {
        "activation": lambda p, h, x: jnp.tanh(p["W"] @ h + x),
        "preactivation": lambda p, h, x: p["W"] @ jnp.tanh(h) + x,
        "transposed": lambda p, h, x: jnp.tanh(h @ p["W"] + x),
    }
    params = {"W": W, "other": jnp.ones((12, 12))}
    rules = by_name(gh.predict(steps[form], params, jnp.zeros(12), xs, lag=100))
    radius = np.abs(np.linalg.eigvals(W)).max()
    assert abs(float(rules["spectral radius"].value) - radius) <= 1e-12
    assert "params['W']" in rules["spectral radius"].source
    largest = float(rules["largest singular value × slope"].value)
    assert 0.3 * np.linalg.norm(W, 2) < largest <= np.linalg.norm(W, 2)
    assert rules["largest singular value × slope"].kind == "estimate"


def test_no_repeated_term_is_claimed_where_there_is_none():
    W = gh.inits.gaussian()(jax.random.key(0), (6, 6), np.float64)

    def step(p, h, x):
        return 0.5 * h + jnp.tanh(p @ h + x)

    xs = jax.random.normal(jax.random.key(1), (30, 6))
    rules = by_name(gh.predict(step, W, jnp.zeros(6), xs, lag=100))
    assert "spectral radius" not in rules
    assert "spectral radius at the mean state" in rules


# --- text and data -----------------------------------------------------------------------------


def test_text_says_the_answer_first_and_everything_else_after():
    text = str(diagnose_scaled(0.5, 60))
    lines = text.splitlines()
    assert lines[0] == "VANISHING at lag 60: the gradient reaches back 9 steps."
    assert "rate -0.6931" in lines[1]
    order = ["criterion", "measured gradient", "plain backward pass", "what would help", "checks"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)


def test_disagreement_is_named():
    """ρ(W) = 1.5 says exploding; saturation by a strong drive makes the gradient vanish."""
    cell = gh.cells.elman(20, 20, recurrent_init=gh.inits.orthogonal(1.5),
                          input_init=gh.inits.identity(3.0))  # fmt: skip
    xs = jax.random.normal(jax.random.key(0), (60, 20))
    d = gh.diagnose(cell.step, cell.init(jax.random.key(1)), cell.initial_state(), xs)
    assert d.regime is gh.Regime.VANISHING
    assert by_name(d)["spectral radius"].verdict is gh.Regime.EXPLODING
    assert "spectral radius" in str(d).split("contradict")[0].splitlines()[-1]


def test_dictionary_is_json_without_nan():
    data = diagnose_scaled(0.0, 20).to_dict()
    text = json.dumps(data, allow_nan=False)
    assert data["regime"] == "VANISHING"
    assert data["profile"]["log_norms"][0] == "-inf"
    assert json.loads(text)["horizon"] == 0.0


def test_exact_zero_jacobian_is_a_horizon_of_zero_not_nan():
    d = diagnose_scaled(0.0, 20)
    assert float(d.horizon) == 0.0
    assert float(d.rate) == -np.inf
    assert d.regime is gh.Regime.VANISHING
    assert str(d).startswith("VANISHING at lag 20: the gradient reaches back 0 steps.")


# --- forecast ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_forecast_equals_the_plain_product_on_this_device(name):
    """Raw products of 1/4: the step at which XLA's result is exactly zero."""
    dtype = jnp.dtype(name)
    quarter = jnp.asarray(0.25, dtype)
    values = jax.jit(
        lambda: jax.lax.scan(lambda p, _: (p * quarter, p), jnp.ones((), dtype), None, length=700)
    )()[1]
    first_zero = int(jnp.argmin(values != 0))
    by_lag = jnp.arange(700.0) * math.log(0.25)
    table = forecasting.forecast(by_lag, math.log(0.25))
    ours = dict(zip(table.formats, np.asarray(table.lags), strict=True))[name]
    assert ours == first_zero
    if dict(zip(table.formats, table.flushed, strict=True))[name]:
        assert first_zero == {"float32": 64, "float64": 512}[name]


def test_forecast_of_a_matrix_product():
    """W = 0.5 randn(32, 32)/√32: exactly zero within 3 steps + 2 % of the forecast."""
    W = (0.5 * np.random.default_rng(0).normal(size=(32, 32)) / np.sqrt(32)).astype(np.float32)
    u = np.ones(32, np.float32)

    def back(v, _):
        return W.T @ v, jnp.any(v != 0)

    alive = jax.jit(lambda: jax.lax.scan(back, jnp.asarray(u), None, length=300))()[1]
    first_zero = int(jnp.argmin(alive))
    chain = gh.jacobian_chain(lambda W, h, x: W @ h, W, np.zeros(32, np.float32), length=300)
    profile = gh.backpropagate(chain, u)
    table = forecasting.forecast(profile.log_max[::-1], -0.63)
    ours = float(table.lags[table.formats.index("float32")])
    assert abs(ours - first_zero) <= 3 + 0.02 * first_zero


def test_forecast_extrapolates_and_overflows():
    by_lag = jnp.arange(11.0) * math.log(3.0)
    table = forecasting.forecast(by_lag, math.log(3.0))
    for name, lag, fate, beyond in zip(
        table.formats, table.lags, table.fates, table.extrapolated, strict=True
    ):
        exact = math.ceil(math.log(float(jnp.finfo(name).max)) / math.log(3.0))
        assert abs(float(lag) - exact) <= 1
        assert fate == 1
        assert bool(beyond) == (exact > 10)
    steady = forecasting.forecast(jnp.zeros(11), 0.0)
    assert np.all(np.isinf(steady.lags))
    assert np.all(np.asarray(steady.fates) == 0)


def test_regimes_of_rates():
    codes = regimes.regime_of_rate(np.array([-0.1, 0.0, 0.1, 0.01]), 100, 1e-3)
    assert codes.tolist() == [-1, 0, 1, 0]
    assert [str(r) for r in regimes.regime_from_code(codes)] == [
        "VANISHING", "BALANCED", "EXPLODING", "BALANCED",
    ]  # fmt: skip
    assert float(regimes.horizon_of_rate(0.0, 1e-3)) == np.inf


# --- matrix criteria ---------------------------------------------------------------------------


def test_matrix_criteria_of_the_jordan_block():
    criteria = gh.analyze_matrix(np.array([[0.9, 5.0], [0.0, 0.9]]))
    assert abs(float(criteria.spectral_radius) - 0.9) <= 1e-7  # defective: eigenvalues to √eps
    assert abs(float(criteria.transient_peak) - 19.378770) <= 1e-6
    assert abs(math.exp(float(criteria.log_transient_peak)) - 19.378770) <= 1e-6
    assert criteria.kreiss_lower_bound <= criteria.transient_peak
    assert int(criteria.transient_time) == 9
    assert abs(float(criteria.kreiss_lower_bound) - 12.52) <= 1e-5
    assert abs(float(criteria.henrici_departure) - 5) <= 1e-7
    assert "first grow up to 19.38-fold, at step 9" in criteria.sentence
    assert "spectral radius" in str(criteria)


def test_matrix_criteria_of_contractions_and_expansions():
    small = gh.analyze_matrix(0.5 * np.eye(3))
    assert abs(float(small.certified_rate) - np.log(0.5)) <= 10 * EPS
    assert "Vanishing is certain" in small.sentence
    large = gh.analyze_matrix(np.diag([2.0, 0.5]), slope_bound=0.25)
    assert abs(float(large.certified_rate) - np.log(0.5)) <= 10 * EPS
    assert float(large.kreiss_lower_bound) == np.inf
    assert "do not vanish" in gh.analyze_matrix(np.diag([2.0, 0.5])).sentence


def test_matrix_criteria_keep_the_dtype_and_vmap():
    assert gh.analyze_matrix(np.eye(3, dtype=np.float32)).spectral_radius.dtype == np.float32
    stack = np.random.default_rng(0).normal(size=(3, 4, 4))
    radii = jax.vmap(lambda W: gh.analyze_matrix(W).spectral_radius)(stack)
    assert np.max(np.abs(radii - np.abs(np.linalg.eigvals(stack)).max(axis=1))) <= 1e-12
