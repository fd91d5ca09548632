"""How do seconds and memory grow with the length T of a chain, and with its size N?

Every point runs in a process of its own, so that the peak resident memory is its own too. The
network is compiled ahead of time and then run: seconds never contain compilation. Powers are
least squares on logarithms, in T over all lengths, in N from 128 on, where products dominate.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from _harness import slope, store
from _networks import step, tanh_network

import jax
import jax.numpy as jnp

import gradhorizon as gh

QUESTION = "Seconds and peak resident memory of the analyses, against T at N = 64 and against N"
GAIN, LEADING = 1.5, 8
LYAPUNOV, SINGULAR = f"lyapunov_spectrum, k = {LEADING}", "singular_spectrum"
ALL = "lyapunov_spectrum, all"
LENGTHS = {
    LYAPUNOV: (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    SINGULAR: (1_000, 3_000, 10_000),
}
SIZES = {LYAPUNOV: (32, 64, 128, 256, 512, 1024), ALL: (32, 64, 128, 256, 512, 1024)}
FIXED_N, FIXED_T, LARGE_N = 64, 20, 128
SMALL_LENGTHS = {LYAPUNOV: (100, 1_000), SINGULAR: (20, 40)}
SMALL_SIZES, SMALL_N = {ALL: (8, 16)}, 8


def analysis(method, steps):
    """Give the analysis from h0 on as a function of W and h0."""

    def run(W, h0):
        chain = gh.jacobian_chain(step, W, h0, length=steps)
        if method == SINGULAR:
            return gh.singular_spectrum(chain).log_values
        return gh.lyapunov_spectrum(chain, LEADING if method == LYAPUNOV else None).exponents

    return run


def point(method, n, steps):
    """Measure one point in this process: compile, run up to five times within two seconds."""
    jax.config.update("jax_enable_x64", True)
    W, h0 = (jnp.asarray(a) for a in tanh_network(n, GAIN))
    began = time.perf_counter()
    run = jax.jit(analysis(method, steps)).lower(W, h0).compile()
    compiling, seconds = time.perf_counter() - began, []
    while len(seconds) < 5 and sum(seconds) < 2:
        began = time.perf_counter()
        jax.block_until_ready(run(W, h0))
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak /= 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB here
    return {"seconds": min(seconds), "compiling": compiling, "peak RSS (MiB)": peak}


def measure(method, n, steps):
    """Measure one point in a fresh process.

    Linux hands the parent's peak down to a child, so this process must stay the smaller one:
    it imports JAX and computes nothing.
    """
    command = [sys.executable, __file__, "--point", json.dumps([method, n, steps])]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"method": method, "n": n, "T": steps, **json.loads(found.stdout)}


def series(points, variable, above=0):
    """Measure points along one variable; add its power, and the memory beyond the first."""
    rows = [measure(*p) for p in points]
    fitted = [row for row in rows if row[variable] >= above]
    power = slope([row[variable] for row in fitted], [row["seconds"] for row in fitted])
    for row in rows:
        row["along"], row["power"] = variable, power
        row["beyond the first (MiB)"] = row["peak RSS (MiB)"] - rows[0]["peak RSS (MiB)"]
    return rows


def main() -> None:
    """Measure all series in float64, or one point for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="toy sizes; nothing is stored")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        sys.stdout.write(json.dumps(point(*json.loads(options.point))))
        return
    jax.config.update("jax_enable_x64", True)
    lengths, sizes = (LENGTHS, SIZES) if not options.small else (SMALL_LENGTHS, SMALL_SIZES)
    n, large = (FIXED_N, LARGE_N) if not options.small else (SMALL_N, 0)
    rows = []
    for method, steps in lengths.items():
        rows += series([(method, n, t) for t in steps], "T")
    for method, widths in sizes.items():
        rows += series([(method, width, FIXED_T) for width in widths], "n", large)
    store("growth", QUESTION, rows, small=options.small)


if __name__ == "__main__":
    main()
