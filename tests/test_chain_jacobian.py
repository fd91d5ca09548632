"""The chain is the derivative of the unrolled network, for every registered network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from cases import CELLS, NETWORKS, case, real_part, run_plainly, with_real_part

DTYPES = [np.float32, np.float64]


def product_of(matrices):
    """Multiply J_1 … J_T, newest on the left, and bound the rounding of doing so."""
    product, size = np.eye(matrices.shape[1]), 1.0
    for matrix in np.asarray(matrices, dtype=np.float64):
        product = matrix @ product
        size *= np.linalg.norm(matrix, 2)
    return product, size


def jacobian_of_unroll(network):
    """Differentiate the plain Python loop as a whole."""

    def final(vector):
        return real_part(run_plainly(network, h0=with_real_part(network.h0, vector))[-1])

    return jax.jit(jax.jacobian(final))(real_part(network.h0))


def bound(matrices, dtype):
    """Bound the rounding of a product: 10 eps n T times the product of the norms."""
    steps, n = matrices.shape[:2]
    return 10 * np.finfo(dtype).eps * n * steps * max(product_of(matrices)[1], 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_product_of_steps_is_derivative_of_unroll(name, dtype):
    network = case(name, dtype)
    chain = gh.jacobian_chain(
        network.step,
        network.params,
        network.h0,
        network.xs,
        length=network.length,
        tied=network.tied,
    )
    matrices = chain.matrices()
    assert matrices.dtype == dtype
    expected = jacobian_of_unroll(network)
    product, _ = product_of(matrices)
    assert np.max(np.abs(product - np.asarray(expected))) <= bound(matrices, dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_states_are_those_of_the_plain_loop(name):
    network = case(name)
    trajectory = gh.unroll(
        network.step,
        network.params,
        network.h0,
        network.xs,
        length=network.length,
        tied=network.tied,
    )
    plain = [network.h0, *run_plainly(network)]
    assert trajectory.status == gh.Status.OK
    for t, state in enumerate(plain):
        ours = real_part(jax.tree.map(lambda a, t=t: a[t], trajectory.states))
        assert np.max(np.abs(ours - real_part(state))) <= 100 * np.finfo(float).eps


def test_counter_and_key_travel_along_without_rows():
    network = case("nested")
    trajectory = gh.unroll(network.step, network.params, network.h0, network.xs)
    assert trajectory.states["count"].tolist() == list(range(9))
    chain = gh.jacobian_chain(network.step, network.params, network.h0, network.xs)
    assert chain.size == 3 + 4 + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_equals_reverse_and_push_pull_equal_the_matrix(name):
    network = case(name)
    arguments = (network.step, network.params, network.h0, network.xs)
    settings = {"length": network.length, "tied": network.tied}
    forward = gh.jacobian_chain(*arguments, **settings, mode="forward")
    reverse = gh.jacobian_chain(*arguments, **settings, mode="reverse")
    J = forward.matrices()
    tolerance = 100 * np.finfo(float).eps * max(1, float(jnp.max(jnp.abs(J))))
    assert np.max(np.abs(J - reverse.matrices())) <= tolerance
    frame = jax.random.normal(jax.random.key(0), (forward.size, 2))
    for chain in (forward, reverse):
        for t in (1, 7, network.length):
            link = chain.at(t)
            assert np.max(np.abs(link.push(frame) - J[t - 1] @ frame)) <= 10 * tolerance
            assert np.max(np.abs(link.pull(frame) - J[t - 1].T @ frame)) <= 10 * tolerance


def test_custom_vjp_falls_back_to_reverse_mode():
    @jax.custom_vjp
    def act(x):
        return jnp.sin(x)

    act.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))

    def step(params, h, x):
        return act(params @ h + x)

    W = jax.random.normal(jax.random.key(0), (3, 3))
    xs = jax.random.normal(jax.random.key(1), (6, 3))
    chain = gh.jacobian_chain(step, W, jnp.zeros(3), xs)
    assert chain.mode == "reverse"
    plain = gh.jacobian_chain(lambda W, h, x: jnp.sin(W @ h + x), W, jnp.zeros(3), xs)
    assert plain.mode == "forward"
    assert np.max(np.abs(chain.matrices() - plain.matrices())) <= 100 * np.finfo(float).eps
    frame = jnp.eye(3)
    assert np.max(np.abs(chain.at(3).push(frame) - plain.at(3).push(frame))) <= 1e-14
    with pytest.raises(TypeError, match="`mode` must be 'reverse' or 'auto'"):
        gh.jacobian_chain(step, W, jnp.zeros(3), xs, mode="forward")


def test_forward_only_step_is_pulled_through_its_matrix():
    def step(params, h, x):
        return jax.lax.fori_loop(0, x, lambda _, v: jnp.tanh(params @ v), h)

    W = jax.random.normal(jax.random.key(0), (3, 3))
    counts = jnp.asarray([1, 2, 1, 3])
    chain = gh.jacobian_chain(step, W, jnp.ones(3), counts)
    J = chain.matrices()
    u = jnp.asarray([[1.0], [2.0], [3.0]])
    assert np.max(np.abs(chain.at(4).pull(u) - J[3].T @ u)) <= 1e-13 * float(
        jnp.max(jnp.abs(J)) + 1
    )


def test_convention_of_pascanu_2013_equation_5():
    """W diag(φ') for pre-activations, not its transpose (the printed form)."""
    W = jax.random.normal(jax.random.key(3), (4, 4))
    x0 = jax.random.normal(jax.random.key(4), (4,))
    chain = gh.jacobian_chain(lambda W, x, _: W @ jnp.tanh(x), W, x0, length=3)
    product, size = product_of(chain.matrices())

    def three(x):
        for _ in range(3):
            x = W @ jnp.tanh(x)
        return x

    expected = np.asarray(jax.jacfwd(three)(x0))
    assert np.max(np.abs(product - expected)) <= 100 * np.finfo(float).eps * size
    printed = np.eye(4)
    x = x0
    for _ in range(3):
        printed = np.asarray(W.T * (1 / jnp.cosh(x) ** 2)[None, :]) @ printed
        x = W @ jnp.tanh(x)
    assert np.max(np.abs(printed - expected)) > 0.1


def test_segments_and_items_keep_time_order():
    J = jax.random.normal(jax.random.key(0), (7, 3, 3))
    chain = gh.JacobianChain.from_matrices(J)
    assert np.array_equal(chain.segment(2, 5).matrices(), J[2:5])
    assert np.array_equal(chain.at(4).matrix(), J[3])


@pytest.mark.parametrize("name", list(CELLS))
def test_equal_settings_make_equal_steps(name):
    """Two cells of the same settings share one compiled program."""
    first, second = CELLS[name](np.dtype(np.float64)), CELLS[name](np.dtype(np.float64))
    assert first.step == second.step
    assert hash(first.step) == hash(second.step)


def test_matrices_guard_names_the_bytes():
    J = jnp.zeros((100, 4, 4))
    chain = gh.JacobianChain.from_matrices(J)
    with pytest.raises(MemoryError, match="12800 bytes"):
        chain.matrices(limit_bytes=12799)
    assert chain.matrices(limit_bytes=12800).shape == (100, 4, 4)


def test_traced_once_and_works_under_jit_and_vmap():
    count = 0

    def step(params, h, x):
        nonlocal count
        count += 1
        return jnp.tanh(params @ h + x)

    W = jax.random.normal(jax.random.key(0), (3, 3))
    batch = jax.random.normal(jax.random.key(1), (5, 8, 3))

    @jax.jit
    def final(xs):
        return gh.jacobian_chain(step, W, jnp.zeros(3), xs).matrices()

    together = jax.vmap(final)(batch)
    traced = count
    for b in range(5):
        alone = final(batch[b])
        assert np.max(np.abs(alone - together[b])) <= 1e-14 * 10
    first_alone = count
    final(batch[0] + 1)
    assert count == first_alone
    assert traced > 0
