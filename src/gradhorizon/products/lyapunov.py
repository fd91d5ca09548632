"""Lyapunov exponents by QR (Benettin et al. 1980): Q_t R_t = J_t Q_{t-1}, λ_i = mean ln R_ii.

Sums of ln R_ii over a finite time are growth rates of volumes spanned by a moving frame. They
are not the logarithms of the singular values of Φ(T, 0); `singular_spectrum` gives those.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import require_integer, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon.chain._outcome import settle
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.products._qr import positive_qr

_BLOCKS = 32  # blocks whose scatter gives the standard errors


@record
class LyapunovSpectrum:
    """The k leading Lyapunov exponents of a chain, in nats per step.

    Attributes
    ----------
    exponents
        λ_1 ≥ … ≥ λ_k, shape (k,); -inf beyond the structural rank of the chain.
    standard_errors
        Their standard errors from the scatter of up to 32 blocks in time, shape (k,); infinite
        with fewer than two blocks. They do not contain the O(1/T) alignment of the frame.
    rounding_errors
        Estimated loss by rounding between two orthonormalizations, shape (k,); meaningful
        where below 0.1, pessimistic when every step is orthonormalized.
    history
        Running means after each block, shape (blocks, k), last row = `exponents`.
    det_residual
        |Σ λ_i - mean ln |det J_t||, nats per step; only for k = n, else NaN. A second
        route to the sum: it sees lost digits, not a redistribution between exponents.
    converged
        Whether the digits are safe and both halves of the run agree.
    rank_cap
        The structural rank: at most this many exponents can be finite.
    status
        `Status.OK`, `EMPTY`, `NONFINITE`, `NOT_CONVERGED` or `RANK_DEFICIENT`.
    first_bad_step
        The first t with a non-finite state or Jacobian, -1 if there is none.
    """

    exponents: Float[Array, "*batch k"]
    standard_errors: Float[Array, "*batch k"]
    rounding_errors: Float[Array, "*batch k"]
    history: Float[Array, "*batch blocks k"]
    det_residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    rank_cap: Int[Array, "*batch"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]


class _Sums(NamedTuple):
    """What one pass over the chain accumulates."""

    frame: Float[Array, "n k"]
    logs: Float[Array, "blocks k"]
    losses: Float[Array, " k"]
    log_det: Float[Array, ""]
    rank_cap: Int[Array, ""]
    step: Int[Array, ""]
    first_bad_step: Int[Array, ""]


def lyapunov_spectrum(
    chain: Any,
    k: int | None = None,
    *,
    burn_in: int = 0,
    orthonormalize_every: int | str = "auto",
    throw: bool = True,
) -> LyapunovSpectrum:
    """Estimate the k leading Lyapunov exponents by QR along the chain.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    k
        How many exponents, 1 ≤ k ≤ n; all n if None.
    burn_in
        Steps that only align the frame and are not averaged. The burn-in of the *state* is the
        caller's: start the chain later.
    orthonormalize_every
        Steps between two QR factorizations; "auto" takes every step, which is safe for any
        chain. A longer interval saves time and loses the lower exponents once the condition
        number of the product over it passes 1/eps: then `converged` is False.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    LyapunovSpectrum
        Exponents with standard errors, history and self-checks.

    Raises
    ------
    ValueError
        If `k` is not in 1 … n, `burn_in` not in 0 … T - 1, or the interval not positive.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Cost per step: k tangents through the step and one QR of n × k; for k = n also one LU, for
    `det_residual`. Memory O(n k) beyond the chain. The frame starts as the first k columns of
    the identity; if it never leaves a coordinate subspace and k < n, the pass is repeated from
    a Haar-random frame, since the leading direction may lie outside.

    References
    ----------
    Benettin, Galgani, Giorgilli & Strelcyn, Meccanica 15 (1980); Geist, Parlitz & Lauterborn,
    Prog. Theor. Phys. 83 (1990), variant H2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cat = jnp.broadcast_to(jnp.array([[2.0, 1.0], [1.0, 1.0]]), (2000, 2, 2))
    >>> gh.lyapunov_spectrum(cat, burn_in=50).exponents.round(6).tolist()
    [0.962424, -0.962424]
    """
    chain = as_chain(chain, throw=throw)
    k = require_integer("k", chain.size if k is None else k, 1, chain.size)
    burn_in = require_integer("burn_in", burn_in, 0, max(chain.length - 1, 0))
    if isinstance(orthonormalize_every, str):
        if orthonormalize_every != "auto":
            wanted = "be a number of steps or 'auto'"
            raise ValueError(worded("orthonormalize_every", wanted, repr(orthonormalize_every)))
        every = 1
    else:
        every = require_integer("orthonormalize_every", orthonormalize_every, 1)
    every = min(every, max(chain.length - burn_in, 1))
    return settle(_lyapunov(chain, k=k, burn_in=burn_in, every=every), throw=throw)


@compiled(static=("k", "burn_in", "every"))
def _lyapunov(chain: JacobianChain, *, k: int, burn_in: int, every: int) -> LyapunovSpectrum:
    if chain.length == 0:
        return _empty(chain, k)
    identity = jnp.eye(chain.size, k, dtype=chain.dtype)
    sums = _pass(chain, identity, burn_in, every)
    if k < chain.size:
        confined = jnp.any(jnp.all(sums.frame == 0, axis=1))
        key = jax.random.key(0)
        haar = jax.random.orthogonal(key, chain.size, dtype=chain.dtype)[:, :k]
        sums = lax.cond(confined, lambda: _pass(chain, haar, burn_in, every), lambda: sums)
    return _summarize(chain, sums, burn_in, every)


def _pass(chain: JacobianChain, frame: Array, burn_in: int, every: int) -> _Sums:
    """Push a frame through the whole chain."""
    n, k = frame.shape
    steps = chain.length - burn_in
    groups, rest = divmod(steps, every)
    blocks = min(_BLOCKS, groups)
    count = jnp.asarray(0, jnp.int32)
    sums = _Sums(
        frame=frame,
        logs=jnp.zeros((blocks, k), chain.dtype),
        losses=jnp.zeros(k, chain.dtype),
        log_det=jnp.zeros((), chain.dtype),
        rank_cap=jnp.asarray(n, jnp.int32),
        step=jnp.asarray(0, jnp.int32),
        first_bad_step=jnp.asarray(-1, jnp.int32),
    )

    def align(sums: _Sums, item: Any) -> tuple[_Sums, None]:
        sums = _advance(chain, sums, item)
        return sums._replace(frame=positive_qr(sums.frame)[0]), None

    def group(carry: tuple[_Sums, Array], items: Any) -> tuple[tuple[_Sums, Array], None]:
        sums, index = carry
        sums, _ = lax.scan(lambda s, item: (_advance(chain, s, item), None), sums, items)
        return (_orthonormalize(sums, index * blocks // groups), index + 1), None

    def cut(start: int, stop: int) -> Any:
        return jax.tree.map(lambda a: a[start:stop], chain.items)

    sums, _ = lax.scan(align, sums, cut(0, burn_in))
    sums = sums._replace(log_det=jnp.zeros_like(sums.log_det))
    grouped = jax.tree.map(
        lambda a: a.reshape(groups, every, *a.shape[1:]), cut(burn_in, burn_in + groups * every)
    )
    (sums, count), _ = lax.scan(group, (sums, count), grouped)
    if rest:
        (sums, count), _ = group((sums, count - 1), cut(chain.length - rest, chain.length))
    return sums


def _advance(chain: JacobianChain, sums: _Sums, item: Any) -> _Sums:
    """Push the frame through one step; with a full frame also take rank and determinant."""
    link = chain.link(item)
    n, k = sums.frame.shape
    if k < n:
        frame, log_det = link.push(sums.frame), sums.log_det
        rank = jnp.sum(jnp.any(frame != 0, axis=1))
    else:
        matrix = link.matrix()
        frame = matrix @ sums.frame
        log_det = sums.log_det + jnp.linalg.slogdet(lax.stop_gradient(matrix))[1]
        rows, columns = jnp.any(matrix != 0, axis=1), jnp.any(matrix != 0, axis=0)
        rank = jnp.minimum(jnp.sum(rows), jnp.sum(columns))
    step = sums.step + 1
    fresh = (sums.first_bad_step < 0) & ~jnp.all(jnp.isfinite(frame))
    return sums._replace(
        frame=frame,
        log_det=log_det,
        rank_cap=jnp.minimum(sums.rank_cap, rank.astype(jnp.int32)),
        step=step,
        first_bad_step=jnp.where(fresh, step, sums.first_bad_step),
    )


def _orthonormalize(sums: _Sums, block: Int[Array, ""]) -> _Sums:
    """Factorize the frame and add ln diag R to its block."""
    frame, upper = positive_qr(sums.frame)
    growth = jnp.diagonal(upper)
    loss = jnp.max(growth) / jnp.where(growth > 0, growth, 1)
    return sums._replace(
        frame=frame,
        logs=sums.logs.at[block].add(jnp.log(growth)),
        losses=sums.losses + lax.stop_gradient(loss),
    )


def _summarize(chain: JacobianChain, sums: _Sums, burn_in: int, every: int) -> LyapunovSpectrum:
    n, k = sums.frame.shape
    steps = chain.length - burn_in
    blocks, dtype = sums.logs.shape[0], chain.dtype
    lengths = _block_lengths(steps, every, blocks)
    beyond = jnp.arange(k, dtype=jnp.int32) >= sums.rank_cap
    logs = jnp.where(beyond[None], -jnp.inf, sums.logs)
    exponents = jnp.sum(logs, axis=0) / steps
    order = jnp.argsort(-exponents)
    rates = logs[:, order] / jnp.asarray(lengths, dtype)[:, None]
    history = jnp.cumsum(logs[:, order], axis=0) / jnp.asarray(np.cumsum(lengths), dtype)[:, None]
    exponents = exponents[order]
    errors = _standard_errors(rates, exponents)
    groups = max(steps // every, 1)
    eps = float(jnp.finfo(dtype).eps)
    loss = 4 * eps * math.sqrt(n) * sums.losses[order] / groups / every
    loss = jnp.where(jnp.isneginf(exponents), 0, loss)
    residual = jnp.asarray(jnp.nan, dtype)
    if k == n:
        residual = jnp.abs(jnp.sum(exponents) - sums.log_det / steps)
        residual = jnp.where(sums.rank_cap < n, 0, residual)
    settled = _settled(rates, errors, steps) & _safe(residual, loss, every, eps)
    _, index = status_of(finite_steps(chain), Status.OK)
    first = jnp.where(index < 0, sums.first_bad_step, index + 1)
    good = first < 0
    deficient = jnp.where(sums.rank_cap < k, int(Status.RANK_DEFICIENT), int(Status.OK))
    status = jnp.where(settled, deficient, int(Status.NOT_CONVERGED))
    status = jnp.where(good, status, int(Status.NONFINITE))
    nan = jnp.where(good, 0.0, jnp.nan).astype(dtype)
    return LyapunovSpectrum(
        exponents=exponents + nan,
        standard_errors=errors + nan,
        rounding_errors=loss + nan,
        history=history + nan,
        det_residual=residual + nan,
        converged=settled & good,
        rank_cap=sums.rank_cap,
        status=status.astype(jnp.int32),
        first_bad_step=first,
    )


def _block_lengths(steps: int, every: int, blocks: int) -> np.ndarray:
    """Count the steps in each block; the last one also holds the remainder."""
    groups, rest = divmod(steps, every)
    lengths = np.bincount(np.arange(groups) * blocks // groups, minlength=blocks) * every
    lengths[-1] += rest
    return lengths.astype(float)


def _standard_errors(rates: Float[Array, "blocks k"], mean: Float[Array, " k"]) -> Array:
    """Give the standard error of the mean over blocks; 0 for exponents of -inf."""
    blocks, k = rates.shape
    if blocks < 2:
        return jnp.full(k, jnp.inf, rates.dtype)
    error = jnp.std(jnp.where(jnp.isneginf(mean), 0, rates), axis=0, ddof=1) / math.sqrt(blocks)
    return jnp.where(jnp.isneginf(mean), 0, error).astype(rates.dtype)


def _settled(rates: Float[Array, "blocks k"], errors: Float[Array, " k"], steps: int) -> Array:
    """Say whether both halves agree within 10 standard errors and the frame's alignment."""
    blocks = rates.shape[0]
    if blocks < 4:
        return jnp.asarray(False)
    early, late = jnp.mean(rates[: blocks // 2], 0), jnp.mean(rates[blocks // 2 :], 0)
    gap = jnp.where(jnp.isfinite(early) & jnp.isfinite(late), jnp.abs(early - late), 0)
    return jnp.all(gap <= 10 * errors + 20 / steps)


def _safe(residual: Array, loss: Array, every: int, eps: float) -> Bool[Array, ""]:
    """Say whether rounding between two factorizations left the digits alone."""
    tolerance = 1e-6 if eps < 1e-10 else 1e-3
    by_det = jnp.isnan(residual) | (residual <= tolerance * loss.shape[0])
    by_loss = jnp.asarray(True) if every == 1 else jnp.all(loss <= tolerance)
    return by_det & by_loss


def _empty(chain: JacobianChain, k: int) -> LyapunovSpectrum:
    """Give the record of a chain without steps: no exponents, and a status that says so."""
    nan = jnp.full(k, jnp.nan, chain.dtype)
    return LyapunovSpectrum(
        exponents=nan,
        standard_errors=nan,
        rounding_errors=nan,
        history=jnp.zeros((0, k), chain.dtype),
        det_residual=nan[0],
        converged=jnp.asarray(False),
        rank_cap=jnp.asarray(chain.size, jnp.int32),
        status=jnp.asarray(int(Status.EMPTY), jnp.int32),
        first_bad_step=jnp.asarray(-1, jnp.int32),
    )
