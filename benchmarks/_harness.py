"""Timing as ratios within one run: interleaved, warm, minimum of repeats, accuracy beside time."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("gradhorizon", "jax", "jaxlib", "numpy", "scipy")


def race(contestants: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, dict[str, Any]]:
    """Run each contestant once to compile, then all in turn; give first and best seconds."""
    outcome: dict[str, dict[str, Any]] = {}
    for name, run in contestants.items():
        began = time.perf_counter()
        value = jax.block_until_ready(run())
        outcome[name] = {"first": time.perf_counter() - began, "seconds": [], "value": value}
    for _ in range(repeats):
        for name, run in contestants.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            outcome[name]["seconds"].append(time.perf_counter() - began)
    for entry in outcome.values():
        entry["best"] = min(entry.pop("seconds"))
    return outcome


def environment() -> dict[str, Any]:
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
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": f"{device.platform} {device.device_kind}",
        "threads": {n: os.environ[n] for n in os.environ if n.endswith("_NUM_THREADS")},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "commit": commit,
    }


def store(name: str, question: str, rows: list[dict[str, Any]]) -> None:
    """Write the results with their environment, and print them as a table."""
    rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN: not measured
    record = {"benchmark": name, "question": question, "rows": rows, "environment": environment()}
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    keys = list(rows[0])
    sys.stdout.write(" | ".join(keys) + "\n")
    for row in rows:
        cells = [f"{row[k]:.3g}" if isinstance(row[k], float) else str(row[k]) for k in keys]
        sys.stdout.write(" | ".join(cells) + "\n")
