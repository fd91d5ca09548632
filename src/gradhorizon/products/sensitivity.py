"""The derivative of Lyapunov exponents with respect to the parameters, and when it means nothing.

λ depends on the parameters directly and through the states, whose own derivatives grow like
e^(λ_1 t) in a chaotic network. The derivative over T steps is still computed to many digits, but
it belongs to a function that wiggles on the scale e^(-λ_1 T) of the parameters.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from gradhorizon._checks import (
    NumericalError,
    as_array,
    describe,
    is_concrete,
    require_finite,
    require_integer,
    worded,
)
from gradhorizon._record import Status, record
from gradhorizon.chain._contract import Step, check_problem
from gradhorizon.chain.jacobian import JacobianChain, linearize
from gradhorizon.products.lyapunov import lyapunov_spectrum


@record
class LyapunovGradient:
    """A weighted sum of exponents and its derivative with respect to the parameters.

    Attributes
    ----------
    value
        Σ_i w_i λ_i, nats per step.
    gradient
        Its derivative, in the structure of `params`.
    amplification
        ln of the largest growth that a perturbation of the state sees between any two windows.
    limit
        The amplification beyond which the derivative is called meaningless, ½ ln(1/eps).
    status
        `Status.OK`, `NONFINITE`, or `UNRESOLVED` beyond the limit.
    """

    value: Float[Array, "*batch"]
    gradient: PyTree
    amplification: Float[Array, "*batch"]
    limit: Float[Array, "*batch"]
    status: Int[Array, "*batch"]


def lyapunov_gradient(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    k: int = 1,
    weights: Any = None,
    burn_in: int = 0,
    tied: bool = True,
    throw: bool = True,
) -> LyapunovGradient:
    """Differentiate Σ_i w_i λ_i, i = 1 … k, with respect to the parameters.

    Parameters
    ----------
    step, params, h0, xs, length, tied
        The network, as in `jacobian_chain`.
    k
        How many leading exponents enter.
    weights
        w_1 … w_k, shape (k,); ones if None.
    burn_in
        Steps that only align the frame.
    throw
        Raise when the derivative is meaningless or not finite; otherwise the status says so.

    Returns
    -------
    LyapunovGradient
        Value, gradient, and by how much the trajectory amplifies perturbations.

    Raises
    ------
    TypeError, ValueError
        If `weights` are not k real finite numbers; else as `jacobian_chain` and
        `lyapunov_spectrum`.
    NumericalError
        If ``throw`` and the amplification passes ½ ln(1/eps) (18 nats in float64): no finite
        difference, whatever its step, agrees with the derivative any more.

    Notes
    -----
    Reverse mode through QR and through the states; time and memory are a few times those of
    the exponents, memory O(T n²). For a loss on long chaotic sequences differentiate over
    shorter ones, or hold the states as `omega_penalty` does.

    Examples
    --------
    For h ← w h the exponent is ln w, its derivative 1/w:

    >>> import gradhorizon as gh
    >>> result = gh.lyapunov_gradient(lambda w, h, x: w * h, 0.5, 1.0, length=40)
    >>> round(float(result.gradient), 12)
    2.0
    """
    problem = check_problem(step, params, h0, xs, length, tied=tied)
    k = require_integer("k", k, 1, problem.space.size)
    weights = _checked_weights(weights, k)

    def chain_at(params: Any) -> JacobianChain:
        return linearize(step, problem._replace(params=params), tied)

    def objective(params: Any) -> Array:
        chain = chain_at(params)
        spectrum = lyapunov_spectrum(chain, k, burn_in=burn_in, throw=False)
        return jnp.sum(jnp.asarray(weights, chain.dtype) * spectrum.exponents)

    arrays = jax.tree.map(jnp.asarray, problem.params)
    value, gradient = jax.value_and_grad(objective)(arrays)
    chain = chain_at(jax.lax.stop_gradient(arrays))
    whole = lyapunov_spectrum(chain, 1, throw=False)  # states carry derivatives from the start on
    growth = jnp.cumsum(whole.windows[:, 0] * whole.window_lengths)
    lowest = jnp.minimum(jax.lax.cummin(growth), 0)
    amplification = jnp.max(growth - jnp.minimum(lowest, growth), initial=0.0)
    limit = 0.5 * math.log(1 / float(jnp.finfo(value.dtype).eps))
    finite = jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves((value, gradient))])
    status = jnp.where(amplification > limit, int(Status.UNRESOLVED), int(Status.OK))
    status = jnp.where(jnp.all(finite), status, int(Status.NONFINITE)).astype(jnp.int32)
    result = LyapunovGradient(
        value, gradient, amplification, jnp.asarray(limit, value.dtype), status
    )
    if throw:
        _refuse(result)
    return result


def _checked_weights(weights: Any, k: int) -> np.ndarray:
    """Give w_1 … w_k as real numbers."""
    if weights is None:
        return np.ones(k)
    array = as_array("weights", weights)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(worded("weights", "be real", describe(array)))
    if array.shape != (k,):
        raise ValueError(worded("weights", f"have k = {k} entries", describe(array)))
    require_finite("weights", array)
    return np.asarray(array)


def _refuse(result: LyapunovGradient) -> None:
    """Raise for a concrete result without meaning."""
    if not is_concrete(result.status) or int(result.status) == int(Status.OK):
        return
    if int(result.status) == int(Status.NONFINITE):
        text = (
            "The derivative of the exponents must be finite. Received NaN or infinity. Exponents "
            "of -inf and equal singular values have no derivative: choose a smaller k."
        )
        raise NumericalError(text)
    text = (
        f"The derivative of the exponents must describe more than single rounding errors: "
        f"perturbations must grow by less than e^{float(result.limit):.0f} along the trajectory. "
        f"Received e^{float(result.amplification):.0f}. Differentiate over fewer steps, hold the "
        f"states, or pass throw=False."
    )
    raise NumericalError(text)
