"""One step as a linear map: J_t as a matrix, as a push of tangents, as a pull of cotangents.

The derivative of a step is a linear program with constants. Some of these constants change
from step to step (the slopes φ' of an activation), the others are the same at every step (the
recurrent matrix). `StepLinks.program` tells them apart once, from the abstract program, so that
an unroll keeps the first kind for every step and the second kind once, and an analysis pushes
its frame without evaluating the step again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from gradhorizon._checks import worded
from gradhorizon.chain._contract import Step
from gradhorizon.chain._state import StateSpace


class Link(NamedTuple):
    """One linear map of a chain: J as a matrix, as a push of frames, as a pull of coframes."""

    matrix: Callable[[], Float[Array, "n n"]]
    push: Callable[[Float[Array, "n k"]], Float[Array, "n k"]]
    pull: Callable[[Float[Array, "n k"]], Float[Array, "n k"]]


class MatrixLinks(NamedTuple):
    """The links of a chain given as matrices."""

    mode: str = "matrices"
    tied: bool = False

    def link(self, matrix: Float[Array, "n n"]) -> Link:
        """Give one matrix as a linear map."""
        return Link(lambda: matrix, lambda frame: matrix @ frame, lambda cof: matrix.T @ cof)


class Program(NamedTuple):
    """The linearized step, its constants sorted by what they depend on.

    Attributes
    ----------
    run
        Maps ``(shared, item)`` to the next vector, the next auxiliary state, and the constants
        that belong to this step alone.
    fixed
        Maps ``(shared, item)`` to the constants that are the same at every step.
    link
        Builds the linear map of one step from ``(constants of the step, fixed, item)``.
    """

    run: Callable[[Any, Any], tuple[Array, tuple[Any, ...], tuple[Array, ...]]]
    fixed: Callable[[Any, Any], tuple[Any, ...]]
    link: Callable[[Any, Any, Any], Link]


@dataclasses.dataclass(frozen=True)
class StepLinks:
    """The links of a chain linearized from a step function."""

    step: Step
    space: StateSpace
    tied: bool
    mode: str  # "forward" or "reverse": how the matrix is made
    transposable: bool  # whether the other direction exists too

    def differentiate(self, shared: Any, item: Any) -> tuple[Array, tuple[Any, ...], Any]:
        """Evaluate one step from ``(vector, auxiliary, layer, x)`` and linearize it there."""
        point, auxiliary, layer, x = item
        params = shared if self.tied else layer

        def flow(vector: Array) -> tuple[Array, tuple[Any, ...]]:
            state = self.space.unravel(vector, auxiliary)
            return self.space.ravel(self.step(params, state, x))

        if self.mode == "forward":
            new, derivative, later = jax.linearize(flow, point, has_aux=True)
        else:
            new, derivative, later = jax.vjp(flow, point, has_aux=True)
        return new, later, derivative

    def of(self, derivative: Any) -> Link:
        """Give the matrix and both directions of a linearized step."""
        n, dtype = self.space.size, self.space.dtype

        def along(function: Any) -> Callable[[Array], Array]:
            rows = jax.vmap(function)  # of the transpose: one product without a copy
            return lambda frame: rows(frame.astype(dtype).T).T

        eye = jnp.eye(n, dtype=dtype)
        if self.mode == "reverse":
            back = along(lambda column: derivative(column)[0])
            return Link(lambda: back(eye).T, lambda frame: back(eye).T @ frame, back)
        push = along(derivative)

        def pull(coframe: Array) -> Array:
            if not self.transposable:
                return push(eye).T @ coframe
            back = jax.linear_transpose(derivative, jax.ShapeDtypeStruct((n,), dtype))
            return along(lambda column: back(column)[0])(coframe)

        return Link(lambda: push(eye), push, pull)

    def program(self, shared: Any, item: Any) -> Program:
        """Trace the linearized step for arguments of these shapes, and sort its constants.

        Everything is read off one abstract program, hence the same at every trace.
        """
        structures: list[Any] = []

        def whole(shared: Any, item: Any) -> Any:
            new, later, derivative = self.differentiate(shared, item)
            constants, structure = jax.tree.flatten(derivative)
            structures.append(structure)
            return new, later, constants

        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (shared, item))
        traced, shapes = jax.make_jaxpr(whole, return_shape=True)(*like)
        structure = structures[-1]
        evaluate, form = core.jaxpr_as_fun(traced), jax.tree.structure(shapes)
        roles = _roles(traced.jaxpr, len(jax.tree.leaves(shared)), len(shapes[2]))

        def evaluated(shared: Any, item: Any) -> Any:
            return jax.tree.unflatten(form, evaluate(*jax.tree.leaves((shared, item))))

        def run(shared: Any, item: Any) -> Any:
            new, later, constants = evaluated(shared, item)
            own = (c for c, role in zip(constants, roles, strict=True) if role == "own")
            return new, later, tuple(own)

        def fixed(shared: Any, item: Any) -> tuple[Any, ...]:
            constants = evaluated(shared, item)[2]
            return tuple(c for c, role in zip(constants, roles, strict=True) if role == "fixed")

        def link(own: Any, fixed: Any, item: Any) -> Link:
            sources = {"own": iter(own), "fixed": iter(fixed)}
            leaves = jax.tree.leaves(item)
            constants = [
                leaves[role] if isinstance(role, int) else next(sources[role]) for role in roles
            ]
            return self.of(jax.tree.unflatten(structure, constants))

        return Program(run, fixed, link)


def resolve(links: StepLinks, shared: Any, item: Any) -> StepLinks:
    """Find out once, by abstract evaluation, which directions of differentiation exist.

    Raises
    ------
    TypeError
        If ``mode="forward"`` and the step has no forward derivative.
    """

    def obstacle(mode: str) -> Exception | None:
        trial = dataclasses.replace(links, mode=mode)
        try:
            jax.eval_shape(
                lambda s, i: trial.of(trial.differentiate(s, i)[2]).matrix(), shared, item
            )
        except (TypeError, ValueError, NotImplementedError) as error:
            return error
        return None

    if links.mode == "reverse":
        return links
    forward = obstacle("forward")
    if forward is None:
        return dataclasses.replace(links, mode="forward", transposable=obstacle("reverse") is None)
    if links.mode == "forward":
        text = worded(
            "mode",
            "be 'reverse' or 'auto' for a step without forward derivative",
            "'forward'",
            "Pass mode='reverse'.",
        )
        raise TypeError(text) from forward
    return dataclasses.replace(links, mode="reverse")


def _roles(program: core.Jaxpr, shared: int, constants: int) -> list[str | int]:
    """Sort the last outputs of a program whose first inputs are the `shared` ones.

    "fixed" outputs depend on the shared inputs only, an integer names the input of the step
    that the output simply repeats, and "own" ones are computed from the step.
    """
    inputs = {v: i for i, v in enumerate(program.invars[shared:])}
    moving = set(inputs)
    for equation in program.eqns:
        if any(isinstance(v, core.Var) and v in moving for v in equation.invars):
            moving.update(equation.outvars)

    def role(output: Any) -> str | int:
        if not isinstance(output, core.Var) or output not in moving:
            return "fixed"
        return inputs.get(output, "own")

    outputs = program.outvars[len(program.outvars) - constants :]
    return [role(output) for output in outputs]
