"""How a bad input must be refused: the kind, the words, nothing compiled and no file written."""

import contextlib
import os
import re
import sys

import jax
import pytest

WORDING = re.compile(r"^`[^`]+` must .+\. Received .+\.( .+\.)?$", re.S)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_written: list[str] | None = None


def _watch_files(event, arguments):
    """Note every file opened for writing while somebody watches; bytecode caches do not count."""
    if _written is None or event != "open":
        return
    path, mode, flags = arguments
    writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
    if writes and not str(path).endswith(".pyc") and "__pycache__" not in str(path):
        _written.append(str(path))


sys.addaudithook(_watch_files)


@contextlib.contextmanager
def nothing_happens():
    """Fail if a program is compiled or a file opened for writing inside."""
    global _written
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        name = str(about.get("fun_name", "?"))
        # jnp.asarray compiles a copy, once for each shape: which test is the first does not matter
        if event == "/jax/core/compile/backend_compile_duration" and name != "jit(stage)":
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    _written = written = []
    try:
        yield
    finally:
        _written = None
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled, f"compiled: {', '.join(compiled)}"
    assert not written, written


@contextlib.contextmanager
def refused(kind, words):
    """Expect an exception of a kind in the package's words before anything else happens."""
    with nothing_happens(), pytest.raises(kind, match=words) as caught:
        yield caught
    assert WORDING.match(str(caught.value)), str(caught.value)
