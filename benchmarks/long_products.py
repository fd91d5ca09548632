"""What do all singular values and all-lag norms of a long product cost?"""

from _harness import race, store

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh

QUESTION = "Singular spectrum and all-lag norms, against a plain QR scan and one jacrev per lag"


def qr_scan(matrices):
    """The cheapest recursion that does not overflow; its sums are not singular values."""

    def body(frame, matrix):
        frame, upper = jnp.linalg.qr(matrix @ frame)
        return frame, jnp.log(jnp.abs(jnp.diagonal(upper)))

    return jnp.sum(jax.lax.scan(body, jnp.eye(matrices.shape[1]), matrices)[1], axis=0)


def spectra(n, steps):
    """Compare on the chain I + 0.02 G, whose product a plain SVD can still resolve."""
    rng = np.random.default_rng(0)
    matrices = jnp.asarray(np.eye(n) + 0.02 * rng.normal(size=(steps, n, n)))
    product = np.eye(n)
    for matrix in np.asarray(matrices):
        product = matrix @ product
    exact = np.log(np.linalg.svd(product, compute_uv=False))
    plain = jax.jit(qr_scan)
    result = race(
        {
            "plain QR scan": lambda: plain(matrices),
            "singular_spectrum": lambda: gh.singular_spectrum(matrices).log_values,
            "transition_norms": lambda: gh.transition_norms(matrices),
        },
        repeats=3,
    )
    base = result["plain QR scan"]["best"]
    errors = {
        "plain QR scan": np.sort(np.asarray(result["plain QR scan"]["value"]))[::-1] - exact,
        "singular_spectrum": np.asarray(result["singular_spectrum"]["value"]) - exact,
        "transition_norms": np.asarray(result["transition_norms"]["value"])[-1:] - exact[:1],
    }
    return [
        {
            "n": n,
            "T": steps,
            "method": name,
            "seconds": entry["best"],
            "ratio": entry["best"] / base,
            "first call": entry["first"],
            "error": float(np.max(np.abs(errors[name]))),
        }
        for name, entry in result.items()
    ]


def all_lags(steps, n=16):
    """Time all-lag norms against one jacrev per lag, the way a user would get them."""
    W = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)) / np.sqrt(n))
    h0 = jnp.zeros(n)

    def run(h, length):
        return jax.lax.scan(lambda h, _: (jnp.tanh(W @ h + 0.1), None), h, None, length=length)[0]

    states = gh.unroll(lambda W, h, x: jnp.tanh(W @ h + 0.1), W, h0, length=steps).states
    jacobians = [
        jax.jit(lambda h, k=k: jnp.linalg.norm(jax.jacrev(lambda v: run(v, k))(h), ord=2))
        for k in range(1, steps + 1)
    ]
    chain = gh.jacobian_chain(lambda W, h, x: jnp.tanh(W @ h + 0.1), W, h0, length=steps)
    result = race(
        {
            "one jacrev per lag": lambda: jnp.log(
                jnp.stack([f(states[steps - k]) for k, f in enumerate(jacobians, start=1)])
            ),
            "transition_norms": lambda: gh.transition_norms(chain),
        },
        repeats=2,
    )
    exact = np.asarray(result["one jacrev per lag"]["value"])
    ours = np.asarray(result["transition_norms"]["value"])[1:]
    usable = np.isfinite(exact)
    return [
        {
            "n": n,
            "T": steps,
            "method": f"{name}, all lags",
            "seconds": entry["best"],
            "ratio": entry["best"] / result["one jacrev per lag"]["best"],
            "first call": entry["first"],
            "error": float(np.max(np.abs(ours - exact)[usable])),
        }
        for name, entry in result.items()
    ]


def main() -> None:
    """Measure three sizes in float64, and two lengths for all lags."""
    jax.config.update("jax_enable_x64", True)
    rows = [row for n, steps in ((16, 1000), (64, 300), (128, 100)) for row in spectra(n, steps)]
    rows += [row for steps in (32, 64) for row in all_lags(steps)]
    store("long_products", QUESTION, rows)


if __name__ == "__main__":
    main()
