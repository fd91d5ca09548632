"""A frame pushed along a chain, factorized before it loses digits: growth of nested volumes.

The frame B_t = J_t L_{t-1} spans a flag of subspaces. Between two factorizations its condition
grows like the spread of the growth factors, e^((λ_1 - λ_k) m) on average over m steps, and the
digits of the slowest directions drown in the rounding of the fastest. What a factorization after
m steps costs can be read off it: pivot i came from a row whose entries were up to r_i, so that
rounding changed its logarithm by about eps r_i/pivot_i. (Rows are the right measure: a unit that
saturates makes its whole row small, rounding errors included, and nothing is lost.) The interval
follows this estimate, extrapolated by the widest spread per step seen lately. Where a spread
jumps all the same, as at a nearly singular J_t, the group of steps is run again with a
factorization at every step, and steps that lose digits by themselves are taken with care (see
`_graded`); every group starts from a factorized frame.

Factorizations are LU (see `_lu`). Only where a sum is read off, at the end of a window, the
frame's own QR factor is added: Σ ln|diag R| of QR = Σ ln|pivots| of LU + ln|diag of the R of L|.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon.chain._sweep import sweep_groups
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.products import _graded
from gradhorizon.products._graded import Growth
from gradhorizon.products._qr import positive_qr

_GROUP = 12  # steps, about; beyond that a factorization costs little next to the products
_FORGET = 0.8  # how much of the widest spread per step is remembered at the next factorization
_ROOM = {64: 1e100, 32: 1e12}  # largest and smallest size of a frame between factorizations
_VISIBLE = {64: 1e-9, 32: 1e-1}  # nats: a step that loses more is taken again, with more care
_DOUBTFUL = 1e-4  # of it: what is estimated to lose less than that is not looked at
_SLACK = 2.0  # a group is run again when its loss passes the intended one by this factor
_SMALL = 32  # below this size the determinant is taken at every step: it costs little
_SAMPLE = 32  # else in every 32nd block


class Schedule(NamedTuple):
    """When to factorize, and where the windows of the sums end (static).

    Attributes
    ----------
    ends
        The last step (counted from 1) of the burn-in and of each window, ascending.
    every
        Steps between two factorizations; None to follow the spread.
    sample
        The determinant is taken in every `sample`-th block.
    """

    ends: tuple[int, ...]
    every: int | None
    sample: int


class Passage(NamedTuple):
    """What one pass over the chain accumulates."""

    rows: Float[Array, "k n"]  # the frame transposed: the memory order of LAPACK, no copies
    logs: Float[Array, "windows k"]
    offset: Float[Array, " k"]  # ln diag of the frame's own R at the last window's end
    losses: Float[Array, " k"]  # Σ over blocks of (largest entry in the row of pivot i)/pivot i
    avoidable: Float[Array, " k"]  # the same over blocks of more than one step
    worst: Float[Array, ""]  # the largest loss per step over the longer blocks of a group
    spread: Float[Array, ""]  # the widest ln(max pivot/min pivot) per step seen lately
    relief: Float[Array, ""]  # how far ln(largest loss) stays below the spread of its block
    since: Int[Array, ""]  # steps since the last factorization
    interval: Int[Array, ""]
    factorizations: Int[Array, ""]
    window: Int[Array, ""]
    step: Int[Array, ""]
    rank_cap: Int[Array, ""]
    block_det: Float[Array, ""]  # Σ ln|det J| over the block at hand, where sampled
    det_gap: Float[Array, ""]  # Σ over sampled blocks of ln|det R| - Σ ln|det J|
    det_steps: Int[Array, ""]
    first_bad_step: Int[Array, ""]
    confined: Int[Array, ""]  # steps after which the frame lay in a coordinate subspace


def schedule(
    length: int, size: int, *, burn_in: int, every: int | None, windows: int | None
) -> Schedule:
    """Cut the steps after the burn-in into windows, whole multiples of a fixed interval."""
    steps = length - burn_in
    group = every or 1
    groups = max(steps // group, 1)
    count = min(32, max(steps // 32, 4)) if windows is None else windows
    count = max(1, min(count, groups))
    inner = [burn_in + group * (groups * (i + 1) // count) for i in range(count - 1)]
    full = every is not None or size < _SMALL
    return Schedule((burn_in, *inner, length), every, 1 if full else _SAMPLE)


def follow(chain: JacobianChain, frame: Float[Array, "n k"], plan: Schedule) -> Passage:
    """Push a frame through the whole chain."""
    n, k = frame.shape
    ends = jnp.asarray(np.asarray(plan.ends), jnp.int32)
    full, room = k == n, _ROOM[jnp.finfo(frame.dtype).bits]

    def inner(now: Passage, link: Any, last: Any, *, careful: bool = plan.every == 1) -> Passage:
        again = functools.partial(_again, link, now.rows.T) if careful else None
        now, size, least = _push(now, link, full=full, sample=plan.sample)
        ending = now.step == ends[now.window]
        due = ending | careful | (now.since >= now.interval)
        if plan.every is None:
            due = due | last | (size > room) | (least < 1 / room)

        def factorized(now: Passage) -> Passage:
            now = _factorize(now, again, plan)
            return lax.cond(ending, _close_window, lambda p: p, now)

        return lax.cond(due, factorized, lambda p: p, now)

    def group(now: Passage, walk: Any) -> Passage:
        return walk(inner, now)

    def careful_group(now: Passage, walk: Any) -> Passage:
        now = now._replace(worst=jnp.zeros_like(now.worst))
        first = walk(inner, now)
        lost = first.worst > _SLACK * _tolerable(n, frame.dtype)
        at_every_step = functools.partial(inner, careful=True)
        return lax.cond(lost, lambda: walk(at_every_step, now), lambda: first)

    return sweep_groups(chain, group if plan.every else careful_group, _start(frame, plan), _GROUP)


def _start(frame: Float[Array, "n k"], plan: Schedule) -> Passage:
    """Give the passage before the first step."""
    (n, k), dtype = frame.shape, frame.dtype
    zero, count = jnp.zeros((), dtype), jnp.asarray(0, jnp.int32)
    return Passage(
        rows=frame.T,
        logs=jnp.zeros((len(plan.ends), k), dtype),
        offset=jnp.zeros(k, dtype),
        losses=jnp.zeros(k, dtype),
        avoidable=jnp.zeros(k, dtype),
        worst=zero,
        spread=zero,
        relief=zero,
        since=count,
        interval=count + (plan.every or 1),
        factorizations=count,
        window=jnp.asarray(1 if plan.ends[0] == 0 else 0, jnp.int32),
        step=count,
        rank_cap=count + n,
        block_det=zero,
        det_gap=zero,
        det_steps=count,
        first_bad_step=count - 1,
        confined=count,
    )


def _push(now: Passage, link: Any, *, full: bool, sample: int) -> tuple[Passage, Array, Array]:
    """Push the frame through one step; give its largest entry, and that of its smallest row.

    Rank and determinant come along where they are cheap: zero rows of J are zero rows of a frame
    that was just factorized (later ones may have underflowed), zero columns show in the matrix
    only.
    """
    n, step = now.rows.shape[1], now.step + 1
    rows = link.push(now.rows.T).T
    sizes = jnp.max(jnp.abs(lax.stop_gradient(rows)), axis=0)  # NaN stays NaN
    size = jnp.max(sizes)
    bad = (now.first_bad_step < 0) & ~jnp.isfinite(size)
    least = jnp.min(jnp.where(sizes > 0, sizes, size))
    rank = jnp.where(now.since == 0, jnp.sum(sizes != 0), n).astype(jnp.int32)
    now = now._replace(
        rows=rows,
        since=now.since + 1,
        step=step,
        rank_cap=jnp.minimum(now.rank_cap, rank),
        first_bad_step=jnp.where(bad, step, now.first_bad_step),
        confined=now.confined + jnp.any(sizes == 0).astype(jnp.int32),
    )
    if not full:
        return now, size, least

    def look(now: Passage) -> Passage:
        matrix = lax.stop_gradient(link.matrix())
        log_det = jnp.linalg.slogdet(matrix)[1] if n > 1 else jnp.log(jnp.abs(matrix[0, 0]))
        return now._replace(
            block_det=now.block_det + log_det,
            rank_cap=jnp.minimum(now.rank_cap, _live_columns(matrix)),
        )

    if sample == 1:
        return look(now), size, least
    now = lax.cond(now.factorizations % sample == 0, look, lambda p: p, now)
    return now, size, least


def _factorize(now: Passage, again: Any, plan: Schedule) -> Passage:
    """Factorize the frame, add the growth to its window, choose the next interval.

    Where one step alone lost visible digits, it is taken `again` with care, or, if that is None,
    the whole group has to be.
    """
    k, n = now.rows.shape
    # a zero pivot is an exact zero after one step, after more it may be an underflow
    zero = jnp.where(now.since > 1, jnp.inf, 1).astype(now.rows.dtype)
    plain, most = _graded.factorize(now.rows.T, zero)
    step, rank_cap, worst = plain, now.rank_cap, now.worst
    lost = _is_lost(now, plain, most)
    if again is None:
        worst = jnp.where(lost, jnp.inf, worst)
    else:
        step, columns = lax.cond(lost, again, lambda: (plain, n + jnp.zeros_like(rank_cap)))
        rank_cap = jnp.minimum(rank_cap, columns)
    spread, relief = _outlook(now, plain)
    avoidable = jnp.where(now.since > 1, plain.loss, 0)
    since = now.since.astype(avoidable.dtype)
    gap = jnp.sum(lax.stop_gradient(step.logs)) - now.block_det
    sampled = (now.factorizations % plan.sample == 0) & jnp.isfinite(gap) & (k == n)
    return now._replace(
        rows=step.frame.T,
        logs=now.logs.at[now.window].add(step.logs),
        losses=now.losses + step.loss,
        avoidable=now.avoidable + avoidable,
        worst=jnp.maximum(worst, jnp.max(avoidable) / since),
        spread=spread,
        relief=relief,
        interval=now.interval if plan.every else _interval(spread, relief, n),
        since=jnp.zeros_like(now.since),
        factorizations=now.factorizations + 1,
        rank_cap=rank_cap,
        block_det=jnp.zeros_like(now.block_det),
        det_gap=now.det_gap + jnp.where(sampled, gap, 0),
        det_steps=now.det_steps + jnp.where(sampled, now.since, 0),
    )


def _is_lost(now: Passage, plain: Growth, most: Any) -> Bool[Array, ""]:
    """Say whether a block of one step lost visible digits, or has a zero pivot too many."""
    k, n = now.rows.shape
    dtype = now.rows.dtype
    expected = jnp.maximum(k - now.rank_cap, 0)
    zeros = jnp.sum(jnp.isneginf(plain.logs)).astype(jnp.int32)
    visible = _VISIBLE[jnp.finfo(dtype).bits] / unit_loss(n, dtype)
    alone = now.since == 1
    doubtful = alone & (jnp.max(plain.loss) > _DOUBTFUL * visible)
    bound = lax.cond(doubtful, most, lambda: jnp.zeros((), dtype))
    return alone & ((bound > visible) | (zeros > expected))


def _again(link: Any, frame: Float[Array, "n k"]) -> tuple[Growth, Int[Array, ""]]:
    """Push a frame with care, and count the columns of J that are not zero."""
    matrix = link.matrix()
    return _graded.push(matrix, frame), _live_columns(matrix)


def _live_columns(matrix: Float[Array, "n n"]) -> Int[Array, ""]:
    """Count the columns that are not zero: the rank is at most that."""
    return jnp.sum(jnp.any(lax.stop_gradient(matrix) != 0, axis=0)).astype(jnp.int32)


def _outlook(now: Passage, plain: Growth) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Give the spread per step and the relief to reckon with, from those of a block and before."""
    held, dead = lax.stop_gradient(plain.logs), jnp.isneginf(plain.logs)
    spread = jnp.max(held) - jnp.min(jnp.where(dead, jnp.inf, held))
    relief = spread - jnp.log(jnp.max(jnp.where(dead, 1, plain.loss)))
    spread = jnp.where(jnp.isfinite(spread), spread, 0) / now.since.astype(held.dtype)
    relief = jnp.where(jnp.isfinite(relief), relief, 0)
    return (
        jnp.maximum(spread, _FORGET * now.spread + (1 - _FORGET) * spread),
        jnp.minimum(relief, _FORGET * now.relief + (1 - _FORGET) * relief),
    )


def _interval(spread: Float[Array, ""], relief: Float[Array, ""], n: int) -> Int[Array, ""]:
    """Give the largest m with a tolerable loss per step, e^(spread m - relief)/m."""
    m = jnp.arange(1, 2 * _GROUP, dtype=spread.dtype)
    room = (math.log(_tolerable(n, spread.dtype)) + jnp.log(m) + relief) / m
    return jnp.maximum(jnp.sum(spread <= room), 1).astype(jnp.int32)


def _tolerable(n: int, dtype: Any) -> float:
    """Give the largest loss per step, in units of rounding, that costs no visible digit.

    Small frames cost so little to factorize that they may be kept exact to the last digits.
    """
    form = jnp.finfo(dtype)
    allowed = (1e-9 if n >= _SMALL else 1e-13) if form.bits == 64 else 1e-4
    return max(allowed / unit_loss(n, dtype), 2.0)


def unit_loss(n: int, dtype: Any) -> float:
    """Give the loss in nats that one unit of `Passage.losses` stands for: 4 eps √n."""
    return 4 * float(jnp.finfo(dtype).eps) * n**0.5


def _close_window(now: Passage) -> Passage:
    """Turn the sums of ln|pivots| into those of ln diag R at the end of a window."""
    upper = jnp.linalg.qr(now.rows.T, mode="r")
    offset = jnp.log(jnp.abs(jnp.diagonal(upper)))
    return now._replace(
        logs=now.logs.at[now.window].add(offset - now.offset),
        offset=offset,
        window=now.window + 1,
    )


def is_confined(passage: Passage) -> Bool[Array, ""]:
    """Say whether the frame mostly lay in a coordinate subspace, and may miss a direction."""
    return 2 * passage.confined > passage.step


def first_frame(chain: JacobianChain, k: int) -> Float[Array, "n k"]:
    """Give the first k axes that J_1 does not map to zero: the others have no growth to tell."""
    matrix = chain.link(jax.tree.map(lambda a: a[0], chain.items)).matrix()
    dead = jnp.all(lax.stop_gradient(matrix) == 0, axis=0)
    order = jnp.argsort(dead, stable=True)[:k]
    return jnp.eye(chain.size, dtype=chain.dtype)[:, order]


def haar_frame(n: int, k: int, dtype: Any) -> Float[Array, "n k"]:
    """Draw k orthonormal columns, the same at every call."""
    return positive_qr(jax.random.normal(jax.random.key(0), (n, k), dtype))[0]
