"""What do the leading k Lyapunov exponents of a large network cost, against the bare products?

The floor pushes k columns through T given matrices; a run from h0 also needs the trajectory,
which costs as much as one more column and dominates at k = 1.
"""

from _harness import is_small, race, store
from _networks import Referee, orthogonal, products, step, table, tanh_network, trajectory
from _peers import lyapax_spectrum, versions

import jax
import jax.numpy as jnp

import gradhorizon as gh

QUESTION = "Leading k exponents of a tanh network: gradhorizon, lyapax, products of N×N by N×k"
GAIN = 1.5
SIZES = ((1024, 1, 200), (1024, 8, 200), (1024, 64, 50))  # n, k, T
SMALL = ((64, 1, 20), (64, 8, 20))
FLOOR, PEER = "floor: products", "lyapax, from h0"


def from_state(steps, k):
    """Compile the whole way of the package: unroll, linearize, spectrum."""

    def run(W, h0):
        chain = gh.jacobian_chain(step, W, h0, length=steps)
        return gh.lyapunov_spectrum(chain, k).exponents, chain.final

    return jax.jit(run)


def products_and_states(steps):
    """Compile the floor plus a trajectory, with one matrix in the caches for both."""

    def run(A, frame, h0):
        def body(carry, _):
            frame, h = carry
            return (A @ frame, step(A, h)), None

        return jax.lax.scan(body, (frame, h0), None, length=steps)[0]

    return jax.jit(run)


def measure(n, k, steps):
    """Race all contestants for one k."""
    W, h0 = tanh_network(n, GAIN)
    at = jnp.asarray(W), jnp.asarray(h0)
    chain = gh.jacobian_chain(step, *at, length=steps)
    A, frame = orthogonal(n), jnp.eye(n, k)
    floor, longer, peer = products(steps), products_and_states(steps), lyapax_spectrum(steps, k)
    given = jax.jit(lambda chain: (gh.lyapunov_spectrum(chain, k).exponents, chain.final))
    whole = from_state(steps, k)
    contestants = {
        "gradhorizon, chain given": lambda: given(chain),
        "gradhorizon, from h0": lambda: whole(*at),
        FLOOR: lambda: floor(A, frame),
        "floor and the trajectory": lambda: longer(A, frame, at[1]),
    }
    if peer is not None:
        contestants[PEER] = lambda: peer(*at)
    result = race(contestants, repeats=5)
    problem = {"n": n, "k": k, "T": steps, "gain": GAIN}
    return table(result, Referee(W, k), trajectory(W, h0, steps), problem, FLOOR, PEER)


def main() -> None:
    """Measure k = 1, 8 and 64 in float64."""
    small = is_small(__doc__)
    jax.config.update("jax_enable_x64", True)
    rows = [row for sizes in (SMALL if small else SIZES) for row in measure(*sizes)]
    store("leading", QUESTION, rows, small=small, peers=versions("lyapax"))


if __name__ == "__main__":
    main()
