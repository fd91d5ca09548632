"""All singular values of the long product Φ(T, T-k), each with an error bar.

They are computed on the transposed chain from its end, Φ(T, T-k)ᵀ = J_{T-k+1}ᵀ … J_Tᵀ, so that
one pass over the longest lag gives all shorter ones.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import require_integer, require_positive, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon.chain._given import unscaled
from gradhorizon.chain._outcome import earliest, settle
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.products import _factors, _pairs, _probes, _segments, _stratified


@record
class SingularSpectrum:
    """Logarithms of the singular values of Φ(T, T-k), in nats.

    Attributes
    ----------
    log_values
        ln σ_i, descending, shape (n,), or (lags, n) if `lags` was given; exactly -inf beyond the
        structural rank, NaN where unresolved.
    error_bars
        A bound of the error of each value, same shape; infinite where unresolved.
    resolved
        Whether the value is known, same shape.
    rank_cap
        The structural rank, shape () or (lags,): values beyond it are exactly zero.
    lags
        The lags k, shape () or (lags,).
    sweeps
        Jacobi sweeps of the final factorization, same shape as `lags`.
    status
        `Status.OK`, `EMPTY`, `NONFINITE`, `UNRESOLVED` or `RANK_DEFICIENT`.
    first_bad_step
        The first t with a non-finite state or Jacobian, -1 if there is none.
    """

    log_values: Float[Array, "*lags n"]
    error_bars: Float[Array, "*lags n"]
    resolved: Bool[Array, "*lags n"]
    rank_cap: Int[Array, "*lags"]
    lags: Int[Array, "*lags"]
    sweeps: Int[Array, "*lags"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]

    def alive(self, threshold: float) -> Int[Array, "*lags"]:
        """Count the directions with σ_i ≥ threshold, for each lag.

        Values are sorted, so an unresolved one counts when a resolved one after it is large
        enough: the count is a lower bound, and exact when all are resolved.
        """
        require_positive("threshold", threshold)
        n = self.log_values.shape[-1]
        large = self.resolved & (self.log_values >= math.log(threshold))
        rank = jnp.arange(1, n + 1, dtype=jnp.int32)
        rank = jnp.broadcast_to(rank, large.shape)
        return jnp.max(jnp.where(large, rank, 0), axis=-1)

    def pairs(self) -> _pairs.Pairs:
        """Give ln σ_i of a complex state once each, with error bars: n/2 of the n real values.

        A complex number counts as two real ones, and a holomorphic step (an LRU, any complex
        diagonal) gives every singular value twice.

        Raises
        ------
        ValueError
            If neighbors differ by more than their error bars: the step is not holomorphic, or the
            state not complex. Inside `jit` such pairs are NaN.
        """
        return _pairs.each_once(self.log_values, self.error_bars, self.resolved)


def singular_spectrum(
    chain: Any,
    *,
    lags: Sequence[int] | None = None,
    segments: int | None = None,
    throw: bool = True,
) -> SingularSpectrum:
    """Compute all ln σ_i(Φ(T, T-k)), however long the chain and wide the range.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n), or a list of factors J_t of shape
        (n_t, n_{t-1}), the layers of a network whose width changes: then as many values as the
        longest row has, min(n_T, n_{T-k}).
    lags
        The lags k, integers in 0 … T; one row of the result each, in the order given. None
        means the whole chain, k = T, without the leading axis.
    segments
        Cut the chain into this many segments, multiply within all of them at once, and join
        them pairwise: depth T/segments + log₂(segments) instead of T, for accelerators. On CPU
        it only costs more. Not together with `lags`. None means one after the other.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    SingularSpectrum
        Values, error bars, and which of them are resolved.

    Raises
    ------
    TypeError
        If a lag is not an integer.
    ValueError
        If a lag lies outside 0 … T, or there is none; if `segments` lies outside 1 … T, or comes
        together with `lags`; if factors do not fit one behind the other.
    MemoryError
        If matrices of n × n would pass 2 GiB each.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Method: graded factorization by LU with exact power-of-two scales, column sorting and
    refresh, and one-sided Jacobi at the end. The error bars come from two copies of the chain,
    perturbed at 256 times the rounding of the dtype it was stored in; a rank between two
    unresolved ones is unresolved too, since lost values shift their neighbors. Cost per step:
    one LU and two products of n × n, for each copy one product and an LU every few steps; about
    twice a scan that only does QR. Memory O(n²) beyond the chain. Not differentiable in reverse
    mode: differentiate the exponents of `lyapunov_spectrum`.

    References
    ----------
    Demmel, Gu, Eisenstat, Slapničar, Veselić & Drmač, Linear Algebra Appl. 299 (1999).

    Examples
    --------
    Singular values of 2^±2000, far outside the range of floats:

    >>> import gradhorizon as gh
    >>> J = jnp.broadcast_to(jnp.diag(jnp.array([2.0, 0.5])), (2000, 2, 2))
    >>> spectrum = gh.singular_spectrum(J, lags=[1, 2000])
    >>> jnp.rint(spectrum.log_values / jnp.log(2.0)).tolist()
    [[1.0, -1.0], [2000.0, -2000.0]]
    """
    factors = _factors.embed(chain, throw=throw) if _factors.is_ragged(chain) else None
    chain = as_chain(chain if factors is None else factors.stack, throw=throw)
    wanted = (chain.length,) if lags is None else _checked(lags, chain.length)
    if segments is not None:
        if lags is not None:
            text = worded("segments", "come without `lags`", segments, "Drop one of them.")
            raise ValueError(text)
        segments = require_integer("segments", segments, 1, max(chain.length, 1))
    single = lags is None
    ranks = tuple(chain.size if factors is None else factors.rank_at(k) for k in wanted)
    settings = {"lags": wanted, "ranks": ranks, "single": single, "segments": segments}
    return settle(_spectrum(chain, **settings), throw=throw)


def _checked(lags: Any, length: int) -> tuple[int, ...]:
    """Give the lags as a tuple of integers inside 0 … T."""
    if not hasattr(lags, "__len__"):
        raise TypeError(worded("lags", "be a sequence of integers", repr(lags)))
    if isinstance(lags, (str, bytes)) or np.ndim(lags) != 1:
        raise TypeError(worded("lags", "be a sequence of integers", repr(lags)))
    if len(lags) == 0:
        raise ValueError(worded("lags", "name at least one lag", "none"))
    return tuple(require_integer(f"lags[{i}]", k, 0, length) for i, k in enumerate(lags))


@compiled(static=("lags", "ranks", "single", "segments"))
def _spectrum(
    chain: JacobianChain,
    *,
    lags: tuple[int, ...],
    ranks: tuple[int, ...],
    single: bool,
    segments: int | None,
) -> SingularSpectrum:
    """Compute the values at each lag; `ranks` says how many there are, n for square matrices."""
    dtype = chain.dtype
    stops = tuple(sorted(set(lags)))
    if segments is None or chain.length == 0:
        passage = _stratified.follow(chain, stops)
    else:
        passage = _segments.follow(chain, segments)
    result, bad_step = passage.result, passage.first_bad_step
    eps = float(jnp.finfo(chain.storage_dtype).eps)
    values, bars, resolved = _probes.resolve(result.logs, result.caps, eps)
    values = unscaled(values, np.asarray(stops)[:, None], chain.shift)
    rows = jnp.asarray([stops.index(k) for k in lags], jnp.int32)
    pick = rows[0] if single else rows
    values, bars, resolved = (a[:, : max(ranks)] for a in (values, bars, resolved))
    most = jnp.asarray([ranks[lags.index(k)] for k in stops], jnp.int32)
    everything = (values, bars, resolved, jnp.minimum(result.caps, most), result.sweeps)
    values, bars, resolved, caps, sweeps = (a[pick] for a in everything)
    _, index = status_of(finite_steps(chain), Status.OK)
    first = earliest(bad_step, jnp.where(index < 0, -1, index + 1))
    good = first < 0
    nan = jnp.where(good, 0.0, jnp.nan).astype(dtype)
    return SingularSpectrum(
        log_values=values + nan,
        error_bars=bars + nan,
        resolved=resolved & good,
        rank_cap=caps,
        lags=jnp.asarray(lags[0] if single else lags, jnp.int32),
        sweeps=sweeps,
        status=_status(resolved, caps == most[pick], good, chain.length),
        first_bad_step=first,
    )


def _status(resolved: Array, full: Array, good: Array, length: int) -> Int[Array, ""]:
    """Give the one status that says most."""
    if length == 0:
        return jnp.asarray(int(Status.EMPTY), jnp.int32)
    full = jnp.where(jnp.all(full), int(Status.OK), int(Status.RANK_DEFICIENT))
    known = jnp.where(jnp.all(resolved), full, int(Status.UNRESOLVED))
    return jnp.where(good, known, int(Status.NONFINITE)).astype(jnp.int32)
