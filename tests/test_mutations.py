"""Broken code is caught: each mutation of the package makes a known-answer check fail.

The checks below are the short forms of tests elsewhere. First they must hold on the package as
it is; then, for each mutation, at least one of those named beside it must not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.chain import jacobian
from gradhorizon.products import _udt, lyapunov, singular

STEPS, N = 6, 4


def network():
    """A driven tanh network whose step Jacobians neither commute nor are normal."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(N, N))
    xs = rng.normal(size=(STEPS, N))
    return lambda W, h, x: jnp.tanh(W @ h + x), W, np.full(N, 0.2), xs


def whole():
    """The product by plain automatic differentiation of the composed steps."""
    step, W, h0, xs = network()

    def final(h):
        for x in xs:
            h = step(W, h, x)
        return h

    return np.asarray(jax.jacobian(final)(h0))


def product_is_derivative():
    step, W, h0, xs = network()
    product = np.eye(N)
    for matrix in np.asarray(gh.jacobian_chain(step, W, h0, xs).matrices()):
        product = matrix @ product
    return np.max(np.abs(product - whole())) <= 1e-12


def profile_is_gradient():
    step, W, h0, xs = network()
    profile = gh.gradient_profile(step, W, h0, xs, lambda hs: jnp.sum(hs[-1]))
    return abs(profile.log_norms[0] - np.log(np.linalg.norm(whole().T @ np.ones(N)))) <= 1e-12


def growth_is_diag_r():
    step, W, h0, xs = network()
    spectrum = gh.lyapunov_spectrum(gh.jacobian_chain(step, W, h0, xs))
    upper = np.linalg.qr(whole())[1]
    expected = np.sort(np.log(np.abs(np.diag(upper))))[::-1] / STEPS
    return np.max(np.abs(spectrum.exponents - expected)) <= 1e-9


def singular_values_are_those_of_the_product():
    step, W, h0, xs = network()
    spectrum = gh.singular_spectrum(gh.jacobian_chain(step, W, h0, xs), throw=False)
    expected = np.log(np.linalg.svd(whole(), compute_uv=False))
    return bool(np.max(np.abs(spectrum.log_values - expected)) <= 1e-9)


def norms_are_those_of_the_product():
    step, W, h0, xs = network()
    norms = gh.transition_norms(gh.jacobian_chain(step, W, h0, xs))
    return abs(norms[-1] - np.log(np.linalg.norm(whole(), 2))) <= 1e-12


CHECKS = (
    product_is_derivative,
    profile_is_gradient,
    growth_is_diag_r,
    singular_values_are_those_of_the_product,
    norms_are_those_of_the_product,
)


def time_reversed(monkeypatch):
    original = jacobian.run

    def backwards(step, problem, *, tied):
        flipped = jax.tree.map(lambda a: a[::-1], problem.xs)
        return original(step, problem._replace(xs=flipped), tied=tied)

    monkeypatch.setattr(jacobian, "run", backwards)


def chain_reversed(monkeypatch):
    original = jacobian.jacobian_chain

    def backwards(*args, **kwargs):
        chain = original(*args, **kwargs)
        return dataclasses.replace(chain, items=jax.tree.map(lambda a: a[::-1], chain.items))

    monkeypatch.setattr(gh, "jacobian_chain", backwards)
    monkeypatch.setattr("gradhorizon.chain.gradient.jacobian_chain", backwards)


def jacobian_transposed(monkeypatch):
    original = jacobian._StepLinks.__call__

    def transposed(self, shared, item):
        link = original(self, shared, item)
        return jacobian.Link(lambda: link.matrix().T, link.pull, link.push)

    monkeypatch.setattr(jacobian._StepLinks, "__call__", transposed)


def state_off_by_one(monkeypatch):
    original = jacobian.jacobian_chain

    def late(*args, **kwargs):
        chain = original(*args, **kwargs)
        points, *rest = chain.items
        shifted = jnp.concatenate([points[1:], chain.final[None]])
        return dataclasses.replace(chain, items=(shifted, *rest))

    monkeypatch.setattr(gh, "jacobian_chain", late)
    monkeypatch.setattr("gradhorizon.chain.gradient.jacobian_chain", late)


def frame_never_updated(monkeypatch):
    original = lyapunov._orthonormalize

    def frozen(sums, block):
        new = original(sums, block)
        return new._replace(frame=jnp.eye(*sums.frame.shape, dtype=sums.frame.dtype))

    monkeypatch.setattr(lyapunov, "_orthonormalize", frozen)


def column_norms_for_diag_r(monkeypatch):
    original = lyapunov.positive_qr

    def norms(matrix):
        frame, _ = original(matrix)
        return frame, jnp.diag(jnp.linalg.norm(matrix, axis=0))

    monkeypatch.setattr(lyapunov, "positive_qr", norms)


def right_factor_never_updated(monkeypatch):
    monkeypatch.setattr(_udt, "update_right", lambda ratios, right: right)


def right_factor_not_permuted(monkeypatch):
    def forgetful(product, order):
        return product._replace(mantissa=product.mantissa[order], exponent=product.exponent[order])

    monkeypatch.setattr(_udt, "permute_right", forgetful)


def scales_not_in_the_ratios(monkeypatch):
    original = _udt.scaled_ratios

    def plain(upper, mantissa, exponent):
        return original(upper, jnp.full_like(mantissa, 0.5), jnp.zeros_like(exponent))

    monkeypatch.setattr(_udt, "scaled_ratios", plain)


def factors_not_transposed(monkeypatch):
    original = singular.perturbed
    monkeypatch.setattr(
        singular, "perturbed", lambda matrix, storage, t: original(matrix.T, storage, t)
    )


MUTATIONS = {
    time_reversed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    chain_reversed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    jacobian_transposed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    state_off_by_one: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    frame_never_updated: {"growth_is_diag_r"},
    column_norms_for_diag_r: {"growth_is_diag_r"},
    right_factor_never_updated: {"singular_values_are_those_of_the_product"},
    right_factor_not_permuted: {"singular_values_are_those_of_the_product"},
    scales_not_in_the_ratios: {"singular_values_are_those_of_the_product"},
    factors_not_transposed: {"singular_values_are_those_of_the_product"},
}


@pytest.fixture(autouse=True)
def _fresh_programs():
    """Compiled programs must not outlive the code they were compiled from."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def failing(names=None):
    """Run the checks, or the named ones, and name those that fail."""
    chosen = [check for check in CHECKS if names is None or check.__name__ in names]
    return {check.__name__ for check in chosen if not check()}


def test_checks_hold_on_the_package_as_it_is():
    assert failing() == set()


@pytest.mark.parametrize("mutate", list(MUTATIONS), ids=lambda f: f.__name__)
def test_mutation_is_caught(mutate, monkeypatch):
    mutate(monkeypatch)
    assert failing(MUTATIONS[mutate]) == MUTATIONS[mutate]
