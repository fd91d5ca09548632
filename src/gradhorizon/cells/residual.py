"""The residual block h' = h + ε φ(W h + U x + b), looped (one W) or layered (a fresh one each)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import worded
from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, affine, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import Activation, activation_of
from gradhorizon.cells.additive import Zeros, additive_params


@dataclasses.dataclass(frozen=True)
class ResidualStep:
    """h' = h + scale φ(W h + U x + b)."""

    hidden: int
    inputs: int
    scale: float
    activation: Activation

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        return h + self.scale * self.activation.function(affine(params, h, x))

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give 1: the skip connection keeps all of the state."""
        del params, x
        return {"h": jnp.ones_like(h)}


def residual(
    hidden: int,
    inputs: int,
    *,
    scale: float,
    activation: Any = "tanh",
    recurrent_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the residual block h_t = h_{t-1} + ε φ(W h_{t-1} + U x_t + b).

    J_t = I + ε diag(φ'(a_t)) W. Repeated N times it is a looped block; with fresh parameters for
    every step (``tied=False``) a residual network of N layers.

    Parameters
    ----------
    hidden, inputs, activation, input_init, dtype
        As for `elman`.
    scale
        ε ≥ 0. For N steps 1/√N suits fresh layers, 1/N a looped block.
    recurrent_init
        Draws W, shape (n, n); default `gh.inits.gaussian(1.0)`, variance 1/n.

    Returns
    -------
    Cell
        Parameters are ``{"W", "U", "b"}``; for N layers ``jax.vmap(cell.init)`` of N keys.

    Raises
    ------
    ValueError
        If `scale` is negative or not finite, a size out of range, or the activation unknown.

    See Also
    --------
    gradhorizon.theory.residual : E‖h_N‖² of the linear block, tied and untied.

    References
    ----------
    He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016.

    Examples
    --------
    Four layers W = I with ε = 1/2 grow by 3/2 each:

    >>> import jax
    >>> import gradhorizon as gh
    >>> cell = gh.cells.residual(1, 0, scale=0.5, activation="identity",
    ...                          recurrent_init=gh.inits.identity())
    >>> layers = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 4))
    >>> gh.unroll(cell.step, layers, jnp.ones(1), tied=False).states[:, 0].tolist()
    [1.0, 1.5, 2.25, 3.375, 5.0625]
    """
    require_sizes(hidden, inputs)
    if not 0 <= float(scale) < float("inf"):
        raise ValueError(worded("scale", "be at least 0 and finite", scale))
    kind = default_dtype(dtype)
    recurrent, incoming = recurrent_init or inits.gaussian(), input_init or inits.gaussian()
    return Cell(
        init=additive_params(hidden, inputs, hidden, kind, recurrent, incoming),
        step=ResidualStep(hidden, inputs, float(scale), activation_of(activation)),
        initial_state=Zeros(hidden, kind),
    )
