"""From dc/dt = A c to one step of length dt: four rules, for eigenvalues and for matrices."""

from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float, Inexact

from gradhorizon._checks import worded
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._square import square

METHODS = ("zoh", "bilinear", "euler", "backward")


def discretize(rate: Any, dt: Any, *, method: str = "zoh") -> Inexact[Array, "..."]:
    """Give the eigenvalue of the discrete system that belongs to an eigenvalue of A.

    Zero-order hold exp(dt a); bilinear (1 + dt a/2)/(1 - dt a/2); forward Euler 1 + dt a;
    backward Euler 1/(1 - dt a).

    Parameters
    ----------
    rate
        a, real or complex, any shape.
    dt
        The time step, real.
    method
        "zoh", "bilinear", "euler" or "backward".

    Returns
    -------
    Array
        The discrete eigenvalue, in the shape that both broadcast to.

    Raises
    ------
    ValueError
        If the method is unknown.

    Notes
    -----
    The first, second and fourth keep stable eigenvalues stable for every dt > 0; Euler does for
    |1 + dt a| ≤ 1 only, dt ≤ 2/N for LegS. Bilinear sends fast modes, |dt a| large, to -1: they
    ring instead of vanishing.

    References
    ----------
    Gu et al., "Combining recurrent, convolutional, and continuous-time models with linear state
    space layers", NeurIPS 2021, section 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> [float(gh.theory.hippo.discretize(-2.0, 1.0, method=m)) for m in ("bilinear", "euler")]
    [0.0, -1.0]
    """
    if method not in METHODS:
        raise ValueError(worded("method", f"be one of {', '.join(METHODS)}", repr(method)))
    rate = jnp.asarray(rate)
    if jnp.iscomplexobj(rate):
        scaled = rate * jnp.asarray(dt, rate.real.dtype).astype(rate.dtype)
    else:
        rate, dt = floats(rate, dt)
        scaled = rate * dt
    if method == "zoh":
        return jnp.exp(scaled)
    if method == "bilinear":
        return (1 + scaled / 2) / (1 - scaled / 2)
    return 1 + scaled if method == "euler" else 1 / (1 - scaled)


def discretize_matrix(A: Any, dt: Any, *, method: str = "zoh") -> Float[Array, "n n"]:
    """Give the matrix of one step of length dt of dc/dt = A c, by the rules of `discretize`.

    Parameters
    ----------
    A
        A square matrix.
    dt
        The time step.
    method
        "zoh", "bilinear", "euler" or "backward".

    Returns
    -------
    Array
        Shape of A; its eigenvalues are `discretize` of those of A.

    Raises
    ------
    ValueError
        If `A` is not square, or the method is unknown.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> step = gh.theory.hippo.discretize_matrix(gh.theory.hippo.legs(2), 1.0, method="bilinear")
    >>> jnp.diag(step).round(6).tolist()
    [0.333333, 0.0]
    """
    if method not in METHODS:
        raise ValueError(worded("method", f"be one of {', '.join(METHODS)}", repr(method)))
    matrix, dt = floats(square(A), dt)
    scaled, one = matrix * dt, jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    if method == "zoh":
        return jax.scipy.linalg.expm(scaled)
    if method == "bilinear":
        return jnp.linalg.solve(one - scaled / 2, one + scaled / 2)
    return one + scaled if method == "euler" else jnp.linalg.solve(one - scaled, one)
