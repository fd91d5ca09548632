"""Layers of cells, one above the other: the state is the tuple of the layers' states."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, describe, dtype_of, leaf_name, worded
from gradhorizon.cells._cell import Cell

Read = Callable[[Any], Array]


@dataclasses.dataclass(frozen=True)
class StackedStep:
    """h'_1 = step_1(h_1, x), h'_l = step_l(h_l, read(h'_{l-1})): all layers at one time step."""

    steps: tuple[Any, ...]
    reads: tuple[Read | None, ...]

    @property
    def inputs(self) -> Any:
        """The size of an input of the lowest layer, None where it does not say."""
        return getattr(self.steps[0], "inputs", None)

    def __call__(self, params: Any, h: Any, x: Any) -> tuple[Any, ...]:
        """Advance the states of all layers by one input."""
        return tuple(later for _, later in self._climb(params, h, x))

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the gates of every layer that declares some, each at the input it reads."""
        gates: dict[str, Array | None] = {}
        for number, (below, _) in enumerate(self._climb(params, h, x)):
            step, state = self.steps[number], h[number]
            if hasattr(step, "state_gates"):
                own = step.state_gates(params[number], state, below)
            else:
                paths = jax.tree_util.tree_leaves_with_path(state)
                floats = [p for p, v in paths if jnp.issubdtype(dtype_of(v), jnp.inexact)]
                own = dict.fromkeys(leaf_name("h", path) for path in floats)
            gates |= {f"layer {number + 1} {name}": gate for name, gate in own.items()}
        return gates

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give what a further layer would read of the top one."""
        for number, state in enumerate(h):
            x = self.read(number, params[number], state, x)
        return x

    def read(self, number: int, params: Any, state: Any, x: Any) -> Array:
        """Give the real vector that the layer above reads of one layer, after its step."""
        step, chosen, leaves = self.steps[number], self.reads[number], jax.tree.leaves(state)
        if chosen is not None:
            output = chosen(state)
        elif hasattr(step, "output"):
            output = step.output(params, state, x)
        elif len(leaves) == 1:
            output = leaves[0]
        else:
            have = f"a state of {len(leaves)} leaves"
            remedy = "Pass for example read=lambda state: state[0]."
            need = f"say which part of layer {number + 1} is read"
            raise ArgumentError(worded("read", need, have, remedy))
        output = jnp.asarray(output)
        if jnp.iscomplexobj(output):
            output = jnp.concatenate([jnp.real(output), jnp.imag(output)], axis=-1)
        return output

    def _climb(self, params: Any, h: Any, x: Any) -> list[tuple[Any, Any]]:
        """Give, layer by layer, what it reads and its new state."""
        for name, tree, kinds in (("params", params, (tuple, list)), ("h0", h, tuple)):
            if not (isinstance(tree, kinds) and len(tree) == len(self.steps)):
                seen = f"{type(tree).__name__} of {len(tree)}" if hasattr(tree, "__len__") else tree
                need = f"be a tuple with one entry for each of {len(self.steps)} layers"
                raise ArgumentError(worded(name, need, seen))
        found: list[tuple[Any, Any]] = []
        for number, step in enumerate(self.steps):
            try:
                found.append((x, step(params[number], h[number], x)))
            except ArgumentError as error:
                text = f"layer {number + 1} of the stack: {error}"
                raise ArgumentError(text) from error
            if number + 1 < len(self.steps):
                x = self.read(number, params[number], found[-1][1], x)
        return found


def stacked(*cells: Cell, read: Any = None) -> Cell:
    """Stack cells: layer l reads, at the same time step, what layer l - 1 has just computed.

    h_t^l = step_l(h_{t-1}^l, read(h_t^{l-1})), with h^0 the input. The step Jacobian is block lower
    triangular; its diagonal blocks are the layers' own Jacobians along what they really read.

    Parameters
    ----------
    cells
        The layers, lowest first: each a `Cell`. A bare (step, params, h0) is a layer as
        ``gh.Cell(lambda key: params, step, lambda: h0)``.
    read
        What the layer above reads of a state: a function of the state for all layers, or a list
        with one function, or None, for each. None reads ``step.output(params, h, x)`` of a step
        that has it (h of an LSTM, y of a coRNN, Re(C h) + D x of a state-space layer), and else
        the only leaf of the state. A complex vector is read as its real parts followed by its
        imaginary parts.

    Returns
    -------
    Cell
        Parameters and state are tuples with one entry for each layer.

    Raises
    ------
    TypeError
        If a layer is not a `Cell`, or `read` is neither a function nor a list.
    ValueError
        If there is no layer, `read` has another length, a state has several leaves and nothing
        says which is read, or a layer's output does not fit the layer above in size or dtype.

    Notes
    -----
    What the triangle implies. At every T, exactly: ln|det Φ(T, 0)| is the sum over the layers, the
    gradient never passes from a lower layer's state up, and for a constant Jacobian (linear
    layers) the eigenvalues of a stack are those of its layers together. In the limit, for
    stationary inputs: the Lyapunov exponents of the stack are those of its layers together, each
    layer driven as it is in the stack. At finite T the singular values are not: what a lower
    layer sends up is transient growth, k aᵏ after k steps for two layers that both decay like aᵏ,
    so that the gradient reaches further than either layer's rate says.

    Examples
    --------
    Two integrators h' = h + x, one above the other, count 1, 2, 3 and 1, 3, 6:

    >>> import gradhorizon as gh
    >>> one = gh.inits.identity()
    >>> layer = gh.cells.linear(1, 1, recurrent_init=one, input_init=one)
    >>> cell = gh.cells.stacked(layer, layer)
    >>> params, start = cell.init(jax.random.key(0)), cell.initial_state()
    >>> states = gh.unroll(cell.step, params, start, jnp.ones((3, 1))).states
    >>> [layer[1:, 0].tolist() for layer in states]
    [[1.0, 2.0, 3.0], [1.0, 3.0, 6.0]]
    """
    if not cells:
        raise ValueError(worded("cells", "name at least one layer", "none"))
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, Cell):
            remedy = "Wrap a step as gh.Cell(lambda key: params, step, lambda: h0)."
            raise TypeError(worded(f"layer {number}", "be a Cell", type(cell).__name__, remedy))
    step = StackedStep(tuple(cell.step for cell in cells), _reads(read, len(cells)))
    _check_fit(step, cells)

    def init(key: Any) -> tuple[Any, ...]:
        keys = jax.random.split(key, len(cells))
        return tuple(cell.init(k) for cell, k in zip(cells, keys, strict=True))

    def initial_state() -> tuple[Any, ...]:
        return tuple(cell.initial_state() for cell in cells)

    return Cell(init=init, step=step, initial_state=initial_state)


def _reads(read: Any, layers: int) -> tuple[Read | None, ...]:
    """Give one read function, or None, for each layer."""
    if read is None or callable(read):
        return (read,) * layers  # pyright: ignore[reportReturnType]
    if not isinstance(read, (list, tuple)) or not all(r is None or callable(r) for r in read):
        need = "be a function of a layer's state, or a list of such"
        raise TypeError(worded("read", need, repr(read)))
    if len(read) != layers:
        raise ValueError(worded("read", f"have one entry for each of {layers} layers", len(read)))
    return tuple(read)  # pyright: ignore[reportReturnType]


def _check_fit(step: StackedStep, cells: tuple[Cell, ...]) -> None:
    """Refuse layers of which one cannot read the one below, where sizes and types are known."""
    x: Any = None
    for number, cell in enumerate(cells):
        state = jax.eval_shape(cell.initial_state)
        dtypes = [
            d for d in map(dtype_of, jax.tree.leaves(state)) if jnp.issubdtype(d, jnp.inexact)
        ]
        real = {np.dtype(jnp.finfo(d).dtype) for d in dtypes}
        wanted = getattr(cell.step, "inputs", None)
        if number == 0:
            if not isinstance(wanted, int) or len(real) != 1:
                return  # a user's cell: what it reads shows when it runs
            x = jax.ShapeDtypeStruct((wanted,), real.pop()) if wanted else None
        else:
            _refuse_misfit(number + 1, x, wanted, real)
        if number + 1 < len(cells):
            params = jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0)))
            x = jax.eval_shape(partial(step.read, number), params, state, x)


def _refuse_misfit(layer: int, x: Any, wanted: Any, real: set[np.dtype]) -> None:
    """Compare what a layer is given with what it was built for."""
    if isinstance(wanted, int) and x.shape != (wanted,):
        need = f"read vectors of {wanted} entries, as it was built to"
        remedy = f"Build it with inputs={int(np.prod(x.shape))}."
        seen = f"{describe(x)} from layer {layer - 1}"
        raise ValueError(worded(f"layer {layer}", need, seen, remedy))
    if any(kind != x.dtype for kind in real):
        need = f"have the dtype of what layer {layer - 1} gives, {x.dtype}"
        seen = ", ".join(sorted(str(kind) for kind in real))
        raise ValueError(worded(f"layer {layer}", need, seen, "Build all with one dtype."))
