"""Random networks at points of the phase diagram: growth, variance and correlation by layer."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradhorizon.cells import elman, feedforward, inits
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.theory import mean_field

CUT = 0.05  # σ_b² of the cut
CUT_POINTS = (0.7, 1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5, 3.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    width: int = 300
    depth: int = 40
    settle: int = 8  # layers at the input that only bring the variance to its fixed point
    steps: int = 120  # of the recurrent networks
    draws: int = 24
    map_columns: int = 6  # measured points of the maps
    map_rows: int = 3
    grid: int = 40  # nodes of the theory's maps along each axis


class Measured(NamedTuple):
    """Random networks at several (σ_w², σ_b²); arrays are (draws, points, ...)."""

    points: np.ndarray  # (points, 2)
    by_lag: np.ndarray
    length: np.ndarray  # mean squared pre-activation of every layer
    split: np.ndarray  # difference of two correlations that began on both sides, every layer


@functools.cache
def scales(activation: str, sigma_w2: float, sigma_b2: float) -> mean_field.DepthScales:
    """Give the fixed points and depth scales, computed once."""
    return mean_field.depth_scales(activation, sigma_w2, sigma_b2)


def _starts(activation: str, points: np.ndarray) -> np.ndarray:
    """Give the second moment of inputs and two correlations near the fixed point, (points, 3)."""
    found = []
    for sigma_w2, sigma_b2 in points:
        at = scales(activation, float(sigma_w2), float(sigma_b2))
        c, moment = float(at.correlation), (float(at.q) - sigma_b2) / sigma_w2
        reach = min(0.25, (1 - c) / 2)  # both sides: the curvature of the map cancels
        pair = (c + reach, c - reach) if c < 1 else (1 - 1e-3, 1 - 2e-3)
        found.append((moment, *pair))
    return np.array(found)


def measure(activation: str, key: Any, points: np.ndarray, settings: Settings) -> Measured:
    """Measure deep networks; the same draws, scaled, at every point."""
    n = settings.width
    net = feedforward(n, settings.depth, activation=activation, bias_init=inits.gaussian())
    on_cut = points[:, 1] == CUT
    starts = np.full((len(points), 3), 0.5)
    if on_cut.any():
        starts[on_cut] = _starts(activation, points[on_cut])

    def one(params: Any, key: Any) -> Any:
        normal = jax.random.normal(key, (3, n))

        def at(case: Any) -> Any:
            (sigma_w2, sigma_b2), (moment, *correlations) = case
            scaled = {
                "W": jnp.sqrt(sigma_w2) * params["W"],
                "b": jnp.sqrt(sigma_b2) * params["b"],
            }
            first = jnp.sqrt(moment) * normal[0]
            chain = jacobian_chain(net.step, scaled, first, tied=False)
            by_lag = backpropagate(chain, normal[2]).by_lag
            drive = _preactivations(net.step, scaled, first)
            square, found = jnp.mean(drive**2, axis=1), []
            for c in correlations:
                second = jnp.sqrt(moment) * (c * normal[0] + jnp.sqrt(1 - c**2) * normal[1])
                other = _preactivations(net.step, scaled, second)
                size = jnp.sqrt(square * jnp.mean(other**2, axis=1))
                found.append(jnp.mean(drive * other, axis=1) / size)
            return by_lag, square, found[0] - found[1]

        return jax.lax.map(at, (jnp.asarray(points), jnp.asarray(starts)))

    with jax.default_matmul_precision("highest"):
        run = jax.jit(one)
        keys = jax.random.split(key, (settings.draws, 2))
        found = [jax.tree.map(np.asarray, run(net.init(k[0]), k[1])) for k in keys]
    return Measured(points, *(np.stack(a) for a in zip(*found, strict=True)))


def _preactivations(step: Any, params: Any, start: Any) -> Any:
    """Give W_l h_{l-1} + b_l of every layer, (depth, n)."""
    states = unroll(step, params, start, tied=False).states[:-1]
    return jnp.einsum("lij,lj->li", params["W"], states) + params["b"]


def measure_tied(key: Any, settings: Settings) -> np.ndarray:
    """Measure one cell unrolled: white noise of variance σ_b² in place of the biases."""
    n = settings.width
    cell = elman(n, n, input_init=inits.identity(math.sqrt(CUT)))

    def one(key: Any) -> Any:
        for_params, for_inputs, for_cotangent = jax.random.split(key, 3)
        params = cell.init(for_params)
        xs = jax.random.normal(for_inputs, (settings.steps, n))
        cotangent = jax.random.normal(for_cotangent, (n,))

        def at(sigma_w2: Any) -> Any:
            scaled = params | {"W": jnp.sqrt(sigma_w2) * params["W"]}
            chain = jacobian_chain(cell.step, scaled, cell.initial_state(), xs)
            return backpropagate(chain, cotangent).by_lag

        return jax.lax.map(at, jnp.asarray(CUT_POINTS))

    keys = jax.random.split(key, settings.draws)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda k: jax.lax.map(one, k))(keys))


def rates(by_lag: np.ndarray, settle: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the mean rate per layer over draws and its standard error, without early layers."""
    lags = by_lag.shape[-1] - 1 - settle
    found = by_lag[..., lags] / lags
    return found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(found.shape[0])


def correlation_rate(cut: Measured, index: int) -> tuple[float, float]:
    """Fit 1/ξ_c, the rate at which correlations approach c*, and its jackknife error.

    A straight line through ln of the mean difference of two correlations, over the layers where
    it is above noise and rounding.
    """
    split = cut.split[:, index]
    draws, mean = np.arange(split.shape[0]), split.mean(axis=0)
    noise = 5 * split.std(axis=0, ddof=1) / math.sqrt(draws.size)
    clear = mean > np.maximum(noise, 1e-11)
    last = clear.size if clear.all() else int(np.argmin(clear))
    layers = np.arange(1, max(last, 4))

    def fit(use: np.ndarray) -> float:
        values = np.log(np.abs(split[use].mean(axis=0)[layers]))
        return float(-np.polyfit(layers, values, 1)[0])

    left_out = np.array([fit(draws != i) for i in draws])
    spread = math.sqrt((draws.size - 1) * float(np.mean((left_out - left_out.mean()) ** 2)))
    return fit(draws >= 0), spread


def lengths(cut: Measured, settle: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the mean squared pre-activation of settled layers and its standard error."""
    q = cut.length[:, :, settle:].mean(axis=2)
    return q.mean(axis=0), q.std(axis=0, ddof=1) / math.sqrt(q.shape[0])


def rates_of_theory(activation: str, points: np.ndarray) -> np.ndarray:
    """Give ½ ln χ, nats per layer, at points (σ_w², σ_b²)."""

    def rate(point: Any) -> Any:
        q = mean_field.length_fixed_point(activation, point[0], point[1])
        return 0.5 * jnp.log(mean_field.susceptibility(activation, point[0], q))

    return np.asarray(jax.jit(lambda p: jax.lax.map(rate, p))(jnp.asarray(points)))
