"""Input processes of the zoo: silence, white and correlated noise, constants, sparse pulses."""

from typing import NamedTuple

import numpy as np
import scipy.signal
from numpy.random import Generator

WIDTH = 2  # m, the size of an input of every driven network

PROCESSES = ("white", "correlated", "constant", "pulses")


class Process(NamedTuple):
    """A stationary input process.

    Attributes
    ----------
    name
        One of `PROCESSES`.
    scale
        The standard deviation of the noise, the norm of a constant entry, a pulse's height.
    memory
        Correlation time in steps.
    rate
        Pulses per step and channel.
    level
        The constant input, shape (m,); part of the process, the same in every sequence.
    """

    name: str
    scale: float
    memory: float
    rate: float
    level: np.ndarray

    def draw(self, rng: Generator, length: int) -> np.ndarray:
        """Draw a sequence of shape (length, m), stationary from its first step."""
        shape = (length, self.level.size)
        if self.name == "constant":
            return np.broadcast_to(self.scale * self.level, shape).copy()
        noise = rng.normal(size=shape)
        if self.name == "pulses":
            return self.scale * noise * (rng.random(shape) < self.rate)
        if self.name == "correlated":
            keep = np.exp(-1 / self.memory)
            noise[1:] *= np.sqrt(1 - keep**2)
            noise = np.asarray(scipy.signal.lfilter([1.0], [1.0, -keep], noise, axis=0))
        return self.scale * noise


def draw_process(rng: Generator, width: int = WIDTH) -> Process:
    """Draw a kind of input, its size (0.1 to 2), its memory (2 to 10 steps) and its density."""
    return Process(
        name=PROCESSES[rng.integers(len(PROCESSES))],
        scale=float(np.exp(rng.uniform(np.log(0.1), np.log(2.0)))),
        memory=float(np.exp(rng.uniform(np.log(2.0), np.log(10.0)))),
        rate=float(np.exp(rng.uniform(np.log(0.03), np.log(0.3)))),
        level=rng.normal(size=width),
    )
