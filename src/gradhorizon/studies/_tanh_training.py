"""Deep tanh networks trained for a short time by plain gradient descent, in NumPy.

Hundreds of short runs of a dozen different depths: there, compiling each depth would take longer
than running it. Backpropagation is written out.
"""

import math
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10


class Network(NamedTuple):
    """Weights and biases of h_l = tanh(W_l h_{l-1} + b_l), and a linear readout."""

    first: np.ndarray  # (width, inputs)
    deep: np.ndarray  # (depth - 1, width, width)
    biases: np.ndarray  # (depth, width)
    readout: np.ndarray  # (classes, width)


def draw_network(
    rng: Any, inputs: int, width: int, depth: int, sigma_w2: float, sigma_b2: float
) -> Network:
    """Draw weights of variance σ_w²/fan-in, biases of variance σ_b², a readout of variance 1/N."""

    def normal(*shape: int, variance: float) -> np.ndarray:
        return (rng.normal(size=shape) * math.sqrt(variance)).astype(np.float32)

    return Network(
        normal(width, inputs, variance=sigma_w2 / inputs),
        normal(depth - 1, width, width, variance=sigma_w2 / width),
        normal(depth, width, variance=sigma_b2),
        normal(CLASSES, width, variance=1 / width),
    )


def states(network: Network, images: np.ndarray) -> list[np.ndarray]:
    """Give h_1 … h_L for a batch of images, one per row."""
    found = [np.tanh(images @ network.first.T + network.biases[0])]
    for weights, bias in zip(network.deep, network.biases[1:], strict=True):
        found.append(np.tanh(found[-1] @ weights.T + bias))
    return found


def gradient(network: Network, images: np.ndarray, labels: np.ndarray) -> Network:
    """Give the gradient of the mean cross-entropy by backpropagation."""
    layers, count = states(network, images), len(images)
    logits = layers[-1] @ network.readout.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(count), labels] -= 1
    shares /= np.float32(count)
    deep, biases = np.empty_like(network.deep), np.empty_like(network.biases)
    delta = (shares @ network.readout) * (1 - layers[-1] ** 2)
    for layer in range(len(layers) - 1, 0, -1):
        np.matmul(delta.T, layers[layer - 1], out=deep[layer - 1])
        biases[layer] = delta.sum(axis=0)
        delta = (delta @ network.deep[layer - 1]) * (1 - layers[layer - 1] ** 2)
    biases[0] = delta.sum(axis=0)
    return Network(delta.T @ images, deep, biases, shares.T @ layers[-1])


def train(
    rng: Any,
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    batch: int,
    rate: float,
) -> float:
    """Take gradient steps on random batches; give the share of all images named correctly."""
    for _ in range(steps):
        chosen = rng.integers(0, len(images), batch)
        slopes = gradient(network, images[chosen], labels[chosen])
        for leaf, slope in zip(network, slopes, strict=True):
            leaf -= np.float32(rate) * slope
    logits = states(network, images)[-1] @ network.readout.T
    return float(np.mean(logits.argmax(axis=1) == labels))
