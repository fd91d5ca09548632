"""Matrices at the ends of the floating-point range, and factors that are not square."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from refusals import refused

pytestmark = pytest.mark.usefixtures("unchecked_types")
HADAMARD = np.array([[1.0, 1.0], [1.0, -1.0]])  # √2 times an orthogonal matrix
T = 6
SCALES = {
    "float64": [5e-324, 1e300, 1e308],
    "float32": [1e-45, 1e30],
}
CASES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


@pytest.mark.parametrize(("dtype", "scale"), CASES)
def test_every_analysis_is_exact_at_the_ends_of_the_range(dtype, scale):
    """J = s H: each step multiplies every length by s √2, however small or large s is."""
    J = np.broadcast_to((scale * HADAMARD).astype(dtype), (T, 2, 2))
    rate = math.log(float(J[0, 0, 0])) + 0.5 * math.log(2)
    subnormal = scale < np.finfo(dtype).smallest_normal
    tolerance = 64 * float(np.finfo(dtype).eps) * abs(rate)

    def run(analyze):
        if not subnormal:
            return analyze(J)
        with pytest.warns(gh.PrecisionWarning, match="multiplied by a power of two"):
            return analyze(J)

    singular = run(lambda chain: gh.singular_spectrum(chain, lags=[1, T]))
    values = np.asarray(singular.log_values)
    assert np.max(np.abs(values / np.array([[1], [T]]) - rate)) <= tolerance
    assert singular.status == gh.Status.OK
    exponents = run(gh.lyapunov_spectrum).exponents
    assert np.max(np.abs(np.asarray(exponents) - rate)) <= tolerance
    lags = np.arange(T + 1)
    assert np.max(np.abs(np.asarray(run(gh.transition_norms)) - lags * rate)) <= T * tolerance
    profile = run(lambda chain: gh.backpropagate(chain, np.array([1, 0], dtype)))
    assert np.max(np.abs(np.asarray(profile.by_lag) - lags * rate)) <= T * tolerance
    chain = run(gh.JacobianChain.from_matrices)
    assert np.array_equal(chain.matrices(), J)
    assert chain.shift == 0 or np.array_equal(chain.at(2).matrix(), J[0])


def test_paths_know_the_power_of_two_as_well():
    J = np.broadcast_to(np.diag([1e-310, 2e-310]), (T, 2, 2))
    with pytest.warns(gh.PrecisionWarning):
        paths = gh.state_paths(J, blocks={"a": 1, "b": 1}, lags=[1, T])
    for name, value in (("a", 1e-310), ("b", 2e-310)):
        for way in paths.path(name, name):
            assert np.allclose(way, [math.log(value), T * math.log(value)], rtol=1e-14)
        assert abs(paths.units(name)[0] + 1 / math.log(value)) <= 1e-15


def test_a_chain_over_the_whole_range_says_that_its_subnormal_entries_are_zero():
    for entries, shift in (([1e300, 5e-324], 0), ([1e308, 1.0], -24)):
        with pytest.warns(gh.PrecisionWarning, match="further apart .* may count as zero beside"):
            assert gh.JacobianChain.from_matrices(np.diag(entries)[None]).shift == shift
    apart = np.stack([np.eye(2) * 1e300, np.eye(2) * 5e-324])  # each matrix alone is harmless
    with pytest.warns(gh.PrecisionWarning, match="below 2.23e-308, .* may count as zero"):
        gh.JacobianChain.from_matrices(apart)


def test_a_subnormal_entry_beside_normal_ones_keeps_its_value():
    J = np.broadcast_to(np.diag([1e-30, 5e-324]), (3, 2, 2))
    with pytest.warns(gh.PrecisionWarning, match="fewer digits"):
        spectrum = gh.lyapunov_spectrum(J)
    assert np.allclose(
        spectrum.exponents, [math.log(1e-30), math.log(5e-324)], rtol=1e-14, atol=1e-13
    )


def product(factors):
    total = np.eye(factors[0].shape[1])
    for factor in factors:
        total = factor @ total
    return total


WIDTHS = {
    "growing": (2, 3, 5),
    "shrinking": (5, 3, 2),
    "narrow in the middle": (4, 2, 4),
    "wide in the middle": (3, 6, 3),
    "one factor": (3, 2),
}


@pytest.mark.parametrize("name", list(WIDTHS))
def test_factors_of_changing_width_give_the_singular_values_of_their_product(name):
    widths = WIDTHS[name]
    rng = np.random.default_rng(len(name))
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    factors = [rng.normal(size=shape) for shape in pairs]
    spectrum = gh.singular_spectrum(factors)
    count, rank = min(widths[0], widths[-1]), min(widths)
    assert spectrum.log_values.shape == (count,)
    exact = np.linalg.svd(product(factors), compute_uv=False)[:rank]
    assert np.allclose(spectrum.log_values[:rank], np.log(exact), rtol=0, atol=1e-12)
    assert np.all(np.isneginf(spectrum.log_values[rank:]))  # the narrow layer: exactly zero
    assert spectrum.rank_cap == rank
    deficient = rank < count
    assert spectrum.status == (gh.Status.RANK_DEFICIENT if deficient else gh.Status.OK)


def test_lags_of_factors_of_changing_width():
    """Row k belongs to J_T … J_{T-k+1}; it has min(n_T, n_{T-k}) values, the rest are no values."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=shape) for shape in ((4, 2), (3, 4), (4, 3))]  # 2 → 4 → 3 → 4
    spectrum = gh.singular_spectrum(factors, lags=[3, 0, 1, 2])
    assert spectrum.log_values.shape == (4, 4)
    assert spectrum.rank_cap.tolist() == [2, 4, 3, 3]
    for row, lag in enumerate([3, 0, 1, 2]):
        rank = int(spectrum.rank_cap[row])
        exact = np.linalg.svd(product(factors[3 - lag :]), compute_uv=False) if lag else np.ones(4)
        got = np.asarray(spectrum.log_values[row])
        assert np.allclose(got[:rank], np.log(exact[:rank]), rtol=0, atol=1e-12)
        assert np.all(np.isneginf(got[rank:]))


def test_factors_that_do_not_fit_are_refused():
    a, b = np.ones((3, 2)), np.ones((2, 3))
    for factors, kind, words in (
        ([a, a], ValueError, r"`chain\[1\]` must have 3 columns, the rows of chain\[0\]"),
        ([a, b, np.ones((2, 2, 2))], ValueError, r"`chain\[2\]` must be a matrix"),
        ([a, b.astype(int)], TypeError, r"`chain\[1\]` must be real and floating point"),
        ([a, b.astype(complex)], TypeError, r"`chain\[1\]` must be real"),
        ([a, b.astype(np.float32)], ValueError, r"`chain\[1\]` must have the dtype of chain\[0\]"),
        ([a, np.full((2, 3), np.nan)], ValueError, r"`chain\[1\]\[0, 0\]` must be finite"),
        ([a, np.ones((0, 3))], ValueError, r"`chain\[1\]` must be a matrix with at least one"),
        ([a, "b"], TypeError, r"`chain\[1\]` must be an array of numbers"),
    ):
        with refused(kind, words):
            gh.singular_spectrum(factors)
    record = gh.singular_spectrum([a, np.full((2, 3), np.nan)], throw=False)
    assert record.status == gh.Status.NONFINITE
    with jax.enable_x64(False), refused(ValueError, r"`chain\[0\]` must be float32 while"):
        gh.singular_spectrum([a, b])
    assert jnp.isfinite(gh.singular_spectrum([jnp.eye(2), np.eye(2)]).log_values).all()
