"""Whether a step is a pure function: traced twice, its two programs must be the same.

JAX gives the program of one function object from a cache, so each trace goes through a fresh
wrapper. What changes between two traces (`np.random`, the time of day, a Python counter) would be
frozen into the compiled network without a word. Side effects are read off the program.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradhorizon._checks import ArgumentError, describe, dtype_of, is_concrete, is_key, worded

_CONTROL_FLOW = {
    jax.errors.TracerBoolConversionError: (
        "not branch on traced values",
        "a Python `if`, `while`, `and` or `bool()`",
        "Use jax.lax.cond or jax.numpy.where.",
    ),
    jax.errors.TracerIntegerConversionError: (
        "not use traced values as Python integers",
        "an index into a Python list, or `range()`",
        "Index a jax.numpy array, or use jax.lax.fori_loop.",
    ),
    jax.errors.TracerArrayConversionError: (
        "not convert traced values to NumPy",
        "a NumPy function of a traced value",
        "Use jax.numpy.",
    ),
    jax.errors.NonConcreteBooleanIndexError: (
        "not select entries by a traced mask",
        "an array indexed by booleans, whose size depends on values",
        "Use jax.numpy.where.",
    ),
    jax.errors.ConcretizationTypeError: (
        "not convert traced values to Python numbers",
        "`int()`, `float()` or a shape that depends on values",
        "Keep them arrays; branch with jax.lax.cond or jax.numpy.where.",
    ),
    jax.errors.UnexpectedTracerError: (
        "not keep traced values between calls",
        "a value leaked from an earlier trace, in a list, an attribute or a global",
        "Carry it in the state.",
    ),
}
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class EffectWarning(UserWarning):
    """The step has a side effect that happens whenever an analysis evaluates the step."""


def trace(step: Callable[..., Any], params: Any, h0: Any, x: Any) -> tuple[core.ClosedJaxpr, Any]:
    """Trace a step, refuse one that is not pure, and give its program and its output's shapes.

    Raises
    ------
    ValueError
        If it raises, branches on traced values, differs between two traces, or talks to the host.
    """
    arguments = (params, h0, x)
    first, out = _traced(step, *arguments)
    difference = _difference(first, _traced(step, *arguments)[0])
    if difference:
        remedy = (
            "Pass random numbers and times in through `xs`, or carry a jax.random key in the "
            "state; keep no Python state."
        )
        wanted = "be deterministic: a pure function of params, h and x"
        raise ValueError(worded("step", wanted, f"two traces with {difference}", remedy))
    _require_no_effects(first)
    return first, out


def _traced(step: Callable[..., Any], params: Any, h0: Any, x: Any) -> tuple[Any, Any]:
    """Trace once through a fresh wrapper; whatever the step raises comes back in words."""
    states = ", ".join(describe(v) for v in jax.tree.leaves(h0))
    inputs = ", ".join(describe(v) for v in jax.tree.leaves(x)) or "None"

    def run() -> tuple[Any, Any]:
        wrapped = jax.make_jaxpr(lambda *arguments: step(*arguments), return_shape=True)
        program, out = wrapped(params, h0, x)
        for constant in program.consts:
            if not is_concrete(constant):
                jnp.expand_dims(constant, 0)  # fails if its trace has ended
        return program, out

    return in_words(
        "step",
        run,
        f"accept (params, h, x) with h of {states} and x of {inputs}",
        "Check the shapes of `params`, `h0` and `xs`; batch with jax.vmap.",
    )


def in_words(name: str, run: Callable[[], Any], requirement: str, remedy: str) -> Any:
    """Run a user's function; what it raises inside JAX comes back in words, chained.

    Raises
    ------
    ValueError
        If it raises anything but one of the package's own errors.
    """
    try:
        return run()
    except ArgumentError:
        raise
    except Exception as error:
        if is_word(error):
            raise
        known = (words for kind, words in _CONTROL_FLOW.items() if isinstance(error, kind))
        words = next(known, (requirement, f"{type(error).__name__}: {error}", remedy))
        raise ValueError(worded(name, *words)) from error


def is_word(error: BaseException) -> bool:
    """Say whether an error is already one of the package's worded ones."""
    text = str(error)
    return isinstance(error, (TypeError, ValueError)) and text[:1] == "`" and "` must " in text


def _difference(one: Any, other: Any) -> str:
    """Say in which constant or operation two closed programs differ; nothing if they do not."""
    for a, b in zip(one.consts, other.consts, strict=False):
        if not _same(a, b):
            return _unequal("constants", a, b)
    if len(one.consts) != len(other.consts):
        return f"{len(one.consts)} and {len(other.consts)} constants"
    return _unlike(one.jaxpr, other.jaxpr)


def _unlike(one: core.Jaxpr, other: core.Jaxpr) -> str:
    """Compare two programs operation by operation."""
    if len(one.eqns) != len(other.eqns):
        return f"{len(one.eqns)} and {len(other.eqns)} operations"
    pairs = dict(zip(one.invars + one.constvars, other.invars + other.constvars, strict=True))
    for a, b in zip(one.eqns, other.eqns, strict=True):
        if a.primitive is not b.primitive:
            return f"operations {a.primitive} and {b.primitive}"
        for u, v in zip(a.invars, b.invars, strict=True):
            if isinstance(u, core.Literal) and isinstance(v, core.Literal):
                if not _same(u.val, v.val):
                    return _unequal("constants", u.val, v.val)
            elif isinstance(u, core.Literal) or isinstance(v, core.Literal) or pairs[u] is not v:
                return f"operation {a.primitive} applied to different values"
        for u, v in zip(_programs(a.params), _programs(b.params), strict=True):
            inner = _difference(u, v) if isinstance(u, core.ClosedJaxpr) else _unlike(u, v)
            if inner:
                return inner
        pairs.update(zip(a.outvars, b.outvars, strict=True))
    for u, v in zip(one.outvars, other.outvars, strict=True):
        if isinstance(u, core.Literal) and isinstance(v, core.Literal) and not _same(u.val, v.val):
            return _unequal("results", u.val, v.val)
    return ""


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """Give the programs inside an operation: bodies of scans, branches, calls."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (core.Jaxpr, core.ClosedJaxpr)):
                yield part


def _same(a: Any, b: Any) -> bool:
    """Compare two constants; values traced by an outer transformation are compared by kind."""
    if a is b:
        return True
    if not is_concrete((a, b)):
        return np.shape(a) == np.shape(b) and dtype_of(a) == dtype_of(b)
    if is_key(a) and is_key(b):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _unequal(what: str, a: Any, b: Any) -> str:
    if np.size(a) != 1 or np.size(b) != 1:
        return f"{what} {describe(a)} and {describe(b)} of different values"
    return f"{what} {a} and {b}"


def _operations(program: Any, *, inside: bool = False) -> Iterator[tuple[Any, bool]]:
    """Walk over all operations; `inside` says whether one has a derivative rule of its own."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation, inside
        own = inside or equation.primitive.name in _CUSTOM
        for part in _programs(equation.params):
            yield from _operations(part, inside=own)


def _require_no_effects(program: core.ClosedJaxpr) -> None:
    """Refuse callbacks and writes; warn of prints."""
    names = [
        (equation.primitive.name, bool(equation.params.get("ordered")))
        for equation, custom in _operations(program)
        if not (custom and equation.primitive.name == "pure_callback")
    ]
    for name, ordered in names:
        shown = f"{'ordered ' if ordered else ''}{name}"
        if name == "pure_callback":
            remedy = "Write it with jax.numpy, or give it a derivative with jax.custom_jvp."
            raise ValueError(worded("step", "be differentiable", shown, remedy))
        if name == "io_callback" or (ordered and name.startswith("debug_")):
            raise ValueError(worded("step", "have no side effects", shown, "Remove it."))
    effects = sorted({type(effect).__name__ for effect in program.effects})
    written = [e for e in effects if e in ("WriteEffect", "AccumEffect", "ReadEffect")]
    if written:
        remedy = "Carry it in the state."
        shown = f"{', '.join(written)} on a mutable reference"
        raise ValueError(worded("step", "have no side effects", shown, remedy))
    if any(name.startswith("debug_") for name, _ in names):
        warnings.warn(
            "`step` calls jax.debug: it prints whenever an analysis evaluates the step, in any "
            "order and more than once.",
            EffectWarning,
            stacklevel=6,
        )


def computed_in(program: core.ClosedJaxpr, params: Any, h0: Any) -> np.dtype | None:
    """Give the narrowest float format that anything computed from the state passes through."""
    skipped, count = len(jax.tree.leaves(params)), len(jax.tree.leaves(h0))
    state = program.jaxpr.invars[skipped : skipped + count]
    found = _narrowest(program.jaxpr, {v for v in state if _real_format(v)})
    return min(found, key=width_of, default=None)


def width_of(dtype: Any) -> tuple[int, int]:
    """Order float formats by precision: bits, then digits."""
    info = jnp.finfo(dtype)
    return info.bits, info.nmant


def _real_format(variable: Any) -> np.dtype | None:
    dtype = getattr(variable.aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return None
    return np.dtype(jnp.finfo(dtype).dtype)


def _narrowest(program: core.Jaxpr, moving: set[Any]) -> set[np.dtype]:
    """Collect the float formats of everything that depends on the `moving` variables."""
    formats: set[np.dtype] = set()
    for equation in program.eqns:
        touched = [isinstance(v, core.Var) and v in moving for v in equation.invars]
        if not any(touched):
            continue
        moving.update(equation.outvars)
        formats.update(d for v in equation.outvars if (d := _real_format(v)) is not None)
        for part in _programs(equation.params):
            inner = getattr(part, "jaxpr", part)
            exact = len(inner.invars) == len(touched)
            used = inner.invars if not exact else []
            used = used or [v for v, t in zip(inner.invars, touched, strict=False) if t]
            formats |= _narrowest(inner, set(used))
    return formats
