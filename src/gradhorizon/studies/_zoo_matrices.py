"""Ensembles of repeated matrices, drawn with NumPy: random, structured, and far from normal.

Each function takes a generator and a size and gives W, shape (n, n), of about unit gain; the
gain proper is chosen afterwards.
"""

import numpy as np
import scipy.linalg
from numpy.random import Generator


def gaussian(rng: Generator, n: int) -> np.ndarray:
    """Draw independent normal entries of variance 1/n."""
    return rng.normal(size=(n, n)) / np.sqrt(n)


def orthogonal(rng: Generator, n: int) -> np.ndarray:
    """Draw from the Haar measure on the orthogonal group."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return q * np.sign(np.diag(r))


def sparse(rng: Generator, n: int) -> np.ndarray:
    """Draw normal entries, about a tenth of them and at least three a row kept."""
    share = max(0.1, 3 / n)
    return rng.normal(size=(n, n)) * (rng.random((n, n)) < share) / np.sqrt(share * n)


def heavy(rng: Generator, n: int) -> np.ndarray:
    """Draw Student t entries with 1.8 degrees of freedom: no variance, a few large weights."""
    return rng.standard_t(1.8, size=(n, n)) / n ** (1 / 1.8)


def lognormal(rng: Generator, n: int) -> np.ndarray:
    """Draw log-normal sizes with random signs."""
    sizes = np.exp(rng.normal(size=(n, n)) - 1) * rng.choice([-1.0, 1.0], (n, n))
    return sizes / np.sqrt(n)


def low_rank(rng: Generator, n: int) -> np.ndarray:
    """Add one to three random outer products, up to three times as strong, to normal entries."""
    rank = int(rng.integers(1, 4))
    left, right = rng.normal(size=(2, n, rank))
    return gaussian(rng, n) + rng.uniform(0.5, 3) * left @ right.T / n


def dale(rng: Generator, n: int) -> np.ndarray:
    """Draw positive columns (four fifths) and negative, four times stronger ones; rows balance."""
    excitatory = int(0.8 * n)
    strength = np.where(np.arange(n) < excitatory, 1.0, -excitatory / (n - excitatory))
    W = np.abs(rng.normal(size=(n, n))) * strength / np.sqrt(2 * n)
    return W - rng.uniform(0.5, 1) * W.mean(axis=1, keepdims=True)


def blocks(rng: Generator, n: int) -> np.ndarray:
    """Draw four populations whose mutual gains differ by up to e."""
    gains = np.exp(rng.uniform(-1, 0.5, (4, 4)))
    population = np.arange(n) * 4 // n
    return gaussian(rng, n) * gains[np.ix_(population, population)]


def circulant(rng: Generator, n: int) -> np.ndarray:
    """Draw one row and rotate it: a normal matrix with Fourier eigenvectors."""
    return scipy.linalg.circulant(rng.normal(size=n)) / np.sqrt(n)


def triangular(rng: Generator, n: int) -> np.ndarray:
    """Draw a diagonal near one and normal entries above it: all growth is transient."""
    strength = np.exp(rng.uniform(np.log(0.1), np.log(2)))
    above = np.triu(rng.normal(size=(n, n)), 1) * strength / np.sqrt(n)
    return above + np.diag(rng.uniform(0.3, 1, n) * rng.choice([-1.0, 1.0], n))


def jordan(rng: Generator, n: int) -> np.ndarray:
    """Make blocks of two to five with equal eigenvalues, coupled along the superdiagonal."""
    size = int(rng.integers(2, 6))
    values = np.repeat(rng.uniform(0.5, 1, -(-n // size)), size)[:n]
    couple = (np.arange(1, n) % size != 0) * rng.uniform(0.05, 1)
    return np.diag(values) + np.diag(couple, 1)


def shift(rng: Generator, n: int) -> np.ndarray:
    """Make a delay line whose end feeds back weakly into its start."""
    W = np.diag(rng.uniform(0.8, 1.2, n - 1), -1)
    W[0, -1] = np.exp(rng.uniform(np.log(0.01), 0))
    return W


def nilpotent(rng: Generator, n: int) -> np.ndarray:
    """Draw a strictly triangular matrix: no gradient survives n steps."""
    strength = np.exp(rng.uniform(np.log(0.3), np.log(3)))
    return np.tril(rng.normal(size=(n, n)), -1) * strength / np.sqrt(n)


def symmetric(rng: Generator, n: int) -> np.ndarray:
    """Draw a symmetric matrix with its spectrum on [-1, 1]."""
    A = rng.normal(size=(n, n))
    return (A + A.T) / np.sqrt(8 * n)


def antisymmetric(rng: Generator, n: int) -> np.ndarray:
    """Give the matrix exponential of an antisymmetric draw: slow rotations."""
    A = rng.normal(size=(n, n)) / np.sqrt(n)
    return scipy.linalg.expm(rng.uniform(0.05, 0.8) * (A - A.T))


def negative(rng: Generator, n: int) -> np.ndarray:
    """Couple every unit to minus itself, and a little to the others: orbits of period two."""
    return -np.eye(n) + rng.uniform(0, 0.3) * gaussian(rng, n)


def near_identity(rng: Generator, n: int) -> np.ndarray:
    """Add a small normal matrix to the identity."""
    return np.eye(n) + rng.uniform(0.02, 0.3) * gaussian(rng, n)


def ring(rng: Generator, n: int) -> np.ndarray:
    """Couple neighbors on a ring by random weights, three to either side."""
    distance = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    near = np.minimum(distance, n - distance) <= 3
    return rng.normal(size=(n, n)) * near / np.sqrt(7)


def permutation(rng: Generator, n: int) -> np.ndarray:
    """Permute the units, with weights that differ by tens of percent."""
    return np.eye(n)[rng.permutation(n)] * np.exp(0.2 * rng.normal(size=n))
