"""One pass over a chain, from its end: the product, its perturbed copies, its structural rank.

Φ(T, T-k)ᵀ = J_{T-k+1}ᵀ … J_Tᵀ grows with k by factors from the left, so that one pass over the
longest lag gives all shorter ones.

The product itself is factorized at every step. The copies serve to see deviations a few hundred
times larger than rounding, so they may lose that much: they are factorized once their own loss,
extrapolated from what the last factorizations lost, reaches the size of the perturbation.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._scaled import log_scaled
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.products import _jacobi, _probes, _rank, _udt

_LONGEST = 8  # steps between two factorizations of the copies


class Probes(NamedTuple):
    """The perturbed copies, and when they are factorized."""

    copies: tuple[_udt.Udt, ...]  # not batched: LAPACK's order of memory makes that slow on CPU
    since: Int[Array, ""]  # steps since they were factorized
    interval: Int[Array, ""]  # after how many they are due
    stale: Int[Array, ""]  # steps since their V was renewed


class Result(NamedTuple):
    """The rows filled so far, one for each lag."""

    row: Int[Array, ""]
    logs: Float[Array, "lags copies n"]
    caps: Int[Array, " lags"]
    sweeps: Int[Array, " lags"]


class Passage(NamedTuple):
    """What the pass carries, and the rows of its result."""

    product: _udt.Udt
    probes: Probes
    rank: _rank.RankCap
    first_bad_step: Int[Array, ""]
    step: Int[Array, ""]  # factors multiplied so far
    result: Result


def follow(chain: JacobianChain, lags: tuple[int, ...]) -> Passage:
    """Walk back over the longest of the lags (ascending, all different)."""
    n, dtype, length = chain.size, chain.dtype, chain.length
    count = jnp.asarray(0, jnp.int32)
    identity = _udt.start(n, dtype)
    start = Passage(
        product=identity,
        probes=Probes((identity,) * _probes.COPIES, count, count + 1, count),
        rank=_rank.start(n),
        first_bad_step=count - 1,
        step=count,
        result=Result(
            row=count + int(lags[0] == 0),
            logs=jnp.zeros((len(lags), 1 + _probes.COPIES, n), dtype),
            caps=jnp.full(len(lags), n, jnp.int32),
            sweeps=jnp.zeros(len(lags), jnp.int32),
        ),
    )
    if lags[-1] == 0:
        return start
    stops = jnp.asarray(np.asarray([*lags, 0]), jnp.int32)
    eps = float(jnp.finfo(chain.storage_dtype).eps)

    def body(now: Passage, link: Any, _: None) -> tuple[Passage, None]:
        stop = now.step + 1 == stops[now.result.row]
        now = _multiply(now, link.matrix().T, length - now.step, eps, stop)
        result = lax.cond(stop, lambda: _record(now), lambda: now.result)
        return now._replace(result=result), None

    part = chain.segment(length - lags[-1], length)
    return sweep(part, body, start, reverse=True)[0]


def refresh_due(steps: Int[Array, ""]) -> Bool[Array, ""]:
    """Say whether V is to be renewed before the next step, after so many."""
    return (steps > 0) & (steps % _udt.REFRESH_EVERY == 0)


def _multiply(
    now: Passage, matrix: Float[Array, "n n"], t: Array, eps: float, stop: Array
) -> Passage:
    """Multiply by J_tᵀ from the left; at a `stop` the copies are factorized too."""
    scaled, common, dense = _udt.prescale(matrix)
    bad = ~jnp.isfinite(jnp.max(jnp.abs(matrix)))
    product = lax.cond(refresh_due(now.step), _udt.refresh, lambda p: p, now.product)
    product, loss = _udt.factorize_measured(_udt.push(product, scaled, common))
    copies = _probes.push(now.probes.copies, scaled, common, eps, t)
    probes = now.probes._replace(copies=copies, since=now.probes.since + 1)
    return now._replace(
        product=product,
        probes=lax.cond(
            stop | (probes.since >= probes.interval),
            lambda: _factorize(probes, loss, stop),
            lambda: probes,
        ),
        rank=_rank.extend(now.rank, matrix, dense),
        first_bad_step=jnp.where(bad, t, now.first_bad_step).astype(jnp.int32),
        step=now.step + 1,
    )


def _factorize(probes: Probes, loss: Float[Array, ""], stop: Array) -> Probes:
    """Factorize the copies, and choose when to do so next; `loss` is that of a single step."""
    renew = ~stop & (probes.stale + probes.since >= _udt.REFRESH_EVERY)

    pairs = [_udt.factorize_measured(copy) for copy in probes.copies]
    worst = jnp.max(jnp.stack([each for _, each in pairs]))
    copies = lax.cond(
        renew,
        lambda: tuple(_udt.refresh(copy) for copy, _ in pairs),
        lambda: tuple(copy for copy, _ in pairs),
    )
    # what each further step adds to the loss; a single step may owe all of its loss to that
    further = jnp.maximum(probes.since - 1, 1).astype(loss.dtype)
    growth = jnp.where(probes.since > 1, jnp.log(worst / loss) / further, jnp.log(loss))
    room = math.log(_probes.STRENGTH)
    steps = 1 + room / jnp.maximum(growth, room / _LONGEST)
    interval = jnp.where(jnp.isfinite(steps), jnp.clip(steps, 1, _LONGEST), 1).astype(jnp.int32)
    return Probes(
        copies=copies,
        since=jnp.zeros_like(probes.since),
        interval=jnp.where(renew, 1, jnp.minimum(interval, probes.since + 1)),
        stale=jnp.where(renew, 0, probes.stale + probes.since),
    )


def _record(now: Passage) -> Result:
    """Fill the next row with the singular values of the product as it stands."""
    logs, sweeps = finish(now.product, now.probes.copies)
    result = now.result
    return Result(
        row=result.row + 1,
        logs=result.logs.at[result.row].set(logs),
        caps=result.caps.at[result.row].set(now.rank.cap),
        sweeps=result.sweeps.at[result.row].set(sweeps),
    )


def finish(
    product: _udt.Udt, copies: tuple[_udt.Udt, ...]
) -> tuple[Float[Array, "copies n"], Int[Array, ""]]:
    """Compute the sorted ln σ_i of a product and of its copies, and the Jacobi sweeps."""
    together = jax.tree.map(lambda *a: jnp.stack(a), product, *copies)
    mantissa, exponent, sweeps = _jacobi.log_singular_values(*_udt.graded_rows(together))
    return -jnp.sort(-log_scaled(mantissa, exponent), axis=-1), sweeps
