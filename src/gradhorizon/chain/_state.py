"""The state of a cell as one real vector plus what travels along undifferentiated.

A state is any pytree. Its real floating-point leaves are raveled, in leaf order, to the n
numbers that Jacobians speak about. Integer, boolean and PRNG-key leaves are auxiliary: they
are carried from step to step but have no derivative (raveling would promote them to floats and
add spurious rows).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import dtype_of, is_key


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """The structure of a state: hashable, so that it can be a static part of a chain."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    differentiable: tuple[bool, ...]

    @staticmethod
    def of(h0: Any) -> "StateSpace":
        """Read the structure off a state (arrays or `ShapeDtypeStruct`s)."""
        leaves, treedef = jax.tree.flatten(h0)
        dtypes = tuple(dtype_of(leaf) for leaf in leaves)
        return StateSpace(
            treedef=treedef,
            shapes=tuple(np.shape(leaf) for leaf in leaves),
            dtypes=dtypes,
            differentiable=tuple(
                not is_key(leaf) and bool(jnp.issubdtype(d, jnp.floating))
                for leaf, d in zip(leaves, dtypes, strict=True)
            ),
        )

    @property
    def size(self) -> int:
        """The number n of differentiated entries."""
        pairs = zip(self.shapes, self.differentiable, strict=True)
        return sum(int(np.prod(shape)) for shape, diff in pairs if diff)

    @property
    def storage_dtype(self) -> np.dtype:
        """The narrowest dtype among the differentiated leaves: it decides the error bars."""
        floats = [d for d, diff in zip(self.dtypes, self.differentiable, strict=True) if diff]
        return np.dtype(min(floats, key=lambda d: jnp.finfo(d).bits))

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the raveled vector: at least float32, since no narrower QR exists."""
        floats = [d for d, diff in zip(self.dtypes, self.differentiable, strict=True) if diff]
        return np.dtype(max([np.float32, *floats], key=lambda d: jnp.finfo(d).bits))

    def ravel(self, h: Any) -> tuple[Float[Array, " n"], tuple[Any, ...]]:
        """Split a state into its vector and its auxiliary leaves."""
        leaves = jax.tree.leaves(h)
        parts, auxiliary = [], []
        for leaf, diff in zip(leaves, self.differentiable, strict=True):
            if diff:
                parts.append(jnp.ravel(leaf).astype(self.dtype))
            else:
                auxiliary.append(leaf)
        return jnp.concatenate(parts), tuple(auxiliary)

    def unravel(self, vector: Float[Array, " n"], auxiliary: tuple[Any, ...]) -> Any:
        """Rebuild the state; inverse of `ravel`."""
        rest, leaves, start = iter(auxiliary), [], 0
        for shape, dtype, diff in zip(self.shapes, self.dtypes, self.differentiable, strict=True):
            if not diff:
                leaves.append(next(rest))
                continue
            stop = start + int(np.prod(shape))
            leaves.append(vector[start:stop].reshape(shape).astype(dtype))
            start = stop
        return jax.tree.unflatten(self.treedef, leaves)

    def labels(self) -> tuple[str, ...]:
        """Name the leaf of every vector entry: ``("[0]", "[0]", "[1]")``."""
        skeleton = jax.tree.unflatten(self.treedef, range(self.treedef.num_leaves))
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(skeleton)]
        names: list[str] = []
        for path, shape, diff in zip(paths, self.shapes, self.differentiable, strict=True):
            names += [path] * int(np.prod(shape)) if diff else []
        return tuple(names)
