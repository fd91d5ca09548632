"""Eigenvalues of a matrix of any size of entries.

LAPACK's geev scales a matrix whose largest entry lies outside [√tiny/eps, eps/√tiny] before it
iterates (in float32: outside 1e-12 … 1e12), and `jnp.linalg.eigvals` gives back the eigenvalues of
the scaled matrix (jaxlib 0.10 on CPU). Scaled to size 1 beforehand, exactly, no matrix gets there.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from gradhorizon._scaled import normalize, shift


def eigenvalues(matrix: Float[Array, "n n"]) -> Complex[Array, " n"]:
    """Give the eigenvalues of a square matrix; NaN for one that is not finite."""
    scaled, exponent = normalize(matrix)
    found = jnp.linalg.eigvals(scaled)
    return lax.complex(shift(found.real, exponent), shift(found.imag, exponent))


def spectral_radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Give max |eigenvalue|; NaN for a matrix that is not finite."""
    scaled, exponent = normalize(matrix)
    return shift(jnp.max(jnp.abs(jnp.linalg.eigvals(scaled))), exponent)
