"""What is installed, where it runs, and whether LU and QR are right there."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from gradhorizon.products._lu import pivoted_lu
from gradhorizon.products._qr import positive_qr

_NAMES = ("random", "graded", "repeated columns")
_PACKAGES = ("gradhorizon", "jax", "jaxlib", "numpy", "scipy", "optax", "matplotlib")


def run_doctor() -> int:
    """Print the findings; the exit code is 3 if a factorization is wrong on this device."""
    out = sys.stdout.write
    out(f"python       {platform.python_version()} on {platform.platform()}\n")
    for name in _PACKAGES:
        out(f"{name:<12} {importlib.metadata.version(name)}\n")
    for device in jax.devices():
        out(f"device       {device.device_kind} ({device.platform}:{device.id})\n")
    x64 = "on" if jax.config.read("jax_enable_x64") else "off (float32 unless switched on)"
    out(f"x64          {x64}\n")
    out(f"cores        {os.cpu_count()}\n")
    for pool in threadpoolctl.threadpool_info():
        out(f"threads      {pool['num_threads']} in {pool['internal_api']} ({pool['user_api']})\n")
    tests = (lu_self_test, qr_self_test)
    findings = [line for dtype in _dtypes() for test in tests for line in test(dtype)]
    for line, passed in findings:
        out(f"{'ok  ' if passed else 'FAIL'}         {line}\n")
    if all(passed for _, passed in findings):
        out("LU and QR on this device are accurate. Next: gradhorizon demo\n")
        return 0
    text = "A factorization is wrong on this device: its results cannot be trusted. Use the CPU.\n"
    sys.stderr.write(text)
    return 3


def _dtypes() -> list[np.dtype]:
    names = ["float32", "float64"] if jax.config.read("jax_enable_x64") else ["float32"]
    return [np.dtype(name) for name in names]


def _hard_matrices(dtype: np.dtype, n: int) -> jax.Array:
    """Give a random matrix, one with columns graded over 2⁴⁰, and one with repeated columns."""
    base = jax.random.normal(jax.random.key(0), (n, n), dtype)
    grades = jnp.asarray(2.0 ** np.linspace(0, -40, n), dtype)
    repeated = jnp.concatenate([base[:, : n // 2]] * 2, axis=1)
    return jnp.stack([base, base * grades[None], repeated])


Finding = tuple[str, bool]  # a line of text, and whether the test passed


def lu_self_test(dtype: np.dtype, n: int = 48) -> list[Finding]:
    """Factorize hard matrices by LU, column by column to rounding of that column.

    Bounds: each column of B - L R below 60 n eps times that of B, |L| ≤ 1, R upper triangular,
    the pivot rows a permutation, and a batch factorized at once within the first bound.

    Parameters
    ----------
    dtype
        float32 or float64.
    n
        The size of the matrices.

    Returns
    -------
    list
        Pairs of a line of text and whether the test passed.
    """
    stack, bound = _hard_matrices(dtype, n), 60 * n * float(jnp.finfo(dtype).eps)

    def judge(matrix: Any, alone: Any, batched: Any) -> Finding:
        sizes = jnp.linalg.norm(matrix, axis=0)
        worst = max(
            float(jnp.max(jnp.linalg.norm(matrix - lower @ upper, axis=0) / sizes))
            for lower, upper, _ in (alone, batched)
        )
        lower, upper, rows = alone
        passed = (
            worst <= bound
            and float(jnp.max(jnp.abs(lower))) <= 1
            and bool(jnp.all(jnp.tril(upper, -1) == 0))
            and sorted(rows.tolist()) == list(range(n))
        )
        return f"residual {worst:.1e}", passed

    return _self_test(f"LU {dtype}", stack, pivoted_lu, pivoted_lu(stack), judge)


def qr_self_test(dtype: np.dtype, n: int = 48) -> list[Finding]:
    """Factorize hard matrices by QR and check the factors.

    Bounds: ‖A - QR‖ ≤ 60 n eps ‖A‖, ‖I - QᵀQ‖ ≤ 30 n eps, R upper triangular, and a batch
    factorized at once equal to one by one within the first bound.

    Parameters
    ----------
    dtype
        float32 or float64.
    n
        The size of the matrices.

    Returns
    -------
    list
        Pairs of a line of text and whether the test passed.
    """
    stack, bound = _hard_matrices(dtype, n), 60 * n * float(jnp.finfo(dtype).eps)

    def judge(matrix: Any, alone: Any, batched: Any) -> Finding:
        (q, r), size = alone, jnp.linalg.norm(matrix)
        residual = float(jnp.linalg.norm(matrix - q @ r) / size)
        skew = float(jnp.linalg.norm(jnp.eye(n, dtype=dtype) - q.T @ q))
        difference = float(jnp.linalg.norm(batched[0] @ batched[1] - q @ r) / size)
        passed = (
            residual <= bound
            and skew <= bound / 2
            and difference <= bound
            and bool(jnp.all(jnp.tril(r, -1) == 0))
        )
        return f"residual {residual:.1e}, orthogonality {skew:.1e}", passed

    return _self_test(f"QR {dtype}", stack, positive_qr, jax.vmap(positive_qr)(stack), judge)


def _self_test(
    title: str,
    stack: jax.Array,
    factorize: Callable[[Any], tuple[Any, ...]],
    together: tuple[Any, ...],
    judge: Callable[[Any, Any, Any], Finding],
) -> list[Finding]:
    """Judge the factors of each matrix alone beside those of the batch."""
    findings = []
    for index, name in enumerate(_NAMES):
        batched = tuple(part[index] for part in together)
        with jax.default_matmul_precision("highest"):
            text, passed = judge(stack[index], factorize(stack[index]), batched)
        findings.append((f"{title} {name}: {text}", passed))
    return findings
