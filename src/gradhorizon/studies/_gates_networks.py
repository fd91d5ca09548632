"""Gated networks at a set bias of the gate that keeps the state, and what is measured in them."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from gradhorizon.cells import gru, inits, lstm, min_gru, minimal_rnn
from gradhorizon.cells._cell import Cell
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.products.singular import singular_spectrum
from gradhorizon.regimes.paths import state_paths
from gradhorizon.theory import gated_mean_field

CELLS = ("LSTM", "minGRU", "GRU", "minimal RNN")
_NODES = np.linspace(-12, 12, 4801)  # of the standard normal, error below 1e-12


class Measured(NamedTuple):
    """One network: rate of every unit's gate, its path through gates, and singular values."""

    units: int
    rates: np.ndarray  # (units,), mean ln of the gate, nats per step
    lags: np.ndarray
    by_lag: np.ndarray  # (lags,), ln of the gradient that stays in the gated part, rms over units
    log_values: np.ndarray  # (n,), ln σ_i(Φ(T, T - lag)), descending


def build(name: str, size: int, bias: Any, *, silent: bool = False) -> Cell:
    """Build a cell with a state of `size` numbers and as many inputs, an LSTM with half the units.

    `silent` gives weights of zero, so that gates stay at their bias.
    """
    weights = inits.gaussian(0.0) if silent else None
    if name == "minGRU":
        return min_gru(size, size, keep_bias=bias, input_init=weights)
    which = {"LSTM": lstm, "GRU": gru, "minimal RNN": minimal_rnn}[name]
    key = "forget_bias" if name == "LSTM" else "update_bias"
    units = size // 2 if name == "LSTM" else size
    return which(units, size, recurrent_init=weights, input_init=weights, **{key: bias})


def measure(cell: Cell, key: Any, xs: Any, lag: int) -> Measured:
    """Follow the gates over all inputs, and the singular values over the last `lag` of them."""
    chain = jacobian_chain(cell.step, cell.init(key), cell.initial_state(), xs)
    lags = np.unique(np.round(np.geomspace(1, chain.length, 13)).astype(int))
    paths = state_paths(chain, lags=lags.tolist())
    last = chain.segment(chain.length - lag, chain.length).matrices()  # one program for all cells
    units, name = paths.sizes[0], paths.names[0]
    return Measured(
        units,
        np.asarray(paths.self_rates)[:units],
        lags,
        np.asarray(paths.path(name, name)[0]),
        np.asarray(singular_spectrum(last).log_values),
    )


def mean_field_rate(name: str, bias: float) -> float:
    """Give E ln σ(a) of the keeping gate, a Gaussian about the bias, weights of variance 1/N."""
    if name == "LSTM":
        field = gated_mean_field.lstm(1.0, 1.0, forget_bias=bias)
        variance = field.preactivation_variance[1]
    elif name == "GRU":
        field = gated_mean_field.gru(1.0, 1.0, bias=np.array([0.0, bias, 0.0]))
        variance = field.preactivation_variance[1]
    elif name == "minimal RNN":
        field = gated_mean_field.minimal_rnn(1.0, 1.0, _embedded_moment(), bias=bias)
        variance = field.preactivation_variance
    else:
        variance = 1.0
    return float(gated_mean_field.gate_exponent(variance, bias))


def _embedded_moment() -> float:
    """Give E tanh²(a) for a ~ N(0, 1): the second moment of what the minimal RNN is fed."""
    return _gaussian_mean(np.tanh(_NODES) ** 2)


def _gaussian_mean(values: np.ndarray) -> float:
    density = np.exp(-(_NODES**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(values * density, _NODES))


def gate_moments(variance: float, bias: float) -> tuple[float, float]:
    """Give mean and variance of ln σ(a) for a ~ N(bias, variance)."""
    logs = -np.logaddexp(0, -(bias + math.sqrt(variance) * _NODES))
    mean = _gaussian_mean(logs)
    return mean, _gaussian_mean(logs**2) - mean**2


class Cloud(NamedTuple):
    """Eigenvalues of one step Jacobian D + L W, and what their support follows from."""

    eigenvalues: np.ndarray
    gates: np.ndarray  # D, the update gates
    slopes: np.ndarray  # L, the derivative of h' in the gate's pre-activation
    gain: float  # g: entries of W have variance g²/N


def eigenvalue_cloud(key: Any, units: int, gain: float, bias: float, length: int) -> Cloud:
    """Run a minimal RNN with Gaussian weights and take its last step Jacobian apart."""
    cell = minimal_rnn(units, units, update_bias=bias, recurrent_init=inits.gaussian(gain))
    for_weights, for_inputs = jax.random.split(key)
    params = cell.init(for_weights)
    xs = jax.random.normal(for_inputs, (length, units))
    chain = jacobian_chain(cell.step, params, cell.initial_state(), xs)
    last = np.asarray(chain.segment(length - 1, length).matrices()[0])
    W, V, U = (np.asarray(params[part]) for part in "WVU")
    state = before = gates = z = np.zeros(units)
    for x in np.asarray(xs):
        before, z = state, np.tanh(U @ x)
        gates = 1 / (1 + np.exp(-(W @ before + V @ z + bias)))
        state = gates * before + (1 - gates) * z
    slopes = gates * (1 - gates) * (before - z)
    return Cloud(np.linalg.eigvals(last), gates, slopes, gain)


def density(cloud: Cloud, points: np.ndarray) -> np.ndarray:
    """Give g²/N Σ L_i²/|λ - D_i|²: eigenvalues of D + L W fill the region where it exceeds 1."""
    distance = np.abs(points.reshape(-1, 1) - cloud.gates) ** 2
    mean = np.mean(cloud.slopes**2 / np.maximum(distance, 1e-300), axis=1)
    return (cloud.gain**2 * mean).reshape(points.shape)


def chrono_law(longest: int, lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and variance of σ(b)^{2k} = (u/(1 + u))^{2k} for u uniform on [1, T - 1]."""
    u = np.linspace(1, longest - 1, 20_001)
    powers = np.exp(-2 * lags[:, None] * np.log1p(1 / u))
    mean = np.trapezoid(powers, u, axis=1) / (longest - 2)
    return mean, np.trapezoid(powers**2, u, axis=1) / (longest - 2) - mean**2


def chrono_distance(longest: int, constants: np.ndarray) -> float:
    """Give the Kolmogorov distance of time constants from their law: P(τ < t) = (u - 1)/(T - 2).

    τ = 1/ln(1 + 1/u), so that u = 1/(e^{1/t} - 1): nearly uniform up to T.
    """
    values = np.sort(constants)
    law = np.clip((1 / np.expm1(1 / values) - 1) / (longest - 2), 0, 1)
    steps = np.arange(values.size + 1) / values.size
    return float(max(np.max(steps[1:] - law), np.max(law - steps[:-1])))
