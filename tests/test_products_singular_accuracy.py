"""Singular spectra where they are hardest: ends of the range, dependent columns, long chains.

The mutations at the end break the algorithm in one place each; beside each stand the chains that
have to notice. Determinants, orthogonal and diagonal chains would notice hardly any of them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from chains import dyadic, exact_log_singular_values, generic
from gradhorizon.chain._links import MatrixLinks
from gradhorizon.chain._sweep import sweep
from gradhorizon.products import _jacobi, _stratified, _udt
from gradhorizon.products._lu import pivoted_lu

EPS = np.finfo(float).eps
LN2 = math.log(2.0)


def values_of(chain, **kwargs):
    return np.asarray(gh.singular_spectrum(chain, **kwargs).log_values)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "steps", "tolerance"), [(64, 10_000, 1e-11), (16, 100_000, 1e-10)])
def test_long_dyadic_chains(n, steps, tolerance):
    chain, exact = dyadic(n, steps)
    spectrum = gh.singular_spectrum(chain)
    error = np.abs(np.asarray(spectrum.log_values) - exact)
    assert np.all(np.asarray(spectrum.resolved))
    assert error.max() <= tolerance
    assert np.all(error <= np.asarray(spectrum.error_bars))


@pytest.mark.slow
def test_long_dyadic_chain_in_float32():
    chain, exact = dyadic(16, 10_000)
    spectrum = gh.singular_spectrum(chain.astype(np.float32))
    error = np.abs(np.asarray(spectrum.log_values, float) - exact)
    assert np.all(np.asarray(spectrum.resolved))
    assert np.max(error / np.maximum(1, np.abs(exact))) <= 5e-6


def test_ill_conditioned_factors_keep_eight_digits():
    """Every J has condition 10⁶; the product of 100 spans e^±700."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(100, 6, 6)))[0] for _ in range(2))
    chain = (left * np.logspace(0, -6, 6)) @ right
    spectrum = gh.singular_spectrum(chain)
    error = np.abs(np.asarray(spectrum.log_values) - exact_log_singular_values(chain))
    assert np.all(np.asarray(spectrum.resolved))
    assert error.max() <= 1e-8
    assert np.all(error <= np.asarray(spectrum.error_bars))


@pytest.mark.parametrize("power", [-1000, -990, 0, 990])
def test_bars_mean_the_same_at_the_ends_of_the_range(power):
    """Lost digits stay lost when every entry is multiplied by 2^power.

    A perturbation of relative size eps underflows where the entries are near 1e-300: the bars
    would then be those of no perturbation at all.
    """
    chain, _ = dyadic(16, 200, ordered=False, seed=1)
    spectrum = gh.singular_spectrum(chain * 2.0**power)
    assert spectrum.status == gh.Status.UNRESOLVED
    plain, exact = dyadic(16, 200)
    spectrum = gh.singular_spectrum(plain * 2.0**power)
    shifted = exact + 200 * power * LN2
    error = np.abs(np.asarray(spectrum.log_values) - shifted)
    assert np.all(error <= 10 * EPS * np.maximum(200, np.abs(shifted)))


@pytest.mark.filterwarnings("ignore:The matrices have entries below:gradhorizon.PrecisionWarning")
def test_subnormal_entries_are_read_not_flushed():
    """5e-324 = 2^-1074: its powers have exact logarithms; and a whole matrix of such numbers."""
    smallest = values_of(np.full((50, 1, 1), 5e-324))
    assert abs(smallest[0] + 50 * 1074 * LN2) <= 4 * EPS * 50 * 1074
    plain = np.round(generic("gaussian", 4, 50) * 2**20) / 2**20  # short enough to stay exact
    small = np.ldexp(plain, -1030)
    assert np.array_equal(np.ldexp(small, 1030), plain)
    spectrum = gh.singular_spectrum(small)
    shift = 50 * 1030 * LN2
    assert np.max(np.abs(np.asarray(spectrum.log_values) + shift - values_of(plain))) <= (
        10 * EPS * shift
    )
    assert spectrum.rank_cap == 4


@pytest.mark.parametrize(("dtype", "power"), [(np.float64, -600), (np.float32, -80)])
def test_columns_are_sorted_even_if_their_squares_underflow(dtype, power):
    matrix = jnp.asarray(np.diag(np.ldexp(1.0, [2 * power // 2, power - 40, 0])).astype(dtype))
    product = jax.jit(_udt.step)(_udt.start(3, np.dtype(dtype)), matrix)
    assert product.exponent.tolist() == [1, power + 1, power - 39]


def test_prescaling_is_exact():
    rng = np.random.default_rng(0)
    for power in (-1060, -1022, 0, 1000):
        matrix = np.ldexp(rng.normal(size=(3, 3)), power)
        scaled, common, dense = jax.jit(_udt.prescale)(jnp.asarray(matrix))
        back = np.ldexp(np.ldexp(np.asarray(scaled), int(common) // 2), int(common + 1) // 2)
        assert np.array_equal(back, matrix)
        assert 0.5 <= np.max(np.abs(scaled)) < 1
        assert np.array_equal(jax.jit(_udt.nonzero_entries)(jnp.asarray(matrix)), matrix != 0)
        assert bool(dense) == (power > -1000)


def test_exactly_dependent_columns_lose_nothing_else():
    """Copied states give R_ii = 0 exactly, with more of the matrix to the right of it."""
    copied = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for matrix in (copied, copied.T):
        spectrum = gh.singular_spectrum(matrix[None])
        assert np.allclose(spectrum.log_values[:2], [0.5 * LN2, 0.0], rtol=0, atol=10 * EPS)
        assert np.all(np.asarray(spectrum.resolved))
        assert np.isneginf(spectrum.log_values[2])
    chain = generic("gaussian", 6, 20).copy()
    chain[5, 2], chain[10, :, 3], chain[19, 1] = chain[5, 4], chain[10, :, 1], chain[19, 0]
    exact = exact_log_singular_values(chain)  # the last one is zero, or the rounding of mpmath
    spectrum = gh.singular_spectrum(chain)
    assert spectrum.resolved.tolist() == [True] * 5 + [False]
    error = np.abs(np.asarray(spectrum.log_values) - exact)[:5]
    assert error.max() <= 5e-12
    assert np.all(error <= np.asarray(spectrum.error_bars)[:5])


def test_first_bad_step_is_the_first_whether_state_or_jacobian():
    """The slope of √h at 0 is infinite at step 2 with a finite state; h/0 is NaN at step 5."""

    def step(params, h, x):
        return jnp.where(x > 0, jnp.sqrt(jnp.abs(h)), jnp.where(x < 0, h / 0.0, params * h))

    xs = jnp.array([0.0, 1.0, 0.0, 0.0, -1.0, 0.0])
    chain = gh.jacobian_chain(step, 0.5, jnp.zeros(2), xs)
    spectrum = gh.singular_spectrum(chain, throw=False)
    assert spectrum.status == gh.Status.NONFINITE
    assert spectrum.first_bad_step == 2


@pytest.mark.usefixtures("unchecked_types")
def test_threshold_must_be_positive():
    spectrum = gh.singular_spectrum(generic("gaussian", 3, 10))
    with pytest.raises(ValueError, match="`threshold` must be positive. Received 0"):
        spectrum.alive(0.0)


# --- mutations -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    """Four chains of one shape with their exact spectra and what rounding allows.

    The bar of the Jordan chain is infinite (a perturbation of eps in its corner moves its
    eigenvalues by eps^(1/16) = 0.1), that of the triangular one 3e-8: the tolerances lie between
    this and the damage of the mutations, several nats and 3e-4.
    """
    chain, exact = dyadic(16, 150)
    chains = {"dyadic": (chain, exact, 1e-10)}
    for kind, tolerance in (("near identity", 1e-11), ("jordan", 1e-5), ("triangular", 1e-7)):
        chain = np.array(generic(kind, 16, 150))
        if kind == "jordan":  # with its ones below the diagonal it is kinder to the algorithm
            chain = chain.swapaxes(1, 2)
        chains[kind] = (chain, exact_log_singular_values(chain), tolerance)
    return chains


def failing(known):
    """Name the chains whose spectrum is wrong."""

    def values(matrices):  # without the bars, which would call a wrong digit unresolved
        chain = gh.JacobianChain.from_matrices(matrices)
        return _stratified.follow(chain, (chain.length,)).result.logs[0, 0]

    stack = jnp.asarray(np.stack([chain for chain, _, _ in known.values()]))
    computed = jax.jit(lambda chains: jax.lax.map(values, chains))(stack)
    return {
        name
        for row, (name, (_, exact, tolerance)) in zip(computed, known.items(), strict=True)
        if not np.max(np.abs(np.asarray(row) - exact)) <= tolerance
    }


def time_reversed(monkeypatch):
    monkeypatch.setattr(
        _stratified, "sweep", lambda chain, body, init, reverse: sweep(chain, body, init)
    )


def jacobian_transposed(monkeypatch):
    link = MatrixLinks.link
    monkeypatch.setattr(MatrixLinks, "link", lambda self, matrix: link(self, matrix.T))


def not_sorted(monkeypatch):
    monkeypatch.setattr(_udt, "sort", lambda product, sizes: product)


def right_factor_not_permuted(monkeypatch):
    permute = _udt.permute
    monkeypatch.setattr(
        _udt,
        "permute",
        lambda product, order: permute(product, order)._replace(right=product.right),
    )


def right_factor_never_updated(monkeypatch):
    monkeypatch.setattr(_udt, "update_right", lambda mixing, right: right)


def scales_taken_for_singular_values(monkeypatch):
    monkeypatch.setattr(_udt, "graded_rows", lambda p: (p.right, p.mantissa, p.exponent))
    monkeypatch.setattr(
        _jacobi, "log_singular_values", lambda rows, m, e: (m, e, jnp.asarray(0, jnp.int32))
    )


def never_refreshed(monkeypatch):
    monkeypatch.setattr(_udt, "REFRESH_EVERY", 10**6)


def left_factor_taken_for_orthogonal(monkeypatch):
    graded = _udt.graded_rows

    def orthogonal(product):
        eye = jnp.eye(product.rows.shape[-1], dtype=product.rows.dtype)
        return graded(product._replace(rows=jnp.broadcast_to(eye, product.rows.shape)))

    monkeypatch.setattr(_udt, "graded_rows", orthogonal)


def new_scales_in_ratios(monkeypatch):
    ratios = _udt.ratios
    monkeypatch.setattr(_udt, "ratios", lambda r, m, e, new, p: ratios(r, new, p, new, p))


def ratios_upside_down(monkeypatch):
    ratios = _udt.ratios
    monkeypatch.setattr(
        _udt, "ratios", lambda r, m, e, new, p: ratios(r, 0.5 / m, -e, 0.5 / new, -p)
    )


def rows_not_normalized(monkeypatch):
    ratios = _udt.ratios
    monkeypatch.setattr(
        _udt, "ratios", lambda r, *scales: jnp.diagonal(r, axis1=-2, axis2=-1)[..., None]
        * ratios(r, *scales)
    )  # fmt: skip


def diagonal_not_positive(monkeypatch):
    def signed(matrix):
        left, upper, places = pivoted_lu(matrix)
        return left, jnp.where(jnp.eye(upper.shape[-1], dtype=bool), jnp.abs(upper), upper), places

    monkeypatch.setattr(_udt, "positive_lu", signed)


MUTATIONS = {
    time_reversed: {"dyadic", "near identity"},
    jacobian_transposed: {"dyadic", "near identity"},
    not_sorted: {"dyadic"},
    right_factor_not_permuted: {"dyadic", "near identity"},
    right_factor_never_updated: {"dyadic", "near identity", "jordan"},
    scales_taken_for_singular_values: {"near identity", "triangular"},
    never_refreshed: {"jordan"},
    left_factor_taken_for_orthogonal: {"near identity", "triangular"},
    new_scales_in_ratios: {"dyadic", "triangular"},
    ratios_upside_down: {"dyadic", "near identity", "jordan"},
    rows_not_normalized: {"dyadic", "near identity", "jordan"},
    diagonal_not_positive: {"dyadic", "triangular"},
}


def test_known_spectra_hold_on_the_package_as_it_is(known):
    assert failing(known) == set()


@pytest.mark.parametrize("mutate", list(MUTATIONS), ids=lambda f: f.__name__)
def test_mutation_is_caught(mutate, monkeypatch, known):
    mutate(monkeypatch)
    caught = failing(known)
    assert caught >= MUTATIONS[mutate], caught


def test_hard_chains_lie_inside_their_bars(known):
    for name, (chain, exact, _) in known.items():
        spectrum = gh.singular_spectrum(chain)
        error = np.abs(np.asarray(spectrum.log_values) - exact)
        resolved = np.asarray(spectrum.resolved)
        assert np.all((error <= np.asarray(spectrum.error_bars))[resolved])
        assert resolved.all() == (name != "jordan")
