"""Turning a bad status into an exception, at the outermost un-jitted call only."""

from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from gradhorizon._checks import NumericalError, is_concrete
from gradhorizon._record import Status

_T = TypeVar("_T")


def settle(result: _T, *, throw: bool) -> _T:
    """Give the record back, or raise if it is concrete, non-finite and `throw` is set.

    Raises
    ------
    NumericalError
        Naming the first step whose state, Jacobian or gradient is NaN or infinite.
    """
    details: Any = result
    if throw and is_concrete(result) and (details.status == int(Status.NONFINITE)).any():
        step = details.first_bad_step.max()
        text = (
            f"Step t = {int(step)} of the chain must be finite. Received a NaN or infinite "
            "state, Jacobian or gradient. Guard that step (for example sqrt or norm at 0, or an "
            "overflow), or pass throw=False to get the record with its status."
        )
        raise NumericalError(text)
    return result


def earliest(one: Int[Array, ""], other: Int[Array, ""]) -> Int[Array, ""]:
    """Give the smaller of two step numbers, of which -1 means none."""
    both = (one >= 0) & (other >= 0)
    return jnp.where(both, jnp.minimum(one, other), jnp.maximum(one, other))
