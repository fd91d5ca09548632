"""The other packages: lyapax in this process, torch in a process of its own.

Both are left out where they are not installed. torch may live in another environment: the
variable GRADHORIZON_TORCH_PYTHON names its interpreter, by default the one that runs the script.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from _networks import step

TORCH_PYTHON = os.environ.get("GRADHORIZON_TORCH_PYTHON", sys.executable)


def lyapax_spectrum(steps: int, k: int) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Compile lyapax, QR at every step, as a function of W and h0; None if not installed.

    It resumes from an empty checkpoint whose frame is the identity, as everyone else's is here:
    its own random frame would change finite-time exponents by O(1/T). Gives exponents and states.
    """
    if importlib.util.find_spec("lyapax") is None:
        return None
    import lyapax
    from lyapax.core import LyapunovCheckpoint

    def run(W, h0):
        frame, logs = jnp.eye(len(h0), k, dtype=h0.dtype), jnp.zeros(k, h0.dtype)
        start = LyapunovCheckpoint(h0, frame, logs, jnp.zeros((), h0.dtype), 1.0)
        result = lyapax.lyapunov_spectrum(
            lambda h: step(W, h), h0, 1.0, steps, k=k, renorm_every=1, resume=start,
            save_states=True,
        )  # fmt: skip
        return result.exponents, result.trajectory

    return jax.jit(run)


def versions(*names: str) -> dict[str, str]:
    """Give the versions of those packages that can take part."""
    found = {}
    for name in names:
        if name == "torch":
            code = "import torch; print(torch.__version__)"
            asked = [TORCH_PYTHON, "-c", code]
            reply = subprocess.run(asked, capture_output=True, text=True, check=False)
            if reply.returncode == 0:
                found[name] = reply.stdout.strip()
        elif importlib.util.find_spec(name) is not None:
            found[name] = importlib.metadata.version(name)
    return found


class TorchLoop:
    """A torch process that waits for its turn, so that it can be raced like the others.

    W, h0 and T go through an .npz file, exponents come back as JSON; `states` are read from a
    file that the first turn leaves behind.
    """

    def __init__(self, W: np.ndarray, h0: np.ndarray, steps: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        problem = Path(self._folder.name) / "problem.npz"
        np.savez(problem, W=W, h0=h0, steps=steps)
        self._states = problem.with_name("states.npy")
        self._process = subprocess.Popen(
            [TORCH_PYTHON, str(Path(__file__).with_name("_torch_loop.py")), str(problem)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._read()  # torch is imported

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            message = f"{TORCH_PYTHON} ended before it answered; its error is above."
            raise RuntimeError(message)
        return json.loads(line)

    def __call__(self) -> np.ndarray:
        """Let it run once; give the exponents."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return np.asarray(self._read()["exponents"])

    @property
    def states(self) -> np.ndarray:
        """h_1 … h_T as torch computed them."""
        return np.load(self._states)

    def __enter__(self) -> "TorchLoop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()
