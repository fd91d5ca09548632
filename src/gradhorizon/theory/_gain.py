"""Growth of ln ‖h‖² through fresh Gaussian layers, and the gain that stops it on average."""

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, zeta
from jaxtyping import Array, Float

from gradhorizon._checks import require_integer, worded


def trigamma(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Give ψ'(x)."""
    return zeta(jnp.full_like(x, 2), x)


def log_growth_moments(n: int, activation: str = "linear") -> tuple[Array, Array]:
    """Give mean and variance of ln(‖h_l‖²/‖h_{l-1}‖²) for weights with entries N(0, 1/N).

    Linear: ψ(N/2) + ln(2/N) and ψ'(N/2). ReLU: given that K > 0 units are active,
    K ~ Binomial(N, 1/2), they are those of N replaced by K (with ln(2/N) kept), so the mean is
    E ψ(K/2) + ln(2/N) and the variance E ψ'(K/2) + Var ψ(K/2).

    Parameters
    ----------
    n
        Width N.
    activation
        "linear" or "relu".

    Returns
    -------
    tuple of Array
        Nats and nats² per layer; half and a quarter of them belong to ln ‖h‖. The layers are
        independent, so both add over depth.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer or the activation unknown.

    References
    ----------
    Sussillo & Abbott, "Random walk initialization for training very deep feedforward
    networks" (2014), who approximate these expectations.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> mean, variance = gh.theory.random_matrix.log_growth_moments(10, "relu")
    >>> round(float(mean), 9)
    -1.000608191
    """
    n = require_integer("n", n, 1)
    if activation == "linear":
        half = jnp.asarray(n / 2)
        return digamma(half) + math.log(2 / n), trigamma(half)
    if activation != "relu":
        raise ValueError(worded("activation", "be 'linear' or 'relu'", repr(activation)))
    k = jnp.asarray(np.arange(1, n + 1)).astype(float)
    choose = gammaln(n + 1.0) - gammaln(k + 1) - gammaln(n - k + 1)
    weights = jnp.exp(choose - n * math.log(2.0))
    weights = weights / jnp.sum(weights)
    mean = jnp.sum(weights * digamma(k / 2))
    spread = jnp.square(digamma(k / 2) - mean)
    return mean + math.log(2 / n), jnp.sum(weights * (trigamma(k / 2) + spread))


def optimal_gain(n: int, activation: str = "linear") -> Float[Array, ""]:
    """Give the gain at which E ln(‖h_l‖²/‖h_{l-1}‖²) = 0 for fresh Gaussian layers.

    exp(-m/2) with m the mean of `log_growth_moments`.

    Parameters
    ----------
    n
        Width N.
    activation
        "linear" or "relu".

    Returns
    -------
    Array
        The factor of weights with entries N(0, 1/N).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer or the activation unknown.

    References
    ----------
    Sussillo & Abbott, "Random walk initialization for training very deep feedforward
    networks" (2014), who approximate these expectations.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_matrix.optimal_gain(10)), 9)
    1.053017784
    """
    return jnp.exp(-log_growth_moments(n, activation)[0] / 2)
