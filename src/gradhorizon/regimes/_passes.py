"""More of the same: a prefix run again and again, its pieces in another order.

A prefix of T steps shows the growth of the gradient with an error of sqrt(D/T). Part of that is
chance in which states met which inputs, and this part is cheap to average out: the prefix is cut
into eight pieces, and eight passes go through them in different orders, half of them from the state
in which the prefix ended and half from h_0, which may lead elsewhere. What remains uncertain is
whether these pieces stand for the inputs to come; the scatter between pieces tells (the analysis
of variance with one random factor). A network without inputs is simply run on, and its passes
start one after the other.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradhorizon.chain._links import StepLinks
from gradhorizon.chain._sweep import first_of
from gradhorizon.chain.jacobian import JacobianChain, assemble

_PIECES = 8
_SHORTEST = 4  # steps of a piece
_ENOUGH = 1600  # a prefix of this length is not run again
_BLOWN = 1e6  # a state that grows by this factor over the prefix has no attractor


class Passes(NamedTuple):
    """Chains to be analyzed side by side.

    Attributes
    ----------
    chains
        A chain whose arrays have a leading axis over the passes; what they share is left out.
    shared
        What all passes share.
    groups
        Which places of which pass belong together, shape (passes, places): those with the same
        piece of inputs, those of one pass of a network without inputs, or each alone in a
        prefix that is not run again.
    size
        Steps of a place.
    repeated
        Whether the same piece of inputs stands in several passes.
    continuing
        Whether the passes follow on one another.
    """

    chains: JacobianChain
    shared: Any
    groups: np.ndarray
    size: int
    repeated: bool
    continuing: bool

    def first(self) -> JacobianChain:
        """Give the chain of the first pass."""
        alone = jax.tree.map(lambda a: a[0], self.chains)
        return dataclasses.replace(alone, shared=self.shared)

    def each(self, function: Callable[[JacobianChain], Any]) -> Any:
        """Apply a function of one chain to every pass; results have a leading axis."""
        return jax.vmap(lambda c: function(dataclasses.replace(c, shared=self.shared)))(self.chains)


def passes_of(chain: JacobianChain) -> Passes:
    """Run the network of a prefix again, in eight passes; traceable."""
    size = max(chain.length // _PIECES, min(_SHORTEST, chain.length))
    count = chain.length // size
    alone = not isinstance(chain.links, StepLinks) or not chain.tied
    if alone or chain.length >= _ENOUGH or count < 2:
        single = jax.tree.map(lambda a: a[None], dataclasses.replace(chain, shared=None))
        places = np.arange(count)[None]
        return Passes(single, chain.shared, places, size, repeated=False, continuing=False)
    xs = chain.dense().items[3]
    if xs is None:
        groups = np.broadcast_to(np.arange(_PIECES)[:, None], (_PIECES, count))
        run = _run_on(chain)
        return Passes(run, chain.shared, groups, size, repeated=False, continuing=True)
    pieces = _orders(count)
    order = (pieces[:, :, None] * size + np.arange(size)).reshape(_PIECES, -1)
    starts = jax.tree.map(
        lambda a, b: jnp.stack([a, b] * (_PIECES // 2)), _last_state(chain), _first_state(chain)
    )
    again = jax.vmap(lambda state, x: _from_state(chain, state, x, count * size))
    chains = again(starts, jax.tree.map(lambda a: a[order], xs))
    return Passes(chains, chain.shared, pieces, size, repeated=True, continuing=False)


def _orders(count: int) -> np.ndarray:
    """Give eight orders of the pieces; each is first and last about as often as any other.

    The first place, whose state still comes from elsewhere, and the last, where gradients still
    turn towards their direction, are not counted.
    """
    generator = np.random.default_rng(0)
    rows = []
    for row in range(_PIECES):
        first, last = (row + 1) % count, row % count
        rest = generator.permutation(np.setdiff1d(np.arange(count), (first, last)))
        rows.append([first, *rest, last])
    return np.asarray(rows)


def _first_state(chain: JacobianChain) -> Any:
    """Give h_0 as ``(vector, auxiliary)``."""
    return jax.tree.map(lambda a: a[0], chain.items[:2])


def _last_state(chain: JacobianChain) -> Any:
    """Give h_{T-1} where the network settles, else h_0, as ``(vector, auxiliary)``."""
    points, auxiliary, *_ = chain.dense().items
    size = jnp.max(jnp.abs(points), axis=1)
    tame = size[-1] <= _BLOWN * (1 + size[0])  # false for NaN
    return jax.tree.map(lambda a: jnp.where(tame, a[-1], a[0]), (points, auxiliary))


def _from_state(chain: JacobianChain, state: Any, xs: Any, length: int) -> JacobianChain:
    assert isinstance(chain.links, StepLinks)
    run = assemble(chain.links, chain.shared, state, None, xs, length, keep=True)
    return dataclasses.replace(run, shared=None)


def _run_on(chain: JacobianChain) -> JacobianChain:
    """Let passes without inputs follow on one another, from the last state of the prefix."""
    assert isinstance(chain.links, StepLinks)
    start = _last_state(chain)
    program = chain.links.program(chain.shared, (*start, *first_of((None, None))))

    def one(state: Any, _: None) -> Any:
        return program.run(chain.shared, (*state, None, None))[:2], None

    def stretch(state: Any, _: None) -> Any:
        later, _ = lax.scan(one, state, None, length=chain.length)
        tame = jnp.max(jnp.abs(later[0])) <= _BLOWN * (1 + jnp.max(jnp.abs(start[0])))
        return jax.tree.map(lambda a, b: jnp.where(tame, a, b), later, start), state

    _, states = lax.scan(stretch, start, None, length=_PIECES)
    return jax.vmap(lambda s: _from_state(chain, s, None, chain.length))(states)
