"""Lyapunov exponents by QR (Benettin et al. 1980): Q_t R_t = J_t Q_{t-1}, λ_i = mean ln R_ii.

Sums of ln R_ii over a finite time are growth rates of volumes spanned by a moving frame. They
are not the logarithms of the singular values of Φ(T, 0); `singular_spectrum` gives those.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradhorizon._checks import require_integer, worded
from gradhorizon._compiled import compiled
from gradhorizon._record import Status, record, static
from gradhorizon.chain._given import require_room, unscaled
from gradhorizon.chain._outcome import earliest, settle
from gradhorizon.chain.jacobian import JacobianChain, as_chain, finite_steps
from gradhorizon.chain.unroll import status_of
from gradhorizon.products import _flag, _pairs, _statistics
from gradhorizon.products._statistics import Estimate

_MEANINGFUL = 0.1  # nats per step: an estimate of rounding beyond it says only that digits are lost


@record
class LyapunovSpectrum:
    """The k leading Lyapunov exponents of a chain, in nats per step.

    Attributes
    ----------
    exponents
        λ_1 ≥ … ≥ λ_k, shape (k,); -inf beyond the structural rank of the chain.
    standard_errors
        Their standard errors from the scatter of the windows, shape (k,); infinite with fewer
        than two windows. They do not contain the O(1/T) alignment of the frame.
    rounding_errors
        Estimated loss by rounding between two factorizations, nats per step, shape (k,): where
        below 0.1, the order of magnitude, mostly on the safe side.
    windows
        Finite-time exponents over consecutive windows in time, shape (windows, k), in the order
        of `exponents`.
    window_lengths
        The steps in each window, shape (windows,).
    history
        Running means after each window, shape (windows, k), last row = `exponents`.
    det_residual
        |Σ λ_i - mean ln |det J_t||, nats per step, over all steps, or over every 32nd block if
        n ≥ 32 and the interval is automatic; only for k = n, else NaN. A second route to the
        sum: it sees lost digits, not a redistribution between exponents.
    factorizations
        How often the frame was factorized: T with an interval of one step.
    converged
        Whether the digits are safe and both halves of the run agree. Digits are judged by the
        determinants for k = n; for k < n no `rounding_errors` may pass 0.1, a weaker test.
    rank_cap
        The structural rank: at most this many exponents can be finite.
    status
        `Status.OK`, `EMPTY`, `NONFINITE`, `NOT_CONVERGED` or `RANK_DEFICIENT`.
    first_bad_step
        The first t with a non-finite state or Jacobian, -1 if there is none.
    size
        n.
    """

    exponents: Float[Array, "*batch k"]
    standard_errors: Float[Array, "*batch k"]
    rounding_errors: Float[Array, "*batch k"]
    windows: Float[Array, "*batch windows k"]
    window_lengths: Float[Array, "*batch windows"]
    history: Float[Array, "*batch windows k"]
    det_residual: Float[Array, "*batch"]
    factorizations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    rank_cap: Int[Array, "*batch"]
    status: Int[Array, "*batch"]
    first_bad_step: Int[Array, "*batch"]
    size: int = static()

    @property
    def entropy_rate(self) -> Estimate:
        """The sum of the positive exponents, nats per step: Pesin's formula, an upper bound.

        A lower bound of that sum if the last of k < n exponents is still positive.
        """
        return _statistics.entropy_rate(self.exponents, self.windows)

    @property
    def kaplan_yorke_dimension(self) -> Estimate:
        """The dimension j + (λ_1 + … + λ_j)/|λ_{j+1}|; NaN if k exponents do not reach it."""
        return _statistics.kaplan_yorke(self.exponents, self.windows, self.size)

    def pairs(self) -> _pairs.Pairs:
        """Give the exponents of a complex state once each, with error bars: k/2 of k.

        The error bar is four standard errors and the rounding; a holomorphic step whose frame has
        not aligned may need more steps, or a burn-in.

        Raises
        ------
        ValueError
            If neighbors differ by more than their error bars: the step is not holomorphic, the
            state not complex, or the frame not aligned. Inside `jit` such pairs are NaN.
        """
        bars = 4 * self.standard_errors + self.rounding_errors
        return _pairs.each_once(self.exponents, bars, ~jnp.isnan(self.exponents))


def lyapunov_spectrum(
    chain: Any,
    k: int | None = None,
    *,
    burn_in: int = 0,
    state_burn_in: int = 0,
    orthonormalize_every: int | str = "auto",
    windows: int | None = None,
    throw: bool = True,
) -> LyapunovSpectrum:
    """Estimate the k leading Lyapunov exponents by QR along the chain.

    Parameters
    ----------
    chain
        A `JacobianChain`, or an array of shape (T, n, n).
    k
        How many exponents, 1 ≤ k ≤ n; all n if None.
    burn_in
        Steps that only align the frame and are not averaged.
    state_burn_in
        Steps left out before, during which the state approaches its attractor.
    orthonormalize_every
        Steps between two orthonormalizations. "auto" follows the growth of the frame's
        condition number and agrees with QR at every step to 1e-8 (float64). A fixed interval
        loses the lower exponents once the condition of the product over it passes 1/eps: then
        `converged` is False.
    windows
        How many windows in time give the standard errors, at most one for each fixed interval;
        None for 4 to 32 of about 32 steps or more.
    throw
        Raise when a NaN or infinity appears; otherwise the record's status says so.

    Returns
    -------
    LyapunovSpectrum
        Exponents with standard errors, windows, history, dimension, entropy and self-checks.

    Raises
    ------
    ValueError
        If `k` is not in 1 … n, a burn-in is not in 0 … T - 1, or `windows` or the interval is
        not positive.
    NumericalError
        If ``throw`` and a NaN or infinity appears on the way.

    Notes
    -----
    The frame is kept well conditioned by LU with row pivoting, whose L spans the same flag of
    subspaces as Q; the QR factor of L is added where sums are read off, so that the result is
    that of QR. Cost per step: k tangents through the step, and one LU of n × k every m steps,
    where m is as long as the spread of the growth factors allows; for k = n also determinants,
    for `det_residual`. Memory O(n k) beyond the chain. The frame starts as the first k axes
    that J_1 does not map to zero; if it never leaves a coordinate subspace and k < n, the pass
    is repeated from a Haar-random frame, since the leading direction may lie outside. A step that
    loses visible digits by itself, as one with saturated units does, is taken again in two
    factors (docs/numerics.md), at three to five times its cost. Under `jax.vmap` all branches
    are computed, though used only where they are due: some ten times the time.

    Derivatives with respect to the chain are those of QR. Through the states of a chaotic
    network they grow like e^(λ_1 T) and lose their meaning: `lyapunov_gradient` says when.

    References
    ----------
    Benettin, Galgani, Giorgilli & Strelcyn, Meccanica 15 (1980); Geist, Parlitz & Lauterborn,
    Prog. Theor. Phys. 83 (1990), variant H2; Kaplan & Yorke, Lect. Notes Math. 730 (1979);
    Pesin, Russ. Math. Surv. 32 (1977).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cat = jnp.broadcast_to(jnp.array([[2.0, 1.0], [1.0, 1.0]]), (2000, 2, 2))
    >>> gh.lyapunov_spectrum(cat, burn_in=50).exponents.round(6).tolist()
    [0.962424, -0.962424]
    """
    chain = as_chain(chain, throw=throw, columns=1)
    k = require_integer("k", chain.size if k is None else k, 1, chain.size)
    require_room(chain.size, k, chain.dtype)
    last = max(chain.length - 1, 0)
    skipped = require_integer("state_burn_in", state_burn_in, 0, last)
    burn_in = require_integer("burn_in", burn_in, 0, max(last - skipped, 0))
    if windows is not None:
        windows = require_integer("windows", windows, 1, max(chain.length - skipped - burn_in, 1))
    if isinstance(orthonormalize_every, str):
        if orthonormalize_every != "auto":
            wanted = "be a number of steps or 'auto'"
            raise ValueError(worded("orthonormalize_every", wanted, repr(orthonormalize_every)))
        every = None
    else:
        every = require_integer("orthonormalize_every", orthonormalize_every, 1)
        every = min(every, max(chain.length - skipped - burn_in, 1))
    chain = chain.segment(skipped, chain.length)
    settings = {"k": k, "burn_in": burn_in, "every": every, "windows": windows}
    spectrum = _lyapunov(chain, **settings)
    first = jnp.where(spectrum.first_bad_step < 0, -1, spectrum.first_bad_step + skipped)
    return settle(dataclasses.replace(spectrum, first_bad_step=first), throw=throw)


@compiled(static=("k", "burn_in", "every", "windows"))
def _lyapunov(
    chain: JacobianChain, *, k: int, burn_in: int, every: int | None, windows: int | None
) -> LyapunovSpectrum:
    if chain.length == 0:
        return _empty(chain, k)
    plan = _flag.schedule(chain.length, chain.size, burn_in=burn_in, every=every, windows=windows)
    passage = _flag.follow(chain, _flag.first_frame(chain, k), plan)
    if k < chain.size:
        passage = lax.cond(
            _flag.is_confined(passage),
            lambda: _flag.follow(chain, _flag.haar_frame(chain.size, k, chain.dtype), plan),
            lambda: passage,
        )
    return _summarize(chain, passage, plan)


def _summarize(
    chain: JacobianChain, passage: _flag.Passage, plan: _flag.Schedule
) -> LyapunovSpectrum:
    k, n = passage.rows.shape
    dtype = chain.dtype
    lengths = np.diff(np.asarray(plan.ends)).astype(float)
    steps = chain.length - plan.ends[0]
    beyond = jnp.arange(k, dtype=jnp.int32) >= passage.rank_cap
    logs = unscaled(passage.logs[1:], lengths[:, None], chain.shift)
    logs = jnp.where(beyond[None], -jnp.inf, logs)
    exponents = jnp.sum(logs, axis=0) / steps
    order = jnp.argsort(-exponents)
    exponents, logs = exponents[order], logs[:, order]
    rates = logs / jnp.asarray(lengths, dtype)[:, None]
    history = jnp.cumsum(logs, axis=0) / jnp.asarray(np.cumsum(lengths), dtype)[:, None]
    errors = _statistics.standard_errors(rates)
    unit = _flag.unit_loss(n, dtype) / chain.length
    dead = jnp.isneginf(exponents)
    loss, avoidable = (
        jnp.where(beyond | (dead & jnp.isfinite(sums[order])), 0, unit * sums[order])
        for sums in (passage.losses, passage.avoidable)
    )
    residual = jnp.asarray(jnp.nan, dtype)
    if k == n:
        counted = jnp.maximum(passage.det_steps, 1).astype(dtype)
        residual = jnp.where(passage.rank_cap < n, 0, jnp.abs(passage.det_gap) / counted)
    settled = _statistics.settled(rates, errors, steps) & _safe(residual, avoidable, loss)
    _, index = status_of(finite_steps(chain), Status.OK)
    first = earliest(passage.first_bad_step, jnp.where(index < 0, -1, index + 1))
    good = first < 0
    lower = (passage.rank_cap < k) | jnp.any(dead)
    deficient = jnp.where(lower, int(Status.RANK_DEFICIENT), int(Status.OK))
    status = jnp.where(settled, deficient, int(Status.NOT_CONVERGED))
    status = jnp.where(good, status, int(Status.NONFINITE))
    nan = jnp.where(good, 0.0, jnp.nan).astype(dtype)
    return LyapunovSpectrum(
        exponents=exponents + nan,
        standard_errors=errors + nan,
        rounding_errors=loss + nan,
        windows=rates + nan,
        window_lengths=jnp.asarray(lengths, dtype),
        history=history + nan,
        det_residual=residual + nan,
        factorizations=passage.factorizations,
        converged=settled & good,
        rank_cap=passage.rank_cap,
        status=status.astype(jnp.int32),
        first_bad_step=first,
        size=n,
    )


def _safe(
    residual: Float[Array, ""], avoidable: Float[Array, " k"], loss: Float[Array, " k"]
) -> Bool[Array, ""]:
    """Say whether the digits are safe: by the determinants, or by the estimates without them.

    What intervals of more than one step lose is avoidable, and must be small. What one step
    loses is not, and its estimate is pessimistic: the determinants judge it, and where there are
    none (k < n), only an estimate beyond its own range of meaning counts.
    """
    tolerance = 1e-6 if jnp.finfo(residual.dtype).bits == 64 else 1e-3
    by_det = residual <= tolerance * avoidable.shape[0]
    by_estimate = jnp.isnan(residual) & jnp.all(loss <= _MEANINGFUL)
    return (by_det | by_estimate) & jnp.all(avoidable <= tolerance)


def _empty(chain: JacobianChain, k: int) -> LyapunovSpectrum:
    """Give the record of a chain without steps: no exponents, and a status that says so."""
    nan = jnp.full(k, jnp.nan, chain.dtype)
    none = jnp.zeros((0, k), chain.dtype)
    return LyapunovSpectrum(
        exponents=nan,
        standard_errors=nan,
        rounding_errors=nan,
        windows=none,
        window_lengths=none[:, 0],
        history=none,
        det_residual=nan[0],
        factorizations=jnp.asarray(0, jnp.int32),
        converged=jnp.asarray(False),
        rank_cap=jnp.asarray(chain.size, jnp.int32),
        status=jnp.asarray(int(Status.EMPTY), jnp.int32),
        first_bad_step=jnp.asarray(-1, jnp.int32),
        size=chain.size,
    )
