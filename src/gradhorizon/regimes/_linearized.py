"""Linearization at one state: at the average of a prefix, and at a fixed point near it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from gradhorizon.chain._links import StepLinks
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.regimes._in_turn import solve, spectral_radius
from gradhorizon.regimes.criteria import Criterion, criterion

_NEWTON_STEPS = 12


def linearized(chain: JacobianChain, *, lag: Any, threshold: Any) -> tuple[Criterion, ...]:
    """Give ρ(J) at the average of the prefix's second half, and at the fixed point next to it.

    Integer inputs and auxiliary state have no average; their last value is used. The fixed
    point is that of the step under the average input, looked for by Newton's method; where it
    is not found the criterion does not apply.
    """

    def middle(leaf: Array) -> Array:
        late = leaf[leaf.shape[0] // 2 :]
        return jnp.mean(late, axis=0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[-1]

    def make(name: str, source: str, needs: str, jacobian: Array) -> Criterion:
        radius = spectral_radius(jacobian)
        settings = {"lag": lag, "threshold": threshold}
        return criterion(
            name, "estimate", source, needs, value=radius, rate=jnp.log(radius), **settings
        )

    item = jax.tree.map(middle, chain.dense().items)
    name, source = "spectral radius at the mean state", "linearization at the time average"
    found = [make(name, source, "a prefix", chain.link(item).matrix())]
    if isinstance(chain.links, StepLinks) and chain.tied:
        point, found_it = _fixed_point(chain, item)
        jacobian = jnp.where(found_it, chain.link((point, *item[1:])).matrix(), jnp.nan)
        name, source = "spectral radius at a fixed point", "Newton's method from the mean state"
        found.append(make(name, source, "a fixed point", jacobian))
    return tuple(found)


def _fixed_point(chain: JacobianChain, item: Any) -> tuple[Array, Array]:
    """Solve step(h) = h by Newton's method from the state of an item; say whether it worked."""
    links, shared, start = chain.links, chain.shared, item[0]
    assert isinstance(links, StepLinks)
    eye = jnp.eye(start.shape[0], dtype=start.dtype)

    def residual(point: Array) -> tuple[Array, Array]:
        new, _, derivative = links.differentiate(shared, (point, *item[1:]))
        return new - point, links.of(derivative).matrix() - eye

    def newton(_: Any, point: Array) -> Array:
        change, slope = residual(point)
        return point - solve(slope, change)

    point = lax.fori_loop(0, _NEWTON_STEPS, newton, start)
    left = jnp.max(jnp.abs(residual(point)[0]))
    tolerance = 1e3 * float(jnp.finfo(start.dtype).eps) * (1 + jnp.max(jnp.abs(point)))
    return point, left <= tolerance
