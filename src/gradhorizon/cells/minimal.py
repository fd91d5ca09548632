"""Minimal gated cells: the minimal RNN, and minGRU and minLSTM whose gates see inputs alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import sigmoid, tanh
from gradhorizon.cells.additive import Zeros
from gradhorizon.cells.gated import from_input, gate_bias


@dataclasses.dataclass(frozen=True)
class MinimalStep:
    """h' = u h + (1 - u) z, z = tanh(U x + b), u = σ(W h + V z + d)."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        z = tanh(from_input(params, x))
        u = self._gate(params, h, z)
        return u * h + (1 - u) * z

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the update gate u, the share of the state that is kept as it is."""
        return {"h": self._gate(params, h, tanh(from_input(params, x)))}

    def _gate(self, params: Any, h: Any, z: Any) -> Array:
        return sigmoid(params["W"] @ h + params["V"] @ z + params["d"])


@dataclasses.dataclass(frozen=True)
class MinGruStep:
    """h' = (1 - z) h + z n, z = σ(U_z x + b_z), n = U_n x + b_n, rows in the order z, n."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        z, candidate = jnp.split(from_input(params, x), 2)
        return sigmoid(-z) * h + sigmoid(z) * candidate

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give 1 - z, the share of the state that is kept: all of J = diag(1 - z)."""
        del h
        return {"h": sigmoid(-from_input(params, x)[: self.hidden])}


@dataclasses.dataclass(frozen=True)
class MinLstmStep:
    """h' = f' h + i' g, f' = f/(f + i), i' = i/(f + i), rows in the order i, f, g."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        odds, candidate = self._split(params, x)
        return sigmoid(odds) * h + sigmoid(-odds) * candidate

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the normalized forget gate f': all of J = diag(f')."""
        del h
        return {"h": sigmoid(self._split(params, x)[0])}

    def _split(self, params: Any, x: Any) -> tuple[Array, Array]:
        """Give ln(f/i), of which f' is the sigmoid, and the candidate g.

        The quotient itself would be 0/0 where both gates underflow.
        """
        i, f, candidate = jnp.split(from_input(params, x), 3)
        return jax.nn.softplus(-i) - jax.nn.softplus(-f), candidate


def minimal_rnn(
    hidden: int,
    inputs: int,
    *,
    update_bias: Any = 0.0,
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the minimal RNN h_t = u_t h_{t-1} + (1 - u_t) z_t with one gate.

    z_t = tanh(U x_t + b) and u_t = σ(W h_{t-1} + V z_t + d), so that
    J_t = diag(u_t) + diag(u_t (1 - u_t) (h_{t-1} - z_t)) W.

    Parameters
    ----------
    hidden
        n, the number of units.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    update_bias
        What d starts at: a number, or an initializer such as `gh.inits.chrono(T)`. With W and V
        zero the state decays by σ(update_bias) per step.
    recurrent_init
        Draws W and V, shape (n, n) each; default `gh.inits.orthogonal(1.0)`.
    input_init
        Draws U, shape (n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (n, n), "V": (n, n), "U": (n, m), "b": (n,), "d": (n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, or the bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Chen, Pennington & Schoenholz, "Dynamical isometry and a mean field theory of RNNs", ICML
    2018, eq. 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.minimal_rnn(2, 0, recurrent_init=gh.inits.identity(0.0))
    >>> cell.step(cell.init(jax.random.key(0)), jnp.array([1.0, -4.0]), None).tolist()
    [0.5, -2.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    update = gate_bias("update_bias", update_bias, hidden, kind)
    recurrent, incoming = recurrent_init or inits.orthogonal(), input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_w, for_v, for_u, for_d = jax.random.split(key, 4)
        square = (hidden, hidden)
        params = {"W": recurrent(for_w, square, kind), "V": recurrent(for_v, square, kind)}
        if inputs:
            params["U"] = incoming(for_u, (hidden, inputs), kind)
        return {**params, "b": jnp.zeros(hidden, kind), "d": update(for_d)}

    return Cell(init=init, step=MinimalStep(hidden, inputs), initial_state=Zeros(hidden, kind))


def min_gru(
    hidden: int,
    inputs: int,
    *,
    keep_bias: Any = 0.0,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the minGRU h_t = (1 - z_t) h_{t-1} + z_t n_t, whose gate sees the input alone.

    z_t = σ(U_z x_t + b_z) and n_t = U_n x_t + b_n, without activation: linear in the state, with
    J_t = diag(1 - z_t). Its exponents are E ln(1 - z_i), one per unit, whatever the weights.

    Parameters
    ----------
    hidden, inputs, dtype
        As for `minimal_rnn`.
    keep_bias
        What -b_z starts at, since z is the share that is replaced: a number, or an initializer
        such as `gh.inits.chrono(T)`. Without inputs the state decays by σ(keep_bias) per step.
    input_init
        Draws U, shape (2n, m); default `gh.inits.gaussian(1.0)`.

    Returns
    -------
    Cell
        Parameters are ``{"U": (2n, m), "b": (2n,)}``, in the order z, n.

    Raises
    ------
    ValueError
        If a size is out of range, or the bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", arXiv:2410.01201
    (2024), section 3.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.min_gru(2, 0, keep_bias=jnp.log(3.0))
    >>> params, start = cell.init(jax.random.key(0)), jnp.array([4.0, -8.0])
    >>> cell.step(params, start, None).round(4).tolist()
    [3.0, -6.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    keep = gate_bias("keep_bias", keep_bias, hidden, kind)
    incoming = input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_u, for_keep = jax.random.split(key)
        params = {"b": jnp.concatenate([-keep(for_keep), jnp.zeros(hidden, kind)])}
        return params | ({"U": incoming(for_u, (2 * hidden, inputs), kind)} if inputs else {})

    return Cell(init=init, step=MinGruStep(hidden, inputs), initial_state=Zeros(hidden, kind))


def min_lstm(
    hidden: int,
    inputs: int,
    *,
    forget_bias: Any = 0.0,
    input_bias: Any = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the minLSTM h_t = f'_t h_{t-1} + i'_t g_t, whose gates see the input alone.

    f' = f/(f + i) and i' = i/(f + i) with i, f = σ(·), g = (·) of the rows of U x_t + b, in the
    order i, f, g: linear in the state, with J_t = diag(f'_t). Its exponents are E ln f', one per
    unit, whatever the weights.

    Parameters
    ----------
    hidden, inputs, dtype
        As for `minimal_rnn`.
    forget_bias
        What b_f starts at: a number, or an initializer such as `gh.inits.chrono(T)`.
    input_bias
        What b_i starts at, likewise. If None it starts at -b_f, which makes f' = f: without
        inputs the state decays by σ(forget_bias) per step. At b_i = 0 f' cannot exceed 2/3.
    input_init
        Draws U, shape (3n, m); default `gh.inits.gaussian(1.0)`.

    Returns
    -------
    Cell
        Parameters are ``{"U": (3n, m), "b": (3n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, or a bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs all we needed?", arXiv:2410.01201
    (2024), section 3.2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.min_lstm(2, 0, forget_bias=jnp.log(3.0))
    >>> params, start = cell.init(jax.random.key(0)), jnp.array([4.0, -8.0])
    >>> cell.step(params, start, None).round(4).tolist()
    [3.0, -6.0]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    forget = gate_bias("forget_bias", forget_bias, hidden, kind)
    admit = None if input_bias is None else gate_bias("input_bias", input_bias, hidden, kind)
    incoming = input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_u, for_f, for_i = jax.random.split(key, 3)
        kept = forget(for_f)
        admitted = -kept if admit is None else admit(for_i)
        params = {"b": jnp.concatenate([admitted, kept, jnp.zeros(hidden, kind)])}
        return params | ({"U": incoming(for_u, (3 * hidden, inputs), kind)} if inputs else {})

    return Cell(init=init, step=MinLstmStep(hidden, inputs), initial_state=Zeros(hidden, kind))
