"""The unrolled network: N steps of one cell are N layers of a feedforward network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record
from gradhorizon.chain._contract import Problem, Step, check_problem


@record
class Trajectory:
    """The states an unrolled network passes through.

    Attributes
    ----------
    states
        h_0 … h_T, in the structure of `h0`; every leaf has a leading axis of T + 1 entries.
    inputs
        x_1 … x_T as they were given, or None.
    status
        `Status.OK`, `Status.EMPTY` for T = 0, or `Status.NONFINITE`.
    first_bad_step
        The first t whose state h_t has a NaN or infinite entry; -1 if there is none.
    """

    states: PyTree
    inputs: PyTree
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]


def unroll(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    tied: bool = True,
) -> Trajectory:
    """Run a cell over a sequence: h_t = step(params, h_{t-1}, x_t) for t = 1 … T.

    Parameters
    ----------
    step
        Any pure function ``step(params, h, x) -> h``.
    params
        Its parameters, a pytree of floats; with ``tied=False`` every leaf has a leading axis
        of T entries, one set per step (a deep feedforward network).
    h0
        The state before the first step: any pytree with at least one floating-point leaf.
    xs
        Inputs with a leading axis of T entries, or None.
    length
        T, needed when there are no inputs and the parameters are tied.
    tied
        Whether the same parameters act at every step.

    Returns
    -------
    Trajectory
        The T + 1 states, the inputs, and a status.

    Raises
    ------
    TypeError
        If `step` is not a function, or a leaf has the wrong kind.
    ValueError
        If shapes, structures, precisions or lengths disagree, or a value is not finite.

    Notes
    -----
    One `jax.lax.scan`; memory O(T n) for the stored states. A NaN that appears on the way is
    not an error here: `status` and `first_bad_step` say where.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> halve = lambda params, h, x: params * h
    >>> [float(h) for h in gh.unroll(halve, 0.5, 8.0, length=3).states]
    [8.0, 4.0, 2.0, 1.0]
    """
    problem = check_problem(step, params, h0, xs, length, tied=tied)
    return run(step, problem, tied=tied)


def run(step: Step, problem: Problem, *, tied: bool) -> Trajectory:
    """Unroll a checked problem."""
    return _unroll(
        problem.params, problem.h0, problem.xs, step=step, length=problem.length, tied=tied
    )


@compiled(static=("step", "length", "tied"))
def _unroll(params: Any, h0: Any, xs: Any, *, step: Step, length: int, tied: bool) -> Trajectory:
    def body(h: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        layer, x = inputs
        new = step(params if tied else layer, h, x)
        return new, new

    scanned = (None if tied else params, xs)
    _, later = lax.scan(body, h0, scanned, length=length)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), h0, later)
    return Trajectory(states, xs, *_finiteness(states, length))


def _finiteness(states: Any, length: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Give status and first bad step of a stack of states."""
    finite = jnp.ones(length + 1, dtype=bool)
    for leaf in jax.tree.leaves(states):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite &= jnp.all(jnp.isfinite(leaf.reshape(length + 1, -1)), axis=1)
    usual = Status.OK if length else Status.EMPTY
    return status_of(finite, usual)


def status_of(
    finite: Bool[Array, " steps"], usual: Status
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Give `usual` and -1 when all is finite, else `Status.NONFINITE` and the first index."""
    if finite.shape[0] == 0:
        return jnp.asarray(int(usual), jnp.int32), jnp.asarray(-1, jnp.int32)
    first = jnp.argmin(finite).astype(jnp.int32)
    good = jnp.all(finite)
    status = jnp.where(good, int(usual), int(Status.NONFINITE)).astype(jnp.int32)
    return status, jnp.where(good, -1, first)
