"""Gated cells: LSTM with state (c, h), and GRU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, worded
from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, affine, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import sigmoid, tanh
from gradhorizon.cells.additive import Zeros, additive_params


@dataclasses.dataclass(frozen=True)
class LstmStep:
    """c' = f c + i g, h' = o tanh(c'), gates from W h + U x + b in the order i, f, g, o."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> tuple[Array, Array]:
        """Advance the state (c, h) by one input."""
        if not (isinstance(h, tuple) and len(h) == 2):
            remedy = "Pass the pair (c, h)."
            raise ArgumentError(worded("h0", "be the pair (c, h)", type(h).__name__, remedy))
        memory, output = h
        check_arguments(memory, x, self.hidden, self.inputs, name="h0[0]")
        check_arguments(output, x, self.hidden, self.inputs, name="h0[1]")
        i, f, g, o = jnp.split(affine(params, output, x), 4)
        memory = sigmoid(f) * memory + sigmoid(i) * tanh(g)
        return memory, sigmoid(o) * tanh(memory)

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the forget gate, f = ∂c'/∂c at fixed h; no gate keeps the output h."""
        return {"c": sigmoid(affine(_second_rows(params, self.hidden), h[1], x)), "h": None}

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give h, the part of the state that a layer above reads."""
        del params, x
        return h[1]


@dataclasses.dataclass(frozen=True)
class GruStep:
    """h' = (1 - z) n + z h, n = tanh(U_n x + b_n + r (W_n h + d)), gates in the order r, z, n."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        from_state = params["W"] @ h
        r_h, z_h, n_h = jnp.split(from_state, 3)
        r_x, z_x, n_x = jnp.split(from_input(params, x), 3)
        r, z = sigmoid(r_h + r_x), sigmoid(z_h + z_x)
        candidate = tanh(n_x + r * (n_h + params["d"]))
        return (1 - z) * candidate + z * h

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the update gate z, the share of the state that is kept as it is."""
        return {"h": sigmoid(affine(_second_rows(params, self.hidden), h, x))}


def _second_rows(params: dict[str, Array], hidden: int) -> dict[str, Array]:
    """Cut out what the second gate is made from: f of an LSTM, z of a GRU."""
    return {name: leaf[hidden : 2 * hidden] for name, leaf in params.items() if name != "d"}


def from_input(params: dict[str, Array], x: Any) -> Array:
    """Give U x + b, or b alone where the cell has no inputs."""
    return params["b"] + params["U"] @ x if "U" in params else params["b"]


def gate_bias(name: str, start: Any, hidden: int, dtype: np.dtype) -> Callable[[Any], Array]:
    """Give draw(key) for the bias of one gate, shape (n,), from a number or an initializer.

    Raises
    ------
    ValueError
        If it is neither a number, nor n numbers, nor an initializer.
    """
    if callable(start):
        initializer: inits.Initializer = start  # pyright: ignore[reportAssignmentType]
        return lambda key: initializer(key, (hidden,), dtype)
    numeric = hasattr(start, "dtype") or isinstance(start, (int, float, list, tuple))
    if not numeric or np.shape(start) not in ((), (hidden,)):
        need = f"be a number, {hidden} numbers, or an initializer"
        remedy = "Pass a number or, for example, gh.inits.chrono(100.0)."
        raise ValueError(worded(name, need, repr(start), remedy))
    return lambda _: jnp.broadcast_to(jnp.asarray(start, dtype), (hidden,))


@dataclasses.dataclass(frozen=True)
class ZeroPair:
    """Give the state (c, h) of zeros."""

    size: int
    dtype: np.dtype

    def __call__(self) -> tuple[Array, Array]:
        """Give the state before the first input."""
        return jnp.zeros(self.size, self.dtype), jnp.zeros(self.size, self.dtype)


def lstm(
    hidden: int,
    inputs: int,
    *,
    forget_bias: Any = 1.0,
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the LSTM cell; its state is the pair (c, h), and both are differentiated.

    c_t = f_t c_{t-1} + i_t g_t and h_t = o_t tanh(c_t), with i, f, o = σ(·), g = tanh(·) of the
    rows of W h_{t-1} + U x_t + b, in the order i, f, g, o. No peepholes, no projection.

    Parameters
    ----------
    hidden
        n, the number of units; the Jacobian is 2n × 2n.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    forget_bias
        What b_f starts at: a number, or an initializer such as `gh.inits.chrono(T)`. With all
        weights zero the memory decays by σ(forget_bias) per step.
    recurrent_init
        Draws the four n × n blocks of W; default `gh.inits.orthogonal(1.0)`.
    input_init
        Draws U, shape (4n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (4n, n), "U": (4n, m), "b": (4n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, or the bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997); Gers, Schmidhuber & Cummins, "Learning
    to forget" (2000), for the forget gate.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.lstm(3, 2, forget_bias=2.0)
    >>> cell.init(jax.random.key(0))["b"].tolist()[3:6]
    [2.0, 2.0, 2.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    forget = gate_bias("forget_bias", forget_bias, hidden, kind)
    base = additive_params(
        hidden,
        inputs,
        4 * hidden,
        kind,
        recurrent_init or inits.orthogonal(),
        input_init or inits.gaussian(),
    )

    def init(key: Any) -> dict[str, Array]:
        for_weights, for_bias = jax.random.split(key)
        params = base(for_weights)
        return {**params, "b": params["b"].at[hidden : 2 * hidden].set(forget(for_bias))}

    return Cell(init=init, step=LstmStep(hidden, inputs), initial_state=ZeroPair(hidden, kind))


def gru(
    hidden: int,
    inputs: int,
    *,
    update_bias: Any = 0.0,
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the GRU cell h_t = (1 - z_t) n_t + z_t h_{t-1}.

    r, z = σ(·) and n_t = tanh(U_n x_t + b_n + r_t (W_n h_{t-1} + d)): the reset gate acts after
    the matrix, as in cuDNN, Flax and Equinox; z near 1 keeps the state.

    Parameters
    ----------
    hidden
        n, the number of units.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    update_bias
        What b_z starts at: a number, or an initializer such as `gh.inits.chrono(T)`. With all
        weights zero the state decays by σ(update_bias) per step.
    recurrent_init
        Draws the three n × n blocks of W; default `gh.inits.orthogonal(1.0)`.
    input_init
        Draws U, shape (3n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (3n, n), "U": (3n, m), "b": (3n,), "d": (n,)}``, gates in the
        order r, z, n.

    Raises
    ------
    ValueError
        If a size is out of range, or the bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.gru(2, 0, recurrent_init=gh.inits.identity(0.0))
    >>> cell.step(cell.init(jax.random.key(0)), jnp.array([1.0, -4.0]), None).tolist()
    [0.5, -2.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    update = gate_bias("update_bias", update_bias, hidden, kind)
    base = additive_params(
        hidden,
        inputs,
        3 * hidden,
        kind,
        recurrent_init or inits.orthogonal(),
        input_init or inits.gaussian(),
    )

    def init(key: Any) -> dict[str, Array]:
        params = base(key)
        # folded in, not split off: the weights of a key stay the same however the bias starts
        bias = params["b"].at[hidden : 2 * hidden].set(update(jax.random.fold_in(key, 1)))
        return {**params, "b": bias, "d": jnp.zeros(hidden, kind)}

    return Cell(init=init, step=GruStep(hidden, inputs), initial_state=Zeros(hidden, kind))
