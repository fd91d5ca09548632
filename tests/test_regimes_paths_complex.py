"""Paths and time constants of complex states, against products of complex matrices in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

N, T = 3, 9


class Memory:
    """A complex memory with declared gates, read by a real part without: z' = g z + c x, r'."""

    def __call__(self, params, h, x):
        # the phase of what comes in changes too: else conjugate gates would give the same norms
        phase = 0.3 * jnp.exp(3j * x.astype(complex))
        memory = gates_of(params, x) * h["z"] + phase * h["r"].astype(complex)
        return {"r": jnp.tanh(params["W"] @ h["r"] + h["z"].real), "z": memory}

    def state_gates(self, params, _h, x):
        return {"r": None, "z": gates_of(params, x)}


def gates_of(params, x):
    return params["g"] * jnp.exp(1j * x.astype(complex))


def network():
    rng = np.random.default_rng(3)
    params = {
        "W": jnp.asarray(rng.normal(size=(N, N)) / 2),
        "g": jnp.asarray([0.9, 0.5j, -0.7 + 0.1j]),
    }
    h0 = {"r": jnp.zeros(N), "z": jnp.asarray(rng.normal(size=N) + 1j * rng.normal(size=N))}
    return params, h0, jnp.asarray(rng.normal(size=(T, N)))


def rms(block):
    return np.log(np.linalg.norm(block) / np.sqrt(block.shape[0]))


def as_pairs(diagonal):
    """Write a complex diagonal as a matrix on (re, im)."""
    real, imaginary = np.diag(diagonal.real), np.diag(diagonal.imag)
    return np.block([[real, -imaginary], [imaginary, real]])


def test_time_constants_count_the_modulus_of_the_gates():
    params, h0, xs = network()
    paths = gh.state_paths(gh.jacobian_chain(Memory(), params, h0, xs), lags=[T])
    assert paths.sizes == (N, 2 * N)
    assert paths.gated == (False, True)
    exact = -1 / np.log(np.abs(np.asarray(params["g"])))  # |exp(ix)| = 1: phases do not count
    assert np.allclose(paths.units("z"), np.tile(exact, 2), rtol=1e-13, atol=0)
    assert "time constant of z in steps, by its gate" in str(paths)


def test_direct_path_of_a_gate_is_the_complex_product():
    params, h0, xs = network()
    paths = gh.state_paths(gh.jacobian_chain(Memory(), params, h0, xs), lags=[T])
    kept = np.prod(np.asarray(params["g"]) * np.exp(1j * np.asarray(xs)), axis=0)
    assert abs(float(paths.path("z", "z")[0][0]) - rms(as_pairs(kept))) <= 1e-13
    # the detours through r see the real part alone: the whole block is another one
    assert abs(float(paths.path("z", "z")[1][0]) - rms(as_pairs(kept))) > 1e-3


def test_a_crossing_meets_the_phases_of_the_gates():
    """∂z_T/∂r with one crossing: Σ_s g_T … g_{s+1} J_s Π before; the phases interfere."""
    params, h0, xs = network()
    chain = gh.jacobian_chain(Memory(), params, h0, xs)
    J = np.asarray(chain.matrices())
    gates = np.asarray(params["g"]) * np.exp(1j * np.asarray(xs))
    total = np.zeros((2 * N, N))
    for s in range(T):
        after = as_pairs(np.prod(gates[s + 1 :], axis=0))
        before = np.eye(N)
        for t in range(s):
            before = J[t][:N, :N] @ before
        total += after @ J[s][N:, :N] @ before
    direct = float(gh.state_paths(chain, lags=[T]).path("z", "r")[0][0])
    assert abs(direct - rms(total)) <= 1e-12
    without = np.zeros((2 * N, N))
    for s in range(T):
        before = np.eye(N)
        for t in range(s):
            before = J[t][:N, :N] @ before
        without += as_pairs(np.prod(np.abs(gates[s + 1 :]), axis=0)) @ J[s][N:, :N] @ before
    assert abs(direct - rms(without)) > 0.01


def test_without_declaration_a_complex_entry_counts_what_is_linear_in_it():
    """z' = a z + b z̄ turns and stretches; |∂z'/∂z| = |a|, the diagonal of J alone is Re(a ± b)."""
    a, b = jnp.asarray([0.8j, 0.3 - 0.4j]), jnp.asarray([0.1, 0.2j])

    def step(_params, z, _x):
        return a * z + b * jnp.conj(z)

    chain = gh.jacobian_chain(step, 0.0, jnp.ones(2, complex), length=5)
    paths = gh.state_paths(chain)
    exact = -1 / np.log(np.array([0.8, 0.5]))
    assert np.allclose(paths.time_constants, np.tile(exact, 2), rtol=1e-13, atol=0)
    assert paths.names == ("h0",)
    params, h0, xs = network()
    silent = gh.state_paths(gh.jacobian_chain(Memory().__call__, params, h0, xs), lags=[T])
    declared = gh.state_paths(gh.jacobian_chain(Memory(), params, h0, xs), lags=[T])
    assert np.allclose(silent.self_rates, declared.self_rates, rtol=1e-12, atol=1e-14)


def test_real_gates_of_a_complex_leaf_keep_its_phase():
    class Fading:
        def __call__(self, _params, z, _x):
            return 0.5 * z

        def state_gates(self, _params, z, _x):
            return {"z": jnp.full(z.shape, 0.5)}

    chain = gh.jacobian_chain(Fading(), 0.0, jnp.ones(2, complex), length=4)
    paths = gh.state_paths(chain, lags=[4])
    for logs in paths.path("z", "z"):
        assert abs(float(logs[0]) - rms(0.5**4 * np.eye(4))) <= 1e-14
    parts = gh.state_paths(chain, lags=[4], blocks={"re": 2, "im": 2})
    assert parts.path("re", "im")[1].tolist() == [-np.inf]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_precision_and_batches(dtype):
    cell = gh.cells.lru(2, 1, dtype=jnp.finfo(dtype).dtype)
    xs = jnp.ones((6, 1), jnp.finfo(dtype).dtype)

    def rates(params):
        chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
        return gh.state_paths(chain).self_rates

    params = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 3))
    batch = jax.jit(jax.vmap(rates))(params)
    exact = np.tile(-np.exp(np.asarray(params["nu"], float)), (1, 2))
    assert batch.dtype == xs.dtype
    assert np.allclose(batch, exact, rtol=20 * jnp.finfo(dtype).eps, atol=jnp.finfo(dtype).eps)


def test_a_complex_gate_of_a_real_leaf_is_refused():
    class Wrong:
        def __call__(self, _params, h, _x):
            return h

        def state_gates(self, _params, h, _x):
            return {"h": h.astype(complex)}

    chain = gh.jacobian_chain(Wrong(), 0.0, jnp.ones(2), length=2)
    with pytest.raises(ValueError, match="only a complex leaf can have a complex one"):
        gh.state_paths(chain)
