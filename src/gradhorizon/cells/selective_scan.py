"""The recurrence of a selective state space: each channel's time step depends on the input."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradhorizon._checks import require_integer
from gradhorizon.cells._cell import Cell, check_input, default_dtype
from gradhorizon.cells._diagonal import (
    ZeroState,
    log_uniform,
    require_state,
    require_time_scales,
)


@dataclasses.dataclass(frozen=True)
class SelectiveStep:
    """h'_cn = exp(Δ_c A_cn) h_cn + Δ_c B_n(x) x_c, Δ = softplus(W_dt W_low x + b_dt)."""

    channels: int
    state: int

    @property
    def inputs(self) -> int:
        """The size of an input: one number per channel."""
        return self.channels

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        require_state(h, (self.channels, self.state), is_complex=False)
        check_input(x, self.channels)
        step = time_steps(params, x)
        return self._kept(params, x) * h + jnp.outer(step * x, params["W_B"] @ x)

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give the output of the scan, y_c = Σ_n C_n(x) h_cn + D_c x_c, with C(x) = W_C x."""
        return h @ (params["W_C"] @ x) + params["D"] * x

    def state_gates(self, params: Any, _h: Any, x: Any) -> dict[str, Array | None]:
        """Give exp(Δ A), the share that is kept of each entry."""
        return {"h": self._kept(params, x)}

    def _kept(self, params: dict[str, Array], x: Array) -> Array:
        """Give exp(Δ_c A_cn), A = -exp(log_decay)."""
        return jnp.exp(-time_steps(params, x)[:, None] * jnp.exp(params["log_decay"]))


def time_steps(params: dict[str, Array], x: Array) -> Array:
    """Give Δ of a selective cell for one input."""
    return jax.nn.softplus(params["W_dt"] @ (params["W_low"] @ x) + params["b_dt"])


def selective(
    channels: int,
    state: int,
    *,
    rank: int | None = None,
    dt_min: float = 1e-3,
    dt_max: float = 1e-1,
    dtype: Any = None,
) -> Cell:
    """Build the selective scan of Mamba: a diagonal recurrence whose time step the input sets.

    h'_cn = exp(Δ_c A_cn) h_cn + Δ_c B_n x_c with A = -exp(log_decay) < 0,
    Δ = softplus(W_dt W_low x + b_dt) > 0 and B = W_B x. Every factor depends on the input alone,
    never on the state: J_t is diagonal, the exponents over the steps 1 … T are A_cn times the
    mean of Δ_c, exactly, and none can be positive. A large Δ forgets, Δ near 0 holds.

    Parameters
    ----------
    channels
        The size of an input and of the output.
    state
        Real numbers per channel.
    rank
        The width between W_low and W_dt; channels/16, rounded up, if None.
    dt_min, dt_max
        b_dt starts so that Δ at x = 0 is log-uniform between them.
    dtype
        The floating-point type of parameters and state; JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"log_decay": (channels, state), "W_low": (rank, channels), "W_dt":
        (channels, rank), "b_dt": (channels,), "W_B", "W_C": (state, channels), "D":
        (channels,)}``; A starts at -1 … -state. The step does not use W_C and D:
        ``cell.step.output(params, h, x)`` = h W_C x + D x does.

    Raises
    ------
    TypeError
        If a size is not an integer, or `dtype` is not floating point.
    ValueError
        If a size is out of range, or the time scales are not 0 < dt_min ≤ dt_max.

    Notes
    -----
    Only the recurrence: the convolution before it, the gate after it and the projections around
    it have no state of their own that reaches further back than the convolution's width. B is
    made discrete by Euler's rule, Δ B, as in the published code; A by zero-order hold.

    References
    ----------
    Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
    algorithm 2; Halloran, Gulati & Roysdon, "Mamba state-space models are Lyapunov-stable
    learners" (2024).

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.selective(2, 3)
    >>> params = cell.init(jax.random.key(0))
    >>> xs = jax.random.normal(jax.random.key(1), (200, 2))
    >>> chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), xs)
    >>> steps = jax.nn.softplus(xs @ params["W_low"].T @ params["W_dt"].T + params["b_dt"][None])
    >>> exact = -jnp.outer(steps.mean(0), jnp.arange(1.0, 4.0)).ravel()
    >>> exponents = gh.lyapunov_spectrum(chain).exponents
    >>> bool(jnp.allclose(exponents, -jnp.sort(-exact), rtol=1e-4))
    True
    """
    require_integer("channels", channels, 1)
    require_integer("state", state, 1)
    low = -(-channels // 16) if rank is None else require_integer("rank", rank, 1)
    require_time_scales(dt_min, dt_max)
    kind = default_dtype(dtype)

    def uniform(key: Any, shape: tuple[int, int], width: int) -> Array:
        end = 1 / math.sqrt(width)
        return jax.random.uniform(key, shape, kind, minval=-end, maxval=end)

    def init(key: Any) -> dict[str, Array]:
        keys = jax.random.split(key, 5)
        step = jnp.exp(log_uniform(keys[0], channels, dt_min, dt_max, kind))
        decay = jnp.log(jnp.arange(1, state + 1, dtype=kind))
        return {
            "log_decay": jnp.broadcast_to(decay, (channels, state)),
            "W_low": uniform(keys[1], (low, channels), channels),
            "W_dt": uniform(keys[2], (channels, low), low),
            "b_dt": step + jnp.log(-jnp.expm1(-step)),  # softplus of it is the step
            "W_B": uniform(keys[3], (state, channels), channels),
            "W_C": uniform(keys[4], (state, channels), channels),
            "D": jnp.ones(channels, kind),
        }

    start = ZeroState((channels, state), kind)
    return Cell(init=init, step=SelectiveStep(channels, state), initial_state=start)
