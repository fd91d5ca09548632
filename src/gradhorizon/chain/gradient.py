"""The gradient with respect to every state, by one backward scan in (mantissa, exponent) form.

δ_t = ∂L/∂h_t; δ_{t-1} = J_tᵀ δ_t + ∂ℓ/∂h_{t-1}. The adjoint is carried as an array with its
largest entry in [1/2, 1) and an integer exponent of two, so that 10⁵ steps neither underflow
nor overflow, and no rounding is added by the scale.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import (
    describe,
    dtype_of,
    require_arrays,
    require_finite,
    require_no_silent_downcast,
    worded,
)
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, normalize, shift
from gradhorizon.chain._contract import Step
from gradhorizon.chain._given import unscaled
from gradhorizon.chain._links import StepLinks
from gradhorizon.chain._outcome import settle
from gradhorizon.chain._purity import in_words
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps, jacobian_chain
from gradhorizon.chain.unroll import status_of

_PROBES = 16  # cotangents that stand for a generic loss


@record
class GradientProfile:
    """The size of the gradient at every step, in natural logarithms.

    Attributes
    ----------
    log_norms
        ln ‖∂L/∂h_t‖₂ for t = 0 … T, shape (T + 1,); -inf where the gradient is exactly zero.
        Lag k is entry T - k.
    log_max
        ln max_i |∂L/∂h_t,i|, shape (T + 1,): what a floating-point format has to hold.
    status
        `Status.OK`, `Status.EMPTY` for T = 0, or `Status.NONFINITE`.
    first_bad_step
        The first t whose state h_t (or given matrix J_t) is not finite; if all are, the latest
        t whose Jacobian spoils the backward pass; -1 if there is none.
    """

    log_norms: Float[Array, "*batch steps"]
    log_max: Float[Array, "*batch steps"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]

    @property
    def by_lag(self) -> Float[Array, " steps"]:
        """The growth ln ‖∂L/∂h_{T-k}‖ - ln ‖∂L/∂h_T‖ for lag k = 0 … T, in nats."""
        return self.log_norms[::-1] - self.log_norms[-1]


def gradient_profile(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any,
    loss: Callable[[Any], Any],
    *,
    length: int | None = None,
    tied: bool = True,
    mode: str = "auto",
    throw: bool = True,
) -> GradientProfile:
    """Measure ln ‖∂L/∂h_t‖ for every step t = 0 … T, at any length.

    Parameters
    ----------
    step, params, h0, xs, length, tied, mode
        The network, as in `jacobian_chain`; `xs` may be None when `length` is given.
    loss
        Maps the stacked states h_1 … h_T (leading axis T, structure of `h0`) to a real scalar.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    GradientProfile
        Log-norms of the gradient; equal to those of `jax.grad` wherever that neither under-
        nor overflows.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_chain`; ValueError if `loss` does not return a real scalar.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Cost: one forward pass, the gradient of `loss`, and one vector-Jacobian product per step.
    Error: the rounding of that backward pass; the scale is exact.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> halve = lambda params, h, x: params * h
    >>> profile = gh.gradient_profile(halve, 0.5, 1.0, None, lambda hs: hs[-1], length=3000)
    >>> round(float(profile.log_norms[0]), 6) == round(3000 * float(jnp.log(0.5)), 6)
    True
    """
    chain = jacobian_chain(step, params, h0, xs, length=length, tied=tied, mode=mode)
    require_scalar_loss(chain, loss)
    return settle(_profile(chain, loss=loss), throw=throw)


def require_scalar_loss(chain: JacobianChain, loss: Any) -> None:
    """Refuse a loss that is not a function from the stacked states to a real scalar.

    Raises
    ------
    TypeError
        If it is not callable.
    ValueError
        If it does not return a real scalar.
    """
    if not callable(loss):
        raise TypeError(worded("loss", "be a function of the stacked states", repr(loss)))
    out = in_words(
        "loss",
        lambda: jax.eval_shape(lambda c: _loss_of(c, loss), chain),
        "accept the stacked states h_1 … h_T and return a scalar",
        "Every leaf of the states has a leading time axis.",
    )
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        received = ", ".join(describe(v) for v in jax.tree.leaves(out)) or repr(out)
        remedy = "Reduce it with a sum or a mean."
        raise ValueError(worded("loss", "return one real scalar", received, remedy))


def _loss_of(chain: JacobianChain, loss: Callable[[Any], Any], points: Any = None) -> Any:
    """Evaluate the loss on h_1 … h_T, taken from the chain or given as vectors."""
    chain = chain.dense()
    assert isinstance(chain.links, StepLinks)
    if points is None:
        points = later_points(chain)
    auxiliary = chain.items[1]
    space = chain.links.space
    if auxiliary:  # the auxiliary part of h_t is needed at t = 1 … T: shift by one step
        auxiliary = jax.tree.map(lambda a: jnp.concatenate([a[1:], a[-1:]]), auxiliary)
    return loss(jax.vmap(space.unravel)(points, auxiliary))


def later_points(chain: JacobianChain) -> Float[Array, "T n"]:
    """Give h_1 … h_T as vectors."""
    assert chain.final is not None
    return jnp.concatenate([chain.dense().items[0][1:], chain.final[None]])


@compiled(static=("loss",))
def _profile(chain: JacobianChain, *, loss: Callable[[Any], Any]) -> GradientProfile:
    if chain.length == 0:
        return _empty_profile(jnp.zeros((chain.size, 1), chain.dtype))
    explicit = _explicit_gradient(chain, loss)
    return pull_back(chain, explicit[-1][:, None], explicit)


def _explicit_gradient(chain: JacobianChain, loss: Callable[[Any], Any]) -> Float[Array, "T n"]:
    """Give ∂ℓ/∂h_t for t = 1 … T, each state taken as independent of the others."""
    return jax.grad(lambda p: _loss_of(chain, loss, p))(later_points(chain))


@compiled(static=("loss",))
def final_cotangent(chain: JacobianChain, *, loss: Callable[[Any], Any]) -> Float[Array, " n"]:
    """Give ∂ℓ/∂h_T, what the loss sends into the network at its last step."""
    return _explicit_gradient(chain, loss)[-1]


@compiled
def generic_profile(chain: JacobianChain) -> GradientProfile:
    """Pull back up to 16 orthonormal cotangents: the root mean square over generic losses.

    With n ≤ 16 it is exactly ‖Φ(T, t)‖_F/√n.
    """
    n = chain.size
    coframe = jnp.eye(n, dtype=chain.dtype)
    if n > _PROBES:
        coframe = jax.random.orthogonal(jax.random.key(0), n, dtype=chain.dtype)[:, :_PROBES]
    return pull_back(chain, coframe)


def backpropagate(chain: Any, cotangent: Any, *, throw: bool = True) -> GradientProfile:
    """Pull one cotangent at time T back through the whole chain.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    cotangent
        δ_T = ∂L/∂h_T: a vector of n numbers, or a pytree like the state, complex leaves as
        `jax.grad` gives them.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    GradientProfile
        ln ‖δ_t‖ for t = 0 … T, with δ_{t-1} = J_tᵀ δ_t.

    Raises
    ------
    ValueError
        If `cotangent` does not have n entries, or is not finite.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    One vector-Jacobian product per step, memory O(n) beyond the chain.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> J = jnp.array([[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.5]]])
    >>> jnp.exp(gh.backpropagate(J, jnp.array([1.0, 0.0])).log_norms).round(6).tolist()
    [2.828427, 2.0, 1.0]
    """
    chain = as_chain(chain, throw=throw, columns=1)
    require_arrays("cotangent", cotangent)
    require_no_silent_downcast("cotangent", cotangent)
    given = jax.tree.leaves(cotangent)
    if any(not jnp.issubdtype(dtype_of(leaf), jnp.inexact) for leaf in given):
        shown = ", ".join(describe(leaf) for leaf in given)
        raise TypeError(worded("cotangent", "be floating point", shown))
    size = sum(np.size(leaf) * (1 + np.iscomplexobj(leaf)) for leaf in given)
    if size != chain.size:
        remedy = "Pass ∂L/∂h_T in the structure of the state."
        received = f"{size} entries"
        raise ValueError(worded("cotangent", f"have n = {chain.size} entries", received, remedy))
    require_finite("cotangent", cotangent)
    leaves = [part for leaf in given for part in _real_parts(jnp.asarray(leaf))]
    vector = jnp.concatenate([leaf.astype(chain.dtype) for leaf in leaves])
    return settle(_pull_back(chain, vector[:, None]), throw=throw)


def _real_parts(leaf: Array) -> list[Array]:
    """Give ∂L/∂Re h and ∂L/∂Im h; `jax.grad` gives ∂L/∂Re h - i ∂L/∂Im h for a complex h."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return [jnp.ravel(leaf.real), -jnp.ravel(leaf.imag)]
    return [jnp.ravel(leaf)]


@compiled
def _pull_back(chain: JacobianChain, coframe: Float[Array, "n k"]) -> GradientProfile:
    return pull_back(chain, coframe)


def pull_back(
    chain: JacobianChain,
    coframe: Float[Array, "n k"],
    explicit: Float[Array, "T n"] | None = None,
) -> GradientProfile:
    """Pull k cotangents back at once; log-norms are root mean squares over the k columns.

    `explicit` holds ∂ℓ/∂h_t for t = 1 … T (k = 1 only); its last row is `coframe` itself.
    Traceable; the caller compiles.
    """
    if chain.length == 0:
        return _empty_profile(coframe)
    sources = None
    if explicit is not None:
        sources = jnp.concatenate([jnp.zeros_like(explicit[:1]), explicit[:-1]])

    def body(carry: tuple[Array, Array], link: Any, source: Any) -> Any:
        adjoint = link.pull(carry[0])
        new, exponent = normalize(adjoint)
        exponent = jnp.where(jnp.max(jnp.abs(new)) == 0, ZERO_EXPONENT, exponent + carry[1])
        if source is not None:
            new, exponent = _add(new, exponent, source[:, None])
        return (new, exponent), (*_sizes(new, exponent), jnp.all(jnp.isfinite(new)))

    start, exponent = normalize(coframe)
    _, rest = sweep(chain, body, (start, exponent), sources, reverse=True)
    *sizes, finite = rest
    norms, largest = (
        jnp.concatenate([a, b[None]]) for a, b in zip(sizes, _sizes(start, exponent), strict=True)
    )
    lags = np.arange(chain.length, -1, -1)
    norms, largest = (unscaled(a, lags, chain.shift) for a in (norms, largest))
    return GradientProfile(norms, largest, *_first_failure(finite_steps(chain), finite))


def _first_failure(forward: Bool[Array, " T"], backward: Bool[Array, " T"]) -> tuple[Array, Array]:
    """Name the first step whose state or matrix is bad, else the latest whose pull-back is."""
    status, first = status_of(forward, Status.OK)
    back_status, back = status_of(backward[::-1], Status.OK)
    good = status == int(Status.OK)
    latest = jnp.where(back < 0, -1, forward.shape[0] - back)
    return jnp.where(good, back_status, status), jnp.where(good, latest, first + 1)


def _add(adjoint: Array, exponent: Array, source: Array) -> tuple[Array, Array]:
    """Add the explicit gradient of one step to the scaled adjoint, exactly aligned."""
    own, common = normalize(source)
    common = jnp.where(jnp.max(jnp.abs(own)) == 0, ZERO_EXPONENT, common)
    top = jnp.maximum(exponent, common)
    total = shift(adjoint, exponent - top) + shift(own, common - top)
    new, extra = normalize(total)
    return new, top + extra


def _sizes(scaled: Float[Array, "n k"], exponent: Int[Array, ""]) -> tuple[Array, Array]:
    """Give the logarithms of the root-mean-square column norm and of the largest entry."""
    rms = jnp.sqrt(jnp.sum(scaled**2) / scaled.shape[1])
    return log_scaled(rms, exponent), log_scaled(jnp.max(jnp.abs(scaled)), exponent)


def _empty_profile(coframe: Float[Array, "n k"]) -> GradientProfile:
    norm, largest = _sizes(*normalize(coframe))
    status, first = status_of(jnp.ones(0, dtype=bool), Status.EMPTY)
    return GradientProfile(norm[None], largest[None], status, first)
