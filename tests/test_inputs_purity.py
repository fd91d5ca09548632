"""A step must be a pure function: what JAX would freeze, print or leak is refused in words."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon.chain._purity import computed_in, trace
from refusals import nothing_happens, refused

pytestmark = pytest.mark.usefixtures("unchecked_types")
W, H, XS = np.eye(3) / 2, np.zeros(3), np.zeros((4, 3))


def good(params, h, x):
    return jnp.tanh(params @ h + x)


def identity_on_host(h):
    return jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(h.shape, h.dtype), h)


def count_up(params, h, x, counter=itertools.count()):  # noqa: B008 - the point of the test
    return h * next(counter)


def grow(params, h, x, seen=[]):  # noqa: B006 - the point of the test
    seen.append(0)
    for _ in seen:
        h = jnp.sin(h)
    return h


def alternate(params, h, x, turn=itertools.count()):  # noqa: B008 - the point of the test
    return jnp.sin(h) if next(turn) % 2 else jnp.cos(h)


def leak(params, h, x, kept=[]):  # noqa: B006 - the point of the test
    out = good(params, h, x) + (kept[-1] if kept else 0 * h)
    kept.append(h)
    return out


def in_scan(params, h, x):
    noise = np.random.standard_normal(3)  # noqa: NPY002 - what users write
    return jax.lax.scan(lambda a, _: (a * noise, None), h, None, length=2)[0]


def in_branch(params, h, x):
    scale = time.perf_counter()
    return jax.lax.cond(x[0] > 0, lambda a: a * scale, lambda a: a, h)


IMPURE = {
    "np.random array": lambda p, h, x: h + np.random.standard_normal(3),  # noqa: NPY002
    "np.random number": lambda p, h, x: h * np.random.rand(),  # noqa: NPY002
    "time": lambda p, h, x: h * time.perf_counter(),
    "counter": count_up,
    "operations added": grow,
    "other operation": alternate,
    "inside a scan": in_scan,
    "inside a branch": in_branch,
}


@pytest.mark.parametrize("name", list(IMPURE))
def test_steps_that_differ_between_two_traces_are_refused(name):
    for function in (gh.unroll, gh.jacobian_chain, gh.diagnose, gh.predict):
        with refused(ValueError, "`step` must be deterministic.*Received two traces with .*`xs`"):
            function(IMPURE[name], W, H, XS)


def _random_key_inside(params, h, x):
    return h + jax.random.normal(jax.random.key(0), (3,))


def _relu_with_rule():
    @jax.custom_jvp
    def host(h):
        return identity_on_host(h)

    host.defjvp(lambda p, t: (host(*p), t[0]))
    return lambda params, h, x: host(h)


TABLE, KEY = np.arange(6.0).reshape(2, 3), jax.random.key(3)
PURE = {
    "closed-over array": lambda p, h, x: h + TABLE[0],
    "closed-over key": lambda p, h, x: h + jax.random.uniform(KEY, (3,)),
    "key made inside": _random_key_inside,
    "NaN constant": lambda p, h, x: jnp.where(jnp.isnan(np.full(3, np.nan)), h, 0),
    "jitted": jax.jit(good),
    "custom rule over a callback": _relu_with_rule(),
    "scan and cond": lambda p, h, x: jax.lax.scan(
        lambda a, _: (jax.lax.cond(a[0] > 0, jnp.sin, jnp.cos, a), None), h, None, length=2
    )[0],
}


@pytest.mark.parametrize("name", list(PURE))
def test_pure_steps_pass(name):
    with nothing_happens():
        trace(PURE[name], W, H, XS[0])


def test_steps_over_values_traced_outside_pass():
    @jax.jit
    def through(scale):
        step = lambda params, h, x: params * h * scale  # noqa: E731
        return gh.unroll(step, 0.5, jnp.ones(2), length=2).states[-1]

    assert np.array_equal(through(4.0), [4.0, 4.0])
    gradient = jax.grad(lambda s: gh.unroll(lambda p, h, x: s * h, 0.5, 1.0, length=3).states[-1])
    assert gradient(2.0) == 12.0  # d s³/ds


CONTROL_FLOW = {
    "if": (lambda p, h, x: h if h[0] > 0 else -h, r"not branch on .*jax\.lax\.cond"),
    "while": (lambda p, h, x: [h := h / 2 for _ in iter(lambda: bool(h[0] < 1), False)][-1],
              r"not branch on .*while"),
    "and": (lambda p, h, x: h * (h[0] > 0 and x[0] > 0), r"not branch on .*jax\.numpy\.where"),
    "max": (lambda p, h, x: max(h[0], 0.0) * h, "not branch on"),
    "range": (lambda p, h, x: sum([h for _ in range(x[0].astype(int))]),
              r"not use traced values as Python integers.*fori_loop"),
    "list index": (lambda p, h, x: [h, -h][x[0].astype(int)],
                   "not use traced values as Python integers"),
    "int()": (lambda p, h, x: h * int(h[0]), r"not convert traced values to Python numbers"),
    "float()": (lambda p, h, x: h * float(h[0]), r"not convert traced .*Keep them arrays"),
    "shape": (lambda p, h, x: jnp.zeros(h[0].astype(int)), "accept .*concrete"),
    "np.sin": (lambda p, h, x: np.sin(h), r"not convert traced values to NumPy.*jax\.numpy"),
    "np.asarray": (lambda p, h, x: jnp.asarray(np.asarray(h)), "not convert traced .* NumPy"),
    "mask": (lambda p, h, x: h[h > 0], r"not select entries by a traced mask.*where"),
    "leak": (leak, r"not keep traced values between calls.*Carry it in the state"),
    "attribute": (lambda p, h, x: h.nothing, r"accept \(params, h, x\).*AttributeError"),
    "key": (lambda p, h, x: p["W"] @ h, r"accept \(params, h, x\) with h of float64\[3\]"),
    "two arguments": (lambda p, xs: xs, r"accept \(params, h, x\).*TypeError"),
    "assertion": (lambda p, h, x: 1 / 0, r"accept \(params, h, x\).*ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONTROL_FLOW))
def test_python_control_flow_is_refused_with_the_remedy_and_the_cause(name):
    step, words = CONTROL_FLOW[name]
    with refused(ValueError, f"`step` must {words}") as caught:
        gh.jacobian_chain(step, W, H, XS)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["if", "np.sin", "attribute"])
def test_a_loss_that_fails_is_refused_with_the_cause(name):
    body, words = CONTROL_FLOW[name]
    words = words if "accept" not in words else "accept the stacked states"
    with pytest.raises(ValueError, match=f"`loss` must {words}") as caught:
        gh.gradient_profile(good, W, H, XS, lambda hs: body(W, hs[0], XS[0])[0])
    assert caught.value.__cause__ is not None


def test_side_effects():
    from jax.experimental import io_callback

    def printing(params, h, x):
        jax.debug.print("h = {}", h)
        return good(params, h, x)

    def ordered(params, h, x):
        jax.debug.print("h = {}", h, ordered=True)
        return good(params, h, x)

    def writing(params, h, x):
        io_callback(lambda a: None, None, h)
        return good(params, h, x)

    def written(params, h, x):
        io_callback(lambda a: None, None, h, ordered=True)
        return good(params, h, x)

    def nested(params, h, x):
        return jax.lax.cond(x[0] > 0, lambda a: writing(params, a, x), lambda a: a, h)

    box = jax.new_ref(jnp.zeros(()))

    def mutating(params, h, x):
        box[...] = h[0]
        return good(params, h, x)

    for step, words in (
        (ordered, "have no side effects. Received ordered debug_"),
        (writing, "have no side effects. Received io_callback"),
        (written, "have no side effects. Received ordered io_callback"),
        (nested, "have no side effects. Received io_callback"),
        (mutating, "have no side effects. Received .*mutable reference"),
        (lambda p, h, x: identity_on_host(h), "be differentiable. Received pure_callback"),
    ):
        for function in (gh.unroll, gh.jacobian_chain):
            with refused(ValueError, f"`step` must {words}"):
                function(step, W, H, XS)
    with pytest.warns(gh.EffectWarning, match="`step` calls jax.debug") as warned:
        gh.unroll(printing, W, H, XS)
    assert len(warned) == 1


def test_leaked_values_are_refused():
    leaked = []
    jax.eval_shape(lambda a: leaked.append(a) or a, H)
    jax.eval_shape(lambda a: leaked.append(a) or a, np.zeros((2, 2, 2)))
    with refused(ValueError, "`h0` must be a value of this computation.*leaked"):
        gh.unroll(good, W, leaked[0], XS)
    with refused(ValueError, "`matrices` must be a value of this computation.*leaked"):
        gh.lyapunov_spectrum(leaked[1])


def test_whole_sequence_layers_have_no_step():
    class Bidirectional:
        def __call__(self, xs):
            return xs

    class Unhashable:
        __hash__ = None

        def __call__(self, params, h, x):
            return (params, h, x)[1]

    for function in (gh.unroll, gh.diagnose):
        with refused(ValueError, "`step` must be causal.*Bidirectional.*has no horizon"):
            function(Bidirectional(), W, H, XS)
        with refused(TypeError, "`step` must be hashable.*def step"):
            function(Unhashable(), W, H, XS)
        with refused(ValueError, r"`step` must accept \(params, h, x\)"):  # a whole-sequence layer
            function(lambda params, xs: xs, W, H, XS)
        with refused(ValueError, "`h0` must keep its shape"):  # one that stacks its states
            function(lambda p, h, x: jnp.stack([h, h]), W, H, XS)


def test_a_batch_of_states_is_refused_or_named():
    cell = gh.cells.elman(3, 3, dtype=np.float64)
    params = cell.init(jax.random.key(0))
    with refused(ValueError, r"`h0` must have shape \(3,\).*Batch with jax\.vmap"):
        gh.jacobian_chain(cell.step, params, np.zeros((5, 3)), np.zeros((4, 5, 3)))

    def batched(params, h, x):
        return jnp.tanh(h @ params.T + x)

    with pytest.warns(
        gh.BatchWarning, match=r"looks like a batch of 5 states.*jax\.vmap"
    ) as warned:
        gh.unroll(batched, W, np.zeros((5, 3)), np.zeros((4, 5, 3)))
    assert len(warned) == 1

    def matrix_state(params, h, x):  # fast weights: rows interact, one row alone is no state
        return jnp.tanh(h @ h.T @ params + jnp.outer(x, x))

    gh.unroll(matrix_state, W, np.eye(3), XS)


@pytest.mark.parametrize("inner", [jnp.bfloat16, np.float16, np.float32])
def test_the_narrowest_format_inside_a_step_decides_its_precision(inner):
    def narrow(params, h, x):
        return jax.jit(lambda a: jnp.tanh(params.astype(inner) @ a.astype(inner)))(h).astype(
            h.dtype
        )

    def wide(params, h, x):  # a mask and a token of few bits that no state enters
        return jnp.tanh(params @ h) * (x.astype(inner) > 0).astype(h.dtype)

    for step, expected in ((narrow, inner), (wide, np.float64)):
        assert computed_in(trace(step, W, H, XS[0])[0], W, H) == np.dtype(expected)
    with pytest.warns(gh.PrecisionWarning, match=f"computes in {np.dtype(inner)} though") as warned:
        chain = gh.jacobian_chain(narrow, W, H, XS)
    assert len(warned) == 1
    assert chain.storage_dtype == np.dtype(inner)
    assert chain.dtype == np.float64
