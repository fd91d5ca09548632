"""Gaussian expectations E f(z), z ~ N(0, 1), by the trapezoid rule on a fine fixed grid.

For smooth integrands that decay like a Gaussian the trapezoid rule converges faster than any
power of the spacing. The grid has to resolve the activation at its argument √q z: with 8192
nodes on [-14, 14] the spacing 0.0034 satisfies dz < 0.2/√q up to √q = 58. It is symmetric
without a node at 0, so that a kink there (ReLU) is integrated exactly too. Gauss-Hermite would
converge slowly, since tanh has poles at distance π/(2√q) from the real axis.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_NODES = 8192
_EDGE = 14.0


def grid(dtype: np.dtype) -> tuple[Float[Array, " z"], Float[Array, " z"]]:
    """Give nodes and weights of the standard normal law."""
    spacing = 2 * _EDGE / _NODES
    nodes = (np.arange(_NODES) - (_NODES - 1) / 2) * spacing
    weights = np.exp(-(nodes**2) / 2) * spacing / math.sqrt(2 * math.pi)
    return jnp.asarray(nodes, dtype), jnp.asarray(weights, dtype)


def gaussian_mean(
    f: Callable[[Float[Array, " z"]], Float[Array, " z"]], dtype: np.dtype
) -> Float[Array, ""]:
    """Give E f(z) for an elementwise f."""
    nodes, weights = grid(dtype)
    return jnp.sum(weights * f(nodes))
