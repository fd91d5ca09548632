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
from gradhorizon.chain import _sweep, jacobian
from gradhorizon.chain._links import Link, StepLinks
from gradhorizon.products import _flag, _graded, _lu, _stratified, _udt

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


def small_columns_keep_their_digits():
    """J = W diag(s) at every step, and Σ λ_i = ln|det W| + Σ ln s_i."""
    W, scales = network()[1], np.array([1.0, 1e-9, 1e-18, 1e-27])
    spectrum = gh.lyapunov_spectrum(np.broadcast_to(W * scales, (50, N, N)), throw=False)
    total = np.linalg.slogdet(W)[1] + np.log(scales).sum()
    return abs(spectrum.exponents.sum() - total) <= 1e-9


CHECKS = (
    product_is_derivative,
    profile_is_gradient,
    growth_is_diag_r,
    singular_values_are_those_of_the_product,
    norms_are_those_of_the_product,
    small_columns_keep_their_digits,
)


def time_reversed(monkeypatch):
    original = jacobian.assemble

    def backwards(links, shared, state, layers, xs, length, *, keep):
        flipped = jax.tree.map(lambda a: a[::-1], xs)
        return original(links, shared, state, layers, flipped, length, keep=keep)

    monkeypatch.setattr(jacobian, "assemble", backwards)


def rechained(monkeypatch, change):
    """Let `jacobian_chain` give a chain that was tampered with, linearized where it says."""
    original = jacobian.jacobian_chain

    def tampered(*args, **kwargs):
        chain = original(*args, **kwargs)
        return dataclasses.replace(chain, items=change(chain), residuals=None)

    monkeypatch.setattr(gh, "jacobian_chain", tampered)
    monkeypatch.setattr("gradhorizon.chain.gradient.jacobian_chain", tampered)


def chain_reversed(monkeypatch):
    rechained(monkeypatch, lambda chain: jax.tree.map(lambda a: a[::-1], chain.items))


def state_off_by_one(monkeypatch):
    def late(chain):
        points, *rest = chain.items
        return (jnp.concatenate([points[1:], chain.final[None]]), *rest)

    rechained(monkeypatch, late)


def residuals_of_another_step(monkeypatch):
    original = _sweep.unrolled

    def shifted(*args, **kwargs):
        stored = original(*args, **kwargs)
        return stored._replace(
            residuals=jax.tree.map(lambda a: jnp.roll(a, 1, 0), stored.residuals)
        )

    monkeypatch.setattr(jacobian, "unrolled", shifted)


def jacobian_transposed(monkeypatch):
    original = StepLinks.of

    def transposed(self, derivative):
        link = original(self, derivative)
        return Link(lambda: link.matrix().T, link.pull, link.push)

    monkeypatch.setattr(StepLinks, "of", transposed)


def frame_never_updated(monkeypatch):
    original = _graded.pivoted_lu

    def frozen(matrix):
        frame, upper, places = original(matrix)
        return jnp.eye(*frame.shape, dtype=frame.dtype), upper, places

    monkeypatch.setattr(_graded, "pivoted_lu", frozen)


def column_norms_for_diag_r(monkeypatch):
    original = _graded.pivoted_lu

    def norms(matrix):
        frame, _, places = original(matrix)
        return frame, jnp.diag(jnp.linalg.norm(matrix, axis=0)), places

    monkeypatch.setattr(_graded, "pivoted_lu", norms)


def graded_steps_taken_plainly(monkeypatch):
    monkeypatch.setattr(
        _graded, "push", lambda matrix, frame: _graded.factorize(matrix @ frame, 1)[0]
    )


def growth_inside_a_step_forgotten(monkeypatch):
    original = _graded._factorized

    def without(frame, rounded):
        whole = original(frame, rounded)
        return whole._replace(logs=0 * whole.logs)

    monkeypatch.setattr(_graded, "_factorized", without)


def windows_not_closed(monkeypatch):
    """Pivots of LU taken for diag R of QR."""
    monkeypatch.setattr(_flag, "_close_window", lambda now: now._replace(window=now.window + 1))


def right_factor_never_updated(monkeypatch):
    monkeypatch.setattr(_udt, "update_right", lambda mixing, right: right)


def left_factor_in_the_wrong_row_order(monkeypatch):
    original = _lu.pivoted_lu

    def unpermuted(matrix):
        left, upper, places = original(matrix)
        return jnp.take_along_axis(left, places[..., None], axis=-2), upper, places

    monkeypatch.setattr(_lu, "pivoted_lu", unpermuted)


def scales_not_in_the_ratios(monkeypatch):
    original = _udt.ratios

    def plain(upper, mantissa, exponent, new, powers):
        pivots = jnp.diagonal(upper, axis1=-2, axis2=-1)
        ones, zeros = jnp.ones_like(mantissa), jnp.zeros_like(exponent)
        return original(upper, ones, zeros, pivots, zeros)

    monkeypatch.setattr(_udt, "ratios", plain)


def factors_not_transposed(monkeypatch):
    original = _stratified._multiply
    monkeypatch.setattr(
        _stratified, "_multiply", lambda now, matrix, *rest: original(now, matrix.T, *rest)
    )


MUTATIONS = {
    time_reversed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    chain_reversed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    jacobian_transposed: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    state_off_by_one: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    residuals_of_another_step: {"product_is_derivative", "profile_is_gradient", "growth_is_diag_r"},
    frame_never_updated: {"growth_is_diag_r"},
    column_norms_for_diag_r: {"growth_is_diag_r"},
    graded_steps_taken_plainly: {"small_columns_keep_their_digits"},
    growth_inside_a_step_forgotten: {"small_columns_keep_their_digits"},
    windows_not_closed: {"growth_is_diag_r"},
    right_factor_never_updated: {"singular_values_are_those_of_the_product"},
    left_factor_in_the_wrong_row_order: {"singular_values_are_those_of_the_product"},
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
