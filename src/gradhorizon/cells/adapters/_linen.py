"""Cells of Flax linen: ``module.apply(variables, carry, x) -> (carry, out)``, LSTM state (c, h)."""

import dataclasses
import functools
from collections.abc import Mapping
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
from gradhorizon.cells.adapters._resolve import (
    Manners,
    adapt,
    named_order,
    no_step,
    refuse_axes,
    require_step,
    shapes_of,
)
from gradhorizon.cells.adapters._steps import CellStep, ForgetGate, output_spec, stack

_INPUT_KERNELS = {"LSTMCell": "ii", "OptimizedLSTMCell": "ii", "GRUCell": "ir", "MGUCell": "if",
                  "SimpleCell": "i"}  # fmt: skip
_UPDATE_GATES = {"GRUCell": "z", "MGUCell": "f"}


@dataclasses.dataclass(frozen=True)
class LinenCall:
    """Apply a module to (params, h, x); other collections are frozen."""

    module: Held
    frozen: Held
    noise: Held
    order: str

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Give what the module returns."""
        held = params if "params" in params else {"params": params}
        arguments = (h, x) if self.order == "carry, x" else (x, h)
        variables = {**self.frozen.value, **held}
        return self.module.value.apply(variables, *arguments, rngs=self.noise.value)


@dataclasses.dataclass(frozen=True)
class UpdateGate:
    """The gate z of h' = (1 - z) n + z h, from the weights of a GRU or MGU cell."""

    module: Held
    letter: str

    def __call__(self, step: CellStep, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give z = gate_fn(W_z x + b_z + U_z h), the share of h that is kept as it is."""
        del step
        weights = params.get("params", params)
        of_input, of_state = weights[f"i{self.letter}"], weights[f"h{self.letter}"]
        total = x @ of_input["kernel"] + of_input["bias"] + h @ of_state["kernel"]
        return {"h": self.module.value.gate_fn(total)}


def from_linen(
    cell: Any,
    variables: Any = None,
    inputs: Any = None,
    *,
    h0: Any = None,
    key: Any = None,
    dtype: Any = None,
    order: str = "auto",
    returns: str = "auto",
    noise_key: Any = None,
) -> Adapted:
    """Turn a Flax linen cell, or a module of your own with a carry, into (step, params, h0).

    The state is the module's carry, unbatched; parameters and carry are cast to one dtype.

    Parameters
    ----------
    cell
        A `flax.linen` cell (SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell, MGUCell,
        ConvLSTMCell), an `nn.RNN` around one, a module of your own that takes a carry and one
        input, or a list of these: layers, the output of each is the input of the next.
    variables
        What ``cell.init`` or training gave, ``{"params": …}``, or the inner dictionary alone;
        `params` keeps that structure, so that those of a later training step fit too. Other
        collections (batch statistics) are frozen. None draws fresh ones with `key`. For a list
        of cells a list.
    inputs
        One unbatched input: its size, its shape, or an example. None reads the size off the
        variables of the library's own cells (not convolutions).
    h0
        The state before the first input; None asks the cell's `initialize_carry`, or takes zeros
        of its size.
    key
        Draws fresh variables and the carry; ``jax.random.key(0)`` if None.
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
        A PRNG key for dropout and other randomness: the same noise at every step. Without it
        stochastic cells are refused.

    Returns
    -------
    Adapted
        The tuple (step, params, h0). Steps of LSTM, GRU and MGU cells declare their gates.

    Raises
    ------
    ImportError
        If Flax is not installed.
    TypeError
        If `cell` is no linen module.
    ValueError
        If the module has no causal step (`nn.Bidirectional`, whole-sequence layers), is
        stochastic, updates its statistics, gets a batch, rounds to another dtype, or does
        not fit `variables`, `inputs` or `h0`.

    Notes
    -----
    All checks run on shapes. "The GRU" is not one map: Flax and Equinox reset after the matrix,
    Haiku before; Flax keeps the share z of the state, Haiku the share 1 - z.

    References
    ----------
    Flax documentation, ``flax.linen.RNNCellBase``.

    Examples
    --------
    >>> import flax.linen as nn
    >>> import gradhorizon as gh
    >>> step, params, h0 = gh.adapters.from_linen(nn.LSTMCell(8), inputs=3)
    >>> xs = jax.random.normal(jax.random.key(1), (50, 3))
    >>> str(gh.diagnose(step, params, h0, xs).regime)
    'VANISHING'
    """
    nn = library("flax.linen", "flax", "from_linen")
    kind = target_dtype(dtype)
    chosen = _Chosen(h0, key, kind, order, returns, noise_key, dtype is None)
    if isinstance(cell, (list, tuple)):
        return _stacked(nn, list(cell), variables, inputs, chosen)
    require_module(cell, nn.Module, "a flax.linen module", "from_linen")
    cell, variables = _unwrap(nn, cell, variables)
    return _single(nn, cell, variables, inputs, chosen)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """What the user chose besides the cell and its variables."""

    h0: Any
    key: Any
    dtype: np.dtype
    order: str
    returns: str
    noise_key: Any
    by_default: bool


def _single(nn: Any, cell: Any, variables: Any, inputs: Any, chosen: _Chosen) -> Adapted:
    """Adapt one module."""
    names = call_names(cell)
    require_step(cell, names)
    axes = cell.num_feature_axes if _is_known(nn, cell) else None
    given = _variables(variables, chosen)
    x = _input(nn, cell, given, inputs, chosen.dtype)
    key = jax.random.key(0) if chosen.key is None else chosen.key
    first = chosen.order if chosen.order != "auto" else named_order(names)

    def state() -> Any:
        if chosen.h0 is None and hasattr(cell, "initialize_carry"):
            carry = cell.initialize_carry(key, jax.tree.leaves(x)[0].shape)
            return cast(carry, chosen.dtype)
        return initial_state(cell, chosen.h0, chosen.dtype)

    def draw() -> Any:
        example, h = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x), state()
        arguments = (example, h) if first == "x, carry" else (h, example)
        with jax.numpy_dtype_promotion("standard"):  # a module draws float32 beside our float64
            drawn = nn.meta.unbox(cell.init(key, *arguments))
        return {"params": {}, **drawn}

    def make() -> tuple[Any, Any]:
        params = cast({"params": draw()["params"]}, chosen.dtype) if given is None else given
        return params, state()

    if axes is not None:
        refuse_axes(jax.eval_shape(state), x, axes)
    others = variables
    if given is None and len(shapes_of(draw, cell, _explain)) > 1:
        others = draw()
    frozen = Held({}, ()) if others is None else Held(*_frozen(others, chosen.dtype))
    noise = Held(chosen.noise_key, () if chosen.noise_key is None else None)
    token = Held(cell)
    call_of = functools.partial(LinenCall, token, frozen, noise)
    options = (chosen.order, chosen.returns)
    manners = Manners("carry, x", True, _explain)
    return adapt(cell, names, call_of, make, x, manners, options, _gates(nn, cell, token))


def _stacked(nn: Any, cells: list[Any], variables: Any, inputs: Any, chosen: _Chosen) -> Adapted:
    """Adapt a list of modules, the output of each being the input of the next."""
    count = len(cells)
    if variables is not None and (isinstance(variables, Mapping) or len(variables) != count):
        remedy = "Pass one dictionary per cell, in the same order."
        came = type(variables).__name__
        raise ValueError(
            worded("variables", f"be a list of {count} for {count} cells", came, remedy)
        )
    layers: list[Adapted] = []
    for i, cell in enumerate(cells):
        require_module(cell, nn.Module, "a flax.linen module", "from_linen")
        cell, own = _unwrap(nn, cell, None if variables is None else variables[i])
        key = jax.random.fold_in(jax.random.key(0) if chosen.key is None else chosen.key, i)
        start = None if chosen.h0 is None else chosen.h0[i]
        layer = _single(nn, cell, own, inputs, dataclasses.replace(chosen, key=key, h0=start))
        layers.append(layer)
        x = input_spec(
            _input(nn, cell, _variables(own, chosen), inputs, chosen.dtype), chosen.dtype
        )
        inputs = output_spec(layer, x)
    return stack(layers)


def _unwrap(nn: Any, cell: Any, variables: Any) -> tuple[Any, Any]:
    """Take the cell out of `nn.RNN`, and refuse what runs over sequences otherwise."""
    if isinstance(cell, nn.Bidirectional):
        raise no_step(cell, "which reads the future")
    if not isinstance(cell, nn.RNN):
        return cell, variables
    if cell.reverse:
        raise no_step(cell, "which runs backward in time (reverse=True)")
    if isinstance(variables, Mapping):
        inner = variables.get("params", variables)
        if "cell" in inner:
            variables = {"params": inner["cell"]} if "params" in variables else inner["cell"]
    return cell.cell, variables


def _is_known(nn: Any, cell: Any) -> bool:
    """Say whether the module is one of the library's own cells."""
    return any(_is(nn, cell, name) for name in (*_INPUT_KERNELS, "ConvLSTMCell"))


def _is(nn: Any, cell: Any, name: str) -> bool:
    """Say whether the module is the library's cell of that name."""
    return is_kind(cell, (getattr(nn, name),))


def _variables(variables: Any, chosen: _Chosen) -> Any:
    """Cast the parameters among the variables, in the structure they came in."""
    if variables is None:
        return None
    if not isinstance(variables, Mapping):
        remedy = 'Pass what cell.init returned, {"params": ...}; the size of inputs is `inputs`.'
        came = type(variables).__name__
        raise TypeError(worded("variables", "be a dictionary", came, remedy))
    nn = library("flax.linen", "flax", "from_linen")
    core = library("flax.core", "flax", "from_linen")
    if chosen.by_default:
        require_no_silent_downcast("variables", variables)
    plain = nn.meta.unbox(core.unfreeze(variables))
    plain = {"params": plain["params"]} if "params" in plain else plain
    return cast(plain, chosen.dtype)


def _frozen(variables: Any, dtype: np.dtype) -> tuple[Any, Any]:
    """Give the collections besides the parameters, and what they are compared by."""
    core = library("flax.core", "flax", "from_linen")
    if "params" not in variables:
        return {}, ()
    rest = {name: tree for name, tree in core.unfreeze(variables).items() if name != "params"}
    return cast(rest, dtype), None if rest else ()


def _input(nn: Any, cell: Any, variables: Any, inputs: Any, dtype: np.dtype) -> Any:
    """Specify one input, from what the user said or from the shape of an input kernel."""
    if inputs is not None:
        return input_spec(inputs, dtype)
    weights = {} if variables is None else variables.get("params", variables)
    for name, kernel in _INPUT_KERNELS.items():
        if _is(nn, cell, name) and kernel in weights:
            return input_spec(weights[kernel]["kernel"].shape[0], dtype)
    raise missing_inputs(cell)


def _gates(nn: Any, cell: Any, held: Held) -> Any:
    """Give the gates of a cell whose convention is known."""
    if is_kind(cell, (nn.LSTMCell, nn.OptimizedLSTMCell, nn.ConvLSTMCell)):
        return ForgetGate(("c", "h"))
    for name, letter in _UPDATE_GATES.items():
        if _is(nn, cell, name):
            return UpdateGate(held, letter)
    return None


def _explain(cell: Any, error: Exception) -> Exception | None:
    """Turn Flax's errors about mutable collections and missing keys into ours."""
    kind = type(error).__name__
    if kind == "ModifyScopeVariableError":
        remedy = "Use evaluation mode, such as nn.BatchNorm(use_running_average=True)."
        return ValueError(worded("cell", "leave its statistics as they are", title(cell), remedy))
    if kind == "InvalidRngError":
        remedy = "Use deterministic=True, or pass noise_key=... for the same noise at every step."
        return ValueError(worded("cell", "be deterministic", title(cell), remedy))
    if kind.startswith("Scope"):
        remedy = "Pass what cell.init or training returned, with every collection."
        fault = f"{kind}: {error}"
        return ValueError(worded("variables", f"be those of {title(cell)}", fault, remedy))
    return None
