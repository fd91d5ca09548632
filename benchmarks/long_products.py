"""What do all singular values and all-lag norms of a long product cost?

Singular spectra against a plain QR scan on the same given matrices (its sums are not singular
values), many lags against the longest alone, and all-lag norms against one jacrev per lag.
"""

from _harness import is_small, race, slope, store
from _networks import jacobians, step, tanh_network, trajectory

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh

QUESTION = "Singular spectrum and all-lag norms, against a plain QR scan and one jacrev per lag"
SIZES = ((16, 1000, np.float64), (64, 300, np.float64), (64, 300, np.float32))
SIZES += ((256, 200, np.float64),)
LAG_SIZES, LAGGED = (32, 64, 128), (64, 320)  # T of the norms at n = 32; n, T of many lags
SMALL, SMALL_LAG_SIZES, SMALL_LAGGED = ((8, 40, np.float64), (8, 40, np.float32)), (4, 8), (8, 40)
SCAN, OURS, MANY_LAGS = "plain QR scan", "singular_spectrum", 8
NAN = float("nan")


def gaussian(n, steps):
    """Draw independent factors, entries of variance 1/n."""
    return np.random.default_rng(0).normal(size=(steps, n, n)) / np.sqrt(n)


def tanh(n, steps):
    """Give the Jacobians along a chaotic trajectory of the tanh network."""
    W, h0 = tanh_network(n, 1.5)
    return np.stack(list(jacobians(W, trajectory(W, h0, steps))))


def near_identity(n, steps):
    """Draw I + G/20, G of unit norm or so: a plain SVD of the product can still resolve it."""
    noise = np.random.default_rng(0).normal(size=(steps, n, n)) / np.sqrt(n)
    return np.eye(n) + 0.05 * noise


CHAINS = {"Gaussian": gaussian, "tanh network": tanh, "near identity": near_identity}


def by_svd(matrices):
    """Multiply in float64 and take the SVD: the truth where the product is well conditioned."""
    product = np.eye(matrices.shape[1])
    for matrix in np.asarray(matrices, np.float64):
        product = matrix @ product
    return np.log(np.linalg.svd(product, compute_uv=False))


def qr_scan(matrices):
    """The cheapest recursion that does not overflow; its sums are not singular values."""

    def body(frame, matrix):
        frame, upper = jnp.linalg.qr(matrix @ frame)
        return frame, jnp.log(jnp.abs(jnp.diagonal(upper)))

    start = jnp.eye(matrices.shape[1], dtype=matrices.dtype)
    return -jnp.sort(-jnp.sum(jax.lax.scan(body, start, matrices)[1], axis=0))


def rows(result, base, problem, errors, bars=(NAN, NAN), *, compiles=True):
    """Give one row for each contestant; `bars` are the largest bar and the resolved share.

    The first call says something only where it `compiles`, not after a chain of equal shape.
    """
    return [
        {
            **problem,
            "method": name,
            "seconds": entry["best"],
            "ratio": entry["best"] / result[base]["best"],
            "first call": entry["first"] if compiles else NAN,
            "error": errors.get(name, NAN),
            "largest error bar": bars[0] if name == OURS else NAN,
            "resolved": bars[1] if name == OURS else NAN,
            "slope in T": NAN,
        }
        for name, entry in result.items()
    ]


def spectra(name, n, steps, dtype, repeats=3):
    """Compare time on one chain; error against the SVD where that resolves, else the bars."""
    given = CHAINS[name](n, steps).astype(dtype)
    matrices, plain = jnp.asarray(given), jax.jit(qr_scan)
    result = race(
        {
            SCAN: lambda: plain(matrices),
            OURS: lambda: gh.singular_spectrum(matrices),
            "transition_norms": lambda: gh.transition_norms(matrices),
        },
        repeats,
    )
    spectrum, errors = result[OURS]["value"], {}
    if name == "near identity":
        exact = by_svd(given)
        found = {
            SCAN: result[SCAN]["value"],
            OURS: spectrum.log_values,
            "transition_norms": result["transition_norms"]["value"][-1:],
        }
        for method, value in found.items():
            value = np.asarray(value, np.float64)
            errors[method] = float(np.max(np.abs(value - exact[: value.size])))
    resolved = np.asarray(spectrum.resolved)
    largest = float(np.max(np.asarray(spectrum.error_bars)[resolved], initial=0.0))
    problem = {"chain": name, "dtype": np.dtype(dtype).name, "n": n, "T": steps}
    bars, compiles = (largest, float(resolved.mean())), name == next(iter(CHAINS))
    return rows(result, SCAN, problem, errors, bars, compiles=compiles)


def many_lags(n, steps):
    """Time several lags in one pass against the longest lag alone."""
    matrices = jnp.asarray(gaussian(n, steps))
    lags = [steps * i // MANY_LAGS for i in range(1, MANY_LAGS + 1)]
    result = race(
        {
            OURS: lambda: gh.singular_spectrum(matrices),
            f"{OURS}, {MANY_LAGS} lags": lambda: gh.singular_spectrum(matrices, lags=lags),
        },
        repeats=3,
    )
    alone, many = (np.asarray(entry["value"].log_values) for entry in result.values())
    errors = {f"{OURS}, {MANY_LAGS} lags": float(np.nanmax(np.abs(many[-1] - alone)))}
    problem = {"chain": "Gaussian", "dtype": "float64", "n": n, "T": steps}
    return rows(result, OURS, problem, errors)


def all_lags(steps, n):
    """Time all-lag norms against one jacrev per lag, the way a user would get them."""
    W, h0 = (jnp.asarray(a) for a in tanh_network(n, 1.5))

    def run(h, length):
        return jax.lax.scan(lambda h, _: (step(W, h), None), h, None, length=length)[0]

    states = gh.unroll(step, W, h0, length=steps).states
    jacobians = [
        jax.jit(lambda h, k=k: jnp.linalg.norm(jax.jacrev(lambda v: run(v, k))(h), ord=2))
        for k in range(1, steps + 1)
    ]
    chain = gh.jacobian_chain(step, W, h0, length=steps)
    one, ours = "one jacrev per lag", "transition_norms, all lags"
    result = race(
        {
            one: lambda: jnp.log(
                jnp.stack([f(states[steps - k]) for k, f in enumerate(jacobians, start=1)])
            ),
            ours: lambda: gh.transition_norms(chain),
        },
        repeats=3,
    )
    exact = np.asarray(result[one]["value"])
    error = float(np.max(np.abs(np.asarray(result[ours]["value"])[1:] - exact)))
    problem = {"chain": "tanh network", "dtype": "float64", "n": n, "T": steps}
    return rows(result, one, problem, {ours: error})


def with_slopes(rows):
    """Add the power of T that each method's seconds follow."""
    for name in {row["method"] for row in rows}:
        mine = [row for row in rows if row["method"] == name]
        power = slope([row["T"] for row in mine], [row["seconds"] for row in mine])
        for row in mine:
            row["slope in T"] = power
    return rows


def main() -> None:
    """Measure three chains and three sizes, several lags, and all lags at three lengths."""
    small = is_small(__doc__)
    jax.config.update("jax_enable_x64", True)
    found = [
        row
        for n, steps, dtype in (SMALL if small else SIZES)
        for name in CHAINS
        for row in spectra(name, n, steps, dtype)
    ]
    found += many_lags(*(SMALL_LAGGED if small else LAGGED))
    lengths, n = (SMALL_LAG_SIZES, 8) if small else (LAG_SIZES, 32)
    found += with_slopes([row for steps in lengths for row in all_lags(steps, n)])
    store("long_products", QUESTION, found, small=small)


if __name__ == "__main__":
    main()
