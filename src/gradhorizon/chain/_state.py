"""The state of a cell as one real vector plus what travels along undifferentiated.

A state is any pytree. Its floating-point leaves are raveled, in leaf order, to the n real
numbers that Jacobians speak about; a complex leaf gives its real parts, then its imaginary
parts. Derivatives are those of this real vector: exact for every step, while the complex
derivative of a step that is not holomorphic is silently wrong. Integer, boolean and PRNG-key
leaves are auxiliary: they are carried from step to step but have no derivative (raveling would
promote them to floats and add spurious rows).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import dtype_of, is_key, wide_enough


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """The structure of a state: hashable, so that it can be a static part of a chain."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    differentiable: tuple[bool, ...]
    dtype: np.dtype  # of the raveled vector: wide enough to be factorized
    storage_dtype: np.dtype  # the narrowest real format on the way: it decides the error bars

    @staticmethod
    def of(h0: Any, computed_in: Any = None) -> "StateSpace":
        """Read the structure off a state (arrays or `ShapeDtypeStruct`s).

        `computed_in` is the narrowest float format inside the step, where it is known.
        """
        leaves, treedef = jax.tree.flatten(h0)
        dtypes = tuple(dtype_of(leaf) for leaf in leaves)
        differentiable = tuple(
            not is_key(leaf) and bool(jnp.issubdtype(d, jnp.inexact))
            for leaf, d in zip(leaves, dtypes, strict=True)
        )
        real = _real_dtypes(dtypes, differentiable) or [np.dtype(np.float32)]
        formats = real if computed_in is None else [*real, np.dtype(computed_in)]
        return StateSpace(
            treedef=treedef,
            shapes=tuple(np.shape(leaf) for leaf in leaves),
            dtypes=dtypes,
            differentiable=differentiable,
            dtype=max((wide_enough(d) for d in real), key=lambda d: d.itemsize),
            storage_dtype=min(formats, key=lambda d: (jnp.finfo(d).bits, jnp.finfo(d).nmant)),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many real numbers each leaf holds: 0 for an auxiliary one, 2 per complex entry."""
        rows = zip(self.shapes, self.dtypes, self.differentiable, strict=True)
        return tuple(
            int(np.prod(shape)) * (2 if _is_complex(dtype) else 1) if diff else 0
            for shape, dtype, diff in rows
        )

    @property
    def size(self) -> int:
        """The number n of differentiated real numbers."""
        return sum(self.sizes)

    def ravel(self, h: Any) -> tuple[Float[Array, " n"], tuple[Any, ...]]:
        """Split a state into its vector and its auxiliary leaves."""
        leaves = jax.tree.leaves(h)
        parts, auxiliary = [], []
        for leaf, diff in zip(leaves, self.differentiable, strict=True):
            if not diff:
                auxiliary.append(leaf)
                continue
            pair = (jnp.real(leaf), jnp.imag(leaf)) if _is_complex(dtype_of(leaf)) else (leaf,)
            parts += [jnp.ravel(part).astype(self.dtype) for part in pair]
        return jnp.concatenate(parts), tuple(auxiliary)

    def unravel(self, vector: Float[Array, " n"], auxiliary: tuple[Any, ...]) -> Any:
        """Rebuild the state; inverse of `ravel`."""
        rest, leaves, start = iter(auxiliary), [], 0
        rows = zip(self.shapes, self.dtypes, self.sizes, self.differentiable, strict=True)
        for shape, dtype, size, diff in rows:
            if not diff:
                leaves.append(next(rest))
                continue
            part = vector[start : start + size].astype(jnp.finfo(dtype).dtype)
            if _is_complex(dtype):
                part = jax.lax.complex(part[: size // 2], part[size // 2 :])
            leaves.append(part.reshape(shape))
            start += size
        return jax.tree.unflatten(self.treedef, leaves)

    def labels(self) -> tuple[str, ...]:
        """Name the leaf of every vector entry: ``("[0]", "[0]", "[1]")``."""
        skeleton = jax.tree.unflatten(self.treedef, range(self.treedef.num_leaves))
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(skeleton)]
        names: list[str] = []
        for path, size in zip(paths, self.sizes, strict=True):
            names += [path] * size
        return tuple(names)


def _real_dtypes(dtypes: tuple[Any, ...], differentiable: tuple[bool, ...]) -> list[np.dtype]:
    """Give the real dtype of every differentiated leaf; complex64 is made of float32."""
    pairs = zip(dtypes, differentiable, strict=True)
    return [np.dtype(jnp.finfo(d).dtype) for d, diff in pairs if diff]


def _is_complex(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))
