"""Penalties that keep a gradient alive when they are added to a training loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._checks import describe, is_concrete, worded
from gradhorizon._compiled import compiled
from gradhorizon._scaled import normalize, shift
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain, as_chain
from gradhorizon.products.lyapunov import lyapunov_spectrum


def flossing_loss(chain: Any, k: int, target: float = 0.0) -> Float[Array, ""]:
    """Give the mean squared distance of the k leading exponents from a target.

    Differentiable through QR: take the gradient of it with respect to whatever the chain was
    built from ("gradient flossing").

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    k
        How many exponents, 1 ≤ k ≤ n.
    target
        The exponent wanted, nats per step.

    Returns
    -------
    Array
        (1/k) Σ_i (λ_i - target)².

    Raises
    ------
    ValueError
        If `k` is not in 1 … n.

    Notes
    -----
    The derivative is that of the finite-time exponents. It loses its meaning when the chain is
    so long that λ_1 T exceeds the digits of the dtype: some tens of steps suffice. A rank below
    k, as with dead rectified units, makes the loss infinite: choose k among the alive directions.

    References
    ----------
    Engelken, "Gradient flossing", NeurIPS 2023 (arXiv:2312.17306).

    Examples
    --------
    For a scaled rotation every exponent is ln g:

    >>> import gradhorizon as gh
    >>> rotation = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    >>> def loss(g):
    ...     chain = jnp.broadcast_to(g * rotation, (20, 2, 2))
    ...     return gh.remedies.flossing_loss(chain, 2)
    >>> float(loss(1.0)), round(float(jax.grad(loss)(2.0) / jnp.log(2.0)), 6)
    (0.0, 1.0)
    """
    exponents = lyapunov_spectrum(chain, k, throw=False).exponents
    return jnp.mean(jnp.square(exponents - target))


def omega_penalty(chain: Any, cotangent: Any) -> Float[Array, ""]:
    """Give Pascanu's regularizer Ω = Σ_t (‖J_tᵀ δ_t‖/‖δ_t‖ - 1)².

    Only the immediate derivative flows (eq. 10): the states at which the chain was linearized
    and the adjoints δ_t are held constant, the step Jacobians are not. Differentiate with
    respect to the parameters given to `jacobian_chain`, or to the matrices of a chain given as
    an array.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    cotangent
        δ_T = ∂L/∂h_T, n numbers, not all zero; only its direction matters.

    Returns
    -------
    Array
        The penalty; once δ_t is exactly 0, every earlier step adds (0 - 1)².

    Raises
    ------
    ValueError
        If `cotangent` does not have n entries, or is zero.

    Notes
    -----
    Cost: one pull-back per step and as much again for its derivative; δ_t is normalized at
    every step, so that nothing over- or underflows along the chain. The paper's δ_t is the
    whole ∂L/∂h_t; with a loss at the last step only, as here, the two are the same.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), eqs. 9 and 10.

    Examples
    --------
    Every step of αQ changes the norm by α, so the penalty is T (α - 1)²:

    >>> import gradhorizon as gh
    >>> J = jnp.broadcast_to(1.5 * jnp.eye(3), (10, 3, 3))
    >>> round(float(gh.remedies.omega_penalty(J, jnp.ones(3))), 12)
    2.5
    """
    chain = as_chain(chain, throw=False)
    vector = jnp.ravel(jnp.asarray(cotangent))
    if vector.shape[0] != chain.size:
        wanted = f"have n = {chain.size} entries"
        raise ValueError(worded("cotangent", wanted, describe(cotangent)))
    if is_concrete(vector) and not bool(jnp.any(vector != 0)):
        raise ValueError(worded("cotangent", "have a direction", "zeros"))
    return _omega(_with_states_held(chain), vector.astype(chain.dtype))


def _with_states_held(chain: JacobianChain) -> JacobianChain:
    """Cut the derivative through the linearization points; a chain of matrices has none."""
    if chain.mode == "matrices":
        return chain
    chain = chain.dense()
    point, *rest = chain.items
    return dataclasses.replace(chain, items=(lax.stop_gradient(point), *rest), residuals=None)


@compiled
def _omega(chain: JacobianChain, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
    def body(carry: tuple[Array, Array], link: Any, _: None) -> tuple[tuple[Array, Array], None]:
        adjoint, total = carry
        pulled = link.pull(lax.stop_gradient(adjoint)[:, None])[:, 0]
        size = _norm(pulled)
        return (pulled / jnp.where(size > 0, size, 1), total + jnp.square(size - 1)), None

    initial = (cotangent / _norm(cotangent), jnp.zeros((), chain.dtype))
    (_, total), _ = sweep(chain, body, initial, reverse=True)
    return total


def _norm(vector: Float[Array, " n"]) -> Float[Array, ""]:
    """Give ‖v‖₂ without over- or underflow of the squares, with derivative 0 at v = 0."""
    mantissa, exponent = normalize(vector)
    square = jnp.sum(jnp.square(mantissa))
    alive = square > 0
    return jnp.where(alive, shift(jnp.sqrt(jnp.where(alive, square, 1)), exponent), 0)


def orthogonality_penalty(W: Any) -> Float[Array, ""]:
    """Give ‖WᵀW - I‖_F², zero exactly for orthonormal columns.

    Parameters
    ----------
    W
        A matrix, shape (m, n) with m ≥ n.

    Returns
    -------
    Array
        The penalty, Σ_i (σ_i² - 1)² over the n singular values.

    Raises
    ------
    ValueError
        If `W` is not a matrix with at least as many rows as columns.

    Notes
    -----
    It holds the repeated term near isometry whatever the inputs; a saturating activation still
    shrinks the gradient. Hard constraints of this kind cost speed of convergence.

    References
    ----------
    Vorontsov, Trabelsi, Kadoury & Pal, ICML 2017 (arXiv:1702.00071).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.remedies.orthogonality_penalty(2.0 * jnp.eye(3)))
    27.0
    """
    matrix = jnp.asarray(W)
    if matrix.ndim != 2 or matrix.shape[0] < matrix.shape[1]:
        shown, remedy = describe(matrix), "Transpose a wide matrix."
        raise ValueError(worded("W", "be a matrix with m ≥ n, (m, n)", shown, remedy))
    gram = jnp.matmul(matrix.T, matrix, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(gram - jnp.eye(matrix.shape[1], dtype=matrix.dtype)))
