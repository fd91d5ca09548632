"""What do all log-norms ln ‖∂L/∂h_t‖ cost, against one plain backward pass?"""

from _harness import race, store

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh

QUESTION = "Gradient norms at every step, against jax.value_and_grad of the same loss"


def main() -> None:
    """Measure a GRU of 128 units over 1000 steps, batch 16, in float32."""
    n, inputs, steps, batch = 128, 8, 1000, 16
    cell = gh.cells.gru(n, inputs, dtype=np.float32)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (batch, steps, inputs), np.float32)
    h0 = cell.initial_state()

    def last(hs):
        return jnp.sum(jnp.square(hs[-1]))

    def mean_loss(params, pushes):
        def one(x, push):
            def body(h, inputs):
                h = cell.step(params, h, inputs[0]) + inputs[1]
                return h, h

            return last(jax.lax.scan(body, h0, (x, push))[1])

        return jnp.sum(jax.vmap(one)(xs, pushes))

    zeros = jnp.zeros((batch, steps, n), np.float32)
    training = jax.jit(jax.value_and_grad(lambda p: mean_loss(p, zeros)))
    by_pushes = jax.jit(jax.grad(mean_loss, argnums=1))
    ours = jax.jit(
        jax.vmap(lambda x: gh.gradient_profile(cell.step, params, h0, x, last).log_norms)
    )
    result = race(
        {
            "value_and_grad": lambda: training(params),
            "gradient by pushes on every state": lambda: by_pushes(params, zeros),
            "gradient_profile": lambda: ours(xs),
        }
    )
    pushes = np.asarray(result["gradient by pushes on every state"]["value"], np.float64)
    plain = np.linalg.norm(pushes, axis=2)
    profile = np.asarray(result["gradient_profile"]["value"])[:, 1:]
    usable = plain > 1e-30  # float32 underflows further back
    error = float(np.max(np.abs(profile - np.log(np.where(usable, plain, 1)))[usable]))
    base = result["value_and_grad"]["best"]
    rows = [
        {
            "method": name,
            "seconds": entry["best"],
            "ratio": entry["best"] / base,
            "first call": entry["first"],
            "steps resolved": int(usable.any(axis=0).sum())
            if name != "gradient_profile"
            else steps,
            "largest difference (nats)": error if name == "gradient_profile" else 0.0,
        }
        for name, entry in result.items()
    ]
    store("gradient_profile", QUESTION, rows)


if __name__ == "__main__":
    main()
