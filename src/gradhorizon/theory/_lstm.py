"""The LSTM with fresh weights: the law of its memory, and how a perturbation grows.

With weights redrawn at every step the gates are independent over units and time, and the memory
c' = f c + i g is a random affine recursion. Its law is not Gaussian and has no closed form, but
its characteristic function φ(s) = E cos(s c) obeys a linear equation,

    φ(s) = ψ(s) E φ(f s),    ψ(s) = E cos(s i g),    φ(0) = 1,

and E F(c) is an integral of φ against the Fourier transform of F: with S(s) = s/sinh(πs/2),

    E sech²(c) = ∫_0^∞ S(s) φ(s) ds,    E sech⁴(c) = ∫_0^∞ S(s) (s² + 4)/6 φ(s) ds.

All functions live on Chebyshev points of [0, 25], beyond which S is below 1e-15. They cluster
near 0, where φ is narrow if the memory is large. docs/derivations.md has the growth operator.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradhorizon.theory._activations import function_and_slope
from gradhorizon.theory._gates import gate_moments, inner_grid
from gradhorizon.theory._largest import largest_fixed_point
from gradhorizon.theory._quadrature import deviation, gaussian_mean

_POINTS, _EDGE = 96, 25.0
_GATE_SPACING, _CONTENT_SPACING = 32, 8  # 164 nodes for gates, 658 for i g, which waves faster
_SQUARINGS = 14  # 2^14 power iterations


class Frequencies(NamedTuple):
    """Chebyshev points on [0, 25], and what integrates and expands values there."""

    points: Array
    transform: Array  # values to Chebyshev coefficients
    sech2: Array  # weights of ∫ S(s) φ(s) ds
    sech4: Array


@functools.cache
def _tables() -> tuple[np.ndarray, ...]:
    count = _POINTS
    x = -np.cos(np.arange(count) * np.pi / (count - 1))
    transform = np.linalg.inv(np.polynomial.chebyshev.chebvander(x, count - 1))
    order = np.arange(count)
    even = order % 2 == 0
    integral = np.zeros(count)  # of T_k over [-1, 1]
    integral[even] = 2 / (1 - order[even] ** 2)
    s = (x + 1) * _EDGE / 2
    envelope = np.full(count, 2 / math.pi)
    envelope[1:] = s[1:] / np.sinh(math.pi * s[1:] / 2)
    weights = integral @ transform * _EDGE / 2 * envelope
    return s, transform, weights, weights * (s**2 + 4) / 6


def _frequencies(dtype: np.dtype) -> Frequencies:
    return Frequencies(*(jnp.asarray(table, dtype) for table in _tables()))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _dilation(frequencies: Frequencies, gate: Array, weights: Array) -> Float[Array, "k s t"]:
    """Give the matrices that turn values φ(s) into E ω(u) φ(u s), for k weights ω."""
    s, transform = frequencies.points, frequencies.transform
    x = (2 / _EDGE) * s[:, None] * gate[None, :] - 1

    def advance(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        older, newer = pair
        coefficient = _product(older, weights.T)  # (s, k)
        return (newer, 2 * x * newer - older), coefficient

    _, coefficients = lax.scan(advance, (jnp.ones_like(x), x), None, length=_POINTS)
    return _product(jnp.transpose(coefficients, (2, 1, 0)), transform)


class Law(NamedTuple):
    """The stationary law of the memory at a given E h²."""

    gates: Array  # i, f, o at the quadrature nodes
    write: Array  # ψ
    characteristic: Array  # φ
    tanh_square: Array  # E tanh² c


def _law(moment: Array, w2: Array, v2: Array, bias: Array) -> Law:
    frequencies = _frequencies(moment.dtype)
    nodes, weights = inner_grid(moment.dtype, every=_GATE_SPACING)
    q = w2 * moment + v2
    spread = jax.vmap(deviation)(q[np.array([0, 1, 3])])
    gates = jax.nn.sigmoid(spread[:, None] * nodes[None, :] + bias[:, None])
    fine, fine_weights = inner_grid(moment.dtype, every=_CONTENT_SPACING)
    written = jnp.tanh(deviation(q[2]) * fine)
    content = _product(jnp.cos(frequencies.points[:, None] * written[None, :]), fine_weights)
    write = _product(_dilation(frequencies, gates[0], weights[None])[0], content)
    keep = _dilation(frequencies, gates[1], weights[None])[0]
    eye = jnp.eye(_POINTS, dtype=moment.dtype)
    # at s = 0 the equation is empty; φ(0) = 1 takes its place
    matrix = (eye - write[:, None] * keep).at[0].set(eye[0])
    characteristic = jnp.linalg.solve(matrix, eye[0])
    tanh_square = 1 - jnp.sum(frequencies.sech2 * characteristic)
    return Law(gates, write, characteristic, jnp.clip(tanh_square, 0, 1))


def lstm_moments(
    w2: Float[Array, "4"], v2: Float[Array, "4"], bias: Float[Array, "3"]
) -> tuple[Array, Array, Array, Array, Array]:
    """Give E h², E c², the four q, the paths and χ; biases of i, f, o."""

    def advance(moment: Array) -> Array:
        output = gate_moments(w2[3] * moment + v2[3], bias[2])
        return output.square * _law(moment, w2, v2, bias).tanh_square

    moment = largest_fixed_point(advance, w2.dtype)
    q = w2 * moment + v2
    enter = gate_moments(q[0], bias[0])
    forget = gate_moments(q[1], bias[1])
    output = gate_moments(q[3], bias[2])
    written = gaussian_mean(lambda z: jnp.tanh(deviation(q[2]) * z) ** 2, q.dtype)
    # 1 - E f² without cancellation where f is near 1
    memory = enter.square * written / (2 * (1 - forget.mean) - forget.rest_square)
    law = _law(moment, w2, v2, bias)
    passed, source = _transport(law, w2, q)
    frequencies = _frequencies(moment.dtype)
    read = output.square * frequencies.sech4
    gate_path = w2[3] * output.slope_square * law.tanh_square
    out = jnp.sum(read * source) + gate_path
    carried = jnp.sum(read * _product(passed, law.characteristic))
    paths = jnp.stack([jnp.stack([forget.square, source[0]]), jnp.stack([carried, out])])
    top = jnp.concatenate([passed, source[:, None]], axis=1)
    bottom = jnp.concatenate([_product(read, passed), out[None]])
    chi = _perron(jnp.concatenate([top, bottom[None]]))
    return moment, memory, q, paths, chi


def _transport(law: Law, w2: Array, q: Array) -> tuple[Array, Array]:
    """Give how E δc² cos(s c) passes one step, and what a unit E δh² adds to it.

    δc' = f δc + c δf + g δi + i δg. The last three are fresh Gaussians given the state, so only
    squares survive: w_f E f'² c² cos(s c') and so on, with c' = f c + i g.
    """
    frequencies = _frequencies(q.dtype)
    _, weights = inner_grid(q.dtype, every=_GATE_SPACING)
    s, (enter, forget, _) = frequencies.points, law.gates
    tanh, slope = function_and_slope("tanh")
    root = deviation(q[2])
    fine, fine_weights = inner_grid(q.dtype, every=_CONTENT_SPACING)
    written, steepness = tanh(root * fine), slope(root * fine) ** 2
    phase = s[:, None] * written[None, :]
    sine, cosine = jnp.sin(phase), jnp.cos(phase)
    content = [
        _product(sine, fine_weights * written),
        _product(cosine, fine_weights * written**2),
        _product(cosine, fine_weights * steepness),
    ]
    slopes = (enter * (1 - enter)) ** 2, (forget * (1 - forget)) ** 2
    first, second, sloped = _dilation(
        frequencies, enter, weights[None] * jnp.stack([enter, enter**2, slopes[0]])
    )
    write1, write2 = _product(first, content[0]), _product(second, content[1])
    by_gates = w2[0] * _product(sloped, content[1]) + w2[2] * _product(second, content[2])
    ones = jnp.ones_like(forget)
    keep0, keep1, keep2, bent = _dilation(
        frequencies, forget, weights[None] * jnp.stack([ones, forget, forget**2, slopes[1]])
    )
    eye, write = jnp.eye(_POINTS, dtype=q.dtype), law.write[:, None]
    kept = _product(keep0, law.characteristic)
    # E c sin(s c) and E c² cos(s c): the same equation for moments of first and second order
    odd = jnp.linalg.solve(eye - write * keep1, kept * write1)
    even = kept * write2 - 2 * _product(keep1, odd) * write1
    even = jnp.linalg.solve(eye - write * keep2, even)
    source = w2[1] * law.write * _product(bent, even) + by_gates * kept
    return write * keep2, source


def _perron(matrix: Float[Array, "m m"]) -> Float[Array, ""]:
    """Give the eigenvalue of largest modulus of the growth operator, which is positive.

    Rows and columns of a high power are the two eigenvectors; with them held constant the
    Rayleigh quotient has the exact derivative.
    """

    def square(_: Any, power: Array) -> Array:
        power = _product(power, power)
        return power / jnp.max(jnp.abs(power))

    start = lax.stop_gradient(matrix)
    power = lax.fori_loop(0, _SQUARINGS, square, start / jnp.max(jnp.abs(start)))
    column = jnp.argmax(jnp.sum(jnp.abs(power), axis=0))
    right = power[:, column]
    left = power[jnp.argmax(jnp.abs(right))]
    return jnp.sum(left * _product(matrix, right)) / jnp.sum(left * right)
