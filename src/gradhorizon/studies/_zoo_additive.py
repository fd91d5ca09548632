"""Elman and leaky rate networks of the zoo: an ensemble of matrices, an activation, a drive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.random import Generator

from gradhorizon.cells import elman, rate_network
from gradhorizon.studies import _zoo_gain
from gradhorizon.studies._zoo_inputs import WIDTH, Process, draw_process

Drawn = tuple[dict[str, np.ndarray], Any, Process | None]  # params, h0, inputs
_BIASES = (0.0, 0.0, 0.1, 0.5, 1.0)  # standard deviations; one is drawn for each network
_CALIBRATION = 200  # steps of input on which gains are chosen


class Additive(NamedTuple):
    """How networks of one kind are drawn.

    Attributes
    ----------
    ensemble
        Draws W, shape (n, n), of about unit gain.
    activation
        A name in `_zoo_gain.ACTIVATIONS`.
    driven
        Whether there are inputs; without them the initial state is random.
    leak
        The leak of a rate network, or None for an Elman cell.
    gains
        "target": near a drawn rate, "below": near a negative one; otherwise ln g is uniform on
        this interval.
    bias
        A fixed mean of the biases; negative ones kill ReLU units.
    """

    ensemble: Callable[[Generator, int], np.ndarray]
    activation: str = "tanh"
    driven: bool = True
    leak: float | None = None
    gains: str | tuple[float, float] = "target"
    bias: float = 0.0

    def step(self, n: int) -> Any:
        """Give the step of size n."""
        name = self.activation
        activation: Any = jax.nn.soft_sign if name == "soft_sign" else name
        inputs = WIDTH if self.driven else 0
        if self.leak is None:
            return elman(n, inputs, activation=activation).step
        return rate_network(n, inputs, activation=activation, leak=self.leak).step

    def draw(self, generators: list[Generator], n: int) -> list[Drawn]:
        """Draw one network for each generator."""
        drawn = [self._draw_one(rng, n) for rng in generators]
        gains = self._gains(generators, drawn)
        for (params, _, _), gain in zip(drawn, gains, strict=True):
            params["W"] = gain * params["W"]
        return drawn

    def _draw_one(self, rng: Generator, n: int) -> Drawn:
        params = {
            "W": self.ensemble(rng, n),
            "b": self.bias + rng.choice(_BIASES) * rng.normal(size=n),
        }
        if not self.driven:
            return params, rng.normal(size=n), None
        params["U"] = rng.normal(size=(n, WIDTH)) / np.sqrt(WIDTH)
        return params, np.zeros(n), draw_process(rng)

    def _gains(self, generators: list[Generator], drawn: list[Drawn]) -> np.ndarray:
        if not isinstance(self.gains, str):
            return np.exp([rng.uniform(*self.gains) for rng in generators])
        below = self.gains == "below"
        targets = np.array(
            [_zoo_gain.draw_target(rng, self.activation, below=below) for rng in generators]
        )
        drive = [_drive(rng, *network) for rng, network in zip(generators, drawn, strict=True)]
        matrices = np.stack([params["W"] for params, _, _ in drawn])
        starts = np.stack([h0 for _, h0, _ in drawn])
        settings = self.activation, self.leak, 0.3 if below else 2.5
        return _zoo_gain.near_target(matrices, np.stack(drive), starts, targets, *settings)


def _drive(rng: Generator, params: dict[str, Any], h0: Any, process: Process | None) -> np.ndarray:
    """Give U x_t + b on a sequence that is used for nothing else."""
    bias = np.broadcast_to(params["b"], (_CALIBRATION, h0.size))
    if process is None:
        return bias
    return bias + process.draw(rng, _CALIBRATION) @ params["U"].T
