"""The chain of step Jacobians J_1 … J_T: linear maps in time order, scanned over time.

Convention: J_t = ∂h_t/∂h_{t-1} acts on columns, dh_t = J_t dh_{t-1}. Tangents (frames) are
pushed forward by J_t, adjoints (coframes) are pulled back by J_tᵀ. Φ(t, s) = J_t … J_{s+1},
newest factor on the left.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from gradhorizon._checks import (
    is_concrete,
    require_choice,
    require_finite,
    require_integer,
    worded,
)
from gradhorizon._compiled import compiled
from gradhorizon._record import record, static
from gradhorizon.chain._contract import Problem, Step, check_problem
from gradhorizon.chain._given import LIMIT, given, require_room
from gradhorizon.chain._links import Link, MatrixLinks, StepLinks, resolve
from gradhorizon.chain._sweep import advanced, choose_stride, first_of, sweep, unrolled

MODES = ("auto", "forward", "reverse")


@record
class JacobianChain:
    """The step Jacobians of an unrolled network, in time order.

    Made by `jacobian_chain` from a step function or by `from_matrices` from an array.

    Attributes
    ----------
    items
        What each link is built from, with a leading time axis: the matrices, or linearization
        point, auxiliary state, untied parameters and input of every step. Points and auxiliary
        states are those of every `stride`-th step only.
    residuals
        The constants of the derivative of every step, or None where they are computed again.
    shared
        What all links share: the tied parameters, or None.
    final
        h_T as a vector, or None for a chain given as matrices.
    finite
        For a chain linearized from a step, whether h_1 … h_T are finite, shape (T,).
    links
        Builds a `Link` from the items.
    stride
        Steps between two kept states: 1, or more for a chain too long to keep them all.
    length
        T.
    size
        n, the number of differentiated state entries.
    dtype
        The dtype of the Jacobians.
    storage_dtype
        The dtype that states or matrices came in: error bars use its precision.
    shift
        For a chain given as matrices, the binary exponent they were multiplied by: 0 unless
        their entries leave the range of normal numbers.
    """

    items: PyTree
    residuals: PyTree
    shared: PyTree
    final: Float[Array, "*batch n"] | None
    finite: Bool[Array, "*batch T"] | None
    links: MatrixLinks | StepLinks = static()
    stride: int = static()
    length: int = static()
    size: int = static()
    dtype: np.dtype = static()
    storage_dtype: np.dtype = static()
    shift: int = static(default=0)

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
            The chain; float16 and bfloat16 matrices are promoted, to float64 under x64 and else
            to float32, with a warning. Subnormal entries keep their value, with a warning too.

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
        stack, storage, shift = given(matrices)
        return of_matrices(stack, storage, shift)

    @property
    def mode(self) -> str:
        """How matrices are made: "forward", "reverse", or "matrices" when they were given."""
        return self.links.mode

    @property
    def tied(self) -> bool:
        """Whether one set of parameters acts at every step."""
        return self.links.tied

    def link(self, item: Any) -> Link:
        """Build the linear map of one step from its items, linearizing the step there."""
        if isinstance(self.links, MatrixLinks):
            return self.links.link(item)
        return self.links.of(self.links.differentiate(self.shared, item)[2])

    def at(self, t: int) -> Link:
        """Build the linear map J_t, t = 1 … T.

        Raises
        ------
        TypeError, ValueError
            If `t` is not an integer in 1 … T.
        """
        t = require_integer("t", t, 1, self.length)
        one = self.segment(t - 1, t).dense()
        if self.shift:
            return MatrixLinks().link(one.matrices()[0])
        return self.link(jax.tree.map(lambda a: a[0], one.items))

    def segment(self, start: int, stop: int) -> "JacobianChain":
        """Cut out the steps start + 1 … stop, whose product is Φ(stop, start).

        Raises
        ------
        TypeError, ValueError
            If `start` and `stop` are not integers with 0 ≤ start ≤ stop ≤ T.
        """
        start = require_integer("start", start, 0, self.length)
        stop = require_integer("stop", stop, start, self.length)
        if (start, stop) == (0, self.length):
            return self
        if self.stride > 1:
            return self._again(start, stop, keep=True)
        items, residuals, finite = jax.tree.map(
            lambda a: a[start:stop], (self.items, self.residuals, self.finite)
        )
        final = self.final if stop == self.length or self.final is None else self.items[0][stop]
        return dataclasses.replace(
            self,
            items=items,
            residuals=residuals,
            finite=finite,
            final=final,
            length=stop - start,
        )

    def dense(self) -> "JacobianChain":
        """Give the chain with the state of every step in `items`; O(T n) memory."""
        return self if self.stride == 1 else self._again(0, self.length, keep=False)

    def _again(self, start: int, stop: int, *, keep: bool) -> "JacobianChain":
        """Run a sparse chain again from the last kept state before `start`."""
        assert isinstance(self.links, StepLinks)
        points, auxiliary, layers, xs = self.items
        kept = start // self.stride
        state = jax.tree.map(lambda a: a[kept], (points, auxiliary))
        first = kept * self.stride

        def between(low: int, high: int) -> Any:
            return jax.tree.map(lambda a: a[low:high], (layers, xs))

        state = advanced(
            self.shared, state, *between(first, start), links=self.links, length=start - first
        )
        layers, xs = between(start, stop)
        return assemble(self.links, self.shared, state, layers, xs, stop - start, keep=keep)

    def matrices(self, *, limit_bytes: int = LIMIT) -> Float[Array, "T n n"]:
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
        if self.shift and is_concrete(self.items):
            return jnp.asarray(np.ldexp(np.asarray(self.items), -self.shift))
        return _matrices(self)


def of_matrices(
    stack: Float[Array, "T n n"], storage_dtype: np.dtype, shift: int = 0
) -> JacobianChain:
    """Make a chain of checked matrices, multiplied by 2^shift."""
    return JacobianChain(
        items=stack,
        residuals=None,
        shared=None,
        final=None,
        finite=None,
        links=MatrixLinks(),
        stride=1,
        length=stack.shape[0],
        size=stack.shape[1],
        dtype=np.dtype(stack.dtype),
        storage_dtype=storage_dtype,
        shift=shift,
    )


@compiled
def _matrices(chain: JacobianChain) -> Float[Array, "T n n"]:
    if chain.mode == "matrices":
        return jnp.ldexp(chain.items, -chain.shift) if chain.shift else chain.items
    if chain.length == 0:
        return jnp.zeros((0, chain.size, chain.size), chain.dtype)
    return sweep(chain, lambda c, link, _: (c, link.matrix()), None)[1]


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
        The initial state, any pytree; its floating-point leaves are raveled to n real numbers,
        two for each complex one; integer and PRNG-key leaves are carried along without
        derivative.
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
    Every step is linearized once, while it is run. Its state and the constants of its derivative
    are kept up to 64 MiB; beyond that only every S-th state is, and memory no longer grows with T.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.linear(2, 0, recurrent_init=gh.inits.identity(0.5))
    >>> chain = gh.jacobian_chain(cell.step, cell.init(jax.random.key(0)), jnp.ones(2), length=4)
    >>> chain.matrices()[3].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    mode = require_choice("mode", mode, MODES)
    return linearize(step, check_problem(step, params, h0, xs, length, tied=tied), tied, mode)


def linearize(step: Step, problem: Problem, tied: bool, mode: str = "auto") -> JacobianChain:
    """Unroll and linearize a checked problem."""
    shared, layers = (problem.params, None) if tied else (None, problem.params)
    state = problem.space.ravel(problem.h0)
    links = StepLinks(step, problem.space, tied, mode, True)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), (shared, state))
    links = resolve(links, like[0], (*like[1], *first_of((layers, problem.xs))))
    return assemble(links, shared, state, layers, problem.xs, problem.length, keep=True)


def assemble(
    links: StepLinks, shared: Any, state: Any, layers: Any, xs: Any, length: int, *, keep: bool
) -> JacobianChain:
    """Unroll from a state ``(vector, auxiliary)`` and keep what fits; all states if not `keep`."""
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), a.dtype), (shared, state))
    item = (*like[1], *first_of((layers, xs)))
    stride = choose_stride(links, like[0], item, length) if keep else 1
    settings = {"links": links, "length": length, "stride": stride, "keep": keep}
    stored = unrolled(shared, state, layers, xs, **settings)
    return JacobianChain(
        items=(stored.points, stored.auxiliary, layers, xs),
        residuals=stored.residuals,
        shared=shared,
        final=stored.final,
        finite=stored.finite,
        links=links,
        stride=stride,
        length=length,
        size=links.space.size,
        dtype=links.space.dtype,
        storage_dtype=links.space.storage_dtype,
    )


def finite_steps(chain: JacobianChain) -> Bool[Array, " T"]:
    """Say for every step t = 1 … T whether its matrix, or its state h_t, is finite."""
    if chain.finite is None:
        return jnp.all(jnp.isfinite(chain.items), axis=(1, 2))
    return chain.finite


def as_chain(chain: Any, *, throw: bool, columns: int | None = None) -> JacobianChain:
    """Accept a chain or an array of shape (T, n, n); with `throw`, refuse non-finite matrices.

    `columns` says how many columns the analysis carries along a chain of steps, 0 for none of
    size n; all n if None.
    """
    if not isinstance(chain, JacobianChain):
        chain = JacobianChain.from_matrices(chain)
    if chain.mode != "matrices":
        require_room(chain.size, chain.size if columns is None else columns, chain.dtype)
    elif throw and is_concrete(chain.items):
        require_finite("chain", chain.items)
    return chain
