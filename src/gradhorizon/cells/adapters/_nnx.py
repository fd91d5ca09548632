"""Cells of Flax nnx: ``cell(carry, x) -> (carry, out)``, objects that are split and merged.

Parameters (`nnx.Param`) are the step's parameters; every other variable is frozen and closed over.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import is_key, require_no_silent_downcast, worded
from gradhorizon.cells.adapters._common import (
    Adapted,
    Held,
    call_names,
    cast,
    initial_state,
    input_spec,
    is_kind,
    library,
    missing_inputs,
    require_module,
    target_dtype,
    title,
)
from gradhorizon.cells.adapters._resolve import (
    Manners,
    adapt,
    no_step,
    refuse_axes,
    require_step,
)
from gradhorizon.cells.adapters._steps import CellStep, ForgetGate, output_spec, stack

_CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")


@dataclasses.dataclass(frozen=True)
class NnxCall:
    """Merge graph and variables, and call the module on (params, h, x)."""

    graph: Held
    frozen: Held
    order: str

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Give what the module returns."""
        return self.with_rest(params, self.frozen.value, h, x)[0]

    def with_rest(self, params: Any, rest: Any, h: Any, x: Any) -> tuple[Any, Any]:
        """Give what the module returns, and its other variables after the call."""
        from flax import nnx

        # new variables: those of another trace level can neither be read in a scan nor written
        own = jax.tree.map(lambda a: a, (params, rest))
        module = nnx.merge(self.graph.value, *own)
        returned = module(h, x) if self.order == "carry, x" else module(x, h)
        return returned, nnx.state(module, nnx.Not(nnx.Param))


@dataclasses.dataclass(frozen=True)
class UpdateGate:
    """The gate z of h' = (1 - z) n + z h: the second third of a GRU's rows r, z, n."""

    graph: Held

    def __call__(self, step: CellStep, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give z = gate_fn(W_z x + b_z + U_z h), the share of h that is kept as it is."""
        del step
        from flax import nnx

        cell = nnx.merge(self.graph.value, jax.tree.map(lambda a: a, params), nnx.State({}))
        total = cell.dense_i(x) + cell.dense_h(h)
        return {"h": cell.gate_fn(jnp.split(total, 3, axis=-1)[1])}


def from_nnx(
    cell: Any,
    inputs: Any = None,
    *,
    h0: Any = None,
    key: Any = None,
    dtype: Any = None,
    order: str = "auto",
    returns: str = "auto",
    noise_key: Any = None,
) -> Adapted:
    """Turn a Flax nnx cell, or a module of your own with a carry, into (step, params, h0).

    The state is the module's carry, unbatched; parameters and carry are cast to one dtype. The
    module itself is not changed.

    Parameters
    ----------
    cell
        A `flax.nnx` cell (SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell), an `nnx.RNN` around
        one, a module of your own that takes a carry and one input, or a list of these: layers,
        the output of each is the input of the next.
    inputs
        One unbatched input: its size, its shape, or an example. None reads the size off
        `cell.in_features`.
    h0
        The state before the first input; None asks the cell's `initialize_carry`, or takes zeros
        of its size.
    key
        Draws the carry where it is random; ``jax.random.key(0)`` if None.
    dtype
        float32, float64, bfloat16 or float16: what parameters, state and inputs are cast to;
        JAX's default if None, so float64 in x64 mode.
    order
        How your own module is called: "carry, x" or "x, carry"; "auto" goes by the names of its
        arguments, then by shapes, then by the library's order, carry first.
    returns
        What it returns: "carry", "carry, out" or "out, carry"; "auto" goes by shapes, then by
        the order of the arguments.
    noise_key
        A PRNG key that all random streams of the module start from: the same noise at every
        step. Without it stochastic cells are refused.

    Returns
    -------
    Adapted
        The tuple (step, params, h0); `params` is the `nnx.State` of the module's `nnx.Param`.
        Steps of LSTM and GRU cells declare their gates.

    Raises
    ------
    ImportError
        If Flax is not installed.
    TypeError
        If `cell` is no nnx module.
    ValueError
        If the module has no causal step (`nnx.Bidirectional`, whole-sequence layers), changes
        variables other than its carry (dropout, batch statistics, a hidden state of its own),
        gets a batch, rounds to another dtype, or does not fit `inputs` or `h0`.

    Notes
    -----
    All checks run on shapes. `nnx.SimpleCell` computes in float32 unless it is built with
    another dtype, whatever its parameters are: in x64 mode that is refused, with the remedy.

    References
    ----------
    Flax documentation, ``flax.nnx.nn.recurrent`` and ``nnx.split``.

    Examples
    --------
    >>> from flax import nnx
    >>> import gradhorizon as gh
    >>> step, params, h0 = gh.adapters.from_nnx(nnx.GRUCell(3, 8, rngs=nnx.Rngs(0)))
    >>> xs = jax.random.normal(jax.random.key(1), (50, 3))
    >>> str(gh.diagnose(step, params, h0, xs).regime)
    'VANISHING'
    """
    nnx = library("flax.nnx", "flax", "from_nnx")
    kind = target_dtype(dtype)
    key = jax.random.key(0) if key is None else key
    chosen = _Chosen(h0, key, kind, order, returns, noise_key, dtype is None)
    if not isinstance(cell, (list, tuple)):
        return _single(nnx, cell, inputs, chosen)
    layers: list[Adapted] = []
    for i, one in enumerate(cell):
        start = None if h0 is None else h0[i]
        own = dataclasses.replace(chosen, h0=start, key=jax.random.fold_in(key, i))
        layers.append(_single(nnx, one, inputs, own))
        inputs = output_spec(layers[-1], _input(_unwrap(nnx, one), inputs, kind))
    return stack(layers)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What the user chose besides the cell and its input."""

    h0: Any
    key: Any
    dtype: np.dtype
    order: str
    returns: str
    noise_key: Any
    by_default: bool


def _single(nnx: Any, cell: Any, inputs: Any, chosen: _Chosen) -> Adapted:
    """Adapt one module."""
    require_module(cell, nnx.Module, "a flax.nnx module", "from_nnx")
    cell = _unwrap(nnx, cell)
    names = call_names(cell)
    require_step(cell, names)
    known = is_kind(cell, tuple(getattr(nnx, name) for name in _CELLS))
    x = _input(cell, inputs, chosen.dtype)
    graph, params, rest = nnx.split(cell, nnx.Param, ...)
    if chosen.by_default:
        require_no_silent_downcast("params", params)
    rest = cast(_reseeded(rest, chosen.noise_key), chosen.dtype)

    def state() -> Any:
        if chosen.h0 is None and hasattr(cell, "initialize_carry"):
            shape = jax.tree.leaves(x)[0].shape
            return cast(cell.initialize_carry(shape, nnx.Rngs(chosen.key)), chosen.dtype)
        return initial_state(cell, chosen.h0, chosen.dtype)

    def make() -> tuple[Any, Any]:
        return cast(params, chosen.dtype), state()

    if known:
        refuse_axes(jax.eval_shape(state), x, cell.num_feature_axes)
    held, empty = Held(graph), not jax.tree.leaves(rest)
    frozen = Held(rest, () if empty else None)
    call_of = functools.partial(NnxCall, held, frozen)
    gates = None
    if is_kind(cell, (nnx.LSTMCell, nnx.OptimizedLSTMCell)):
        gates = ForgetGate(("c", "h"))
    elif is_kind(cell, (nnx.GRUCell,)):
        gates = UpdateGate(held)
    options, manners = (chosen.order, chosen.returns), Manners("carry, x", True)
    adapted = adapt(cell, names, call_of, make, x, manners, options, gates)
    if not empty:
        _refuse_changes(nnx, cell, adapted, rest, x, chosen)
    return adapted


def _unwrap(nnx: Any, cell: Any) -> Any:
    """Take the cell out of `nnx.RNN`, and refuse what runs over sequences otherwise."""
    if isinstance(cell, nnx.Bidirectional):
        raise no_step(cell, "which reads the future")
    if not isinstance(cell, nnx.RNN):
        return cell
    if cell.reverse:
        raise no_step(cell, "which runs backward in time (reverse=True)")
    return cell.cell


def _input(cell: Any, inputs: Any, dtype: np.dtype) -> Any:
    """Specify one input, from what the user said or from the cell's own size."""
    if inputs is not None:
        return input_spec(inputs, dtype)
    size = getattr(cell, "in_features", None)
    if isinstance(size, int):
        return input_spec(size, dtype)
    raise missing_inputs(cell)


def _reseeded(rest: Any, key: Any) -> Any:
    """Let every random stream start from a key derived from the given one."""
    if key is None:
        return rest
    streams = iter(range(len(jax.tree.leaves(rest))))

    def fresh(leaf: Any) -> Any:
        number = next(streams)
        return jax.random.fold_in(key, number) if is_key(leaf) else leaf

    return jax.tree.map(fresh, rest)


def _refuse_changes(
    nnx: Any, cell: Any, adapted: Adapted, rest: Any, x: Any, chosen: _Chosen
) -> None:
    """Refuse a module that changes variables on the way: they would be a hidden second state."""
    call: Any = adapted.step
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(rest)]
    kinds = [type(v) for v in jax.tree.leaves(rest, is_leaf=lambda v: isinstance(v, nnx.Variable))]

    def after(params: Any, before: Any, h: Any, now: Any) -> Any:
        return jax.tree.leaves(call.call.with_rest(params, before, h, now)[1])

    graph = jax.make_jaxpr(after)(adapted.params, rest, adapted.h0, x).jaxpr
    start = len(jax.tree.leaves(adapted.params))
    before = graph.invars[start : start + len(names)]
    same = len(graph.outvars) == len(before)
    changed = [i for i in range(len(names)) if not same or graph.outvars[i] is not before[i]]
    if chosen.noise_key is not None:
        changed = [i for i in changed if not issubclass(kinds[i], nnx.RngState)]
    if not changed:
        return
    came = f"{title(cell)}, which changes {kinds[changed[0]].__name__} {names[changed[0]]}"
    remedy = "Call cell.eval() first, pass noise_key=... for fixed noise, or move it to the carry."
    raise ValueError(worded("cell", "change nothing but its carry", came, remedy))
