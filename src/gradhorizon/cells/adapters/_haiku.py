"""Cores of Haiku: ``core(x, state) -> (out, state)`` inside a transform, LSTM state (hidden, cell).

Parameters exist outside of the module only, so that what a user holds is a function: one that
builds a core, or one that applies it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gradhorizon._checks import require_no_silent_downcast, worded
from gradhorizon.cells.adapters._common import (
    Adapted,
    Held,
    cast,
    initial_state,
    input_spec,
    library,
    missing_inputs,
    positional,
    required,
    target_dtype,
    title,
)
from gradhorizon.cells.adapters._resolve import (
    Manners,
    adapt,
    named_order,
    refuse_axes,
    require_step,
)
from gradhorizon.cells.adapters._steps import CellStep, ForgetGate

_FIXES = {"VanillaRNN": 1, "LSTM": 1, "GRU": 1, "Conv1DLSTM": 2, "Conv2DLSTM": 3, "Conv3DLSTM": 4}


@dataclasses.dataclass(frozen=True)
class HaikuCall:
    """Apply a transformed function to (params, h, x); its own state is frozen."""

    apply: Held
    frozen: Held
    noise: Held
    order: str

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        """Give what the function returns."""
        return self.with_state(params, self.frozen.value, h, x)[0]

    def with_state(self, params: Any, state: Any, h: Any, x: Any) -> tuple[Any, Any]:
        """Give what the function returns, and Haiku's state after the call."""
        arguments = (h, x) if self.order == "carry, x" else (x, h)
        return self.apply.value(params, state, self.noise.value, *arguments)


@dataclasses.dataclass(frozen=True)
class UpdateGate:
    """The share that h' = (1 - z) h + z a keeps: 1 - z, where Flax and Equinox call it z."""

    def __call__(self, step: CellStep, params: Any, h: Any, x: Any) -> dict[str, Array | None]:
        """Give 1 - σ(W_z x + U_z h + b_z) = σ(-(W_z x + U_z h + b_z))."""
        del step
        (weights,) = params.values()
        size = h.shape[-1]
        total = x @ weights["w_i"][:, :size] + h @ weights["w_h"][:, :size] + weights["b"][:size]
        return {"h": jax.nn.sigmoid(-total)}


def from_haiku(
    cell: Any,
    params: Any = None,
    inputs: Any = None,
    *,
    state: Any = None,
    h0: Any = None,
    key: Any = None,
    dtype: Any = None,
    order: str = "auto",
    returns: str = "auto",
    noise_key: Any = None,
) -> Adapted:
    """Turn a Haiku core, or a function of your own with a state, into (step, params, h0).

    The state is the core's own, unbatched; parameters and state are cast to one dtype.

    Parameters
    ----------
    cell
        A function without arguments that builds a core, ``lambda: hk.LSTM(8)`` (VanillaRNN,
        LSTM, GRU, convolutional LSTMs, ResetCore, DeepRNN, a core of your own, or a list of
        cores, which is taken as an `hk.DeepRNN`); or a function of one input and a state that is
        to be transformed; or what `hk.transform` made of one.
    params
        What ``init`` or training gave; None draws fresh ones with `key`.
    inputs
        One unbatched input: its size, its shape, or an example. None reads the size off the
        parameters of a single core of the library (not convolutions).
    state
        Haiku's own state (batch statistics) of a transformed function that has one: frozen.
    h0
        The state before the first input; None asks the core's `initial_state(None)`.
    key
        Draws fresh parameters; ``jax.random.key(0)`` if None.
    dtype
        float32, float64, bfloat16 or float16: what parameters, state and inputs are cast to;
        JAX's default if None, so float64 in x64 mode.
    order
        How your own function is called: "x, carry" or "carry, x"; "auto" goes by the names of
        its arguments, then by shapes, then by the library's order, input first.
    returns
        What it returns: "carry", "carry, out" or "out, carry"; "auto" goes by shapes, then by
        the order of the arguments.
    noise_key
        A PRNG key for dropout and other randomness: the same noise at every step. Without it
        stochastic functions are refused.

    Returns
    -------
    Adapted
        The tuple (step, params, h0). Steps of LSTM and GRU cores declare their gates.

    Raises
    ------
    ImportError
        If Haiku is not installed.
    TypeError
        If `cell` is no such function.
    ValueError
        If the function takes a whole sequence, is stochastic, updates Haiku's state, gets a
        batch, rounds to another dtype, or does not fit `params`, `inputs` or `h0`.

    Notes
    -----
    All checks run on shapes. Haiku's LSTM adds 1 to the forget gate, its GRU resets the state
    before the matrix and keeps the share 1 - z of it: the same numbers are another network in
    Flax or Equinox.

    References
    ----------
    Haiku documentation, ``haiku.RNNCore`` and ``haiku.transform``.

    Examples
    --------
    >>> import haiku as hk
    >>> import gradhorizon as gh
    >>> step, params, h0 = gh.adapters.from_haiku(lambda: hk.GRU(8), inputs=3)
    >>> xs = jax.random.normal(jax.random.key(1), (50, 3))
    >>> str(gh.diagnose(step, params, h0, xs).regime)
    'VANISHING'
    """
    hk = library("haiku", "haiku", "from_haiku")
    kind = target_dtype(dtype)
    net = _network(hk, cell)
    require_step(cell, net.names)
    if dtype is None:
        require_no_silent_downcast("params", params)
    x = _input(cell, net, params, inputs, kind)
    key = jax.random.key(0) if key is None else key
    first = order if order != "auto" else named_order(net.names)

    def begin() -> Any:
        if h0 is None and net.begin is not None:
            return cast(net.begin(), kind)
        return initial_state(cell, h0, kind)

    def draw() -> tuple[Any, Any]:
        h, example = begin(), jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)
        arguments = (h, example) if first == "carry, x" else (example, h)
        with jax.numpy_dtype_promotion("standard"):
            return cast(net.init(key, *arguments), kind)

    def make() -> tuple[Any, Any]:
        return (draw()[0] if params is None else cast(_plain(params), kind)), begin()

    if net.axes is not None:
        refuse_axes(jax.eval_shape(begin), x, net.axes)
    frozen = {} if state is None else cast(state, kind)
    held = Held(net.apply, net.token)
    quiet = Held(frozen, None if frozen else ())
    noise = Held(noise_key, () if noise_key is None else None)
    call_of = functools.partial(HaikuCall, held, quiet, noise)
    manners = Manners("x, carry", True, _explain)
    adapted = adapt(cell, net.names, call_of, make, x, manners, (order, returns), net.gates)
    _refuse_changes(cell, adapted, frozen, x)
    return adapted


class _Network(NamedTuple):
    """A transformed function with everything that is known about it."""

    init: Callable[..., Any]
    apply: Callable[..., Any]
    token: Any
    names: list[str]
    begin: Callable[[], Any] | None = None
    axes: int | None = None
    gates: Any = None
    kind: str = ""


def _network(hk: Any, cell: Any) -> _Network:
    """Transform what the user holds, if it is not transformed yet."""
    if isinstance(cell, (hk.Transformed, hk.TransformedWithState)):
        stateful = isinstance(cell, hk.TransformedWithState)
        init, apply = (cell.init, cell.apply) if stateful else _with_state(cell)
        names = [name for name in positional(cell.apply)[1:] if name not in ("rng", "state")]
        # an argument that the user calls `state` or `rng` is missing in Haiku's signature
        return _Network(init, apply, cell, names if len(names) > 1 else [])
    if not callable(cell):
        remedy = "Pass a function that builds the core, such as lambda: hk.LSTM(8)."
        raise TypeError(worded("cell", "be a function", title(cell), remedy))
    if required(cell):
        net = hk.transform_with_state(cell)
        return _Network(net.init, net.apply, cell, positional(cell))
    return _of_core(hk, cell)


def _of_core(hk: Any, build: Callable[[], Any]) -> _Network:
    """Transform a function that builds a core, or a list of cores."""
    seen: list[Any] = []

    def core() -> Any:
        built = build()
        built = hk.DeepRNN(list(built)) if isinstance(built, (list, tuple)) else built
        seen[:] = [built]
        return built

    def begin() -> Any:
        return core().initial_state(None)

    start = hk.transform_with_state(begin)
    look = hk.transform_with_state(lambda: core() and None)
    jax.eval_shape(look.init, jax.random.key(0))
    kind = type(seen[0])
    if not callable(seen[0]):
        raise TypeError(worded("cell", "build a core", title(seen[0])))
    own = kind.__module__.startswith("haiku.") and kind.__name__ in _FIXES
    gates = None
    if own and kind.__name__.endswith("LSTM"):
        gates = ForgetGate(("h", "c"))
    elif own and kind.__name__ == "GRU":
        gates = UpdateGate()
    net = hk.transform_with_state(lambda *arguments: core()(*arguments))
    names = positional(kind.__call__)[1:]
    has_state = hasattr(seen[0], "initial_state")
    return _Network(
        init=net.init,
        apply=net.apply,
        token=build,
        names=names,
        begin=(lambda: start.apply({}, {}, None)[0]) if has_state else None,
        axes=_FIXES[kind.__name__] if own else None,
        gates=gates,
        kind=kind.__name__ if own else "",
    )


def _with_state(transformed: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give init and apply of a function without Haiku state as if it had an empty one."""
    takes_key = positional(transformed.apply)[1:2] in (["rng"], [])

    def init(*arguments: Any) -> tuple[Any, Any]:
        return transformed.init(*arguments), {}

    def apply(params: Any, state: Any, noise: Any, *arguments: Any) -> tuple[Any, Any]:
        key = (noise,) if takes_key else ()
        return transformed.apply(params, *key, *arguments), state

    return init, apply


def _plain(params: Any) -> Any:
    """Check that parameters are Haiku's two-level dictionary."""
    if not isinstance(params, Mapping):
        remedy = "Pass what init returned; the size of an input is `inputs`."
        raise TypeError(worded("params", "be a dictionary", type(params).__name__, remedy))
    return dict(params)


def _input(cell: Any, net: _Network, params: Any, inputs: Any, dtype: np.dtype) -> Any:
    """Specify one input, from what the user said or from the shape of a matrix."""
    if inputs is not None:
        return input_spec(inputs, dtype)
    weights = {} if params is None else dict(_plain(params))
    if net.kind == "GRU" and weights:
        (only,) = weights.values()
        return input_spec(only["w_i"].shape[0], dtype)
    if net.kind == "LSTM" and weights:
        (only,) = weights.values()  # one matrix acts on the input beside the hidden state
        return input_spec(only["w"].shape[0] - only["w"].shape[1] // 4, dtype)
    if net.kind == "VanillaRNN" and weights:
        first = next(w for name, w in weights.items() if name.endswith("/linear"))
        return input_spec(first["w"].shape[0], dtype)
    raise missing_inputs(cell)


def _refuse_changes(cell: Any, adapted: Adapted, frozen: Any, x: Any) -> None:
    """Refuse a function that updates Haiku's state: it would be a hidden second state."""
    call: Any = adapted.step

    def after(params: Any, before: Any, h: Any, now: Any) -> Any:
        return jax.tree.leaves(call.call.with_state(params, before, h, now)[1])

    graph = jax.make_jaxpr(after)(adapted.params, frozen, adapted.h0, x).jaxpr
    start = len(jax.tree.leaves(adapted.params))
    before = graph.invars[start : start + len(jax.tree.leaves(frozen))]
    same = len(graph.outvars) == len(before)
    if not same or any(a is not b for a, b in zip(graph.outvars, before, strict=True)):
        remedy = "Use evaluation mode (is_training=False), or carry it in the state of the core."
        wanted = "leave Haiku's own state as it is"
        raise ValueError(worded("cell", wanted, title(cell), remedy))


def _explain(cell: Any, error: Exception) -> Exception | None:
    """Turn Haiku's errors about missing keys, states and parameters into ours."""
    text = str(error)
    if "PRNGKey" in text or "RNG" in text:
        remedy = "Switch the noise off, or pass noise_key=... for the same noise at every step."
        return ValueError(worded("cell", "be deterministic", title(cell), remedy))
    if "Unable to retrieve parameter" in text:
        remedy = "Pass what init of this very function returned."
        return ValueError(worded("params", "hold what the cell asks for", text, remedy))
    if "No value for" in text or "Unable to retrieve state" in text or "set_state" in text:
        remedy = "Pass state=..., as init of the function transformed with state gave it."
        return ValueError(worded("state", "hold what the cell asks for", text, remedy))
    return None
