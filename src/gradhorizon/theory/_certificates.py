"""Certificates: norms of the repeated matrix that no input and no state can beat."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import is_concrete, require_positive, worded
from gradhorizon.theory._square import square

SLOPE_BOUNDS = {
    "tanh": 1.0,
    "relu": 1.0,
    "leaky_relu": 1.0,
    "identity": 1.0,
    "hard_tanh": 1.0,
    "softsign": 1.0,
    "softplus": 1.0,
    "elu": 1.0,
    "sigmoid": 0.25,
    "erf": 2 / math.sqrt(math.pi),
    # Φ(x) + x Φ'(x) is largest at x = √2
    "gelu": (1 + math.erf(1.0)) / 2 + math.exp(-1.0) / math.sqrt(math.pi),
    "gelu_tanh": 1.1289930686587719,  # at x = 1.41850; no closed form
    # (x + 2)/4 at the root of x tanh(x/2) = 2
    "silu": (2.3993572805154676 + 2) / 4,
}
"""sup |φ'| of common activations: `leaky_relu` with a slope of at most 1 on the left, `elu` with
α ≤ 1, `gelu` in its exact form x Φ(x), `gelu_tanh` as `jax.nn.gelu` computes it by default."""


def vanishing_certificate(W: Any, slope_bound: Any = 1.0, *, leak: Any = 1.0) -> Float[Array, ""]:
    """Give ln(1 - l + l γ σ_1(W)): no step of h' = (1 - l) h + l φ(W h + …) grows faster.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ = sup |φ'|; see `SLOPE_BOUNDS`.
    leak
        l inside (0, 1]; 1 for a plain network. The form h' = (1 - l) h + l W φ(h) has the same
        bound.

    Returns
    -------
    Array
        Nats per step. If negative, vanishing is certain for every input; if positive, nothing
        follows.

    Raises
    ------
    ValueError
        If `W` is not square, `slope_bound` not positive or `leak` outside (0, 1].

    Notes
    -----
    Of the same sign for every leak: leaking slows the forgetting down and cannot turn it around.
    Cost: one singular value decomposition of n × n.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 2.1, eqs. 5-7.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> rate = gh.theory.bounds.vanishing_certificate(2.0 * jnp.eye(3), slope_bound=0.25)
    >>> round(float(jnp.exp(rate)), 12)
    0.5
    >>> rate = gh.theory.bounds.vanishing_certificate(2.0 * jnp.eye(3), 0.25, leak=0.1)
    >>> round(float(jnp.exp(rate)), 12)
    0.95
    """
    require_positive("slope_bound", slope_bound)
    if is_concrete(leak) and not 0 < float(leak) <= 1:
        raise ValueError(worded("leak", "lie in (0, 1]", float(leak)))
    matrix = square(W, "W")
    share = jnp.asarray(leak, matrix.dtype)
    step = jnp.linalg.norm(matrix, ord=2) * jnp.asarray(slope_bound, matrix.dtype)
    return jnp.log(1 - share + share * step)


def hochreiter_certificate(W: Any, slope_bound: Any = 0.25) -> Float[Array, ""]:
    """Give ln(n γ w_max): the first certificate, from the largest weight alone.

    The error flow over q steps between two units is a sum over n^(q-1) paths, each of q factors
    below γ w_max, hence at most (n γ w_max)^q / n.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ = sup |φ'|; 1/4 for the logistic units of the source.

    Returns
    -------
    Array
        Nats per step. If negative, that is for w_max < 4/n with logistic units, vanishing is
        certain; never below `vanishing_certificate`, because σ_1 ≤ n w_max.

    Raises
    ------
    ValueError
        If `W` is not square or `slope_bound` not positive.

    References
    ----------
    Hochreiter, diploma thesis, TU München (1991); Hochreiter & Schmidhuber, Neural Computation 9
    (1997) 1735, section 3.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> rate = gh.theory.bounds.hochreiter_certificate(jnp.full((2, 2), 1.5))
    >>> round(float(jnp.exp(rate)), 12)  # 2 · 1.5/4
    0.75
    """
    require_positive("slope_bound", slope_bound)
    matrix = square(W, "W")
    largest = jnp.max(jnp.abs(matrix)) * jnp.asarray(slope_bound, matrix.dtype)
    return jnp.log(matrix.shape[0] * largest)


def certified_horizon(
    W: Any, slope_bound: Any = 1.0, *, threshold: Any = 1e-3, leak: Any = 1.0
) -> Float[Array, ""]:
    """Give the lag beyond which the gradient is certainly below `threshold`.

    ln(1/ε)/ln(1/(γ σ_1)) where γ σ_1 < 1, else infinity: the certificate then says nothing.

    Parameters
    ----------
    W
        The repeated matrix, shape (n, n).
    slope_bound
        γ = sup |φ'|; see `SLOPE_BOUNDS`.
    threshold
        ε, inside (0, 1).
    leak
        l inside (0, 1]: 1 - l + l γ σ_1 takes the place of γ σ_1.

    Returns
    -------
    Array
        Steps, not rounded; an upper bound of the true horizon.

    Raises
    ------
    ValueError
        If `W` is not square or another argument outside its range.

    References
    ----------
    Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 2.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> horizon = gh.theory.bounds.certified_horizon(0.1 * jnp.eye(2), threshold=1e-3)
    >>> round(float(horizon), 12)
    3.0
    """
    require_positive("threshold", threshold, below=1.0)
    rate = vanishing_certificate(W, slope_bound, leak=leak)
    width = -jnp.log(jnp.asarray(threshold, rate.dtype))
    return jnp.where(rate < 0, width / jnp.abs(rate), jnp.inf).astype(rate.dtype)
