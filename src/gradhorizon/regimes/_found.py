"""Finding the repeated term of a step that does not declare one.

A square parameter W is the repeated term if every step Jacobian is W with its rows scaled,
J_t = diag(s_t) W (the state is an activation), or with its columns scaled, J_t = W diag(s_t) (the
state is a pre-activation), or the same with Wᵀ. Whether that holds is checked on Jacobians of
the prefix to rounding; the scalings s_t are the slopes φ' that were met.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon._checks import dtype_of, leaf_name, wide_enough
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.regimes.criteria import Criterion, criterion, looks_random

_SAMPLES = 32  # Jacobians of the prefix that are looked at


class Found(NamedTuple):
    """A repeated term found in the parameters.

    Attributes
    ----------
    name
        The parameter as a user would write it.
    matrix
        W (or its transpose), shape (n, n).
    slopes
        The scalings s_t at the sampled steps, shape (steps, n).
    """

    name: str
    matrix: np.ndarray
    slopes: np.ndarray


def find_repeated_term(chain: JacobianChain, params: Any) -> Found | None:
    """Look among the parameters for the matrix that all step Jacobians contain."""
    n = chain.size
    candidates = [
        (leaf_name("params", path), np.asarray(leaf, wide_enough(dtype_of(leaf))))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if np.shape(leaf) == (n, n) and jnp.issubdtype(dtype_of(leaf), jnp.floating)
    ]
    if not candidates or chain.length == 0 or n < 2:
        return None
    steps = np.unique(np.linspace(1, chain.length, min(_SAMPLES, chain.length)).astype(int))
    jacobians = np.stack([np.asarray(chain.at(int(t)).matrix()) for t in steps])
    if not np.isfinite(jacobians).all():
        return None
    eps = float(jnp.finfo(chain.storage_dtype).eps)
    for name, leaf in candidates:
        for matrix in (leaf, leaf.T):
            slopes = _scalings(jacobians, matrix, eps)
            if slopes is None:
                slopes = _scalings(np.swapaxes(jacobians, 1, 2), matrix.T, eps)
            if slopes is not None:
                return Found(name, matrix, slopes)
    return None


def _scalings(jacobians: np.ndarray, matrix: np.ndarray, eps: float) -> np.ndarray | None:
    """Give s with J = diag(s) W for every J, or None if there is none to rounding by eps."""
    squares = np.sum(matrix**2, axis=1)
    slopes = np.einsum("tij,ij->ti", jacobians, matrix) / np.where(squares > 0, squares, 1)
    residual = np.linalg.norm(jacobians - slopes[:, :, None] * matrix[None], axis=(1, 2))
    size = np.linalg.norm(jacobians, axis=(1, 2))
    fits = bool(np.all(residual <= 100 * eps * size))
    return slopes if fits and size.max() > 0 else None


def of_found_term(found: Found, *, lag: int, threshold: float) -> tuple[Criterion, ...]:
    """Give the criteria of a found term; slopes are those met on the prefix, not a bound."""
    matrix, slopes = found.matrix, found.slopes
    n = matrix.shape[0]
    settings: dict[str, Any] = {"lag": lag, "threshold": threshold}
    steepest = float(np.max(np.abs(slopes)))
    step_norm = steepest * float(np.linalg.norm(matrix, 2))
    radius = float(np.max(np.abs(np.linalg.eigvals(matrix))))
    random = bool(looks_random(jnp.asarray(matrix)))
    chi = float(n * np.mean(matrix**2) * np.mean(slopes**2)) if random else float("nan")

    def make(name: str, kind: str, source: str, needs: str, value: float, **more: Any) -> Criterion:
        with np.errstate(divide="ignore"):
            rate = jnp.asarray(more.pop("factor", 1.0) * np.log(value), matrix.dtype)
        return criterion(name, kind, source, needs, value=value, rate=rate, **settings, **more)

    seen = "slopes as met on the prefix"
    return (
        make(
            "largest singular value × slope",
            "estimate",
            f"{found.name}, {seen}",
            "W, a prefix",
            step_norm,
            upper_bound=True,
        ),
        make("spectral radius", "asymptotic", f"{found.name}, slope 1", "W", radius),
        make(
            "mean field χ, measured slopes",
            "estimate",
            f"{found.name}, {seen}",
            "random W, a prefix",
            chi,
            factor=0.5,
        ),
    )
