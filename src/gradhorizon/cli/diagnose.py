"""`gradhorizon diagnose FILE.py:NAME`: load a network that the user names, and diagnose it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from gradhorizon._checks import worded
from gradhorizon.cli._load import load, unpack
from gradhorizon.cli.npz import read_npz
from gradhorizon.regimes.diagnose import diagnose

if TYPE_CHECKING:
    from gradhorizon.cli import Diagnose


def run_diagnose(options: "Diagnose") -> int:
    """Load, diagnose, print; write the page and the numbers where asked."""
    jax.config.update("jax_enable_x64", options.x64)
    xs = None if options.inputs is None else _inputs(options.inputs, options.x64)
    found, defined, path, name = load(options.target)
    try:
        network = unpack(found, name, defined, xs)
    except ValueError as error:
        if xs is None and str(error).startswith("`inputs` must be given"):
            remedy = "Pass --inputs FILE.npz, whose first entry shows what an input is."
            raise ValueError(worded("inputs", "be given for this cell", None, remedy)) from error
        raise
    sys.stderr.write("\n".join(network.lines(name, path)) + "\n")
    diagnosis = diagnose(
        network.step,
        network.params,
        network.h0,
        network.xs if xs is None else xs,
        lag=options.lag,
        threshold=options.threshold,
        length=options.length,
    )
    sys.stdout.write(f"{diagnosis}\n")
    if options.html is not None:
        diagnosis.to_html(options.html)
        sys.stderr.write(f"wrote {options.html}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(diagnosis.to_dict(), indent=1, sort_keys=True) + "\n")
        sys.stderr.write(f"wrote {options.json}\n")
    return 0


def _inputs(path: Path, x64: bool) -> np.ndarray:
    """Read the inputs and cast floats to the precision of the run."""
    arrays = read_npz(path)
    if "xs" not in arrays and len(arrays) != 1:
        held = ", ".join(arrays) or "nothing"
        raise ValueError(worded("inputs", "hold an array `xs`, or one array only", held))
    xs = arrays.get("xs", next(iter(arrays.values())))
    if np.issubdtype(xs.dtype, np.floating):
        xs = xs.astype(np.float64 if x64 else np.float32)
    return xs
