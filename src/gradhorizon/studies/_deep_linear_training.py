"""Deep linear networks that learn: gradient flow by Runge-Kutta, gradient descent by the step.

The loss is ½ ‖W_L … W_1 - T‖², that of whitened inputs. In NumPy: thousands of small steps at many
depths, where compiling each depth would take longer than running it.
"""

import functools
from collections.abc import Sequence

import numpy as np


def product(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Give W_L … W_1, weights in the order of the layers."""
    return functools.reduce(lambda early, late: late @ early, weights)


def slopes(weights: Sequence[np.ndarray], target: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Give the gradients A_lᵀ E R_lᵀ with W_L…W_1 = A_l W_l R_l and E the error, and the loss.

    Only matrices with as many rows as there are outputs are multiplied.
    """
    behind = [np.eye(len(target))]  # A_L, A_{L-1}, …
    for later in weights[:0:-1]:
        behind.append(behind[-1] @ later)
    error = behind[-1] @ weights[0] - target
    loss, found, carried = 0.5 * float(np.sum(error**2)), [], error
    for later, own in zip(behind[::-1], weights, strict=True):
        found.append(later.T @ carried)
        carried = carried @ own.T
    return found, loss


def flow(
    weights: Sequence[np.ndarray], target: np.ndarray, *, dt: float, steps: int
) -> list[np.ndarray]:
    """Follow dW_l/dt = -∂loss/∂W_l by classical Runge-Kutta; the products W_L…W_1 on the way."""
    now = [np.array(w) for w in weights]
    found = [product(now)]
    for _ in range(steps):
        first, _ = slopes(now, target)
        second, _ = slopes([w - dt / 2 * k for w, k in zip(now, first, strict=True)], target)
        third, _ = slopes([w - dt / 2 * k for w, k in zip(now, second, strict=True)], target)
        fourth, _ = slopes([w - dt * k for w, k in zip(now, third, strict=True)], target)
        now = [
            w - dt / 6 * (a + 2 * b + 2 * c + d)
            for w, a, b, c, d in zip(now, first, second, third, fourth, strict=True)
        ]
        found.append(product(now))
    return found


def steps_to_learn(
    weights: Sequence[np.ndarray], target: np.ndarray, *, rate: float, share: float, limit: int
) -> int:
    """Count gradient steps until the loss is `share` of that of a silent network.

    Returns `limit` if it is not reached, or if the steps diverge.
    """
    now = [np.array(w) for w in weights]
    silent = 0.5 * float(np.sum(target**2))
    for step in range(limit):
        found, loss = slopes(now, target)
        if loss < share * silent:
            return step
        if not loss < 1e3 * silent:
            return limit
        now = [w - rate * k for w, k in zip(now, found, strict=True)]
    return limit
