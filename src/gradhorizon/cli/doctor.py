"""What is installed, where it runs, and whether LU and QR are right there."""

import importlib.metadata
import os
import platform
import sys

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


def lu_self_test(dtype: np.dtype, n: int = 48) -> list[tuple[str, bool]]:
    """Factorize the same matrices by LU, column by column to rounding of that column.

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
    stack, eps = _hard_matrices(dtype, n), float(jnp.finfo(dtype).eps)
    batch = pivoted_lu(stack)
    results = []
    for index, name in enumerate(_NAMES):
        matrix = stack[index]
        with jax.default_matmul_precision("highest"):
            parts = (pivoted_lu(matrix), tuple(part[index] for part in batch))
            losses = [
                jnp.max(
                    jnp.linalg.norm(matrix - lower @ upper, axis=0)
                    / jnp.linalg.norm(matrix, axis=0)
                )
                for lower, upper, _ in parts
            ]
        (lower, upper, rows), worst = parts[0], max(map(float, losses))
        passed = (
            worst <= 60 * n * eps
            and float(jnp.max(jnp.abs(lower))) <= 1
            and bool(jnp.all(jnp.tril(upper, -1) == 0))
            and sorted(rows.tolist()) == list(range(n))
        )
        results.append((f"LU {dtype} {name}: residual {worst:.1e}", passed))
    return results


def qr_self_test(dtype: np.dtype, n: int = 48) -> list[tuple[str, bool]]:
    """Factorize random, graded and rank-deficient matrices and check the factors.

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
    stack, eps = _hard_matrices(dtype, n), float(jnp.finfo(dtype).eps)
    together = jax.vmap(positive_qr)(stack)
    results = []
    for index, name in enumerate(_NAMES):
        with jax.default_matmul_precision("highest"):
            q, r = positive_qr(stack[index])
            size = jnp.linalg.norm(stack[index])
            residual = jnp.linalg.norm(stack[index] - q @ r) / size
            skew = jnp.linalg.norm(jnp.eye(n, dtype=dtype) - q.T @ q)
            batched = jnp.linalg.norm(together[0][index] @ together[1][index] - q @ r) / size
        passed = (
            float(residual) <= 60 * n * eps
            and float(skew) <= 30 * n * eps
            and float(batched) <= 60 * n * eps
            and bool(jnp.all(jnp.tril(r, -1) == 0))
        )
        text = f"QR {dtype} {name}: residual {float(residual):.1e}, orthogonality {float(skew):.1e}"
        results.append((text, passed))
    return results
