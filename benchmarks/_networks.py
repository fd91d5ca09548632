"""The network that the benchmarks share, h' = tanh(W h), its Jacobians, and their oracle.

Everything here is NumPy or a plain step, so that no expectation comes from the package.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def step(W: Any, h: Any, x: Any = None) -> Any:
    """Advance the autonomous tanh network by one step."""
    del x
    return jnp.tanh(W @ h)


def tanh_network(
    n: int, gain: float, settle: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw W = gain · Gaussian/√n, and a state on the attractor."""
    rng = np.random.default_rng(seed)
    W = gain * rng.normal(size=(n, n)) / np.sqrt(n)
    h = np.tanh(rng.normal(size=n))
    for _ in range(settle):
        h = np.tanh(W @ h)
    return W, h


def trajectory(W: Any, h0: Any, steps: int) -> np.ndarray:
    """Run the network in JAX and give h_1 … h_T."""

    def body(h, _):
        h = step(W, h)
        return h, h

    return np.asarray(jax.jit(lambda h: jax.lax.scan(body, h, None, length=steps)[1])(h0))


def jacobians(W: np.ndarray, states: np.ndarray) -> Iterator[np.ndarray]:
    """Give J_t = diag(1 - h_t²) W one by one; the factored square loses no digit near |h| = 1."""
    for h in states:
        yield ((1 - h) * (1 + h))[:, None] * W


def qr_loop(
    matrices: Iterable[np.ndarray], k: int | None = None, order: np.ndarray | None = None
) -> np.ndarray:
    """Factorize at every step in NumPy, from the first k columns of the identity: the oracle.

    The `order` in which QR meets the rows changes its rounding and nothing else.
    """
    frame, total, count = None, 0.0, 0
    for matrix in matrices:
        if frame is None:
            frame = np.eye(len(matrix), k)
            order = np.arange(len(matrix)) if order is None else order
        factor, upper = np.linalg.qr((matrix @ frame)[order])
        frame = np.empty_like(factor)
        frame[order] = factor
        total = total + np.log(np.abs(np.diag(upper)))
        count += 1
    return np.sort(total)[::-1] / count


def orthogonal(n: int) -> jax.Array:
    """Draw an orthogonal matrix: its powers neither grow nor decay, so floors stay in range."""
    return jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))[0])


def products(steps: int) -> Callable[[Any, Any], Any]:
    """Compile the floor, T products A @ F and nothing else, as a function of A and F."""

    def run(A, frame):
        return jax.lax.scan(lambda f, _: (A @ f, None), frame, None, length=steps)[0]

    return jax.jit(run)


class Referee:
    """Compare exponents with the oracle *on the trajectory that the contestant went through*.

    Chaos turns the last bit of one compiler's W @ h into another trajectory after some hundred
    steps, and exponents of two trajectories differ by far more than either method errs. A
    trajectory is known by its last state, which is all that some contestants give.
    """

    def __init__(self, W: np.ndarray, k: int | None = None) -> None:
        self._W, self._k, self._known = W, k, {}

    def learn(self, states: Any) -> float:
        """Take in a trajectory; give the oracle's own rounding on it, in nats per step.

        Two row orders tell it roughly, within the small factor by which roundings scatter.
        """
        states, n = np.asarray(states), len(self._W)
        reverse, shuffle = np.arange(n)[::-1], np.random.default_rng(2).permutation(n)
        found, *others = (
            qr_loop(jacobians(self._W, states), self._k, order)
            for order in (None, reverse, shuffle)
        )
        self._known[states[-1].tobytes()] = found
        return float(max(np.max(np.abs(other - found)) for other in others))

    def judge(self, exponents: Any, states: Any) -> float:
        """Give the largest difference in nats per step; NaN if only an unknown end is given."""
        states = np.asarray(states)
        key = np.atleast_2d(states)[-1].tobytes()
        if key not in self._known:
            if states.ndim == 1:
                return float("nan")
            self._known[key] = qr_loop(jacobians(self._W, states), self._k)
        return float(np.max(np.abs(np.sort(np.asarray(exponents))[::-1] - self._known[key])))


def table(
    result: dict[str, dict[str, Any]],
    referee: Referee,
    states: np.ndarray,
    problem: dict[str, Any],
    floor: str,
    peer: str,
) -> list[dict[str, Any]]:
    """Give one row for each contestant, judged on its own trajectory; floors give no exponents."""
    rounding = referee.learn(states)
    nan = float("nan")
    differences = {
        name: referee.judge(*entry["value"])
        for name, entry in result.items()
        if not name.startswith("floor")
    }
    least = result[floor]["best"]
    other = result[peer]["best"] if peer in result else nan
    return [
        {
            **problem,
            "method": name,
            "seconds": entry["best"],
            "in floors": entry["best"] / least,
            "ratio to lyapax": entry["best"] / other,
            "first call": entry["first"],
            "largest difference": differences.get(name, nan),
            "rounding of the oracle": rounding,
        }
        for name, entry in result.items()
    ]
