"""The long product joined from the factored products of its segments, in logarithmic depth.

Segments come in order of application, the first applied first; the later one is the left factor:

    Φ_late Φ_early = U₂ d₂ V₂ · U₁ d₁ V₁ = U₂ (d₂ C d₁) V₁,    C = V₂ U₁.

Every U and V is well conditioned, the scales d = m 2^e span any range. A = d₂ C d₁ has to become
L d Y, L and Y well conditioned and every d_k right, however small. C is known up to eps |C|, which
is no more than the rounding of one step of the chain does. Elimination must not magnify it.

It works on B = m₂ C m₁ while powers of two stay aside: A_ij = B_ij 2^(rows_i + columns_j). The
pivot A_pq is the largest entry of A. Where d₂ and d₁ fall steeply it may be a tiny entry of B; to
subtract row p from all others would then bury their digits under multiples 1/B_pq of it. So row i
is eliminated by a row of its own, parent(i): of those with larger |A_kq| the one with the largest
|B_kq|. In descending order of |A_kq| the parents are the records of |B_kq|, the pivot row is the
first of them. A_iq/A_kq is at most 1; B_iq/B_kq is too, unless i is the next record. That row
grows, and is stored divided by its growth: every row of B keeps an error near eps, in units of
its own, and |B_kq| measures what it is worth as a parent.

With F_ik = A_iq/A_kq for k = parent(i), the rows become (1 - F) A, and L becomes L (1 - F)⁻¹. All
records before i are its ancestors; so the inverse has the entries A_iq/A_kq for all these k.

Plain complete pivoting (Demmel et al., Linear Algebra Appl. 299, 1999) lost nearly six digits more
on such matrices. To eliminate by another row than the pivot's is Neville's method; the choice of
the parent by both sizes is ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, exponent_of, power_of_two, shift
from gradhorizon.products import _udt
from gradhorizon.products._udt import Udt

_LOWEST = -(2**31 - 1)  # below the exponents of two exact zeros added; negated still an int32


class _Rest(NamedTuple):
    """What is not yet eliminated, A_ij = matrix_ij 2^(rows_i + columns_j), and L until here.

    Rows and columns of former pivots are exactly zero in `matrix`.
    """

    matrix: Float[Array, "n n"]
    rows: Int[Array, " n"]
    free_rows: Bool[Array, " n"]
    free_columns: Bool[Array, " n"]
    lower: Float[Array, "n n"]


class _Column(NamedTuple):
    """The column of a pivot: entries m 2^e without the rows' scales, and who eliminates whom.

    `order` sorts the rows by |A_iq| in descending order, the pivot row first; `record` and
    `parent` belong to the rows, not to their places in that order.
    """

    mantissa: Float[Array, " n"]
    exponent: Int[Array, " n"]
    order: Int[Array, " n"]
    record: Bool[Array, " n"]
    parent: Int[Array, " n"]


def combine(late: Udt, early: Udt) -> Udt:
    """Multiply two factored products, Φ_late Φ_early.

    Parameters
    ----------
    late, early
        Factors with well-conditioned U and V, not necessarily orthogonal; exact zeros among the
        scales are allowed.

    Returns
    -------
    Udt
        The product, as after a step.

    Notes
    -----
    No digit is lost beyond those that an error of eps in the factors costs anyway. Cost: n
    sequential eliminations, n + 5 matrix products and two LU of n × n, most of it for L; in time
    20 to 25 steps of the sequential product up to n = 32, 35 at n = 64, 90 at n = 256 (CPU).
    """
    matrix = (late.right @ early.left) * late.mantissa[:, None] * early.mantissa[None]
    middle = factorize(matrix, late.exponent, early.exponent)
    product = middle._replace(right=middle.right @ early.right)
    return _udt.step(_udt.refresh(product), late.left)


def reduce_tree(products: Udt) -> Udt:
    """Multiply the products of S ≥ 1 segments pairwise, in ⌈log₂ S⌉ levels.

    Parameters
    ----------
    products
        Factored products with a leading axis of segments, the first applied first.

    Returns
    -------
    Udt
        The product of all, the last segment on the left.

    Notes
    -----
    One level is compiled, and run for all: identities fill the segments up to a power of two, and
    each level multiplies half as many pairs of use, in as many places. Unrolled, the program
    would grow with every level. Cost: S/2 log₂ S products instead of S - 1, where all places of a
    level are one batch.
    """
    count, n = products.mantissa.shape
    if count == 1:
        return jax.tree.map(lambda a: a[0], products)
    levels = (count - 1).bit_length()
    places = 2**levels
    products = jax.tree.map(
        lambda a, one: jnp.concatenate([a, jnp.broadcast_to(one, (places - count, *one.shape))]),
        products,
        _udt.start(n, products.mantissa.dtype),
    )

    def level(products: Udt, _: None) -> tuple[Udt, None]:
        early = jax.tree.map(lambda a: a[0::2], products)
        late = jax.tree.map(lambda a: a[1::2], products)
        joined = jax.vmap(combine)(late, early)
        # the second half is of no use, and must only stay in the range of numbers
        return jax.tree.map(lambda a: jnp.concatenate([a, a]), joined), None

    products, _ = lax.scan(level, products, None, length=levels)
    return jax.tree.map(lambda a: a[0], products)


def factorize(
    matrix: Float[Array, "n n"], rows: Int[Array, " n"], columns: Int[Array, " n"]
) -> Udt:
    """Factorize A_ij = B_ij 2^(rows_i + columns_j) as L diag(d) Y.

    Up to the order of rows and columns L is lower and Y upper triangular, with ±1 and 1 on the
    diagonal; |Y_ij| ≤ 1, and |L_ij| stays near 1. Where the rest of A is exactly zero the scales
    are exact zeros, and L and Y continue like the identity.
    """
    n = matrix.shape[0]
    free = jnp.ones(n, bool)
    sizes = exponent_of(jnp.max(jnp.abs(matrix), axis=1))  # rows of one size: alike in error too
    matrix = _normal(shift(matrix, -sizes[:, None]))
    rest = _Rest(matrix, rows + sizes, free, free, jnp.eye(n, dtype=matrix.dtype))

    def body(rest: _Rest, _: None) -> tuple[_Rest, tuple[Array, ...]]:
        return _eliminate(rest, columns)

    rest, (pivots, signs, mantissa, exponent, upper) = lax.scan(body, rest, None, length=n)
    return Udt(_in_order(rest.lower, pivots, signs).T, mantissa, exponent, upper)


def _in_order(lower: Array, pivots: Array, signs: Array) -> Float[Array, "n n"]:
    """Give the columns of L in the order of the pivots, with their signs."""
    return lower[:, pivots] * signs[None]


def _normal(matrix: Array) -> Array:
    """Drop subnormal numbers, of which `exponent_of` knows nothing: far below the rounding."""
    return jnp.where(jnp.abs(matrix) < jnp.finfo(matrix.dtype).tiny, 0, matrix)


def _eliminate(rest: _Rest, columns: Int[Array, " n"]) -> tuple[_Rest, tuple[Array, ...]]:
    """Take out the largest entry of A; give its row, sign, scale (m, e) and the row of Y."""
    q = _pivot_column(rest, columns)
    column = _sort_column(rest, q)
    p = column.order[0]
    zero = column.mantissa[p] == 0
    pivot = jnp.where(zero, 1, column.mantissa[p])
    sign = jnp.where(pivot < 0, -1, 1).astype(pivot.dtype)
    power = column.exponent[p]
    gaps = columns - columns[q] - power
    upper = shift(rest.matrix[p] / pivot, gaps).at[q].set(1)  # also if the pivot is zero
    mantissa = jnp.where(zero, 0, jnp.abs(pivot))
    exponent = jnp.where(zero, ZERO_EXPONENT, power + rest.rows[p] + columns[q])
    matrix, rows = _subtract_parents(rest, column)
    free_rows, free_columns = rest.free_rows.at[p].set(False), rest.free_columns.at[q].set(False)
    rest = _Rest(
        matrix=jnp.where(free_rows[:, None] & free_columns[None], _normal(matrix), 0),
        rows=rows,
        free_rows=free_rows,
        free_columns=free_columns,
        lower=rest.lower @ _ancestors(rest, column),
    )
    return rest, (p, sign, mantissa, exponent, upper)


def _pivot_column(rest: _Rest, columns: Int[Array, " n"]) -> Int[Array, ""]:
    """Find the column of the largest |A_ij|; among zeros only, a free one."""
    sizes = rest.rows[:, None] + columns[None]
    used = rest.matrix != 0
    top = jnp.max(jnp.where(used, sizes + exponent_of(rest.matrix), _LOWEST))
    powers = power_of_two(jnp.where(used, sizes - top, 0), rest.matrix.dtype)
    relative = jnp.abs(rest.matrix) * powers  # the largest in [½, 1)
    best = jnp.max(jnp.where(rest.free_columns[None], relative, -1), axis=0)
    return jnp.argmax(best).astype(jnp.int32)


def _sort_column(rest: _Rest, q: Int[Array, ""]) -> _Column:
    """Sort the free rows by |A_iq|, exactly, and find the parent of each."""
    entries = rest.matrix[:, q]
    exponent = exponent_of(entries)
    mantissa = shift(entries, -exponent)
    sizes = jnp.where(mantissa == 0, _LOWEST, rest.rows + exponent)
    worth = jnp.where(rest.free_rows, jnp.abs(entries), -1)  # rows of former pivots come last
    keys = (-jnp.where(rest.free_rows, jnp.abs(mantissa), -1), -sizes)
    order = jnp.lexsort(keys).astype(jnp.int32)
    places = jnp.arange(order.shape[0], dtype=jnp.int32)
    sorted_worth = worth[order]
    before = jnp.concatenate([jnp.full(1, -1, worth.dtype), lax.cummax(sorted_worth)[:-1]])
    new = sorted_worth > before
    newest = lax.cummax(jnp.where(new, places, 0))
    newest = jnp.concatenate([newest[:1], newest[:-1]])  # the newest record before this place
    parent = jnp.zeros_like(order).at[order].set(order[newest])
    record = jnp.zeros_like(new).at[order].set(new)
    return _Column(mantissa, exponent, order, record, parent)


def _subtract_parents(rest: _Rest, column: _Column) -> tuple[Array, Array]:
    """Give the rows of B less their multiples of the parents' rows, and the new scales."""
    mantissa, exponent, parent = column.mantissa, column.exponent, column.parent
    divisor = jnp.where(mantissa[parent] == 0, 1, mantissa[parent])
    multiplier = mantissa / divisor
    gap = jnp.where(multiplier == 0, 0, exponent - exponent[parent])
    growth = jnp.maximum(gap, 0)
    multiplier = shift(multiplier, gap - growth)
    matrix = shift(rest.matrix, -growth[:, None]) - multiplier[:, None] * rest.matrix[parent]
    return matrix, rest.rows + growth


def _ancestors(rest: _Rest, column: _Column) -> Float[Array, "n n"]:
    """Give (1 - F)⁻¹: 1 on the diagonal, A_iq/A_kq for every record k before row i."""
    n = column.order.shape[0]
    place = jnp.zeros_like(column.order).at[column.order].set(jnp.arange(n, dtype=jnp.int32))
    usable = (place[:, None] > place[None]) & (column.record & (column.mantissa != 0))[None]
    values = column.mantissa[:, None] / jnp.where(usable, column.mantissa[None], 1)
    sizes = rest.rows + column.exponent
    gaps = sizes[:, None] - sizes[None]  # above zero only where the value is zero
    values = jnp.where(usable, values, 0) * power_of_two(gaps, values.dtype)
    return values + jnp.eye(n, dtype=values.dtype)
