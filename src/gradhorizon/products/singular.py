"""All singular values of the long product Φ(T, T-k), each with an error bar.

They are computed on the transposed chain from its end, Φ(T, T-k)ᵀ = J_{T-k+1}ᵀ … J_Tᵀ, so that
one pass over the longest lag gives all shorter ones.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import require_integer, require_positive, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon._scaled import log_scaled
from gradhorizon.chain._outcome import settle
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.products import _jacobi, _rank, _udt

_PROBES = (16.0, 16.0, 16.0, 16.0, 256.0, 256.0)  # sizes of the perturbations, in eps ‖J‖_F/n
_UNRESOLVED = 0.1  # nats; a wider bar means that no digit is known


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


class _Carry(NamedTuple):
    """The product and its perturbed copies, stacked; the rank bound; the first bad step."""

    products: _udt.Udt
    rank: _rank.RankCap
    first_bad_step: Int[Array, ""]


def singular_spectrum(
    chain: Any, *, lags: Sequence[int] | None = None, throw: bool = True
) -> SingularSpectrum:
    """Compute all ln σ_i(Φ(T, T-k)), however long the chain and wide the range.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    lags
        The lags k, integers in 0 … T; one row of the result each, in the order given. None
        means the whole chain, k = T, without the leading axis.
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
        If a lag lies outside 0 … T, or there is none.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Method: graded QR with exact power-of-two scales, refreshed every ten steps, and one-sided
    Jacobi at the end. The error bars come from six copies of the chain, perturbed at the
    rounding level of the dtype it was stored in; a rank between two unresolved ones is
    unresolved too, since lost values shift their neighbors. Cost per step: seven QR and
    fourteen matrix products of n × n; memory O(n²) beyond the chain. Not differentiable in
    reverse mode: differentiate the exponents of `lyapunov_spectrum`.

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
    chain = as_chain(chain, throw=throw)
    wanted = (chain.length,) if lags is None else _checked(lags, chain.length)
    return settle(_spectrum(chain, lags=wanted, single=lags is None), throw=throw)


def _checked(lags: Any, length: int) -> tuple[int, ...]:
    """Give the lags as a tuple of integers inside 0 … T."""
    if not hasattr(lags, "__len__"):
        raise TypeError(worded("lags", "be a sequence of integers", repr(lags)))
    if len(lags) == 0:
        raise ValueError(worded("lags", "name at least one lag", "none"))
    return tuple(require_integer(f"lags[{i}]", k, 0, length) for i, k in enumerate(lags))


@compiled(static=("lags", "single"))
def _spectrum(chain: JacobianChain, *, lags: tuple[int, ...], single: bool) -> SingularSpectrum:
    n, dtype, copies = chain.size, chain.dtype, 1 + len(_PROBES)
    stops = sorted(set(lags))
    one = _udt.start(n, dtype)
    carry = _Carry(
        products=jax.tree.map(lambda a: jnp.broadcast_to(a, (copies, *a.shape)), one),
        rank=_rank.start(n, dtype),
        first_bad_step=jnp.asarray(-1, jnp.int32),
    )

    def advance(carry: _Carry, span: Any) -> Any:
        first, last = span
        if chain.length:
            carry = lax.fori_loop(first, last, lambda s, c: _step(chain, c, s), carry)
        return carry, (*_finish(carry.products), carry.rank.cap)

    stop = jnp.asarray(stops, jnp.int32)
    begin = jnp.asarray([0, *stops[:-1]], jnp.int32)
    carry, (logs, sweeps, caps) = lax.scan(advance, carry, (begin, stop))
    values, bars, resolved = _resolve(logs, caps, chain)
    rows = jnp.asarray([stops.index(k) for k in lags], jnp.int32)
    pick = rows[0] if single else rows
    values, bars, resolved, caps, sweeps = (a[pick] for a in (values, bars, resolved, caps, sweeps))
    _, index = status_of(finite_steps(chain), Status.OK)
    first = _earliest(carry.first_bad_step, jnp.where(index < 0, -1, index + 1))
    good = first < 0
    nan = jnp.where(good, 0.0, jnp.nan).astype(dtype)
    return SingularSpectrum(
        log_values=values + nan,
        error_bars=bars + nan,
        resolved=resolved & good,
        rank_cap=caps,
        lags=jnp.asarray(lags[0] if single else lags, jnp.int32),
        sweeps=sweeps,
        status=_status(resolved, caps, n, good, chain.length),
        first_bad_step=first,
    )


def _earliest(one: Int[Array, ""], other: Int[Array, ""]) -> Int[Array, ""]:
    """Give the smaller of two step numbers, of which -1 means none."""
    both = (one >= 0) & (other >= 0)
    return jnp.where(both, jnp.minimum(one, other), jnp.maximum(one, other))


def _status(resolved: Array, caps: Array, n: int, good: Array, length: int) -> Int[Array, ""]:
    """Give the one status that says most."""
    if length == 0:
        return jnp.asarray(int(Status.EMPTY), jnp.int32)
    full = jnp.where(jnp.all(caps == n), int(Status.OK), int(Status.RANK_DEFICIENT))
    known = jnp.where(jnp.all(resolved), full, int(Status.UNRESOLVED))
    return jnp.where(good, known, int(Status.NONFINITE)).astype(jnp.int32)


def _step(chain: JacobianChain, carry: _Carry, s: Int[Array, ""]) -> _Carry:
    """Multiply by J_{T-s}ᵀ from the left: the product itself and its perturbed copies."""
    t = chain.length - s
    matrix = chain.at(t).matrix().T
    fresh = ~jnp.all(jnp.isfinite(matrix))
    scaled, common, nonzero = _udt.prescale(matrix)
    factors = jnp.concatenate([scaled[None], perturbed(scaled, chain.storage_dtype, t)])
    due = (s > 0) & (s % _udt.REFRESH_EVERY == 0)
    products = lax.cond(due, jax.vmap(_udt.refresh), lambda p: p, carry.products)
    return _Carry(
        products=jax.vmap(_udt.scaled_step, in_axes=(0, 0, None))(products, factors, common),
        rank=_rank.extend(carry.rank, nonzero),
        first_bad_step=jnp.where(fresh, t, carry.first_bad_step).astype(jnp.int32),
    )


def perturbed(matrix: Float[Array, "n n"], storage: Any, t: Any) -> Float[Array, "probes n n"]:
    """Give six copies, every entry moved by ± c eps ‖J‖_F/n.

    Dense on purpose: a multiplicative perturbation leaves zeros zero and misses rank loss. The
    matrix must be prescaled: near the ends of the range the perturbations would vanish.
    """
    n = matrix.shape[0]
    eps = float(jnp.finfo(storage).eps)
    sizes = jnp.asarray(_PROBES, matrix.dtype) * (eps / n)
    signs = _signs(t, (len(_PROBES), n, n), matrix.dtype)
    return matrix[None] + sizes[:, None, None] * jnp.linalg.norm(matrix) * signs


def _signs(t: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw signs, fixed for each step, one bit each: a float for every sign is slow to draw."""
    count = math.prod(shape)
    key = jax.random.fold_in(jax.random.key(0), t)
    words = jax.random.bits(key, (-(-count // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return 2 * bits.ravel()[:count].reshape(shape).astype(dtype) - 1


def _finish(products: _udt.Udt) -> tuple[Float[Array, "copies n"], Int[Array, ""]]:
    """Give the sorted ln σ_i of every copy, and the sweeps of the first."""

    def one(product: _udt.Udt) -> tuple[Array, Array]:
        mantissa, exponent, sweeps = _jacobi.log_singular_values(*_udt.graded_columns(product))
        return -jnp.sort(-log_scaled(mantissa, exponent)), sweeps

    logs, sweeps = jax.vmap(one)(products)
    return logs, sweeps[0]


def _resolve(logs: Array, caps: Array, chain: JacobianChain) -> tuple[Array, Array, Array]:
    """Turn the scatter of the copies into error bars, and lost digits into NaN."""
    n, eps = chain.size, float(jnp.finfo(chain.storage_dtype).eps)
    values = logs[:, 0]
    scatter = jnp.max(jnp.abs(logs[:, 1:] - values[:, None]), axis=1, initial=0.0)
    bars = scatter + 4 * eps * jnp.abs(values) + 16 * n * eps
    rank = jnp.arange(n, dtype=jnp.int32)
    beyond = rank[None] >= caps[:, None]
    lost = ~beyond & ~(bars <= _UNRESOLVED)
    from_above = jnp.cumsum(lost, axis=1) > 0
    from_below = jnp.cumsum(lost[:, ::-1], axis=1)[:, ::-1] > 0
    lost = from_above & from_below & ~beyond
    values = jnp.where(beyond, -jnp.inf, jnp.where(lost, jnp.nan, values))
    bars = jnp.where(beyond, 0, jnp.where(lost, jnp.inf, bars))
    return values, bars, ~lost
