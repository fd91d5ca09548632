"""What a torch user writes for a Lyapunov spectrum: jacrev, product and QR at every step.

Runs in a process of its own (see `_peers.TorchLoop`), so it needs torch and NumPy only. One run
for each line on stdin, one line of JSON back.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    """Serve runs until stdin is closed."""
    torch.set_num_threads(1)
    problem = np.load(sys.argv[1])
    W, h0 = torch.from_numpy(problem["W"]), torch.from_numpy(problem["h0"])
    steps, kept = int(problem["steps"]), Path(sys.argv[1]).with_name("states.npy")
    jacobian = torch.func.jacrev(lambda h: torch.tanh(W @ h))

    def run():
        h, frame = h0, torch.eye(len(h0), dtype=W.dtype)
        total, states = torch.zeros(len(h0), dtype=W.dtype), []
        for _ in range(steps):
            frame, upper = torch.linalg.qr(jacobian(h) @ frame)
            total += torch.log(torch.abs(torch.diagonal(upper)))
            h = torch.tanh(W @ h)
            states.append(h)
        return total / steps, states

    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        exponents, states = run()
        if not kept.exists():
            np.save(kept, torch.stack(states).numpy())
        sys.stdout.write(json.dumps({"exponents": exponents.tolist()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
