"""How many steps a plain backward pass survives in each floating-point format."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import elman, linear
from gradhorizon.chain.gradient import backpropagate, gradient_profile
from gradhorizon.chain.jacobian import JacobianChain
from gradhorizon.regimes.forecast import FORMATS, flushes_subnormals, forecast
from gradhorizon.studies._study import Check
from gradhorizon.theory import horizons

TITLE = "A plain gradient is exactly 0 after 87/|λ| steps in float32 on CPU; its logarithm goes on"
QUESTION = "When does a vanishing gradient become exactly zero, and an exploding one infinite?"
SOURCE = (
    "IEEE 754-2019 for the ranges; XLA flushes subnormal numbers to zero on CPU, NumPy keeps "
    "them. What the device of this run does is measured, not assumed."
)
ROOM = {"float32": 87.33655, "float64": 708.39642}  # nats of decay above the smallest normal
# first step at which NumPy's product of factors 1/4 is zero
NUMPY_ZERO = {"float16": 13, "float32": 75, "float64": 538}
# non-zero steps of the same product where XLA flushes, as on CPU
FLUSHED_STEPS = {"bfloat16": 63, "float32": 63, "float64": 511}
LOOKS = {"float16": "violet", "bfloat16": "olive", "float32": "orange", "float64": "blue"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the experiments."""

    seed: int = 0
    factors: list[float] = dataclasses.field(
        default_factory=lambda: [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.8, 0.9, 1.1, 1.3, 2.0, 4.0, 20.0]
    )
    steps: int = 8_000
    units: int = 32
    gains: list[float] = dataclasses.field(
        default_factory=lambda: [0.2, 0.3, 0.4, 0.5, 0.6, 2.0, 3.0, 5.0]
    )
    length: int = 1_500
    long: int = 100_000


SMALL = Settings(
    factors=[0.05, 0.2, 0.5, 2.0, 20.0], steps=1_200, gains=[0.3, 0.5], long=20_000
)  # fmt: skip


class Result(NamedTuple):
    """Products, lags at which gradients end, forecasts, and errors of the logarithm."""

    settings: Settings
    device: str
    flushed: dict[str, bool]
    products: dict[str, np.ndarray]  # (1/4)^k computed on the device
    numpy_zero: dict[str, int]
    ends: dict[str, np.ndarray]  # format -> lag by factor, NaN where it survives
    forecasts: dict[str, np.ndarray]  # format -> (networks, 2): forecast and measured lag
    rates: np.ndarray  # of those networks, nats per step
    log_errors: dict[str, np.ndarray]  # network -> relative error of the log at `lengths`
    lengths: np.ndarray


def compute(settings: Settings) -> Result:
    """Multiply plainly in every format, forecast networks, and carry logarithms far."""
    products = {name: np.asarray(_product(name)).astype(float) for name in FORMATS}
    ends = {name: _ends(settings, name) for name in ROOM}
    forecasts, rates = _networks(settings)
    lengths = np.unique(np.geomspace(10, settings.long, 9).astype(int))
    return Result(
        settings,
        jax.default_backend(),
        {name: flushes_subnormals(name) for name in FORMATS},
        products,
        {name: _numpy_zero(name) for name in NUMPY_ZERO},
        ends,
        forecasts,
        rates,
        _log_errors(settings, lengths),
        lengths,
    )


def _product(name: str) -> Any:
    """Multiply factors 1/4, 600 times, one after the other."""

    def body(x: Any, _: Any) -> Any:
        x = x * jnp.asarray(0.25, name)
        return x, x

    scan = functools.partial(jax.lax.scan, body, xs=None, length=600)
    return jax.jit(scan)(jnp.asarray(1, name))[1]


def _numpy_zero(name: str) -> int:
    """Count NumPy's steps until the product of factors 1/4 is zero."""
    x, factor, steps = np.dtype(name).type(1), np.dtype(name).type(0.25), 0
    while x != 0:
        x, steps = x * factor, steps + 1
    return steps


def plain_gradients(step: Any, params: Any, h0: Any, xs: Any, length: int) -> Any:
    """Give ∂L/∂h_t for t = 1 … T by `jax.grad`, L the sum of the last state."""

    def loss(pushes: Any) -> Any:
        def body(h: Any, item: Any) -> Any:
            push, x = item
            return step(params, h, x) + push, None

        return jnp.sum(jax.lax.scan(body, h0, (pushes, xs))[0])

    return jax.grad(loss)(jnp.zeros((length, *h0.shape), h0.dtype))


def _end(gradients: Any) -> Any:
    """Give the first lag at which the gradient is all zero or not finite, else NaN."""
    by_lag = gradients[::-1]
    gone = jnp.all(by_lag == 0, axis=1) | ~jnp.all(jnp.isfinite(by_lag), axis=1)
    return jnp.where(jnp.any(gone), jnp.argmax(gone).astype(float), jnp.nan)


def _ends(settings: Settings, name: str) -> np.ndarray:
    """Find where the plain gradient of h' = f h ends, for every factor f."""
    step = linear(1, 0).step

    def one(factor: Any) -> Any:
        params = {"W": factor[None, None], "b": jnp.zeros(1, name)}
        return _end(plain_gradients(step, params, jnp.zeros(1, name), None, settings.steps))

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(settings.factors, name)))


def _networks(settings: Settings) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Forecast and measure the end of the gradient: tanh below gain 1, linear above it."""
    rng = np.random.default_rng(settings.seed)
    n, length = settings.units, settings.length
    W = rng.normal(size=(n, n)) / math.sqrt(n)
    U, xs = rng.normal(size=(n, 2)), rng.normal(size=(length, 2))
    rows, rates = {name: [] for name in ROOM}, []
    profile_of = jax.jit(gradient_profile, static_argnums=(0, 4))
    plain = jax.jit(lambda step, *rest: _end(plain_gradients(step, *rest)), static_argnums=(0, 4))
    for gain in settings.gains:
        step = (elman(n, 2) if gain < 1 else linear(n, 2)).step
        params = {"W": gain * W, "U": U, "b": np.zeros(n)}
        # a linear network's gradient does not depend on its states: leave them at zero
        inputs = xs if gain < 1 else np.zeros_like(xs)
        profile = profile_of(step, params, np.zeros(n), inputs, _last_sum)
        logs = profile.log_max[::-1]
        rate = (logs[-1] - logs[length // 2]) / (length - length // 2)
        rates.append(float(rate))
        lags = np.asarray(forecast(logs[:-1], rate).lags)
        for name in ROOM:
            cast = jax.tree.map(lambda a, t=name: jnp.asarray(a, t), (params, np.zeros(n), inputs))
            rows[name].append((lags[FORMATS.index(name)], float(plain(step, *cast, length))))
    return {name: np.array(pairs) for name, pairs in rows.items()}, np.array(rates)


def _last_sum(states: Any) -> Any:
    """Give the sum of the last state."""
    return jnp.sum(states[-1])


def _log_errors(settings: Settings, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Give the relative error of the logarithm carried by `backpropagate`, by lag."""
    rng = np.random.default_rng(settings.seed + 1)
    Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    cases = {
        "factor 1/4": (np.full((1, 1), 0.25), math.log(0.25)),
        "factor 0.7": (np.full((1, 1), 0.7), math.log(0.7)),
        "rotation × 3": (3 * Q, math.log(3)),
    }
    errors = {}
    for name, (J, rate) in cases.items():
        stack = jnp.broadcast_to(jnp.asarray(J), (settings.long, *J.shape))
        chain = JacobianChain.from_matrices(stack)
        by_lag = np.asarray(backpropagate(chain, jnp.ones(J.shape[0])).by_lag)
        errors[name] = np.abs(by_lag[lengths] / (lengths * rate) - 1)
    return errors


def checks(result: Result) -> list[Check]:
    """Compare with the ranges of the formats, on the device that this run had."""
    where = f"this device: {result.device}"
    found = []
    for name, product in result.products.items():
        flushed = result.flushed[name]
        rule = float(horizons.raw_product(-math.log(4), name, flushed=flushed))
        # the last step exactly at the limit is kept when it is normal, else rounded to zero
        expected = math.floor(rule + 1e-9) if flushed else math.ceil(rule - 1e-9) - 1
        kind = "flushes" if flushed else "keeps"
        if flushed and name in FLUSHED_STEPS:
            expected = FLUSHED_STEPS[name]
        found.append(Check(f"{name}: non-zero steps of a product of factors 1/4",
                           float(np.sum(product != 0)), float(expected), 0.0,
                           f"smallest number; {where} {kind} subnormals"))  # fmt: skip
    for name, steps in result.numpy_zero.items():
        found.append(
            Check(
                f"{name}, NumPy: first step at which it is zero",
                float(steps),
                float(NUMPY_ZERO[name]),
                0.0,
                "half of the smallest subnormal",
            )
        )
    for name, room in ROOM.items():
        found.append(
            Check(
                f"{name}: nats of decay above the smallest normal number",
                float(horizons.raw_product(-1.0, name)),
                room,
                1e-5,
                "IEEE 754",
            )
        )
    return [*found, *_end_checks(result), *_forecast_checks(result)]


def _rule(result: Result, name: str) -> np.ndarray:
    """Give the rule's lag for every factor, as the format holds it."""
    held = np.asarray(jnp.asarray(result.settings.factors, name)).astype(float)
    return np.array([
        float(horizons.raw_product(math.log(f), name, flushed=result.flushed[name])) for f in held
    ])  # fmt: skip


def _end_checks(result: Result) -> list[Check]:
    """Check the lag at which the plain gradient of one unit ends, decaying and growing."""
    found = []
    for name, ends in result.ends.items():
        rule, seen = _rule(result, name), np.isfinite(ends)
        found += [
            Check(f"{name}: worst distance of the plain gradient's end from the rule, steps",
                  float(np.max(np.abs(ends - rule)[seen])), 0.0, 1.0 + 1e-6,
                  "range of the format over |ln f|; the first whole step beyond it"),
            Check(f"{name}: factors whose gradient survives, but not by the rule or reverse",
                  float(np.sum(seen != (rule < result.settings.steps - 1))), 0.0, 0.0,
                  f"{result.settings.steps} steps"),
        ]  # fmt: skip
    return found


def _forecast_checks(result: Result) -> list[Check]:
    """Check the forecast against plain backward passes, and the logarithm far back."""
    s, found = result.settings, []
    # partial sums of a matrix product are up to n times smaller or larger than its result
    slack = math.log(s.units)
    for name, pairs in result.forecasts.items():
        seen = np.isfinite(pairs[:, 1])
        distance = np.abs(pairs[seen, 1] - pairs[seen, 0]) - slack / np.abs(result.rates[seen])
        found += [
            Check(f"{name}: networks whose plain gradient ended within {s.length} steps",
                  float(seen.sum()), float(np.sum(pairs[:, 0] < s.length)), 0.0,
                  "as forecast from the logarithms"),
            Check(f"{name}: forecast, worst distance in steps beyond ln n/|λ|",
                  max(0.0, float(distance.max())), 0.0, 1.0,
                  "plain jax.grad in that format; partial sums end a little earlier"),
        ]  # fmt: skip
    for name, errors in result.log_errors.items():
        found.append(Check(f"{name}: relative error of the logarithm, up to {s.long} steps",
                           float(errors.max()), 0.0, 1e-12, "T ln f, exact"))  # fmt: skip
    return found


def answer(result: Result) -> str:
    """Say what the figure shows."""
    single, double = (int(np.sum(result.products[n] != 0)) for n in ("float32", "float64"))
    kind = "flushes" if result.flushed["float32"] else "keeps"
    return (
        f"With factors 1/4, the largest slope of a logistic unit, a product is non-zero for "
        f"{single} steps in float32 and {double} in float64 on this device ({result.device}, "
        f"which {kind} float32 subnormals), and NumPy's is zero at step "
        f"{result.numpy_zero['float32']} and {result.numpy_zero['float64']}; the logarithm is "
        f"right to {max(e.max() for e in result.log_errors.values()):.0e} after "
        f"{result.settings.long} steps."
    )


def draw(result: Result) -> Figure:
    """Draw the products, the rule, the forecasts and the logarithm's error."""
    figure, panels = plots.new_figure(8.4, 6.2, nrows=2, ncols=2)
    with plots.style():
        _draw_products(panels[0, 0], result)
        _draw_rule(panels[0, 1], result)
        _draw_forecasts(panels[1, 0], result)
        _draw_errors(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_products(axes: Any, result: Result) -> None:
    """Draw the steps for which the product is above zero, on the device, in NumPy, as a log."""
    rows = ["logarithm", *sorted(FORMATS, key=lambda n: np.sum(result.products[n] != 0))[::-1]]
    for place, name in enumerate(rows):
        if name == "logarithm":
            steps, color = result.settings.long, "black"
            text = f"{steps:,} and on"
        else:
            steps, color = int(np.sum(result.products[name] != 0)), plots.COLORS[LOOKS[name]]
            text = f"{steps}"
        axes.barh(place, steps, height=0.55, color=color, alpha=0.85)
        axes.annotate(text, (steps, place), xytext=(-7, 0), textcoords="offset points", ha="right",
                      va="center", fontsize=8.5, color="white")  # fmt: skip
        if name in result.numpy_zero:
            last = result.numpy_zero[name] - 1
            axes.plot([last], [place], "D", color="black", markersize=4.5)
            axes.annotate(f"NumPy: {last}", (last, place), xytext=(6, 0), va="center",
                          textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(1, 2 * result.settings.long)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("steps before the product is exactly zero")
    axes.set_title(f"factors 1/4, on this device ({result.device})")


def _draw_rule(axes: Any, result: Result) -> None:
    """Draw the lag at which the gradient ends against the rate."""
    rates = np.log(result.settings.factors)
    for name, ends in result.ends.items():
        color = plots.COLORS[LOOKS[name]]
        grid = np.geomspace(0.05, 4, 100)
        for sign, marker in ((-1, "o"), (1, "^")):
            rule = np.asarray(horizons.raw_product(sign * grid, name, flushed=result.flushed[name]))
            if sign < 0:
                axes.loglog(grid, rule, color=color, linewidth=1.2)
            use = np.sign(rates) == sign
            axes.loglog(np.abs(rates[use]), ends[use], marker, color=color, markersize=4.5)
        room = float(horizons.raw_product(-1.0, name, flushed=result.flushed[name]))
        axes.annotate(f"{name}: {room:.5g}/|λ|", (0.3, room / 0.3), xytext=(-9, -11), ha="right",
                      fontsize=8.5, textcoords="offset points", color=color)  # fmt: skip
    note = "circles: vanishing, exactly 0\ntriangles: exploding, infinite"
    axes.text(0.055, 20, note, fontsize=8)
    axes.set_xlabel("rate |λ| (nats per step)")
    axes.set_ylabel("lag at which jax.grad ends")
    axes.set_title("one unit h' = f h, plain backward pass")


def _draw_forecasts(axes: Any, result: Result) -> None:
    """Draw the measured against the forecast end of the gradient of networks."""
    everything = np.concatenate(list(result.forecasts.values()))
    ends = np.array([np.nanmin(everything) / 1.3, result.settings.length])
    axes.loglog(ends, ends, color="black", linewidth=1)
    for name, pairs in result.forecasts.items():
        for group, marker in ((result.rates < 0, "o"), (result.rates > 0, "^")):
            axes.loglog(pairs[group, 0], pairs[group, 1], marker, markersize=5,
                        color=plots.COLORS[LOOKS[name]])  # fmt: skip
        axes.annotate(name, np.nanmedian(pairs, axis=0), xytext=(-9, 9), ha="right", fontsize=8.5,
                      textcoords="offset points", color=plots.COLORS[LOOKS[name]])  # fmt: skip
    axes.text(0.97, 0.06, "circles: tanh, vanishing\ntriangles: linear, exploding", ha="right",
              transform=axes.transAxes, fontsize=8)  # fmt: skip
    axes.set_xlabel("lag forecast from logarithms")
    axes.set_ylabel("lag at which jax.grad ends")
    axes.set_title(f"networks of {result.settings.units} units: forecast and truth")


def _draw_errors(axes: Any, result: Result) -> None:
    """Draw the relative error of the logarithm against the number of steps."""
    for (name, errors), color in zip(
        result.log_errors.items(), ("violet", "blue", "red"), strict=True
    ):
        axes.loglog(result.lengths, np.maximum(errors, 3e-18), "o-", markersize=4, linewidth=0.9,
                    color=plots.COLORS[color], label=name)  # fmt: skip
    axes.axhline(2**-53, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(result.lengths[0], 4e-16, "line: unit roundoff of float64", fontsize=8)
    axes.legend(loc="upper right", fontsize=8)
    axes.set_ylim(1e-18, 1e-14)
    axes.set_xlabel("steps")
    axes.set_ylabel("relative error of ln of the gradient")
    axes.set_title("carried as a logarithm (3e-18: no error)")
