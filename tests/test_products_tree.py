"""Products of segments, joined pairwise, against exact answers and the sequential product.

The mutations at the end break the elimination in one place each; beside each stand the checks
that have to notice.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradhorizon as gh
from chains import KINDS, dyadic, exact_log_singular_values, generic
from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, power_of_two
from gradhorizon.products import _jacobi, _tree, _udt
from gradhorizon.products._udt import Udt

EPS = np.finfo(float).eps
N, STEPS, COUNTS = 6, 46, (1, 3, 8)  # segments of 46; of 16, 15, 15; of 6 and 5 steps


@jax.jit
def segment(chain):
    """Multiply the matrices of one segment, as `singular_spectrum` does."""

    def body(product, item):
        t, matrix = item
        due = (t > 0) & (t % _udt.REFRESH_EVERY == 0)
        product = lax.cond(due, _udt.refresh, lambda same: same, product)
        return _udt.step(product, matrix), None

    steps, n, _ = chain.shape
    times = jnp.arange(steps, dtype=jnp.int32)
    return lax.scan(body, _udt.start(n, chain.dtype), (times, chain))[0]


def segments(chain, count):
    """Cut into `count` segments of almost equal length; stack their products."""
    parts = [segment(jnp.asarray(part)) for part in np.array_split(np.asarray(chain), count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


@jax.jit
def finish(product):
    """Give the sorted ln σ_i, in float64."""
    mantissa, exponent, _ = _jacobi.log_singular_values(*_udt.graded_rows(product))
    return -jnp.sort(-log_scaled(mantissa.astype(jnp.float64), exponent))


reduce_tree, combine = jax.jit(_tree.reduce_tree), jax.jit(_tree.combine)
factorize = jax.jit(_tree.factorize)


def through_tree(chain, count):
    """Give ln σ_i of the whole chain, joined from `count` segments."""
    return np.asarray(finish(reduce_tree(segments(chain, count))))


def dense(product):
    """Multiply the factors out, where the range allows it."""
    scales = np.ldexp(np.asarray(product.mantissa), np.asarray(product.exponent))
    return (np.asarray(product.left) * scales) @ np.asarray(product.right)


def factored(left, powers, right, dtype=float):
    """Give U diag(2^powers) V with exact zeros where the power is None."""
    alive = np.array([p is not None for p in powers])
    exponents = [ZERO_EXPONENT if p is None else p + 1 for p in powers]
    return Udt(
        jnp.asarray(left, dtype).T,
        jnp.asarray(0.5 * alive, dtype),
        jnp.asarray(exponents, jnp.int32),
        jnp.asarray(right, dtype),
    )


def lu_like(rng, n):
    """Draw unit lower triangular entries, rows permuted: what an LU leaves for U."""
    return (np.tril(rng.uniform(-1, 1, (n, n)), -1) / math.sqrt(n) + np.eye(n))[rng.permutation(n)]


def any_two(n, spread, seed=0, dtype=float):
    """Draw two factored products with random signs, orders and powers of two."""
    rng = np.random.default_rng(seed)
    return tuple(
        factored(
            lu_like(rng, n),
            rng.integers(-spread, spread + 1, n).tolist(),
            lu_like(rng, n).T,
            dtype,
        )
        for _ in range(2)
    )


def steep(delta):
    """Give late, early, and ln σ_i of their product, C having δ where both scales are largest.

    ln σ_1 and ln σ_2 are ill-conditioned in C, like 1/δ; the others are not, though 1/δ passes
    through plain elimination. C is exact here: it is V of the late product, U of the early is I.
    """
    rng = np.random.default_rng(3)
    C = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    C[0, 0] = delta
    powers, eye = [60, 30, 30, 0, 0, -30], np.eye(6)
    late, early = factored(eye, powers, C), factored(eye, powers, eye)
    scales = np.diag(2.0 ** np.array(powers))
    return late, early, exact_log_singular_values(np.stack([scales, C, scales]))


def without(product, *gone):
    """Make some scales exact zeros."""
    gone = jnp.asarray(gone, jnp.int32)
    return product._replace(
        mantissa=product.mantissa.at[gone].set(0),
        exponent=product.exponent.at[gone].set(ZERO_EXPONENT),
    )


# --- known answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "count"),
    [(np.float64, 1), (np.float64, 3), (np.float64, 4), (np.float64, 8), (np.float32, 3)],
)
def test_dyadic_chains(dtype, count):
    chain, exact = dyadic(16, 1000)
    values = through_tree(chain.astype(dtype), count)
    assert np.max(np.abs(values - exact)) <= 10 * np.finfo(dtype).eps * np.max(np.abs(exact))


def ill_conditioned():
    """Give a chain whose every J has condition 10⁶, and so have the borders of the segments."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(STEPS, N, N)))[0] for _ in range(2))
    return (left * np.logspace(0, -6, N)) @ right


@pytest.mark.parametrize("kind", [*KINDS, "ill-conditioned"])
def test_generic_chains(kind):
    """No digit less than in the sequential product, whose bars these are."""
    chain = ill_conditioned() if kind == "ill-conditioned" else np.array(generic(kind, N, STEPS))
    exact = exact_log_singular_values(chain)
    bars = np.asarray(gh.singular_spectrum(chain).error_bars)
    ordinary = kind not in ("jordan", "triangular", "ill-conditioned")
    for count in COUNTS:
        error = np.abs(through_tree(chain, count) - exact)
        assert np.all(error <= bars), count
        assert not ordinary or error.max() <= 1e-11, count


@pytest.mark.parametrize("n", [1, 5, 6])
def test_product_of_factors_is_late_times_early(n):
    late, early = any_two(n, 8)
    product = combine(late, early)
    expected = dense(late) @ dense(early)
    scale = np.linalg.norm(dense(late), 2) * np.linalg.norm(dense(early), 2)
    assert np.linalg.norm(dense(product) - expected, 2) <= 10 * n * EPS * scale
    if n > 1:  # the other order is another matrix
        other = dense(early) @ dense(late)
        assert np.linalg.norm(other - expected, 2) > 1e-3 * scale
    assert np.linalg.cond(product.left) <= 20
    assert np.linalg.cond(product.right) <= 20


@pytest.mark.parametrize(
    ("dtype", "seed"), [(np.float64, 0), (np.float64, 1), (np.float64, 2), (np.float32, 3)]
)
def test_every_scale_is_right_far_outside_the_floats(dtype, seed):
    """The reference has room for 2^±900 only; adding 3000 to all exponents moves all logs."""
    late, early = any_two(N, 200, seed, dtype)
    scales = [np.diag(2.0 ** (np.asarray(p.exponent, float) - 1)) for p in (early, late)]
    exact = exact_log_singular_values(
        np.stack([early.right, scales[0], early.left, late.right, scales[1], late.left])
    )
    moved = (p._replace(exponent=p.exponent + 3000) for p in (late, early))
    shift = 6000 * math.log(2.0)
    error = np.abs(np.asarray(finish(combine(*moved))) - shift - exact)
    assert error.max() <= 100 * np.finfo(dtype).eps + 2 * EPS * shift


@pytest.mark.parametrize("delta", [1e-4, 1e-8, 1e-12, 0.0])
def test_small_entries_at_large_scales_magnify_nothing(delta):
    late, early, exact = steep(delta)
    error = np.abs(np.asarray(finish(combine(late, early))) - exact)
    assert np.max(error[2:]) <= 10 * EPS * np.max(np.abs(exact))


def test_conditions_do_not_grow_with_the_levels():
    """Each step is a segment of its own, joined to all before: as bad as any tree."""
    for kind in ("gaussian", "jordan"):
        chain = np.array(generic(kind, N, STEPS))
        product, *later = [segment(jnp.asarray(matrix[None])) for matrix in chain]
        for one in later:
            product = combine(one, product)
        assert np.linalg.cond(product.right) <= 20
        if kind == "gaussian":
            error = np.abs(np.asarray(finish(product)) - exact_log_singular_values(chain))
            assert error.max() <= 1e-11


def test_size_of_rows_is_no_sign_of_their_accuracy():
    """Rows of V times powers of two, which the scales take back, are the same product."""
    late, early, exact = steep(1e-8)
    powers = jnp.asarray([60, 0, -40, 30, -70, 50], jnp.int32)
    late = late._replace(
        exponent=late.exponent - powers,
        right=late.right * power_of_two(powers, late.right.dtype)[:, None],
    )
    error = np.abs(np.asarray(finish(combine(late, early))) - exact)
    assert np.max(error[2:]) <= 10 * EPS * np.max(np.abs(exact))


@pytest.mark.parametrize("spread", [0, 5, 100, 5000])
def test_factors_stay_well_conditioned(spread):
    """What a product of n factors with entries up to 1 could be, 2^n, it is not."""
    rng = np.random.default_rng(0)
    C = jnp.asarray(np.linalg.qr(rng.normal(size=(32, 32)))[0])
    rows, columns = (jnp.asarray(rng.integers(-spread, spread + 1, 32), jnp.int32) for _ in "ab")
    middle = factorize(C, rows, columns)
    assert np.max(np.abs(middle.right)) <= 1 + EPS
    assert np.linalg.cond(middle.left) <= 100
    assert np.linalg.cond(middle.right) <= 100
    assert np.all(np.asarray(middle.mantissa) >= 0.5)


# --- exact zeros -----------------------------------------------------------------------------


def test_zero_scales_stay_exact():
    late, early = any_two(N, 30)
    late, early = without(late, 1), without(early, 0, 2, 5)
    product = combine(late, early)
    dead = np.asarray(product.mantissa) == 0
    assert dead.sum() == 3
    assert np.all(np.asarray(product.exponent)[dead] == ZERO_EXPONENT)
    expected = dense(late) @ dense(early)
    scale = np.linalg.norm(dense(late), 2) * np.linalg.norm(dense(early), 2)
    assert np.linalg.norm(dense(product) - expected, 2) <= 10 * N * EPS * scale
    assert np.isneginf(finish(product)).tolist() == [False] * 3 + [True] * 3
    nothing = combine(without(late, *range(N)), product)
    assert not np.any(nothing.mantissa)
    assert np.all(np.asarray(nothing.exponent) == ZERO_EXPONENT)
    assert np.linalg.cond(nothing.left) <= 100
    assert np.linalg.cond(nothing.right) <= 100


@pytest.mark.parametrize("dead", [(), (0,), (1, 3, 4), range(N)])
def test_factors_of_a_singular_matrix_are_regular(dead):
    """Where nothing is left to eliminate, L and Y go on like the identity."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(N, N))
    matrix[:, list(dead)] = 0
    matrix[5] = 0
    rows, columns = (jnp.asarray(rng.integers(-9, 10, N), jnp.int32) for _ in "ab")
    middle = factorize(jnp.asarray(matrix), rows, columns)
    rank = min(N - 1, N - len(dead))
    assert np.count_nonzero(middle.mantissa) == rank
    assert np.all(np.asarray(middle.mantissa[:rank]) >= 0.5)
    assert np.all(np.asarray(middle.exponent[rank:]) == ZERO_EXPONENT)
    assert np.linalg.cond(middle.left) <= 100
    assert np.linalg.cond(middle.right) <= 100
    scaled = np.ldexp(matrix, rows[:, None] + columns[None])
    assert np.max(np.abs(dense(middle) - scaled)) <= 10 * N * EPS * np.max(np.abs(scaled))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("steps", "rank"), [(4, 2), (6, 0)])
def test_nilpotent_shift(steps, rank, count):
    chain = np.broadcast_to(np.eye(N, k=1), (steps, N, N))
    assert through_tree(chain, count).tolist() == [0.0] * rank + [-math.inf] * (N - rank)


def test_masks_without_mixing_leave_exact_zeros():
    """Diagonal masks and permutations: every σ_i is a 1 or a 0."""
    rng = np.random.default_rng(5)
    masks = np.ones((STEPS, N))
    masks[[4, 20, 21], [1, 3, 0]] = 0
    chain = np.stack([np.diag(row)[rng.permutation(N)] for row in masks])
    rank = np.linalg.matrix_rank(np.linalg.multi_dot(chain[::-1]))
    assert 3 <= rank < 6
    for count in COUNTS:
        assert through_tree(chain, count).tolist() == [0.0] * rank + [-math.inf] * (N - rank)


def test_masks_of_relu():
    """Values up to the structural rank are right; those beyond are rounding, as in sequence."""
    rng = np.random.default_rng(5)
    alive = rng.uniform(size=(STEPS, N, 1)) < 0.9
    chain = alive * rng.normal(size=(STEPS, N, N))
    spectrum = gh.singular_spectrum(chain)
    cap = int(spectrum.rank_cap)
    assert 1 < cap < N
    exact = exact_log_singular_values(chain)[:cap]
    for count in COUNTS:
        values = through_tree(chain, count)
        assert np.all(np.abs(values[:cap] - exact) <= np.asarray(spectrum.error_bars)[:cap])
        assert np.all(values[cap:] < exact[-1] - 20)


# --- how it is called ------------------------------------------------------------------------


def test_depth_is_logarithmic_and_all_pairs_of_a_level_are_one_batch(monkeypatch):
    """With powers of two for products: the sum of the exponents tells what was multiplied."""
    lengths, scan = [], lax.scan

    def counted(body, start, steps, length):
        lengths.append((length, start.mantissa.shape[0]))
        return scan(body, start, steps, length=length)

    def add(late, early):
        return late._replace(exponent=late.exponent + early.exponent - 1)

    monkeypatch.setattr(_tree, "combine", add)
    monkeypatch.setattr(lax, "scan", counted)
    identity = _udt.start(2, jnp.dtype(float))
    for count in (1, 2, 3, 4, 5, 8, 13):
        lengths.clear()
        powers = 10 ** jnp.arange(count, dtype=jnp.int32) % 9973
        products = jax.tree.map(lambda leaf, s=count: jnp.stack([leaf] * s), identity)
        products = products._replace(exponent=products.exponent + powers[:, None])
        product = _tree.reduce_tree(products)
        assert product.exponent.tolist() == [1 + int(powers.sum())] * 2
        levels = math.ceil(math.log2(count))
        assert lengths == ([(levels, 2**levels)] if levels else [])


def test_batches_and_single_products_agree():
    chains = [generic("gaussian", N, STEPS, seed) for seed in range(3)]
    stacked = [segments(chain, 3) for chain in chains]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked)
    together = jax.jit(jax.vmap(_tree.reduce_tree))(batch)
    for lane, products in enumerate(stacked):
        values = finish(jax.tree.map(lambda leaf, lane=lane: leaf[lane], together))
        assert np.max(np.abs(values - finish(reduce_tree(products)))) <= 1e-12


def test_float32_stays_float32():
    chain = dyadic(16, 1000)[0].astype(np.float32)
    product = jax.eval_shape(_tree.reduce_tree, segments(chain, 3))
    assert [leaf.dtype for leaf in product] == [jnp.float32, jnp.float32, jnp.int32, jnp.float32]


# --- mutations -------------------------------------------------------------------------------


@functools.cache
def known():
    """Give pairs of products, stacked, and for each pair ln σ_i and which of them to compare."""
    cases = {}
    for kind in ("gaussian", "near identity"):
        chain = np.array(generic(kind, N, STEPS))
        cases[kind] = (segments(chain, 2), exact_log_singular_values(chain), slice(None))
    late, early, exact = steep(1e-8)
    cases["steep"] = (pair(late, early), exact, slice(2, None))
    late, early = any_two(N, 3)
    early = without(early, 1)
    with np.errstate(divide="ignore"):
        exact = np.log(np.linalg.svd(dense(late) @ dense(early), compute_uv=False))
    exact[-1] = -np.inf
    cases["zeros"] = (pair(late, early), exact, slice(None))
    return cases


def pair(late, early):
    """Stack two products in order of application."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), early, late)


def failing():
    """Name the cases whose spectrum is wrong, with the code as it is now."""
    cases = known()
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(case[0] for case in cases.values()))
    products = jax.jit(jax.vmap(lambda p: _tree.reduce_tree(p)))(batch)
    wrong = set()
    for lane, (name, (_, exact, shown)) in enumerate(cases.items()):
        values = finish(jax.tree.map(lambda leaf, lane=lane: leaf[lane], products))
        if not np.allclose(np.asarray(values)[shown], exact[shown], rtol=0, atol=1e-11):
            wrong.add(name)
    return wrong


def order_swapped(monkeypatch):
    combine = _tree.combine
    monkeypatch.setattr(_tree, "combine", lambda late, early: combine(early, late))


def columns_not_in_order(monkeypatch):
    monkeypatch.setattr(_tree, "_in_order", lambda lower, pivots, signs: lower * signs[None])


def signs_forgotten(monkeypatch):
    monkeypatch.setattr(_tree, "_in_order", lambda lower, pivots, signs: lower[:, pivots])


def scales_not_in_the_inverse(monkeypatch):
    ancestors = _tree._ancestors

    def plain(rest, column):
        return ancestors(rest._replace(rows=jnp.zeros_like(rest.rows)), column)

    monkeypatch.setattr(_tree, "_ancestors", plain)


def growth_not_in_the_scales(monkeypatch):
    subtract = _tree._subtract_parents
    monkeypatch.setattr(
        _tree, "_subtract_parents", lambda rest, column: (subtract(rest, column)[0], rest.rows)
    )


def pivots_without_scales(monkeypatch):
    pivot = _tree._pivot_column

    def plain(rest, columns):
        rest = rest._replace(rows=jnp.zeros_like(rest.rows))
        return pivot(rest, jnp.zeros_like(columns))

    monkeypatch.setattr(_tree, "_pivot_column", plain)


def rows_sorted_without_scales(monkeypatch):
    sort = _tree._sort_column

    def plain(rest, q):
        return sort(rest._replace(rows=jnp.zeros_like(rest.rows)), q)

    monkeypatch.setattr(_tree, "_sort_column", plain)


def pivot_row_eliminates_all(monkeypatch):
    """Plain complete pivoting, as in the literature."""
    sort = _tree._sort_column

    def plain(rest, q):
        column = sort(rest, q)
        first = column.order[0]
        record = jnp.zeros_like(column.record).at[first].set(True)
        return column._replace(record=record, parent=jnp.full_like(column.parent, first))

    monkeypatch.setattr(_tree, "_sort_column", plain)


def only_the_pivot_row_in_the_inverse(monkeypatch):
    ancestors = _tree._ancestors

    def first(rest, column):
        record = jnp.zeros_like(column.record).at[column.order[0]].set(True)
        return ancestors(rest, column._replace(record=record))

    monkeypatch.setattr(_tree, "_ancestors", first)


MUTATIONS = {
    order_swapped: {"gaussian", "near identity"},
    columns_not_in_order: {"near identity", "zeros"},
    signs_forgotten: {"gaussian"},
    scales_not_in_the_inverse: {"gaussian", "near identity"},
    growth_not_in_the_scales: {"gaussian"},
    pivots_without_scales: {"steep"},
    rows_sorted_without_scales: {"gaussian"},
    pivot_row_eliminates_all: {"steep"},
    only_the_pivot_row_in_the_inverse: {"gaussian"},
}


def test_known_spectra_hold_on_the_package_as_it_is():
    assert failing() == set()


@pytest.mark.parametrize("mutate", list(MUTATIONS), ids=lambda f: f.__name__)
def test_mutation_is_caught(mutate, monkeypatch):
    known()
    mutate(monkeypatch)
    assert failing() >= MUTATIONS[mutate]
