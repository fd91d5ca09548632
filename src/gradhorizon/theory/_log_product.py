"""The exact law of ln|w_1 … w_d| for independent normal factors, by Fourier inversion.

E|w|^{is} = 2^{is/2} Γ((1 + is)/2)/√π for w ~ N(0, 1), of modulus cosh(πs/2)^{-1/2}. The
characteristic function of the sum is its d-th power, and the distribution function is

    F(x) = 1/2 - (1/π) ∫_0^∞ |φ(s)| sin(arg φ(s) - s x)/s ds    (Gil-Pelaez).

The midpoint rule with spacing h errs by no more than the chance that the sum lies π/h or more
off its mean (Davies 1973): with 4096 nodes that is below rounding at every depth.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.special import loggamma

_NODES = 4096
_NEGLIGIBLE = 40.0  # integrand cut where it falls below e^-40
EULER_GAMMA = 0.5772156649015329


def centered_cdf(x: Float[Array, "..."], depth: int) -> Float[Array, "..."]:
    """Give P(ln|w_1 … w_d| - d E ln|w| ≤ x); the factors' variance has canceled."""
    top = 2 / math.pi * math.acosh(math.exp(2 * _NEGLIGIBLE / depth))
    spacing = top / _NODES
    s = (np.arange(_NODES) + 0.5) * spacing
    # JAX has no complex Γ. The nodes depend on the depth alone, so the host computes them.
    log_phi = loggamma((1 + 1j * s) / 2) - 0.5 * math.log(math.pi)
    log_phi = depth * (log_phi + 1j * s * (math.log(2.0) + EULER_GAMMA / 2))
    amplitude = jnp.asarray(np.exp(log_phi.real) / s, x.dtype)
    phase, s = jnp.asarray(log_phi.imag, x.dtype), jnp.asarray(s, x.dtype)
    limit = math.pi / spacing  # beyond it F is 0 or 1 to rounding, and the rule is periodic

    def one(value: Array) -> Array:
        inside = jnp.clip(value, -limit, limit)
        return 0.5 - spacing / math.pi * jnp.sum(amplitude * jnp.sin(phase - s * inside))

    return jnp.clip(lax.map(one, x.ravel()).reshape(x.shape), 0, 1)
