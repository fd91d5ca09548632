"""HiPPO-LegS: its matrix, its exact spectrum, and what making it discrete does to eigenvalues.

Convention: A has negative eigenvalues, dc/dt = A c + B f, in the coordinates of orthonormal
Legendre polynomials (symmetric normalization). Rows and columns are counted from 0.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from gradhorizon._checks import require_integer
from gradhorizon.theory._discretization import METHODS as METHODS
from gradhorizon.theory._discretization import discretize as discretize
from gradhorizon.theory._discretization import discretize_matrix as discretize_matrix


def legs(n: int) -> Float[Array, "n n"]:
    """Give the HiPPO-LegS matrix A, which keeps a function's Legendre coefficients.

    A_ij = -√((2i+1)(2j+1)) below the diagonal, -(i+1) on it, 0 above.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        A, shape (N, N).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Notes
    -----
    (A + Aᵀ)/2 = -(I + q qᵀ)/2 with q_i = √(2i+1): the numerical range ends at -1/2, hence
    ‖exp(tA)‖₂ ≤ exp(-t/2) for all t ≥ 0. However far from normal, A makes nothing grow in these
    coordinates.

    References
    ----------
    Gu, Dao, Ermon, Rudra & Ré, "HiPPO", NeurIPS 2020, theorem 2; in symmetric normalization Gu,
    Goel & Ré, "Efficiently modeling long sequences with structured state spaces", ICLR 2022.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.theory.hippo.legs(2).round(6).tolist()
    [[-1.0, -0.0], [-1.732051, -2.0]]
    """
    q = _roots(n)
    return _as_default(-np.tril(np.outer(q, q), -1) - np.diag(np.arange(1.0, n + 1)))


def legs_inputs(n: int) -> Float[Array, " n"]:
    """Give B_i = √(2i+1), through which f enters the coefficients.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        B, shape (N,).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> (gh.theory.hippo.legs_inputs(3) ** 2).round(6).tolist()
    [1.0, 3.0, 5.0]
    """
    return _as_default(_roots(n))


def legs_eigenvalues(n: int) -> Float[Array, " n"]:
    """Give the eigenvalues of A, -1 … -N: A is triangular.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        Descending, in the order of the columns of `legs_eigenvectors`.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.theory.hippo.legs_eigenvalues(3).tolist()
    [-1.0, -2.0, -3.0]
    """
    return _as_default(-np.arange(1.0, require_integer("n", n, 1) + 1))


def legs_eigenvectors(n: int) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Give V with A V = V diag(-1 … -N), and its inverse, from exact binomials.

    V_ij = √(2i+1) (-1)^(i-j) C(i+j, i-j) and
    (V⁻¹)_ij = C(2i, i-j) (2j+1)/(i+j+1)/√(2j+1), zero above the diagonal.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    tuple
        V and V⁻¹, each (N, N); every entry is a rounded exact number.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Notes
    -----
    Without the factor √(2i+1) the binomials diagonalize A in another scaling of the polynomials,
    not this one. The entries grow like (3 + 2√2)^N: beyond N of about 20 a product with V and V⁻¹
    in double precision has no correct digit, which is why nobody diagonalizes A.

    References
    ----------
    Gu, Goel & Ré, ICLR 2022, lemma 3.2; the inverse is that of the Legendre-type binomial pair
    (Riordan, Combinatorial Identities, 1968, section 2.4).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> V, inverse = gh.theory.hippo.legs_eigenvectors(3)
    >>> bool(jnp.abs(V @ inverse - jnp.eye(3)).max() < 1e-6)
    True
    """
    q = _roots(n)
    pairs = [(i, j) for i in range(n) for j in range(i + 1)]
    vectors, inverse = np.zeros((n, n)), np.zeros((n, n))
    for i, j in pairs:
        vectors[i, j] = (-1) ** (i - j) * q[i] * math.comb(i + j, i - j)
        # an integer times (2j+1)/(i+j+1) is an integer too: divide exactly, then round
        inverse[i, j] = math.comb(2 * i, i - j) * (2 * j + 1) // (i + j + 1) / q[j]
    return _as_default(vectors), _as_default(inverse)


def largest_binomial(n: int) -> int:
    """Give max C(i+j, i-j) over i, j < N, the size of the eigenvectors' entries, exactly.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    int
        210 for N = 8, 319770 for N = 16; the bound in the literature is 2^(4N/3).

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    References
    ----------
    Gu, Goel & Ré, ICLR 2022, lemma 3.2 and the remark after it.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.theory.hippo.largest_binomial(8)
    210
    """
    last = require_integer("n", n, 1) - 1  # row i = N - 1 holds the largest
    return max(math.comb(last + j, last - j) for j in range(last + 1))


def eigenvalue_conditions(n: int) -> Float[Array, " n"]:
    """Give κ_j = ‖v_j‖‖w_j‖/|w_jᵀv_j|, what a perturbation of A does to each eigenvalue -1 … -N.

    κ_0 = N: exp(tA) falls like N exp(-t) in the end, although it starts at 1. The largest κ_j
    grows exponentially with N.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        κ, shape (N,), 1 for a normal matrix.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    Notes
    -----
    An eigenvalue computed in a precision with unit u is off by up to κ_j u ‖A‖₂.

    References
    ----------
    Wilkinson, The Algebraic Eigenvalue Problem (1965), chapter 2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> gh.theory.hippo.eigenvalue_conditions(2).round(6).tolist()
    [2.0, 2.0]
    """
    require_integer("n", n, 1)
    vectors, inverse = (np.asarray(m, np.float64) for m in legs_eigenvectors(n))
    return _as_default(np.linalg.norm(vectors, axis=0) * np.linalg.norm(inverse, axis=1))


def henrici_departure(n: int) -> Float[Array, ""]:
    """Give the departure of A from normality, √(‖A‖_F² - Σλ²) = √(N⁴/2 - N(4N²-1)/6).

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        41.33 for N = 8; about N²/√2.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    References
    ----------
    Henrici, Numer. Math. 4 (1962) 24; the sum is ((Σ(2i+1))² - Σ(2i+1)²)/2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> round(float(gh.theory.hippo.henrici_departure(8)), 4)
    41.328
    """
    n = require_integer("n", n, 1)
    return _as_default(math.sqrt((3 * n**4 - n * (4 * n**2 - 1)) // 6))


def normal_eigenvalues(n: int) -> Complex[Array, " n"]:
    """Give the eigenvalues -1/2 ± iω of the normal part A + q qᵀ/2, q_i = √(2i+1).

    A is this normal matrix minus one of rank one. S4 diagonalizes the first by a unitary matrix
    and corrects for the second; S4D drops the second.

    Parameters
    ----------
    n
        N, the number of coefficients.

    Returns
    -------
    Array
        Complex, by descending imaginary part; the largest ω is about N²/π.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer.

    References
    ----------
    Gu, Goel & Ré, ICLR 2022, theorem 1; Gu, Gupta, Goel & Ré, NeurIPS 2022, section 4.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> values = gh.theory.hippo.normal_eigenvalues(2)
    >>> [f"{v.real:.3f} {v.imag:+.3f}i" for v in values.tolist()]
    ['-0.500 +0.866i', '-0.500 -0.866i']
    """
    q = _roots(n)
    skew = (np.triu(np.outer(q, q), 1) - np.tril(np.outer(q, q), -1)) / 2
    frequencies = np.linalg.eigvalsh(1j * skew)[::-1]
    dtype = jnp.result_type(float)
    kind = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    return jnp.asarray(-0.5 + 1j * frequencies, kind)


def recurrence_log_eigenvalues(n: int, start: int, stop: int) -> Float[Array, " n"]:
    """Give ln |Π_{k=start+1}^{stop} (1 - j/k)| for j = 1 … N: memory of HiPPO's own recurrence.

    c_{k+1} = (I + A/k) c_k + B f_k/k, Euler's rule with a time step that shrinks as the history
    grows. All factors commute, so that these are the eigenvalues of the long Jacobian from
    `start` to `stop`. Far out they fall like (start/stop)^j: a power, not an exponential. From
    the very beginning, start = 0, they are binomials |C(j-1, stop)|: up to 2^(N-1) before N
    steps, exactly zero from then on.

    Parameters
    ----------
    n
        N, the number of coefficients.
    start, stop
        The first factor is k = start + 1, the last k = stop.

    Returns
    -------
    Array
        Shape (N,); -inf where a factor is exactly zero, start < j ≤ stop.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer, or not 1 ≤ N, 0 ≤ start ≤ stop.

    References
    ----------
    Gu, Dao, Ermon, Rudra & Ré, NeurIPS 2020, theorem 2 and proposition 5 (gradients of order
    1/t, from everywhere).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> jnp.exp(gh.theory.hippo.recurrence_log_eigenvalues(4, 0, 2)).round(6).tolist()
    [0.0, 0.0, 1.0, 3.0]
    """
    require_integer("n", n, 1)
    require_integer("stop", stop, require_integer("start", start, 0))
    k = np.arange(start + 1.0, stop + 1.0)[:, None]
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(1 - np.arange(1.0, n + 1)[None, :] / k))
    return _as_default(logs.sum(axis=0))


def _roots(n: int) -> np.ndarray:
    """Give √(2i+1) for i < N."""
    return np.sqrt(2.0 * np.arange(require_integer("n", n, 1)) + 1)


def _as_default(value: Any) -> Array:
    return jnp.asarray(value, jnp.result_type(float))
