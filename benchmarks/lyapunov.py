"""What does a full Lyapunov spectrum cost, against lyapax, torch, and what a user would write?

All start at the same state with the identity as frame. Gain 3 is the hard case: many units are
saturated, and the frame's condition number grows by 11 to 15 nats per step.
"""

import contextlib

from _harness import is_small, race, store
from _networks import (
    Referee,
    jacobians,
    orthogonal,
    products,
    qr_loop,
    step,
    table,
    tanh_network,
    trajectory,
)
from _peers import TorchLoop, lyapax_spectrum, versions

import jax
import jax.numpy as jnp

import gradhorizon as gh

QUESTION = "Full Lyapunov spectrum of a tanh network: gradhorizon, lyapax, torch, loops, products"
GAINS = (1.5, 3.0)
SIZES = ((64, 1000), (256, 200), (512, 64))  # n, T: the slowest takes about 2 s
SMALL = ((16, 50), (32, 20))
FLOOR, PEER = "floor: matrix products", "lyapax"


def ours(steps, every):
    """Compile the whole way of the package: unroll, linearize, spectrum."""

    def run(W, h0):
        chain = gh.jacobian_chain(step, W, h0, length=steps)
        spectrum = gh.lyapunov_spectrum(chain, orthonormalize_every=every)
        return spectrum.exponents, chain.final

    return jax.jit(run)


def naive(steps):
    """Compile what a JAX user writes: jacfwd, product and QR inside a scan."""

    def run(W, h0):
        def body(carry, _):
            h, frame = carry
            frame, upper = jnp.linalg.qr(jax.jacfwd(lambda v: step(W, v))(h) @ frame)
            h = step(W, h)
            return (h, frame), (jnp.log(jnp.abs(jnp.diagonal(upper))), h)

        _, (logs, states) = jax.lax.scan(body, (h0, jnp.eye(len(h0))), None, length=steps)
        return logs.mean(0), states

    return jax.jit(run)


def measure(n, gain, steps, *, with_torch):
    """Race all contestants on one network."""
    W, h0 = tanh_network(n, gain)
    at, states = (jnp.asarray(W), jnp.asarray(h0)), trajectory(W, h0, steps)
    given = list(jacobians(W, states))
    A, floor, peer = orthogonal(n), products(steps), lyapax_spectrum(steps, n)
    compiled = {
        "gradhorizon": ours(steps, "auto"),
        "gradhorizon, orthonormalize_every=1": ours(steps, 1),
        "naive JAX": naive(steps),
    }
    if peer is not None:
        compiled[PEER] = peer
    contestants = {name: lambda run=run: run(*at) for name, run in compiled.items()}
    contestants["numpy QR loop, matrices given"] = lambda: (qr_loop(given), states)
    contestants[FLOOR] = lambda: floor(A, A)
    with TorchLoop(W, h0, steps) if with_torch else contextlib.nullcontext() as torch_loop:
        if torch_loop is not None:
            contestants["torch"] = torch_loop
        result = race(contestants, repeats=3)
        if torch_loop is not None:
            result["torch"]["value"] = result["torch"]["value"], torch_loop.states
    problem = {"n": n, "gain": gain, "T": steps}
    return table(result, Referee(W), states, problem, FLOOR, PEER)


def main() -> None:
    """Measure three sizes and two gains in float64."""
    small = is_small(__doc__)
    jax.config.update("jax_enable_x64", True)
    peers = versions("lyapax", "torch")
    rows = []
    for n, steps in SMALL if small else SIZES:
        for gain in GAINS:
            rows += measure(n, gain, steps, with_torch="torch" in peers)
    store("lyapunov", QUESTION, rows, small=small, peers=peers)


if __name__ == "__main__":
    main()
