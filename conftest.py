"""The test session's settings, made once: x64, strict promotion, shape-checked signatures."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_hook = install_import_hook("gradhorizon", "beartype.beartype")

import jax
import jaxtyping
import matplotlib as mpl
import pytest

mpl.use("Agg")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _few_programs():
    """Drop compiled programs before they exhaust the memory maps of the process (65,530)."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def unchecked_types():
    """Switch the shape-checked signatures off, so that the package's own errors are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
