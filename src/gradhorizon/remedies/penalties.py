"""Penalties that keep a gradient alive when they are added to a training loss."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._checks import describe, worded
from gradhorizon._compiled import compiled
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
    so long that λ_1 T exceeds the digits of the dtype: some tens of steps suffice.

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
    """Give Pascanu's regularizer Σ_t (‖δ_t J_t‖/‖δ_t‖ - 1)².

    Only the immediate derivative flows: the states (inside the chain) and the adjoints δ_t are
    held constant, the Jacobians are not. Differentiate with respect to the parameters that the
    chain's matrices were formed from.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    cotangent
        δ_T = ∂L/∂h_T, n numbers.

    Returns
    -------
    Array
        The penalty; terms with δ_t = 0 count as (0 - 1)².

    Raises
    ------
    ValueError
        If `cotangent` does not have n entries.

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
    return _omega(chain, vector.astype(chain.dtype))


@compiled
def _omega(chain: JacobianChain, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
    def body(carry: tuple[Array, Array], item: Any) -> tuple[tuple[Array, Array], None]:
        adjoint, total = carry
        held = lax.stop_gradient(adjoint)
        pulled = chain.link(item).pull(held[:, None])[:, 0]
        square = jnp.sum(jnp.square(pulled))
        size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        direction = pulled / jnp.where(size > 0, size, 1)
        return (direction, total + jnp.square(size - 1)), None

    start = cotangent / jnp.linalg.norm(cotangent)
    initial = (start, jnp.zeros((), chain.dtype))
    (_, total), _ = lax.scan(body, initial, chain.items, reverse=True)
    return total


def orthogonality_penalty(W: Any) -> Float[Array, ""]:
    """Give ‖WᵀW - I‖_F², zero exactly for orthogonal matrices.

    Parameters
    ----------
    W
        A matrix, shape (m, n).

    Returns
    -------
    Array
        The penalty.

    References
    ----------
    Vorontsov, Trabelsi, Kadoury & Pal, ICML 2017, section 3.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.remedies.orthogonality_penalty(2.0 * jnp.eye(3)))
    27.0
    """
    matrix = jnp.asarray(W)
    gram = jnp.matmul(matrix.T, matrix, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(gram - jnp.eye(matrix.shape[1], dtype=matrix.dtype)))
