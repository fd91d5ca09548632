"""Flows of dynamical-systems theory, stepped by `rk4`: references for exponents.

Convention: exponents of their chains are nats per step; divide by `System.dt` for unit time.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, describe, worded
from gradhorizon.cells._cell import default_dtype
from gradhorizon.cells._rk4 import System, rk4


def lorenz(
    dt: float = 0.005,
    *,
    sigma: Any = 10.0,
    rho: Any = 28.0,
    beta: Any = 8.0 / 3.0,
    dtype: Any = None,
) -> System:
    """Build the Lorenz-63 flow x' = σ(y - x), y' = x(ρ - z) - y, z' = x y - β z.

    Parameters
    ----------
    dt
        The time that one step takes.
    sigma, rho, beta
        σ, ρ, β.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; divide rates per step by dt.

    Notes
    -----
    Exponents per unit time at the default values: 0.9056, 0, -14.5723 (Sprott 2003, table A.3).
    Their sum is -(σ + 1 + β) exactly, for every orbit of the flow.

    References
    ----------
    Lorenz, J. Atmos. Sci. 20 (1963); J. C. Sprott, Chaos and Time-Series Analysis (2003).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> flow = gh.maps.lorenz(dt=0.002)
    >>> spectrum = gh.lyapunov_spectrum(gh.jacobian_chain(*flow, length=2000))
    >>> round(float(spectrum.exponents.sum()) / flow.dt, 3)
    -13.667
    """
    constants = _constants(dtype, sigma=sigma, rho=rho, beta=beta)
    return System(rk4(_lorenz, dt), constants, _point(dtype, 1.0, 1.0, 20.0))


def _lorenz(params: Any, h: Array, _x: Any) -> Array:
    return jnp.stack(
        [
            params["sigma"] * (h[1] - h[0]),
            h[0] * (params["rho"] - h[2]) - h[1],
            h[0] * h[1] - params["beta"] * h[2],
        ]
    )


def rossler(
    dt: float = 0.02, *, a: Any = 0.2, b: Any = 0.2, c: Any = 5.7, dtype: Any = None
) -> System:
    """Build the Rössler flow x' = -y - z, y' = x + a y, z' = b + z(x - c).

    Parameters
    ----------
    dt
        The time that one step takes.
    a, b, c
        The constants.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; divide rates per step by dt.

    Notes
    -----
    Exponents per unit time at the default values: 0.0714, 0, -5.3943 (Sprott 2003). The sum is
    a - c + ⟨x⟩, the mean taken along the orbit.

    References
    ----------
    Rössler, Phys. Lett. A 57 (1976); J. C. Sprott, Chaos and Time-Series Analysis (2003).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> step, params, start = gh.maps.rossler(c=3.0)
    >>> step.field(params, jnp.array([3.0, 1.0, 2.0]), None).round(3).tolist()
    [-3.0, 3.2, 0.2]
    """
    constants = _constants(dtype, a=a, b=b, c=c)
    return System(rk4(_rossler, dt), constants, _point(dtype, 1.0, 1.0, 0.0))


def _rossler(params: Any, h: Array, _x: Any) -> Array:
    return jnp.stack(
        [
            -h[1] - h[2],
            h[0] + params["a"] * h[1],
            params["b"] + h[2] * (h[0] - params["c"]),
        ]
    )


def linz_sprott(dt: float = 0.05, *, a: Any = 0.6, dtype: Any = None) -> System:
    """Build the Linz-Sprott flow x''' = -a x'' - x' + |x| - 1, the state being (x, x', x'').

    Parameters
    ----------
    dt
        The time that one step takes.
    a
        The damping of x''; chaotic at 0.6.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; divide rates per step by dt.

    Notes
    -----
    The sum of the exponents is -a per unit time exactly. The field has a kink at x = 0, which is
    crossed in O(dt) of the time: there the derivative is one-sided and the scheme of lower order.

    References
    ----------
    Linz & Sprott, "Elementary chaotic flow", Phys. Lett. A 259 (1999).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> flow = gh.maps.linz_sprott()
    >>> spectrum = gh.lyapunov_spectrum(gh.jacobian_chain(*flow, length=1000))
    >>> round(float(spectrum.exponents.sum()) / flow.dt, 4)
    -0.6
    """
    return System(rk4(_linz_sprott, dt), _constants(dtype, a=a), _point(dtype, 0.1, 0.0, 0.0))


def _linz_sprott(params: Any, h: Array, _x: Any) -> Array:
    jerk = -params["a"] * h[2] - h[1] + jnp.abs(h[0]) - 1
    return jnp.stack([h[1], h[2], jerk])


def van_der_pol(
    dt: float = 0.01,
    *,
    damping: Any = 5.0,
    amplitude: Any = 5.0,
    frequency: Any = 2.466,
    dtype: Any = None,
) -> System:
    """Build the forced van der Pol flow x'' = μ(1 - x²) x' - x + A cos ωt.

    Parameters
    ----------
    dt
        The time that one step takes.
    damping, amplitude, frequency
        μ, A, ω.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; the state is ((x, x'), steps taken), of which the first has
        derivatives. Divide rates per step by dt.

    Notes
    -----
    Two exponents, since time has none of its own; their sum is μ(1 - ⟨x²⟩) per unit time.

    References
    ----------
    Parlitz & Lauterborn, "Period-doubling cascades and devil's staircases of the driven van der
    Pol oscillator", Phys. Rev. A 36 (1987).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> step, params, start = gh.maps.van_der_pol()
    >>> step.field(params, jnp.array([2.0, 1.0]), None, jnp.asarray(0.0)).tolist()
    [1.0, -12.0]
    """
    constants = _constants(dtype, damping=damping, amplitude=amplitude, frequency=frequency)
    start = (_point(dtype, 1.0, 0.0), jnp.asarray(0, jnp.int32))
    return System(rk4(_van_der_pol, dt, timed=True), constants, start)


def _van_der_pol(params: Any, h: Array, _x: Any, time: Array) -> Array:
    force = params["amplitude"] * jnp.cos(params["frequency"] * time)
    return jnp.stack([h[1], params["damping"] * (1 - h[0] ** 2) * h[1] - h[0] + force])


def linear_flow(matrix: Any, dt: float = 0.01, *, dtype: Any = None) -> System:
    """Build the flow u' = A u, whose exponents are the real parts of the eigenvalues of A.

    Parameters
    ----------
    matrix
        A, shape (n, n).
    dt
        The time that one step takes.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; divide rates per step by dt.

    Raises
    ------
    ValueError
        If A is not a square matrix.

    Notes
    -----
    One step multiplies by I + Z + Z²/2 + Z³/6 + Z⁴/24, Z = A dt: an eigenvalue a decays at
    Re a + O(dt⁴).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> flow = gh.maps.linear_flow([[-0.9]], dt=0.01)
    >>> spectrum = gh.lyapunov_spectrum(gh.jacobian_chain(*flow, length=100))
    >>> (spectrum.exponents / flow.dt).round(5).tolist()
    [-0.9]
    """
    given = jnp.asarray(matrix, default_dtype(dtype))
    if given.ndim != 2 or given.shape[0] != given.shape[1]:
        raise ArgumentError(worded("matrix", "be a square matrix", describe(given)))
    start = jnp.ones(given.shape[0], given.dtype)
    return System(rk4(_linear, dt), {"matrix": given}, start)


def _linear(params: Any, h: Array, _x: Any) -> Array:
    return params["matrix"] @ h


def _constants(dtype: Any, **values: Any) -> dict[str, Array]:
    kind = default_dtype(dtype)
    return {name: jnp.asarray(value, kind) for name, value in values.items()}


def _point(dtype: Any, *entries: float) -> Array:
    return jnp.asarray(np.array(entries), default_dtype(dtype))
