"""From window sums of growth to errors, convergence, dimension and entropy."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Estimate(NamedTuple):
    """A number with its standard error."""

    value: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]


def standard_errors(windows: Float[Array, "*batch windows k"]) -> Float[Array, "*batch k"]:
    """Give the standard error of the mean over windows; 0 for exponents of -inf."""
    count = windows.shape[-2]
    if count < 2:
        return jnp.full(windows[..., 0, :].shape, jnp.inf, windows.dtype)
    dead = jnp.any(jnp.isneginf(windows), axis=-2)
    finite = jnp.where(dead[..., None, :], 0, windows)
    return jnp.where(dead, 0, jnp.std(finite, axis=-2, ddof=1) / math.sqrt(count))


def settled(
    windows: Float[Array, "*batch windows k"], errors: Float[Array, "*batch k"], steps: int
) -> Bool[Array, "*batch"]:
    """Say whether both halves agree within 10 standard errors and the frame's alignment."""
    count = windows.shape[-2]
    if count < 4:
        return jnp.zeros(windows.shape[:-2], bool)
    early = jnp.mean(windows[..., : count // 2, :], axis=-2)
    late = jnp.mean(windows[..., count // 2 :, :], axis=-2)
    gap = jnp.where(jnp.isfinite(early) & jnp.isfinite(late), jnp.abs(early - late), 0)
    return jnp.all(gap <= 10 * errors + 20 / steps, axis=-1)


def entropy_rate(
    exponents: Float[Array, "*batch k"], windows: Float[Array, "*batch windows k"]
) -> Estimate:
    """Sum the positive exponents (Pesin's formula), with the error of that sum.

    The error comes from the scatter of the sum itself, so that correlations between exponents
    are counted.
    """
    weights = (exponents > 0).astype(exponents.dtype)
    known = jnp.where(jnp.any(jnp.isnan(exponents), axis=-1), jnp.nan, 0).astype(exponents.dtype)
    value = jnp.sum(_where(weights, exponents), axis=-1)
    return Estimate(value + known, _error(weights, windows) + known)


def kaplan_yorke(
    exponents: Float[Array, "*batch k"], windows: Float[Array, "*batch windows k"], size: int
) -> Estimate:
    """Give D = j + (λ_1 + … + λ_j)/|λ_{j+1}|, j the last index whose sum is not negative.

    The error is that of the first-order expansion in the exponents. 0 if λ_1 < 0; n if the sum
    of all n is not negative; NaN if k < n exponents do not reach a negative sum.
    """
    k = exponents.shape[-1]
    sums = jnp.cumsum(exponents, axis=-1)
    rank = jnp.arange(k, dtype=jnp.int32)
    held = jnp.cumprod((sums >= 0).astype(jnp.int32), axis=-1)  # sums are concave: a prefix
    j = jnp.sum(held, axis=-1, dtype=jnp.int32)
    inside = (rank < j[..., None]).astype(exponents.dtype)
    following = (rank == j[..., None]).astype(exponents.dtype)
    total = jnp.sum(_where(inside, exponents), axis=-1)
    next_one = jnp.sum(_where(following, exponents), axis=-1)
    below = jnp.where(j < k, -next_one, 1)
    weights = inside / below[..., None] + following * (total / below**2)[..., None]
    weights = jnp.where(jnp.isneginf(exponents), 0, weights)
    beyond = jnp.asarray(float(size) if k == size else jnp.nan, exponents.dtype)
    fraction = jnp.where(jnp.isinf(below), 0, total / below)
    value = jnp.where(j < k, j.astype(exponents.dtype) + fraction, beyond)
    error = jnp.where(j == 0, 0, _error(weights, windows))
    error = jnp.where(j < k, error, jnp.where(jnp.isnan(beyond), jnp.nan, 0))
    return Estimate(value, jnp.where(jnp.isnan(value), jnp.nan, error))


def _where(weights: Array, values: Array) -> Array:
    """Multiply, with 0 · inf = 0."""
    return jnp.where(weights == 0, 0, weights * jnp.where(weights == 0, 0, values))


def _error(weights: Array, windows: Array) -> Array:
    """Give the standard error of a weighted sum of exponents from its scatter over windows."""
    sums = jnp.sum(_where(weights[..., None, :], windows), axis=-1)
    count = sums.shape[-1]
    if count < 2:
        return jnp.full(sums.shape[:-1], jnp.inf, sums.dtype)
    return jnp.std(sums, axis=-1, ddof=1) / math.sqrt(count)
