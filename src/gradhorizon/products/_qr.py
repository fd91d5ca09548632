"""QR with a positive diagonal: the factorization where orthogonality itself is wanted."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def positive_qr(
    matrix: Float[Array, "*batch n k"],
) -> tuple[Float[Array, "*batch n k"], Float[Array, "*batch k k"]]:
    """Factorize A = Q R by Householder reflections, without pivoting, with R_ii ≥ 0.

    The positive diagonal makes the factorization unique, hence continuous and comparable
    between devices. A zero on the diagonal keeps its sign, so that derivatives stay finite
    where they exist.
    """
    q, r = jnp.linalg.qr(matrix)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(matrix.dtype)
    return q * sign[..., None, :], r * sign[..., None]
