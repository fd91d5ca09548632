"""Flows as maps: one step of the classical Runge-Kutta scheme, exact derivative included.

Convention: a chain made from such a step has exponents in nats per step. Divide by dt for nats per
unit time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, require_positive, worded


class System(NamedTuple):
    """A dynamical system without inputs: what `jacobian_chain` takes, in that order.

    ``gh.jacobian_chain(*system, length=T)`` unrolls it.

    Attributes
    ----------
    step
        ``step(params, h, x) -> h``; x is not used.
    params
        The system's constants, by name.
    h0
        A starting point from which the attractor is reached.
    """

    step: Callable[[Any, Any, Any], Any]
    params: Any
    h0: Any

    @property
    def dt(self) -> float:
        """The time that one step takes: rates per step divided by it are rates per unit time."""
        return getattr(self.step, "dt", 1.0)


@dataclasses.dataclass(frozen=True)
class Rk4:
    """h' = h + dt (k_1 + 2 k_2 + 2 k_3 + k_4)/6 for the field that `rk4` was given."""

    field: Callable[..., Any]
    dt: float
    timed: bool

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Advance the state by dt; with `timed`, the state is the pair (h, steps taken)."""
        if not self.timed:
            return self._advanced(h, lambda h, _share: self.field(params, h, x))
        if not (isinstance(h, tuple) and len(h) == 2):
            need = "be the pair (h, number of steps taken) for a timed field"
            remedy = "Pass (h, jnp.asarray(0, jnp.int32))."
            raise ArgumentError(worded("h0", need, type(h).__name__, remedy))
        state, count = h
        dtype = jnp.result_type(*jax.tree.leaves(state))

        def slope(h: Any, share: float) -> Any:
            return self.field(params, h, x, (count.astype(dtype) + share) * self.dt)

        return self._advanced(state, slope), count + 1

    def _advanced(self, h: Any, slope: Callable[[Any, float], Any]) -> Any:
        """Combine the slopes at the shares 0, 1/2, 1/2 and 1 of the step."""
        first = slope(h, 0.0)
        if jax.tree.structure(first) != jax.tree.structure(h):
            need = "return a slope for every leaf of the state, in the same structure"
            raise ArgumentError(worded("field", need, jax.tree.structure(first)))
        second = slope(_moved(h, first, self.dt / 2), 0.5)
        third = slope(_moved(h, second, self.dt / 2), 0.5)
        fourth = slope(_moved(h, third, self.dt), 1.0)

        def add(a: Array, k1: Array, k2: Array, k3: Array, k4: Array) -> Array:
            return a + (k1 + 2 * (k2 + k3) + k4) * (self.dt / 6)

        return jax.tree.map(add, h, first, second, third, fourth)


def _moved(h: Any, slope: Any, time: float) -> Any:
    return jax.tree.map(lambda a, k: a + time * k, h, slope)


def rk4(field: Callable[..., Any], dt: float, *, timed: bool = False) -> Rk4:
    """Make a step from a vector field: the classical fourth-order Runge-Kutta scheme.

    h_{t+1} = h_t + dt (k_1 + 2 k_2 + 2 k_3 + k_4)/6; the step Jacobian is the exact derivative
    of this map, not a discretized variational equation.

    Parameters
    ----------
    field
        ``field(params, h, x) -> dh/dt``, in the structure of h; x is the input of the step, held
        while it lasts. With `timed`, ``field(params, h, x, time)``.
    dt
        The time that one step takes.
    timed
        Whether the field depends on time, as under periodic forcing. The state is then the pair
        ``(h, steps)``, `steps` an integer that starts at 0: time is steps·dt, evaluated inside
        the step as the scheme asks, and has no row in the Jacobian.

    Returns
    -------
    Rk4
        A step for `jacobian_chain`, `unroll` and `diagnose`; ``step.dt`` is dt.

    Raises
    ------
    TypeError
        If `field` is not a function.
    ValueError
        If dt is not positive.

    Notes
    -----
    Four evaluations of the field per step; error O(dt⁴) over a fixed time. Exponents per step
    times 1/dt are those of the flow up to the same order. Stable for a linear decay of rate a
    while a·dt < 2.78; not made for stiff fields. In float32 time keeps seven digits, so that a
    forcing of high frequency loses its phase after many steps.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), table II.1.2.

    Examples
    --------
    Decay under forcing, h' = -h + 2 cos t; its solution from h = 1 is cos t + sin t:

    >>> import gradhorizon as gh
    >>> decay = gh.maps.rk4(lambda rate, h, x, time: -rate * h + 2 * jnp.cos(time), 0.1, timed=True)
    >>> start = (jnp.ones(1), jnp.asarray(0, jnp.int32))
    >>> chain = gh.jacobian_chain(decay, jnp.asarray(1.0), start, length=30)
    >>> chain.final.round(4).tolist(), round(float(jnp.cos(3.0) + jnp.sin(3.0)), 4)
    ([-0.8489], -0.8489)
    >>> (gh.lyapunov_spectrum(chain).exponents / decay.dt).round(5).tolist()
    [-1.0]
    """
    if not callable(field):
        need = "be a function field(params, h, x) -> dh/dt"
        raise TypeError(worded("field", need, type(field).__name__))
    require_positive("dt", dt)
    return Rk4(field, float(dt), timed)
