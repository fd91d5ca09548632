"""The test session's settings, made once: x64, strict promotion, shape-checked signatures."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu") if os.environ.get("CI") else None

from jaxtyping import install_import_hook

_hook = install_import_hook("gradhorizon", "beartype.beartype")

import jax
import matplotlib as mpl

mpl.use("Agg")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
