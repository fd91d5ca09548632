"""Walking along a chain: how states and derivatives are stored, and scanned again.

A short chain keeps the state and the constants of the derivative of every step, so that an
analysis evaluates no step twice. A long one keeps the state of every S-th step only and runs
each stretch of S steps again when an analysis comes by: memory stays flat in T, for one more
forward pass per analysis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from gradhorizon._compiled import compiled
from gradhorizon.chain._links import StepLinks

STORED_BYTES = 64 * 2**20  # what a chain may keep of every step
_STRETCH_BYTES = 8 * 2**20  # what one stretch between kept states may take


class Stored(NamedTuple):
    """What is kept of an unrolled network: see the attributes of `JacobianChain`."""

    points: Float[Array, "kept n"]
    auxiliary: PyTree
    residuals: PyTree
    final: Float[Array, " n"]
    finite: Bool[Array, " T"]


def first_of(tree: Any) -> Any:
    """Give the shapes of one step's slice of arrays with a leading time axis."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)


def choose_stride(links: StepLinks, shared: Any, item: Any, length: int) -> int:
    """Give S, the steps between two kept states: 1 where everything fits."""
    point, auxiliary, *_ = item
    program = links.program(shared, item)
    own = jax.eval_shape(program.run, shared, item)[2]
    leaves = jax.tree.leaves((point, auxiliary, own))
    each = sum(a.size * a.dtype.itemsize for a in leaves)
    if length * each <= STORED_BYTES:
        return 1
    fitting = max(1, min(length, _STRETCH_BYTES // each))
    return fitting - fitting % 8 if fitting > 8 else fitting


@compiled(static=("links", "length", "stride", "keep"))
def unrolled(
    shared: Any, state: Any, layers: Any, xs: Any, *, links: Any, length: int, stride: int,
    keep: bool,
) -> Stored:  # fmt: skip
    """Run a network from a state ``(vector, auxiliary)`` and keep what the stride says.

    `keep` says whether the constants of the derivatives are kept too (stride 1 only).
    """
    program = links.program(shared, (*state, *first_of((layers, xs))))

    def step(state: Any, inputs: Any) -> Any:
        new, later, own = program.run(shared, (*state, *inputs))
        return (new, later), (state, own if keep else (), jnp.all(jnp.isfinite(new)))

    def stretch(state: Any, inputs: Any, steps: int = stride) -> Any:
        final, (_, _, finite) = lax.scan(step, state, inputs, length=steps)
        return final, (state, finite)

    inputs = (layers, xs)
    if stride == 1:
        (final, _), (states, own, finite) = lax.scan(step, state, inputs, length=length)
        return Stored(states[0], states[1], own if keep else None, final, finite)
    whole, rest = _in_stretches(inputs, length, stride)
    state, (states, finite) = lax.scan(stretch, state, whole, length=length // stride)
    finite = finite.reshape(-1)
    if length % stride:
        state, (start, tail) = stretch(state, rest, length % stride)
        states = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), states, start)
        finite = jnp.concatenate([finite, tail])
    return Stored(states[0], states[1], None, state[0], finite)


def _in_stretches(tree: Any, length: int, stride: int) -> tuple[Any, Any]:
    """Cut arrays with a leading time axis into whole stretches and the remainder."""
    count = length // stride
    cut = count * stride
    whole = jax.tree.map(lambda a: a[:cut].reshape(count, stride, *a.shape[1:]), tree)
    return whole, jax.tree.map(lambda a: a[cut:], tree)


@compiled(static=("links", "length"))
def advanced(shared: Any, state: Any, layers: Any, xs: Any, *, links: Any, length: int) -> Any:
    """Run a network for some steps and give the state it ends in."""
    item = (*state, *first_of((layers, xs)))
    program = links.program(shared, item)
    return lax.scan(
        lambda s, i: (program.run(shared, (*s, *i))[:2], None), state, (layers, xs), length=length
    )[0]


def sweep(
    chain: Any,
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    init: Any,
    extras: Any = None,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Scan ``body(carry, link, extra) -> (carry, out)`` over the links of a chain.

    Parameters
    ----------
    chain
        A `JacobianChain` of at least one step.
    body
        Receives the `Link` of its step.
    init
        The carry.
    extras
        Anything with a leading time axis, handed to the body step by step.
    reverse
        Walk from J_T to J_1.

    Returns
    -------
    tuple
        The last carry, and the outputs stacked in time order.
    """

    def along(carry: Any, parts: Any, extras: Any, link: Any) -> Any:
        return lax.scan(
            lambda c, s: body(c, link(s[0]), s[1]), carry, (parts, extras), reverse=reverse
        )

    return _in_order(chain, along, init, extras, reverse=reverse)


def sweep_groups(chain: Any, body: Callable[[Any, Any], Any], init: Any, size: int) -> Any:
    """Scan ``body(carry, walk) -> carry`` over groups of consecutive links, forward in time.

    ``walk(inner, carry)`` runs ``inner(carry, link, last) -> carry`` over the links of one group,
    `last` being true at its end. The body may call it more than once, to try again from the
    carry it was given.
    """

    def along(carry: Any, parts: Any, _: None, link: Any) -> Any:
        length = jax.tree.leaves(parts)[0].shape[0]
        group = next((m for m in _groups(size) if length % m == 0), size)
        count = -(-length // group)
        place = np.arange(count * group).reshape(count, group)
        active, last = place < length, place % group == group - 1
        spare = count * group - length

        def cut(a: Array) -> Array:
            if spare:
                a = jnp.concatenate([a, jnp.broadcast_to(a[-1:], (spare, *a.shape[1:]))])
            return a.reshape(count, group, *a.shape[1:])

        def one(carry: Any, inputs: Any) -> Any:
            def walk(inner: Any, carry: Any) -> Any:
                def step(carry: Any, inputs: Any) -> Any:
                    part, used, last = inputs
                    if not spare:
                        return inner(carry, link(part), last), None
                    go = lambda c: inner(c, link(part), last)  # noqa: E731
                    return lax.cond(used, go, lambda c: c, carry), None

                return lax.scan(step, carry, inputs)[0]

            return body(carry, walk), None

        return lax.scan(
            one, carry, (jax.tree.map(cut, parts), jnp.asarray(active), jnp.asarray(last))
        )

    return _in_order(chain, along, init, None, reverse=False)[0]


def _groups(size: int) -> range:
    """Give the group sizes that avoid a remainder, the larger ones first."""
    return range(size + size // 2, size // 2, -1)


def _in_order(chain: Any, along: Any, init: Any, extras: Any, *, reverse: bool) -> tuple[Any, Any]:
    """Call ``along(carry, parts, extras, link)`` once, or once for each stretch of the chain.

    `parts` has a leading time axis; ``link(part)`` builds the linear map of one step.
    """
    if chain.stride == 1 and chain.residuals is None:
        return along(init, chain.items, extras, chain.link)
    first = jax.tree.map(lambda a: a[0], chain.items)
    program = chain.links.program(chain.shared, first)
    fixed = program.fixed(chain.shared, first)

    def link(part: Any) -> Any:
        return program.link(part[0], fixed, part[1])

    if chain.stride == 1:
        return along(init, (chain.residuals, chain.items), extras, link)
    points, auxiliary, layers, xs = chain.items

    def stretch(carry: Any, inputs: Any, length: int) -> Any:
        state, (layers, xs, extras) = inputs

        def step(state: Any, inputs: Any) -> Any:
            item = (*state, *inputs)
            new, later, own = program.run(chain.shared, item)
            return (new, later), (own, item)

        _, parts = lax.scan(step, state, (layers, xs), length=length)
        return along(carry, parts, extras, link)

    whole, rest = _in_stretches((layers, xs, extras), chain.length, chain.stride)
    states = (points, auxiliary)
    starts = jax.tree.map(lambda a: a[: chain.length // chain.stride], states)
    last = (jax.tree.map(lambda a: a[-1], states), rest)
    remainder = chain.length % chain.stride
    carry, tail = init, None
    if remainder and reverse:
        carry, tail = stretch(carry, last, remainder)
    carry, outs = lax.scan(
        lambda c, i: stretch(c, i, chain.stride), carry, (starts, whole), reverse=reverse
    )
    outs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), outs)
    if remainder and not reverse:
        carry, tail = stretch(carry, last, remainder)
    if remainder:
        outs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outs, tail)
    return carry, outs
