"""The largest singular value of Φ(T, T-k) for every lag k, in one pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon._scaled import LN2, shift
from gradhorizon.chain._given import unscaled
from gradhorizon.chain._outcome import settle
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.products import _stratified, _udt


@record
class _Norms:
    """The norms and their status, before they are given out as a plain array."""

    log_norms: Float[Array, "*batch lags"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]


def transition_norms(chain: Any, *, throw: bool = True) -> Float[Array, " lags"]:
    """Compute ln ‖Φ(T, T-k)‖₂ for every lag k = 0 … T.

    The largest factor by which any gradient at T can grow on its way back to T - k.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    throw
        Raise when a NaN or infinity appears; otherwise all norms are NaN.

    Returns
    -------
    Array
        Natural logarithms, shape (T + 1,); entry k belongs to lag k, entry 0 is 0; -inf where
        the product is exactly zero.

    Raises
    ------
    TypeError, ValueError
        As `JacobianChain.from_matrices`.
    NumericalError
        If ``throw`` and a NaN or infinity appears.

    Notes
    -----
    Linear in T: per step one LU, four matrix products and one symmetric eigenvalue problem of
    n × n. The product is kept as U diag(d) V with exact scales, because a rescaled product
    loses its largest value where growth in one direction is later undone.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> J = jnp.array([[[0.0, 1.0], [0.0, 0.0]]] * 3)  # nilpotent: J² = 0
    >>> gh.transition_norms(J).tolist()
    [0.0, 0.0, -inf, -inf]
    """
    chain = as_chain(chain, throw=throw)
    return settle(_norms(chain), throw=throw).log_norms


@compiled
def _norms(chain: JacobianChain) -> _Norms:
    n, dtype = chain.size, chain.dtype
    if chain.length == 0:
        empty = jnp.asarray(int(Status.EMPTY), jnp.int32)
        return _Norms(jnp.zeros(1, dtype), empty, jnp.asarray(-1, jnp.int32))

    def body(carry: tuple[_udt.Udt, Array], link: Any, _: None) -> Any:
        product, count = carry
        matrix = link.matrix().T
        product = lax.cond(_stratified.refresh_due(count), _udt.refresh, lambda p: p, product)
        product = _udt.step(product, matrix)
        finite = jnp.all(jnp.isfinite(matrix))
        return (product, count + 1), (_log_norm(product), finite)

    start = (_udt.start(n, dtype), jnp.asarray(0, jnp.int32))
    _, (later, finite) = sweep(chain, body, start, reverse=True)
    logs = jnp.concatenate([later, jnp.zeros(1, dtype)])[::-1]
    logs = unscaled(logs, np.arange(chain.length + 1), chain.shift)
    status, index = status_of(finite & finite_steps(chain), Status.OK)
    logs = jnp.where(index < 0, logs, jnp.nan)
    return _Norms(logs, status, jnp.where(index < 0, -1, index + 1))


def _log_norm(product: _udt.Udt) -> Float[Array, ""]:
    """Give ln ‖U diag(d) V‖₂ from the largest eigenvalue of its Gram matrix.

    Neither the one product nor the square loses anything of the largest singular value.
    """
    top = jnp.max(product.exponent)
    scales = shift(product.mantissa, product.exponent - top)
    whole = (product.left * scales[None]) @ product.right
    largest = jnp.linalg.eigvalsh(whole @ whole.T)[-1]
    size = jax.nn.relu(largest)
    logs = 0.5 * jnp.log(size) + top.astype(size.dtype) * LN2
    return jnp.where(size > 0, logs, -jnp.inf)
