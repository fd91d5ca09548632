"""Scaling a recurrent matrix to a set spectral radius or largest singular value."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon import _eigenvalues
from gradhorizon._checks import describe, is_concrete, require_positive, worded


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
    TypeError
        If `W` is not real floating point.
    ValueError
        If not exactly one size is given, it is not positive, or `W` is not square or has size
        zero (a nilpotent matrix has spectral radius 0 and cannot be scaled to another).

    Notes
    -----
    The spectral radius costs one eigenvalue decomposition, O(n³); its relative error is eps
    times the condition number of the leading eigenvalue. The spectral radius alone decides the
    growth only in the long run: a non-normal matrix grows first by up to its Kreiss constant.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.remedies.rescale(jnp.diag(jnp.array([2.0, -4.0])), spectral_radius=1.0).tolist()
    [[0.5, 0.0], [0.0, -1.0]]
    """
    matrix = jnp.asarray(W)
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise TypeError(worded("W", "be real and floating point", describe(matrix)))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(worded("W", "be square", describe(matrix)))
    if (spectral_radius is None) == (largest_singular_value is None):
        both = f"{spectral_radius} and {largest_singular_value}"
        remedy = "Give one of the two."
        raise ValueError(worded("spectral_radius", "be given alone", both, remedy))
    if spectral_radius is not None:
        require_positive("spectral_radius", spectral_radius)
        size, wanted = _eigenvalues.spectral_radius(matrix), spectral_radius
    else:
        require_positive("largest_singular_value", largest_singular_value)
        size, wanted = jnp.linalg.norm(matrix, ord=2), largest_singular_value
    if is_concrete(size) and not float(size) > 0:
        raise ValueError(worded("W", "have a positive size to scale", float(size)))
    return matrix * (jnp.asarray(wanted, matrix.dtype) / size)
