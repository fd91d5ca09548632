"""Is any singular value ever outside its error bar?

In float32 the float64 spectrum of the same matrices is the truth, where its own bars are a hundred
times smaller; in float64 dyadic chains have exact answers, sorted ones of a well-conditioned
problem, unsorted ones of an ill-conditioned problem at the edge of what can be resolved.
"""

import sys
from pathlib import Path

from _harness import is_small, store
from _networks import jacobians, tanh_network, trajectory

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chains import dyadic, generic

QUESTION = "Singular values outside their error bars, among all that are called resolved"
SIZES, SEEDS = ((5, 20), (8, 120), (12, 60), (16, 200)), 32  # (n, T) of the generic chains
GENERIC = ("gaussian", "tied", "near identity", "orthogonal", "triangular", "hourglass")
DYADIC = ((16, 50), (16, 100), (16, 150), (16, 200), (16, 300), (64, 100))


def tanh(n, steps, seed):
    """Give the Jacobians along a trajectory of the tanh network."""
    W, h0 = tanh_network(n, 1.5, settle=100, seed=seed)
    return np.stack(list(jacobians(W, trajectory(W, h0, steps))))


def ill(n, steps, seed, digits=3):
    """Draw factors with a condition number of 10^digits each."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(steps, n, n)))[0] for _ in range(2))
    return left * np.logspace(0, -digits, n) @ right


KINDS = {kind: lambda n, t, s, kind=kind: generic(kind, n, t, seed=s) for kind in GENERIC}
KINDS |= {"tanh network": tanh, "condition 1e3": ill}


@jax.jit
def spectra(chains):
    """Compute many spectra of one shape, one after the other."""

    def one(chain):
        spectrum = gh.singular_spectrum(chain, throw=False)
        return spectrum.log_values, spectrum.error_bars, spectrum.resolved

    return jax.lax.map(one, chains)


def row(kind, dtype, n, steps, values, bars, resolved, exact):
    """Count the resolved values, and those that lie outside their bars."""
    error = np.abs(values.astype(np.float64) - exact)
    ratio = error[resolved] / bars[resolved]
    return {
        "chain": kind,
        "dtype": dtype,
        "n": n,
        "T": steps,
        "values": int(resolved.size),
        "resolved": int(resolved.sum()),
        "outside": int((ratio > 1).sum()),
        "largest error/bar": float(np.max(ratio, initial=0.0)),
        "median bar/error": float(np.median(1 / np.maximum(ratio, 1e-9))) if ratio.size else 0.0,
        "largest error": float(np.max(error[resolved], initial=0.0)),
    }


def in_float32(kind, n, steps, seeds):
    """Judge float32 by float64, where that is a hundred times more certain."""
    chains = np.stack([KINDS[kind](n, steps, 1000 + s) for s in range(seeds)]).astype(np.float32)
    values, bars, resolved = map(np.asarray, spectra(jnp.asarray(chains)))
    exact, certain, known = map(np.asarray, spectra(jnp.asarray(chains.astype(np.float64))))
    usable = resolved & known & (certain < 0.01 * np.where(resolved, bars, 1))
    return row(kind, "float32", n, steps, values, bars, usable, exact)


def dyadic_chains(n, steps, seeds, *, ordered):
    """Judge float64 by integers."""
    pairs = [dyadic(n, steps, seed=s, ordered=ordered) for s in range(seeds)]
    values, bars, resolved = map(np.asarray, spectra(jnp.asarray(np.stack([c for c, _ in pairs]))))
    kind = "dyadic, sorted" if ordered else "dyadic, unsorted"
    exact = np.stack([e for _, e in pairs])
    return row(kind, "float64", n, steps, values, bars, resolved, exact)


def main() -> None:
    """Count over all kinds; the last row is the sum."""
    small = is_small(__doc__)
    jax.config.update("jax_enable_x64", True)
    sizes, seeds, dyadics = ((5, 20),), 3, ((16, 50),)
    if not small:
        sizes, seeds, dyadics = SIZES, SEEDS, DYADIC
    rows = [in_float32(kind, n, t, seeds) for n, t in sizes for kind in KINDS]
    for n, t in dyadics:
        count = seeds if n == 16 else max(seeds // 4, 1)
        rows += [dyadic_chains(n, t, count, ordered=flag) for flag in (True, False)]
    total = {"chain": "all", "dtype": "both", "n": 0, "T": 0}
    total |= {key: sum(r[key] for r in rows) for key in ("values", "resolved", "outside")}
    worst = {key: max(r[key] for r in rows) for key in ("largest error/bar", "largest error")}
    total |= {"largest error/bar": worst["largest error/bar"]}
    total |= {"median bar/error": float(np.median([r["median bar/error"] for r in rows]))}
    total |= {"largest error": worst["largest error"]}
    store("error_bars", QUESTION, [*rows, total], small=small)


if __name__ == "__main__":
    main()
