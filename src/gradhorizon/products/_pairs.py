"""Each value of a complex state once: what a holomorphic step repeats is reported in pairs.

A chain counts two real numbers for every complex one. If the step is holomorphic, its Jacobian
in these numbers is [[A, -B], [B, A]] for the complex derivative A + i B, whose singular values
and exponents it repeats twice. If it is not, they do not come in pairs, and halving them would
be wrong without a word: hence the comparison of every pair with the error bars.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gradhorizon._checks import is_concrete, worded


class Pairs(NamedTuple):
    """The n/2 values of n that come in pairs, descending, and their error bars."""

    values: Float[Array, "*batch half"]
    error_bars: Float[Array, "*batch half"]


def fits(
    values: Float[Array, "*batch n"],
    error_bars: Float[Array, "*batch n"],
    known: Bool[Array, "*batch n"],
) -> Bool[Array, "*batch half"]:
    """Say for every two neighbors whether they agree within their error bars, or are unknown."""
    first, second = values[..., ::2], values[..., 1::2]
    apart = jnp.abs(jnp.where(first == second, 0, first - second))  # -inf twice is a pair too
    unknown = ~(known[..., ::2] & known[..., 1::2])
    return unknown | (apart <= error_bars[..., ::2] + error_bars[..., 1::2])


def each_once(
    values: Float[Array, "*batch n"],
    error_bars: Float[Array, "*batch n"],
    known: Bool[Array, "*batch n"],
) -> Pairs:
    """Give the mean of every pair and the larger of its error bars.

    Raises
    ------
    ValueError
        If n is odd or two neighbors differ by more than their error bars; values that are being
        traced cannot be looked at, and become NaN instead.
    """
    if values.shape[-1] % 2:
        need = "come from a state of complex numbers, which gives an even number of values"
        raise ValueError(worded("spectrum", need, values.shape[-1]))
    good = fits(values, error_bars, known)
    if is_concrete(good) and not bool(jnp.all(good)):
        index = tuple(int(i[0]) for i in jnp.nonzero(~good))
        place = (*index[:-1], 2 * index[-1])
        first, second = values[place], values[(*place[:-1], place[-1] + 1)]
        raise ValueError(
            worded(
                "spectrum",
                "come in pairs that agree within their error bars",
                f"{float(first):.8g} beside {float(second):.8g}",
                "Only a holomorphic step on a complex state repeats its values; read all of them.",
            )
        )
    sure = good & known[..., ::2] & known[..., 1::2]
    first, second = values[..., ::2], values[..., 1::2]
    middle = first + jnp.where(first == second, 0, second - first) / 2
    larger = jnp.maximum(error_bars[..., ::2], error_bars[..., 1::2])
    return Pairs(jnp.where(sure, middle, jnp.nan), jnp.where(sure, larger, jnp.inf))
