"""Factorizations that go through a batch one matrix after another.

Under `jax.vmap` a LAPACK call becomes one call on a batch, which XLA's CPU client spreads over
its thread pool. Two such calls at once can hold all threads of a small pool, each waiting for
tasks that no thread is left to run: the program hangs (jaxlib 0.10, two threads). Criteria are
small factorizations that do not depend on one another, the very case in which that happens.
"""

from typing import Any

import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array

from gradhorizon import _eigenvalues


@sequential_vmap
def spectral_radius(matrix: Array) -> Array:
    """Give max |eigenvalue|; NaN for a matrix that is not finite."""
    return _eigenvalues.spectral_radius(matrix)


@sequential_vmap
def largest_singular_value(matrix: Array) -> Array:
    """Give σ_1."""
    return jnp.linalg.norm(matrix, ord=2)


@sequential_vmap
def solve(matrix: Array, right: Array) -> Any:
    """Solve A x = b."""
    return jnp.linalg.solve(matrix, right)
