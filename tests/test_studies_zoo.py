"""The zoo: networks follow from the seed, stay finite, and their measured gradient is exact."""

import math

import jax
import numpy as np
import pytest

from gradhorizon.studies import _zoo, _zoo_gain, _zoo_inputs, _zoo_score, _zoo_truth

NETWORKS = {kind: _zoo.draw(kind, 2) for kind in _zoo.KINDS}


@pytest.mark.parametrize("kind", _zoo.KINDS)
def test_networks_are_deterministic_in_the_seed(kind):
    again, other = _zoo.draw(kind, 2), _zoo.draw(kind, 2, seed=1)
    for first, second, third in zip(NETWORKS[kind], again, other, strict=True):
        assert first.step == second.step
        leaves = [jax.tree.leaves((n.params, n.h0)) for n in (first, second, third)]
        assert all(np.array_equal(a, b) for a, b in zip(*leaves[:2], strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(leaves[0], leaves[2], strict=True))


@pytest.mark.parametrize("kind", _zoo.KINDS)
def test_states_are_finite_and_steps_keep_the_structure(kind):
    network = _zoo.draw(kind, 1)[0]
    xs = network.inputs(100, _zoo.PREFIX)
    step, h = jax.jit(network.step), network.h0
    for t in range(100):
        out = step(network.params, h, None if xs is None else xs[t])
        assert jax.tree.map(np.shape, out) == jax.tree.map(np.shape, h)
        h = out
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(h))


def test_prefix_and_truth_see_different_inputs_of_the_same_process():
    for network in (n for kind in NETWORKS.values() for n in kind):
        first, second = network.inputs(50, _zoo.PREFIX), network.inputs(50, _zoo.TRUTH)
        if first is None:
            assert second is None
        else:
            assert np.array_equal(first, network.inputs(50, _zoo.PREFIX))
            constant = network.process.name == "constant"
            assert np.array_equal(first, second) == constant


@pytest.mark.parametrize("name", _zoo_inputs.PROCESSES)
def test_processes_have_their_variance_and_memory(name):
    """The variance is s², and that times the rate for pulses; AR(1) correlates like e^(-k/τ)."""
    process = _zoo_inputs.Process(name, 0.7, 5.0, 0.2, np.array([1.0, -2.0]))
    xs = process.draw(np.random.default_rng(0), 40_000)
    if name == "constant":
        assert np.array_equal(xs, np.broadcast_to([0.7, -1.4], xs.shape))
        return
    expected = 0.49 * (0.2 if name == "pulses" else 1.0)
    samples = xs.size / (10 if name == "correlated" else 1)
    kurtosis = 15 if name == "pulses" else 3
    tolerance = 4 * expected * math.sqrt(kurtosis / samples)
    assert abs(np.mean(xs**2) - expected) < tolerance
    memory = np.mean(xs[5:] * xs[:-5]) / expected
    target = math.exp(-1) if name == "correlated" else 0.0
    assert abs(memory - target) < 5 / math.sqrt(samples)


def numpy_growth(network, lags, length):
    """Multiply the Jacobians of a tanh network in NumPy, newest first."""
    W, U, b = (network.params[k] for k in ("W", "U", "b"))
    h, jacobians = network.h0, []
    for x in network.inputs(length, _zoo.TRUTH):
        h = np.tanh(W @ h + U @ x + b)
        jacobians.append((1 - h**2)[:, None] * W)
    product, norms = np.eye(len(h)), [1.0]
    for J in jacobians[: -lags - 1 : -1]:
        product = product @ J
        norms.append(np.linalg.norm(product) / math.sqrt(len(h)))
    return np.log(norms)


def test_truth_is_the_norm_of_the_explicit_product():
    """With n ≤ 16 the cotangents span everything: the rms is ‖Φ‖_F/√n whatever the frame."""
    network = next(n for n in _zoo.draw("tanh, orthogonal", 4) if n.size == 8)
    (group,) = _zoo.group([network])
    growth = _zoo_truth.measure(group, lags=30, length=50)
    assert np.max(np.abs(growth[0] - numpy_growth(network, 30, 50))) < 1e-9


def test_truth_of_a_linear_network_follows_its_powers():
    network = next(n for n in _zoo.draw("linear, jordan", 3) if n.size == 8)
    (group,) = _zoo.group([network])
    growth = _zoo_truth.measure(group, lags=200, length=210)
    powers = [np.linalg.matrix_power(network.params["W"], k) for k in range(201)]
    expected = np.log([np.linalg.norm(p) / math.sqrt(8) for p in powers])
    assert np.max(np.abs(growth[0] - expected)) < 1e-9


def test_truth_of_a_nilpotent_network_is_exactly_zero():
    (group,) = _zoo.group([n for n in _zoo.draw("linear, nilpotent", 3) if n.size == 8])
    growth = _zoo_truth.measure(group, lags=20, length=30)
    assert np.all(np.isneginf(growth[0, 8:]))
    assert np.all(np.isfinite(growth[0, :5]))


def test_chunks_are_filled_up_and_cut_off():
    a, b = np.arange(7.0), np.arange(7.0)[:, None]
    found = _zoo_truth.in_chunks(jax.jit(lambda x, y: x + y[:, 0]), (a, b), 3)
    assert np.array_equal(found, 2 * a)


def test_reach_is_the_last_lag_inside():
    edge = math.log(1e3)
    growth = np.array([
        [0, 1, edge + 1, 0], [0, -edge - 1, -1, -1], [0, 1, 2, 3], [0, -1, -1, -np.inf],
    ])  # fmt: skip
    found = _zoo_truth.reach(growth)
    assert found.horizon.tolist() == [1, 0, 3, 2]
    assert found.side.tolist() == [1, -1, 0, -1]


@pytest.mark.parametrize("name", _zoo_gain.ACTIVATIONS)
def test_slopes_are_the_derivatives(name):
    a = np.linspace(-2, 2, 9) + 0.01
    phi, slope = _zoo_gain.ACTIVATIONS[name]
    difference = (phi(a + 1e-6) - phi(a - 1e-6)) / 2e-6
    assert np.max(np.abs(slope(a) - difference)) < 1e-8


def test_gains_of_linear_networks_meet_their_targets():
    """A scaled orthogonal matrix grows at exactly ln g."""
    W = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 5, 5)))[0]
    targets = np.array([-0.3, 0.0, 0.2])
    zeros = np.zeros((3, 1, 5))
    gains = _zoo_gain.near_target(W, zeros, zeros[:, 0], targets, "identity", None)
    assert np.max(np.abs(np.log(gains) - targets)) < 1e-3


def test_second_measurement_is_another_one():
    network = next(n for n in _zoo.draw("tanh, ring", 2) if n.process.name != "constant")
    (group,) = _zoo.group([network])
    first, second = (
        _zoo_truth.measure(group, lags=20, length=30, sequence=s) for s in (_zoo.TRUTH, _zoo.AGAIN)
    )
    assert not np.array_equal(first, second)


def test_horizon_error_is_the_distance_from_the_step_of_the_exit():
    """H = 10 stands for an exit between 10 and 11: 10.7 is right, 22 and 5 are wrong by 2."""
    predicted = np.array([10.0, 10.7, 11.0, 22.0, 5.0, np.inf, np.nan])
    error = _zoo_score.horizon_error(predicted, np.full(7, 10.0))
    assert np.allclose(error[:5], [0, 0, 0, 1, 1], atol=1e-12)
    assert np.all(np.isinf(error[5:]))
    assert _zoo_score.horizon_error(np.array([0.0, 2.0]), np.zeros(2)).tolist() == [0.0, 1.0]


def records():
    """Give five networks: right, right and uncertain, wrong, falsely certified, overflowing."""
    return {
        "kind": np.array(list("abcde")),
        "finite": np.array([True, True, True, True, False]),
        "true horizon": np.array([100.0, 1000.0, 50.0, 200.0, 3.0]),
        "true side": np.array([-1, 0, 1, 1, -1]),
        "code": np.array([-1, 0, -1, 1, 1]),
        "horizon": np.array([100.5, 2000.0, 25.0, 402.0, 1.0]),
        "low": np.array([90.0, 800.0, 20.0, 150.0, 1.0]),
        "high": np.array([110.0, np.inf, 40.0, 500.0, 2.0]),
        "violation": np.array([-1.0, -np.inf, -3.0, 5.0, 9.0]),
        "rate: largest singular value": np.array([-0.1, np.nan, 0.1, -0.2, 0.1]),
        "code: largest singular value": np.array([-1, 2, 2, -1, 2]),
    }


def test_scores_count_by_hand():
    found = _zoo_score.scores(records())
    counts = ("networks", "left out", "in band", "observed", "covered", "certificate violations")
    assert [found[name] for name in counts] == [4, 1, 1, 3, 3, 1]
    assert (found["certificates"], found["false certificates"]) == (2, 1)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert (found["predict"]["right"], found["predict"]["right outside band"]) == (3, 2)
    assert found["predict"]["median error"] == pytest.approx(1.0)
    rule = found["σ₁(W) < 1/γ"]
    assert (rule["right"], rule["decided"]) == (1, 2)
    assert found[_zoo_score.CONSTANT]["right"] == 1


def test_a_criterion_that_a_group_lacks_is_undecided_there():
    first, second = records(), records()
    for column in ("rate: largest singular value", "code: largest singular value"):
        del second[column]
    joined = _zoo_score.joined([first, second])
    assert np.all(joined["code: largest singular value"][5:] == _zoo_score.UNDECIDED)
    assert np.all(np.isnan(joined["rate: largest singular value"][5:]))


def test_records_put_prediction_and_measurement_side_by_side():
    """A linear network shrinking by e^-0.05 a step leaves the window after 138 steps."""
    network = next(n for n in _zoo.draw("linear, symmetric", 3) if n.size == 8)
    shrink = {**network.params, "W": math.exp(-0.05) * np.eye(8)}
    (group,) = _zoo.group([network._replace(params=shrink)] * 2)
    growth = _zoo_truth.measure(group, lags=200, length=210)
    found = _zoo_score.records_of(group, growth, _zoo_score.predicted(group))
    assert found["true horizon"].tolist() == [138, 138]
    assert np.allclose(found["horizon"], math.log(1e3) / 0.05, rtol=0.01)
    assert np.all(found["code"] == -1)
    assert np.all(np.abs(found["violation"]) < 1e-9)
    excess = _zoo_score.records_of(group, growth + 0.01, _zoo_score.predicted(group))["violation"]
    assert np.allclose(excess, 0.01, rtol=1e-3)
