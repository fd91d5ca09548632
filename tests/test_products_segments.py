"""Singular values through segments: rank, status, first bad step, and a program of one size."""

import jax
import jax.numpy as jnp
import numpy as np

import gradhorizon as gh
from chains import dyadic
from gradhorizon.products import _tree, _udt

EPS = np.finfo(float).eps


def test_nilpotent_shift_keeps_its_rank():
    shift = np.broadcast_to(np.eye(6, k=1), (4, 6, 6))
    spectrum = gh.singular_spectrum(shift, segments=3)
    assert np.max(np.abs(spectrum.log_values[:2])) <= 10 * EPS
    assert np.all(np.isneginf(spectrum.log_values[2:]))
    assert spectrum.rank_cap == 2
    assert spectrum.status == gh.Status.RANK_DEFICIENT
    assert spectrum.first_bad_step == -1


def test_dyadic_chain_and_its_first_bad_step():
    """Size 4: jaxlib 0.10.2 may crash when it compiles batches of size 16 for AVX-512."""
    chain, exact = dyadic(4, 300)
    spectrum = gh.singular_spectrum(chain, segments=7)
    assert np.max(np.abs(spectrum.log_values - exact)) <= 1e-11
    assert spectrum.status == gh.Status.OK
    assert spectrum.rank_cap == 4
    for bad in (np.nan, np.inf):
        broken = chain.copy()
        broken[[40, 200], 3, 2] = bad  # t = 41 and 201
        spectrum = gh.singular_spectrum(broken, segments=7, throw=False)
        assert spectrum.status == gh.Status.NONFINITE
        assert spectrum.first_bad_step == 41
        assert np.all(np.isnan(spectrum.log_values))
        assert not np.any(spectrum.resolved)


def test_infinite_jacobian_between_finite_states():
    """The root √(h + x) passes 0 at t = 5 and 9: states stay finite, only the segments see it."""
    xs = np.zeros((12, 1))
    xs[[4, 5, 8, 9], 0] = -1, 1, -1, 1
    chain = gh.jacobian_chain(lambda _, h, x: jnp.sqrt(h + x), None, jnp.ones(2), jnp.asarray(xs))
    assert chain.final.tolist() == [1.0, 1.0]
    spectrum = gh.singular_spectrum(chain, segments=5, throw=False)
    assert spectrum.status == gh.Status.NONFINITE
    assert spectrum.first_bad_step == 5


def test_program_does_not_grow_with_the_segments():
    """One level is compiled for all."""
    identity = _udt.start(6, jnp.dtype(float))

    def size(count):
        products = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), identity)
        return len(jax.jit(lambda p: _tree.reduce_tree(p)).lower(products).as_text())

    assert size(64) <= 1.1 * size(2)
