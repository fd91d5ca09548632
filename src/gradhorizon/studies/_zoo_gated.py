"""Gated and diagonal networks of the zoo: LSTM, GRU, minimal RNN, diagonal linear recurrence.

Their memory is set by the bias of the gate that keeps the state; it is drawn so that time
constants run from one step to some thousand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from gradhorizon.cells import gru, lstm, minimal_rnn
from gradhorizon.studies import _zoo_cells, _zoo_matrices
from gradhorizon.studies._zoo_additive import Drawn
from gradhorizon.studies._zoo_inputs import WIDTH, Process, draw_process


class Gated(NamedTuple):
    """How networks of one kind are drawn.

    Attributes
    ----------
    cell
        "lstm", "gru", "minimal" or "diagonal".
    ensemble
        Draws each n × n block of the recurrent weights.
    gains
        ln of their gain is uniform on this interval.
    keep
        The bias of the keeping gate is uniform on this interval, plus normal scatter of 0.3.
    spread
        Whether time constants of the units differ log-uniformly, as after chrono
        initialization, up to that of the drawn bias.
    driven
        Whether there are inputs; without them the initial state is random.
    """

    cell: str
    ensemble: Callable[[Generator, int], np.ndarray] = _zoo_matrices.orthogonal
    gains: tuple[float, float] = (-0.5, 0.5)
    keep: tuple[float, float] = (0.0, 7.0)
    spread: bool = False
    driven: bool = True

    def step(self, n: int) -> Any:
        """Give the step of n units."""
        inputs = WIDTH if self.driven else 0
        if self.cell == "diagonal":
            return _zoo_cells.DiagonalStep(n)
        return {"lstm": lstm, "gru": gru, "minimal": minimal_rnn}[self.cell](n, inputs).step

    def draw(self, generators: list[Generator], n: int) -> list[Drawn]:
        """Draw one network for each generator."""
        return [self._draw_one(rng, n) for rng in generators]

    def _draw_one(self, rng: Generator, n: int) -> Drawn:
        gain = np.exp(rng.uniform(*self.gains))
        keep = rng.uniform(*self.keep) + 0.3 * rng.normal(size=n)
        if self.spread:
            keep = np.log(np.maximum(np.exp(keep.mean() * rng.random(n)), 1.0001))
        params = getattr(self, f"_{self.cell}")(rng, n, gain, keep)
        if self.driven and "U" not in params:
            rows = params["b"].size
            params["U"] = rng.normal(size=(rows, WIDTH)) / np.sqrt(WIDTH)
        return params, self._state(rng, n), self._process(rng)

    def _process(self, rng: Generator) -> Process | None:
        return draw_process(rng) if self.driven else None

    def _state(self, rng: Generator, n: int) -> Any:
        """Give zeros with a drive, a random state without; LSTM cells have two parts."""
        size = 2 * n if self.cell == "diagonal" else n
        parts = [rng.normal(size=size) * (not self.driven) for _ in range(2)]
        return (parts[0], np.tanh(parts[1])) if self.cell == "lstm" else parts[0]

    def _lstm(self, rng: Generator, n: int, gain: float, keep: np.ndarray) -> dict[str, Any]:
        """Draw gates in the order i, f, g, o."""
        blocks = [gain * self.ensemble(rng, n) for _ in range(4)]
        bias = 0.3 * rng.normal(size=4 * n)
        bias[n : 2 * n] = keep
        return {"W": np.concatenate(blocks), "b": bias}

    def _gru(self, rng: Generator, n: int, gain: float, keep: np.ndarray) -> dict[str, Any]:
        """Draw gates in the order r, z, n; z keeps."""
        blocks = [gain * self.ensemble(rng, n) for _ in range(3)]
        bias = 0.3 * rng.normal(size=3 * n)
        bias[n : 2 * n] = keep
        return {"W": np.concatenate(blocks), "b": bias, "d": 0.1 * rng.normal(size=n)}

    def _minimal(self, rng: Generator, n: int, gain: float, keep: np.ndarray) -> dict[str, Any]:
        W, V = gain * self.ensemble(rng, n), gain * self.ensemble(rng, n)
        return {"W": W, "V": V, "b": 0.3 * rng.normal(size=n), "d": keep}

    def _diagonal(self, rng: Generator, n: int, gain: float, keep: np.ndarray) -> dict[str, Any]:
        """Draw moduli exp(-1/τ) below a largest one, that grows in one network of four."""
        del gain
        slowest = np.exp(-keep.mean()) * rng.choice([-1.0, -1.0, -1.0, 1.0])
        radius = np.exp(slowest - rng.exponential(0.1, n) * (np.arange(n) > 0))
        angle = rng.uniform(0, np.pi, n) * rng.integers(0, 2, n)
        U = rng.normal(size=(2 * n, WIDTH)) / np.sqrt(WIDTH)
        return {"radius": radius, "angle": angle, "U": U}
