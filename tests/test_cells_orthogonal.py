"""Orthogonal and unitary cells: the matrix, exponents exactly zero, and modReLU at its corner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import gradhorizon as gh
from gradhorizon.cells.orthogonal import modrelu, orthogonal_matrix, unitary_matrix

EPS = np.finfo(float).eps
BUILD = {"orthogonal": gh.cells.orthogonal_rnn, "unitary": gh.cells.unitary_rnn}
MATRIX = {"orthogonal": orthogonal_matrix, "unitary": unitary_matrix}


def distance_from_the_group(W):
    W = np.asarray(W, np.complex128)
    return np.max(np.abs(W.conj().T @ W - np.eye(W.shape[0])))


@pytest.mark.parametrize("gain", [0.0, 1.0, 30.0])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("name", list(MATRIX))
def test_matrices_stay_on_the_group_for_any_parameter(name, dtype, bound, gain):
    A = gh.inits.gaussian(gain)(jax.random.key(0), (48, 48), dtype)
    W = MATRIX[name](A)
    assert jnp.real(W).dtype == dtype
    assert distance_from_the_group(W) <= bound


def test_matrices_are_the_exponentials():
    A = np.random.default_rng(0).normal(size=(7, 7))
    assert np.allclose(orthogonal_matrix(jnp.asarray(A)), scipy.linalg.expm(A - A.T), atol=1e-13)
    skew = (A - A.T + 1j * (A + A.T)) / np.sqrt(2)
    assert np.allclose(unitary_matrix(jnp.asarray(A)), scipy.linalg.expm(skew), atol=1e-13)
    turn = orthogonal_matrix(jnp.array([[0.0, 0.7], [0.0, 0.0]]))
    exact = [[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]]
    assert np.max(np.abs(turn - np.array(exact))) <= 4 * EPS
    phase = unitary_matrix(jnp.array([[0.7]]))
    assert abs(complex(phase[0, 0]) - np.exp(1j * 0.7 * np.sqrt(2))) <= 4 * EPS


@pytest.mark.parametrize("name", list(MATRIX))
def test_angles_of_the_default_are_a_semicircle_below_pi(name):
    """Radius 2√2: mean square R²/4 = 2, its standard error for n = 256 about 1/n."""
    A = gh.inits.gaussian(1.0)(jax.random.key(1), (256, 256), np.float64)
    angles = np.angle(np.linalg.eigvals(np.asarray(MATRIX[name](A))))
    assert abs(np.mean(angles**2) - 2) <= 0.05
    assert 2.6 < np.abs(angles).max() < 3.0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", list(BUILD))
def test_linear_cells_have_exponents_exactly_zero(name, tied):
    """All singular values of Φ(1000, 0) are 1 to 1e-12 of a nat per step."""
    steps = 1000
    cell = BUILD[name](5, 2)
    keys = jax.random.split(jax.random.key(0), steps)
    if tied:
        params = cell.step.with_matrix(cell.init(keys[0]))
    else:
        params = jax.vmap(lambda key: cell.step.with_matrix(cell.init(key)))(keys)
    xs = jax.random.normal(jax.random.key(1), (steps, 2))
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs, tied=tied)
    assert np.max(np.abs(gh.singular_spectrum(chain).log_values)) <= 1e-12 * steps
    if tied:
        assert np.max(np.abs(gh.lyapunov_spectrum(chain).exponents)) <= 1e-12


@pytest.mark.parametrize("name", list(BUILD))
def test_only_vanishing_is_possible_below_the_threshold(name):
    """‖J_t‖ ≤ 1 for modReLU with b ≤ 0, so that ‖Φ(T, T-k)‖ never grows with k."""
    more = {"activation": "modrelu"} if name == "orthogonal" else {}
    cell = BUILD[name](6, 2, bias=-0.5, **more)
    params = cell.step.with_matrix(cell.init(jax.random.key(0)))
    xs = 2 * jax.random.normal(jax.random.key(1), (60, 2))
    chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    for J in np.asarray(chain.matrices()):
        assert np.linalg.norm(J, 2) <= 1 + 1e-14
    norms = np.asarray(gh.transition_norms(chain))
    assert np.all(np.diff(norms) <= 1e-12)
    assert norms[-1] < 0


def test_orthogonal_matrices_with_tanh_only_vanish():
    cell = gh.cells.orthogonal_rnn(6, 0, activation="tanh")
    params = cell.init(jax.random.key(0))
    chain = gh.jacobian_chain(cell.step, params, jnp.ones(6), length=40)
    assert all(np.linalg.norm(J, 2) <= 1 for J in np.asarray(chain.matrices()))


@pytest.mark.parametrize("bias", [-0.5, 0.0, 0.7])
def test_modrelu_keeps_the_phase_and_has_two_stretches(bias):
    """Along z the derivative is 1, across it (|z| + b)/|z|; 0 below the threshold."""
    z = np.array([0.6 - 0.8j, -3.0 + 0.0j, 0.0 + 0.1j])
    b = jnp.full(3, bias)
    exact = np.maximum(np.abs(z) + bias, 0) * z / np.abs(z)
    assert np.max(np.abs(modrelu(jnp.asarray(z), b) - exact)) <= 4 * EPS
    assert np.allclose(modrelu(jnp.array([-2.0]), b[:1]), [-(2.0 + bias)], rtol=4 * EPS)

    def plane(v):
        out = modrelu(jax.lax.complex(v[:1], v[1:]), b[:1])
        return jnp.concatenate([jnp.real(out), jnp.imag(out)])

    for value in z:
        v, size = np.array([value.real, value.imag]), abs(value)
        along = np.outer(v, v) / size**2
        share = (size + bias) / size
        exact = along + share * (np.eye(2) - along) if size + bias > 0 else np.zeros((2, 2))
        J = jax.jacfwd(plane)(jnp.asarray(v))
        assert np.max(np.abs(J - exact)) <= 20 * EPS
        assert np.max(np.abs(jax.jacrev(plane)(jnp.asarray(v)) - exact)) <= 20 * EPS


@pytest.mark.parametrize(("bias", "slope"), [(-0.5, 0.0), (0.0, 1.0), (0.7, 1.0)])
def test_modrelu_at_zero_is_zero_with_a_finite_derivative(bias, slope):
    cell = gh.cells.unitary_rnn(3, 0, bias=bias, skew_init=gh.inits.identity(0.0))
    params = cell.init(jax.random.key(0))
    for mode in ("forward", "reverse"):
        chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), length=4, mode=mode)
        assert np.array_equal(chain.matrices(), np.broadcast_to(slope * np.eye(6), (4, 6, 6)))
    weights = jax.grad(lambda p: jnp.sum(jnp.real(cell.step(p, cell.initial_state(), None))))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(weights(params)))


@pytest.mark.parametrize("name", list(BUILD))
def test_the_matrix_made_once_gives_the_same_numbers_and_gradients(name):
    cell = BUILD[name](4, 2, bias=0.1)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (6, 2))

    def loss(params):
        states = gh.unroll(cell.step, params, cell.initial_state(), xs).states
        return jnp.sum(jnp.sin(jnp.real(states)))

    slow, fast = loss(params), loss(cell.step.with_matrix(params))
    assert abs(float(slow - fast)) <= 1e-12
    every = jax.grad(loss)(params)
    once = jax.grad(lambda p: loss(cell.step.with_matrix(p)))(params)
    for leaf, other in zip(jax.tree.leaves(every), jax.tree.leaves(once), strict=True):
        assert np.allclose(leaf, other, rtol=1e-11, atol=1e-11)
    v = np.random.default_rng(0).normal(size=(4, 4))
    shifted = [loss({**params, "A": params["A"] + s * 1e-5 * v}) for s in (1, -1)]
    slope = float(shifted[0] - shifted[1]) / 2e-5
    assert abs(slope - np.sum(v * np.asarray(once["A"]))) <= 1e-7


def test_inputs_enter_real_and_imaginary_rows():
    cell = gh.cells.unitary_rnn(2, 1, skew_init=gh.inits.identity(0.0))
    params = {**cell.init(jax.random.key(0)), "U": jnp.array([[1.0], [2.0], [3.0], [4.0]])}
    state = cell.step(params, jnp.array([1.0 + 1.0j, 0.0]), jnp.array([2.0]))
    assert np.max(np.abs(state - np.array([3 + 7j, 4 + 8j]))) <= 20 * EPS
    assert state.dtype == np.complex128


@pytest.mark.usefixtures("unchecked_types")
def test_errors_name_argument_and_remedy():
    with pytest.raises(TypeError, match="`dtype` must be float32 or float64. Received bfloat16"):
        gh.cells.unitary_rnn(3, 1, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="`bias` must be a number, 3 numbers, or an initializer"):
        gh.cells.unitary_rnn(3, 1, bias="zero")
    with pytest.raises(ValueError, match="`activation` must be one of"):
        gh.cells.orthogonal_rnn(3, 1, activation="modReLU")
    cell = gh.cells.unitary_rnn(3, 1)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"`h0` must be complex\. Received float64\[3\]"):
        gh.unroll(cell.step, params, jnp.zeros(3), jnp.zeros((4, 1)))
