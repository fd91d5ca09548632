r"""Random recurrent networks as N → ∞: Lyapunov exponents, stationary states, the onset of chaos.

Network: x' = (1-δ) x + δ J φ(x) + √δ ξ with leak δ, entries of J of variance gain²/N, and fresh
noise ξ of variance `noise_variance` for every unit and step. Leak 1 is the map x' = J φ(x) + ξ,
leak 0 the flow dx/dt = -x + J φ(x) + ξ(t) with white noise ⟨ξ(t) ξ(t')⟩ = noise_variance δ(t-t').
Rates are nats **per unit time**, which is 1/δ steps: divide by the leak what is measured per
step. With `gh.cells.rate_network` and U = I the inputs must have variance noise_variance/leak.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradhorizon._checks import is_concrete
from gradhorizon._record import record
from gradhorizon.theory._activations import Activation, function_and_slope
from gradhorizon.theory._agreement import saturating_slope
from gradhorizon.theory._growth import growth
from gradhorizon.theory._illinois import rising_root
from gradhorizon.theory._length import length_fixed_point, susceptibility
from gradhorizon.theory._quadrature import deviation, gaussian_mean
from gradhorizon.theory._silent import arguments, rate_of
from gradhorizon.theory._silent import silent_exponent_cdf as silent_exponent_cdf
from gradhorizon.theory._silent import silent_exponents as silent_exponents
from gradhorizon.theory._stationary import SITES, Field, Lattices, lattices, solve
from gradhorizon.theory.mean_field import critical_sigma_w2


@record
class Autocovariance:
    """The stationary autocovariance C(t) = E x(s) x(s + t) of a unit.

    Attributes
    ----------
    times
        Lags in units of time, 0 first and evenly spaced, shape (512,).
    values
        C at these lags, shape (512,).
    """

    times: Float[Array, "*batch k"]
    values: Float[Array, "*batch k"]


def largest_exponent(
    gain: Any, *, leak: Any = 1.0, noise_variance: Any = 0.0, activation: Activation = "tanh"
) -> Float[Array, ""]:
    """Give the largest Lyapunov exponent λ₁ of a random network, in nats per unit time.

    Leak 1: ½ ln(g² E φ'(√q z)²) with q = g² E φ(√q z)² + s². Leak 0: -1 + √(1 - E₀), E₀ the ground
    state of -d²/dτ² + 1 - g² E φ'(x_t)φ'(x_{t+τ}). Between them the dynamic mean field of the leaky
    network. Without noise, below the critical gain: ln(1 - δ + δ g φ'(0))/δ.

    Parameters
    ----------
    gain
        g, standard deviation of the entries of J times √N.
    leak
        δ in [0, 1].
    noise_variance
        s², per unit time.
    activation
        At leak 1 any that `mean_field.length_map` takes; else "tanh", "erf", or an odd smooth
        function that saturates by |x| = 10.

    Returns
    -------
    Array
        λ₁.

    Raises
    ------
    ValueError
        If an argument is out of range, or the activation does not fit the leak.

    Notes
    -----
    A leak given as the number 1 (not traced) costs 65 quadratures, milliseconds; absolute error
    1e-11 (float64, √q < 58). Every other leak costs four lattices of 2048 sites, some tenths of
    a second; error about 1e-8 for gains up to 5 and 1e-6 at 20 (float32: 1e-4). Finite networks
    lie below, most near onset.

    References
    ----------
    Sompolinsky, Crisanti & Sommers, PRL 61 (1988) 259; Molgedey, Schuchhardt & Schuster, PRL 69
    (1992) 3717; the leaky network is derived in docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_network.largest_exponent(2.0)), 9)
    0.15472423
    """
    is_map = _is_one(leak)
    gain, leak, noise = arguments(gain, leak, noise_variance)
    if is_map:
        return _map_exponent(activation, gain, noise)
    saturating_slope(activation)
    return _leaky_exponent(activation, gain, leak, noise)


def stationary_variance(
    gain: Any, *, leak: Any = 1.0, noise_variance: Any = 0.0, activation: Activation = "tanh"
) -> Float[Array, ""]:
    """Give the variance C(0) of a unit's state x in the stationary state.

    Parameters
    ----------
    gain, leak, noise_variance, activation
        As for `largest_exponent`.

    Returns
    -------
    Array
        C(0); 0 without noise below the critical gain.

    Raises
    ------
    ValueError
        As for `largest_exponent`.

    Notes
    -----
    Cost and error as for `largest_exponent`.

    References
    ----------
    Sompolinsky, Crisanti & Sommers, PRL 61 (1988) 259.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_network.stationary_variance(2.0, leak=0.0)), 6)
    1.924805
    """
    is_map = _is_one(leak)
    gain, leak, noise = arguments(gain, leak, noise_variance)
    if is_map:
        return length_fixed_point(activation, gain**2, noise)
    saturating_slope(activation)
    return _autocovariance(activation, gain, leak, noise).values[0]


def autocovariance(
    gain: Any, *, leak: Any = 1.0, noise_variance: Any = 0.0, activation: Activation = "tanh"
) -> Autocovariance:
    """Compute the stationary autocovariance of a unit's state x.

    Parameters
    ----------
    gain, leak, noise_variance, activation
        As for `largest_exponent`, with an odd saturating activation at every leak.

    Returns
    -------
    Autocovariance
        512 lags and values. The lags are those of the network's steps, unless these are short
        beside the time scale of C; then about two lags to a time scale.

    Raises
    ------
    ValueError
        As for `largest_exponent`.

    Notes
    -----
    The values at small leaks are those of the network with that leak, interpolated between four
    lattices; relative error about 1e-8 for gains up to 5.

    References
    ----------
    Sompolinsky, Crisanti & Sommers, PRL 61 (1988) 259.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> c = gh.theory.random_network.autocovariance(3.0, leak=1.0)
    >>> c.times[:3].tolist(), bool(abs(c.values[1]) < 1e-12)  # a map decorrelates in one step
    ([0.0, 1.0, 2.0], True)
    """
    gain, leak, noise = arguments(gain, leak, noise_variance)
    saturating_slope(activation)
    return _autocovariance(activation, gain, leak, noise)


def critical_gain(
    noise_variance: Any = 0.0, *, leak: Any = 1.0, activation: Activation = "tanh"
) -> Float[Array, ""]:
    """Find the gain at which λ₁ = 0: the onset of chaos.

    Parameters
    ----------
    noise_variance
        s², per unit time.
    leak
        δ in [0, 1].
    activation
        "tanh", "erf", or an odd smooth function with |φ'| ≤ φ'(0) that saturates by |x| = 10.

    Returns
    -------
    Array
        g_c; 1/φ'(0) without noise, whatever the leak. NaN if it is beyond 40.

    Raises
    ------
    ValueError
        If an argument is out of range, or the activation does not fit.

    Notes
    -----
    At leak 1, √σ_w² on the critical line of `mean_field.critical_sigma_w2` with σ_b² = s²; error
    1e-11. At other leaks a bracketed secant on `largest_exponent`, 14 of its evaluations; 1e-7.

    References
    ----------
    Molgedey, Schuchhardt & Schuster, PRL 69 (1992) 3717; Schuecker, Goedeke & Helias, PRX 8
    (2018) 041029, for the flow.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_network.critical_gain(0.5)), 9)
    1.686169464
    """
    is_map = _is_one(leak)
    _, leak, noise = arguments(1.0, leak, noise_variance)
    slope = saturating_slope(activation)
    onset = 1 / slope(jnp.zeros(1, noise.dtype))[0]
    silent = noise == 0
    driven = jnp.where(silent, 1, noise)
    if is_map:
        found = _map_critical_gain(activation, driven)
    else:
        found = _leaky_critical_gain(activation, leak, driven, onset)
    return jnp.where(silent, onset, found)


def mean_exponent(
    gain: Any, *, noise_variance: Any = 0.0, activation: Activation = "tanh"
) -> Float[Array, ""]:
    """Give the mean of all N Lyapunov exponents of the map, (1/N) Σ λ_i, nats per step.

    For each network x' = J φ(x) + ξ it is ln|det J|/N + ⟨ln |φ'|⟩, averages over time and units.
    As N → ∞ it is ln g - 1/2 + E ln |φ'(√q z)|.

    Parameters
    ----------
    gain, noise_variance, activation
        As for `largest_exponent` at leak 1.

    Returns
    -------
    Array
        The mean exponent; -∞ where φ' can vanish (relu).

    Raises
    ------
    ValueError
        If an argument is out of range or the activation unknown.

    Notes
    -----
    Error 1e-11 for tanh and erf at √q < 20. At leak 0 with J of zero diagonal the mean is -1.

    References
    ----------
    Girko's law: ln|det J|/N → ln g - 1/2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.random_network.mean_exponent(0.5)), 9)  # ln 0.5 - 1/2: x stays 0
    -1.193147181
    """
    gain, _, noise = arguments(gain, 1.0, noise_variance)
    _, slope = function_and_slope(activation)
    q = length_fixed_point(activation, gain**2, noise)
    root = deviation(q)
    stretch = gaussian_mean(lambda z: jnp.log(jnp.abs(slope(root * z))), gain.dtype)
    return jnp.log(gain) - 0.5 + stretch


def _is_one(leak: Any) -> bool:
    """Say whether the leak is known to be 1; asked before `jnp.asarray`, which `jit` traces."""
    return is_concrete(leak) and float(leak) == 1


@functools.partial(jax.jit, static_argnames="activation")
def _map_exponent(
    activation: Activation, gain: Float[Array, ""], noise: Float[Array, ""]
) -> Float[Array, ""]:
    q = length_fixed_point(activation, gain**2, noise)
    return 0.5 * jnp.log(susceptibility(activation, gain**2, q))


@functools.partial(jax.jit, static_argnames="activation")
def _map_critical_gain(activation: Activation, noise: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.sqrt(critical_sigma_w2(activation, noise))


def _solutions(
    activation: Activation, gain: Array, leak: Array, noise: Array
) -> tuple[Array, Array, Array, Lattices, Field]:
    """Solve four lattices; where nothing but x = 0 is stationary, those of another gain.

    The excess g² φ'(0)² - 1 must lie above √eps: below, λ₁ is under eps, and κ² of the lattice
    is all rounding.
    """
    slope = saturating_slope(activation)
    onset_gain = gain * slope(jnp.zeros(1, gain.dtype))[0]
    floor = 10 * jnp.sqrt(jnp.finfo(gain.dtype).eps)
    trivial = (noise == 0) & (onset_gain**2 <= 1 + floor)
    gain2 = jnp.where(trivial, 2 * gain / onset_gain, gain) ** 2
    grid = lattices(slope, gain2, leak, noise)
    each = jax.vmap(lambda c, d, s: solve(slope, gain2, c, d, s))
    field = each(grid.coupling, grid.drive, grid.start)
    return trivial, jnp.minimum(onset_gain, 1), gain2, grid, field


@functools.partial(jax.jit, static_argnames="activation")
def _leaky_exponent(
    activation: Activation, gain: Float[Array, ""], leak: Float[Array, ""], noise: Float[Array, ""]
) -> Float[Array, ""]:
    trivial, edge, gain2, grid, field = _solutions(activation, gain, leak, noise)
    each = jax.vmap(lambda f, c: growth(f, gain2, leak, c))
    m = jnp.sum(grid.weights * each(field, grid.coupling))
    return rate_of(jnp.where(trivial, edge, m) - 1, leak)


@functools.partial(jax.jit, static_argnames="activation")
def _autocovariance(
    activation: Activation, gain: Float[Array, ""], leak: Float[Array, ""], noise: Float[Array, ""]
) -> Autocovariance:
    trivial, _, _, grid, field = _solutions(activation, gain, leak, noise)
    count = SITES // 4
    finer = grid.weights[1] != 0
    values = jnp.zeros(count, gain.dtype)
    for node in range(4):
        stride = node + 1
        common = field.covariance[node, : stride * count : stride]
        values = values + grid.weights[node] * jnp.where(finer | (node == 0), common, 0)
    times = grid.spacing * jnp.arange(count, dtype=gain.dtype)
    return Autocovariance(times, jnp.where(trivial, 0, values))


@functools.partial(jax.jit, static_argnames="activation")
def _leaky_critical_gain(
    activation: Activation, leak: Float[Array, ""], noise: Float[Array, ""], onset: Float[Array, ""]
) -> Float[Array, ""]:
    """Bracket ln g_c between the silent onset and twice the map's, and close in."""

    def rate(log_gain: Array) -> Array:
        return _leaky_exponent(activation, jnp.exp(log_gain), leak, noise)

    high = 2 * _map_critical_gain(activation, noise)
    ends = lax.stop_gradient(jnp.log(jnp.stack([onset, high])))
    return jnp.exp(rising_root(rate, ends))
