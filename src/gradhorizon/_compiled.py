"""How analyses are compiled: full matrix-product precision, one BLAS thread, blocked results."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradhorizon._checks import is_concrete, worded


@functools.cache
def _threadpools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def compiled(function: Callable[..., Any] | None = None, *, static: tuple[str, ...] = ()) -> Any:
    """Compile a pure analysis function with `jax.jit`.

    Every matrix product inside runs at precision "highest": accelerators otherwise round its
    factors to 10 or 7 bits, which costs up to several nats over a few hundred steps. Called
    with concrete arrays it also limits BLAS to one thread (the factorizations are small and
    batched, more threads slow them down) and waits for the result, because a later NumPy
    linear-algebra call must not race an unfinished one of JAX.

    Parameters
    ----------
    function
        The function to compile.
    static
        Names of its keyword arguments that are hashable settings.

    Returns
    -------
    Callable
        The compiled function.
    """
    if function is None:
        return functools.partial(compiled, static=static)

    @functools.wraps(function)
    def precise(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    traced = jax.jit(precise, static_argnames=static)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_concrete((args, kwargs)):
            return traced(*args, **kwargs)
        try:
            with _threadpools().limit(limits=1, user_api="blas"):
                return jax.block_until_ready(traced(*args, **kwargs))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            remedy = "Use fewer steps or a smaller state."
            wanted = "fit into the memory of the device"
            received = str(error).splitlines()[0]
            raise MemoryError(worded("chain", wanted, received, remedy)) from error

    return call
