"""Timing as ratios within one run: interleaved, warm, minimum of repeats, accuracy beside time."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import argparse
import importlib.metadata
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("gradhorizon", "jax", "jaxlib", "numpy", "scipy")
_TURN = 0.05  # seconds


def is_small(doc: str | None) -> bool:
    """Parse the command line: whether to try the script at toy sizes, without storing."""
    parser = argparse.ArgumentParser(description=doc)
    help_ = "toy sizes, to try the script; nothing is stored"
    parser.add_argument("--small", action="store_true", help=help_)
    return parser.parse_args().small


def race(contestants: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, dict[str, Any]]:
    """Run each contestant once to compile, then all in turn; give first and best seconds.

    A turn is repeated for at least 50 ms: short runs would pay for the caches that the contestant
    before them left behind.
    """
    outcome: dict[str, dict[str, Any]] = {}
    for name, run in contestants.items():
        began = time.perf_counter()
        value = jax.block_until_ready(run())
        outcome[name] = {"first": time.perf_counter() - began, "best": math.inf, "value": value}
    for _ in range(repeats):
        for name, run in contestants.items():
            turn = time.perf_counter()
            while time.perf_counter() - turn < _TURN:
                began = time.perf_counter()
                jax.block_until_ready(run())
                seconds = time.perf_counter() - began
                outcome[name]["best"] = min(outcome[name]["best"], seconds)
    return outcome


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Fit the exponent of a power law by least squares on logarithms; NaN for one point."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def environment(peers: dict[str, str]) -> dict[str, Any]:
    """Describe what the figures were measured on."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=root,
        check=False,
    ).stdout.strip()  # fmt: skip
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **peers,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": f"{device.platform} {device.device_kind}",
        "threads": {n: os.environ[n] for n in os.environ if n.endswith("_NUM_THREADS")},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "commit": commit,
    }


def store(
    name: str,
    question: str,
    rows: list[dict[str, Any]],
    *,
    small: bool = False,
    peers: dict[str, str] | None = None,
) -> None:
    """Print the results as a table, and unless `small` write them with their environment.

    `peers` names the versions of other packages that took part.
    """
    rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN: not measured
    if not small:
        record = {
            "benchmark": name,
            "question": question,
            "rows": rows,
            "environment": environment(peers or {}),
        }
        path = RESULTS / f"{name}-{jax.default_backend()}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
    keys = list(rows[0])
    sys.stdout.write(" | ".join(keys) + "\n")
    for row in rows:
        cells = [f"{row[k]:.3g}" if isinstance(row[k], float) else str(row[k]) for k in keys]
        sys.stdout.write(" | ".join(cells) + "\n")
