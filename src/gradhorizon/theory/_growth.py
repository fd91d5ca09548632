"""How a perturbation grows in a field of known autocovariance: the largest z of one recurrence.

For E δx_t δx_s = z^{t+s} ψ(t-s) the linearized dynamics give, with m = 1 + (z-1)/δ,

    m² ψ_k = (z/h²) (ψ_{k+1} - 2 ψ_k + ψ_{k-1}) + g² E φ'(x_t)φ'(x_{t+k}) ψ_k,   ψ_{-k} = ψ_k.

As δ → 0 it is Schrödinger's equation of Sompolinsky, Crisanti & Sommers with m = 1 + λ.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon.theory._root import falling_root
from gradhorizon.theory._stationary import Field


def growth(field: Field, gain2: Array, leak: Array, coupling: Array) -> Float[Array, ""]:
    """Find the largest m for which ψ decays.

    The recurrence is eliminated from far out to lag 0; all pivots are positive exactly for m
    above the wanted one (Sturm). m² lies between g² times the slopes at infinity and at 0.
    """
    low = lax.stop_gradient(jnp.sqrt(gain2 * field.far_slope))
    high = lax.stop_gradient(jnp.sqrt(gain2 * field.slopes[0]))
    fixed = lax.stop_gradient((field, gain2, leak, coupling))

    def pivot_at(m: Array) -> Array:
        return last_pivot(m, *fixed)

    share = falling_root(lambda share: -pivot_at(low + share * (high - low)), 0.0, 1.0, gain2.dtype)
    m = lax.stop_gradient(low + share * (high - low))
    steep = lax.stop_gradient(jax.grad(pivot_at)(m))
    usable = jnp.isfinite(steep) & (steep > 0)
    pivot = last_pivot(m, field, gain2, leak, coupling)
    # one Newton step: it changes the value by rounding, and carries the derivatives
    refined = m - pivot / jnp.where(usable, steep, 1)
    return jnp.where(usable & (jnp.abs(refined - m) <= 1e-3 * m), refined, m)


def last_pivot(
    m: Array, field: Field, gain2: Array, leak: Array, coupling: Array
) -> Float[Array, ""]:
    """Eliminate ψ from far out to lag 0; negative if any pivot is."""
    couple = coupling * (1 + leak * (m - 1))
    stiffness = jnp.maximum(jnp.square(m) - gain2 * field.far_slope, 0) + 2 * couple
    gap = jnp.square(stiffness) - 4 * jnp.square(couple)
    # off 0, where the derivative of the root is infinite
    outside = 0.5 * (stiffness + jnp.sqrt(jnp.maximum(gap, jnp.finfo(gap.dtype).tiny)))
    diagonal = jnp.square(m) - gain2 * field.slopes + 2 * couple

    def eliminate(pivot: Array, entry: Array) -> tuple[Array, None]:
        return jnp.where(pivot > 0, entry - couple * (couple / pivot), pivot), None

    pivot, _ = lax.scan(eliminate, outside, diagonal[:0:-1])
    positive = pivot > 0
    last = diagonal[0] - 2 * couple * (couple / jnp.where(positive, pivot, 1))
    return jnp.where(positive, last, -1)
