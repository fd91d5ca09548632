"""One step whose Jacobian is graded: digits that a plain product with the frame would drown.

In J = W diag(φ'), saturated units make columns of 1e-16 beside columns of 1. W mixes them, and in
J F the small ones are rounded away before any factorization sees them. They are still there in
J itself. With D the sizes of its columns, D F = L₁ R₁ is factorized first: its rows are graded,
which LU with row pivoting bears. Then (J D⁻¹) L₁ = L₂ R₂, where nothing small is left to drown,
except in whole rows. J F = L₂ (R₂ R₁).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._scaled import exponent_of, power_of_two
from gradhorizon.products._lu import pivoted_lu


class Growth(NamedTuple):
    """A factorized step: the frame after it, what it grew by, and what rounding cost."""

    frame: Float[Array, "n k"]
    logs: Float[Array, " k"]  # ln|pivots|
    loss: Float[Array, " k"]  # rounding changed ln(pivot i) by about eps times this


def factorize(frame: Float[Array, "n k"], zero: Any) -> tuple[Growth, Any]:
    """Factorize a frame that came from a plain product; `zero` is the loss of a zero pivot.

    Every entry of a row is taken for rounded to eps times the largest. The loss is the share of
    the pivot's own entry, typical; the second result computes a bound of what all entries do.
    """
    lower, upper, places = pivoted_lu(frame)
    pivots = jnp.abs(jnp.diagonal(upper))
    held, left, right, entries = lax.stop_gradient((pivots, lower, upper, frame))
    sizes, inverse = jnp.max(jnp.abs(entries), axis=1)[places], _inverse(held)
    loss = jnp.where(held > 0, sizes * inverse, zero).astype(frame.dtype)

    def most() -> Float[Array, ""]:
        """`_loss` without a product of matrices, as all entries of a row have one size."""
        reach = jnp.sum(jnp.abs(left) * sizes[None], axis=1)[places]
        tilt = jnp.max(jnp.abs(right) * inverse[:, None], axis=0)
        return jnp.max(reach * tilt * inverse)

    return Growth(lower, _log(pivots), loss), most


def push(matrix: Float[Array, "n n"], frame: Float[Array, "n k"]) -> Growth:
    """Push a frame through J and factorize it, exact for J with graded rows and columns.

    Where columns of J are zero, so are rows of D F: pivots beyond the rank are exact zeros.
    """
    sizes = jnp.max(jnp.abs(lax.stop_gradient(matrix)), axis=0)
    powers = jnp.where(sizes > 0, power_of_two(exponent_of(sizes), sizes.dtype), 0)  # exact
    graded = powers[:, None] * frame
    first = _factorized(graded, jnp.abs(graded))
    even = matrix / jnp.where(sizes > 0, powers, 1)[None]
    second = _factorized(even @ first.frame, jnp.abs(even) @ jnp.abs(first.frame))
    return Growth(second.frame, first.logs + second.logs, first.loss + second.loss)


def _factorized(frame: Float[Array, "n k"], rounded: Float[Array, "n k"]) -> Growth:
    """Factorize a frame whose entries were rounded to eps times a size each."""
    lower, upper, places = pivoted_lu(frame)
    loss = _loss(*lax.stop_gradient((lower[places], upper, rounded[places])))
    return Growth(lower, _log(jnp.abs(jnp.diagonal(upper))), loss)


def _log(pivots: Float[Array, " k"]) -> Float[Array, " k"]:
    """Give ln, and for zero -inf with derivative 0."""
    return jnp.where(pivots == 0, -jnp.inf, jnp.log(jnp.where(pivots == 0, 1, pivots)))


def _loss(
    lower: Float[Array, "k k"], upper: Float[Array, "k k"], rounded: Float[Array, "k k"]
) -> Float[Array, " k"]:
    """Give the loss of the pivots of B = L U, its entries rounded to eps times a size.

    To first order ln u_ii changes by (L⁻¹ dB U⁻¹)_ii; L⁻¹ is replaced by |L| and U⁻¹_ji by
    u_ji/(u_jj u_ii), so that neither scales of rows nor of columns matter.
    """
    pivots = jnp.abs(jnp.diagonal(upper))
    inverse = _inverse(pivots)
    shares = jnp.abs(upper) * inverse[:, None] * inverse[None]  # u_ji/(u_jj u_ii)
    loss = jnp.max((jnp.abs(lower) @ rounded) * shares.T, axis=1)
    return jnp.where(pivots > 0, loss, 1)


def _inverse(pivots: Float[Array, " k"]) -> Float[Array, " k"]:
    return jnp.where(pivots > 0, 1 / jnp.where(pivots > 0, pivots, 1), 0)
