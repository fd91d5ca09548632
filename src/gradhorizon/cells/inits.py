"""Initializers of weights: functions init(key, shape, dtype) -> array, for any cell here.

They follow the convention of `jax.nn.initializers`, except that weights act on columns
(a = W h): the fan-in N is the last axis.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon import _eigenvalues
from gradhorizon._checks import require_integer, require_positive, worded

Initializer = Callable[[Any, tuple[int, ...], Any], Array]


def gaussian(gain: Any = 1.0) -> Initializer:
    """Draw independent entries N(0, gain²/N), N the fan-in.

    A square matrix then has spectral radius close to `gain` (circular law) and, for large N,
    largest singular value 2·gain.

    Parameters
    ----------
    gain
        Standard deviation times √N; may be traced.

    Returns
    -------
    Initializer
        ``init(key, shape, dtype)``.

    Examples
    --------
    >>> W = gaussian(2.0)(jax.random.key(0), (400, 400), jnp.float32)
    >>> round(float(jnp.std(W)) * 20, 1)
    2.0
    """

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        scale = jnp.asarray(gain, dtype) / jnp.sqrt(jnp.asarray(max(shape[-1], 1), dtype))
        return jax.random.normal(key, shape, dtype) * scale

    return init


def orthogonal(gain: Any = 1.0) -> Initializer:
    """Draw gain times a Haar-distributed orthogonal matrix: all singular values are `gain`.

    Parameters
    ----------
    gain
        The common singular value; may be traced. For shapes that are not square, rows or
        columns are orthonormal up to it; leading axes are stacked independent draws.

    Returns
    -------
    Initializer
        ``init(key, shape, dtype)``.

    Examples
    --------
    >>> W = orthogonal(0.5)(jax.random.key(0), (3, 3), jnp.float32)
    >>> jnp.linalg.norm(W, axis=1).round(3).tolist()
    [0.5, 0.5, 0.5]
    """

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        rows, columns = shape[-2:]
        size = max(rows, columns)
        full = jax.random.orthogonal(key, size, shape[:-2], dtype=dtype)
        return jnp.asarray(gain, dtype) * full[..., :rows, :columns]

    return init


def identity(scale: Any = 1.0) -> Initializer:
    """Give scale times the identity (Le, Jaitly & Hinton 2015 use it with ReLU).

    Parameters
    ----------
    scale
        The diagonal entry; may be traced.

    Returns
    -------
    Initializer
        ``init(key, shape, dtype)``; the key is not used.

    Examples
    --------
    >>> identity(2.0)(None, (2, 2), jnp.float32).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        del key
        eye = jnp.eye(shape[-2], shape[-1], dtype=dtype) * jnp.asarray(scale, dtype)
        return jnp.broadcast_to(eye, shape)

    return init


def sparse(nonzeros: int, *, spectral_radius: Any = 1.0) -> Initializer:
    """Draw a matrix with a few Gaussian entries per row, scaled to a set spectral radius.

    The initialization of echo-state networks and of Sutskever et al. 2013 (15 non-zeros per
    unit).

    Parameters
    ----------
    nonzeros
        Entries different from zero in each row.
    spectral_radius
        The spectral radius ρ that a square matrix is scaled to; matrices that are not square
        have no eigenvalues and are scaled so that their largest singular value is ρ.

    Returns
    -------
    Initializer
        ``init(key, shape, dtype)``; one eigenvalue computation of cost O(N³).

    Raises
    ------
    ValueError
        If there are more nonzeros than columns, or ρ is not positive.

    Examples
    --------
    >>> W = sparse(3, spectral_radius=0.95)(jax.random.key(1), (20, 20), jnp.float32)
    >>> round(float(jnp.max(jnp.abs(jnp.linalg.eigvals(W)))), 4), int((W != 0).sum())
    (0.95, 60)
    """
    require_integer("nonzeros", nonzeros, 1)
    require_positive("spectral_radius", spectral_radius)

    def one(key: Any, rows: int, columns: int, dtype: Any) -> Array:
        places, values = jax.random.split(key)
        order = jax.vmap(lambda k: jax.random.permutation(k, columns))(
            jax.random.split(places, rows)
        )
        entries = jnp.where(order < nonzeros, jax.random.normal(values, (rows, columns), dtype), 0)
        with jax.default_matmul_precision("highest"):
            if rows == columns:
                size = _eigenvalues.spectral_radius(entries)
            else:
                size = jnp.linalg.norm(entries, ord=2)
        return entries * (jnp.asarray(spectral_radius, dtype) / size.astype(dtype))

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        rows, columns = shape[-2:]
        require_integer("nonzeros", nonzeros, 1, columns)
        stack = int(np.prod(shape[:-2], dtype=int))
        keys = jax.random.split(key, stack)
        return jnp.stack([one(k, rows, columns, dtype) for k in keys]).reshape(shape)

    return init


def chrono(longest: float) -> Callable[[Any, tuple[int, ...], Any], Array]:
    """Draw forget-gate biases ln U(1, T - 1), so that time constants spread up to T steps.

    Parameters
    ----------
    longest
        T, the longest dependency in steps; greater than 2.

    Returns
    -------
    Initializer
        ``init(key, shape, dtype)``, to be passed as `forget_bias` of `lstm`.

    Raises
    ------
    ValueError
        If `longest` is not greater than 2.

    References
    ----------
    Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, eq. 16.

    Examples
    --------
    >>> bias = chrono(100.0)(jax.random.key(0), (1000,), jnp.float32)
    >>> bool(bias.min() >= 0) and bool(bias.max() <= jnp.log(99.0))
    True
    """
    if not longest > 2:
        raise ValueError(worded("longest", "be greater than 2 steps", longest))

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.log(jax.random.uniform(key, shape, dtype, minval=1.0, maxval=longest - 1))

    return init
