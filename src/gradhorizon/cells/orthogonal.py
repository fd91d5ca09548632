"""Cells whose recurrent matrix is orthogonal or unitary by construction: W = exp of a skew matrix.

The parameter is a free real n × n matrix A, so that every optimizer's step keeps W orthogonal:
W = exp(A - Aᵀ), or W = exp(((A - Aᵀ) + i(A + Aᵀ))/√2), where A runs through all skew-Hermitian
matrices exactly once. Complex parameters would have to be realified anyway for the second
moments of Adam and its kin to mean what they say.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import expm
from jaxtyping import Array, Float, Inexact

from gradhorizon._checks import ArgumentError, describe, dtype_of, worded
from gradhorizon.cells import inits
from gradhorizon.cells._cell import Cell, check_arguments, default_dtype, require_sizes
from gradhorizon.cells.activations import Activation, activation_of
from gradhorizon.cells.additive import Zeros
from gradhorizon.cells.gated import gate_bias


def modrelu(z: Inexact[Array, "..."], bias: Float[Array, "..."]) -> Inexact[Array, "..."]:
    """Give (|z| + b) z/|z| where |z| + b is positive, else 0; z real or complex.

    At z = 0 the value is 0 and the derivative the radial one, 1 for b ≥ 0 and 0 for b < 0, in
    every direction: finite, though for b > 0 the function jumps there.
    """
    size = jnp.abs(z)
    still = size == 0
    # 1 + b/|z| and not (|z| + b)/|z|: exactly 1 at b = 0, with derivative exactly 0
    share = jnp.where(size + bias > 0, 1 + bias / jnp.where(still, 1, size), 0)
    return jnp.where(still, (bias >= 0).astype(size.dtype), share).astype(z.dtype) * z


def orthogonal_matrix(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Give exp(A - Aᵀ), orthogonal to rounding."""
    return _exponential(A, lambda A: A - A.T)


def unitary_matrix(A: Float[Array, "n n"]) -> Inexact[Array, "n n"]:
    """Give exp(((A - Aᵀ) + i(A + Aᵀ))/√2), unitary to rounding."""
    root = 2**-0.5
    return _exponential(A, lambda A: jax.lax.complex(root * (A - A.T), root * (A + A.T)))


def _exponential(A: Array, skew: Any) -> Array:
    """Take the exponential of skew(A), and lead it back onto the group by one Newton step.

    Squaring doubles the distance from the group each time; W (3I - W*W)/2 squares it. The
    arithmetic is at least float32, in which the narrower types have no exponential.
    """
    wide = A.astype(np.promote_types(A.dtype, np.float32))
    with jax.default_matmul_precision("highest"):
        W = expm(skew(wide))
        W = 1.5 * W - 0.5 * W @ (W.conj().T @ W)
    return W if jnp.iscomplexobj(W) else W.astype(A.dtype)


@dataclasses.dataclass(frozen=True)
class OrthogonalStep:
    """h' = φ(W h + U x + b), or modReLU(W h + U x, b) if φ is None, with W = exp(A - Aᵀ)."""

    hidden: int
    inputs: int
    activation: Activation | None

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        check_arguments(h, x, self.hidden, self.inputs)
        W = params["W"] if "W" in params else orthogonal_matrix(params["A"])
        total = W @ h + params["U"] @ x if self.inputs else W @ h
        if self.activation is None:
            return modrelu(total, params["b"])
        return self.activation.function(total + params["b"])

    def with_matrix(self, params: Any) -> dict[str, Array]:
        """Give the parameters with W in place of A, so that many steps share one exponential."""
        rest = {name: leaf for name, leaf in params.items() if name != "A"}
        return {**rest, "W": orthogonal_matrix(params["A"])}


@dataclasses.dataclass(frozen=True)
class UnitaryStep:
    """h' = modReLU(W h + U x, b), complex, with W the exponential of a skew-Hermitian matrix."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the complex state by one real input."""
        check_arguments(h, x, self.hidden, self.inputs)
        if not jnp.issubdtype(dtype_of(h), jnp.complexfloating):
            remedy = "Start from cell.initial_state(), or cast."
            raise ArgumentError(worded("h0", "be complex", describe(h), remedy))
        W = params["W"] if "W" in params else unitary_matrix(params["A"])
        total = W @ h
        if self.inputs:
            total = total + jax.lax.complex(*jnp.split(params["U"] @ x, 2))
        return modrelu(total, params["b"])

    def with_matrix(self, params: Any) -> dict[str, Array]:
        """Give the parameters with W in place of A, so that many steps share one exponential."""
        rest = {name: leaf for name, leaf in params.items() if name != "A"}
        return {**rest, "W": unitary_matrix(params["A"])}


def orthogonal_rnn(
    hidden: int,
    inputs: int,
    *,
    activation: Any = "identity",
    bias: Any = 0.0,
    skew_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the orthogonal RNN h_t = φ(W h_{t-1} + U x_t + b), W = exp(A - Aᵀ).

    J_t = diag(φ') W: with the identity all exponents are exactly 0, whatever A; with a slope of
    at most 1 (tanh, ReLU, modReLU with b ≤ 0) ‖J_t‖ ≤ 1 and only vanishing is possible.

    Parameters
    ----------
    hidden
        n, the number of units.
    inputs
        m, the size of an input; 0 for a cell without inputs.
    activation
        "identity", "modrelu" (sign(a) max(|a| + b, 0) at a = W h + U x), "tanh", "relu",
        "sigmoid", "erf", or any elementwise function.
    bias
        What b starts at: a number, n numbers, or an initializer.
    skew_init
        Draws A, shape (n, n); default `gh.inits.gaussian(1.0)`, whose W turns by angles with a
        semicircle density on ±2√2, below π: the exponential is one-to-one there.
    input_init
        Draws U, shape (n, m); default `gh.inits.gaussian(1.0)`.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"A": (n, n), "U": (n, m), "b": (n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, the activation unknown, or the bias neither a number, n
        numbers nor an initializer.

    Notes
    -----
    Entries of WᵀW - I are a few eps, whatever the size of A (float32: 4e-7 at n = 128). The step
    takes A or, in its place, W: `cell.step.with_matrix(params)`, called once before a sequence,
    saves one exponential (a linear solve and ten to twenty products of n × n matrices) in every
    step, and gradients still reach A through it. Do so for anything long: 500 steps of n = 64 run
    about five times as fast.

    References
    ----------
    Lezcano-Casado & Martínez-Rubio, "Cheap orthogonal constraints in neural networks", ICML 2019.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.orthogonal_rnn(8, 0)
    >>> params = cell.step.with_matrix(cell.init(jax.random.key(0)))
    >>> chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), length=500)
    >>> bool(jnp.all(jnp.abs(gh.singular_spectrum(chain).log_values) < 1e-3))
    True
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    start = gate_bias("bias", bias, hidden, kind)
    chosen = None if activation == "modrelu" else activation_of(activation)
    step = OrthogonalStep(hidden, inputs, chosen)
    init = _init(hidden, inputs, hidden, kind, start, skew_init, input_init)
    return Cell(init=init, step=step, initial_state=Zeros(hidden, kind))


def unitary_rnn(
    hidden: int,
    inputs: int,
    *,
    bias: Any = 0.0,
    skew_init: inits.Initializer | None = None,
    input_init: inits.Initializer | None = None,
    dtype: Any = None,
) -> Cell:
    """Build the unitary RNN h_t = modReLU(W h_{t-1} + U x_t, b) with a complex state.

    modReLU(z, b) = max(|z| + b, 0) z/|z|. At b = 0 it is the identity, the cell linear, and all 2n
    exponents exactly 0; for b ≤ 0 ‖J_t‖ ≤ 1 and only vanishing is possible; for b > 0 small
    states are pushed outwards and their phases diverge.

    Parameters
    ----------
    hidden
        n, the number of complex units: 2n real numbers.
    inputs
        m, the size of a real input; 0 for a cell without inputs.
    bias
        What b starts at: a number, n numbers, or an initializer.
    skew_init
        Draws A, shape (n, n) and real, from which W is made: exp(((A - Aᵀ) + i(A + Aᵀ))/√2);
        default `gh.inits.gaussian(1.0)`, with angles in ±2√2 as for `orthogonal_rnn`.
    input_init
        Draws the real and the imaginary rows of U, shape (2n, m); default
        `gh.inits.gaussian(1.0)`.
    dtype
        float32 or float64: that of the parameters, which are all real, and of the two parts of
        the state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"A": (n, n), "U": (2n, m), "b": (n,)}``.

    Raises
    ------
    ValueError
        If a size is out of range, or the bias neither a number, n numbers nor an initializer.
    TypeError
        If `dtype` is neither float32 nor float64.

    Notes
    -----
    Cost and accuracy as for `orthogonal_rnn`, whose `with_matrix` this step has too.

    References
    ----------
    Arjovsky, Shah & Bengio, "Unitary evolution recurrent neural networks", ICML 2016, eq. 8 (the
    activation); Lezcano-Casado & Martínez-Rubio, ICML 2019 (the exponential).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.unitary_rnn(2, 0, skew_init=gh.inits.identity(0.0), bias=-1.0)
    >>> cell.step(cell.init(jax.random.key(0)), jnp.array([3.0, 0.5j]), None).tolist()
    [(2+0j), 0j]
    """
    require_sizes(hidden, inputs)
    kind = default_dtype(dtype)
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        remedy = "No narrower complex type exists."
        raise TypeError(worded("dtype", "be float32 or float64", kind, remedy))
    start = gate_bias("bias", bias, hidden, kind)
    init = _init(hidden, inputs, 2 * hidden, kind, start, skew_init, input_init)
    zeros = Zeros(hidden, np.dtype(np.promote_types(kind, np.complex64)))
    return Cell(init=init, step=UnitaryStep(hidden, inputs), initial_state=zeros)


def _init(
    hidden: int, inputs: int, rows: int, dtype: Any, bias: Any, skew_init: Any, input_init: Any
) -> Any:
    """Give init(key) for {"A": (n, n), "U": (rows, m), "b": (n,)}."""
    skew, incoming = skew_init or inits.gaussian(), input_init or inits.gaussian()

    def init(key: Any) -> dict[str, Array]:
        for_a, for_u, for_b = jax.random.split(key, 3)
        params = {"A": skew(for_a, (hidden, hidden), dtype), "b": bias(for_b)}
        return params | ({"U": incoming(for_u, (rows, inputs), dtype)} if inputs else {})

    return init
