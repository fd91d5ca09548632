"""Long products of block matrices, each block with its own exact power of two.

The blocks of Φ(T, T-k) may differ by more than a float can span: a memory that fades in ten steps
beside one that lasts. One common scale would turn the smaller blocks into zeros. Here block (b, a)
is mantissa times 2^e with its own e, and a sum of products is formed at the scale of its largest
term, so that nothing is lost but what rounding would drop anyway.

Convention: Φ(T, t-1) = Φ(T, t) J_t; the row block is where the gradient starts (at T), the column
block where it arrives.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._scaled import ZERO_EXPONENT, exponent_of, log_scaled, power_of_two

_NOTHING = -(2**14)  # a shift below the range of every float


class Blocks(NamedTuple):
    """Consecutive parts of a vector, by their sizes."""

    sizes: tuple[int, ...]

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The first entry of every block, and the one after its last."""
        stops = np.cumsum(self.sizes).tolist()
        return tuple(zip([0, *stops[:-1]], stops, strict=True))

    @property
    def owner(self) -> np.ndarray:
        """The block that every entry belongs to."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def reduce(
        self, function: Callable[..., Array], matrix: Float[Array, "n n"]
    ) -> Float[Array, "k k"]:
        """Apply a reduction such as `jnp.max` to every block."""
        rows = jnp.stack([function(matrix[a:b], axis=0) for a, b in self.spans])
        return jnp.stack([function(rows[:, a:b], axis=1) for a, b in self.spans], axis=1)

    def spread(self, numbers: Float[Array, "k k"]) -> Float[Array, "n n"]:
        """Repeat one number per block over the entries of the block."""
        # broadcasts: a gather of every entry would take as long as the product itself
        count, sizes = len(self.sizes), list(enumerate(self.sizes))
        wide = [jnp.broadcast_to(numbers[:, i : i + 1], (count, s)) for i, s in sizes]
        rows = jnp.concatenate(wide, axis=1)
        tall = [jnp.broadcast_to(rows[i : i + 1], (s, rows.shape[1])) for i, s in sizes]
        return jnp.concatenate(tall, axis=0)

    def normalize(self, matrix: Float[Array, "n n"]) -> tuple[Array, Array]:
        """Divide every block by the power of two that brings its largest entry into [1/2, 1)."""
        largest = self.reduce(jnp.max, jnp.abs(matrix))
        exponent = exponent_of(largest)
        half = -exponent // 2
        first = power_of_two(half, matrix.dtype)
        second = power_of_two(-exponent - half, matrix.dtype)
        scaled = matrix * self.spread(first) * self.spread(second)
        return scaled, jnp.where(largest == 0, ZERO_EXPONENT, exponent)


class BlockProduct(NamedTuple):
    """A square matrix by blocks: mantissas, and one exponent of two per block."""

    mantissa: Float[Array, "n n"]
    exponent: Int[Array, "k k"]


def identity(blocks: Blocks, dtype: np.dtype) -> BlockProduct:
    """Give the product of no factors."""
    return BlockProduct(*blocks.normalize(jnp.eye(sum(blocks.sizes), dtype=dtype)))


def everywhere(blocks: Blocks) -> Bool[np.ndarray, "k k k"]:
    """Allow every way through the blocks: the product itself."""
    count = len(blocks.sizes)
    return np.ones((count, count, count), dtype=bool)


def without_detour(blocks: Blocks) -> Bool[np.ndarray, "k k k"]:
    """Allow b → a only by staying in b, one crossing, and staying in a; b → b by staying in b.

    Entry (b, c, a) says whether what started in b and is now in c may move to a.
    """
    b, c, a = np.ogrid[tuple([slice(len(blocks.sizes))] * 3)]
    return (c == a) | (c == b)


def times(
    product: BlockProduct,
    factor: Float[Array, "n n"],
    allowed: Bool[Array, "k k k"] | Bool[np.ndarray, "k k k"],
    blocks: Blocks,
) -> BlockProduct:
    """Multiply by a factor from the right, through the allowed blocks only."""
    scaled, own = blocks.normalize(factor)
    terms = product.exponent[:, :, None] + own[None]  # (b, c, a)
    top = jnp.max(jnp.where(allowed, terms, 2 * ZERO_EXPONENT), axis=1)
    below = jnp.where(allowed, terms - top[:, None], _NOTHING)
    weights = power_of_two(below, factor.dtype)
    panels = [
        (product.mantissa * blocks.spread(weights[:, :, a])) @ scaled[:, start:stop]
        for a, (start, stop) in enumerate(blocks.spans)
    ]
    mantissa, extra = blocks.normalize(jnp.concatenate(panels, axis=1))
    exponent = jnp.where(extra == ZERO_EXPONENT, ZERO_EXPONENT, top + extra)
    return BlockProduct(mantissa, exponent)


def log_norms(product: BlockProduct, blocks: Blocks) -> Float[Array, "k k"]:
    """Give ln (‖block‖_F / √rows) of every block, -inf for an exact zero."""
    squares = blocks.reduce(jnp.sum, product.mantissa**2)
    rows = jnp.asarray(np.asarray(blocks.sizes)[:, None], squares.dtype)
    return log_scaled(jnp.sqrt(squares / rows), product.exponent)
