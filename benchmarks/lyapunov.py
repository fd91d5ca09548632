"""What does a Lyapunov spectrum cost, against what a user would write?"""

from _harness import race, store

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh

QUESTION = "Full spectrum and leading exponent of a tanh network, against loops and lyapax"


def numpy_loop(matrices):
    """QR at every step in NumPy, on matrices that are already there: the oracle."""
    frame, total = np.eye(matrices.shape[-1]), 0.0
    for matrix in matrices:
        frame, upper = np.linalg.qr(matrix @ frame)
        total = total + np.log(np.abs(np.diag(upper)))
    return np.sort(total)[::-1] / len(matrices)


def jax_loop(step, h0, steps):
    """What a JAX user writes: jacfwd, product and QR inside a scan."""

    def body(carry, _):
        h, frame = carry
        frame, upper = jnp.linalg.qr(jax.jacfwd(step)(h) @ frame)
        return (step(h), frame), jnp.log(jnp.abs(jnp.diagonal(upper)))

    return jax.lax.scan(body, (h0, jnp.eye(len(h0))), None, length=steps)[1].mean(0)


def lyapax_run(step, steps, k):
    """The peer package, jitted by the caller; None where it is not installed."""
    try:
        import lyapax
    except ImportError:
        return None
    return jax.jit(
        lambda h: lyapax.lyapunov_spectrum(step, h, 1.0, steps, k=k, renorm_every=1).exponents
    )


def measure(n, steps):
    """Measure one size; exponents of all methods are compared with the NumPy loop."""
    rng = np.random.default_rng(0)
    cell = gh.cells.elman(n, 0)
    params = {"W": jnp.asarray(3 * rng.normal(size=(n, n)) / np.sqrt(n)), "b": jnp.zeros(n)}
    h0 = jnp.asarray(np.tanh(rng.normal(size=n)))
    h0 = gh.unroll(cell.step, params, h0, length=500).states[-1]
    matrices = np.asarray(gh.jacobian_chain(cell.step, params, h0, length=steps).matrices())

    def step(h):
        return cell.step(params, h, None)

    def ours(k):
        return jax.jit(
            lambda h: (
                gh.lyapunov_spectrum(
                    gh.jacobian_chain(cell.step, params, h, length=steps), k
                ).exponents
            )
        )

    product = jax.jit(
        lambda a: jax.lax.scan(lambda f, _: (a @ f / 3.0, None), a, None, length=steps)[0]
    )
    naive, full, leading = jax.jit(lambda h: jax_loop(step, h, steps)), ours(None), ours(1)
    contestants = {
        "numpy QR loop": lambda: numpy_loop(matrices),
        "naive jax loop": lambda: naive(h0),
        "gradhorizon, all": lambda: full(h0),
        "gradhorizon, k = 1": lambda: leading(h0),
        "floor: matrix products": lambda: product(params["W"]),
    }
    for k in (n, 1):
        peer = lyapax_run(step, steps, k)
        if peer is not None:
            contestants[f"lyapax, k = {k}"] = lambda peer=peer: peer(h0)
    result = race(contestants, repeats=3)
    oracle, floor = result["numpy QR loop"]["value"], result["floor: matrix products"]["best"]
    rows = []
    for name, entry in result.items():
        error = float("nan")
        if not name.startswith(("lyapax", "floor")):
            value = np.sort(np.asarray(entry["value"]))[::-1]
            error = float(np.max(np.abs(value - oracle[: value.size])))
        rows.append(
            {
                "n": n,
                "T": steps,
                "method": name,
                "seconds": entry["best"],
                "in matrix products": entry["best"] / floor,
                "first call": entry["first"],
                "error": error,
            }
        )
    return rows


def main() -> None:
    """Measure three sizes in float64."""
    jax.config.update("jax_enable_x64", True)
    rows = [row for n, steps in ((32, 1000), (64, 1000), (256, 200)) for row in measure(n, steps)]
    store("lyapunov", QUESTION, rows)


if __name__ == "__main__":
    main()
