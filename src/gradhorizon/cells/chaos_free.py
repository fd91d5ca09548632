"""The chaos-free network: without inputs every unit falls towards zero."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, affine, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import sech2, sigmoid, tanh
from gradhorizon.cells.additive import Zeros
from gradhorizon.cells.gated import gate_bias


@dataclasses.dataclass(frozen=True)
class ChaosFreeStep:
    """h' = θ tanh(h) + η tanh(V x), gates from W h + U x + b in the order θ, η."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        theta, eta = jnp.split(sigmoid(affine(params, h, x)), 2)
        kept = theta * tanh(h)
        return kept + eta * tanh(params["V"] @ x) if self.inputs else kept

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give θ tanh'(h), the derivative of θ tanh(h) at fixed gates."""
        theta, _ = jnp.split(sigmoid(affine(params, h, x)), 2)
        return {"h": theta * sech2(h)}


def cfn(
    hidden: int,
    inputs: int,
    *,
    forget_bias: Any = 1.0,
    input_bias: Any = -1.0,
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the chaos-free network h_t = θ_t tanh(h_{t-1}) + η_t tanh(V x_t).

    θ, η = σ(·) of the rows of W h_{t-1} + U x_t + b, in this order. Without inputs
    |h'_i| < |h_i| for every unit that is not zero: the state falls to 0, where
    J = diag(σ(b_θ)), so that the exponents are ln σ(b_θ) < 0, whatever the weights.

    Parameters
    ----------
    hidden
        n, the number of units.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    forget_bias
        What b_θ starts at: a number, or an initializer such as `gh.inits.chrono(T)`.
    input_bias
        What b_η starts at, likewise.
    recurrent_init
        Draws the two n × n blocks of W; default `gh.inits.orthogonal(1.0)`.
    input_init
        Draws U, shape (2n, m), and V, shape (n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (2n, n), "U": (2n, m), "V": (n, m), "b": (2n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, or a bias is neither a number, n numbers nor an initializer.

    References
    ----------
    Laurent & von Brecht, "A recurrent neural network without chaos", ICLR 2017
    (arXiv:1612.06212), eq. 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.cfn(2, 0, forget_bias=jnp.log(3.0))
    >>> params, start = cell.init(jax.random.key(0)), cell.initial_state()
    >>> spectrum = gh.singular_spectrum(gh.jacobian_chain(cell.step, params, start, length=100))
    >>> (jnp.exp(spectrum.log_values / 100)).round(4).tolist()
    [0.75, 0.75]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    forget = gate_bias("forget_bias", forget_bias, hidden, kind)
    admit = gate_bias("input_bias", input_bias, hidden, kind)
    recurrent, incoming = recurrent_init or inits.orthogonal(), input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_w, for_u, for_v, for_f, for_i = jax.random.split(key, 5)
        blocks = [recurrent(k, (hidden, hidden), kind) for k in jax.random.split(for_w)]
        params = {"W": jnp.concatenate(blocks), "b": jnp.concatenate([forget(for_f), admit(for_i)])}
        if inputs:
            params["U"] = incoming(for_u, (2 * hidden, inputs), kind)
            params["V"] = incoming(for_v, (hidden, inputs), kind)
        return params

    return Cell(init=init, step=ChaosFreeStep(hidden, inputs), initial_state=Zeros(hidden, kind))
