"""What a cell is: three pure functions. And what its repeated term is, where it has one."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import ArgumentError, describe, dtype_of, require_integer, worded
from gradhorizon.cells.activations import Activation


class Cell(NamedTuple):
    """A recurrent cell as a tuple of pure functions.

    Attributes
    ----------
    init
        ``init(key) -> params``.
    step
        ``step(params, h, x) -> h``, the state after one input.
    initial_state
        ``initial_state() -> h``, the state before the first input.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any, Any, Any], Any]
    initial_state: Callable[[], Any]


class RepeatedTerm(NamedTuple):
    """The matrix that every step Jacobian of a tied network contains.

    J_t = (1 - leak) I + leak · diag(φ'(a_t)) W, or with the diagonal on the right of W for a
    network whose state is the pre-activation.

    Attributes
    ----------
    matrix
        W, shape (n, n).
    activation
        φ, with its largest slope.
    leak
        The share of the state that is replaced in one step; 1 for a map without leak.
    bias
        b, shape (n,).
    inputs
        U, shape (n, m), or None for a cell without inputs.
    preactivation
        Whether the state is the pre-activation (rate networks) or the activation (Elman).
    """

    matrix: Float[Array, "n n"]
    activation: Activation
    leak: float
    bias: Float[Array, " n"]
    inputs: Float[Array, "n m"] | None
    preactivation: bool


class GatedStep(Protocol):
    """A step that says which gate keeps each part of its state.

    Optional: any step with a `state_gates` method. `state_paths` then reports the path through the
    gates alone, and time constants from them; `diagnose` shows both.

    Examples
    --------
    A leaky unit h' = a h + (1 - a) tanh(w h) keeps the share a of its state:

    >>> import jax.numpy as jnp
    >>> import gradhorizon as gh
    >>> class Leaky:
    ...     def __call__(self, params, h, x):
    ...         a, w = params
    ...         return a * h + (1 - a) * jnp.tanh(w * h)
    ...
    ...     def state_gates(self, params, h, x):
    ...         return {"h": jnp.full_like(h, params[0])}
    >>> params = (jnp.asarray(0.75), jnp.asarray(2.0))
    >>> chain = gh.jacobian_chain(Leaky(), params, jnp.zeros(1), length=9)
    >>> direct, total = jnp.exp(jnp.stack(gh.state_paths(chain, lags=[1, 2]).path("h", "h")))
    >>> direct.round(4).tolist(), total.round(4).tolist()
    ([0.75, 0.5625], [1.25, 1.5625])
    """

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Advance the state by one input."""
        ...

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give g_i with h'_i = g_i h_i + …, for each float leaf of the state, in leaf order.

        The key names the leaf, the value has its shape: the derivative of the new entry by the
        old one with everything else fixed, the dependence of the gates on the state included.
        For a complex leaf it may be complex: the factor of the old entry, whose modulus counts.
        None where a leaf has no gate.
        """
        ...


def default_dtype(dtype: Any) -> np.dtype:
    """Give the requested float dtype, or JAX's default one."""
    chosen = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if not jnp.issubdtype(chosen, jnp.floating):
        raise TypeError(worded("dtype", "be a floating-point type", chosen))
    return chosen


def require_sizes(hidden: Any, inputs: Any) -> None:
    """Refuse sizes that are not integers, no hidden units, or a negative number of inputs."""
    require_integer("hidden", hidden, 1)
    require_integer("inputs", inputs, 0)


def require_vector(name: str, leaf: Any, size: int) -> None:
    """Refuse a state or an input that is not a vector of `size` entries.

    A state with a batch axis would otherwise broadcast without a word into a block-diagonal
    Jacobian of `batch` times the size.
    """
    if leaf is None:
        raise ArgumentError(worded(name, f"have shape ({size},)", None))
    if np.shape(leaf) != (size,):
        batched = np.ndim(leaf) > 1
        remedy = "Batch with jax.vmap." if batched else ""
        raise ArgumentError(worded(name, f"have shape ({size},)", describe(leaf), remedy))


def affine(params: dict[str, Any], h: Any, x: Any) -> Array:
    """Give W h + b, plus U x where the cell has inputs."""
    total = params["W"] @ h + params["b"]
    return total + params["U"] @ x if "U" in params else total


def check_arguments(h: Any, x: Any, hidden: int, inputs: int, *, name: str = "h0") -> None:
    """Check state and input of one step against the sizes that the cell was built with."""
    require_vector(name, h, hidden)
    check_input(x, inputs)


def check_input(x: Any, inputs: int) -> None:
    """Check the input of one step of a cell that takes `inputs` numbers, none if 0."""
    if inputs:
        require_vector("xs[t]", x, inputs)
        if not jnp.issubdtype(dtype_of(x), jnp.floating):
            raise ArgumentError(
                worded("xs[t]", "be floating point", describe(x), "Cast the inputs.")
            )
