"""The gain of a drawn network: near the edge, where prediction is hard, or anywhere.

Far from the edge every rule is right. The zoo therefore draws a target for the growth rate and
looks for the gain that has it, by stochastic approximation on a sequence of its own: ln g falls
by a decreasing share of (growth of a tangent - target). The rate that results scatters about
the target; nothing else depends on its being met.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special

Map = Callable[[Any], Any]
_STEPS, _MEMORY = 400, 30  # steps; the gain's own memory at the start


class Slope(NamedTuple):
    """An activation and its derivative."""

    value: Map
    derivative: Map


ACTIVATIONS = {
    "tanh": Slope(np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": Slope(lambda a: np.maximum(a, 0), lambda a: 1.0 * (a > 0)),
    "sigmoid": Slope(
        scipy.special.expit, lambda a: scipy.special.expit(a) * scipy.special.expit(-a)
    ),
    "erf": Slope(scipy.special.erf, lambda a: 2 / np.sqrt(np.pi) * np.exp(-(a**2))),
    "identity": Slope(lambda a: a, np.ones_like),
    "soft_sign": Slope(lambda a: a / (1 + np.abs(a)), lambda a: (1 + np.abs(a)) ** -2.0),
}
HOMOGENEOUS = ("relu", "identity")  # their states grow with the gradient


def draw_target(rng: np.random.Generator, activation: str, *, below: bool = False) -> float:
    """Draw a rate: one in four between 0.002 and 0.05 nats per step, the others 0.02 to 0.6.

    `below` asks for decay only, where saturation keeps the networks from growing.
    """
    low, high = (2e-3, 0.05) if rng.random() < 0.25 else (0.02, 0.6)
    size = np.exp(rng.uniform(np.log(low), np.log(high)))
    sign = -1.0 if below else rng.choice([-1.0, 1.0])
    limit = 0.3 if activation in HOMOGENEOUS else 0.6
    return float(sign * min(size, limit))


def near_target(
    W: np.ndarray,
    drive: np.ndarray,
    h: np.ndarray,
    targets: np.ndarray,
    activation: str,
    leak: float | None,
    largest: float = 2.5,
) -> np.ndarray:
    """Find gains at which the networks grow at about their targets.

    Parameters
    ----------
    W
        Matrices of unit gain, shape (k, n, n).
    drive
        U x_t + b, shape (k, T, n).
    h
        Initial states, shape (k, n).
    targets
        Rates in nats per step, shape (k,).
    activation
        A name in `ACTIVATIONS`.
    leak
        The leak of a rate network, or None for an Elman cell.
    largest
        How far ln g may rise above that of a critical network without bias or drive.

    Returns
    -------
    np.ndarray
        g, shape (k,), for W → g W.
    """
    phi, slope = ACTIVATIONS[activation]
    start = -np.log(slope(np.zeros(())) if activation != "relu" else np.sqrt(0.5))
    gain = np.full(len(W), float(start))
    tangent = np.ones_like(h)
    size = np.linalg.norm(tangent, axis=1)
    for t in range(_STEPS):
        g = np.exp(gain)[:, None]
        now = drive[:, t % drive.shape[1]]
        if leak is None:
            a = g * _apply(W, h) + now
            tangent = slope(a) * (g * _apply(W, tangent))
            h = phi(a)
        else:
            pushed = _apply(W, slope(h) * tangent)
            tangent = (1 - leak) * tangent + leak * g * pushed
            h = (1 - leak) * h + leak * (g * _apply(W, phi(h)) + now)
        h = np.clip(h, -1e6, 1e6)
        size = np.maximum(np.linalg.norm(tangent, axis=1), 1e-30)
        growth, tangent = np.log(size), tangent / size[:, None]
        reply = 1 / (leak or 1.0)  # a leak of 0.1 lets ln g act on a tenth of the step
        share = reply / (_MEMORY + t)
        gain -= share * 8 * np.clip(growth - targets, -1, 1)
        gain = np.clip(gain, start - 2.5, start + largest)
        tangent = np.where(size[:, None] <= 1e-30, 1.0, tangent)
    return np.exp(gain)


def _apply(W: np.ndarray, h: np.ndarray) -> np.ndarray:
    return np.matmul(W, h[:, :, None])[:, :, 0]
