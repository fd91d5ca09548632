"""Which way the gradient travels through a state of several parts, and how long each unit keeps.

Convention: the path b → a leads from ∂L/∂b at time T to ∂L/∂a at time T - k, backward in time as
the gradient goes; it is the block ∂b_T/∂a_{T-k} of Φ(T, T-k). For an LSTM with state (c, h) the
path c → c without detour is the constant error carousel, the product of the forget gates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import is_concrete, require_integer, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, jsonable, record, static
from gradhorizon._scaled import ZERO_EXPONENT, log_scaled, split
from gradhorizon.chain._given import unscaled
from gradhorizon.chain._outcome import settle
from gradhorizon.chain._sweep import sweep
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.regimes._blocks import (
    BlockProduct,
    Blocks,
    everywhere,
    identity,
    log_norms,
    times,
    without_detour,
)
from gradhorizon.regimes._gates import Layout, gate_sequence, layout_of

_LAGS = 9  # lags that are looked at unless told otherwise


@record
class StatePaths:
    """How much of the gradient arrives where, part by part, and each unit's time constant.

    `print` it for a readable table.

    Attributes
    ----------
    total
        ln (‖∂b_T/∂a_{T-k}‖_F / √rows), shape (lags, blocks, blocks); entry (b, a) belongs to the
        path b → a. It is the root mean square of ‖∂L/∂a_{T-k}‖ over losses with a random unit
        ∂L/∂b_T that see b alone; exactly -inf where nothing arrives.
    direct
        The same without detours: b → b stays in b all the way, b → a crosses over once, with
        the gate itself in place of the diagonal block where the step declares one.
    self_rates
        mean_t ln |d_i|, nats per step, for every entry i of the state, shape (n,): d_i is the
        declared gate, else the diagonal entry of J_t. Both parts of a complex entry z have the
        modulus of its gate, else |∂z'/∂z|: a turn of the phase is no loss.
    lags
        The lags k, shape (lags,); time means run over the last max(lags) steps.
    status
        `Status.OK`, `EMPTY`, or `NONFINITE`.
    first_bad_step
        The first t with a non-finite state or Jacobian, -1 if there is none.
    names, sizes
        The parts of the state and their numbers of entries, in order.
    gated
        For each part, whether the step declares its gate.
    """

    total: Float[Array, "*batch lags blocks blocks"]
    direct: Float[Array, "*batch lags blocks blocks"]
    self_rates: Float[Array, "*batch n"]
    lags: Int[Array, "*batch lags"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]
    names: tuple[str, ...] = static()
    sizes: tuple[int, ...] = static()
    gated: tuple[bool, ...] = static()

    @property
    def time_constants(self) -> Float[Array, "*batch n"]:
        """τ_i = -1/mean_t ln |d_i| in steps; infinite where the mean is 0, negative for growth."""
        still = self.self_rates == 0
        return jnp.where(still, jnp.inf, -1 / jnp.where(still, 1, self.self_rates))

    def units(self, name: str) -> Float[Array, "*batch units"]:
        """Give the time constants of one part of the state."""
        start, stop = Blocks(self.sizes).spans[self._index(name)]
        return self.time_constants[..., start:stop]

    def path(self, start: str, end: str) -> tuple[Array, Array]:
        """Give `direct` and `total` of the path from one part to another, one entry per lag."""
        row, column = self._index(start), self._index(end)
        return self.direct[..., row, column], self.total[..., row, column]

    def _index(self, name: str) -> int:
        if name not in self.names:
            known = ", ".join(repr(n) for n in self.names)
            raise ValueError(worded("name", f"be one of {known}", repr(name)))
        return self.names.index(name)

    def __str__(self) -> str:
        """Write the paths at the largest lag, and the spread of the time constants."""
        from gradhorizon.regimes._text import paths_text

        return "\n".join(paths_text(self)) if is_concrete(self) else repr(self)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON types, time constants under the names of the parts."""
        constants = {name: jsonable(self.units(name)) for name in self.names}
        return {"time_constants": constants, **jsonable(self)}


def state_paths(
    chain: Any,
    *,
    lags: Sequence[int] | None = None,
    blocks: Mapping[str, int] | None = None,
    throw: bool = True,
) -> StatePaths:
    """Split the gradient by the parts of the state it starts from, arrives at, and goes through.

    For each pair of parts b, a and each lag k: the size of ∂b_T/∂a_{T-k} with all detours, and of
    its direct share, b → b through b alone (Π diag(f_t) for the memory of an LSTM, Π diag(z_t) for
    a GRU) and b → a with one crossing. For each unit: the time constant -1/mean_t ln |d_i|.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    lags
        The lags k, integers in 0 … T; up to nine spread geometrically over 1 … T if None. Only
        the last max(lags) steps are looked at.
    blocks
        Names and sizes of consecutive parts of the state, such as ``{"c": 64, "h": 64}``; needed
        for matrices. None takes the parts that the step declares with `state_gates` (see
        `gradhorizon.cells.GatedStep`), else the float leaves of the state, ``h0[0]``, ``h0[1]``.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    StatePaths
        Direct and total log-norms of every path, and the time constants.

    Raises
    ------
    TypeError
        If a lag or a size is not an integer.
    ValueError
        If a lag lies outside 0 … T, or there is none; if the sizes do not add up to n; if
        `state_gates` does not give one gate, or None, for every float leaf.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    Cost: per step the matrix J_t and two products of n × n. Memory O(n²) beyond the chain, and T n
    numbers where gates are declared. Every block has its own exact scale, so that neither length
    nor unequal parts under- or overflow. The rounding is that of a plain product, k n eps relative
    to the product of the absolute values: where growth is undone later (a nilpotent chain) use
    `singular_spectrum`, whose error bars say what is left.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997), section 3.2 (constant error carousel);
    Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR 2018 (gates as inverse
    time constants).

    Examples
    --------
    An LSTM without weights keeps its memory by the forget gate alone, σ(2) per step:

    >>> import jax
    >>> import gradhorizon as gh
    >>> cell = gh.cells.lstm(3, 0, forget_bias=2.0, recurrent_init=gh.inits.gaussian(0.0))
    >>> params, start = cell.init(jax.random.key(0)), cell.initial_state()
    >>> paths = gh.state_paths(gh.jacobian_chain(cell.step, params, start, length=500))
    >>> direct, total = paths.path("c", "c")
    >>> round(float(direct[-1] / jnp.log(jax.nn.sigmoid(2.0))), 3), bool(direct[-1] == total[-1])
    (500.0, True)
    >>> paths.units("c").round(3).tolist(), paths.path("h", "h")[0].tolist()[-1]
    ([7.878, 7.878, 7.878], -inf)
    """
    chain = as_chain(chain, throw=throw)
    wanted = spread_lags(chain.length) if lags is None else _checked(lags, chain.length)
    layout = layout_of(chain, blocks)
    return settle(follow_paths(chain, chain, layout, wanted), throw=throw)


def spread_lags(reach: int) -> tuple[int, ...]:
    """Spread up to nine lags geometrically over 1 … reach."""
    if reach == 0:
        return (0,)
    return tuple(sorted({round(float(lag)) for lag in np.geomspace(1, reach, _LAGS)}))


def _checked(lags: Any, length: int) -> tuple[int, ...]:
    """Give the lags as a tuple of integers inside 0 … T."""
    if not hasattr(lags, "__len__"):
        raise TypeError(worded("lags", "be a sequence of integers", repr(lags)))
    if len(lags) == 0:
        raise ValueError(worded("lags", "name at least one lag", "none"))
    return tuple(require_integer(f"lags[{i}]", k, 0, length) for i, k in enumerate(lags))


def follow_paths(
    chain: JacobianChain, explicit: JacobianChain, layout: Layout, lags: tuple[int, ...]
) -> StatePaths:
    """Follow the paths of a chain; `explicit` is the same chain, as matrices if they exist."""
    start = chain.length - max(lags)
    gates = None
    if any(layout.declared):
        gates = gate_sequence(chain.segment(start, chain.length))
    segment = explicit.segment(start, explicit.length)
    return _paths(segment, gates, finite_steps(chain), layout=layout, lags=lags)


@compiled(static=("layout", "lags"))
def _paths(
    chain: JacobianChain,
    gates: Float[Array, "k n"] | None,
    finite: Bool[Array, " T"],
    *,
    layout: Layout,
    lags: tuple[int, ...],
) -> StatePaths:
    """Multiply from J_T backward, noting the log-norms at each lag and every d_i on the way."""
    blocks, dtype = Blocks(layout.sizes), chain.dtype
    wanted, before = jnp.asarray(lags, jnp.int32), finite.shape[0] - chain.length
    ways = (everywhere(blocks), without_detour(blocks))
    products = tuple(identity(blocks, dtype) for _ in ways)
    logs = jnp.stack([jnp.stack([log_norms(p, blocks)] * len(lags)) for p in products], axis=1)
    kept = split(jnp.ones(chain.size, dtype))
    count = jnp.asarray(0, jnp.int32)

    def body(carry: Any, link: Any, gate: Any) -> Any:
        products, logs, kept, count = carry
        matrix = link.matrix()
        own, diagonal = through_gates(matrix, gate, layout)
        products = tuple(
            times(p, m, way, blocks)
            for p, m, way in zip(products, (matrix, own), ways, strict=True)
        )
        count, kept = count + 1, _accumulate(kept, diagonal)
        logs = _noted(logs, products, wanted == count, blocks)
        return (products, logs, kept, count), jnp.all(jnp.isfinite(matrix))

    good = finite
    if chain.length:
        start = (products, logs, kept, count)
        (_, logs, kept, _), sound = sweep(chain, body, start, gates, reverse=True)
        good = finite.at[before:].set(finite[before:] & sound)
    usual = Status.OK if chain.length else Status.EMPTY
    status, index = status_of(good, usual)
    nan = jnp.where(index < 0, 0.0, jnp.nan).astype(dtype)
    rates = log_scaled(*kept) / chain.length if chain.length else jnp.full(chain.size, jnp.nan)
    rates = unscaled(rates, 1, chain.shift)
    logs = unscaled(logs, np.asarray(lags)[:, None, None, None], chain.shift)
    return StatePaths(
        total=logs[:, 0] + nan,
        direct=logs[:, 1] + nan,
        self_rates=rates.astype(dtype) + nan,
        lags=wanted,
        status=status,
        first_bad_step=jnp.where(index < 0, -1, index + 1),
        names=layout.names,
        sizes=layout.sizes,
        gated=layout.gated,
    )


def through_gates(
    matrix: Float[Array, "n n"], gate: Float[Array, " n"] | None, layout: Layout
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """Put declared gates in place of their diagonal blocks; give the matrix and each |d_i|."""
    kept, turned = _own(matrix, gate, layout)
    sizes = jnp.hypot(kept, turned) if _has_pairs(layout) else jnp.abs(kept)
    if gate is None:
        return matrix, sizes
    block = jnp.diag(kept)
    if _has_pairs(layout):
        block = block.at[np.arange(kept.size), np.asarray(layout.partners)].add(turned)
    owner = Blocks(layout.sizes).owner
    gated = np.asarray(layout.gated)[owner]
    inside = (owner[:, None] == owner[None, :]) & gated[:, None]
    return jnp.where(inside, block, matrix), sizes


def _own(
    matrix: Float[Array, "n n"], gate: Float[Array, " n"] | None, layout: Layout
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Give d_i of every entry, and for a part of a complex number how it enters the other part.

    A complex d = a + i b acts on (re, im) as [[a, -b], [b, a]]. Where it is not declared it is
    ∂z'/∂z, the part of the derivative that is linear in z.
    """
    kept, turned = jnp.diagonal(matrix), jnp.zeros(matrix.shape[0], matrix.dtype)
    partner, own = np.asarray(layout.partners), np.arange(matrix.shape[0])
    paired, imaginary = partner != own, partner < own
    if _has_pairs(layout):
        across = matrix[own, partner]
        kept = jnp.where(paired, (kept + kept[partner]) / 2, kept)
        turned = jnp.where(paired, (across - across[partner]) / 2, turned)
    if gate is None:
        return kept, turned
    declared = np.asarray(layout.declared)
    kept = jnp.where(declared, jnp.where(imaginary, gate[partner], gate), kept)
    turn = jnp.where(imaginary, gate, -gate[partner])
    return kept, jnp.where(declared & paired, turn, turned)


def _has_pairs(layout: Layout) -> bool:
    """Say whether the state has complex entries."""
    return layout.partners != tuple(range(len(layout.partners)))


def _accumulate(
    kept: tuple[Float[Array, " n"], Int[Array, " n"]], factor: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Multiply a factor ≥ 0 in, exactly scaled: rounding stays below eps per step in the log."""
    size, own = split(factor)
    mantissa, extra = split(kept[0] * size)
    exponent = kept[1] + own + extra
    return mantissa, jnp.where(mantissa == 0, ZERO_EXPONENT, exponent)


def _noted(
    logs: Float[Array, "lags 2 k k"],
    products: tuple[BlockProduct, ...],
    due: Bool[Array, " lags"],
    blocks: Blocks,
) -> Float[Array, "lags 2 k k"]:
    """Write the log-norms of the present products into the rows that are due."""

    def note(logs: Array) -> Array:
        now = jnp.stack([log_norms(p, blocks) for p in products])
        return jnp.where(due[:, None, None, None], now[None], logs)

    return lax.cond(jnp.any(due), note, lambda logs: logs, logs)
