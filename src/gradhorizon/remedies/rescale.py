"""Scaling a recurrent matrix to a set spectral radius or largest singular value."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import describe, require_positive, worded


def rescale(
    W: Any, *, spectral_radius: Any = None, largest_singular_value: Any = None
) -> Float[Array, "n n"]:
    """Scale a square matrix.

    Parameters
    ----------
    W
        The matrix, shape (n, n).
    spectral_radius
        The spectral radius wanted: decides the long run of a linear network.
    largest_singular_value
        The largest singular value wanted: below 1/γ it certifies vanishing, so use it as an
        upper limit rather than a goal. Give exactly one of the two.

    Returns
    -------
    Array
        A multiple of `W`.

    Raises
    ------
    ValueError
        If not exactly one size is given, it is not positive, or `W` is not square or has size
        zero (a nilpotent matrix has spectral radius 0 and cannot be scaled to another).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.remedies.rescale(jnp.diag(jnp.array([2.0, -4.0])), spectral_radius=1.0).tolist()
    [[0.5, 0.0], [0.0, -1.0]]
    """
    matrix = jnp.asarray(W)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(worded("W", "be square", describe(matrix)))
    if (spectral_radius is None) == (largest_singular_value is None):
        both = f"{spectral_radius} and {largest_singular_value}"
        remedy = "Give one of the two."
        raise ValueError(worded("spectral_radius", "be given alone", both, remedy))
    if spectral_radius is not None:
        require_positive("spectral_radius", spectral_radius)
        size, wanted = jnp.max(jnp.abs(jnp.linalg.eigvals(matrix))), spectral_radius
    else:
        require_positive("largest_singular_value", largest_singular_value)
        size, wanted = jnp.linalg.norm(matrix, ord=2), largest_singular_value
    require_positive("the size of W", size)
    return matrix * (wanted / size)
