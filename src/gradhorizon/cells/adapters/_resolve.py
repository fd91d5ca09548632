"""Finding out, from shapes alone, how a cell wants to be called and where its state comes back.

Nothing is compiled here: `jax.eval_shape` runs the cell on shapes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon._checks import ArgumentError, describe, dtype_of, is_key, leaf_name, worded
from gradhorizon.cells.adapters._common import (
    Adapted,
    require_equal_dtypes,
    summary,
    title,
)
from gradhorizon.cells.adapters._steps import CellStep, GatedCellStep, refuse_batched_state

ORDERS = ("carry, x", "x, carry")
RETURNS = ("carry", "carry, out", "out, carry")
_STATES = {
    *("carry", "state", "states", "h", "hs", "hx", "hc", "h0", "c", "s", "hidden", "memory"),
    *("prev", "previous", "prevstate", "prevcarry", "prevhidden", "prevh", "hprev"),
    *("hiddenstate", "cellstate", "corestate", "recurrentstate"),
}
_INPUTS = {
    *("x", "xs", "xt", "u", "ut", "inp", "input", "inputs", "data"),
    *("obs", "observation", "token", "tokens", "feature", "features"),
}


Explain = Callable[[Any, Exception], Exception | None]


@dataclasses.dataclass(frozen=True)
class Manners:
    """How a library's cells are called unless their own names say otherwise.

    Attributes
    ----------
    order
        The library's own order of arguments.
    binding
        Whether its own loops over time demand that order, and a tuple in the same order: then a
        cell that shapes leave open is taken at the library's word, and else refused.
    explain
        Turns a library's error about a cell into one of ours, or gives None.
    """

    order: str
    binding: bool
    explain: Explain = lambda *_: None


@dataclasses.dataclass(frozen=True)
class Resolved:
    """How a cell is called: its order of arguments, and where it returns the state."""

    order: str
    place: int | None


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices."""
    if value not in ("auto", *choices):
        known = ", ".join(repr(c) for c in ("auto", *choices))
        raise ValueError(worded(name, f"be one of {known}", repr(value)))


def named_order(names: list[str]) -> str | None:
    """Read the order of arguments off their names; None where they do not tell."""
    names = [name.lower().replace("_", "") for name in names[:2]]
    if len(names) < 2:
        return None
    first, second = names
    if (first in _STATES and second not in _STATES) or (second in _INPUTS and first not in _INPUTS):
        return "carry, x"
    if (second in _STATES and first not in _STATES) or (first in _INPUTS and second not in _INPUTS):
        return "x, carry"
    return None


def require_step(cell: Any, names: list[str]) -> None:
    """Refuse a layer that takes a whole sequence: it has no step that could be unrolled.

    Raises
    ------
    ValueError
        If it takes one positional argument only.
    """
    if len(names) == 1:
        raise no_step(cell, f"called with ({names[0]})")


def no_step(cell: Any, why: str) -> ValueError:
    """Give the error for a layer without a causal step."""
    remedy = "It has no causal step, hence no horizon: pass the cell inside it."
    wanted = "advance a state by one input"
    return ValueError(worded("cell", wanted, f"{title(cell)}, {why}", remedy))


def resolve(
    cell: Any,
    names: list[str],
    call_of: Callable[[str], Callable[[Any, Any, Any], Any]],
    arguments: tuple[Any, Any, Any],
    manners: Manners,
    options: tuple[str, str],
) -> Resolved:
    """Find the order of arguments and the place of the state, and check the step on the way.

    Parameters
    ----------
    cell, names
        The user's object, and the names of the arguments it is called with.
    call_of
        Gives ``call(params, h, x)`` for an order.
    arguments
        Specifications of params, h0 and x.
    manners
        What is usual in the library.
    options
        `order` and `returns` as the user gave them.

    Returns
    -------
    Resolved
        The order and the place.

    Raises
    ------
    ValueError
        If the state comes back with other shapes or dtypes, or shapes leave the order open.
    """
    order, returns = options
    check_choice("order", order, ORDERS)
    check_choice("returns", returns, RETURNS)
    usual = (manners.order, ORDERS[ORDERS[0] == manners.order])
    told = order if order != "auto" else named_order(names)
    fitting: list[tuple[Resolved, Any]] = []
    failures: list[Exception | Any] = []
    for candidate in (told,) if told else usual:
        try:
            # under any promotion rule: a dtype that changes is what is reported below
            with jax.numpy_dtype_promotion("standard"):
                returned = jax.eval_shape(call_of(candidate), *arguments)
        except Exception as error:
            known = manners.explain(cell, error)
            if known is not None or isinstance(error, ArgumentError):
                raise (known or error) from error
            failures.append(error)
            continue
        places = _places(arguments[1], returned, returns)
        if not places:
            failures.append(returned)
            continue
        chosen = _choose(places, candidate, call_of, arguments, manners)
        fitting.append((Resolved(candidate, chosen), returned))
    if not fitting:
        raise _unfit(cell, arguments, failures[0])
    if len(fitting) > 1 and not manners.binding:
        wanted = "be told apart from the input: their names and shapes do not"
        remedy = f"Pass order={ORDERS[0]!r} or order={ORDERS[1]!r}."
        raise ValueError(worded("carry", wanted, title(cell), remedy))
    found, returned = fitting[0]
    state = returned if found.place is None else returned[found.place]
    require_equal_dtypes(arguments[1], state, _precision(arguments[1]))
    return found


def _precision(h0: Any) -> np.dtype:
    """Give the real dtype of a state's floats, for messages."""
    for leaf in jax.tree.leaves(h0):
        if not is_key(leaf) and jnp.issubdtype(dtype_of(leaf), jnp.floating):
            return np.dtype(dtype_of(leaf))
    return np.dtype(jnp.result_type(float))


def _places(h0: Any, returned: Any, returns: str) -> list[int | None]:
    """Say where in what is returned something of the shapes of h0 stands."""
    if returns in ("auto", "carry") and _alike(h0, returned):
        return [None]
    if returns == "carry" or not isinstance(returned, (tuple, list)) or len(returned) < 2:
        return []
    wanted = {"carry, out": [0], "out, carry": [1]}.get(returns, range(len(returned)))
    return [i for i in wanted if _alike(h0, returned[i])]


def _alike(first: Any, second: Any) -> bool:
    """Say whether two trees agree in structure and shapes."""
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.shape(a) == np.shape(b) for a, b in pairs)


def _choose(
    places: list[int | None], order: str, call_of: Any, arguments: Any, manners: Manners
) -> int | None:
    """Choose among several places: the library's own, or any if all hold the same values."""
    if len(places) == 1:
        return places[0]
    usual = 0 if order == ORDERS[0] else 1
    if usual not in places:
        return places[0]
    if manners.binding or order == ORDERS[0] or _same_values(call_of(order), arguments, places):
        return usual
    wanted = "be told apart from the output: both have the shape of the state"
    remedy = f"Pass returns={RETURNS[1]!r} or returns={RETURNS[2]!r}."
    raise ValueError(worded("carry", wanted, summary(arguments[1]), remedy))


def _same_values(call: Any, arguments: Any, places: list[int | None]) -> bool:
    """Say whether the entries at some places of a returned tuple are the very same values."""

    def at(params: Any, h: Any, x: Any) -> list[list[Any]]:
        returned = call(params, h, x)
        return [jax.tree.leaves(returned[place]) for place in places]

    graph = jax.make_jaxpr(at)(*arguments).jaxpr.outvars
    size = len(graph) // len(places)
    return all(graph[i] is graph[i % size] for i in range(len(graph)))


def _unfit(cell: Any, arguments: Any, failure: Any) -> ValueError:
    """Give the error for a cell that cannot be called, or that returns no state like h0."""
    _, h0, x = arguments
    if isinstance(failure, Exception):
        fault = f"{type(failure).__name__}: {failure}"
        wanted = f"accept a state {summary(h0)} and an input {summary(x)}"
        if h0 is None:
            wanted = "be initialized with such a state and such an input"
        remedy = "Check the parameters, `h0` and `inputs`; batch with jax.vmap."
        error = ValueError(worded("cell", wanted, fault, remedy))
        error.__cause__ = failure
        return error
    came = f"{summary(h0)}; {title(cell)} returned {summary(failure)}"
    remedy = "Pass h0=..., the unbatched state before the first input; batch with jax.vmap."
    wanted = "have the structure and shapes of the state that the cell returns"
    return ValueError(worded("h0", wanted, came, remedy))


def refuse_axes(h0: Any, x: Any, axes: int) -> None:
    """Refuse a state or an input with more axes than a known cell takes.

    Raises
    ------
    ValueError
        If the state or the input has a batch axis.
    """
    refuse_batched_state(h0, (axes,) * len(jax.tree.leaves(h0)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if np.ndim(leaf) > axes:
            wanted = f"be one unbatched input, here of {axes} axes"
            name = leaf_name("inputs", path)
            raise ValueError(worded(name, wanted, describe(leaf), "Batch with jax.vmap."))


def refuse_rows(call: Callable[[Any, Any, Any], Any], arguments: tuple[Any, Any, Any]) -> None:
    """Refuse a batch given to a cell of the user's own, which takes each row for itself.

    Raises
    ------
    ValueError
        If state and input share their first axis, and the cell also runs on one row of them.
    """
    params, h0, x = arguments
    leaves = jax.tree.leaves((h0, x))
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) > 1 else 0 for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        return
    row_h, row_x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (h0, x))
    try:
        returned = jax.eval_shape(call, params, row_h, row_x)
    except Exception:
        return  # a single row is no state of this cell: the first axis is no batch
    if _places(row_h, returned, "auto"):
        wanted = "be one unbatched state; the cell takes each row for itself"
        raise ValueError(worded("h0", wanted, summary(h0), "Batch with jax.vmap."))


def refuse_rounding(cell: Any, call: Any, arguments: Any, dtype: np.dtype) -> None:
    """Refuse a cell that rounds to fewer bits on the way.

    Its state may come back in float64 all the same, and with it Jacobians typed float64 that are
    accurate to 1e-8 only.

    Raises
    ------
    ValueError
        If some value of the state's dtype is converted to a narrower floating-point type.
    """
    with jax.numpy_dtype_promotion("standard"):
        graph = jax.make_jaxpr(call)(*arguments).jaxpr
    for source, target in _conversions(graph):
        narrow = jnp.issubdtype(target, jnp.floating) and target.itemsize < dtype.itemsize
        if source == dtype and narrow:
            remedy = f"Build it with dtype=jnp.{dtype}, or pass dtype=jnp.{target} to the adapter."
            came = f"{title(cell)}, which rounds to {target}"
            raise ValueError(worded("cell", f"compute in {dtype} throughout", came, remedy))


def _conversions(graph: Any) -> Iterator[tuple[np.dtype, np.dtype]]:
    """Give source and target of all conversions in a traced function, inner functions included."""
    for equation in graph.eqns:
        if equation.primitive.name == "convert_element_type":
            yield equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _conversions(inner)


def shapes_of(make: Callable[[], Any], cell: Any, explain: Explain) -> Any:
    """Run on shapes alone what makes parameters or states, and word what goes wrong."""
    try:
        return jax.eval_shape(make)
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) and str(error).startswith("`"):
            raise
        raise (explain(cell, error) or _unfit(cell, (None, None, None), error)) from error


def adapt(
    cell: Any,
    names: list[str],
    call_of: Callable[[str], Callable[[Any, Any, Any], Any]],
    make: Callable[[], tuple[Any, Any]],
    x: Any,
    manners: Manners,
    options: tuple[str, str],
    gates: Any = None,
) -> Adapted:
    """Check a cell on shapes, then make its parameters and state.

    Parameters
    ----------
    cell, names, call_of, manners, options
        See `resolve`.
    make
        Gives parameters and state, cast; run on shapes first.
    x
        Specification of one input.
    gates
        For cells of a known kind, what their `state_gates` are.

    Returns
    -------
    Adapted
        Step, parameters and state.
    """
    params, h0 = shapes_of(make, cell, manners.explain)
    arguments = (params, h0, x)
    found = resolve(cell, names, call_of, arguments, manners, options)
    call, dtype = call_of(found.order), _precision(h0)
    refuse_rounding(cell, call, arguments, dtype)
    if gates is None:
        refuse_rows(call, arguments)
    ranks = tuple(np.ndim(leaf) for leaf in jax.tree.leaves(h0))
    step = CellStep(call, found.place, dtype, ranks)
    if gates is not None:
        step = GatedCellStep(call, found.place, dtype, ranks, gates)
    return Adapted(step, *make())
