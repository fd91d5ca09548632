"""Every dtype in every place, x64 on and off: the documented dtype, or the documented words.

No third outcome: `expected` says for each combination what must happen, from the table alone.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from refusals import WORDING

pytestmark = pytest.mark.usefixtures("unchecked_types")
DTYPES = ["float16", "bfloat16", "float32", "float64", "int32", "bool", "complex64"]
PLACES = ["params", "h0", "xs", "chain"]
HALF = ("float16", "bfloat16")


def of(dtype, value):
    """Make a NumPy array of a dtype, half formats of JAX included."""
    return np.asarray(value).astype(jnp.dtype(dtype))


def step(params, h, x):
    """Compute in the format of the state, whatever parameters and inputs come in."""
    kind = h.dtype
    if jnp.issubdtype(kind, jnp.complexfloating):
        return params.astype(kind) * h + jnp.sum(x).astype(kind)
    real = (jnp.real(a).astype(kind) for a in (params, x))
    weight, drive = real
    return jnp.tanh(weight * h) + jnp.sum(drive)


def expected(place, dtype, wide):
    """Give the dtype of J, or the exception and its words."""
    if place in ("params", "h0", "chain") and dtype in ("int32", "bool"):
        return TypeError, "must be (real and )?floating point"
    if place == "chain" and dtype == "complex64":
        return TypeError, "must be real and floating point"
    if dtype == "float64" and not wide:
        return ValueError, "must be float32 while JAX's x64 mode is off"
    base = "float64" if wide and (place, dtype) != ("chain", "float32") else "float32"
    if place in ("params", "h0") and wide and dtype in ("float32", "complex64"):
        return ValueError, "must have the precision of .*, float64"
    return base


def analyze(place, dtype, wide):
    """Run one combination: everything else has the default precision."""
    base = "float64" if wide else "float32"
    if place == "chain":
        return gh.JacobianChain.from_matrices(of(dtype, np.ones((2, 1, 1))))
    values = {"params": 0.5, "h0": [1.0, 0.0], "xs": np.zeros((2, 1))}
    kinds = {name: dtype if name == place else base for name in values}
    arguments = (of(kinds[name], value) for name, value in values.items())
    return gh.jacobian_chain(lambda p, h, x: step(p, h, x), *arguments)


COMBINATIONS = list(itertools.product(PLACES, DTYPES, (True, False)))


@pytest.mark.parametrize(("place", "dtype", "wide"), COMBINATIONS)
def test_each_dtype_in_each_place_works_or_is_refused(place, dtype, wide):
    wanted = expected(place, dtype, wide)
    with jax.enable_x64(wide):
        if isinstance(wanted, tuple):
            with pytest.raises(wanted[0], match=wanted[1]) as caught:
                analyze(place, dtype, wide)
            assert WORDING.match(str(caught.value))
            assert str(caught.value).startswith("`matrices`" if place == "chain" else f"`{place}")
            return
        if place in ("h0", "chain") and dtype in HALF:
            with pytest.warns(gh.PrecisionWarning, match=f"stored in {dtype}"):
                chain = analyze(place, dtype, wide)
        else:
            chain = analyze(place, dtype, wide)
        stored = dtype if place in ("h0", "chain") and dtype != "complex64" else wanted
        assert (chain.dtype, chain.storage_dtype) == (wanted, np.dtype(jnp.dtype(stored)))
        assert chain.items[0].dtype == wanted if place != "chain" else chain.items.dtype == wanted
        pairs = 2 if (place, dtype) == ("h0", "complex64") else 1
        assert chain.size == (1 if place == "chain" else 2 * pairs)


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", True), ("float16", False)])
def test_half_precision_matrices_are_exact_and_their_bars_are_those_of_the_format(dtype, wide):
    """σ of diag(1, 1/4) is known; rounding entries by eps/2 each moves ln σ by eps/2 per step."""
    eps = float(jnp.finfo(dtype).eps)
    with jax.enable_x64(wide), pytest.warns(gh.PrecisionWarning):
        spectrum = gh.singular_spectrum(of(dtype, [np.diag([1.0, 0.25])] * 2), throw=True)
    assert spectrum.log_values.dtype == ("float64" if wide else "float32")
    known = np.asarray(spectrum.resolved)
    exact = np.array([0.0, 2 * np.log(0.25)])
    assert np.all(np.abs(np.asarray(spectrum.log_values) - exact)[known] <= 1e-6)
    assert np.all(np.asarray(spectrum.error_bars) >= 2 * eps)


def test_mixed_half_and_single_precision():
    """Parameters of few bits are exact as they are; a state of few bits is not."""
    h32, W16 = np.ones(2, np.float32), of("bfloat16", 0.5)
    chain = gh.jacobian_chain(lambda p, h, x: p.astype(h.dtype) * h, W16, h32, length=2)
    assert (chain.dtype, chain.storage_dtype) == (np.float32, np.float32)
    mixed = {"a": h32, "b": of("float16", [1.0])}
    with pytest.warns(gh.PrecisionWarning, match="stored in float16: .* promoted to float64"):
        chain = gh.jacobian_chain(
            lambda p, h, x: jax.tree.map(lambda a: p.astype(a.dtype) * a, h), W16, mixed, length=2
        )
    assert (chain.dtype, chain.storage_dtype) == (np.float64, np.float16)
    assert np.array_equal(chain.matrices()[0], 0.5 * np.eye(3))


def test_a_half_precision_network_is_analyzed_end_to_end():
    """h ← h/2 in bfloat16 is exact: every step halves, ten steps are beyond 1e-3."""
    start = of("bfloat16", [1.0, 2.0])
    halving = (lambda p, h, x: p * h, of("bfloat16", 0.5), start)
    cell = gh.cells.elman(2, 0, dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0))
    for function, network in (
        (gh.diagnose, halving),
        (gh.predict, (cell.step, params, cell.initial_state())),
    ):
        with pytest.warns(gh.PrecisionWarning) as warned:
            result = function(*network, length=12)
        assert len(warned) == 1
        assert result.status == gh.Status.OK
        if network is halving:
            assert result.regime is gh.Regime.VANISHING
            assert abs(float(result.rate) - np.log(0.5)) <= 1e-12
            assert all(check.passed for check in result.checks)
    with pytest.warns(gh.PrecisionWarning, match="`W` is stored in bfloat16"):
        assert gh.analyze_matrix(params["W"]).spectral_radius.dtype == np.float64


def test_integers_that_32_bits_cannot_hold():
    with jax.enable_x64(False):
        tokens = np.array([0, 2**40])
        with pytest.raises(
            ValueError, match="`xs` must fit into 32 bits .* Received 1099511627776"
        ):
            gh.unroll(lambda p, h, x: h, np.float32(1), np.float32(1), tokens)
        with pytest.raises(ValueError, match=r"`h0\['n'\]` must fit into 32 bits"):
            gh.unroll(lambda p, h, x: h, (), {"h": np.float32(1), "n": 2**31}, length=1)
        assert gh.unroll(lambda p, h, x: h, (), np.float32(1), np.array([1, 2])).status == 0


def test_lists_of_python_numbers_take_the_default_precision():
    for wide, kind in ((True, "float64"), (False, "float32")):
        with jax.enable_x64(wide):
            assert gh.transition_norms([[[0.5]], [[2.0]]]).dtype == kind
            assert gh.unroll(lambda p, h, x: p * h, 0.5, 1.0, length=1).states.dtype == kind
