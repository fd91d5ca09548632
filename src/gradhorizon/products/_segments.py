"""The pass of `_stratified` in logarithmic depth: all segments at once, then joined pairwise.

Segments are cut from the end of the chain, where the transposed product starts; the steps that
are missing to whole segments are identities before J_1, which change nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.products import _probes, _rank, _stratified, _tree, _udt


class Passage(NamedTuple):
    """What a pass over segments ends in, as far as the result needs it."""

    result: _stratified.Result
    first_bad_step: Int[Array, ""]


def follow(chain: JacobianChain, segments: int) -> Passage:
    """Compute the singular values of the whole product, and of its perturbed copies."""
    matrices, missing = _factors(chain, segments)
    eps = float(jnp.finfo(chain.storage_dtype).eps)
    steps = jnp.arange(chain.length + missing, dtype=jnp.int32).reshape(segments, -1)
    parts = jax.vmap(lambda m, s: _segment(m, s, eps))(matrices, steps)
    whole = jax.vmap(_tree.reduce_tree, in_axes=1)(parts)
    product, *copies = (jax.tree.map(lambda a, i=i: a[i], whole) for i in range(_probes.COPIES + 1))
    logs, sweeps = _stratified.finish(product, tuple(copies))
    finite = jnp.all(jnp.isfinite(matrices.reshape(-1, chain.size, chain.size)), axis=(1, 2))
    steps_back = jnp.arange(finite.shape[0], dtype=jnp.int32)
    bad = jnp.max(jnp.where(finite, -1, steps_back))  # counted from the end: the earliest step
    first = jnp.where(bad < 0, -1, chain.length - bad)
    row = jnp.asarray(1, jnp.int32)
    result = _stratified.Result(row, logs[None], _cap(chain)[None], sweeps[None])
    return Passage(result, first.astype(jnp.int32))


def _factors(chain: JacobianChain, segments: int) -> tuple[Float[Array, "s m n n"], int]:
    """Give J_Tᵀ, J_{T-1}ᵀ, … in segments of equal length, and how many identities fill them."""
    n, missing = chain.size, -chain.length % segments
    factors = jnp.swapaxes(chain.matrices()[::-1], -1, -2)
    eye = jnp.broadcast_to(jnp.eye(n, dtype=chain.dtype), (missing, n, n))
    return jnp.concatenate([factors, eye]).reshape(segments, -1, n, n), missing


def _segment(matrices: Float[Array, "m n n"], steps: Int[Array, " m"], eps: float) -> _udt.Udt:
    """Multiply one segment: the product and its copies, stacked."""
    n, dtype = matrices.shape[-1], matrices.dtype
    identity = _udt.start(n, dtype)

    def body(carry: Any, inputs: Any) -> Any:
        products, count = carry
        matrix, step = inputs
        scaled, common, _ = _udt.prescale(matrix)
        due = _stratified.refresh_due(count)
        products = lax.cond(due, lambda ps: tuple(map(_udt.refresh, ps)), lambda ps: ps, products)
        product, *copies = products
        pushed = _probes.push(tuple(copies), scaled, common, eps, step)
        products = (_udt.push(product, scaled, common), *pushed)
        return (tuple(map(_udt.factorize, products)), count + 1), None

    start = ((identity,) * (1 + _probes.COPIES), jnp.asarray(0, jnp.int32))
    (products, _), _ = lax.scan(body, start, (matrices, steps))
    return jax.tree.map(lambda *a: jnp.stack(a), *products)


def _cap(chain: JacobianChain) -> Int[Array, ""]:
    """Bound the rank from the pattern of zeros; a pattern costs little next to a factorization."""

    def body(bound: _rank.RankCap, link: Any, _: None) -> tuple[_rank.RankCap, None]:
        matrix = link.matrix().T
        return _rank.extend(bound, matrix, jnp.min(jnp.abs(matrix)) > 0), None

    return sweep(chain, body, _rank.start(chain.size), reverse=True)[0].cap
