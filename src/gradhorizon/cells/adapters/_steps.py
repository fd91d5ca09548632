"""Adapted steps: hashable, refusing batches; gates where the cell's convention is known.

Steps that close over the same cell are equal, so that analyses compiled for one serve the other.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import ArgumentError, describe, dtype_of, is_key, leaf_name, worded
from gradhorizon.cells.adapters._common import Adapted, cast


@dataclasses.dataclass(frozen=True)
class CellStep:
    """One cell of another library as ``step(params, h, x) -> h``.

    Attributes
    ----------
    call
        The cell in its own words: ``call(params, h, x)`` gives what the library returns.
    place
        Where the new state stands in the returned tuple; None if it is all that is returned.
    dtype
        What floating-point inputs are cast to.
    ranks
        The number of axes of every leaf of an unbatched state.
    """

    call: Callable[[Any, Any, Any], Any]
    place: int | None
    dtype: np.dtype
    ranks: tuple[int, ...]

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Advance the state by one input."""
        returned = self._returned(params, h, x)
        return returned if self.place is None else returned[self.place]

    def advance(self, params: Any, h: Any, x: Any) -> tuple[Any, Any]:
        """Give the next state, and the output that a layer above would see."""
        returned = self._returned(params, h, x)
        if self.place is None:
            return returned, self.visible(returned)
        return returned[self.place], returned[0] if self.place else returned[1]

    def visible(self, state: Any) -> Any:
        """Give the output of a cell that returns its state only."""
        if len(jax.tree.leaves(state)) > 1:
            remedy = "Let it return (carry, out)."
            wanted = "return an output for the layer above"
            raise ArgumentError(worded("cell", wanted, "its state only", remedy))
        return jax.tree.leaves(state)[0]

    def _returned(self, params: Any, h: Any, x: Any) -> Any:
        refuse_batched_state(h, self.ranks)
        return self.call(params, h, cast(x, self.dtype))


@dataclasses.dataclass(frozen=True)
class GatedCellStep(CellStep):
    """A cell of a known kind, which says which gate keeps each part of its state."""

    gates: Callable[[CellStep, Any, Any, Any], dict[str, Array | None]]

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the gate of each leaf of the state, in leaf order; see `gh.cells.GatedStep`."""
        return self.gates(self, params, h, cast(x, self.dtype))

    def output(self, params: Any, h: Any, x: Any) -> Any:
        """Give h, the part of the state that a layer above reads."""
        del params, x
        return self.visible(h)

    def visible(self, state: Any) -> Any:
        """Give the leaf h of a state."""
        leaves = jax.tree.leaves(state)
        if isinstance(self.gates, ForgetGate):
            return leaves[self.gates.names.index("h")]
        return leaves[0]


@dataclasses.dataclass(frozen=True)
class StackedStep:
    """Layers of cells: the state is the tuple of their states, and outputs feed the next."""

    layers: tuple[CellStep, ...]

    def __call__(self, params: Any, h: Any, x: Any) -> tuple[Any, ...]:
        """Advance all layers by one input."""
        states = []
        for layer, weights, state in zip(self.layers, params, h, strict=True):
            state, x = layer.advance(weights, state, x)
            states.append(state)
        return tuple(states)


@dataclasses.dataclass(frozen=True)
class GatedStackedStep(StackedStep):
    """Layers of cells of which at least one declares its gates."""

    def state_gates(self, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give the gates of all layers, ``c[0]``, ``h[0]``, ``c[1]``, …, layer by layer."""
        found: dict[str, Array | None] = {}
        for i, (layer, weights, state) in enumerate(zip(self.layers, params, h, strict=True)):
            if isinstance(layer, GatedCellStep):
                gates = layer.state_gates(weights, state, x)
            else:
                gates = dict.fromkeys(_float_names(state))
            found |= {f"{name}[{i}]": gate for name, gate in gates.items()}
            x = layer.advance(weights, state, x)[1]
        return found


@dataclasses.dataclass(frozen=True)
class ForgetGate:
    """The forget gate of an LSTM with its state's leaves in the order `names`.

    c' = f c + i g with gates that do not depend on c: the derivative of c' along c, times ones,
    is f itself, whatever the library calls its weights.
    """

    names: tuple[str, str]

    def __call__(self, step: CellStep, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give f for the memory c, and no gate for the output h."""
        leaves, tree = jax.tree.flatten(h)
        memory = self.names.index("c")
        along = [jnp.ones_like(a) if i == memory else jnp.zeros_like(a)
                 for i, a in enumerate(leaves)]  # fmt: skip
        _, out = jax.jvp(lambda s: step(params, s, x), (h,), (jax.tree.unflatten(tree, along),))
        gate = jax.tree.leaves(out)[memory]
        return {name: gate if name == "c" else None for name in self.names}


def stack(layers: list[Adapted]) -> Adapted:
    """Put adapted cells on top of each other."""
    steps = tuple(layer.step for layer in layers)
    gated = any(isinstance(step, GatedCellStep) for step in steps)
    kind = GatedStackedStep if gated else StackedStep
    params, h0 = tuple(a.params for a in layers), tuple(a.h0 for a in layers)
    return Adapted(kind(steps), params, h0)  # pyright: ignore[reportArgumentType]


def output_spec(layer: Adapted, x: Any) -> Any:
    """Give shape and dtype of what a layer hands to the one above it."""
    step: Any = layer.step
    return jax.eval_shape(step.advance, layer.params, layer.h0, x)[1]


def refuse_batched_state(h: Any, ranks: tuple[int, ...]) -> None:
    """Refuse a state with more axes than the cell's own.

    A batch would broadcast without a word into a block-diagonal Jacobian of `batch` times the
    size.
    """
    leaves = jax.tree_util.tree_leaves_with_path(h)
    for (path, leaf), rank in zip(leaves, ranks, strict=False):
        if np.ndim(leaf) > rank and not is_key(leaf):
            wanted = f"be one unbatched state, here of {rank} axes"
            name = leaf_name("h0", path)
            raise ArgumentError(worded(name, wanted, describe(leaf), "Batch with jax.vmap."))


def _float_names(state: Any) -> list[str]:
    """Name the differentiated leaves of a state by their key paths."""
    return [
        leaf_name("h", path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not is_key(leaf) and jnp.issubdtype(dtype_of(leaf), jnp.inexact)
    ]
