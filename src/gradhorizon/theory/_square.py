"""The argument that every bound takes: a square real matrix in a floating dtype."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import describe, worded
from gradhorizon.theory._dtype import floats


def square(A: Any, name: str = "A") -> Array:
    """Give a square real matrix in a floating dtype.

    Raises
    ------
    TypeError
        If it is complex.
    ValueError
        If it is not a square matrix with at least one row.
    """
    matrix = jnp.asarray(A)
    if jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        raise TypeError(worded(name, "be real", describe(matrix)))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(worded(name, "be a square matrix", describe(matrix)))
    return floats(matrix)[0]
