"""Cells of Equinox: ``cell(x, state) -> state``, input first, LSTM state (h, c), no batches."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import require_no_silent_downcast, worded
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
from gradhorizon.cells.adapters._resolve import Manners, adapt, refuse_axes, require_step
from gradhorizon.cells.adapters._steps import CellStep, ForgetGate, output_spec, stack


@dataclasses.dataclass(frozen=True)
class EquinoxCall:
    """Combine parameters with the rest of the module, and call it on (params, h, x)."""

    rest: Held
    noise: Held
    order: str

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Give what the module returns."""
        import equinox as eqx

        module: Any = eqx.combine(params, self.rest.value)
        arguments = (h, x) if self.order == "carry, x" else (x, h)
        noise = {} if self.noise.value is None else {"key": self.noise.value}
        return module(*arguments, **noise)


@dataclasses.dataclass(frozen=True)
class UpdateGate:
    """The gate z of h' = n + z (h - n): the second third of a GRU's rows r, z, n."""

    rest: Held

    def __call__(self, step: CellStep, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give z = σ(W_z x + b_z + U_z h), the share of h that is kept as it is."""
        del step
        import equinox as eqx

        cell: Any = eqx.combine(params, self.rest.value)
        total = cell.weight_ih @ x + cell.weight_hh @ h
        if cell.bias is not None:
            total = total + cell.bias
        return {"h": jax.nn.sigmoid(jnp.split(total, 3)[1])}


def from_equinox(
    cell: Any,
    inputs: Any = None,
    *,
    h0: Any = None,
    dtype: Any = None,
    order: str = "auto",
    returns: str = "auto",
    noise_key: Any = None,
) -> Adapted:
    """Turn an Equinox cell, or a module of your own with a state, into (step, params, h0).

    The state is the module's own, unbatched; parameters and state are cast to one dtype.

    Parameters
    ----------
    cell
        `equinox.nn.GRUCell`, `equinox.nn.LSTMCell`, a module of your own that takes one input
        and a state, or a list of these: layers, the output of each is the input of the next (of
        an LSTM its h).
    inputs
        One unbatched input: its size, its shape, or an example. None reads the size off
        `cell.input_size`.
    h0
        The state before the first input; None takes the module's own `initial_state()`, or zeros
        of its `hidden_size`.
    dtype
        float32, float64, bfloat16 or float16: what parameters, state and inputs are cast to;
        JAX's default if None, so float64 in x64 mode.
    order
        How your own module is called: "x, carry" or "carry, x"; "auto" goes by the names of its
        arguments, then by shapes. What both leave open is refused.
    returns
        What it returns: "carry", "carry, out" or "out, carry"; "auto" goes by shapes. What they
        leave open is refused, except (carry, out) after (carry, x), as in `jax.lax.scan`.
    noise_key
        A PRNG key that is passed as ``key=`` at every step: the same noise each time. Without it
        stochastic cells are refused.

    Returns
    -------
    Adapted
        The tuple (step, params, h0); `params` is the module with everything but floating-point
        arrays removed, as `equinox.partition` gives it. Steps of LSTM and GRU cells declare
        their gates.

    Raises
    ------
    ImportError
        If Equinox is not installed.
    TypeError
        If `cell` is no Equinox module.
    ValueError
        If the module has no causal step (whole-sequence layers), is stochastic, keeps statistics
        in an `equinox.nn.State`, gets a batch, rounds to another dtype, or does not fit
        `inputs` or `h0`; if nothing tells its state from its input or output.

    Notes
    -----
    All checks run on shapes. The state of `LSTMCell` stays the pair (h, c) of Equinox, which is
    (c, h) in Flax; its gates are named, so that nobody needs to count.

    References
    ----------
    Equinox documentation, ``equinox.nn.GRUCell`` and ``equinox.partition``.

    Examples
    --------
    >>> import equinox as eqx
    >>> import gradhorizon as gh
    >>> cell = eqx.nn.GRUCell(3, 8, key=jax.random.key(0))
    >>> step, params, h0 = gh.adapters.from_equinox(cell)
    >>> xs = jax.random.normal(jax.random.key(1), (50, 3))
    >>> str(gh.diagnose(step, params, h0, xs).regime)
    'VANISHING'
    """
    eqx = library("equinox", "equinox", "from_equinox")
    kind = target_dtype(dtype)
    chosen = _Chosen(h0, kind, order, returns, noise_key, dtype is None)
    if not isinstance(cell, (list, tuple)):
        return _single(eqx, cell, inputs, chosen)
    layers: list[Adapted] = []
    for i, one in enumerate(cell):
        start = None if h0 is None else h0[i]
        layers.append(_single(eqx, one, inputs, dataclasses.replace(chosen, h0=start)))
        inputs = output_spec(layers[-1], _input(one, inputs, kind))
    return stack(layers)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What the user chose besides the cell and its input."""

    h0: Any
    dtype: np.dtype
    order: str
    returns: str
    noise_key: Any
    by_default: bool


def _single(eqx: Any, cell: Any, inputs: Any, chosen: _Chosen) -> Adapted:
    """Adapt one module."""
    require_module(cell, eqx.Module, "an equinox module", "from_equinox")
    names = call_names(cell)
    require_step(cell, names)
    _refuse_statistics(eqx, cell)
    x = _input(cell, inputs, chosen.dtype)
    params, rest = eqx.partition(cell, eqx.is_inexact_array)
    if chosen.by_default:
        require_no_silent_downcast("params", params)
    held = Held(rest, _token(rest))
    noise = Held(chosen.noise_key, () if chosen.noise_key is None else None)

    def make() -> tuple[Any, Any]:
        return cast(params, chosen.dtype), _state(eqx, cell, chosen)

    gates = None
    if is_kind(cell, (eqx.nn.LSTMCell,)):
        gates = ForgetGate(("h", "c"))
    elif is_kind(cell, (eqx.nn.GRUCell,)):
        gates = UpdateGate(held)
    if gates is not None:
        refuse_axes(jax.eval_shape(lambda: make()[1]), x, 1)
    call_of = functools.partial(EquinoxCall, held, noise)
    manners = Manners("x, carry", False, _explain)
    options = (chosen.order, chosen.returns)
    return adapt(cell, names, call_of, make, x, manners, options, gates)


def _state(eqx: Any, cell: Any, chosen: _Chosen) -> Any:
    """Give the state before the first input; the library's own cells have no method for it."""
    if chosen.h0 is None and isinstance(cell, eqx.nn.LSTMCell):
        return tuple(jnp.zeros(cell.hidden_size, chosen.dtype) for _ in range(2))
    return initial_state(cell, chosen.h0, chosen.dtype)


def _input(cell: Any, inputs: Any, dtype: np.dtype) -> Any:
    """Specify one input, from what the user said or from the cell's own size."""
    if inputs is not None:
        return input_spec(inputs, dtype)
    for name in ("input_size", "in_size", "in_features"):
        size = getattr(cell, name, None)
        if isinstance(size, int):
            return input_spec(size, dtype)
    raise missing_inputs(cell)


def _token(rest: Any) -> Any:
    """Give what the rest of a module is compared by: its leaves and its structure."""
    leaves, tree = jax.tree.flatten(rest)
    return tuple(leaves), tree


def _refuse_statistics(eqx: Any, cell: Any) -> None:
    """Refuse layers that keep running statistics outside of the module."""

    def is_index(leaf: Any) -> bool:
        return isinstance(leaf, eqx.nn.StateIndex)

    if any(is_index(leaf) for leaf in jax.tree.leaves(cell, is_leaf=is_index)):
        remedy = "Replace BatchNorm by a layer without statistics, or fold them into its weights."
        wanted = "keep no statistics in an equinox.nn.State"
        raise ValueError(worded("cell", wanted, title(cell), remedy))


def _explain(cell: Any, error: Exception) -> Exception | None:
    """Turn Equinox's error about a missing key into ours."""
    if "requires a key" in str(error):
        remedy = (
            "Use equinox.nn.inference_mode(cell), or pass noise_key=... for the same noise at "
            "every step (the module must take key=)."
        )
        return ValueError(worded("cell", "be deterministic", title(cell), remedy))
    return None
