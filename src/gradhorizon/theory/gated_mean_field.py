"""Mean field of gated recurrent networks: size of the state, χ and the memory scale.

Entries of W have variance w/N, gate by gate; the rest of a pre-activation (input and bias) is a
fresh Gaussian of variance v about the mean bias. Everything is exact as N → ∞ with weights
REDRAWN AT EVERY STEP. A recurrent network keeps them, and gates, unlike additive networks, feel
it: a state correlated over time drives the same gates again. The gap is small where the input
dominates (3 % in Q, 0.3 % in χ for a GRU of unit weights) and grows with the recurrent weights: 8 %
in Q for the minimal RNN below, up to 70 % for a GRU of w_n = 16, factors in the memory of an LSTM.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradhorizon._checks import worded
from gradhorizon._record import record
from gradhorizon.theory._dtype import floats
from gradhorizon.theory._gates import gru_moments, minimal_rnn_moments
from gradhorizon.theory._lstm import lstm_moments
from gradhorizon.theory._quadrature import deviation, gaussian_mean


@record
class GatedMeanField:
    """The stationary state of a random gated network and how a perturbation grows in it.

    Attributes
    ----------
    state_moment
        Q = E h².
    preactivation_variance
        q of each gate's pre-activation, in the order of the cell's gates.
    chi
        χ, the growth of the mean squared perturbation (and gradient) per step.
    memory_scale
        ξ = -1/ln χ: steps over which the squared gradient decays by e; negative if it grows.
    """

    state_moment: Float[Array, "*batch"]
    preactivation_variance: Float[Array, "..."]
    chi: Float[Array, "*batch"]
    memory_scale: Float[Array, "*batch"]


@record
class LstmMeanField:
    """The stationary state (c, h) of a random LSTM and how a perturbation grows in it.

    Attributes
    ----------
    state_moment
        E h².
    memory_moment
        E c².
    preactivation_variance
        q of the pre-activations of i, f, g, o, shape (4,).
    paths
        Mean squared growth in one step, shape (2, 2), to and from in the order c, h: entry
        (0, 1) is E‖∂c'/∂h‖_F²/N.
    chi
        χ, the growth per step of the mean squared perturbation of the pair, in the long run.
    memory_scale
        ξ = -1/ln χ, steps; negative if the squared gradient grows.
    """

    state_moment: Float[Array, "*batch"]
    memory_moment: Float[Array, "*batch"]
    preactivation_variance: Float[Array, "*batch 4"]
    paths: Float[Array, "*batch 2 2"]
    chi: Float[Array, "*batch"]
    memory_scale: Float[Array, "*batch"]


def _memory_scale(chi: Array) -> Array:
    return -1 / jnp.log(chi)


def _per_gate(name: str, value: Array, gates: int) -> Array:
    """Give one number for each gate."""
    if value.shape not in ((), (gates,)):
        shape = f"shape {value.shape}"
        raise ValueError(worded(name, f"be one number or {gates}, one for each gate", shape))
    return jnp.broadcast_to(value, (gates,))


def minimal_rnn(
    sigma_w2: Any, sigma_v2: Any, input_moment: Any, *, bias: Any = 0.0
) -> GatedMeanField:
    """Compute the mean field of the minimal RNN h' = u h + (1 - u) x, u = σ(W h + V x + b).

    Q = Q E u² + R E (1 - u)², q = σ_w² Q + σ_v² R, χ = E u² + σ_w² (Q + R) E σ'².

    Parameters
    ----------
    sigma_w2, sigma_v2
        Variances of the entries of W and V, times N.
    input_moment
        R = E x², second moment of the (embedded) inputs: zero mean, fresh at every step.
    bias
        b, the same for all units.

    Returns
    -------
    GatedMeanField
        Q, q, χ and ξ.

    Notes
    -----
    χ contains E u², the direct path through the gate; without it χ would be far too small. Some
    200 quadratures of 8192 nodes; error about 1e-12 in float64 for √q up to 58. Networks that
    repeat their weights have a Q smaller by 8 % at N = 1000 at the parameters of the example.

    References
    ----------
    Chen, Pennington & Schoenholz, "Dynamical isometry and a mean field theory of RNNs", ICML
    2018.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> field = gh.theory.gated_mean_field.minimal_rnn(6.88**2, 1.39**2, 0.46)
    >>> round(float(field.state_moment), 6), round(float(field.chi), 5)
    (0.317897, 0.99878)
    """
    return _minimal_rnn(*floats(sigma_w2, sigma_v2, input_moment, bias))


@jax.jit
def _minimal_rnn(w2: Array, v2: Array, moment: Array, bias: Array) -> GatedMeanField:
    state, q, chi = minimal_rnn_moments(w2, v2, moment, bias)
    return GatedMeanField(state, q, chi, _memory_scale(chi))


def gru(
    recurrent_variance: Any, input_variance: Any, *, bias: Any = 0.0, reset: str = "after"
) -> GatedMeanField:
    """Compute the mean field of the GRU h' = z h + (1 - z) n, with gates r and z.

    n = tanh(W_n (r h) + x) if the reset gate acts before the matrix, as in the papers, and
    tanh(r (W_n h) + x) if after it, as in `gh.cells.gru`, cuDNN, Flax and Equinox. With m = E n,
    C = E n²:

    Q = Q E z² + 2 m² E z(1-z) + C E (1-z)²,
    χ = E z² + w_z (Q + C - 2 m²) E z'² + E (1-z)² (w_n E n'² r² + w_r E (n' a')²),

    where a' is the derivative of n's pre-activation in that of r: squared w_n Q E r'² before the
    matrix, r'² (W_n h)² after it, where it is not independent of n'.

    Parameters
    ----------
    recurrent_variance
        w, the variance of the entries of W times N: one number, or three for r, z, n.
    input_variance
        v, the variance of the rest of the pre-activations: one number, or three for r, z, n.
    bias
        Mean biases: one number, or three for r, z, n.
    reset
        "after" or "before".

    Returns
    -------
    GatedMeanField
        Q, the three q (r, z, n), χ and ξ. With `reset="after"` the pre-activation of n is a
        mixture of Gaussians over r, and q its variance.

    Raises
    ------
    ValueError
        If `reset` is another word, or an argument has neither one nor three numbers.

    Notes
    -----
    Where several sizes Q are stable, the largest. "before" takes some 500 quadratures of 8192
    nodes, "after" some 70 in the plane (330 × 658 nodes, a third of a second): error about 1e-12
    in float64 for √q up to 5, 1e-7 up to 10. z near 1 keeps the state.

    References
    ----------
    Gilboa, Chang, Chen, Yang, Schoenholz, Chi & Pennington, "Dynamical isometry and a mean field
    theory of LSTMs and GRUs" (2019); Can, Krishnamurthy & Schwab, "Gating creates slow modes and
    controls phase-space complexity in GRUs and LSTMs" (2020). "after" in docs/derivations.md.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> field = gh.theory.gated_mean_field.gru(1.0, 0.25, reset="before")
    >>> round(float(field.chi), 6)
    0.331857
    """
    if reset not in ("after", "before"):
        raise ValueError(worded("reset", "be 'after' or 'before'", repr(reset)))
    arguments = floats(recurrent_variance, input_variance, bias)
    names = ("recurrent_variance", "input_variance", "bias")
    parts = (_per_gate(name, value, 3) for name, value in zip(names, arguments, strict=True))
    return _gru(*parts, after=reset == "after")


@functools.partial(jax.jit, static_argnames="after")
def _gru(w2: Array, v2: Array, bias: Array, *, after: bool) -> GatedMeanField:
    state, q, chi = gru_moments(w2, v2, bias, after=after)
    return GatedMeanField(state, q, chi, _memory_scale(chi))


def lstm(
    recurrent_variance: Any,
    input_variance: Any,
    *,
    input_bias: Any = 0.0,
    forget_bias: Any = 1.0,
    output_bias: Any = 0.0,
) -> LstmMeanField:
    """Compute the mean field of the LSTM c' = f c + i g, h' = o tanh(c').

    E c² = E i² E g²/(1 - E f²). E tanh²(c) and the growth through the output need the law of c:
    its characteristic function solves a linear equation, φ(s) = E cos(s i g) E φ(f s).

    Parameters
    ----------
    recurrent_variance
        w, the variance of the entries of W times N: one number, or four for i, f, g, o.
    input_variance
        v, the variance of the rest of the pre-activations: one number, or four for i, f, g, o.
    input_bias, forget_bias, output_bias
        Mean biases of i, f and o; g has none, so that c is symmetric about 0.

    Returns
    -------
    LstmMeanField
        E h², E c², the four q, the paths, χ and ξ.

    Raises
    ------
    ValueError
        If an argument has neither one nor four numbers.

    Notes
    -----
    χ is the leading eigenvalue of the operator that carries E[δc²; c] and E δh², not that of
    `paths`: δc² and c were made by the same forget gates and are not independent. In the networks
    tried the two differ by less than a percent. Chebyshev collocation with 96 points, about a
    second. Relative error in float64 (found by doubling the points): 1e-12 at E c² = 1, 1e-10 at
    10, 1e-7 at 70, 1e-3 at 200, where a larger forget bias should not be trusted; in float32
    1e-4. Where several sizes are stable, the largest.

    Weights that are repeated make the gates of one unit similar from step to step, and the memory
    far exceeds this E c² once gates vary strongly: four- to twenty-fivefold at w = 4 … 25, while
    χ moves by tens of percent. Use `gh.lyapunov_spectrum` for one given network.

    References
    ----------
    Gilboa et al., "Dynamical isometry and a mean field theory of LSTMs and GRUs" (2019); Can,
    Krishnamurthy & Schwab (2020); Krishnamurthy, Can & Schwab, "Theory of gating in recurrent
    neural networks", Phys. Rev. X 12 (2022) 011011. The law of c: docs/derivations.md.

    Examples
    --------
    Without recurrent weights the memory path is all there is, χ = E f²:

    >>> import gradhorizon as gh
    >>> field = gh.theory.gated_mean_field.lstm(0.0, (1.0, 0.0, 1.0, 1.0), forget_bias=2.0)
    >>> abs(float(field.chi - jax.nn.sigmoid(2.0) ** 2)) < 1e-12
    True
    """
    w2, v2, *biases = floats(
        recurrent_variance, input_variance, input_bias, forget_bias, output_bias
    )
    w2, v2 = _per_gate("recurrent_variance", w2, 4), _per_gate("input_variance", v2, 4)
    return _lstm(w2, v2, jnp.stack(biases))


@jax.jit
def _lstm(w2: Array, v2: Array, bias: Array) -> LstmMeanField:
    moment, memory, q, paths, chi = lstm_moments(w2, v2, bias)
    return LstmMeanField(moment, memory, q, paths, chi, _memory_scale(chi))


def gate_exponent(variance: Any, bias: Any = 0.0) -> Float[Array, ""]:
    """Give E ln σ(a), a ~ N(bias, variance): the exponent of a path that a gate multiplies.

    Exact for gates that depend on the input only: the memory path of an LSTM, the LRU-like
    minGRU (whose gate 1 - z = σ(-a) has bias -b), the CFN. E ln u ≤ ½ ln E u², the rate of χ.

    Parameters
    ----------
    variance
        Variance of the gate's pre-activation a over time.
    bias
        Mean of a.

    Returns
    -------
    Array
        Nats per step, negative.

    Notes
    -----
    One quadrature of 8192 nodes.

    References
    ----------
    Feng et al., "Were RNNs all we needed?" (2024), for the minGRU.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(jnp.exp(gh.theory.gated_mean_field.gate_exponent(0.0))), 12)
    0.5
    """
    variance, bias = floats(variance, bias)
    root = deviation(variance)
    return gaussian_mean(lambda z: jax.nn.log_sigmoid(root * z + bias), variance.dtype)
