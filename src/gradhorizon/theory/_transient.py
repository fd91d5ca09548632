"""Transients: how large the powers of a matrix become, and when they are exactly 0."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._checks import require_integer
from gradhorizon.theory._square import square


class Transient(NamedTuple):
    """The largest power of a matrix.

    Attributes
    ----------
    log_peak
        ln max_t ‖A^t‖₂ over t = 0 … horizon, nats; at least 0, the value at t = 0.
    time
        The first t at which it is reached.
    log_last
        ln ‖A^horizon‖₂, nats. If not positive, no later power exceeds the peak, because
        ‖A^(horizon + t)‖ ≤ ‖A^horizon‖ ‖A^t‖.
    """

    log_peak: Float[Array, ""]
    time: Int[Array, ""]
    log_last: Float[Array, ""]


def transient_growth(A: Any, horizon: int = 512) -> Transient:
    """Follow ‖A^t‖₂ over t = 0 … horizon and give its peak.

    Parameters
    ----------
    A
        A square real matrix.
    horizon
        The largest power looked at.

    Returns
    -------
    Transient
        Peak and time; a spectral radius above 1 puts the peak at the end.

    Raises
    ------
    TypeError
        If `A` is complex or `horizon` not an integer.
    ValueError
        If `A` is not square or `horizon` not positive.

    Notes
    -----
    Powers are carried with the logarithm of their size apart, so none over- or underflows. The
    time is found by power iteration started from the previous power's singular vectors and from
    a fixed random one, which notices directions that take over later; the peak itself is
    recomputed by a singular value decomposition. Cost: about 2 horizon products of n × n.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> peak = gh.theory.bounds.transient_growth(jnp.array([[0.9, 5.0], [0.0, 0.9]]))
    >>> round(float(jnp.exp(peak.log_peak)), 6), int(peak.time)
    (19.37877, 9)
    """
    return _transient_growth(square(A), require_integer("horizon", horizon, 1))


@functools.partial(jax.jit, static_argnames="horizon")
def _transient_growth(matrix: Float[Array, "n n"], horizon: int) -> Transient:
    n, dtype = matrix.shape[0], matrix.dtype
    start = (jnp.eye(n, dtype=dtype), jnp.zeros((), dtype))
    vectors = jax.random.orthogonal(jax.random.key(0), n, dtype=dtype)[:, : min(n, 3)]

    def multiply(scaled: tuple[Array, Array]) -> tuple[Array, Array]:
        power = jnp.matmul(matrix, scaled[0], precision="highest")
        size = jnp.max(jnp.abs(power))
        return power / jnp.where(size > 0, size, 1), scaled[1] + jnp.log(size)

    def advance(carry: Any, _: None) -> Any:
        scaled, followed = carry
        scaled = multiply(scaled)
        block = jnp.concatenate([followed[:, :-1], vectors[:, -1:]], axis=1)
        for _repeat in range(3):
            image = jnp.matmul(scaled[0], block, precision="highest")
            block = jnp.linalg.qr(jnp.matmul(scaled[0].T, image, precision="highest"))[0]
        image = jnp.matmul(scaled[0], block, precision="highest")
        log_norm = jnp.log(jnp.linalg.norm(image, ord=2)) + scaled[1]
        return (scaled, block), log_norm

    ((last, log_scale), _), logs = lax.scan(advance, (start, vectors), None, length=horizon)
    logs = jnp.concatenate([jnp.zeros(1, dtype), logs])
    rounding = 64 * float(jnp.finfo(dtype).eps)
    time = jnp.argmax(logs >= jnp.max(logs) - rounding).astype(jnp.int32)
    power, log_size = lax.fori_loop(0, time, lambda _, scaled: multiply(scaled), start)
    peak = jnp.log(jnp.linalg.norm(power, ord=2)) + log_size
    log_last = jnp.log(jnp.linalg.norm(last, ord=2)) + log_scale
    return Transient(jnp.maximum(peak, 0).astype(dtype), time, log_last.astype(dtype))


def nilpotency_index(A: Any) -> Int[Array, ""]:
    """Give the first t at which A^t is 0 whatever the non-zero entries are, or 0 if none is.

    One more than the longest walk along non-zero entries: finite exactly if no walk returns, that
    is if a permutation makes A strictly triangular.

    Parameters
    ----------
    A
        A square real matrix.

    Returns
    -------
    Array
        Between 1 (A = 0) and n, an integer; 0 if the pattern has a cycle.

    Raises
    ------
    ValueError
        If `A` is not square.

    Notes
    -----
    A nilpotent matrix whose zeros come from cancellation, such as a rotated shift, is not
    noticed: in floating point its powers do not become 0 either. Cost: n products of a matrix
    and a vector.

    Examples
    --------
    A delay line forgets everything after n steps:

    >>> import gradhorizon as gh
    >>> int(gh.theory.bounds.nilpotency_index(jnp.eye(6, k=-1)))
    6
    >>> int(gh.theory.bounds.nilpotency_index(jnp.eye(6)))
    0
    """
    return _nilpotency_index(square(A))


@jax.jit
def _nilpotency_index(matrix: Float[Array, "n n"]) -> Int[Array, ""]:
    n, pattern = matrix.shape[0], matrix != 0

    def lengthen(t: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, last = state
        reached = jnp.any(pattern & reached[None], axis=1)
        return reached, jnp.where(jnp.any(reached), t + 1, last)

    start = (jnp.ones(n, bool), jnp.zeros((), jnp.int32))
    _, longest = lax.fori_loop(0, n, lengthen, start)
    return jnp.where(longest < n, longest + 1, 0).astype(jnp.int32)
