"""Bad input: the exception, the words, and nothing compiled before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from refusals import WORDING, refused

pytestmark = pytest.mark.usefixtures("unchecked_types")

W = np.eye(3)
XS = np.zeros((4, 3))


def good(params, h, x):
    return jnp.tanh(params @ h + x)


def shrink(params, h, x):
    return jnp.tanh(params @ h + x)[:2]


def to_float32(params, h, x):
    return jnp.tanh(params @ h + x).astype(jnp.float32)


def to_pair(params, h, x):
    new = jnp.tanh(params @ h + x)
    return new, new


def branch(params, h, x):
    return jnp.tanh(params @ h) if x[0] > 0 else h


NAN = np.array([0.0, np.nan, 0.0])
BAD = {
    "step is not a function": (
        ("step", W, np.zeros(3), XS),
        TypeError,
        r"`step` must be a function",
    ),
    "step changes the shape": (
        (shrink, W, np.zeros(3), XS),
        ValueError,
        r"`h0` must keep its shape .* float64\[3\]; `step` returned float64\[2\]",
    ),
    "step changes the dtype": (
        (to_float32, W, np.zeros(3), XS),
        ValueError,
        r"`h0` must keep .* returned float32\[3\]",
    ),
    "step changes the structure": (
        (to_pair, W, np.zeros(3), XS),
        ValueError,
        r"`h0` must have the structure that `step` returns. Received float64\[3\]; `step` returned "
        r"\(float64\[3\], float64\[3\]\)",
    ),
    "wrong state size": (
        (good, W, np.zeros(4), XS),
        ValueError,
        r"`step` must accept \(params, h, x\) with h of float64\[4\]",
    ),
    "wrong input size": (
        (good, W, np.zeros(3), np.zeros((4, 2))),
        ValueError,
        r"x of float64\[2\]",
    ),
    "integer state": (
        (good, W, np.zeros(3, int), XS),
        TypeError,
        r"`h0` must be floating point. Received int64\[3\]",
    ),
    "boolean state": (
        (good, W, np.zeros(3, bool), XS),
        TypeError,
        r"`h0` must be floating point. Received bool\[3\]",
    ),
    "no state": ((good, W, (), XS), TypeError, r"`h0` must be floating point. Received an empty"),
    "state of size 0": (
        (lambda p, h, x: h, W, np.zeros(0), XS),
        ValueError,
        r"`h0` must have at least one entry",
    ),
    "integer params": (
        (good, np.eye(3, dtype=int), np.zeros(3), XS),
        TypeError,
        r"`params` must be floating point. Received int64\[3,3\]",
    ),
    "params are a string": (
        (good, {"W": "wide"}, np.zeros(3), XS),
        TypeError,
        r"`params\['W'\]` must be an array of numbers. Received str: wide",
    ),
    "NaN in params": (
        (good, np.diag(NAN), np.zeros(3), XS),
        ValueError,
        r"`params\[1, 1\]` must be finite. Received nan",
    ),
    "NaN in h0": ((good, W, NAN, XS), ValueError, r"`h0\[1\]` must be finite"),
    "inf in xs": (
        (good, W, np.zeros(3), np.where(np.arange(12).reshape(4, 3) == 7, np.inf, 0)),
        ValueError,
        r"`xs\[2, 1\]` must be finite. Received inf",
    ),
    "float32 parameters beside a float64 state": (
        (good, W.astype(np.float32), np.zeros(3), XS),
        ValueError,
        r"`params` must have the precision of `h0`, float64",
    ),
    "xs without time axis": (
        (lambda p, h, x: h, W, np.zeros(3), 3.0),
        ValueError,
        r"`xs` must have a leading time axis",
    ),
    "no length": (
        (lambda p, h, x: h, W, np.zeros(3), None),
        ValueError,
        r"`length` must be given when there is no `xs`",
    ),
    "branch on a value": (
        (branch, W, np.zeros(3), XS),
        ValueError,
        r"`step` must not branch on traced values.*jax\.lax\.cond",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_networks_are_refused_in_words(name):
    arguments, kind, words = BAD[name]
    for function in (gh.unroll, gh.jacobian_chain, gh.diagnose):
        with refused(kind, words):
            function(*arguments)


def test_lengths_that_disagree():
    with pytest.raises(ValueError, match=r"`xs` must have 9 steps, as `length` says. Received 4"):
        gh.unroll(good, W, np.zeros(3), XS, length=9)
    layers = np.broadcast_to(W, (5, 3, 3))
    with pytest.raises(ValueError, match=r"`params` must have 4 steps, as `xs` says"):
        gh.unroll(good, layers, np.zeros(3), XS, tied=False)
    with pytest.raises(ValueError, match="`length` must be at least 0. Received -1"):
        gh.unroll(lambda p, h, x: h, W, np.zeros(3), length=-1)
    with pytest.raises(TypeError, match="`length` must be an integer"):
        gh.unroll(lambda p, h, x: h, W, np.zeros(3), length=2.0)


BAD_CHAINS = {
    "integer": (np.ones((4, 3, 3), int), TypeError, "`matrices` must be real and floating"),
    "complex": (np.ones((4, 3, 3), complex), TypeError, "`matrices` must be real and floating"),
    "boolean": (np.ones((4, 3, 3), bool), TypeError, "`matrices` must be real and floating"),
    "not square": (np.ones((4, 3, 2)), ValueError, r"`matrices` must have shape \(T, n, n\)"),
    "one matrix": (np.ones((3, 3)), ValueError, r"`matrices` must have shape .*Put time first"),
    "batch": (np.ones((2, 4, 3, 3)), ValueError, r"batch with jax\.vmap"),
    "no rows": (np.ones((4, 0, 0)), ValueError, r"`matrices` must have shape"),
    "NaN": (np.full((4, 2, 2), np.nan), ValueError, r"`chain\[0, 0, 0\]` must be finite"),
}


@pytest.mark.parametrize("name", list(BAD_CHAINS))
def test_bad_chains_are_refused_in_words(name):
    chain, kind, words = BAD_CHAINS[name]
    for analyze in (
        gh.lyapunov_spectrum,
        gh.singular_spectrum,
        gh.transition_norms,
        lambda c: gh.backpropagate(c, np.ones(2)),
    ):
        with pytest.raises(kind, match=words) as caught:
            analyze(chain)
        assert WORDING.match(str(caught.value))


def test_bad_arguments_of_analyses():
    J = np.broadcast_to(np.eye(3), (5, 3, 3))
    with pytest.raises(ValueError, match="`k` must lie between 1 and 3. Received 4"):
        gh.lyapunov_spectrum(J, 4)
    with pytest.raises(ValueError, match="`k` must lie between 1 and 3. Received 0"):
        gh.lyapunov_spectrum(J, 0)
    with pytest.raises(ValueError, match="`burn_in` must lie between 0 and 4. Received 5"):
        gh.lyapunov_spectrum(J, burn_in=5)
    with pytest.raises(ValueError, match="`orthonormalize_every` must be at least 1"):
        gh.lyapunov_spectrum(J, orthonormalize_every=0)
    with pytest.raises(ValueError, match="`orthonormalize_every` must be a number of steps or"):
        gh.lyapunov_spectrum(J, orthonormalize_every="often")
    with pytest.raises(ValueError, match="`cotangent` must have n = 3 entries. Received 2"):
        gh.backpropagate(J, np.ones(2))
    with pytest.raises(TypeError, match="`cotangent` must be floating point"):
        gh.backpropagate(J, np.ones(3, int))
    with pytest.raises(ValueError, match="`mode` must be one of auto, forward, reverse"):
        gh.jacobian_chain(good, W, np.zeros(3), XS, mode="backward")
    for threshold in (0.0, 1.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="`threshold` must lie strictly between 0 and 1"):
            gh.diagnose(good, W, np.zeros(3), XS, threshold=threshold)
    with pytest.raises(ValueError, match="`lag` must be at least 1"):
        gh.predict(good, W, np.zeros(3), XS, lag=0)
    with pytest.raises(ValueError, match="`loss` must return one real scalar. Received float64"):
        gh.gradient_profile(good, W, np.zeros(3), XS, lambda hs: hs[-1])
    with pytest.raises(TypeError, match="`loss` must be a function"):
        gh.gradient_profile(good, W, np.zeros(3), XS, "mse")
    with pytest.raises(ValueError, match="`loss` must depend on the last state"):
        gh.diagnose(good, W, np.zeros(3), XS, loss=lambda hs: jnp.sum(hs[0]))
    for bad, words in (
        (np.ones((2, 3)), "`W` must be square"),
        (np.full((2, 2), np.inf), r"`W\[0, 0\]` must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            gh.analyze_matrix(bad)
    with pytest.raises(TypeError, match="`W` must be real and floating point"):
        gh.analyze_matrix(np.eye(2, dtype=int))


def overflow_at_seven(params, h, x):
    return jnp.where(x == 7.0, jnp.log(-jnp.ones_like(h)), params * h)


def test_nan_that_appears_on_the_way_is_named_by_step():
    xs = np.arange(1.0, 13.0)
    arguments = (overflow_at_seven, 0.9, np.ones(2), xs)
    trajectory = gh.unroll(*arguments)
    assert trajectory.status == gh.Status.NONFINITE
    assert trajectory.first_bad_step == 7
    with pytest.raises(gh.NumericalError, match=r"Step t = 7 of the chain must be finite"):
        gh.diagnose(*arguments)
    chain = gh.jacobian_chain(*arguments)
    for analyze in (
        gh.lyapunov_spectrum,
        gh.singular_spectrum,
        lambda c, throw: gh.backpropagate(c, np.ones(2), throw=throw),
    ):
        with pytest.raises(gh.NumericalError, match="Step t = 7"):
            analyze(chain, throw=True)
        record = analyze(chain, throw=False)
        assert record.status == gh.Status.NONFINITE
        assert record.first_bad_step == 7
    assert np.all(np.isnan(gh.lyapunov_spectrum(chain, throw=False).exponents))
    silent = gh.diagnose(*arguments, throw=False)
    assert silent.regime is None
    assert str(silent).startswith("NONFINITE (step 7)")


def test_jacobian_that_is_nan_at_a_kink_is_named_by_step():
    """The state stays finite; d sqrt at 0 is infinite: 0 · inf = NaN in the Jacobian of step 3."""

    def kink(params, h, x):
        return params * h + x * jnp.sqrt(jnp.abs(h - h))

    xs = np.array([0.0, 0.0, 1.0, 0.0])
    chain = gh.jacobian_chain(
        lambda p, h, x: jnp.where(x > 0, kink(p, h, x), p * h), 0.5, np.ones(2), xs
    )
    assert np.all(np.isfinite(gh.unroll(kink, 0.5, np.ones(2), xs).states))
    assert gh.lyapunov_spectrum(chain, throw=False).status == gh.Status.NONFINITE


def test_one_nan_entry_never_gives_a_finite_exponent():
    """QR of a matrix with a NaN above the diagonal keeps finite diagonal entries."""
    J = np.broadcast_to(0.5 * np.eye(3), (20, 3, 3)).copy()
    J[10, 0, 1] = np.nan
    for k in (1, 3):
        record = gh.lyapunov_spectrum(J, k, throw=False)
        assert np.all(np.isnan(record.exponents))
        assert record.first_bad_step == 11
    assert gh.backpropagate(J, np.ones(3), throw=False).first_bad_step == 11


def test_no_steps_is_the_identity_with_a_status():
    J = np.zeros((0, 3, 3))
    spectrum = gh.lyapunov_spectrum(J)
    assert spectrum.status == gh.Status.EMPTY
    assert np.all(np.isnan(spectrum.exponents))
    singular = gh.singular_spectrum(J)
    assert singular.status == gh.Status.EMPTY
    assert np.array_equal(singular.log_values, np.zeros(3))
    assert np.array_equal(gh.transition_norms(J), np.zeros(1))
    trajectory = gh.unroll(good, W, np.zeros(3), np.zeros((0, 3)))
    assert trajectory.status == gh.Status.EMPTY
    assert trajectory.states.shape == (1, 3)
    diagnosis = gh.diagnose(good, W, np.zeros(3), np.zeros((0, 3)))
    assert diagnosis.status == gh.Status.EMPTY
    assert diagnosis.regime is None
    assert str(diagnosis).startswith("EMPTY")


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_promoted_with_a_warning(dtype):
    params, h0 = jnp.eye(3, dtype=dtype), jnp.full(3, 0.5, dtype)
    xs = jnp.zeros((5, 3), dtype)
    with pytest.warns(gh.PrecisionWarning, match="promoted to float64"):
        chain = gh.jacobian_chain(good, params, h0, xs)
    assert chain.matrices().dtype == jnp.float64
    assert chain.storage_dtype == dtype
    with pytest.warns(gh.PrecisionWarning, match="matrices are stored in"):
        assert gh.lyapunov_spectrum(jnp.ones((4, 1, 1), dtype)).exponents.dtype == jnp.float64


def test_float64_without_x64_is_refused_rather_than_truncated():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"`params` must be float32 while JAX's x64 mode"):
            gh.unroll(good, W, np.zeros(3), XS)
        with pytest.raises(ValueError, match=r"`matrices` must be float32 while JAX's x64"):
            gh.lyapunov_spectrum(np.ones((4, 2, 2)))
        W32, h32, xs32 = (a.astype(np.float32) for a in (W, np.zeros(3), XS))
        assert gh.unroll(good, W32, h32, xs32).states.dtype == jnp.float32


def test_integer_inputs_are_tokens():
    table = np.linspace(0, 1, 6).reshape(3, 2)
    chain = gh.jacobian_chain(
        lambda p, h, token: jnp.tanh(h + p[token]), table, np.zeros(2), np.array([0, 2, 1])
    )
    assert chain.matrices().shape == (3, 2, 2)
