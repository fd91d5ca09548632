"""Diagonal complex recurrences: the LRU, and S4D, a diagonal state space per channel.

h' = λ h + input, entry by entry. The state is complex; a chain counts two real numbers per
entry, so that every singular value |λ_i|^k and every exponent ln|λ_i| comes twice.
All parameters are real: complex ones are pairs ``name_re``, ``name_im``.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex

from gradhorizon._checks import require_integer, require_positive, worded
from gradhorizon.cells._cell import Cell, check_input, require_sizes
from gradhorizon.cells._diagonal import (
    ZeroState,
    complex_of,
    log_uniform,
    paired,
    polar,
    require_state,
    require_time_scales,
    wide_dtype,
)

SPECTRA = ("lin", "inv", "legs", "real")
DISCRETIZATIONS = ("zoh", "bilinear")


@dataclasses.dataclass(frozen=True)
class LruStep:
    """h' = λ h + γ B x, λ = exp(-exp(ν) + i exp(θ))."""

    hidden: int
    inputs: int

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        require_state(h, (self.hidden,), is_complex=True)
        check_input(x, self.inputs)
        kept = eigenvalues(params) * h
        if not self.inputs:
            return kept
        gamma = jnp.exp(params["log_gamma"])
        return kept + lax.complex(gamma * (params["B_re"] @ x), gamma * (params["B_im"] @ x))

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give the real output of the layer, y = Re(C h) + D x; needs inputs."""
        return params["C_re"] @ h.real - params["C_im"] @ h.imag + params["D"] * x

    def state_gates(self, params: Any, _h: Any, _x: Any) -> dict[str, Array | None]:
        """Give λ: what is kept of each entry, its modulus, and the turn it takes."""
        return {"h": eigenvalues(params)}


def eigenvalues(params: dict[str, Array]) -> Complex[Array, " n"]:
    """Give λ of an LRU."""
    return polar(-jnp.exp(params["nu"]), jnp.exp(params["theta"]))


@dataclasses.dataclass(frozen=True)
class S4dStep:
    """h' = Ā h + B̄ x for every channel, with A = -exp(log_decay) + i frequency made discrete."""

    channels: int
    state: int
    discretization: str

    @property
    def inputs(self) -> int:
        """The size of an input: one number per channel."""
        return self.channels

    def __call__(self, params: Any, h: Any, x: Any) -> Array:
        """Advance the state by one input."""
        require_state(h, (self.channels, self.state), is_complex=True)
        check_input(x, self.channels)
        kept, taken = self._discrete(params)
        return kept * h + taken * x.astype(h.dtype)[:, None]

    def output(self, params: Any, h: Any, x: Any) -> Array:
        """Give the real output of the layer, y_c = 2 Re(Σ_n C_cn h_cn) + D_c x_c."""
        return 2 * jnp.sum(paired(params, "C") * h, axis=1).real + params["D"] * x

    def state_gates(self, params: Any, _h: Any, _x: Any) -> dict[str, Array | None]:
        """Give Ā: what is kept of each entry, its modulus, and the turn it takes."""
        return {"h": self._discrete(params)[0]}

    def _discrete(self, params: dict[str, Array]) -> tuple[Array, Array]:
        """Give Ā and B̄."""
        rate = lax.complex(-jnp.exp(params["log_decay"]), params["frequency"])
        scaled = rate * jnp.exp(params["log_dt"]).astype(rate.dtype)[:, None]
        if self.discretization == "bilinear":
            kept = (1 + scaled / 2) / (1 - scaled / 2)
            return kept, paired(params, "B") * (scaled / rate) / (1 - scaled / 2)
        return jnp.exp(scaled), paired(params, "B") * jnp.expm1(scaled) / rate


def lru(
    hidden: int,
    inputs: int,
    *,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    dtype: Any = None,
) -> Cell:
    """Build the linear recurrent unit h_t = λ h_{t-1} + γ B x_t with a complex diagonal state.

    λ = exp(-exp(ν) + i exp(θ)) is inside the unit disc for every ν. It starts uniform on a ring:
    |λ|² uniform on [r_min², r_max²], the phase uniform on (0, max_phase). γ starts at
    √(1 - |λ|²) and is trained as ln γ; B starts with E‖B_i‖² = 1, so that white inputs give the
    state unit variance. Singular values of Φ(T, T-k) are |λ_i|^k and all exponents ln|λ_i|,
    exactly and for any inputs, each of them twice.

    Parameters
    ----------
    hidden
        n, the number of complex state entries; a chain has size 2n.
    inputs
        m, the size of an input and of the output; 0 for a cell without inputs.
    r_min, r_max
        Radii of the ring, 0 ≤ r_min < r_max ≤ 1.
    max_phase
        The largest phase at initialization, in radians.
    dtype
        The real type of the parameters, float32 or float64; the state has the matching complex
        type. JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"nu", "theta"}`` of shape (n,), and with inputs ``"log_gamma"`` (n,),
        ``"B_re"``, ``"B_im"`` (n, m), ``"C_re"``, ``"C_im"`` (m, n), ``"D"`` (m,). The step does
        not use C and D: ``cell.step.output(params, h, x)`` = Re(C h) + D x does.

    Raises
    ------
    TypeError
        If `dtype` is not float32 or float64.
    ValueError
        If a size is out of range, the radii are not 0 ≤ r_min < r_max ≤ 1, or `max_phase` is
        not positive.

    Notes
    -----
    The published code keeps |λ|² = u (r_max² - r_min²) + r_min² and takes its logarithm; here
    the distance from r_max is drawn, so that float32 keeps the digits of 1 - |λ|, which is what
    the horizon 1/(-ln|λ|) depends on. The distribution is the same.

    References
    ----------
    Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023,
    section 3 and lemma 3.2.

    Examples
    --------
    >>> import gradhorizon as gh
    >>> cell = gh.cells.lru(4, 0, r_min=0.9, r_max=0.99)
    >>> params = cell.init(jax.random.key(0))
    >>> chain = gh.jacobian_chain(cell.step, params, cell.initial_state(), length=100)
    >>> exponents, _ = gh.lyapunov_spectrum(chain).pairs()
    >>> exact = -jnp.sort(jnp.exp(params["nu"]))
    >>> bool(jnp.all(jnp.abs(exponents - exact) < 1e-5))
    True
    """
    require_sizes(hidden, inputs)
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(worded("r_min, r_max", "satisfy 0 ≤ r_min < r_max ≤ 1", (r_min, r_max)))
    require_positive("max_phase", max_phase)
    kind = wide_dtype(dtype)

    def init(key: Any) -> dict[str, Array]:
        keys = jax.random.split(key, 4)
        tiny = float(np.finfo(kind).tiny)
        gap, phase = (jax.random.uniform(k, (hidden,), kind, minval=tiny) for k in keys[:2])
        # 1 - |λ|²/r_max² uniform: its logarithm keeps the digits that |λ|² near 1 would lose
        decay = -math.log(r_max) - jnp.log1p(-gap * (1 - (r_min / r_max) ** 2)) / 2
        params = {"nu": jnp.log(decay), "theta": jnp.log(max_phase * phase)}
        if inputs:
            shapes = {"B": (hidden, inputs, 2 * inputs), "C": (inputs, hidden, hidden)}
            for pair, (name, (*shape, fan)) in zip(keys[2:], shapes.items(), strict=True):
                real, imaginary = jax.random.normal(pair, (2, *shape), kind) / math.sqrt(fan)
                params |= {f"{name}_re": real, f"{name}_im": imaginary}
            params["log_gamma"] = jnp.log(-jnp.expm1(-2 * decay)) / 2
            params["D"] = jnp.ones(inputs, kind)
        return params

    start = ZeroState((hidden,), complex_of(kind))
    return Cell(init=init, step=LruStep(hidden, inputs), initial_state=start)


def s4d(
    channels: int,
    state: int,
    *,
    init: str = "lin",
    discretization: str = "zoh",
    dt_min: float = 1e-3,
    dt_max: float = 1e-1,
    dtype: Any = None,
) -> Cell:
    """Build S4D: for every channel a diagonal state space dh/dt = A h + B x, made discrete.

    A_cn = -exp(log_decay) + i frequency, one time step dt_c per channel. Zero-order hold:
    Ā = exp(dt A), B̄ = (exp(dt A) - 1) B/A; bilinear: Ā = (1 + dt A/2)/(1 - dt A/2),
    B̄ = dt B/(1 - dt A/2). Singular values of Φ(T, T-k) are |Ā_cn|^k, each twice; with hold and
    the real part -1/2 of all complex initializations they are exp(-k dt_c/2), whatever the
    frequency.

    Parameters
    ----------
    channels
        The size of an input and of the output.
    state
        Complex numbers per channel. They stand for N = 2·state of a real system, whose other
        half are their conjugates: the output has the factor 2 for it.
    init
        Where A starts, n = 0 … state - 1: "lin", -1/2 + iπn; "inv",
        -1/2 + i (N/π)(N/(2n + 1) - 1); "legs", the eigenvalues -1/2 + iω of the normal part of
        the HiPPO-LegS matrix of size N, ω > 0 descending; "real", -(n + 1).
    discretization
        "zoh" or "bilinear".
    dt_min, dt_max
        ln dt_c starts uniform between their logarithms.
    dtype
        The real type of the parameters, float32 or float64; the state has the matching complex
        type. JAX's default if None.

    Returns
    -------
    Cell
        Parameters are ``{"log_dt", "D"}`` of shape (channels,) and ``{"log_decay",
        "frequency", "B_re", "B_im", "C_re", "C_im"}`` of shape (channels, state); the state is
        complex of that shape. The step does not use C and D:
        ``cell.step.output(params, h, x)`` = 2 Re(Σ_n C h) + D x does.

    Raises
    ------
    TypeError
        If a size is not an integer, or `dtype` is not float32 or float64.
    ValueError
        If a size is out of range, `init` or `discretization` is unknown, or the time scales are
        not 0 < dt_min ≤ dt_max.

    Notes
    -----
    `gradhorizon.theory.hippo` has the matrix behind "legs", and what made diagonal models drop
    its low-rank part.

    References
    ----------
    Gu, Gupta, Goel & Ré, "On the parameterization and initialization of diagonal state space
    models", NeurIPS 2022, section 4 (S4D-Lin, S4D-Inv, S4D-LegS, S4D-Real).

    Examples
    --------
    A horizon of 2/dt steps: the modulus is exp(-dt/2) at every frequency.

    >>> import gradhorizon as gh
    >>> cell = gh.cells.s4d(1, 8, dt_min=0.01, dt_max=0.01)
    >>> params, start = cell.init(jax.random.key(0)), cell.initial_state()
    >>> chain = gh.jacobian_chain(cell.step, params, start, jnp.ones((50, 1)))
    >>> constants = gh.state_paths(chain).units("h")
    >>> constants.size, bool(jnp.all(jnp.abs(constants - 200) < 0.1))
    (16, True)
    """
    require_integer("channels", channels, 1)
    require_integer("state", state, 1)
    require_time_scales(dt_min, dt_max)
    for name, value, known in (
        ("init", init, SPECTRA),
        ("discretization", discretization, DISCRETIZATIONS),
    ):
        if value not in known:
            raise ValueError(worded(name, f"be one of {', '.join(known)}", repr(value)))
    kind, shape = wide_dtype(dtype), (channels, state)
    decay, frequency = _spectrum(init, state)

    def start(key: Any) -> dict[str, Array]:
        for_dt, for_output = jax.random.split(key)
        real, imaginary = jax.random.normal(for_output, (2, *shape), kind) / math.sqrt(2)
        return {
            "log_dt": log_uniform(for_dt, channels, dt_min, dt_max, kind),
            "log_decay": jnp.broadcast_to(jnp.asarray(np.log(decay), kind), shape),
            "frequency": jnp.broadcast_to(jnp.asarray(frequency, kind), shape),
            "B_re": jnp.ones(shape, kind),
            "B_im": jnp.zeros(shape, kind),
            "C_re": real,
            "C_im": imaginary,
            "D": jnp.ones(channels, kind),
        }

    step = S4dStep(channels, state, discretization)
    return Cell(init=start, step=step, initial_state=ZeroState(shape, complex_of(kind)))


def _spectrum(init: str, state: int) -> tuple[np.ndarray, np.ndarray]:
    """Give -Re A and Im A of the named initialization, for n = 0 … state - 1."""
    n, full = np.arange(state), 2 * state
    half = np.full(state, 0.5)
    if init == "lin":
        return half, np.pi * n
    if init == "inv":
        return half, full / np.pi * (full / (2 * n + 1) - 1)
    if init == "real":
        return n + 1.0, np.zeros(state)
    # A + ½ q qᵀ = -½ I + a skew matrix, whose eigenvalues are ±iω
    q = np.sqrt(2 * np.arange(full) + 1.0)
    skew = (np.triu(np.outer(q, q), 1) - np.tril(np.outer(q, q), -1)) / 2
    return half, np.linalg.eigvalsh(1j * skew)[::-1][:state]
