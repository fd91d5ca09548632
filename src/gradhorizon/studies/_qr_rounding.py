"""What rounding leaves in the last entry of R, once a frame has lost its last direction.

Rounding puts an error of standard deviation s_i = c u ‖a‖ r_i into entry i of a column a of the
frame, where u is the unit roundoff and r_i = ‖J_i‖/‖J‖_F the share of row i of the last factor:
the sums that end in a small row are small, and so are errors of earlier steps, which pass through
that row. A rounding has the root mean square ε u, and an entry sees at least one and at most 4N of
them (products, sums, and N reflections of two roundings), so that ε ≤ c ≤ 2 ε √N.

If the exact R_NN is far below that, R_NN is the part of the error of column N along the unit
normal of N - 1 columns which are as noisy: |g| / √(Σ y_i²/s_i²) with g standard normal and y
uniform on the sphere. Its smallest s_i decides: E ln R_NN lies between ln(√N min s) - b and
ln(√N min s), b = (γ + ln 2)/2 + ½ ln Σ (min s / s_i)². A reflection spreads the errors of other
rows over the row that it eliminates with, so that of the rows used for directions that are still
resolved it is not known whether they keep their small errors: the smallest is taken over all rows
and over the rows below those.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

ROUNDING = math.sqrt((1 - 1 / 4) / (2 * math.log(2)) / 3)  # ε, of log-uniform mantissas
_LOST = (np.euler_gamma + math.log(2)) / 2  # -E ln |g|
_SPREAD = math.pi / math.sqrt(8)  # sd of ln |g|


class Recipe(NamedTuple):
    """What QR of a frame after every few steps gives."""

    sums: np.ndarray  # Σ ln R_ii, (N,)
    steps: int  # that were used
    log_last: np.ndarray  # ln R_NN of every factorization
    log_column: np.ndarray  # ln of the last column's norm before it
    log_det: np.ndarray  # Σ_i ln R_ii of it

    @property
    def exponents(self) -> np.ndarray:
        """Exponents in nats per step, sorted."""
        return np.sort(self.sums / self.steps)[::-1]


def common_recipe(J: np.ndarray, every: int) -> Recipe:
    """Carry a frame and factorize it after every `every` steps, as textbooks have it.

    SciPy's factorization, because NumPy's takes float32 to float64 and back.
    """
    frame = np.eye(J.shape[1], dtype=J.dtype)
    logs, columns = [], []
    whole = len(J) // every * every
    for t in range(whole):
        frame = J[t] @ frame
        if (t + 1) % every == 0:
            columns.append(math.log(np.linalg.norm(frame[:, -1])))
            parts: Any = linalg.qr(frame, check_finite=False)
            frame = parts[0]
            logs.append(np.log(np.abs(np.diag(parts[1])).astype(float)))
    each = np.array(logs)
    return Recipe(each.sum(axis=0), whole, each[:, -1], np.array(columns), each.sum(axis=1))


class Expected(NamedTuple):
    """A mean over the factorizations, and how far the analysis lets it be away."""

    value: float
    tolerance: float


def lost_entry(recipe: Recipe, rows: np.ndarray, dtype: Any, resolved: int) -> Expected:
    """Give the mean of ln R_NN when only rounding is left of it.

    Parameters
    ----------
    recipe
        Gives the growth of the last column.
    rows
        Norms of the rows of the last factor before each factorization, shape (factorizations, N).
    dtype
        In which the recipe ran.
    resolved
        How many directions outlive the steps between two factorizations.

    Returns
    -------
    Expected
        The middle of what the analysis allows; half its width, and four standard errors of
        ln |g / g'|, as y_m of the smallest row is another normal number over √N.
    """
    n, factorizations = rows.shape[1], len(rows)
    share = np.log(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    low = share.min(axis=1) - _LOST
    low -= 0.5 * np.log(np.sum(np.exp(2 * (share.min(axis=1, keepdims=True) - share)), axis=1))
    high = share[:, min(resolved, n - 1) :].min(axis=1)
    least, most = math.log(ROUNDING), math.log(2 * ROUNDING * math.sqrt(n))
    ends = np.mean(low) + least, np.mean(high) + most
    scale = math.log(np.finfo(dtype).eps / 2) + np.mean(recipe.log_column) + 0.5 * math.log(n)
    error = math.sqrt(2) * _SPREAD / math.sqrt(factorizations)
    return Expected(float(scale + sum(ends) / 2), float((ends[1] - ends[0]) / 2 + 4 * error))


def first_loss(recipe: Recipe, n: int, dtype: Any) -> Expected:
    """Give the mean of ln |error of ln |det|| while R_NN still is well above its error.

    The error is g c u ‖a_N‖/R_NN. All rows have been eliminated with, so that c lies anywhere
    between ε/√N, errors of one rounding spread over the rows, and 2 ε √N, all of them in one row.
    """
    ends = math.log(ROUNDING / math.sqrt(n)), math.log(2 * ROUNDING * math.sqrt(n))
    scale = math.log(np.finfo(dtype).eps / 2) + np.mean(recipe.log_column - recipe.log_last)
    error = _SPREAD / math.sqrt(len(recipe.log_last))
    return Expected(float(scale - _LOST + sum(ends) / 2), (ends[1] - ends[0]) / 2 + 4 * error)
