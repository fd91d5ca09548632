"""Arguments as arrays of one floating dtype: their own, or the default one."""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def floats(*values: Any) -> tuple[Array, ...]:
    """Give arrays of one floating dtype; Python numbers and integers follow the others."""
    arrays = [jnp.asarray(v) for v in values]
    typed = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating) and not a.weak_type]
    dtype = functools.reduce(jnp.promote_types, typed) if typed else jnp.result_type(float)
    return tuple(a.astype(dtype) for a in arrays)
