"""Coupled oscillators: coRNN, whose state is the pair (y, z) of positions and velocities."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, require_positive, worded
from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import Activation, activation_of
from gradhorizon.cells.gated import ZeroPair, from_input

DAMPING = ("implicit", "explicit")


@dataclasses.dataclass(frozen=True)
class CornnStep:
    """z' = z + dt (φ(W y + V z + U x + b) - γ y - ε z or ε z'), y' = y + dt z'."""

    hidden: int
    inputs: int
    dt: float
    gamma: float
    epsilon: float
    damping: str
    activation: Activation

    def __call__(self, params: Any, h: Any, x: Any) -> tuple[Array, Array]:
        """Advance the state (y, z) by one input."""
        if not (isinstance(h, tuple) and len(h) == 2):
            remedy = "Pass the pair (y, z)."
            raise ArgumentError(worded("h0", "be the pair (y, z)", type(h).__name__, remedy))
        y, z = h
        check_arguments(y, x, self.hidden, self.inputs, name="h0[0]")
        check_arguments(z, x, self.hidden, self.inputs, name="h0[1]")
        total = params["W"] @ y + params["V"] @ z + from_input(params, x)
        force = self.activation.function(total) - self.gamma * y
        if self.damping == "implicit":
            z = (z + self.dt * force) / (1 + self.dt * self.epsilon)
        else:
            z = z + self.dt * (force - self.epsilon * z)
        return y + self.dt * z, z

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give y, the part of the state that a layer above reads."""
        del params, x
        return h[0]


def cornn(
    hidden: int,
    inputs: int,
    *,
    dt: float = 0.05,
    gamma: float = 1.0,
    epsilon: float = 1.0,
    damping: str = "implicit",
    activation: Any = "tanh",
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the coRNN, a network of damped oscillators y'' = φ(W y + V y' + U x + b) - γ y - ε y'.

    One step of length dt, velocities first, then positions with the new velocity:
    z_t = z_{t-1} + dt (φ(W y_{t-1} + V z_{t-1} + U x_t + b) - γ y_{t-1} - ε z_s) and
    y_t = y_{t-1} + dt z_t, where s = t (implicit damping) or s = t - 1 (explicit). The state is
    the pair (y, z), and both are differentiated.

    Parameters
    ----------
    hidden
        n, the number of oscillators.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    dt
        The length of a step, positive.
    gamma
        γ ≥ 0, the square of the frequency of a free oscillator, per unit time squared.
    epsilon
        ε ≥ 0, the damping, per unit time.
    damping
        "implicit", stable for every ε, or "explicit", as in the authors' code.
    activation
        "tanh", "relu", "sigmoid", "erf", "identity", or any elementwise function.
    recurrent_init
        Draws W and V, shape (n, n) each; default `gh.inits.gaussian(1.0)`.
    input_init
        Draws U, shape (n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (n, n), "V": (n, n), "U": (n, m), "b": (n,)}``.

    Raises
    ------
    ValueError
        If a size or a number is out of range, or `damping` or the activation unknown.

    Notes
    -----
    The step is a shear in y after one in z. With V = 0 therefore det J_t = (1 + ε dt)^-n with
    implicit damping and (1 - ε dt)^n with explicit one, at every state: the 2n exponents add up
    to the logarithm of that, and without damping volume is kept exactly. Rates are per step;
    divide by dt for rates per unit time.

    References
    ----------
    Rusch & Mishra, "Coupled oscillatory recurrent neural network (coRNN)", ICLR 2021, eq. 3.

    Examples
    --------
    Free oscillators keep their amplitude up to the damping, ln(1 + ε dt)/2 per step:

    >>> import gradhorizon as gh
    >>> still = gh.inits.gaussian(0.0)
    >>> cell = gh.cells.cornn(2, 0, dt=0.5, gamma=2.0, epsilon=0.1, recurrent_init=still,
    ...                       activation="identity")
    >>> params, start = cell.init(jax.random.key(0)), cell.initial_state()
    >>> chain = gh.jacobian_chain(cell.step, params, start, length=2000)
    >>> gh.lyapunov_spectrum(chain).exponents.round(3).tolist()
    [-0.024, -0.024, -0.024, -0.024]
    >>> round(-float(jnp.log1p(0.1 * 0.5)) / 2, 3)
    -0.024
    """
    require_sizes(hidden, inputs)
    require_positive("dt", dt)
    for name, value in (("gamma", gamma), ("epsilon", epsilon)):
        if not float(value) >= 0:
            raise ValueError(worded(name, "be at least 0", value))
    if damping not in DAMPING:
        raise ValueError(worded("damping", "be 'implicit' or 'explicit'", repr(damping)))
    kind = default_dtype(dtype)
    recurrent, incoming = recurrent_init or inits.gaussian(), input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_w, for_v, for_u = jax.random.split(key, 3)
        square = (hidden, hidden)
        params = {"W": recurrent(for_w, square, kind), "V": recurrent(for_v, square, kind)}
        if inputs:
            params["U"] = incoming(for_u, (hidden, inputs), kind)
        return {**params, "b": jnp.zeros(hidden, kind)}

    numbers = (float(dt), float(gamma), float(epsilon))
    step = CornnStep(hidden, inputs, *numbers, damping, activation_of(activation))
    return Cell(init=init, step=step, initial_state=ZeroPair(hidden, kind))
