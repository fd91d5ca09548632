"""The silent network: exponents of the fixed point x = 0, and the arguments all functions share."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradhorizon._checks import is_concrete, require_positive, worded
from gradhorizon.theory._dtype import floats


def silent_exponents(eigenvalues: Any, *, leak: Any = 1.0) -> Float[Array, "..."]:
    """Give the Lyapunov exponents of the fixed point x = 0: ln|1 - δ + δ μ|/δ.

    Parameters
    ----------
    eigenvalues
        μ, of J φ'(0); any shape, complex.
    leak
        δ in [0, 1]; at 0 the exponents are Re μ - 1.

    Returns
    -------
    Array
        Rates per unit time, in the order of `eigenvalues`.

    Raises
    ------
    ValueError
        If the leak is out of range.

    Notes
    -----
    The fixed point attracts, and these are the exponents of the network, if all are negative.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> silent = gh.theory.random_network.silent_exponents
    >>> silent(jnp.array([0.5, 0.5j]), leak=0.0).tolist()
    [-0.5, -1.0]
    """
    mu = jnp.asarray(eigenvalues)
    real, imaginary = floats(jnp.real(mu), jnp.imag(mu))
    _, leak, _ = arguments(1.0, leak, 0.0)
    leak = leak.astype(real.dtype)
    excess = 2 * (real - 1) + leak * (jnp.square(real - 1) + jnp.square(imaginary))
    return rate_of(excess, leak) / 2  # |1 - δ + δμ|² = 1 + δ·excess


def silent_exponent_cdf(exponent: Any, gain: Any, *, leak: Any = 1.0) -> Float[Array, ""]:
    """Give the share of exponents up to a value at the fixed point x = 0, as N → ∞.

    The eigenvalues of J fill the disc |μ| < g evenly, so it is the area that this disc shares
    with |μ - 1 + 1/δ| < e^{δs}/δ, over π g². Leak 1: e^{2s}/g²; leak 0: Wigner's semicircle of
    radius g around -1.

    Parameters
    ----------
    exponent
        s, per unit time.
    gain
        g times φ'(0), below 1.
    leak
        δ in [0, 1].

    Returns
    -------
    Array
        The share, between 0 and 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Leaks below 1e-4 are taken as 0, where the two areas differ by less than rounding would cost.

    References
    ----------
    Girko's circular law.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> float(gh.theory.random_network.silent_exponent_cdf(-1.0, 0.5, leak=0.0))
    0.5
    """
    gain, leak, _ = arguments(gain, leak, 0.0)
    exponent, gain, leak = floats(exponent, gain, leak)
    flow = leak < 1e-4
    some = jnp.where(flow, 1, leak)
    lens = _overlap(gain, jnp.exp(some * exponent) / some, 1 / some - 1)
    x = jnp.clip((exponent + 1) / gain, -1, 1)
    half_plane = 0.5 + (x * jnp.sqrt(1 - x**2) + jnp.arcsin(x)) / np.pi
    return jnp.where(flow, half_plane, lens / (np.pi * gain**2))


def _overlap(first: Array, second: Array, distance: Array) -> Float[Array, ""]:
    """Compute the area shared by two discs of given radii and distance of centers."""
    apart = jnp.maximum(distance, jnp.finfo(distance.dtype).tiny)

    def segment(own: Array, other: Array) -> Array:
        # radii are clipped into the ratio first: nested or separate discs give 0 or all of one
        cosine = jnp.clip((apart**2 + own**2 - other**2) / (2 * apart * own), -1, 1)
        return own**2 * (jnp.arccos(cosine) - cosine * jnp.sqrt(1 - cosine**2))

    return segment(first, second) + segment(second, first)


def rate_of(excess: Array, leak: Array) -> Float[Array, "..."]:
    """Give ln(1 + δ·excess)/δ, and its limit at δ = 0."""
    some = jnp.where(leak == 0, 1, leak)
    return jnp.where(leak == 0, excess, jnp.log1p(some * excess) / some)


def arguments(gain: Any, leak: Any, noise_variance: Any) -> tuple[Array, Array, Array]:
    """Give gain, leak and noise as arrays of one dtype."""
    require_positive("gain", gain)
    for name, value, top in (("leak", leak, 1.0), ("noise_variance", noise_variance, jnp.inf)):
        if is_concrete(value) and not 0 <= float(value) <= top:
            wanted = "lie in [0, 1]" if name == "leak" else "be at least 0"
            raise ValueError(worded(name, wanted, value))
    gain, leak, noise = floats(gain, leak, noise_variance)
    return gain, leak, noise
