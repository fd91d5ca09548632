"""Chains whose singular spectrum is known, and exact arithmetic for those where it is not."""

import math

import mpmath
import numpy as np

_FOUR = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0


def dyadic(n, steps, *, seed=0, ordered=True):
    """Give J_t = O_t diag(2^k_t) O_{t-1}ᵀ with signed, permuted Hadamard matrices O_t, n = 4^a.

    Every entry is exact in float32 and float64. The exact ln σ_i of the product is
    ln 2 · Σ_t k_t,i; with `ordered` the k_t descend at every t, else the chain is
    ill-conditioned and most digits are lost in any floating-point arithmetic.
    """
    rng = np.random.default_rng(seed)
    hadamard = np.ones((1, 1))
    for _ in range(round(math.log(n, 4))):
        hadamard = np.kron(hadamard, _FOUR)

    def frame():
        signed = rng.choice([-1.0, 1.0], n)[:, None] * hadamard
        return signed[rng.permutation(n)][:, rng.permutation(n)]

    powers = rng.integers(-3, 4, (steps, n))
    if ordered:
        powers = -np.sort(-powers, axis=1)
    chain, before = np.empty((steps, n, n)), frame()
    for t in range(steps):
        after = frame()
        chain[t] = (after * 2.0 ** powers[t]) @ before.T
        before = after
    return chain, np.sort(powers.sum(axis=0))[::-1] * math.log(2.0)


def generic(kind, n=8, steps=100, seed=0):
    """Give a chain of a named kind; its spectrum comes from `exact_log_singular_values`."""
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(n, n)) / math.sqrt(n)
    if kind == "gaussian":
        return rng.normal(size=(steps, n, n)) / math.sqrt(n)
    if kind == "tied":
        return np.broadcast_to(one, (steps, n, n))
    if kind == "tanh":
        h, chain = rng.normal(size=n), []
        for _ in range(steps):
            h = np.tanh(1.5 * one @ h)
            chain.append((1 - h**2)[:, None] * 1.5 * one)
        return np.stack(chain)
    if kind == "near identity":
        return np.eye(n) + 0.02 * rng.normal(size=(steps, n, n))
    if kind == "orthogonal":
        return np.linalg.qr(rng.normal(size=(steps, n, n)))[0]
    if kind == "triangular":
        return np.broadcast_to(np.triu(one), (steps, n, n))
    if kind == "jordan":
        return np.broadcast_to(0.9 * np.eye(n) + np.eye(n, k=1), (steps, n, n))
    half = (steps - 1) // 2
    D = np.diag(np.linspace(0.5, 2.0, n))
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    back = np.broadcast_to(D[::-1, ::-1], (half, n, n))
    return np.concatenate([np.broadcast_to(D, (half, n, n)), Q[None], back])


KINDS = (
    "gaussian", "tied", "tanh", "near identity", "orthogonal", "triangular", "jordan", "hourglass",
)  # fmt: skip


def exact_log_singular_values(chain):
    """Multiply the float matrices as exact integers, and take the SVD in mpmath."""
    n = chain.shape[1]
    product, scale = np.array([[int(i == j) for j in range(n)] for i in range(n)], object), 0
    for matrix in np.asarray(chain, float):
        exponent = max(1, *(1074 - 52 - math.frexp(v)[1] for v in matrix.ravel() if v)) - 900
        shift = max(60, min(1074, exponent))
        integers = np.empty((n, n), object)
        for i in range(n):
            for j in range(n):
                top, bottom = float(matrix[i, j]).as_integer_ratio()
                assert (1 << shift) % bottom == 0
                integers[i, j] = top * ((1 << shift) // bottom)
        product, scale = integers.dot(product), scale + shift
        # keep numbers short without rounding: strip common factors of two
        common = min(((int(v) & -int(v)).bit_length() - 1 for v in product.ravel() if v), default=0)
        product, scale = product // (1 << common), scale - common
    bits = max(int(v).bit_length() for v in product.ravel())
    precision = 200
    while True:  # the SVD is accurate relative to the largest value: look at the smallest
        with mpmath.workprec(precision):
            values = mpmath.svd_r(mpmath.matrix(product.tolist()), compute_uv=False)
            least = min(values)
            spread = mpmath.log(max(values) / least, 2) if least > 0 else mpmath.inf
            if spread < precision - 100 or precision > 3 * bits:
                logs = [float(mpmath.log(v) - scale * mpmath.log(2)) for v in values]
                return np.array(sorted(logs, reverse=True))
        precision *= 2
