"""Looped residual blocks: one repeated W against a fresh one in every loop.

Linear blocks h' = (I + ε W) h here; `propagation` follows the nonlinear h' = h + ε φ(W h).

There W is Ginibre with entry variance 1/n. Untied, cross terms vanish on average and E‖h_N‖² =
(1 + ε²)^N. Tied, every path through k copies of W has C(N, k) companions that add up coherently,
so E‖h_N‖² = Σ_k C(N, k)² ε^2k. A loop needs ε = O(1/N) where fresh layers allow O(1/√N).
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, logsumexp
from jaxtyping import Array, Float

from gradhorizon._checks import require_integer
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._residual_field import Propagation as Propagation
from gradhorizon.theory._residual_field import propagation as propagation


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def log_growth(scale: Any, loops: int, *, tied: bool) -> Float[Array, "..."]:
    """Give ln E‖h_N‖² for ‖h_0‖ = 1: N ln(1 + ε²) untied, ln Σ_k C(N, k)² ε^2k tied.

    Parameters
    ----------
    scale
        ε ≥ 0, any shape.
    loops
        N.
    tied
        One W for all loops (exact as the width goes to infinity), or a fresh one for each
        (exact at every width).

    Returns
    -------
    Array
        Nats; half of it is the logarithm of the root mean square.

    Raises
    ------
    TypeError, ValueError
        If `loops` is not an integer ≥ 0.

    Notes
    -----
    The sum is taken in logarithms: relative error about N eps.

    References
    ----------
    Elementary; see docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> growth = gh.theory.residual.log_growth
    >>> round(float(growth(1 / 8, 64, tied=True)) / 2, 4)
    6.4465
    >>> round(float(jnp.exp(growth(1 / 8, 64, tied=False))), 3)  # near e
    2.697
    """
    loops = require_integer("loops", loops, 0)
    (scale,) = floats(scale)
    if not tied:
        return loops * jnp.log1p(scale**2)
    k = np.arange(1, loops + 1)
    log_choose = [
        math.lgamma(loops + 1) - math.lgamma(j + 1) - math.lgamma(loops - j + 1) for j in k
    ]
    k, log_choose = jnp.asarray(k, scale.dtype), jnp.asarray(log_choose, scale.dtype)
    log_scale = jnp.log(jnp.where(scale == 0, 1, jnp.abs(scale)))
    terms = 2 * (jnp.multiply.outer(log_scale, k) + log_choose.reshape((1,) * scale.ndim + (-1,)))
    terms = jnp.concatenate([jnp.zeros((*scale.shape, 1), scale.dtype), terms], axis=-1)
    return jnp.where(scale == 0, 0, logsumexp(terms, axis=-1))


def log_growth_limit(strength: Any, *, tied: bool) -> Float[Array, "..."]:
    """Give the limit N → ∞ of `log_growth` at the scale that keeps it finite.

    Tied with ε = s/N: ln I_0(2s). Untied with ε = s/√N: s².

    Parameters
    ----------
    strength
        s, any shape.
    tied
        One W for all loops, or a fresh one for each.

    Returns
    -------
    Array
        Nats.

    References
    ----------
    Elementary; see docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.residual.log_growth_limit(1.0, tied=True)) / 2, 12)
    0.411996770741
    """
    (strength,) = floats(strength)
    if not tied:
        return strength**2
    argument = 2 * jnp.abs(strength)
    return jnp.log(i0e(argument)) + argument
