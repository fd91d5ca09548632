"""What `analyze_matrix` says in words, against powers of the matrix formed one by one."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh

EPS = np.finfo(float).eps
RNG = np.random.default_rng(3)
ORTHOGONAL = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
TRIANGULAR = np.triu(RNG.normal(size=(6, 6)), 1) + np.diag(np.linspace(-0.8, 0.9, 6))


def grcar(n):
    return np.eye(n) + sum(np.eye(n, k=j) for j in (1, 2, 3)) - np.eye(n, k=-1)


MATRICES = {
    "jordan": np.array([[0.9, 5.0], [0.0, 0.9]]),
    "shift": np.eye(6, k=1),
    "tripled shift": 3 * np.eye(6, k=1),
    "permuted shift": 2 * np.eye(6, k=1)[[3, 0, 5, 1, 4, 2]][:, [3, 0, 5, 1, 4, 2]],
    "rotated shift": ORTHOGONAL @ np.eye(6, k=1) @ ORTHOGONAL.T,
    "scaled grcar": grcar(16) * (0.98 / np.abs(np.linalg.eigvals(grcar(16))).max()),
    "grcar": grcar(16),
    "orthogonal": ORTHOGONAL,
    "contraction": 0.5 * ORTHOGONAL,
    "symmetric": np.diag([0.9, -0.5]),
    "zero": np.zeros((2, 2)),
    "1 x 1, stable": np.array([[-0.5]]),
    "1 x 1, neutral": np.array([[-1.0]]),
    "1 x 1, unstable": np.array([[2.0]]),
    "unstable beside neutral": np.diag([2.0, 1.0]),
    "neutral beside stable": np.diag([1.0, 0.5]),
    "neutral jordan": np.array([[1.0, 1.0], [0.0, 1.0]]),
    "late peak": np.array([[0.9999, 1.0], [0.0, 0.9999]]),
    "small numerical radius": np.array([[0.3, 1.2], [0.0, 0.3]]),
    "triangular": TRIANGULAR,
}


def norms(W, count=4000):
    """Give ‖W^t‖₂ for t = 0, 1, …, until they are beyond doubt 0 or infinite."""
    found, power = [], np.eye(len(W))
    for _ in range(count):
        found.append(np.linalg.norm(power, 2))
        if not 1e-200 < found[-1] < 1e200:
            break
        power = power @ W
    return np.array(found)


def number(pattern, sentence):
    return float(re.search(pattern, sentence).group(1))


@pytest.mark.parametrize("slope", [1.0, 0.25, 1.2])
@pytest.mark.parametrize("name", MATRICES)
def test_every_claim_of_the_sentence_is_true(name, slope):
    """Each phrase is parsed and held against the powers, and against products of D_t W."""
    W = MATRICES[name]
    said = gh.analyze_matrix(W, slope_bound=slope).sentence
    sizes = norms(W)
    t = np.arange(sizes.size)
    rng = np.random.default_rng(0)
    product, with_slopes = np.eye(len(W)), [1.0]
    for _ in range(60):
        product = (slope * rng.choice([-1, 1, 0.3], size=len(W)))[:, None] * (W @ product)
        with_slopes.append(np.linalg.norm(product, 2))
    claims = 0
    if "Vanishing is certain" in said:
        claims += 1
        factor = number(r"at most ([\d.e-]+\d)", said)
        steps = int(number(r"after (\d+) steps", said))
        pairs = itertools.pairwise(with_slopes)
        assert all(after <= factor * before * (1 + 1e-12) for before, after in pairs)
        assert slope * np.linalg.norm(W, 2) <= factor * (1 + 1e-12) < 1
        assert factor**steps <= 1.1e-3
        assert factor ** (steps - 2) > 1e-3
    if "Every gradient is exactly 0" in said:
        claims += 1
        steps = int(number(r"from step (\d+) on", said))
        assert np.all(np.linalg.matrix_power(W, steps) == 0)
        assert with_slopes[steps] == 0
        assert steps == 1 or np.any(np.linalg.matrix_power(W, steps - 1) != 0)
    if "Exploding is excluded" in said:
        claims += 1
        assert max(with_slopes) <= 1 + 1e-12
    if "keep every length" in said:
        claims += 1
        assert np.max(np.abs(sizes - 1)) <= 1e-10
    if "vanish in the end" in said:
        claims += 1
        assert sizes[-1] < 1e-3 * max(1, sizes.max()) or "late" in name
        assert abs(number(r"radius ([\d.]+\d)", said) - np.abs(np.linalg.eigvals(W)).max()) < 1e-3
    if "never grow" in said:
        assert sizes.max() <= 1 + 1e-12
    if "do not vanish" in said:
        claims += 1
        rate = number(r"grow at (-?[\d.]+) nats", said)
        assert abs(np.log(sizes[-1] / sizes[-101]) / 100 - rate) <= 0.01
    if "is not decided" in said:
        claims += 1
        assert abs(np.abs(np.linalg.eigvals(W)).max() - 1) <= 1e-7
    if "first grow up to" in said:
        seen = sizes[:513] if "of the first 512" in said else sizes
        peak, step = number(r"up to ([\d.e+]+\d)-fold", said), int(number(r"at step (\d+)", said))
        assert abs(seen.max() / peak - 1) <= 1e-3
        assert int(np.argmax(seen >= seen.max() * (1 - 1e-12))) == step
    else:
        assert sizes.max() <= 1 + 1e-10 or "do not vanish" in said or "is certain" in said
    if "numerical radius" in said:
        radius = number(r"2 · ([\d.]+\d)\^t", said)
        assert np.all(sizes <= 2 * radius**t * (1 + 1e-12))
        assert radius < 1
    assert claims >= 1


def test_sentences_are_the_expected_ones():
    """The phrase each kind of matrix must lead to, known from what the matrix is."""
    expected = {
        "jordan": "first grow up to 19.38-fold, at step 9.",
        "shift": "exactly 0 from step 6 on",
        "permuted shift": "The powers first grow up to 32-fold, at step 5.",
        "rotated shift": "The powers vanish in the end",
        "orthogonal": "Exploding is excluded: no step makes a gradient longer. W is orthogonal",
        "zero": "exactly 0 from step 1 on",
        "1 x 1, stable": "at most 0.5, whatever the input; after 10 steps",
        "unstable beside neutral": "grow at 0.693 nats per step",
        "neutral beside stable": "is not decided",
        "late peak": "(the largest of the first 512)",
        "small numerical radius": "No power exceeds 2 · 0.90",
    }
    for name, phrase in expected.items():
        assert phrase in gh.analyze_matrix(MATRICES[name]).sentence, name
    bounded = gh.analyze_matrix(MATRICES["symmetric"], slope_bound=1.2).sentence
    assert "never grow" in bounded


def test_a_spectral_radius_lost_to_rounding_is_not_believed():
    """A hidden Jordan block of size 16 has ρ = .95; its computed eigenvalues scatter beyond 1."""
    J = 0.95 * np.eye(16) + np.eye(16, k=1)
    radii = []
    for seed in range(4):
        Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0]
        criteria = gh.analyze_matrix(Q @ J @ Q.T)
        radii.append(float(criteria.spectral_radius))
        assert "is not decided" in criteria.sentence
        # the true supremum of the powers, from the block itself
        assert 1 < float(criteria.kreiss_lower_bound) <= norms(J).max()
    assert max(radii) > 1


def test_numbers_of_the_record():
    W = MATRICES["jordan"]
    criteria = gh.analyze_matrix(W)
    assert abs(float(criteria.numerical_radius) - 3.4) <= 1e-12  # λ + M/2
    assert abs(float(criteria.stability_radius) - (math.sqrt(25.04) - 5) / 2) <= 1e-9
    assert int(criteria.nilpotency_index) == 0
    last = np.linalg.norm(np.linalg.matrix_power(W, 512), 2)
    assert abs(float(criteria.log_last_power) - np.log(last)) <= 1e-10
    for word in ("numerical radius", "stability radius", "Kreiss lower bound"):
        assert word in str(criteria)
    assert set(criteria.to_dict()) >= {"numerical_radius", "stability_radius", "nilpotency_index"}


def test_every_field_of_a_stack_is_that_of_its_matrices():
    stack = np.stack([MATRICES["jordan"], np.eye(2, k=1), np.diag([2.0, 0.3])])
    together = jax.vmap(gh.analyze_matrix)(jnp.asarray(stack))
    for i, W in enumerate(stack):
        alone = gh.analyze_matrix(W)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True)
        for many, one in pairs:
            np.testing.assert_allclose(many[i], one, rtol=1e-9, atol=1e-12)


def test_float32_stays_float32_and_agrees():
    W = MATRICES["scaled grcar"]
    single, double = gh.analyze_matrix(W.astype(np.float32)), gh.analyze_matrix(W)
    for leaf in jax.tree.leaves(single):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    close = 100 * 16 * np.finfo(np.float32).eps
    assert abs(float(single.numerical_radius) / float(double.numerical_radius) - 1) < close
    assert float(single.kreiss_lower_bound) <= float(double.kreiss_lower_bound) * (1 + 1e-3)
