"""Self-checks of a diagnosis: identities that hold for every network, evaluated on this one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._compiled import compiled
from gradhorizon._record import record, static
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.gradient import GradientProfile
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.products.lyapunov import LyapunovSpectrum
from gradhorizon.products.singular import SingularSpectrum

# steps over which the chain is compared with automatic differentiation: enough to see a wrong
# order, few enough for the product of norms to stay a meaningful bound
_SEGMENT = 4


@record
class Check:
    """One identity: how far it is off, and how far rounding may put it off.

    Attributes
    ----------
    residual
        The deviation from the identity; NaN where it does not apply.
    tolerance
        The bound that rounding explains.
    name
        What is compared with what.
    """

    residual: Float[Array, "*batch"]
    tolerance: Float[Array, "*batch"]
    name: str = static()

    @property
    def passed(self) -> bool:
        """Whether the residual stays within the tolerance, or does not apply."""
        return bool(jnp.isnan(self.residual) | (self.residual <= self.tolerance))


@compiled
def self_checks(
    chain: JacobianChain,
    explicit: JacobianChain,
    profile: GradientProfile,
    lyapunov: LyapunovSpectrum,
    singular: SingularSpectrum,
) -> tuple[Check, ...]:
    """Evaluate the identities that need no reference, on a chain linearized from a step.

    `explicit` is the same chain, given as matrices where they are small.
    """
    if chain.length == 0:
        return ()
    stop = min(chain.length, _SEGMENT)
    return (
        _chain_is_gradient(chain.segment(0, stop), explicit.segment(0, stop)),
        _sum_is_determinant(chain, lyapunov),
        _profile_below_norm(chain, profile, singular),
    )


def _chain_is_gradient(segment: JacobianChain, explicit: JacobianChain) -> Check:
    """Compare Φᵀu from the chain with `jax.vjp` through the first steps of the network."""
    n, dtype = segment.size, segment.dtype
    eps = float(jnp.finfo(segment.storage_dtype).eps)
    cotangent = jnp.cos(jnp.arange(1, n + 1).astype(dtype))
    pulled, _ = sweep(
        segment, lambda u, link, _: (link.pull(u), None), cotangent[:, None], reverse=True
    )
    through = _vjp_of_unroll(segment, cotangent)
    scale = jnp.maximum(jnp.linalg.norm(through), jnp.finfo(dtype).tiny)
    residual = jnp.linalg.norm(pulled[:, 0] - through) / scale
    # each step rounds relative to the product of norms, which may exceed the norm of the product
    worst, _ = sweep(
        explicit,
        lambda size, link, _: (size * jnp.linalg.norm(link.matrix(), ord=2), None),
        jnp.linalg.norm(cotangent),
    )
    tolerance = 10 * eps * n * max(segment.length, 1) * jnp.maximum(worst / scale, 1)
    return Check(residual, tolerance.astype(dtype), "chain product against jax.vjp of the unroll")


def _vjp_of_unroll(segment: JacobianChain, cotangent: Array) -> Array:
    """Differentiate the composed steps as automatic differentiation sees them."""
    links: Any = segment.links
    points, auxiliary, layers, xs = segment.dense().items
    first = jax.tree.map(lambda a: a[0], (points, auxiliary))

    def network(vector: Array) -> Array:
        def body(state: Any, inputs: Any) -> Any:
            layer, x = inputs
            h = links.space.unravel(*state)
            params = segment.shared if links.tied else layer
            return links.space.ravel(links.step(params, h, x)), None

        (final, _), _ = lax.scan(body, (vector, first[1]), (layers, xs), length=segment.length)
        return final

    return jax.vjp(network, first[0])[1](cotangent)[0]


def _sum_is_determinant(chain: JacobianChain, lyapunov: LyapunovSpectrum) -> Check:
    """Compare Σ λ_i with the mean of ln |det J_t| (all exponents only)."""
    eps = float(jnp.finfo(chain.dtype).eps)
    finite = jnp.where(jnp.isfinite(lyapunov.exponents), jnp.abs(lyapunov.exponents), 0)
    # a loss of digits in the smallest R_ii is weighed by the condition that each step shows
    tolerance = 10 * eps * chain.size * (1 + jnp.sum(finite)) + jnp.sum(lyapunov.rounding_errors)
    name = "sum of exponents against mean ln |det J|"
    return Check(lyapunov.det_residual, tolerance.astype(chain.dtype), name)


def _profile_below_norm(
    chain: JacobianChain, profile: GradientProfile, singular: SingularSpectrum
) -> Check:
    """Check that no gradient outgrows ln σ_1(Φ(T, T-k)), measured by another algorithm."""
    eps = float(jnp.finfo(chain.dtype).eps)
    grown = profile.by_lag[singular.lags]
    top = singular.log_values[:, 0]
    excess = jnp.where(jnp.isfinite(top) & jnp.isfinite(grown), grown - top, 0)
    residual = jnp.maximum(jnp.max(excess, initial=0.0), 0)
    bars = jnp.where(jnp.isfinite(singular.error_bars[:, 0]), singular.error_bars[:, 0], 0)
    tolerance = jnp.max(bars, initial=0.0) + 10 * eps * chain.size * max(chain.length, 1)
    name = "gradient growth below the largest singular value"
    return Check(residual, tolerance.astype(chain.dtype), name)
