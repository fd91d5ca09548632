"""Sequences to diagnose and train on."""

import functools
import importlib.resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradhorizon._checks import require_integer
from gradhorizon.cells._cell import default_dtype


class Sequences(NamedTuple):
    """A set of labeled sequences.

    Attributes
    ----------
    xs
        Inputs, shape (sequences, T, m).
    labels
        What is to be said at the end, shape (sequences,).
    """

    xs: Float[Array, "sequences T m"]
    labels: Any


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Load the images and labels that come with the package."""
    source = importlib.resources.files("gradhorizon").joinpath("data/digits.npz")
    with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def sequential_digits(*, dtype: Any = None) -> Sequences:
    """Read 1797 handwritten digits pixel by pixel: sequences of 64 steps.

    Parameters
    ----------
    dtype
        The floating-point type of the inputs; JAX's default if None.

    Returns
    -------
    Sequences
        `xs` of shape (1797, 64, 1), row by row from the top left, scaled to mean 0 and variance
        1 over the whole set; `labels` of shape (1797,), the digits 0 … 9.

    References
    ----------
    E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository (1998), doi:10.24432/C50P49, CC BY 4.0. The pixel-by-pixel task: Le, Jaitly &
    Hinton, arXiv:1504.00941.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> digits = gh.tasks.sequential_digits()
    >>> digits.xs.shape, digits.labels[:5].tolist()
    ((1797, 64, 1), [0, 1, 2, 3, 4])
    """
    kind = default_dtype(dtype)
    images, labels = _digits()
    pixels = images.reshape(len(images), 64, 1).astype(np.float64)
    scaled = (pixels - pixels.mean()) / pixels.std()
    return Sequences(jnp.asarray(scaled.astype(kind)), jnp.asarray(labels.astype(np.int32)))


def adding(key: Any, count: int, length: int, *, dtype: Any = None) -> Sequences:
    """Draw the adding problem: report the sum of the two marked numbers.

    Parameters
    ----------
    key
        A PRNG key.
    count
        How many sequences.
    length
        T, at least 2.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    Sequences
        `xs` of shape (count, T, 2): a number uniform in [0, 1) and a marker, 1 at one place in
        the first half and one in the second; `labels` of shape (count,), the sums.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer in its range.

    Notes
    -----
    Always answering 1 has a mean squared error of Var(U₁ + U₂) = 1/6.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997), experiment 4, in the form of Le,
    Jaitly & Hinton, arXiv:1504.00941.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> task = gh.tasks.adding(jax.random.key(0), 3, 10)
    >>> bool(jnp.allclose((task.xs[:, :, 0] * task.xs[:, :, 1]).sum(1), task.labels))
    True
    """
    require_integer("count", count, 1)
    half = require_integer("length", length, 2) // 2
    kind = default_dtype(dtype)
    for_numbers, for_first, for_second = jax.random.split(key, 3)
    numbers = jax.random.uniform(for_numbers, (count, length), kind)
    first = jax.random.randint(for_first, (count,), 0, half)
    second = jax.random.randint(for_second, (count,), half, length)
    markers = jax.nn.one_hot(first, length, dtype=kind) + jax.nn.one_hot(second, length, dtype=kind)
    return Sequences(jnp.stack([numbers, markers], axis=-1), jnp.sum(numbers * markers, axis=1))


class Tokens(NamedTuple):
    """Token sequences with a target at every step.

    Attributes
    ----------
    inputs
        Symbols, shape (sequences, T).
    targets
        The symbol to be written at each step, shape (sequences, T).
    """

    inputs: Int[Array, "sequences T"]
    targets: Int[Array, "sequences T"]


def copy_memory(key: Any, count: int, delay: int) -> Tokens:
    """Draw the copy problem: repeat ten symbols after a delay.

    Parameters
    ----------
    key
        A PRNG key.
    count
        How many sequences.
    delay
        Blanks between the symbols and the cue, at least 1.

    Returns
    -------
    Tokens
        Sequences of delay + 20 symbols: ten from 1 … 8, blanks 0, the cue 9, blanks; the
        targets are blank but for the ten symbols at the end.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer in its range.

    Notes
    -----
    Without memory the best cross-entropy is 10 ln 8/(delay + 20) nats per step.

    References
    ----------
    Arjovsky, Shah & Bengio, ICML 2016, section 5.1; Hochreiter & Schmidhuber 1997.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> task = gh.tasks.copy_memory(jax.random.key(0), 2, 5)
    >>> task.inputs.shape, bool((task.inputs[:, :10] == task.targets[:, -10:]).all())
    ((2, 25), True)
    """
    require_integer("count", count, 1)
    require_integer("delay", delay, 1)
    symbols = jax.random.randint(key, (count, 10), 1, 9, jnp.int32)
    blanks = jnp.zeros((count, delay + 10), jnp.int32)
    inputs = jnp.concatenate([symbols, blanks.at[:, delay - 1].set(9)], axis=1)
    return Tokens(inputs, jnp.concatenate([blanks, symbols], axis=1))


def temporal_order(key: Any, count: int, length: int, *, dtype: Any = None) -> Sequences:
    """Draw the temporal order problem: report which of two symbols came first and which second.

    Parameters
    ----------
    key
        A PRNG key.
    count
        How many sequences.
    length
        T, at least 10.
    dtype
        The floating-point type; JAX's default if None.

    Returns
    -------
    Sequences
        `xs` of shape (count, T, 6), one-hot: A and B are 0 and 1, the four distractors 2 … 5.
        One of A and B stands at a step in [T/10, T/5), one in [2T/5, T/2); `labels` of shape
        (count,): 0 … 3 for AA, AB, BA, BB.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer in its range.

    Notes
    -----
    Without memory the accuracy is 1/4 and the best cross-entropy ln 4. At least half of the
    sequence lies between the last symbol that matters and the answer.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997), experiment 6a; positions and symbols
    as in Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), section 4.1.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> task = gh.tasks.temporal_order(jax.random.key(0), 2, 50)
    >>> marked = (task.xs[:, :, :2].sum(axis=2) > 0).sum(axis=1)
    >>> task.xs.shape, marked.tolist()
    ((2, 50, 6), [2, 2])
    """
    require_integer("count", count, 1)
    require_integer("length", length, 10)
    kind = default_dtype(dtype)
    for_noise, for_places, for_symbols = jax.random.split(key, 3)
    low = np.array([length, 4 * length], np.int32) // 10
    high = np.array([2 * length, 5 * length], np.int32) // 10
    places = jax.random.randint(for_places, (count, 2), low[None], high[None])
    symbols = jax.random.randint(for_symbols, (count, 2), 0, 2, jnp.int32)
    noise = jax.random.randint(for_noise, (count, length), 2, 6, jnp.int32)
    rows = jnp.arange(count, dtype=jnp.int32)[:, None]
    stream = noise.at[rows, places].set(symbols)
    labels = 2 * symbols[:, 0] + symbols[:, 1]
    return Sequences(jax.nn.one_hot(stream, 6, dtype=kind), labels)
