"""The rows of the input table that the other files do not have, each refused before anything."""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.chain._contract import check_problem
from refusals import nothing_happens, refused

pytestmark = pytest.mark.usefixtures("unchecked_types")
W, H, XS = np.eye(3) / 2, np.zeros(3), np.zeros((4, 3))
J = np.broadcast_to(np.eye(2) / 2, (4, 2, 2))


def good(params, h, x):
    return jnp.tanh(params @ h + x)


def halve(params, h, x):
    return params * h


class Own(dict):
    """A dictionary that JAX does not know as a container."""


NETWORKS = {
    "object array": ((good, np.array([[None]]), H, XS), TypeError, r"`params` .*object\[1,1\]"),
    "strings": ((good, W, np.array(["a"]), XS), TypeError, "`h0` must be an array of numbers"),
    "times": ((good, W, H, np.zeros(4, "M8[s]")), TypeError, "`xs` must be an array of numbers"),
    "set": ((good, {1.0}, H, XS), TypeError, "`params` must be an array of numbers. Received set"),
    "unknown dict": ((good, Own(W=W), H, XS), TypeError, "`params` must be an array of numbers"),
    "function leaf": ((good, {"f": good}, H, XS), TypeError, r"`params\['f'\]` must be an array"),
    "huge integer": ((good, W, H, [10**30]), ValueError, r"`xs\[0\]` must fit into 64 bits"),
    "raw key in params": (
        (good, {"W": W, "key": np.zeros(2, np.uint32)}, H, XS),
        TypeError,
        r"`params\['key'\]` must be floating point. Received uint32\[2\]",
    ),
    "integer leaf among floats": (
        (good, {"W": W, "n": 3}, H, XS),
        TypeError,
        r"`params\['n'\]` must be floating point. Received int64\[\]",
    ),
    "complex64 beside float64": (
        (good, W.astype(np.complex64), H, XS),
        ValueError,
        "`params` must have the precision of `h0`, float64",
    ),
    "NaN in a nested leaf": (
        (halve, 0.5, {"a": [H, np.array([[0.0, np.nan]])]}, XS),
        ValueError,
        r"`h0\['a'\]\[1\]\[0, 1\]` must be finite. Received nan",
    ),
    "inf in untied params": (
        (good, W, {"a": H}, {"u": np.array([0, np.inf])}),
        ValueError,
        r"`xs\['u'\]\[1\]` must be finite. Received inf",
    ),
    "NaN in the imaginary part": (
        (halve, 0.5, np.array([1 + 1j, complex(0, np.nan)]), np.zeros(4)),
        ValueError,
        r"`h0\[1\]` must be finite",
    ),
    "None returned": (
        (lambda p, h, x: None, W, H, XS),
        ValueError,
        r"`h0` must have the structure that `step` returns. Received float64\[3\]; .* None",
    ),
    "auxiliary leaf changes": (
        (lambda p, h, x: (h[0], h[1].astype(float)), W, (H, 0), XS),
        ValueError,
        r"`h0\[1\]` must keep its shape and dtype .*int64\[\]; `step` returned float64",
    ),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks(name):
    arguments, kind, words = NETWORKS[name]
    for function in (gh.unroll, gh.jacobian_chain, gh.diagnose, gh.predict, gh.lyapunov_gradient):
        with refused(kind, words):
            function(*arguments)
    with refused(kind, words):
        gh.gradient_profile(*arguments, lambda hs: 0.0)


class Pair(NamedTuple):
    """A state as a named tuple."""

    fast: object
    slow: object


STATES = {
    "tuple": (H, H),
    "list": [H, H],
    "dictionary": {"b": H, "a": H},
    "ordered": collections.OrderedDict(a=H, b=H),
    "named": Pair(H, H),
    "nested": {"a": (H, [H]), "none": None},
    "None leaf": (H, None, H),
    "counter": (H, H, 0),
    "boolean": (H, H, np.zeros(2, bool)),
    "typed key": (H, H, jax.random.key(0)),
    "raw key": (H, H, jax.random.PRNGKey(0)),
    "Python number": (0.5, [0.5] * 5),
    "complex": (H, np.zeros(1, complex), 0.0),
}


@pytest.mark.parametrize("name", list(STATES))
def test_states_of_every_container_and_auxiliary_kind(name):
    """Counters, masks and keys travel along: n counts the floats, and nothing is promoted."""

    def step(params, h, x):
        def move(leaf):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.dtype == jnp.uint32:
                return jax.random.split(leaf)[0]
            if leaf.dtype == bool:
                return ~leaf
            return leaf + 1 if jnp.issubdtype(leaf.dtype, jnp.integer) else 0.5 * leaf

        return jax.tree.map(move, h)

    with nothing_happens():
        problem = check_problem(step, 0.5, STATES[name], np.zeros(3), None, tied=True)
    assert problem.space.size == 6
    assert problem.space.dtype == problem.space.storage_dtype == np.float64


def test_raw_keys_and_counters_are_carried_bit_for_bit():
    start = {"h": 1.0, "count": np.int64(2**53 + 1), "key": jax.random.PRNGKey(7), "on": True}

    def step(params, h, x):
        return {"h": 0.5 * h["h"], "count": h["count"] + 1, "on": ~h["on"],
                "key": jax.random.split(h["key"])[1]}  # fmt: skip

    states = gh.unroll(step, (), start, length=3).states
    key = start["key"]
    for _ in range(3):
        key = jax.random.split(key)[1]
    assert np.array_equal(states["key"][-1], key)  # a float32 round trip would lose bits
    assert states["count"][-1] == 2**53 + 4  # so would float64 here
    assert states["on"].tolist() == [True, False, True, False]
    assert gh.jacobian_chain(step, (), start, length=3).matrices().tolist() == [[[0.5]]] * 3


def test_weak_types_are_made_strong():
    """`1.0` and `jnp.asarray(1.0)` have no dtype of their own; after one step they have."""
    for start in (1.0, jnp.asarray(1.0), np.float64(1.0)):
        states = gh.unroll(lambda p, h, x: p * h, jnp.asarray(0.5), start, length=2).states
        assert states.tolist() == [1.0, 0.5, 0.25]
        assert states.dtype == np.float64


CHAINS = {
    "None": (None, TypeError, "`matrices` must be an array of numbers. Received NoneType"),
    "string": ("J", TypeError, "`matrices` must be an array of numbers. Received str"),
    "dictionary": ({"J": J}, TypeError, "`matrices` must be an array of numbers. Received dict"),
    "function": (good, TypeError, "`matrices` must be an array of numbers. Received function"),
    "objects": (np.array([[[None]]]), TypeError, r"`matrices` .*Received object\[1,1,1\]"),
    "complex": (J.astype(complex), TypeError, "`matrices` must be real .*complex128.*Re, -Im"),
    "integers": (J.astype(int), TypeError, "`matrices` must be real and floating point"),
    "empty list": ([], ValueError, "`matrices` must have shape"),
    "number": (0.5, ValueError, r"`matrices` must have shape \(T, n, n\)"),
    "wide": (np.ones((4, 2, 3)), ValueError, "`matrices` must have shape .*pass a list"),
    "no state": (np.ones((4, 0, 0)), ValueError, "`matrices` must have shape"),
    "NaN": (np.where(np.eye(2) > 0, np.nan, J), ValueError, r"`chain\[0, 0, 0\]` must be finite"),
    "inf at the end": (
        np.concatenate([J, np.full((1, 2, 2), -np.inf)]),
        ValueError,
        r"`chain\[4, 0, 0\]` must be finite. Received -inf",
    ),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_chains(name):
    chain, kind, words = CHAINS[name]
    for analyze in (
        gh.lyapunov_spectrum,
        gh.singular_spectrum,
        gh.transition_norms,
        gh.state_paths,
        lambda c: gh.backpropagate(c, np.ones(2)),
    ):
        with pytest.raises(kind, match=words):
            analyze(chain)


def test_ragged_chains_are_refused_where_exponents_are_meant():
    ragged = [np.ones((3, 2)), np.ones((2, 3))]
    for analyze in (gh.lyapunov_spectrum, gh.transition_norms, gh.state_paths):
        with refused(ValueError, "`matrices` must be one regular array.*Stack arrays"):
            analyze(ragged)


ARGUMENTS = {
    "k above n": (lambda: gh.lyapunov_spectrum(J, 3), ValueError, "`k` must lie between 1 and 2"),
    "k = 0": (lambda: gh.lyapunov_spectrum(J, 0), ValueError, "`k` must lie between 1 and 2"),
    "k negative": (lambda: gh.lyapunov_spectrum(J, -1), ValueError, "`k` must lie between 1 and"),
    "k a float": (lambda: gh.lyapunov_spectrum(J, 2.0), TypeError, "`k` must be an integer"),
    "k a boolean": (lambda: gh.lyapunov_spectrum(J, True), TypeError, "`k` must be an integer"),
    "k above n, gradient": (
        lambda: gh.lyapunov_gradient(good, W, H, XS, k=4),
        ValueError,
        "`k` must lie between 1 and 3",
    ),
    "weights": (
        lambda: gh.lyapunov_gradient(good, W, H, XS, k=2, weights=np.ones(3)),
        ValueError,
        r"`weights` must have k = 2 entries. Received float64\[3\]",
    ),
    "weights complex": (
        lambda: gh.lyapunov_gradient(good, W, H, XS, weights=np.ones(1, complex)),
        TypeError,
        "`weights` must be real",
    ),
    "weights NaN": (
        lambda: gh.lyapunov_gradient(good, W, H, XS, weights=[np.nan]),
        ValueError,
        r"`weights\[0\]` must be finite",
    ),
    "lag beyond T": (
        lambda: gh.singular_spectrum(J, lags=[5]),
        ValueError,
        r"`lags\[0\]` must lie between 0 and 4",
    ),
    "lags a number": (lambda: gh.singular_spectrum(J, lags=3), TypeError, "`lags` must be a seq"),
    "no lags": (lambda: gh.singular_spectrum(J, lags=[]), ValueError, "`lags` must name at least"),
    "length negative": (
        lambda: gh.unroll(halve, 0.5, 1.0, length=-1),
        ValueError,
        "`length` must be at least 0. Received -1",
    ),
    "threshold a string": (
        lambda: gh.diagnose(halve, 0.5, 1.0, length=3, threshold="0.1"),
        TypeError,
        "`threshold` must be a number",
    ),
    "slope bound": (
        lambda: gh.analyze_matrix(W, slope_bound="tanh"),
        TypeError,
        "`slope_bound` must be a number",
    ),
    "slope bound NaN": (
        lambda: gh.analyze_matrix(W, slope_bound=np.nan),
        ValueError,
        "`slope_bound` must be positive",
    ),
    "W a string": (lambda: gh.analyze_matrix("W"), TypeError, "`W` must be an array of numbers"),
    "W None": (lambda: gh.analyze_matrix(None), TypeError, "`W` must be an array of numbers"),
    "W ragged": (
        lambda: gh.analyze_matrix([[1.0], [2.0, 3.0]]),
        ValueError,
        "`W` must be one regular array",
    ),
    "W complex": (
        lambda: gh.analyze_matrix(W.astype(complex)),
        TypeError,
        "`W` must be real and floating point",
    ),
    "cotangent a string": (
        lambda: gh.backpropagate(J, "c"),
        TypeError,
        "`cotangent` must be an array of numbers",
    ),
    "cotangent None": (
        lambda: gh.backpropagate(J, None),
        ValueError,
        "`cotangent` must have n = 2 entries",
    ),
    "cotangent NaN": (
        lambda: gh.backpropagate(J, np.array([0, np.nan])),
        ValueError,
        r"`cotangent\[1\]` must be finite",
    ),
}


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_arguments_of_analyses(name):
    call, kind, words = ARGUMENTS[name]
    with refused(kind, words):
        call()


NAMES = {
    "mode": (
        lambda: gh.jacobian_chain(good, W, H, XS, mode="foward"),
        "`mode` must be one of auto, forward, reverse. Received 'foward'. Did you mean 'forward'",
    ),
    "activation": (
        lambda: gh.cells.elman(3, 3, activation="Tahn"),
        "`activation` must be one of tanh, .* Received 'Tahn'. Did you mean 'tanh'",
    ),
    "activation of theory": (
        lambda: gh.theory.mean_field.length_fixed_point("rellu", 1.0, 0.0),
        "`activation` must be one of .* Did you mean 'relu'",
    ),
    "nothing near": (
        lambda: gh.cells.elman(3, 3, activation="softsign"),
        "`activation` must be one of .* Pass a function",
    ),
    "dtype": (
        lambda: gh.theory.horizons.raw_product(-0.1, "flot32"),
        "`dtype` must be one of .* Did you mean 'float32'",
    ),
    "study": (lambda: study("dept"), "`name` must be one of .* Did you mean 'depth'"),
}


def study(name):
    from gradhorizon.studies import load

    return load(name)


@pytest.mark.parametrize("name", list(NAMES))
def test_unknown_names_list_the_known_ones_and_the_nearest(name):
    call, words = NAMES[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_matrices_that_would_not_fit_are_refused_before_they_are_allocated():
    """n = 10⁶: one matrix would take 8 TB. Nothing but the chain itself is ever formed."""
    n = 10**6
    arguments = (halve, 0.5, np.ones(n))
    for function in (gh.diagnose, gh.predict):
        with refused(MemoryError, r"`chain` must have arrays .*Received n = 1000000.*7450.6 GiB"):
            function(*arguments, length=2)
    chain = gh.jacobian_chain(*arguments, length=2)
    for analyze in (gh.singular_spectrum, gh.lyapunov_spectrum, gh.transition_norms):
        with refused(MemoryError, "8000000000000 bytes.*Ask for fewer directions"):
            analyze(chain)
    with refused(MemoryError, "`limit_bytes` must be at least .* = 16000000000000 bytes"):
        chain.matrices()
    grown = gh.backpropagate(chain, np.ones(n)).log_norms
    assert abs(grown[0] - np.log(np.sqrt(n) / 4)) <= 1e-12


def test_running_out_of_memory_is_said_in_words():
    with pytest.raises(MemoryError, match="`chain` must fit into the memory .*RESOURCE_EXHAUSTED"):
        gh.unroll(halve, 0.5, np.ones(10), length=10**13)  # 800 TB


def test_steps_and_segments_outside_the_chain():
    for chain in (gh.jacobian_chain(good, W, H, XS), gh.JacobianChain.from_matrices(J)):
        for t in (0, 5, -1):
            with refused(ValueError, "`t` must lie between 1 and 4"):
                chain.at(t)
        with refused(TypeError, "`t` must be an integer"):
            chain.at(1.0)
        for start, stop, words in (
            (-1, 2, "`start` must lie between 0 and 4. Received -1"),
            (5, 5, "`start` must lie between 0 and 4. Received 5"),
            (2, 9, "`stop` must lie between 2 and 4. Received 9"),
            (3, 1, "`stop` must lie between 3 and 4. Received 1"),
        ):
            with refused(ValueError, words):
                chain.segment(start, stop)
        for start, stop in ((0, 0), (4, 4), (1, 3), (0, 4)):
            assert chain.segment(start, stop).length == stop - start


def test_one_warning_for_each_cause_and_call():
    half = (
        jnp.eye(2, dtype=jnp.bfloat16),
        jnp.ones(2, jnp.bfloat16),
        jnp.zeros((3, 2), jnp.bfloat16),
    )
    for function in (gh.unroll, gh.jacobian_chain, gh.lyapunov_gradient):
        with pytest.warns(gh.PrecisionWarning) as warned:
            function(
                good, *half, **({} if function is not gh.lyapunov_gradient else {"throw": False})
            )
        assert len(warned) == 1
