"""Random bad input: every outcome is a result that passes its checks, a status, or words.

Never a traceback from inside JAX, never a NaN without a status that says why. Sizes are few, so
that compiled programs are shared; `GRADHORIZON_FUZZ` multiplies the number of examples.
"""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradhorizon as gh
from refusals import WORDING, nothing_happens

pytestmark = [
    pytest.mark.usefixtures("unchecked_types"),
    pytest.mark.filterwarnings("ignore::gradhorizon.PrecisionWarning"),
]
MORE = int(os.environ.get("GRADHORIZON_FUZZ", "1"))


def examples(count):
    """Run a fixed sequence of examples, whatever the load of the machine."""
    return settings(
        max_examples=count * MORE,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def require_words(error):
    """Fail unless an exception is one of the package's own."""
    numerical = isinstance(error, gh.NumericalError) and " must be finite. Received" in str(error)
    kinds = (TypeError, ValueError, MemoryError)
    worded = isinstance(error, kinds) and WORDING.match(str(error))
    assert numerical or worded, f"{type(error).__name__}: {error}"


# --- one corrupted leaf ---------------------------------------------------------------------------

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2)])
LEAVES = st.builds(lambda shape: np.full(shape, 0.5), SHAPES)
NAMES = st.sampled_from(["W", "bias", "a b", "θ", "0"])


def trees(leaves):
    """Draw the containers that people put states and parameters into, never empty."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(NAMES, inner, min_size=1, max_size=3),
            st.tuples(inner, st.none()),
        ),
        max_leaves=4,
    )


def _with_bad_entry(value):
    def corrupt(leaf, draw):
        bad = np.array(leaf)
        if bad.ndim == 0:
            return np.float64(value)
        bad.flat[draw(st.integers(0, bad.size - 1))] = value
        return bad

    return corrupt


CORRUPTIONS = {
    "nan": _with_bad_entry(np.nan),
    "inf": _with_bad_entry(np.inf),
    "-inf": _with_bad_entry(-np.inf),
    "string": lambda leaf, draw: draw(st.text(max_size=300)),
    "strings": lambda leaf, draw: np.full(leaf.shape, "x"),
    "objects": lambda leaf, draw: np.full(leaf.shape, None),
    "set": lambda leaf, draw: {1, 2},
    "function": lambda leaf, draw: math.sin,
    "dates": lambda leaf, draw: np.full(leaf.shape, 0, "M8[s]"),
    "huge": lambda leaf, draw: draw(st.sampled_from([1, -1])) * 10 ** draw(st.integers(20, 400)),
}
ONLY_PARAMS = {
    "integer": lambda leaf, draw: leaf.astype(draw(st.sampled_from(["int8", "int64", "uint32"]))),
    "boolean": lambda leaf, draw: leaf.astype(bool),
    "key": lambda leaf, draw: jax.random.PRNGKey(0),
}


def keep(params, h, x):
    """A step that looks at nothing: only the checks of its arguments can object."""
    return h


def with_time(tree):
    return jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tree)


@examples(150)
@given(st.data())
def test_a_corrupted_leaf_is_named_by_its_path_before_anything_happens(data):
    trees_of = {name: data.draw(trees(LEAVES), label=name) for name in ("params", "h0", "xs")}
    trees_of["xs"] = with_time(trees_of["xs"])
    place = data.draw(st.sampled_from(list(trees_of)))
    paths, structure = jax.tree_util.tree_flatten_with_path(trees_of[place])
    index = data.draw(st.integers(0, len(paths) - 1))
    kinds = CORRUPTIONS | (ONLY_PARAMS if place == "params" else {})
    kind = data.draw(st.sampled_from(sorted(kinds)))
    leaves = [leaf for _, leaf in paths]
    leaves[index] = kinds[kind](leaves[index], data.draw)
    trees_of[place] = jax.tree.unflatten(structure, leaves)
    function = data.draw(st.sampled_from([gh.unroll, gh.jacobian_chain, gh.predict, gh.diagnose]))
    with nothing_happens(), pytest.raises((TypeError, ValueError)) as caught:
        function(keep, trees_of["params"], trees_of["h0"], trees_of["xs"])
    text = str(caught.value)
    assert WORDING.match(text), text
    assert text.startswith(f"`{place}{jax.tree_util.keystr(paths[index][0])}"), text


@examples(60)
@given(st.data())
def test_a_leaf_that_changes_in_the_step_is_named_by_its_path(data):
    h0 = data.draw(trees(LEAVES))
    paths, structure = jax.tree_util.tree_flatten_with_path(h0)
    index = data.draw(st.integers(0, len(paths) - 1))
    change = data.draw(st.sampled_from([
        lambda a: jnp.concatenate([jnp.ravel(a), jnp.zeros(1)]),
        lambda a: a[None],
        lambda a: a.astype(jnp.float32),
        lambda a: a.astype(jnp.int64),
        lambda a: a.astype(complex),
        lambda a: a > 0,
    ]))  # fmt: skip

    def step(params, h, x):
        leaves = jax.tree.leaves(h)
        leaves[index] = change(leaves[index])
        return jax.tree.unflatten(structure, leaves)

    with nothing_happens(), pytest.raises(ValueError, match="must keep its shape") as caught:
        gh.jacobian_chain(step, 0.5, h0, length=2)
    assert WORDING.match(str(caught.value))
    assert str(caught.value).startswith(f"`h0{jax.tree_util.keystr(paths[index][0])}`")


# --- special values in a chain --------------------------------------------------------------------

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    3.0,
    1e-8,
    1e8,
    1e300,
    -1e300,
    1.7e308,
    1e-300,
    5e-324,
    1e-310,
]
ENTRIES = st.one_of(st.sampled_from(SPECIAL), st.floats(-2, 2))
MODERATE = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, 1e-8, 1e8]), st.floats(-2, 2).map(
    lambda value: value if abs(value) > 1e-8 else 0.0
))  # fmt: skip
SCALES = st.sampled_from([1.0, 1e-300, 1e-310, 1e200, 1e299])
NONFINITE = st.sampled_from([np.nan, np.inf, -np.inf])
STEPS, SIZE = 3, 2


def chains(entries):
    count = STEPS * SIZE * SIZE
    return st.lists(entries, min_size=count, max_size=count).map(
        lambda values: np.array(values).reshape(STEPS, SIZE, SIZE)
    )


def no_silent_nan(status, *values):
    """A NaN needs a status, and a bad status of a whole run leaves no number standing."""
    there = [np.isnan(np.asarray(v)) for v in values]
    if status in (gh.Status.OK, gh.Status.RANK_DEFICIENT):
        assert not any(v.any() for v in there)
    if status == gh.Status.NONFINITE:
        assert all(v.all() for v in there)


@examples(40)
@given(chains(MODERATE), SCALES)
def test_finite_chains_of_any_size_of_entries(J, scale):
    """Four algorithms on one chain agree wherever each claims to know."""
    J = J * scale
    singular = gh.singular_spectrum(J, throw=False)
    exponents = gh.lyapunov_spectrum(J, throw=False)
    norms = np.asarray(gh.transition_norms(J, throw=False))
    profile = gh.backpropagate(J, np.array([0.6, 0.8]), throw=False)
    no_silent_nan(singular.status, singular.log_values)
    no_silent_nan(exponents.status, exponents.exponents)
    assert singular.status != gh.Status.NONFINITE
    assert exponents.status != gh.Status.NONFINITE
    assert not np.isnan(norms).any()
    assert not np.isnan(profile.log_norms).any()
    values, bars = np.asarray(singular.log_values), np.asarray(singular.error_bars)
    slack = 1e-9 * (1 + np.max(np.abs(norms[np.isfinite(norms)])))
    if singular.resolved[0] and np.isfinite(values[0]):
        assert abs(values[0] - norms[-1]) <= bars[0] + slack
    with np.errstate(invalid="ignore"):
        grown = np.asarray(profile.by_lag)
    finite = np.isfinite(grown)
    assert np.all(grown[finite] <= norms[finite] + slack)


@examples(25)
@given(chains(st.sampled_from([0.0, 1.0, -0.5, 2.0])), st.data())
def test_one_bad_entry_is_named_and_never_gives_a_number(J, data):
    where = tuple(data.draw(st.integers(0, size - 1)) for size in J.shape)
    J[where] = data.draw(NONFINITE)
    for analyze in (
        gh.singular_spectrum,
        gh.lyapunov_spectrum,
        gh.transition_norms,
        lambda chain, **options: gh.backpropagate(chain, np.ones(SIZE), **options),
    ):
        with pytest.raises(ValueError, match="must be finite") as caught:
            analyze(J)
        assert str(caught.value).startswith(f"`chain[{', '.join(map(str, where))}]` must")
        silent = analyze(J, throw=False)
        if isinstance(silent, jax.Array):
            assert np.isnan(silent).all()
            continue
        assert silent.status == gh.Status.NONFINITE
        assert silent.first_bad_step == where[0] + 1
    assert np.isnan(gh.lyapunov_spectrum(J, throw=False).exponents).all()
    assert np.isnan(gh.singular_spectrum(J, throw=False).log_values).all()


@examples(40)
@given(st.lists(ENTRIES, min_size=4, max_size=4))
def test_matrices_of_any_size_of_entries(entries):
    W = np.array(entries).reshape(2, 2)
    try:
        criteria = gh.analyze_matrix(W)
    except (TypeError, ValueError) as error:
        require_words(error)
        return
    for name in ("spectral_radius", "singular_values", "log_transient_peak", "certified_rate"):
        assert not np.isnan(getattr(criteria, name)).any(), name
    assert "nan" not in criteria.sentence


# --- a network whose numbers are anything ---------------------------------------------------------


def affine(params, h, x):
    return params["w"] * h + params["b"]


@examples(30)
@given(*[st.one_of(st.sampled_from(SPECIAL), st.floats(-2, 2))] * 3)
def test_networks_with_any_finite_numbers(w, b, start):
    """h ← w h + b: J_t = w I at every step, however large the states become."""
    arguments = (affine, {"w": w, "b": b}, np.full(2, start))
    trajectory = gh.unroll(*arguments, length=STEPS)
    no_silent_nan(trajectory.status, np.zeros(1) if trajectory.status == 0 else np.full(1, np.nan))
    assert np.isfinite(trajectory.states).all() == (trajectory.status == gh.Status.OK)
    profile = gh.gradient_profile(*arguments, None, lambda hs: hs[-1, 0], length=STEPS, throw=False)
    no_silent_nan(profile.status, profile.log_norms[:1] if profile.status == 0 else np.nan)
    if trajectory.status == gh.Status.OK and abs(w) >= np.finfo(float).smallest_normal:
        exact = math.log(abs(w)) * np.arange(STEPS + 1)
        assert np.allclose(profile.by_lag, exact, rtol=1e-12, atol=1e-12)


@examples(6)
@given(st.sampled_from(SPECIAL), st.booleans())
def test_diagnoses_of_any_finite_numbers(w, throw):
    arguments = (affine, {"w": w, "b": 0.0}, np.ones(2))
    try:
        diagnosis = gh.diagnose(*arguments, length=STEPS, throw=throw)
    except ValueError as error:
        require_words(error)
        return
    assert diagnosis.status == gh.Status.OK or not throw
    assert (diagnosis.regime is None) == (diagnosis.status != gh.Status.OK)
    assert str(diagnosis)


# --- arguments of any kind ------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.integers(10**18, 10**40),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.lists(st.floats(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.just(math.sin),
    st.just(object()),
    st.just(np.array([[None]])),
    st.just(np.zeros((0, 2, 2))),
    st.just(np.array("J")),
)
CHAIN = np.broadcast_to(0.5 * np.eye(SIZE), (STEPS, SIZE, SIZE))
NETWORK = (affine, {"w": 0.5, "b": 0.0}, np.ones(2))
CALLS = {
    "chain of singular_spectrum": gh.singular_spectrum,
    "chain of lyapunov_spectrum": gh.lyapunov_spectrum,
    "chain of transition_norms": gh.transition_norms,
    "chain of backpropagate": lambda junk: gh.backpropagate(junk, np.ones(2)),
    "cotangent": lambda junk: gh.backpropagate(CHAIN, junk),
    "k": lambda junk: gh.lyapunov_spectrum(CHAIN, junk),
    "burn_in": lambda junk: gh.lyapunov_spectrum(CHAIN, burn_in=junk),
    "lags": lambda junk: gh.singular_spectrum(CHAIN, lags=junk),
    "one lag": lambda junk: gh.singular_spectrum(CHAIN, lags=[junk]),
    "segments": lambda junk: gh.singular_spectrum(CHAIN, segments=junk),
    "W": gh.analyze_matrix,
    "slope_bound": lambda junk: gh.analyze_matrix(np.eye(2), slope_bound=junk),
    "step": lambda junk: gh.unroll(junk, *NETWORK[1:], length=2),
    "params": lambda junk: gh.unroll(keep, junk, 1.0, length=2),
    "h0": lambda junk: gh.unroll(keep, 1.0, junk, length=2),
    "xs": lambda junk: gh.unroll(keep, 1.0, 1.0, junk),
    "length": lambda junk: gh.unroll(*NETWORK, length=junk),
    "mode": lambda junk: gh.jacobian_chain(*NETWORK, length=2, mode=junk),
    "loss": lambda junk: gh.gradient_profile(*NETWORK, None, junk, length=2),
    "threshold": lambda junk: gh.predict(*NETWORK, length=2, threshold=junk),
    "lag": lambda junk: gh.diagnose(*NETWORK, length=2, lag=junk),
    "activation": lambda junk: gh.cells.elman(2, 2, activation=junk),
    "hidden": lambda junk: gh.cells.elman(junk if not isinstance(junk, int) else -junk, 2),
}
SHORT = ("length", "k", "burn_in", "segments", "threshold", "lag", "slope_bound", "one lag")


@examples(250)
@given(st.sampled_from(sorted(CALLS)), JUNK)
def test_arguments_of_any_kind(name, junk):
    if name in SHORT and isinstance(junk, (int, float)) and not isinstance(junk, bool):
        junk = -abs(junk)  # admissible numbers compile a program each
    try:
        CALLS[name](junk)
    except (TypeError, ValueError, MemoryError) as error:
        require_words(error)
