"""Cells with one repeated matrix: linear, Elman, and leaky rate networks.

Steps are frozen dataclasses rather than closures: two cells with the same settings are equal,
so that `jax.jit` compiles once for both.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from gradhorizon._checks import require_positive, worded
from gradhorizon.cells import inits
from gradhorizon.cells._cell import (
    Cell,
    RepeatedTerm,
    affine,
    check_arguments,
    default_dtype,
    require_sizes,
)
from gradhorizon.cells.activations import Activation, activation_of


@dataclasses.dataclass(frozen=True)
class ElmanStep:
    """h' = φ(W h + U x + b)."""

    hidden: int
    inputs: int
    activation: Activation

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        return self.activation.function(affine(params, h, x))

    def repeated_term(self, params: Any) -> RepeatedTerm:
        """Give W and what surrounds it in J_t = diag(φ'(a_t)) W."""
        return RepeatedTerm(
            params["W"], self.activation, 1.0, params["b"], params.get("U"), preactivation=False
        )


@dataclasses.dataclass(frozen=True)
class RateStep:
    """x' = (1 - leak) x + leak (W φ(x) + U u + b)."""

    hidden: int
    inputs: int
    leak: float
    activation: Activation

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        drive = affine(params, self.activation.function(h), x)
        return (1 - self.leak) * h + self.leak * drive

    def repeated_term(self, params: Any) -> RepeatedTerm:
        """Give W and what surrounds it in J_t = (1 - leak) I + leak W diag(φ'(x_t))."""
        return RepeatedTerm(
            params["W"],
            self.activation,
            self.leak,
            params["b"],
            params.get("U"),
            preactivation=True,
        )


@dataclasses.dataclass(frozen=True)
class LeakyStep(RateStep):
    """The same with a leak below 1: a share of the state stays as it is."""

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the share 1 - leak, the same for every unit."""
        del params, x
        return {"h": jnp.full_like(h, 1 - self.leak)}


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Give a zero vector, real or complex, as the initial state."""

    size: int
    dtype: np.dtype

    def __call__(self) -> Inexact[Array, " n"]:
        """Give the state before the first input."""
        return jnp.zeros(self.size, self.dtype)


def additive_params(
    hidden: int,
    inputs: int,
    rows: int,
    dtype: np.dtype,
    recurrent_init: inits.Initializer,
    input_init: inits.Initializer,
) -> Any:
    """Give init(key) for {"W": (rows, hidden), "U": (rows, inputs), "b": (rows,)}.

    W is drawn in square blocks of `hidden` rows, one per gate, so that an orthogonal or
    identity initializer means what it says.
    """

    def init(key: Any) -> dict[str, Array]:
        for_w, for_u = jax.random.split(key)
        gates = jax.random.split(for_w, rows // hidden)
        blocks = [recurrent_init(k, (hidden, hidden), dtype) for k in gates]
        params = {"W": jnp.concatenate(blocks), "b": jnp.zeros(rows, dtype)}
        if inputs:
            params["U"] = input_init(for_u, (rows, inputs), dtype)
        return params

    return init


def elman(
    hidden: int,
    inputs: int,
    *,
    activation: Any = "tanh",
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the Elman cell h_t = φ(W h_{t-1} + U x_t + b); J_t = diag(φ'(a_t)) W.

    Parameters
    ----------
    hidden
        n, the number of units.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    activation
        "tanh", "relu", "sigmoid", "erf", "identity", or any elementwise function.
    recurrent_init
        Draws W, shape (n, n); default `gh.inits.gaussian(1.0)`.
    input_init
        Draws U, shape (n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W", "U", "b"}`` (no "U" without inputs), the state is a vector (n,),
        the biases start at zero.

    Raises
    ------
    ValueError
        If a size is out of range or the activation unknown.

    References
    ----------
    Elman, "Finding structure in time", Cognitive Science 14 (1990).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.elman(4, 2)
    >>> params = cell.init(jax.random.key(0))
    >>> cell.step(params, cell.initial_state(), jnp.zeros(2)).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    recurrent, incoming = recurrent_init or inits.gaussian(), input_init or inits.gaussian()
    return Cell(
        init=additive_params(hidden, inputs, hidden, kind, recurrent, incoming),
        step=ElmanStep(hidden, inputs, activation_of(activation)),
        initial_state=Zeros(hidden, kind),
    )


def linear(
    hidden: int,
    inputs: int,
    *,
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the linear cell h_t = W h_{t-1} + U x_t + b; J_t = W at every step.

    Parameters
    ----------
    hidden, inputs, recurrent_init, input_init, dtype
        As for `elman`.

    Returns
    -------
    Cell
        The cell; its long Jacobian Φ(t, s) is W^(t-s) exactly.

    Raises
    ------
    ValueError
        If a size is out of range.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.linear(2, 0, recurrent_init=gh.inits.identity(3.0))
    >>> cell.step(cell.init(jax.random.key(0)), jnp.ones(2), None).tolist()
    [3.0, 3.0]
    """
    return elman(
        hidden,
        inputs,
        activation="identity",
        recurrent_init=recurrent_init,
        input_init=input_init,
        dtype=dtype,
    )


def rate_network(
    hidden: int,
    inputs: int,
    *,
    leak: float = 1.0,
    activation: Any = "tanh",
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the leaky rate network x' = (1 - leak) x + leak (W φ(x) + U u + b).

    The state is the pre-activation: J_t = (1 - leak) I + leak W diag(φ'(x_{t-1})). With
    ``leak = dt/τ`` it is the Euler step of τ dx/dt = -x + W φ(x) + U u + b.

    Parameters
    ----------
    hidden, inputs, activation, recurrent_init, input_init, dtype
        As for `elman`.
    leak
        The share of the state that is replaced in one step, in (0, 1].

    Returns
    -------
    Cell
        The cell.

    Raises
    ------
    ValueError
        If `leak` is outside (0, 1], a size is out of range, or the activation unknown.

    References
    ----------
    Sompolinsky, Crisanti & Sommers, "Chaos in random neural networks", PRL 61 (1988), eq. 1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.rate_network(1, 0, leak=0.25, recurrent_init=gh.inits.identity(0.0))
    >>> cell.step(cell.init(jax.random.key(0)), jnp.array([1.0]), None).tolist()
    [0.75]
    """
    require_sizes(hidden, inputs)
    require_positive("leak", leak)
    if leak > 1:
        raise ValueError(worded("leak", "lie in (0, 1]", leak))
    kind = default_dtype(dtype)
    recurrent, incoming = recurrent_init or inits.gaussian(), input_init or inits.gaussian()
    step = RateStep if leak == 1 else LeakyStep
    return Cell(
        init=additive_params(hidden, inputs, hidden, kind, recurrent, incoming),
        step=step(hidden, inputs, float(leak), activation_of(activation)),
        initial_state=Zeros(hidden, kind),
    )
