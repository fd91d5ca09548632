"""The stationary autocovariance of a leaky random network, by Newton's method on a lattice.

With h = δ/√(1-δ) the dynamic mean field of x' = (1-δ)x + δ Jφ(x) + √δ ξ is

    (C_{k+1} - 2 C_k + C_{k-1})/h² - C_k + g² C_φ(C_k) + (s²/δ) [k = 0] = 0,   C_{-k} = C_k,

the discretization with step h of -C'' + C = g² C_φ(C) + s'² δ(τ), s'² = s²/√(1-δ). A leak whose h
is small beside the time scale of C is therefore reached by interpolating lattices of four
fixed steps in h², of which C is a smooth function; leak 0 is the value at h = 0. At leak 1 the
coupling 1/h² is 0. All derivations: docs/derivations.md.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon.theory._agreement import Agreement, angles, evaluate, mean_potential, tabulate

SITES = 2048
_NODES = np.arange(1.0, 5.0)  # the steps are h₁, h₁/2, h₁/3, h₁/4
_COARSEST = 0.5  # h₁ in units of the time scale of C
_NEWTON = 9
_HALVINGS = 26  # ln C₀ of a first guess to 1e-6
_LOG_LOW, _LOG_HIGH = -70.0, 20.0


class Lattices(NamedTuple):
    """Four lattices and the weights that interpolate between them."""

    coupling: Float[Array, " four"]  # 1/h²
    drive: Float[Array, " four"]  # s²/δ
    weights: Float[Array, " four"]
    start: Float[Array, "four k"]
    spacing: Float[Array, ""]  # time between two sites of the first lattice


class Field(NamedTuple):
    """A solution on one lattice."""

    covariance: Float[Array, " k"]
    slopes: Float[Array, " k"]  # E φ'(x_t)φ'(x_{t+k})
    far_slope: Float[Array, ""]  # its limit k → ∞


def far_ratio(slope: Array, coupling: Array, gain2: Array) -> Float[Array, ""]:
    """Give C_{k+1}/C_k far out: the decaying solution of the linear recurrence."""
    stiffness = 2 * coupling + jnp.maximum(1 - gain2 * slope, 0)
    root = jnp.sqrt(jnp.maximum(stiffness**2 - 4 * coupling**2, 0))
    # both vanish where lag 0 is all there is and x = 0 is unstable
    return 2 * coupling / jnp.maximum(stiffness + root, jnp.finfo(root.dtype).tiny)


def lattices(slope: Callable[[Any], Any], gain2: Array, leak: Array, noise: Array) -> Lattices:
    """Choose four lattices for a leak, and a first guess of C on each."""
    dtype = gain2.dtype
    keep = jnp.maximum(1 - leak, 1e-4)  # only where a guess or an interpolation needs it
    smooth = noise / jnp.sqrt(keep)
    # steps and guesses are free choices: nothing is differentiated through them
    frozen_gain2, frozen_smooth = lax.stop_gradient((gain2, smooth))
    variance = _flow_variance(slope, frozen_gain2, frozen_smooth)
    shape = _shape(tabulate(slope, variance), variance, frozen_gain2, frozen_smooth)
    h1 = _COARSEST / shape.rate
    direct = (1 - leak) * h1**2 < leak**2
    nodes = h1 / jnp.asarray(_NODES, dtype)
    safe_leak = jnp.where(direct, leak, 1)
    coupling = jnp.where(direct, (1 - leak) / safe_leak**2, 1 / nodes**2)
    drive = jnp.where(direct, noise / safe_leak, smooth / nodes)
    inside = jnp.where(direct, 0, leak**2 / keep)
    own = jnp.asarray(_NODES == 1, dtype)
    weights = jnp.where(direct, own, _interpolate(inside / h1**2))
    step = lax.stop_gradient(jnp.where(direct, leak / jnp.sqrt(keep), nodes))
    start = jax.vmap(lambda h: _profile(shape, variance, frozen_smooth, h))(step)
    wide = direct & ((1 - leak) * 144 < (leak * shape.rate) ** 2)
    loose = _loose_guess(slope, *lax.stop_gradient((gain2, coupling[0], drive[0])))
    start = jnp.where(wide, loose[None], start)
    spacing = jnp.where(direct, leak, h1 * jnp.sqrt(keep))
    return Lattices(coupling, drive, weights, start, spacing)


def _interpolate(x: Array) -> Float[Array, " four"]:
    """Give Lagrange's weights at x = (h/h₁)² for the nodes 1, 1/4, 1/9, 1/16."""
    nodes = 1 / _NODES**2
    rows = []
    for i, own in enumerate(nodes):
        others = np.delete(nodes, i)
        factors = (x - jnp.asarray(others, x.dtype)) / jnp.asarray(own - others, x.dtype)
        rows.append(jnp.prod(factors))
    return jnp.stack(rows)


def _bisect(f: Callable[[Array], Array], dtype: np.dtype) -> Float[Array, ""]:
    """Find roughly where f of ln C₀ turns negative."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        above = f(middle) > 0
        return jnp.where(above, middle, ends[0]), jnp.where(above, ends[1], middle)

    ends = jnp.asarray(_LOG_LOW, dtype), jnp.asarray(_LOG_HIGH, dtype)
    low, high = lax.fori_loop(0, _HALVINGS, halve, ends)
    return 0.5 * (low + high)


def _flow_variance(slope: Callable[[Any], Any], gain2: Array, noise: Array) -> Float[Array, ""]:
    """Find C₀ of the continuous flow, where the orbit's energy vanishes.

    -C₀²/2 + g² ∫₀^C₀ C_φ dc + s'⁴/8 = 0: C'(0+) = -s'²/2 is the kinetic part.
    """

    def energy(log_variance: Array) -> Array:
        variance = jnp.exp(log_variance)
        kinetic = jnp.square(noise / variance) / 8
        return -0.5 + gain2 * mean_potential(slope, variance) + kinetic

    return jnp.exp(_bisect(energy, gain2.dtype))


class _Shape(NamedTuple):
    decay: Array  # κ of C ~ e^{-κτ}
    bend: Array  # -C''(0+)/C₀
    rate: Array  # 1/(time scale)


def _shape(table: Agreement, variance: Array, gain2: Array, noise: Array) -> _Shape:
    """Measure how fast C changes: at τ = 0, in the well, and far out."""
    ends = jnp.asarray([-1.0, 1.0], variance.dtype)
    far, near = evaluate(table.slope, ends)
    acceleration = gain2 * evaluate(table.covariance, ends)[1] - variance
    decay2 = jnp.maximum(1 - gain2 * far, 1e-12)
    well = decay2 + gain2 * (near - far)
    rate = jnp.sqrt(well + jnp.maximum(acceleration, 0) + noise**2)
    return _Shape(jnp.sqrt(decay2), acceleration / variance, rate)


def _profile(shape: _Shape, variance: Array, noise: Array, h: Array) -> Float[Array, " k"]:
    """Guess C with the right value, slope and bend at 0 and the right decay."""
    time = h * jnp.arange(SITES, dtype=variance.dtype)
    fall = noise / (2 * variance)
    gap = shape.decay - fall
    gap = jnp.where(gap == 0, jnp.finfo(gap.dtype).tiny, gap)
    turn = jnp.maximum((shape.bend + fall**2) / gap, 0.1 * shape.decay)
    return variance * jnp.exp(-shape.decay * time - gap * jnp.expm1(-turn * time) / turn)


def _loose_guess(
    slope: Callable[[Any], Any], gain2: Array, coupling: Array, drive: Array
) -> Float[Array, " k"]:
    """Guess C on a lattice coarser than its time scale: the equation at k = 0 alone."""
    edge = jnp.asarray([-1.0, 1.0], gain2.dtype)

    def ratio(table: Agreement) -> Array:
        return far_ratio(evaluate(table.slope, edge)[0], coupling, gain2)

    def excess(log_variance: Array) -> Array:
        variance = jnp.exp(log_variance)
        table = tabulate(slope, variance)
        source = gain2 * evaluate(table.covariance, edge)[1] + drive
        return source / variance - 1 - 2 * coupling * (1 - ratio(table))

    variance = jnp.exp(_bisect(excess, gain2.dtype))
    power = jnp.arange(SITES, dtype=gain2.dtype)
    return variance * ratio(tabulate(slope, variance)) ** power


def solve(
    slope: Callable[[Any], Any], gain2: Array, coupling: Array, drive: Array, start: Array
) -> Field:
    """Solve for C on one lattice; derivatives are those of the equation."""
    covariance = _solve(slope, gain2, coupling, drive, lax.stop_gradient(start))
    table = tabulate(slope, covariance[0])
    slopes = evaluate(table.slope, _places(covariance, covariance[0]))
    return Field(covariance, slopes, _far(table))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(
    slope: Callable[[Any], Any], gain2: Array, coupling: Array, drive: Array, start: Array
) -> Float[Array, " k"]:
    def improve(_: Any, covariance: Array) -> Array:
        return covariance - _newton(slope, covariance, gain2, coupling, drive)

    return lax.fori_loop(0, _NEWTON, improve, start)


@_solve.defjvp
def _solve_jvp(slope: Callable[[Any], Any], primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiate a Newton step at the solution with its Jacobian held fixed."""
    *at, start = primals
    covariance = _solve(slope, *at, start)
    change = jax.jvp(lambda *p: _newton(slope, covariance, *p), tuple(at), tuple(tangents[:3]))[1]
    return covariance, -change


def _places(covariance: Array, variance: Array) -> Float[Array, " k"]:
    """Give the Chebyshev arguments of a covariance; lag 0 is the end θ = π/2 itself."""
    inner = angles(covariance[1:], variance)
    return jnp.concatenate([jnp.ones(1, covariance.dtype), inner])


def _far(table: Agreement) -> Float[Array, ""]:
    """Give C_φ'(0), at the other end θ = 0."""
    return evaluate(table.slope, jnp.full(1, -1, table.slope.dtype))[0]


def _newton(
    slope: Callable[[Any], Any], covariance: Array, gain2: Array, coupling: Array, drive: Array
) -> Float[Array, " k"]:
    """Give what to subtract; the Jacobian is tridiagonal plus a column: C[0] sets the table.

    At lag 0 the column's derivative is that of C_φ(C₀; C₀) without the part C_φ' of the diagonal.
    """

    def agreement(variance: Array) -> tuple[Array, tuple[Array, Array]]:
        table = tabulate(slope, variance)
        places = _places(covariance, variance)
        return evaluate(table.covariance, places), (evaluate(table.slope, places), _far(table))

    one = jnp.ones_like(covariance[0])
    agreed, column, (slopes, far) = jax.jvp(agreement, (covariance[0],), (one,), has_aux=True)
    beyond = lax.stop_gradient(far_ratio(far, coupling, gain2))
    after = jnp.concatenate([covariance[1:], (beyond * covariance[-1])[None]])
    before = jnp.concatenate([covariance[1:2], covariance[:-1]])
    gap = coupling * (after - 2 * covariance + before) - covariance + gain2 * agreed
    gap = gap.at[0].add(drive)

    gain2, coupling = lax.stop_gradient((gain2, coupling))
    column = gain2 * column.at[0].add(-slopes[0])
    diagonal = (gain2 * slopes - 1 - 2 * coupling).at[-1].add(coupling * beyond)
    return _solve_bordered(diagonal, coupling, column, gap)


def _solve_bordered(
    diagonal: Array, coupling: Array, column: Array, right: Array
) -> Float[Array, " k"]:
    """Solve with the symmetric chain (couplings doubled at site 0) plus a full first column.

    The chain alone is singular at the onset of chaos, and its part beyond site 0 without noise
    (the mode dC/dτ). The part beyond site 1 never is: it goes first, then sites 0 and 1 at once.
    """
    beside = jnp.full_like(diagonal[2:], coupling)
    entry = jnp.zeros_like(beside).at[0].set(coupling)
    three = jnp.stack([right[2:], column[2:], entry], axis=1)
    below, above = beside.at[0].set(0), beside.at[-1].set(0)
    far = lax.linalg.tridiagonal_solve(below, diagonal[2:], above, three)
    by_right, by_first, by_second = far[:, 0], far[:, 1], far[:, 2]
    a, b = diagonal[0] + column[0], 2 * coupling
    c = coupling + column[1] - coupling * by_first[0]
    d = diagonal[1] - coupling * by_second[0]
    second_right = right[1] - coupling * by_right[0]
    determinant = a * d - b * c
    first = (d * right[0] - b * second_right) / determinant
    second = (a * second_right - c * right[0]) / determinant
    rest = by_right - by_first * first - by_second * second
    return jnp.concatenate([first[None], second[None], rest])
