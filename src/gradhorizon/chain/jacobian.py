"""The chain of step Jacobians J_1 … J_T: linear maps in time order, scanned over time.

Convention: J_t = ∂h_t/∂h_{t-1} acts on columns, dh_t = J_t dh_{t-1}. Tangents (frames) are
pushed forward by J_t, adjoints (coframes) are pulled back by J_tᵀ. Φ(t, s) = J_t … J_{s+1},
newest factor on the left.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from gradhorizon._checks import describe, is_concrete, require_finite, worded
from gradhorizon._checks import require_no_silent_downcast as _no_downcast
from gradhorizon._compiled import compiled
from gradhorizon._record import record, static
from gradhorizon.chain._contract import PrecisionWarning, Step, check_problem
from gradhorizon.chain._state import StateSpace
from gradhorizon.chain.unroll import run

MODES = ("auto", "forward", "reverse")
_LIMIT = 2 * 2**30  # bytes that `matrices` allocates unless told otherwise


class Link(NamedTuple):
    """One linear map of a chain: J as a matrix, as a push of frames, as a pull of coframes."""

    matrix: Callable[[], Float[Array, "n n"]]
    push: Callable[[Float[Array, "n k"]], Float[Array, "n k"]]
    pull: Callable[[Float[Array, "n k"]], Float[Array, "n k"]]


class _MatrixLinks(NamedTuple):
    """The links of a chain given as matrices."""

    mode: str = "matrices"
    tied: bool = False

    def __call__(self, shared: Any, item: Float[Array, "n n"]) -> Link:
        del shared
        return Link(lambda: item, lambda frame: item @ frame, lambda coframe: item.T @ coframe)


@dataclasses.dataclass(frozen=True)
class _StepLinks:
    """The links of a chain linearized from a step function."""

    step: Step
    space: StateSpace
    tied: bool
    mode: str  # "forward" or "reverse": how the matrix is made
    transposable: bool  # whether the other direction exists too

    def __call__(self, shared: Any, item: tuple[Any, ...]) -> Link:
        point, auxiliary, layer, x = item
        params = shared if self.tied else layer

        def flow(vector: Array) -> Array:
            state = self.space.unravel(vector, auxiliary)
            return self.space.ravel(self.step(params, state, x))[0]

        make = jax.jacfwd if self.mode == "forward" else jax.jacrev

        def matrix() -> Array:
            return make(flow)(point)

        def push(frame: Array) -> Array:
            if self.mode == "reverse":
                return matrix() @ frame
            return jax.vmap(jax.linearize(flow, point)[1], in_axes=1, out_axes=1)(frame)

        def pull(coframe: Array) -> Array:
            if not self.transposable:
                return matrix().T @ coframe
            back = jax.vjp(flow, point)[1]
            return jax.vmap(lambda column: back(column)[0], in_axes=1, out_axes=1)(coframe)

        return Link(matrix, push, pull)


@record
class JacobianChain:
    """The step Jacobians of an unrolled network, in time order.

    Made by `jacobian_chain` from a step function or by `from_matrices` from an array.

    Attributes
    ----------
    items
        What each link is built from, with a leading time axis of T entries: the matrices, or
        linearization point, auxiliary state, untied parameters and input of every step.
    shared
        What all links share: the tied parameters, or None.
    final
        h_T as a vector, or None for a chain given as matrices.
    links
        Builds a `Link` from ``(shared, item)``.
    length
        T.
    size
        n, the number of differentiated state entries.
    dtype
        The dtype of the Jacobians.
    storage_dtype
        The dtype that states or matrices came in: error bars use its precision.
    """

    items: PyTree
    shared: PyTree
    final: Float[Array, "*batch n"] | None
    links: Callable[[Any, Any], Link] = static()
    length: int = static()
    size: int = static()
    dtype: np.dtype = static()
    storage_dtype: np.dtype = static()

    @staticmethod
    def from_matrices(matrices: Any) -> "JacobianChain":
        """Make a chain from an array of matrices.

        Parameters
        ----------
        matrices
            J_1 … J_T in time order, shape (T, n, n), real floating point.

        Returns
        -------
        JacobianChain
            The chain; float16 and bfloat16 matrices are promoted to float32 with a warning.

        Raises
        ------
        TypeError
            If the array is not real floating point.
        ValueError
            If the shape is not (T, n, n), or x64 is off and the array is float64.

        Examples
        --------
        >>> import numpy as np
        >>> import gradhorizon as gh
        >>> chain = gh.JacobianChain.from_matrices(np.array([[[2.0]], [[3.0]], [[4.0]]]))
        >>> chain.length, chain.size
        (3, 1)
        """
        _no_downcast("matrices", matrices)
        if isinstance(matrices, (list, tuple)):
            matrices = np.asarray(matrices)
        stack = jnp.asarray(matrices)
        if not jnp.issubdtype(stack.dtype, jnp.floating):
            remedy = "Cast it to float32 or float64."
            shown = describe(stack)
            raise TypeError(worded("matrices", "be real and floating point", shown, remedy))
        if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or stack.shape[1] == 0:
            raise ValueError(
                worded(
                    "matrices",
                    "have shape (T, n, n) with n at least 1",
                    describe(stack),
                    "Put time first; batch with jax.vmap.",
                )
            )
        storage = np.dtype(stack.dtype)
        if jnp.finfo(storage).bits < 32:
            warnings.warn(
                f"The matrices are stored in {storage}: they are promoted to float32, and error "
                f"bars use the precision of {storage}.",
                PrecisionWarning,
                stacklevel=2,
            )
            stack = stack.astype(jnp.float32)
        return JacobianChain(
            items=stack,
            shared=None,
            final=None,
            links=_MatrixLinks(),
            length=stack.shape[0],
            size=stack.shape[1],
            dtype=np.dtype(stack.dtype),
            storage_dtype=storage,
        )

    @property
    def mode(self) -> str:
        """How matrices are made: "forward", "reverse", or "matrices" when they were given."""
        return self.links.mode  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def tied(self) -> bool:
        """Whether one set of parameters acts at every step."""
        return self.links.tied  # pyright: ignore[reportFunctionMemberAccess]

    def link(self, item: Any) -> Link:
        """Build the linear map of one step from its slice of `items`, for use inside a scan."""
        return self.links(self.shared, item)

    def at(self, t: Any) -> Link:
        """Build the linear map J_t, t = 1 … T; `t` may be traced."""
        return self.link(jax.tree.map(lambda a: a[t - 1], self.items))

    def segment(self, start: int, stop: int) -> "JacobianChain":
        """Cut out the steps start + 1 … stop, whose product is Φ(stop, start)."""
        cut = jax.tree.map(lambda a: a[start:stop], self.items)
        final = self.final
        if final is not None and stop < self.length:
            final = self.items[0][stop]
        return dataclasses.replace(self, items=cut, length=stop - start, final=final)

    def matrices(self, *, limit_bytes: int = _LIMIT) -> Float[Array, "T n n"]:
        """Materialize all step Jacobians.

        Parameters
        ----------
        limit_bytes
            The largest array to allocate, in bytes; 2 GiB by default.

        Returns
        -------
        Array
            J_1 … J_T in time order, shape (T, n, n).

        Raises
        ------
        MemoryError
            If the array would be larger than `limit_bytes`.

        Examples
        --------
        >>> import gradhorizon as gh
        >>> square = lambda params, h, x: params * h**2
        >>> gh.jacobian_chain(square, 1.0, 3.0, length=2).matrices().ravel().tolist()
        [6.0, 18.0]
        """
        needed = self.length * self.size**2 * self.dtype.itemsize
        if needed > limit_bytes:
            raise MemoryError(
                worded(
                    "limit_bytes",
                    f"be at least T n² itemsize = {needed} bytes ({needed / 2**30:.1f} GiB)",
                    limit_bytes,
                    "Analyze the chain itself, which streams, or raise the limit.",
                )
            )
        return _matrices(self)


@compiled
def _matrices(chain: JacobianChain) -> Float[Array, "T n n"]:
    if chain.mode == "matrices":
        return chain.items
    return lax.map(lambda item: chain.link(item).matrix(), chain.items)


def jacobian_chain(
    step: Step,
    params: Any,
    h0: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    tied: bool = True,
    mode: str = "auto",
) -> JacobianChain:
    """Unroll a cell and linearize every step: J_t = ∂h_t/∂h_{t-1}, exactly.

    Parameters
    ----------
    step
        Any pure function ``step(params, h, x) -> h``.
    params
        Its parameters; with ``tied=False`` every leaf has a leading axis of T entries.
    h0
        The initial state, any pytree; its real floating-point leaves are raveled to n numbers,
        integer and PRNG-key leaves are carried along without derivative.
    xs
        Inputs with a leading axis of T entries, or None.
    length
        T, needed when there are no inputs and the parameters are tied.
    tied
        Whether the same parameters act at every step (a recurrent network) or fresh ones at
        each (a deep feedforward network).
    mode
        "forward" (`jax.jacfwd`), "reverse" (`jax.jacrev`), or "auto": forward, and reverse
        where a custom derivative rule forbids forward mode.

    Returns
    -------
    JacobianChain
        The chain; no matrix is formed until one is asked for.

    Raises
    ------
    TypeError
        If `step` is not a function, or a leaf has the wrong kind, or ``mode="forward"`` and
        `step` has no forward derivative.
    ValueError
        If shapes, structures, precisions or lengths disagree, or a value is not finite.

    Notes
    -----
    Memory O(T n) for the linearization points. Pushing k tangents through a step costs about
    k evaluations of it, without forming J.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.linear(2, 0, recurrent_init=gh.inits.identity(0.5))
    >>> chain = gh.jacobian_chain(cell.step, cell.init(jax.random.key(0)), jnp.ones(2), length=4)
    >>> chain.matrices()[3].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    if mode not in MODES:
        raise ValueError(worded("mode", f"be one of {', '.join(MODES)}", repr(mode)))
    problem = check_problem(step, params, h0, xs, length, tied=tied)
    states = run(step, problem, tied=tied).states
    points, auxiliary = jax.vmap(problem.space.ravel)(states)
    earlier = jax.tree.map(lambda a: a[:-1], (points, auxiliary))
    items = (*earlier, None if tied else problem.params, problem.xs)
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), items)
    shared = problem.params if tied else None
    links = _resolve(_StepLinks(step, problem.space, tied, mode, True), shared, first)
    return JacobianChain(
        items=items,
        shared=shared,
        final=points[-1],
        links=links,
        length=problem.length,
        size=problem.space.size,
        dtype=problem.space.dtype,
        storage_dtype=problem.space.storage_dtype,
    )


def _resolve(links: _StepLinks, shared: Any, item: Any) -> _StepLinks:
    """Find out once, by abstract evaluation, which directions of differentiation exist."""

    def works(mode: str) -> Exception | None:
        trial = dataclasses.replace(links, mode=mode)
        try:
            jax.eval_shape(lambda s, i: trial(s, i).matrix(), shared, item)
        except (TypeError, ValueError, NotImplementedError) as error:
            return error
        return None

    if links.mode == "reverse":
        return links
    obstacle = works("forward")
    if obstacle is None:
        return dataclasses.replace(links, mode="forward", transposable=works("reverse") is None)
    if links.mode == "forward":
        text = worded(
            "mode",
            "be 'reverse' or 'auto' for a step without forward derivative",
            "'forward'",
            "Pass mode='reverse'.",
        )
        raise TypeError(text) from obstacle
    return dataclasses.replace(links, mode="reverse")


def finite_steps(chain: JacobianChain) -> Bool[Array, " T"]:
    """Say for every step t = 1 … T whether its matrix, or its state h_t, is finite."""
    if chain.mode == "matrices":
        return jnp.all(jnp.isfinite(chain.items), axis=(1, 2))
    points = chain.items[0][1:]
    if chain.final is not None and chain.length:
        points = jnp.concatenate([points, chain.final[None]])
    return jnp.all(jnp.isfinite(points), axis=1)


def as_chain(chain: Any, *, throw: bool) -> JacobianChain:
    """Accept a chain or an array of shape (T, n, n); with `throw`, refuse non-finite matrices."""
    if not isinstance(chain, JacobianChain):
        chain = JacobianChain.from_matrices(chain)
    if throw and chain.mode == "matrices" and is_concrete(chain.items):
        require_finite("chain", chain.items)
    return chain
