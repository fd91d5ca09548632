"""All singular values of long products: known answers, exact arithmetic, bars that hold."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from chains import KINDS, dyadic, exact_log_singular_values, generic
from gradhorizon.products._jacobi import Half, log_singular_values, move_on

EPS = np.finfo(float).eps


@pytest.mark.parametrize(("n", "steps"), [(4, 500), (16, 1000), (16, 10_000), (64, 300)])
def test_dyadic_chains_in_float64(n, steps):
    chain, exact = dyadic(n, steps)
    spectrum = gh.singular_spectrum(chain)
    assert np.all(np.asarray(spectrum.resolved))
    error = np.abs(np.asarray(spectrum.log_values) - exact)
    assert error.max() <= 1e-11
    assert np.all(error <= np.asarray(spectrum.error_bars))
    assert spectrum.status == gh.Status.OK


@pytest.mark.parametrize(("n", "steps"), [(16, 1000), (64, 300)])
def test_dyadic_chains_in_float32(n, steps):
    chain, exact = dyadic(n, steps)
    spectrum = gh.singular_spectrum(chain.astype(np.float32))
    assert spectrum.log_values.dtype == np.float32
    assert np.all(np.asarray(spectrum.resolved))
    error = np.abs(np.asarray(spectrum.log_values, float) - exact)
    assert np.max(error / np.maximum(1, np.abs(exact))) <= 2e-5
    assert np.all(error <= np.asarray(spectrum.error_bars))


@pytest.mark.parametrize("n", [16, 64])
def test_ill_conditioned_dyadic_chains_come_back_unresolved(n):
    for seed in range(3):
        chain, exact = dyadic(n, 400, seed=seed, ordered=False)
        spectrum = gh.singular_spectrum(chain)
        resolved = np.asarray(spectrum.resolved)
        assert not resolved.all()
        assert spectrum.status == gh.Status.UNRESOLVED
        assert np.all(np.isnan(np.asarray(spectrum.log_values)[~resolved]))
        assert np.all(np.isinf(np.asarray(spectrum.error_bars)[~resolved]))
        error = np.abs(np.asarray(spectrum.log_values) - exact)[resolved]
        assert np.all(error <= 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_generic_chains_against_exact_integer_arithmetic(kind):
    chain = generic(kind, n=6, steps=61)
    exact = exact_log_singular_values(chain)
    spectrum = gh.singular_spectrum(chain)
    error = np.abs(np.asarray(spectrum.log_values) - exact)
    assert np.all(np.asarray(spectrum.resolved))
    assert np.all(error <= np.asarray(spectrum.error_bars))
    if kind in ("gaussian", "tied", "tanh", "hourglass"):
        assert error.max() <= 5e-12
    if kind in ("near identity", "orthogonal"):
        assert error.max() <= 1e-13
    single = gh.singular_spectrum(chain.astype(np.float32))
    resolved = np.asarray(single.resolved)
    exact32 = exact_log_singular_values(chain.astype(np.float32))
    error = np.abs(np.asarray(single.log_values, float) - exact32)[resolved]
    assert np.all(error <= np.asarray(single.error_bars)[resolved])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bars_hold_on_many_chains(dtype):
    """No number outside its bar; reference: float64 for float32, exact arithmetic for float64."""
    compute = jax.jit(jax.vmap(lambda c: gh.singular_spectrum(c)))
    for kind in ("gaussian", "tied", "tanh", "near identity"):
        chains = np.stack([generic(kind, n=5, steps=40, seed=s) for s in range(8)]).astype(dtype)
        spectra = compute(jnp.asarray(chains))
        for s in range(8):
            if dtype == np.float64:
                exact = exact_log_singular_values(chains[s]) if s < 3 else None
            else:
                exact = np.asarray(gh.singular_spectrum(chains[s].astype(float)).log_values)
            if exact is None:
                continue
            resolved = np.asarray(spectra.resolved[s])
            error = np.abs(np.asarray(spectra.log_values[s], float) - exact)
            assert np.all((error <= np.asarray(spectra.error_bars[s]))[resolved]), kind


def test_lags_are_rows_in_the_order_given():
    chain = generic("gaussian", n=4, steps=30)
    lags = [30, 0, 7, 7, 1]
    spectrum = gh.singular_spectrum(chain, lags=lags)
    assert spectrum.lags.tolist() == lags
    for row, lag in enumerate(lags):
        product = np.eye(4)
        for matrix in chain[30 - lag :]:
            product = matrix @ product
        exact = np.log(np.linalg.svd(product, compute_uv=False))
        allowed = 100 * EPS * np.linalg.cond(product)
        assert np.max(np.abs(spectrum.log_values[row] - exact)) <= allowed
    whole = gh.singular_spectrum(chain)
    assert np.max(np.abs(whole.log_values - spectrum.log_values[0])) <= 1e-13
    assert whole.log_values.shape == (4,)


def test_sum_is_the_log_determinant():
    chain = generic("tanh", n=7, steps=200)
    total = sum(np.linalg.slogdet(matrix)[1] for matrix in chain)
    ours = float(jnp.sum(gh.singular_spectrum(chain).log_values))
    assert abs(ours - total) <= 10 * EPS * 7 * 200 * max(1, abs(total) / 200)


@pytest.mark.parametrize("change", ["transposed", "rotated", "inverted", "scaled"])
def test_identities_of_singular_values(change):
    chain = generic("gaussian", n=5, steps=60)
    spectrum = gh.singular_spectrum(chain)
    base, bars = np.asarray(spectrum.log_values), np.asarray(spectrum.error_bars)
    Q = np.linalg.qr(np.random.default_rng(9).normal(size=(5, 5)))[0]
    changed = {
        "transposed": lambda: (np.swapaxes(chain[::-1], 1, 2), base, bars),
        "rotated": lambda: (Q @ chain @ Q.T, base, bars),
        "inverted": lambda: (np.linalg.inv(chain[::-1]), -base[::-1], bars[::-1]),
        "scaled": lambda: (chain * 2.0**40, base + 60 * 40 * math.log(2), bars),
    }
    other, expected, own = changed[change]()
    result = gh.singular_spectrum(other)
    # rotating and inverting round the factors themselves: the bars were made for that
    allowed = own + np.asarray(result.error_bars) + 20 * EPS * np.abs(expected)
    assert np.all(np.abs(np.asarray(result.log_values) - expected) <= allowed)


def test_entries_near_the_ends_of_the_range():
    for size in (1e300, 1e-300):
        chain = np.broadcast_to(size * np.array([[2.0, 1.0], [0.0, 0.5]]), (50, 2, 2))
        base = np.broadcast_to(np.array([[2.0, 1.0], [0.0, 0.5]]), (50, 2, 2))
        shifted = gh.singular_spectrum(base).log_values + 50 * math.log(size)
        ours = gh.singular_spectrum(chain).log_values
        assert np.max(np.abs(ours - shifted)) <= 1e-10 * 50


def test_structural_rank_is_exactly_minus_infinity():
    shift = np.broadcast_to(np.eye(6, k=1), (4, 6, 6))
    spectrum = gh.singular_spectrum(shift, lags=[2, 4])
    assert spectrum.rank_cap.tolist() == [4, 2]
    assert np.all(np.isneginf(np.asarray(spectrum.log_values[1, 2:])))
    assert np.max(np.abs(spectrum.log_values[1, :2])) <= 10 * EPS
    assert spectrum.status == gh.Status.RANK_DEFICIENT
    assert spectrum.alive(0.5).tolist() == [4, 2]


@pytest.mark.parametrize("seed", range(6))
def test_rank_of_relu_chains_is_that_of_exact_arithmetic(seed):
    """Dense weights, random masks: the rank is the smallest count along the chain."""
    rng = np.random.default_rng(seed)
    masks = rng.random((6, 7)) < 0.7
    chain = masks[:, :, None] * rng.normal(size=(6, 7, 7))
    paths = [masks[t].sum() for t in range(6)]
    spectrum = gh.singular_spectrum(chain)
    cap = int(spectrum.rank_cap)
    assert cap == min(paths)
    values = np.asarray(spectrum.log_values)
    assert np.all(np.isneginf(values[cap:]))
    assert np.all(np.isfinite(values[:cap]))


def test_rank_lost_by_cancellation_is_unresolved_not_minus_infinity():
    """A rank-one factor without zeros: no pattern shows it, the bars do."""
    u, v = np.arange(1.0, 4.0), np.array([1.0, -2.0, 0.5])
    chain = np.stack([np.eye(3) + 0.1, np.outer(u, v), np.eye(3) - 0.2])
    spectrum = gh.singular_spectrum(chain)
    assert spectrum.resolved.tolist() == [True, False, False]
    product = np.linalg.norm(chain[2] @ u) * np.linalg.norm(v @ chain[0])
    assert abs(float(spectrum.log_values[0]) - math.log(product)) <= 1e-13


def test_sizes_one_and_odd_and_no_steps():
    ones = np.random.default_rng(0).normal(size=(40, 1, 1))
    total = np.sum(np.log(np.abs(ones)))
    assert abs(float(gh.singular_spectrum(ones).log_values[0]) - total) <= 1e-12
    assert np.array_equal(gh.singular_spectrum(np.zeros((0, 5, 5))).log_values, np.zeros(5))


def test_vmap_and_jit_equal_the_plain_call():
    chains = jnp.asarray(np.stack([generic("gaussian", 4, 25, s) for s in range(3)]))
    together = jax.jit(jax.vmap(lambda c: gh.singular_spectrum(c).log_values))(chains)
    for s in range(3):
        assert np.max(np.abs(gh.singular_spectrum(chains[s]).log_values - together[s])) <= 1e-11


def test_nan_is_a_status_and_names_its_step():
    chain = generic("gaussian", 4, 30).copy()
    chain[11, 2, 1] = np.nan
    spectrum = gh.singular_spectrum(chain, throw=False)
    assert spectrum.status == gh.Status.NONFINITE
    assert spectrum.first_bad_step == 12
    assert np.all(np.isnan(spectrum.log_values))


@pytest.mark.usefixtures("unchecked_types")
def test_bad_lags():
    chain = generic("gaussian", 3, 10)
    with pytest.raises(ValueError, match=r"`lags\[1\]` must lie between 0 and 10. Received 11"):
        gh.singular_spectrum(chain, lags=[3, 11])
    with pytest.raises(TypeError, match=r"`lags\[0\]` must be an integer"):
        gh.singular_spectrum(chain, lags=[2.5])
    with pytest.raises(ValueError, match="`lags` must name at least one lag"):
        gh.singular_spectrum(chain, lags=[])
    with pytest.raises(TypeError, match="`lags` must be a sequence of integers"):
        gh.singular_spectrum(chain, lags=3)


@pytest.mark.parametrize("n", [2, 4, 6, 10])
def test_tournament_pairs_everybody_once(n):
    players = jnp.arange(n, dtype=jnp.int32)
    half = n // 2
    top, bottom = (
        Half(jnp.zeros((half, 1)), jnp.zeros(half), part)
        for part in (players[:half], players[half:])
    )
    met = set()
    for _ in range(n - 1):
        pairs = {
            frozenset(p) for p in zip(top.exponent.tolist(), bottom.exponent.tolist(), strict=True)
        }
        assert not met & pairs
        met |= pairs
        top, bottom = move_on(top, bottom)
    assert len(met) == n * (n - 1) // 2
    assert top.exponent.tolist() == list(range(half))


def test_jacobi_on_a_graded_matrix_where_bidiagonal_svd_fails():
    """diag(2^e) X with e over ±400: relative accuracy, against mpmath."""
    import mpmath

    rng = np.random.default_rng(0)
    X, e = rng.normal(size=(6, 6)), np.array([400, 100, 3, 0, -200, -400])
    m, exponent, _ = log_singular_values(
        jnp.asarray(X), jnp.full(6, 0.5), jnp.asarray(e + 1, jnp.int32)
    )
    ours = np.sort(np.log(np.asarray(m)) + np.asarray(exponent) * math.log(2.0))[::-1]
    with mpmath.workprec(6000):
        scaled = mpmath.matrix(
            [
                [mpmath.ldexp(mpmath.mpf(x), int(k)) for x in row]
                for row, k in zip(X, e, strict=True)
            ]
        )
        exact = np.array([float(mpmath.log(v)) for v in mpmath.svd_r(scaled, compute_uv=False)])
    assert np.max(np.abs(ours - np.sort(exact)[::-1])) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_segments_joined_in_a_tree_equal_the_sequential_product(kind):
    chain = generic(kind, n=6, steps=41)
    exact = exact_log_singular_values(chain)
    for segments in (3, 8):
        spectrum = gh.singular_spectrum(chain, segments=segments)
        resolved = np.asarray(spectrum.resolved)
        assert resolved.all()
        assert np.all(np.abs(spectrum.log_values - exact) <= np.asarray(spectrum.error_bars))


def test_segments_that_make_no_sense_are_refused():
    chain = generic("gaussian", n=3, steps=10)
    with pytest.raises(ValueError, match=r"`segments` must come without `lags`. Received 2."):
        gh.singular_spectrum(chain, lags=[3], segments=2)
    for segments in (0, 11):
        with pytest.raises(ValueError, match="`segments` must lie between 1 and 10"):
            gh.singular_spectrum(chain, segments=segments)
