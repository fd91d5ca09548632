"""Complex states: derivatives are those of (Re, Im), exact for steps that are not holomorphic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

N, T = 3, 6


def coupled(params, z, x):
    """A step that is not holomorphic: it sees the conjugate and the modulus."""
    a = params["W"] @ z + params["V"] @ jnp.conj(z) + x.astype(z.dtype)
    return a / jnp.sqrt(1 + jnp.abs(a) ** 2).astype(z.dtype)


def coupled_in_pairs(params, pair, x):
    """The same in real numbers, written by hand."""
    re, im = pair[:N], pair[N:]
    w, v = params["W"], params["V"]
    re, im = (
        (w.real + v.real) @ re + (v.imag - w.imag) @ im + x,
        (w.imag + v.imag) @ re + (w.real - v.real) @ im,
    )
    size = jnp.sqrt(1 + re**2 + im**2)
    return jnp.concatenate([re / size, im / size])


def network(dtype=np.complex128):
    keys = jax.random.split(jax.random.key(0), 4)
    real = np.dtype(jnp.finfo(dtype).dtype)
    params = {
        "W": jax.random.normal(keys[0], (N, N), dtype),
        "V": jax.random.normal(keys[1], (N, N), dtype) / 2,
    }
    z = jax.random.normal(keys[2], (N,), dtype)
    return params, z, jax.random.normal(keys[3], (T, N), real)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_chain_is_that_of_the_real_pairs(mode, dtype):
    params, z, xs = network(dtype)
    real = xs.dtype
    chain = gh.jacobian_chain(coupled, params, z, xs, mode=mode)
    pair = jnp.concatenate([z.real, z.imag])
    expected = gh.jacobian_chain(coupled_in_pairs, params, pair, xs, mode=mode)
    assert (chain.size, chain.dtype) == (2 * N, real)
    np.testing.assert_allclose(
        chain.matrices(), expected.matrices(), atol=100 * jnp.finfo(real).eps
    )


def test_the_complex_derivative_would_be_wrong():
    params, z, xs = network()
    wrong = jax.jacfwd(coupled, 1, holomorphic=True)(params, z, xs[0])
    right = gh.jacobian_chain(coupled, params, z, xs).matrices()[0]
    as_pairs = jnp.block([[wrong.real, -wrong.imag], [wrong.imag, wrong.real]])
    assert jnp.abs(as_pairs - right).max() > 0.1


def test_gradients_are_those_of_automatic_differentiation():
    params, z, xs = network()
    weights = jax.random.normal(jax.random.key(9), (N,), np.complex128)

    def loss(states):
        return jnp.sum(jnp.abs(states[-1] * weights) ** 2) + states[2].imag.sum()

    def of_start(start):
        return loss(gh.unroll(coupled, params, start, xs).states[1:])

    profile = gh.gradient_profile(coupled, params, z, xs, loss)
    np.testing.assert_allclose(
        profile.log_norms[0], jnp.log(jnp.linalg.norm(jax.grad(of_start)(z))), rtol=1e-12
    )
    # a cotangent in the convention of jax.grad
    states = gh.unroll(coupled, params, z, xs).states

    def last(final):
        return jnp.sum(jnp.abs(final * weights) ** 2) + final.imag.sum()

    def from_start(start):
        return last(gh.unroll(coupled, params, start, xs).states[-1])

    chain = gh.jacobian_chain(coupled, params, z, xs)
    pulled = gh.backpropagate(chain, jax.grad(last)(states[-1]))
    expected = jnp.log(jnp.linalg.norm(jax.grad(from_start)(z)))
    np.testing.assert_allclose(pulled.log_norms[0], expected, rtol=1e-12)


def test_counter_and_key_travel_beside_a_complex_state():
    def step(params, h, x):
        z, count, key = h
        noise = jax.random.normal(jax.random.fold_in(key, count), z.shape)
        return params * z + (noise + x).astype(z.dtype), count + 1, key

    h0 = (jnp.zeros(5, complex), jnp.asarray(0), jax.random.key(3))
    lam = jnp.asarray(0.9 * np.exp(1j * np.linspace(0, 2, 5)))
    chain = gh.jacobian_chain(step, lam, h0, jnp.ones((40, 5)))
    values = jnp.linalg.svd(chain.matrices(), compute_uv=False)
    np.testing.assert_allclose(values, np.full((40, 10), 0.9), rtol=1e-14)
    spectrum = gh.lyapunov_spectrum(chain)
    np.testing.assert_allclose(spectrum.exponents, np.full(10, np.log(0.9)), atol=1e-12)


def test_verdicts_on_a_complex_state():
    params, z, _ = network()
    xs = jax.random.normal(jax.random.key(1), (60, N))
    pair = jnp.concatenate([z.real, z.imag])
    complex_one = gh.diagnose(coupled, params, z, xs)
    real_one = gh.diagnose(coupled_in_pairs, params, pair, xs)
    assert complex_one.regime == real_one.regime
    np.testing.assert_allclose(complex_one.rate, real_one.rate, rtol=1e-10)
    np.testing.assert_array_equal(complex_one.alive, real_one.alive)
    assert all(check.passed for check in complex_one.checks)
    assert not jnp.isnan(gh.predict(coupled, params, z, xs[:30]).rate)


def test_nan_in_an_imaginary_part_is_named():
    params, z, xs = network()

    def step(params, z, x):
        return coupled(params, z, x) + jnp.where(x[0] == xs[3, 0], 1j * jnp.nan, 0)

    assert int(gh.unroll(step, params, z, xs).first_bad_step) == 4
    with pytest.raises(gh.NumericalError, match="4"):
        gh.diagnose(step, params, z, xs)


@pytest.mark.usefixtures("unchecked_types")
def test_precisions_are_compared_through_complex_types():
    params, z, xs = network()
    with pytest.raises(ValueError, match=r"`h0` must have the precision of `params\['V'\]`"):
        gh.unroll(coupled, params, z.astype(np.complex64), xs)
    with pytest.raises(ValueError, match=r"`h0\[1\]` must be finite"):
        gh.unroll(coupled, params, z.at[1].set(complex(0, np.inf)), xs)
