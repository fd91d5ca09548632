"""The parts of a state: their names, their sizes, and the gates that a step declares for them."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._checks import describe, dtype_of, leaf_name, require_integer, worded
from gradhorizon._compiled import compiled
from gradhorizon.chain._links import StepLinks
from gradhorizon.chain._sweep import first_of
from gradhorizon.chain.jacobian import JacobianChain


class Layout(NamedTuple):
    """How the n entries of a state fall into parts.

    Attributes
    ----------
    names, sizes
        The parts, in order.
    declared
        For every entry, whether the step declares its gate.
    partners
        For every entry, the index of the other part of the same complex number, which is larger
        for a real part and smaller for an imaginary one; its own index for a real number.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    declared: tuple[bool, ...]
    partners: tuple[int, ...]

    @property
    def gated(self) -> tuple[bool, ...]:
        """For every part, whether all its entries have a declared gate."""
        starts = np.cumsum([0, *self.sizes]).tolist()
        return tuple(all(self.declared[a:b]) for a, b in itertools.pairwise(starts))


def layout_of(chain: JacobianChain, blocks: Mapping[str, int] | None) -> Layout:
    """Find the parts of a chain's state, or check those that are given.

    Raises
    ------
    TypeError
        If a size is not an integer.
    ValueError
        If the sizes do not add up to n, or `state_gates` does not fit the state.
    """
    declared = _declared(chain)
    flags = (False,) * chain.size
    if declared is not None:
        flags = tuple(flag for _, size, flag in declared for _ in range(size))
    if blocks is not None:
        sizes = tuple(require_integer(f"blocks[{n!r}]", s, 1) for n, s in blocks.items())
        if sum(sizes) != chain.size:
            need = f"have sizes that add up to n = {chain.size}"
            raise ValueError(worded("blocks", need, f"{dict(blocks)}, which is {sum(sizes)}"))
        return Layout(tuple(str(name) for name in blocks), sizes, flags, _partners(chain))
    parts = declared if declared is not None else [(*p, False) for p in _leaves(chain)]
    parts = [p for p in parts if p[1]]  # a leaf without entries is no part
    return Layout(tuple(p[0] for p in parts), tuple(p[1] for p in parts), flags, _partners(chain))


def has_paths(chain: JacobianChain) -> bool:
    """Say whether the state has several float leaves, or the step declares gates."""
    return len(_leaves(chain)) > 1 or declares_gates(chain)


def declares_gates(chain: JacobianChain) -> bool:
    """Say whether the chain comes from a step with a `state_gates` method."""
    return isinstance(chain.links, StepLinks) and hasattr(chain.links.step, "state_gates")


def _leaves(chain: JacobianChain) -> list[tuple[str, int]]:
    """Give name and size of every float leaf of the state; matrices are one leaf."""
    if not isinstance(chain.links, StepLinks):
        return [("h", chain.size)]
    space = chain.links.space
    skeleton = jax.tree.unflatten(space.treedef, range(space.treedef.num_leaves))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(skeleton)]
    rows = zip(paths, space.sizes, space.differentiable, strict=True)
    return [(leaf_name("h0", path), size) for path, size, diff in rows if diff]


def _partners(chain: JacobianChain) -> tuple[int, ...]:
    """Pair the real and the imaginary part of every complex entry of the state."""
    partners = list(range(chain.size))
    if isinstance(chain.links, StepLinks):
        start = 0
        for size, dtype in zip(chain.links.space.sizes, chain.links.space.dtypes, strict=True):
            if size and jnp.issubdtype(dtype, jnp.complexfloating):
                half = np.arange(start, start + size // 2)
                partners[start : start + size] = [*(half + size // 2).tolist(), *half.tolist()]
            start += size
    return tuple(partners)


def complex_entries(chain: JacobianChain) -> int:
    """Count the complex numbers in the state of a chain."""
    return sum(partner > own for own, partner in enumerate(_partners(chain)))


class _Leaf(NamedTuple):
    """A float leaf of the state: its shape, how many real numbers it holds, and its kind."""

    shape: tuple[int, ...]
    size: int
    is_complex: bool


def _float_leaves(links: StepLinks) -> list[_Leaf]:
    """List what gates are declared for."""
    space = links.space
    rows = zip(space.shapes, space.sizes, space.dtypes, space.differentiable, strict=True)
    return [
        _Leaf(shape, size, bool(jnp.issubdtype(dtype, jnp.complexfloating)))
        for shape, size, dtype, diff in rows
        if diff
    ]


def _declared(chain: JacobianChain) -> list[tuple[str, int, bool]] | None:
    """Give name, size and presence of a gate for every float leaf, None without declaration."""
    if not declares_gates(chain):
        return None
    assert isinstance(chain.links, StepLinks)
    links, leaves = chain.links, _float_leaves(chain.links)
    found: list[tuple[str, Any]] = []

    def look(shared: Any, item: Any) -> None:
        found.extend(_gates_at(links, shared, item).items())

    jax.eval_shape(look, chain.shared, first_of(chain.items))
    fits = len(found) == len(leaves) and all(
        gate is None or (jnp.shape(gate) == leaf.shape and (leaf.is_complex or _is_real(gate)))
        for (_, gate), leaf in zip(found, leaves, strict=True)
    )
    if not fits:
        seen = ", ".join(f"{n}: {'None' if g is None else describe(g)}" for n, g in found)
        need = ", ".join(f"({','.join(map(str, leaf.shape))})" for leaf in leaves)
        remedy = "Give None for a leaf without gate; only a complex leaf can have a complex one."
        requirement = f"give one gate for each float leaf of the state, of shapes {need}"
        raise ValueError(worded("step.state_gates", requirement, seen or "nothing", remedy))
    pairs = zip(found, leaves, strict=True)
    return [(str(name), leaf.size, gate is not None) for (name, gate), leaf in pairs]


def _is_real(gate: Any) -> bool:
    return not jnp.issubdtype(dtype_of(gate), jnp.complexfloating)


def _gates_at(links: StepLinks, shared: Any, item: Any) -> dict[str, Array | None]:
    """Ask the step for its gates at ``(vector, auxiliary, layer, x)``."""
    vector, auxiliary, layer, x = item
    step: Any = links.step
    params = shared if links.tied else layer
    return step.state_gates(params, links.space.unravel(vector, auxiliary), x)


@compiled
def gate_sequence(chain: JacobianChain) -> Float[Array, "T n"]:
    """Run the network again and give its gates at every step; 0 where none is declared.

    The gate of a complex entry stands as its real part in the place of the entry's real part, and
    as its imaginary part in that of the other.
    """
    assert isinstance(chain.links, StepLinks)
    links, space, leaves = chain.links, chain.links.space, _float_leaves(chain.links)
    points, auxiliary, layers, xs = chain.items
    if chain.length == 0:
        return jnp.zeros((0, chain.size), chain.dtype)

    def body(state: Any, inputs: Any) -> Any:
        gates = _gates_at(links, chain.shared, (*state, *inputs)).values()
        parts: list[Array] = []
        for gate, leaf in zip(gates, leaves, strict=True):
            if gate is None:
                parts.append(jnp.zeros(leaf.size, chain.dtype))
                continue
            pair = (jnp.real(gate), jnp.imag(gate)) if leaf.is_complex else (gate,)
            parts += [jnp.ravel(part).astype(chain.dtype) for part in pair]
        layer, x = inputs
        params = chain.shared if links.tied else layer
        later = space.ravel(links.step(params, space.unravel(*state), x))
        return later, jnp.concatenate(parts)

    start = jax.tree.map(lambda a: a[0], (points, auxiliary))
    return lax.scan(body, start, (layers, xs), length=chain.length)[1]
