"""Latches and folds: when one self-exciting unit holds a bit, and what its gradient does there.

The unit is a' = w φ(a) + b, whose derivative is the repeated factor w φ'(a). A strong weight
makes two attractors for biases between two folds. At a fold the repeated factor is exactly 1.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import require_integer
from gradhorizon._record import record
from gradhorizon.theory._dtype import floats


@record
class Folds:
    """The two biases between which a unit has two attractors; NaN where there are none.

    Attributes
    ----------
    bias
        b at the lower and the upper fold, last axis 2.
    state
        The fixed point a that meets its unstable partner there: on the upper branch at the lower
        fold, on the lower branch at the upper fold.
    curvature
        |w φ''(a)|/2, the same at both: near the fold δ' = δ - curvature · δ².
    """

    bias: Float[Array, "*batch 2"]
    state: Float[Array, "*batch 2"]
    curvature: Float[Array, "*batch"]


def tanh_folds(weight: Any) -> Folds:
    """Find the folds of a' = w tanh(a) + b.

    w sech²(a) = 1 at tanh a = ±s, s = √(1 - 1/w), so b = ∓(w s - artanh s).

    Parameters
    ----------
    weight
        w, any shape.

    Returns
    -------
    Folds
        NaN for w ≤ 1, where the unit has one attractor whatever the bias.

    References
    ----------
    Bengio, Simard & Frasconi, IEEE Trans. Neural Networks 5 (1994) 157, section IV; Doya (1993).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [round(float(b), 12) for b in gh.theory.latch.tanh_folds(1.25).bias]
    [-0.077805169315, 0.077805169315]
    """
    (weight,) = floats(weight)
    strong = weight > 1
    size = jnp.where(strong, weight, 2.0)  # any value keeps the gradient finite
    level = jnp.sqrt(1 - 1 / size)
    net = jnp.arctanh(level)
    return _folds(strong, net, size * level - net, jnp.zeros_like(net), level)


def tanh_latch_bias(weight: Any) -> Float[Array, "..."]:
    """Give h*(w) = w s - artanh s, s = √(1 - 1/w): the bias that a tanh latch withstands.

    a' = w tanh(a) + h has two attractors if and only if w > 1 and |h| < h*(w).

    Parameters
    ----------
    weight
        w, any shape.

    Returns
    -------
    Array
        h*; NaN for w ≤ 1. Near w = 1 it grows like ⅔ (w - 1)^(3/2).

    References
    ----------
    Bengio, Simard & Frasconi, IEEE Trans. Neural Networks 5 (1994) 157, section IV.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.latch.tanh_latch_bias(3.0)), 12)
    1.303273908003
    """
    return tanh_folds(weight).bias[..., 1]


def sigmoid_folds(weight: Any) -> Folds:
    """Find the folds of x' = w σ(x) + b.

    w σ'(x) = 1 at σ(x) = (1 ± √(1 - 4/w))/2, so x = ±2 artanh √(1 - 4/w) and b = x - w σ(x),
    symmetric about -w/2.

    Parameters
    ----------
    weight
        w, any shape.

    Returns
    -------
    Folds
        NaN for w ≤ 4, where the unit has one attractor whatever the bias.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), Fig. 3; Doya (1993).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> folds = gh.theory.latch.sigmoid_folds(5.0)
    >>> [round(float(b), 12) for b in folds.bias]
    [-2.655610338631, -2.344389661369]
    >>> [round(float(x), 12) for x in folds.state]
    [0.962423650119, -0.962423650119]
    """
    (weight,) = floats(weight)
    strong = weight > 4
    size = jnp.where(strong, weight, 8.0)
    level = jnp.sqrt(1 - 4 / size)
    net = 2 * jnp.arctanh(level)
    return _folds(strong, net, size * level / 2 - net, -size / 2, level / 2)


def _folds(exist: Array, net: Array, half_width: Array, center: Array, curvature: Array) -> Folds:
    nothing = jnp.full_like(net, jnp.nan)

    def pair(first: Array, second: Array) -> Array:
        both = (jnp.where(exist, first, nothing), jnp.where(exist, second, nothing))
        return jnp.stack(both, axis=-1)

    return Folds(
        pair(center - half_width, center + half_width),
        pair(net, -net),
        jnp.where(exist, curvature, nothing),
    )


def symmetric_log_gradient(weight: Any, steps: int) -> Float[Array, "..."]:
    """Give ln(dx_t/dx_0) = t ln(w/4) of x' = w σ(x) - w/2 started at its fixed point x = 0.

    One factor repeated: vanishing below w = 4, exploding above it, exactly balanced at it.

    Parameters
    ----------
    weight
        w > 0, any shape.
    steps
        t.

    Returns
    -------
    Array
        Nats; NaN for w < 0.

    Raises
    ------
    TypeError, ValueError
        If `steps` is not an integer ≥ 0.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), Fig. 6, for the map.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> growth = gh.theory.latch.symmetric_log_gradient(5.0, 50)
    >>> round(float(jnp.exp(growth)), 6)
    70064.923216
    """
    steps = require_integer("steps", steps, 0)
    (weight,) = floats(weight)
    return steps * jnp.log(weight / 4)


def fold_gradient(curvature: Any, distance: Any, steps: Any) -> Float[Array, "..."]:
    """Give dδ_t/dδ_0 ≈ (1 + c δ_0 t)⁻² at a fold, on the side from which it attracts.

    The map there is δ' = δ - c δ², the factor 1 - 2 c δ tends to 1, and the gradient decays like
    t⁻²: algebraically, with a rate of 0 nats per step in the limit.

    Parameters
    ----------
    curvature
        c > 0, see `Folds`.
    distance
        δ_0 ≥ 0 from the fold's fixed point, on the stable side.
    steps
        t, a number or a shape that fits the others.

    Returns
    -------
    Array
        The gradient to leading order: relative error O(c δ_0 ln(1 + c δ_0 t)).

    Notes
    -----
    Exact for the flow dδ/dt = -c δ². Negative distances leave through the fold.

    References
    ----------
    Elementary; see docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.latch.fold_gradient(0.5, 0.02, 100))
    0.25
    """
    curvature, distance, steps = floats(curvature, distance, steps)
    return 1 / (1 + curvature * distance * steps) ** 2
