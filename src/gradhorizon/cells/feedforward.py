"""The untied network: a deep feedforward network is a cell with fresh parameters per layer."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import require_integer
from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, default_dtype, require_sizes
from gradhorizon.cells.activations import activation_of
from gradhorizon.cells.additive import ElmanStep, Zeros


def feedforward(
    width: int,
    depth: int,
    *,
    activation: Any = "tanh",
    weight_init: inits.Initializer | None = None,
    bias_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the deep feedforward network h_l = φ(W_l h_{l-1} + b_l), l = 1 … depth.

    The same step as the Elman cell without inputs, but `init` draws one W and b per layer:
    every parameter has a leading depth axis. Analyze it with ``tied=False``.

    Parameters
    ----------
    width
        n, the number of units in every layer.
    depth
        The number of layers.
    activation
        "tanh", "relu", "sigmoid", "erf", "identity", or any elementwise function.
    weight_init
        Draws each W_l, shape (n, n); default `gh.inits.gaussian(1.0)`.
    bias_init
        Draws each b_l as a column of shape (n, 1), so that the fan-in is 1; zeros if None.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"W": (depth, n, n), "b": (depth, n)}``; `initial_state` is a zero
        input, to be replaced by the data.

    Raises
    ------
    ValueError
        If a size is out of range or the activation unknown.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> net = gh.cells.feedforward(3, 5)
    >>> params = net.init(jax.random.key(0))
    >>> gh.unroll(net.step, params, jnp.ones(3), tied=False).states.shape
    (6, 3)
    """
    require_sizes(width, 0)
    require_integer("depth", depth, 1)
    kind = default_dtype(dtype)
    draw = weight_init or inits.gaussian()

    def layer(key: Any) -> dict[str, Array]:
        for_w, for_b = jax.random.split(key)
        weights = draw(for_w, (width, width), kind)
        if bias_init is None:
            return {"W": weights, "b": jnp.zeros(width, kind)}
        return {"W": weights, "b": bias_init(for_b, (width, 1), kind)[:, 0]}

    def init(key: Any) -> dict[str, Array]:
        layers = [layer(k) for k in jax.random.split(key, depth)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    step = ElmanStep(width, 0, activation_of(activation))
    return Cell(init=init, step=step, initial_state=Zeros(width, kind))
