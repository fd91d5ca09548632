"""Gradient paths through the parts of a state, and time constants, against explicit products."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import gradhorizon as gh
from cases import case, real_part, run_plainly, with_real_part

EPS = np.finfo(float).eps


def stack(length=6, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(length, size, size))


def rms(block):
    return np.log(np.linalg.norm(block) / np.sqrt(block.shape[0]))


def spans(sizes):
    stops = np.cumsum(sizes)
    return [slice(b - a, b) for a, b in zip(sizes, stops, strict=True)]


def long_jacobian(J, lag):
    """Multiply J_T … J_{T-k+1} in plain NumPy."""
    product = np.eye(J.shape[1])
    for t in range(J.shape[0] - lag, J.shape[0]):
        product = J[t] @ product
    return product


def single_crossings(J, lag, sizes):
    """Enumerate every way with at most one crossing: b stays, crosses at step s, stays in a."""
    parts = spans(sizes)
    steps = list(range(J.shape[0] - lag, J.shape[0]))

    def stay(part, chosen):
        product = np.eye(J[0][part, part].shape[0])
        for t in chosen:
            product = J[t][part, part] @ product
        return product

    found = {}
    for (b, row), (a, column) in itertools.product(enumerate(parts), repeat=2):
        if a == b:
            found[b, a] = stay(row, steps)
            continue
        found[b, a] = sum(
            stay(row, steps[i + 1 :]) @ J[t][row, column] @ stay(column, steps[:i])
            for i, t in enumerate(steps)
        )
    return found


def chain_of(cell, params, length=None, xs=None, h0=None):
    start = cell.initial_state() if h0 is None else h0
    return gh.jacobian_chain(cell.step, params, start, xs, length=length)


def lstm_without_weights(bias, size=4):
    cell = gh.cells.lstm(size, 0, forget_bias=bias, recurrent_init=gh.inits.gaussian(0.0))
    return cell, cell.init(jax.random.key(0))


# --- totals and direct paths -------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [{"a": 2, "b": 3}, {"a": 1, "b": 1, "c": 3}, {"all": 5}])
def test_total_is_the_block_of_the_explicit_product(blocks):
    J, lags = stack(), [0, 1, 2, 5, 6]
    paths = gh.state_paths(J, lags=lags, blocks=blocks)
    parts = spans(list(blocks.values()))
    assert paths.names == tuple(blocks)
    for row, lag in enumerate(lags):
        product = long_jacobian(J, lag)
        for (b, rows), (a, columns) in itertools.product(enumerate(parts), repeat=2):
            with np.errstate(divide="ignore"):
                exact = rms(product[rows, columns])
            got = float(paths.total[row, b, a])
            assert got == exact or abs(got - exact) <= 1e3 * EPS, (lag, a, b)


@pytest.mark.parametrize("blocks", [{"a": 2, "b": 3}, {"a": 1, "b": 1, "c": 3}])
def test_direct_is_the_sum_over_all_ways_with_one_crossing(blocks):
    J, lags = stack(seed=1), [0, 1, 2, 5, 6]
    paths, parts = gh.state_paths(J, lags=lags, blocks=blocks), spans(list(blocks.values()))
    for row, lag in enumerate(lags):
        for (b, a), block in single_crossings(J, lag, list(blocks.values())).items():
            with np.errstate(divide="ignore"):
                exact = rms(block * np.ones_like(J[0][parts[b], parts[a]]))
            got = float(paths.direct[row, b, a])
            assert got == exact or abs(got - exact) <= 1e3 * EPS, (lag, a, b)


def test_one_direction_of_coupling_tells_start_from_end():
    """∂b_T/∂a ≠ 0 and ∂a_T/∂b = 0: the gradient goes from b to a, never back."""

    def step(_params, h, _x):
        return {"a": 0.5 * h["a"], "b": 0.25 * h["b"] + h["a"]}

    chain = gh.jacobian_chain(step, 0.0, {"a": jnp.ones(1), "b": jnp.ones(1)}, length=3)
    paths = gh.state_paths(chain, lags=[3])
    first, second = "h0['a']", "h0['b']"
    assert paths.names == (first, second)
    # Σ_j (1/4)^(2-j) (1/2)^j over the step of the crossing
    exact = math.log(0.25**2 + 0.25 * 0.5 + 0.5**2)
    assert abs(float(paths.path(second, first)[1][0]) - exact) <= 4 * EPS
    assert paths.path(first, second)[1].tolist() == [-math.inf]
    assert paths.units(first).tolist() == pytest.approx([1 / math.log(2)], rel=4 * EPS)


@pytest.mark.parametrize("name", ["lstm", "nested", "feedforward"])
def test_totals_of_a_network_are_those_of_automatic_differentiation(name):
    network = case(name)
    leaves = jax.tree.leaves(network.h0)
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    sizes = [int(leaf.size) for leaf in floats]
    start = jnp.concatenate([jnp.ravel(leaf) for leaf in floats])

    def final(vector):
        return real_part(run_plainly(network, h0=with_real_part(network.h0, vector))[-1])

    exact = np.asarray(jax.jacrev(final)(start))
    arguments = (network.step, network.params, network.h0, network.xs)
    chain = gh.jacobian_chain(*arguments, length=network.length, tied=network.tied)
    paths = gh.state_paths(chain)
    assert paths.sizes == tuple(sizes)
    assert int(paths.lags[-1]) == network.length
    for (b, rows), (a, columns) in itertools.product(enumerate(spans(sizes)), repeat=2):
        with np.errstate(divide="ignore"):
            size = rms(exact[rows, columns])
        got = float(paths.total[-1, b, a])
        assert got == size or abs(got - size) <= 1e-11, (name, a, b)


# --- gates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [-2.0, 0.0, 4.0])
def test_memory_of_an_lstm_without_weights_is_its_forget_gate(bias):
    cell, params = lstm_without_weights(bias)
    length = 1000
    paths = gh.state_paths(chain_of(cell, params, length))
    keep = -math.log1p(math.exp(-bias))  # ln σ(b)
    assert paths.names == ("c", "h")
    assert paths.gated == (True, False)
    for logs in paths.path("c", "c"):
        error = np.abs(np.asarray(logs) - np.asarray(paths.lags) * keep)
        assert np.all(error <= 4 * EPS * length * max(1, abs(keep)))
    assert np.all(np.asarray(paths.path("h", "h")[1]) == -np.inf)
    assert np.all(np.asarray(paths.path("c", "h")[1]) == -np.inf)
    assert np.allclose(paths.units("c"), -1 / keep, rtol=1e-13, atol=0)
    assert paths.units("h").tolist() == [0.0] * 4


def test_the_path_from_h_of_an_lstm_without_weights_leads_through_c():
    """∂h_T/∂c_{T-k} = o tanh'(c) f^k with c = 0, o = 1/2: ln(1/2) + k ln σ(b)."""
    cell, params = lstm_without_weights(1.0)
    paths = gh.state_paths(chain_of(cell, params, 40), lags=[1, 40])
    keep = -math.log1p(math.exp(-1.0))
    for logs in paths.path("h", "c"):
        exact = math.log(0.5) + np.array([1, 40]) * keep
        assert np.abs(np.asarray(logs) - exact).max() <= 1e-13


def test_constant_error_carousel_is_exactly_one():
    """A forget gate that rounds to 1 keeps the gradient for ever: log exactly 0, τ infinite."""
    cell, params = lstm_without_weights(60.0)
    paths = gh.state_paths(chain_of(cell, params, 1000))
    direct, total = paths.path("c", "c")
    assert direct.tolist() == [0.0] * 9
    assert total.tolist() == [0.0] * 9
    assert paths.units("c").tolist() == [math.inf] * 4
    assert "time constant of c in steps, by its gate: endless" in str(paths)


def test_gru_without_weights_keeps_sigmoid_of_the_update_bias():
    cell = gh.cells.gru(3, 0, update_bias=2.0, recurrent_init=gh.inits.gaussian(0.0))
    paths = gh.state_paths(chain_of(cell, cell.init(jax.random.key(0)), 90), lags=[90])
    keep = -math.log1p(math.exp(-2.0))
    assert paths.names == ("h",)
    for logs in paths.path("h", "h"):
        assert abs(float(logs[0]) - 90 * keep) <= 1e-12
    assert np.allclose(paths.time_constants, -1 / keep, rtol=1e-13, atol=0)


def numpy_gates(name, params, xs, n):
    """Run an LSTM or a GRU in NumPy; give the gate that keeps the state, at every step."""
    W, U, b = (np.asarray(params[k]) for k in ("W", "U", "b"))
    sigmoid = scipy.special.expit
    c, h, gates = np.zeros(n), np.zeros(n), []
    for x in np.asarray(xs):
        if name == "lstm":
            i, f, g, o = np.split(W @ h + U @ x + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            gates.append(sigmoid(f))
        else:
            r_z, inputs = W @ h, U @ x + b
            r, z = (sigmoid(r_z[s] + inputs[s]) for s in (slice(0, n), slice(n, 2 * n)))
            candidate = np.tanh(inputs[2 * n :] + r * (r_z[2 * n :] + np.asarray(params["d"])))
            h = (1 - z) * candidate + z * h
            gates.append(z)
    return np.array(gates)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_time_constants_and_direct_path_are_those_of_the_gates(name):
    n, length, part = 6, 50, {"lstm": "c", "gru": "h"}[name]
    cell = getattr(gh.cells, name)(n, 2)
    params = cell.init(jax.random.key(2))
    xs = 2 * jax.random.normal(jax.random.key(3), (length, 2))
    gates = numpy_gates(name, params, xs, n)
    paths = gh.state_paths(chain_of(cell, params, xs=xs), lags=[7, length])
    exact = -1 / np.mean(np.log(gates), axis=0)
    assert np.allclose(paths.units(part), exact, rtol=1e-12, atol=0)
    for row, lag in enumerate((7, length)):
        keeps = np.prod(gates[length - lag :], axis=0)
        assert abs(float(paths.path(part, part)[0][row]) - rms(np.diag(keeps))) <= 1e-11
    short = gh.state_paths(chain_of(cell, params, xs=xs), lags=[7])
    exact = -1 / np.mean(np.log(gates[-7:]), axis=0)
    assert np.allclose(short.units(part), exact, rtol=1e-12, atol=0)


def test_the_gate_of_an_lstm_is_the_derivative_of_the_memory():
    network = case("lstm")
    (c, h), x = network.h0, network.xs[0]
    gates = network.step.state_gates(network.params, (c, h), x)
    full = jax.jacfwd(lambda c: network.step(network.params, (c, h), x)[0])(c)
    assert np.allclose(full, np.diag(gates["c"]), rtol=1e-14, atol=1e-15)
    assert gates["h"] is None


def test_the_gate_of_a_gru_is_the_derivative_at_what_the_weights_see():
    """Biases move so that W (h + v) + b stays W h + b: only the kept share depends on v."""
    network = case("gru")
    h, x, n = network.h0, network.xs[0], network.h0.size

    def moved(v):
        shift = network.params["W"] @ v
        b = network.params["b"].at[: 2 * n].add(-shift[: 2 * n])
        params = {**network.params, "b": b, "d": network.params["d"] - shift[2 * n :]}
        return network.step(params, h + v, x)

    gates = network.step.state_gates(network.params, h, x)
    full = jax.jacfwd(moved)(jnp.zeros(n))
    assert np.allclose(full, np.diag(gates["h"]), rtol=1e-13, atol=1e-15)


class Leaky:
    """A user's cell with two memories that declares its gates, one of them as None."""

    def __call__(self, params, h, _x):
        slow = params["keep"] * h["slow"] + 0.1 * jnp.tanh(h["fast"])[None]
        return {"fast": jnp.tanh(params["W"] @ h["fast"] + h["slow"][0]), "slow": slow}

    def state_gates(self, params, _h, _x):
        return {"fast": None, "slow": params["keep"] * jnp.ones((2, 2))}


def leaky():
    W = jax.random.normal(jax.random.key(0), (2, 2))
    h0 = {"fast": jnp.zeros(2), "slow": jnp.full((2, 2), 0.5)}
    return {"W": W, "keep": jnp.asarray(0.9)}, h0


def test_gates_that_a_users_step_declares():
    params, h0 = leaky()
    paths = gh.state_paths(gh.jacobian_chain(Leaky(), params, h0, length=20), lags=[20])
    assert paths.names == ("fast", "slow")
    assert paths.sizes == (2, 4)
    assert paths.gated == (False, True)
    assert abs(float(paths.path("slow", "slow")[0][0]) - 20 * math.log(0.9)) <= 1e-13
    assert np.allclose(paths.units("slow"), -1 / math.log(0.9), rtol=1e-13, atol=0)
    matrices = np.asarray(gh.jacobian_chain(Leaky(), params, h0, length=20).matrices())
    loops = np.abs(np.diagonal(matrices, axis1=1, axis2=2))[:, :2]
    exact = -1 / np.mean(np.log(loops), axis=0)
    assert np.allclose(paths.units("fast"), exact, rtol=1e-12, atol=0)


def test_own_blocks_group_a_state_and_keep_what_gates_cover():
    params, h0 = leaky()
    chain = gh.jacobian_chain(Leaky(), params, h0, length=5)
    halves = gh.state_paths(chain, blocks={"one": 3, "two": 3})
    assert halves.gated == (False, True)
    whole = gh.state_paths(chain, blocks={"state": 6})
    assert np.array_equal(whole.direct, whole.total)
    assert np.array_equal(whole.self_rates, halves.self_rates)


# --- range, precision, batching ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unequal_parts_stay_exact_far_outside_the_range_of_floats(dtype):
    """Triangular coupling, powers of two: 2^-3T beside 2^T and 2^T + … to the last bit."""
    J = np.zeros((3000, 2, 2), dtype)
    J[:] = [[2.0**-3, 0.0], [1.0, 2.0]]
    paths = gh.state_paths(J, lags=[3000], blocks={"slow": 1, "fast": 1})
    assert paths.total.dtype == dtype
    scaled = np.asarray(paths.total, dtype=float)[0] / np.log(2.0)
    # Σ_j 2^(T-1-j) 2^(-3j) = 2^(T-1) · 16/15
    exact = [[-9000, -np.inf], [2999 + np.log2(16 / 15), 3000]]
    assert np.allclose(scaled, exact, rtol=8 * np.finfo(dtype).eps, atol=0)
    assert np.allclose(paths.direct, paths.total, rtol=8 * np.finfo(dtype).eps, atol=0)
    assert np.allclose(paths.time_constants, [1 / np.log(8), -1 / np.log(2)], rtol=1e-5)


def test_a_gate_below_the_smallest_float_squared_is_kept():
    J = np.full((50, 1, 1), 1e-30, np.float32)
    paths = gh.state_paths(J, blocks={"h": 1}, lags=[50])
    assert np.allclose(paths.total, 50 * math.log(1e-30), rtol=1e-5)
    assert np.allclose(paths.time_constants, -1 / math.log(1e-30), rtol=1e-5)


def test_parts_without_coupling_keep_their_own_scale():
    """Beside a part that grows 2^2000-fold another fades 2^-2000-fold, both exactly."""
    J = np.zeros((2000, 4, 4))
    J[:, :2, :2], J[:, 2:, 2:] = 2.0 * np.eye(2), 0.5 * np.eye(2)
    paths = gh.state_paths(J, lags=[2000], blocks={"a": 2, "b": 2})
    diagonal = np.rint(np.diagonal(np.asarray(paths.total)[0]) / np.log(2))
    assert diagonal.tolist() == [2000, -2000]
    assert float(paths.total[0, 0, 1]) == float(paths.total[0, 1, 0]) == -np.inf


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_chain_that_keeps_few_states_gives_the_same_paths(name, monkeypatch):
    from gradhorizon.chain import _sweep

    network = case(name)
    arguments = (network.step, network.params, network.h0, network.xs)
    whole = gh.state_paths(gh.jacobian_chain(*arguments), lags=[2, 7])
    monkeypatch.setattr(_sweep, "STORED_BYTES", 0)
    monkeypatch.setattr(_sweep, "_STRETCH_BYTES", 3 * 8 * 40)
    jax.clear_caches()
    sparse = gh.jacobian_chain(*arguments)
    assert sparse.stride > 1
    again = gh.state_paths(sparse, lags=[2, 7])
    assert np.allclose(whole.total, again.total, rtol=0, atol=1e-12)
    assert np.allclose(whole.direct, again.direct, rtol=0, atol=1e-12)
    assert np.allclose(whole.self_rates, again.self_rates, rtol=0, atol=1e-13)


def test_under_jit_and_vmap():
    cell = gh.cells.lstm(3, 2, dtype=np.float32)
    params = cell.init(jax.random.key(0))
    batch = jax.random.normal(jax.random.key(1), (4, 12, 2), np.float32)

    def analyse(xs):
        return gh.state_paths(chain_of(cell, params, xs=xs), lags=[3, 12])

    together = jax.jit(jax.vmap(analyse))(batch)
    assert together.total.shape == (4, 2, 2, 2)
    assert together.total.dtype == np.float32
    assert together.units("h").shape == (4, 3)
    alone = analyse(batch[2])
    assert np.allclose(together.direct[2], alone.direct, rtol=1e-5, atol=1e-5)
    assert np.allclose(together.total[2], alone.total, rtol=1e-5, atol=1e-5)
    assert np.allclose(together.time_constants[2], alone.time_constants, rtol=1e-5)


# --- edges -------------------------------------------------------------------------------------


def test_no_steps():
    paths = gh.state_paths(np.zeros((0, 2, 2)), blocks={"a": 1, "b": 1})
    assert gh.Status(int(paths.status)) is gh.Status.EMPTY
    assert paths.total.tolist() == [[[0.0, -math.inf], [-math.inf, 0.0]]]
    assert np.all(np.isnan(paths.time_constants))
    assert str(paths).startswith("EMPTY")


def test_a_nan_is_a_status_or_an_exception():
    J = stack()
    J[3, 0, 0] = np.nan
    paths = gh.state_paths(J, lags=[1, 6], blocks={"a": 2, "b": 3}, throw=False)
    assert gh.Status(int(paths.status)) is gh.Status.NONFINITE
    assert int(paths.first_bad_step) == 4
    assert np.all(np.isnan(paths.total))

    def step(_params, h, _x):
        return jnp.sqrt(h[0] - 1.0), h[1]

    chain = gh.jacobian_chain(step, 0.0, (jnp.full(1, 2.5), jnp.ones(1)), length=4)
    with pytest.raises(gh.NumericalError, match="Step t = 3 of the chain"):
        gh.state_paths(chain, lags=[1])


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_arguments_are_named():
    J = stack()
    with pytest.raises(ValueError, match=r"`blocks` must have sizes that add up to n = 5"):
        gh.state_paths(J, blocks={"a": 2, "b": 2})
    with pytest.raises(TypeError, match=r"`blocks\['a'\]` must be an integer"):
        gh.state_paths(J, blocks={"a": 2.0, "b": 3})
    with pytest.raises(ValueError, match=r"`lags\[1\]` must lie between 0 and 6"):
        gh.state_paths(J, lags=[1, 7])
    with pytest.raises(ValueError, match="`lags` must name at least one lag"):
        gh.state_paths(J, lags=[])
    with pytest.raises(TypeError, match="`lags` must be a sequence of integers"):
        gh.state_paths(J, lags=3)
    with pytest.raises(ValueError, match="`name` must be one of 'a', 'b'. Received 'c'"):
        gh.state_paths(J, blocks={"a": 2, "b": 3}).units("c")


@pytest.mark.parametrize("gates", [{}, {"h": jnp.ones(3)}, {"a": None, "b": None}])
def test_gates_that_do_not_fit_the_state_are_refused(gates):
    class Wrong:
        def __call__(self, _params, h, _x):
            return h

        def state_gates(self, _params, _h, _x):
            return gates

    chain = gh.jacobian_chain(Wrong(), 0.0, jnp.ones(2), length=2)
    with pytest.raises(ValueError, match=r"`step.state_gates` must give one gate for each float"):
        gh.state_paths(chain)


def test_the_record_prints_and_serializes():
    params, h0 = leaky()
    paths = gh.state_paths(gh.jacobian_chain(Leaky(), params, h0, length=20))
    text = str(paths)
    assert "paths back over 20 steps" in text
    assert "slow → fast" in text
    assert "time constant of slow in steps, by its gate: 9.49" in text
    assert "by its self-loop" in text
    words = json.loads(json.dumps(paths.to_dict()))
    assert words["time_constants"]["slow"] == pytest.approx([-1 / math.log(0.9)] * 4)
    assert words["names"] == ["fast", "slow"]
    many = gh.state_paths(np.ones((3, 4, 4)), blocks=dict.fromkeys("abcd", 1))
    assert "and 7 smaller ones" in str(many)


# --- in a diagnosis ----------------------------------------------------------------------------


def test_a_diagnosis_shows_the_paths_of_an_lstm():
    cell, params = lstm_without_weights(1.0)
    diagnosis = gh.diagnose(cell.step, params, cell.initial_state(), length=80)
    paths = gh.state_paths(chain_of(cell, params, 80))
    assert np.array_equal(diagnosis.paths.lags, paths.lags)
    assert np.allclose(diagnosis.paths.direct, paths.direct, rtol=1e-13, atol=1e-13)
    assert str(paths) in str(diagnosis)
    sentence = next(s for s in diagnosis.advice if s.startswith("The gate of c decides"))
    assert "half of its units have a time constant below 3.19 steps" in sentence


def test_detours_of_an_exploding_lstm_are_named():
    cell = gh.cells.lstm(12, 0, forget_bias=0.0, recurrent_init=gh.inits.gaussian(12.0))
    h0 = (jnp.full(12, 0.1), jnp.full(12, 0.1))
    diagnosis = gh.diagnose(cell.step, cell.init(jax.random.key(1)), h0, length=120)
    assert diagnosis.regime is gh.Regime.EXPLODING
    direct, total = (float(logs[-1]) for logs in diagnosis.paths.path("c", "c"))
    assert direct < 0 < total
    assert any(s.startswith("The detours explode, not the gate of c") for s in diagnosis.advice)


def test_a_state_of_one_part_without_gates_has_no_paths():
    cell = gh.cells.elman(3, 0)
    params = cell.init(jax.random.key(0))
    assert gh.diagnose(cell.step, params, jnp.full(3, 0.1), length=10).paths is None
