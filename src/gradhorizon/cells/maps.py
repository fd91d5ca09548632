"""Generic dynamical systems as (step, params, h0), for the functions that analyze networks.

A recurrent network is a driven map, and a map whose exponents are known tells whether a method
computes them. Maps of the unit interval drop one binary digit per step, so that in floating
point an orbit ends at 0 after some 53 steps; here the digit that would follow comes from a
counter carried along, as if the starting point had digits without end. Derivatives are exact.

Rates are per step; for the flows divide by `System.dt`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from gradhorizon.cells._flows import _constants, _point
from gradhorizon.cells._flows import linear_flow as linear_flow
from gradhorizon.cells._flows import linz_sprott as linz_sprott
from gradhorizon.cells._flows import lorenz as lorenz
from gradhorizon.cells._flows import rossler as rossler
from gradhorizon.cells._flows import van_der_pol as van_der_pol
from gradhorizon.cells._rk4 import System as System
from gradhorizon.cells._rk4 import rk4 as rk4

Digits = UInt[Array, ""]


def logistic(r: Any = 4.0, *, dtype: Any = None) -> System:
    """Build the logistic map x' = r x (1 - x).

    Parameters
    ----------
    r
        The growth parameter, 0 … 4.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state of shape (1,).

    Notes
    -----
    At r = 4 the exponent is ln 2, and the finite sum is known for every orbit:
    Σ ln|4 - 8 x_t| = T ln 2 + ½ ln [x_T(1 - x_T) / (x_0(1 - x_0))].

    References
    ----------
    Ulam & von Neumann, Bull. Amer. Math. Soc. 53 (1947).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> spectrum = gh.lyapunov_spectrum(gh.jacobian_chain(*gh.maps.logistic(), length=4000))
    >>> round(float(spectrum.exponents[0]), 2), round(float(jnp.log(2.0)), 2)
    (0.69, 0.69)
    """
    return System(_logistic, _constants(dtype, r=r), _point(dtype, 0.3))


def _logistic(params: Any, h: Array, _x: Any) -> Array:
    return params["r"] * h * (1 - h)


def tent(slope: Any = 2.0, *, dtype: Any = None) -> System:
    """Build the tent map x' = s·min(x, 1 - x), whose exponent is ln s for every orbit.

    Parameters
    ----------
    slope
        s, 1 … 2.
    dtype
        The floating-point type, float32 or float64; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; the state is (x, digits to come), of which x has a derivative.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.tent(1.5), length=300)
    >>> round(float(gh.lyapunov_spectrum(chain).exponents[0] / jnp.log(1.5)), 5)
    1.0
    """
    start = (_point(dtype, 0.3), jnp.asarray(1, jnp.uint32))
    return System(_tent, _constants(dtype, slope=slope), start)


def _tent(params: Any, h: tuple[Array, Digits], _x: Any) -> tuple[Array, Digits]:
    point, digits = h
    # a where, not a minimum, whose derivative at the tie would be the mean of both slopes
    folded = params["slope"] * jnp.where(point < 0.5, point, 1 - point)
    digit, digits = _next_digit(digits, point.dtype)
    return folded + digit, digits


def _next_digit(digits: Digits, dtype: Any) -> tuple[Array, Digits]:
    """Give the binary digit that moves into the last place of a number in [0, 1)."""
    digits = digits * jnp.uint32(1664525) + jnp.uint32(1013904223)
    last = np.asarray(jnp.finfo(dtype).eps / 2, dtype)
    return (digits >> jnp.uint32(31)).astype(dtype) * last, digits


def baker(*, dtype: Any = None) -> System:
    """Build the baker's map (x, y) -> (2x mod 1, (y + ⌊2x⌋)/2), with exponents ±ln 2.

    Parameters
    ----------
    dtype
        The floating-point type, float32 or float64; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``; the state is ((x, y), digits to come), of which the first has
        derivatives.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.baker(), length=300)
    >>> jnp.exp(gh.lyapunov_spectrum(chain).exponents).round(4).tolist()
    [2.0, 0.5]
    """
    return System(_baker, {}, (_point(dtype, 0.3, 0.7), jnp.asarray(1, jnp.uint32)))


def _baker(_params: Any, h: tuple[Array, Digits], _x: Any) -> tuple[Array, Digits]:
    (first, second), digits = h
    half = jnp.floor(2 * first)
    digit, digits = _next_digit(digits, first.dtype)
    return jnp.stack([2 * first - half + digit, (second + half) / 2]), digits


def cat(*, dtype: Any = None) -> System:
    """Build Arnold's cat map (x, y) -> (2x + y, x + y) mod 1, exponents ±ln((3 + √5)/2).

    Parameters
    ----------
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state of shape (2,).

    Notes
    -----
    The Jacobian is [[2, 1], [1, 1]] everywhere; the orbit moves on the grid of multiples of
    eps, which the map permutes, and does not end.

    References
    ----------
    Arnold & Avez, Ergodic Problems of Classical Mechanics (1968).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.cat(), length=300)
    >>> gh.lyapunov_spectrum(chain, burn_in=50).exponents.round(4).tolist()
    [0.9624, -0.9624]
    """
    return System(_cat, {}, _point(dtype, 0.3, 0.7))


def _cat(_params: Any, h: Array, _x: Any) -> Array:
    moved = jnp.stack([2 * h[0] + h[1], h[0] + h[1]])
    return moved - jnp.floor(moved)


def standard(K: Any = 10.0, *, dtype: Any = None) -> System:
    """Build the standard map of Chirikov, p' = p + K sin θ, θ' = θ + p', both mod 2π.

    Parameters
    ----------
    K
        The strength of the kick.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state (θ, p).

    Notes
    -----
    Area-preserving: the exponents sum to 0. For large K the first is close to ln(K/2); below
    K = 5 islands remain, and it depends on where the orbit starts.

    References
    ----------
    Chirikov, Phys. Rep. 52 (1979), section 5.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.standard(), length=500)
    >>> abs(round(float(gh.lyapunov_spectrum(chain).exponents.sum()), 3))
    0.0
    """
    return System(_standard, _constants(dtype, K=K), _point(dtype, 1.0, 0.5))


def _standard(params: Any, h: Array, _x: Any) -> Array:
    momentum = h[1] + params["K"] * jnp.sin(h[0])
    moved = jnp.stack([h[0] + momentum, momentum])
    turn = 2 * np.pi
    return moved - turn * jnp.floor(moved / turn)


def henon(*, a: Any = 1.4, b: Any = 0.3, dtype: Any = None) -> System:
    """Build the Hénon map x' = 1 - a x² + y, y' = b x.

    Parameters
    ----------
    a, b
        The constants; the determinant is -b everywhere.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state (x, y).

    Notes
    -----
    Exponents at the default values: 0.41922, -1.62319 (Sprott 2003); their sum is ln b exactly.

    References
    ----------
    Hénon, Commun. Math. Phys. 50 (1976); J. C. Sprott, Chaos and Time-Series Analysis (2003).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.henon(), length=2000)
    >>> spectrum = gh.lyapunov_spectrum(chain, burn_in=100)
    >>> round(float(spectrum.exponents.sum()), 4), round(float(jnp.log(0.3)), 4)
    (-1.204, -1.204)
    """
    return System(_henon, _constants(dtype, a=a, b=b), _point(dtype, 0.1, 0.1))


def _henon(params: Any, h: Array, _x: Any) -> Array:
    return jnp.stack([1 - params["a"] * h[0] ** 2 + h[1], params["b"] * h[0]])


def ikeda(u: Any = 0.9, *, dtype: Any = None) -> System:
    """Build the Ikeda map z' = 1 + u z exp(iτ), τ = 0.4 - 6/(1 + |z|²), with z = x + iy.

    Parameters
    ----------
    u
        The share of the light that stays in the ring; |det J| = u² everywhere.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state (x, y).

    Notes
    -----
    The exponents sum to 2 ln u exactly.

    References
    ----------
    Hammel, Jones & Moloney, J. Opt. Soc. Am. B 2 (1985).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.ikeda(), length=500)
    >>> total = gh.lyapunov_spectrum(chain).exponents.sum()
    >>> round(float(total / jnp.log(0.9)), 4)
    2.0
    """
    return System(_ikeda, _constants(dtype, u=u), _point(dtype, 0.1, 0.1))


def _ikeda(params: Any, h: Array, _x: Any) -> Array:
    angle = 0.4 - 6 / (1 + h[0] ** 2 + h[1] ** 2)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.stack([h[0] * cosine - h[1] * sine, h[0] * sine + h[1] * cosine])
    return params["u"] * turned + jnp.stack([jnp.ones_like(angle), jnp.zeros_like(angle)])


def folded_towel(*, dtype: Any = None) -> System:
    """Build Rössler's folded-towel map, with two positive exponents.

    x' = 3.8 x(1 - x) - 0.05 (y + 0.35)(1 - 2z), y' = 0.1 ((y + 0.35)(1 - 2z) - 1)(1 - 1.9x),
    z' = 3.78 z(1 - z) + 0.2 y.

    Parameters
    ----------
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    System
        ``(step, params, h0)``, the state of shape (3,).

    References
    ----------
    Rössler, "An equation for hyperchaos", Phys. Lett. A 71 (1979).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> chain = gh.jacobian_chain(*gh.maps.folded_towel(), length=3000)
    >>> int((gh.lyapunov_spectrum(chain).exponents > 0.2).sum())
    2
    """
    return System(_folded_towel, {}, _point(dtype, 0.085, -0.121, 0.075))


def _folded_towel(_params: Any, h: Array, _x: Any) -> Array:
    fold = (h[1] + 0.35) * (1 - 2 * h[2])
    return jnp.stack(
        [
            3.8 * h[0] * (1 - h[0]) - 0.05 * fold,
            0.1 * (fold - 1) * (1 - 1.9 * h[0]),
            3.78 * h[2] * (1 - h[2]) + 0.2 * h[1],
        ]
    )
