"""Values of complex states once each: against complex NumPy, and refused where they do not pair."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.products import _pairs
from gradhorizon.regimes import _text

N, T = 4, 25


def complex_chain():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(T, N, N)) + 1j * rng.normal(size=(T, N, N))) / np.sqrt(2 * N)


def on_pairs(J):
    """Write complex matrices as matrices on (re, im), as a chain has them."""
    return np.block([[J.real, -J.imag], [J.imag, J.real]])


def test_singular_values_are_those_of_the_complex_product():
    J, product = complex_chain(), np.eye(N)
    for factor in J:
        product = factor @ product
    exact = np.log(np.linalg.svd(product, compute_uv=False))
    values, bars = gh.singular_spectrum(on_pairs(J)).pairs()
    assert values.shape == (N,)
    # the plain product itself is off by eps times its condition
    slack = T * np.finfo(float).eps * np.exp(exact[0] - exact)
    assert np.all(np.abs(np.asarray(values) - exact) <= np.asarray(bars) + slack)
    assert np.all(np.asarray(bars) < 0.05)


def test_exact_zeros_are_a_pair_and_unresolved_values_stay_unknown():
    factor = np.diag([0.5j, 0.0, -0.25, 2.0])
    spectrum = gh.singular_spectrum(on_pairs(np.broadcast_to(factor, (T, N, N))))
    values = np.asarray(spectrum.pairs().values)
    assert np.allclose(values[:3], T * np.log([2, 0.5, 0.25]), rtol=1e-14, atol=0)
    assert values[3] == -np.inf
    lost = dataclasses.replace(spectrum, resolved=spectrum.resolved.at[3].set(False)).pairs()
    assert np.isnan(np.asarray(lost.values)).tolist() == [False, True, False, False]
    assert np.isinf(np.asarray(lost.error_bars)).tolist() == [False, True, False, False]


def test_values_that_do_not_pair_are_refused():
    """A real matrix without the structure, as of a step that sees the conjugate."""
    rough = on_pairs(complex_chain()) + 0.1 * np.random.default_rng(1).normal(size=(T, 8, 8))
    with pytest.raises(ValueError, match="must come in pairs .* Received .* beside"):
        gh.singular_spectrum(rough).pairs()


def test_comparison_of_neighbors():
    values = jnp.asarray([[2.0, 2.0 + 1e-9, -1.0, -1.1], [0.0, 0.0, -jnp.inf, -3.0]])
    bars, known = jnp.full((2, 4), 1e-9), jnp.ones((2, 4), bool)
    good = _pairs.fits(values, bars, known)
    assert good.tolist() == [[True, False], [True, False]]
    with pytest.raises(ValueError, match=r"Received -1 beside -1\.1\. Only a holomorphic step"):
        _pairs.each_once(values, bars, known)
    quiet = jax.jit(_pairs.each_once)(values, bars, known)
    assert np.isnan(np.asarray(quiet.values)).tolist() == [[False, True], [False, True]]
    assert abs(float(quiet.values[0, 0]) - 2) <= 1e-9
    wide = _pairs.each_once(values, jnp.full((2, 4), jnp.inf), known)
    assert np.isinf(np.asarray(wide.error_bars)).all()
    with pytest.raises(ValueError, match=r"an even number of values\. Received 3"):
        _pairs.each_once(values[:, :3], bars[:, :3], known[:, :3])


def test_exponents_are_those_of_the_complex_matrix():
    factor = complex_chain()[0]
    exact = np.sort(np.log(np.abs(np.linalg.eigvals(factor))))[::-1]
    J = on_pairs(np.broadcast_to(factor, (1500, N, N)))
    values, bars = gh.lyapunov_spectrum(J, burn_in=400).pairs()
    assert np.all(np.abs(np.asarray(values) - exact) <= np.asarray(bars) + 1e-9)


def test_the_diagnosis_counts_complex_directions_once():
    cell = gh.cells.lru(5, 2, r_min=0.5, r_max=0.9)
    params = cell.init(jax.random.key(0))
    diagnosis = gh.diagnose(cell.step, params, cell.initial_state(), jnp.ones((150, 2)))
    text = str(diagnosis)
    assert "state of 10 (5 complex numbers as two real ones each)" in text
    assert "directions alive: 5 at lag 1" in text
    assert "(of 5 complex ones, equal pairs counted once)" in text
    assert diagnosis.complex_entries == 5
    assert diagnosis.to_dict()["complex_entries"] == 5
    # without equal pairs, or with real entries beside, all real directions are counted
    values = diagnosis.singular.log_values.at[:, ::2].add(1.0)
    apart = dataclasses.replace(diagnosis.singular, log_values=values)
    text = str(dataclasses.replace(diagnosis, singular=apart))
    assert "directions alive: 10 at lag 1" in text
    assert "(of 10 real ones; they do not come in equal pairs)" in text
    assert "(of 10)" in str(dataclasses.replace(diagnosis, complex_entries=2))


def test_words_for_the_size_of_a_state():
    words = {
        0: "11",
        4: "11 (4 complex numbers as two real ones each and 3 real)",
    }
    for count, text in words.items():
        state = types.SimpleNamespace(size=11, complex_entries=count)
        assert _text._size(state) == text
