"""The wall in the error surface of a one-unit network, and what it does to gradient descent."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

from gradhorizon import plots
from gradhorizon.cells import rate_network
from gradhorizon.chain.gradient import backpropagate
from gradhorizon.chain.jacobian import jacobian_chain
from gradhorizon.chain.unroll import unroll
from gradhorizon.studies._study import Check
from gradhorizon.theory import latch

TITLE = "Where trajectories part, the error surface has a wall, and the gradient points across it"
QUESTION = "What does an exploding gradient look like in the error surface of a recurrent network?"
SOURCE = (
    "Pascanu, Mikolov & Bengio, ICML 2013 (arXiv:1211.5063), Fig. 6: one unit, 50 steps, target "
    "0.7; the ranges of w and b are ours. Clipping: its algorithm 1."
)
START, TARGET, STEPS = 0.5, 0.7, 50
SLOPE = float(1 / (2 + 2 * np.cosh(START)))  # σ'(x_0)
LEVEL = float(1 / (1 + np.exp(-START)))  # σ(x_0)
# E_50, ∂E/∂w and ∂E/∂b from the forward recursions, computed independently to 12 digits
POINTS = {
    (5.0, -2.5): (0.024088868813, 0.086311669477, 0.100925017637),
    (5.0, -2.3): (0.040181204915, 0.058641230235, 0.065124179464),
    (5.0, -2.4): (0.033004741307, 0.069864669890, 0.079241105853),
    (5.0, -2.6): (0.012095211368, 0.119458680388, 0.147601808157),
    (4.0, -2.0): (0.016736632938, -1.044529405367, -1.787904154237),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The grid, the walk along the wall, and gradient descent into it."""

    grid: int = 801
    ridge: int = 21
    section: int = 61
    section_weight: float = 5.0
    start_weight: float = 5.0
    start_bias: float = -2.5
    learning_rate: float = 0.2
    clip: float = 0.5
    updates: int = 40


SMALL = Settings(grid=401, ridge=5, section=31)


class Result(NamedTuple):
    """The surface, its gradient, the wall and the two descents."""

    settings: Settings
    weights: np.ndarray
    biases: np.ndarray
    error: np.ndarray  # (weights, biases)
    gradient: np.ndarray  # (weights, biases, 2)
    at_points: dict[tuple[float, float], np.ndarray]  # E, ∂E/∂w, ∂E/∂b
    ridge_weights: np.ndarray
    ridge: np.ndarray  # (ridge, 3): E, ∂E/∂w, ∂E/∂b on the wall
    offsets: np.ndarray  # b minus the wall's, at the section's weight
    section: np.ndarray  # (offsets, 3)
    symmetric: dict[float, float]  # w -> dx_50/dx_0 on b = -w/2 from x = 0
    paths: dict[str, np.ndarray]  # (updates + 1, 3): w, b, E
    steps: dict[str, np.ndarray]  # lengths of the updates


def wall_bias(weight: Any) -> Any:
    """Give b = x_0 - w σ(x_0): there x_0 is a fixed point, unstable for w σ'(x_0) > 1."""
    return START - weight * LEVEL


def wall_gradient(weight: Any) -> Any:
    """Give ‖∇E_50‖ on the wall.

    The factor f = w σ'(x_0) repeats exactly, so ∂x_50/∂b = (f⁵⁰ - 1)/(f - 1) and ∂x_50/∂w is
    σ(x_0) times that.
    """
    factor = weight * SLOPE
    growth = (factor**STEPS - 1) / (factor - 1)
    return 2 * abs(LEVEL - TARGET) * SLOPE * growth * math.hypot(1, LEVEL)


def compute(settings: Settings) -> Result:
    """Map error and gradient by backpropagation, walk along the wall, and descend into it."""
    both = jax.jit(jax.vmap(jax.value_and_grad(_error)))
    weights = np.linspace(4.5, 6.5, settings.grid)
    biases = np.linspace(-3.3, -2.0, settings.grid)

    def row(weight: Any) -> Any:
        theta = jnp.stack([jnp.full(settings.grid, weight), jnp.asarray(biases)], axis=1)
        return both(theta)

    error, gradient = jax.jit(lambda w: jax.lax.map(row, w))(jnp.asarray(weights))
    places = np.array(list(POINTS))
    ridge_weights = np.linspace(4.5, 6.5, settings.ridge)
    ridge = np.stack([ridge_weights, wall_bias(ridge_weights)], axis=1)
    offsets = _offsets(settings.section)
    section = wall_bias(settings.section_weight) + offsets
    section = np.stack([np.full(section.size, settings.section_weight), section], axis=1)
    batch = np.concatenate([places, ridge, section])
    numbers = np.column_stack(both(jnp.asarray(batch)))
    at_points, on_ridge, across = np.split(numbers, np.cumsum([len(places), len(ridge)]))
    clips = {"plain": math.inf, "clipped": settings.clip}
    paths = {name: _descend(both, len(batch), settings, clip) for name, clip in clips.items()}
    return Result(
        settings,
        weights,
        biases,
        np.asarray(error),
        np.asarray(gradient),
        dict(zip(POINTS, at_points, strict=True)),
        ridge_weights,
        on_ridge,
        offsets,
        across,
        {w: _symmetric_gradient(w) for w in (4.0, 5.0, 6.0)},
        paths,
        {k: np.hypot(*np.diff(path[:, :2], axis=0).T) for k, path in paths.items()},
    )


def _offsets(count: int) -> np.ndarray:
    """Give distances from the wall, from 1e-8 to 0.3 on both sides, and 0."""
    side = np.geomspace(1e-8, 0.3, count)
    return np.concatenate([-side[::-1], [0.0], side])


def _unit(theta: Any) -> tuple[Any, Any]:
    """Give the step and the parameters of x' = w σ(x) + b for theta = (w, b)."""
    step = rate_network(1, 0, activation="sigmoid").step
    return step, {"W": theta[:1][None], "b": theta[1:]}


def _error(theta: Any) -> Any:
    """Give E_50 = (σ(x_50) - 0.7)²."""
    step, params = _unit(theta)
    states = unroll(step, params, jnp.asarray([START]), length=STEPS).states
    return (jax.nn.sigmoid(states[-1, 0]) - TARGET) ** 2


def _symmetric_gradient(weight: float) -> float:
    """Measure dx_50/dx_0 on b = -w/2, started at the fixed point 0."""
    step, params = _unit(jnp.asarray([weight, -weight / 2]))
    chain = jacobian_chain(step, params, jnp.zeros(1), length=STEPS)
    return float(np.exp(backpropagate(chain, jnp.ones(1)).log_norms[0]))


def _descend(both: Any, batch: int, settings: Settings, clip: float) -> np.ndarray:
    """Descend by the gradient, rescaled to the norm `clip` where it is longer."""
    theta, path = np.array([settings.start_weight, settings.start_bias]), []
    for _ in range(settings.updates + 1):
        # as many copies as the batch that is compiled already
        values, slopes = both(jnp.asarray(np.broadcast_to(theta, (batch, 2))))
        slope = np.asarray(slopes[0])
        path.append([*theta, float(values[0])])
        theta = theta - settings.learning_rate * slope * min(1.0, clip / np.hypot(*slope))
    return np.array(path)


def checks(result: Result) -> list[Check]:
    """Compare with the forward recursions, and with closed forms on the wall."""
    found = []
    for (w, b), numbers in result.at_points.items():
        for label, value, expected in zip(
            ("E", "∂E/∂w", "∂E/∂b"), numbers, POINTS[w, b], strict=True
        ):
            found.append(Check(f"{label} at w = {w:g}, b = {b:g}", float(value), expected, 1e-9,
                               "forward recursions of x, ∂x/∂w, ∂x/∂b"))  # fmt: skip
    for w, value in result.symmetric.items():
        expected = math.exp(float(latch.symmetric_log_gradient(w, STEPS)))
        found.append(Check(f"dx_50/dx_0 at w = {w:g}, b = -w/2, x_0 = 0", value, expected,
                           1e-10 * expected, "(w/4)⁵⁰"))  # fmt: skip
    return [*found, *_wall_checks(result), *_grid_checks(result), *_descent_checks(result)]


def _wall_checks(result: Result) -> list[Check]:
    """Check height, direction, position and the two sides of the wall."""
    slope = result.ridge[:, 1:]
    height = np.hypot(*slope.T) / wall_gradient(result.ridge_weights)
    along = np.array([1.0, -LEVEL]) / math.hypot(1, LEVEL)
    cosine = np.abs(slope @ along) / np.hypot(*slope.T)
    weight = result.settings.section_weight
    factor = weight * SLOPE
    width = (factor - 1) / (factor**STEPS - 1)
    peak = int(np.argmax(np.hypot(*result.section[:, 1:].T)))
    # rounding of b moves x_50 by about eps f⁵⁰/(f - 1), 1e-6 at w = 6.5
    return [
        Check("on the wall: ‖∇E‖ over the closed form, worst deviation from 1",
              float(np.max(np.abs(height - 1))), 0.0, 5e-5,
              "2 |σ(x_0) - 0.7| σ'(x_0) √(1 + σ²(x_0)) (f⁵⁰ - 1)/(f - 1), f = w σ'(x_0)"),
        Check("on the wall: largest cosine between ∇E and the wall", float(cosine.max()), 0.0,
              1e-5, "∇E is parallel to (σ(x_0), 1), the wall to (1, -σ(x_0))"),
        Check("on the wall: E, worst deviation from (σ(0.5) - 0.7)²",
              float(np.max(np.abs(result.ridge[:, 0] - (LEVEL - TARGET) ** 2))), 0.0, 1e-5,
              "x_0 = 0.5 is a fixed point there"),
        Check(f"w = {weight:g}: where the gradient is largest, in b from the wall",
              float(result.offsets[peak]), 0.0, 20 * width,
              "b = x_0 - w σ(x_0); a few widths (f - 1)/(f⁵⁰ - 1)"),
        Check(f"w = {weight:g}: E just below the wall minus E just above",
              _side(result, -20 * width) - _side(result, 20 * width),
              _attractor_error(weight, -3.0) - _attractor_error(weight, 3.0), 0.02,
              "the two attractors at the wall's b, after 50 steps nearly reached"),
    ]  # fmt: skip


def _side(result: Result, offset: float) -> float:
    """Give E at an offset from the wall, interpolated."""
    return float(np.interp(offset, result.offsets, result.section[:, 0]))


def _attractor_error(weight: float, x: float) -> float:
    """Give E of the attractor that x is drawn to at the wall's bias, by plain iteration."""
    for _ in range(10_000):
        x = weight / (1 + math.exp(-x)) + wall_bias(weight)
    return (1 / (1 + math.exp(-x)) - TARGET) ** 2


def _grid_checks(result: Result) -> list[Check]:
    """Check the landscape; its largest gradient depends on which grid points hit the wall."""
    norm = np.hypot(result.gradient[..., 0], result.gradient[..., 1])
    row, column = np.unravel_index(np.argmax(norm), norm.shape)
    source = "forward recursions on the same grid"
    place = result.weights[row], result.biases[column]
    found = [
        Check("grid: median ‖∇E‖", float(np.median(norm)), 0.0741, 0.000741, source),
        Check("grid: b of the largest ‖∇E‖, from the wall", float(place[1]),
              float(wall_bias(place[0])), 1e-3, "b = x_0 - w σ(x_0)"),
    ]  # fmt: skip
    if result.settings.grid == 801:
        found += [
            Check("grid: largest ‖∇E‖", float(norm.max()), 6122.046, 61.22, source),
            Check("grid: its w", float(place[0]), 4.99, 1e-9, source),
            Check("grid: its b", float(place[1]), -2.606125, 1e-9, source),
            Check("grid: largest over median", float(norm.max() / np.median(norm)), 8.26e4, 1.2e3,
                  source),
        ]  # fmt: skip
    return found


def _descent_checks(result: Result) -> list[Check]:
    """Check how far an update goes, and where the plain descent ends."""
    s = result.settings
    return [
        Check("clipped descent: longest update", float(result.steps["clipped"].max()),
              s.learning_rate * s.clip, 1e-12, "learning rate × threshold"),
        Check("plain descent: E in the end", float(result.paths["plain"][-1, 2]),
              (1 - TARGET) ** 2, 1e-3, "thrown to where σ(x_50) = 1"),
    ]  # fmt: skip


def answer(result: Result) -> str:
    """Say what the figure shows."""
    norm = np.hypot(result.gradient[..., 0], result.gradient[..., 1])
    weights = result.ridge_weights
    height = np.hypot(*result.ridge[:, 1:].T)
    longest = result.steps["plain"].max()
    return (
        f"A wall: on the line where x₀ is an unstable fixed point ‖∇E‖ rises from {height[0]:.3g} "
        f"(w = {weights[0]:g}) to {height[-1]:.2g} (w = {weights[-1]:g}) at right angles to the "
        f"wall, against a median of {np.median(norm):.3g}; one plain update of length "
        f"{longest:.3g} throws the weights out of the valley for good, a clipped one goes "
        f"{result.steps['clipped'].max():.2g} at most."
    )


def draw(result: Result) -> Figure:
    """Draw the surface with both descents, the gradient, a section and the wall's height."""
    figure, panels = plots.new_figure(8.4, 6.4, nrows=2, ncols=2)
    with plots.style():
        _draw_error(figure, panels[0, 0], result)
        _draw_gradient(figure, panels[0, 1], result)
        _draw_section(panels[1, 0], result)
        _draw_height(panels[1, 1], result)
        figure.suptitle(TITLE, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _map(
    figure: Any, axes: Any, result: Result, values: np.ndarray, label: str, **look: Any
) -> None:
    """Draw numbers of the grid over (w, b) with the wall's line."""
    w, b = result.weights, result.biases
    image = axes.imshow(values.T, origin="lower", extent=(w[0], w[-1], b[0], b[-1]),
                        aspect="auto", interpolation="nearest", **look)  # fmt: skip
    figure.colorbar(image, ax=axes, label=label, pad=0.02)
    axes.set_xlabel("weight w")
    axes.set_ylabel("bias b")


def _draw_error(figure: Any, axes: Any, result: Result) -> None:
    """Draw E over the grid, with the paths of plain and clipped descent."""
    _map(figure, axes, result, result.error, "error E after 50 steps", cmap="cividis", vmin=0)
    axes.autoscale(enable=False)
    looks = {"plain": plots.COLORS["orange"], "clipped": "white"}
    for name, color in looks.items():
        path = result.paths[name]
        axes.plot(path[:, 0], path[:, 1], "o-", color=color, markersize=2.5, linewidth=1)
    axes.plot(*result.paths["plain"][0, :2], "D", color="white", markersize=4)
    axes.text(5.06, -2.5, "start", fontsize=8, va="center", color="white")
    longest = result.steps["plain"].max()
    axes.text(5.25, -2.2, f"plain: one update throws\nw and b {longest:.0f} units away", fontsize=8,
              color="white")  # fmt: skip
    axes.annotate("clipped: stays\nat the wall", (4.72, -2.47), xytext=(4.55, -2.95), fontsize=8,
                  arrowprops={"arrowstyle": "-", "linewidth": 0.8})  # fmt: skip
    axes.set_title("error, and gradient descent into the wall")


def _draw_gradient(figure: Any, axes: Any, result: Result) -> None:
    """Draw the norm of the gradient over the grid, and the line of the theory."""
    norm = np.hypot(result.gradient[..., 0], result.gradient[..., 1])
    # the wall is thinner than a cell of the grid: each pixel shows the largest of 4 × 4 cells
    starts = np.arange(0, len(norm), 4)
    pixels = np.maximum.reduceat(np.maximum.reduceat(norm, starts, axis=0), starts, axis=1)
    scale = colors.LogNorm(1e-2, 1e2)
    _map(figure, axes, result, pixels, "gradient ‖∇E‖", cmap="magma", norm=scale)
    ends = result.weights[[0, -1]]
    for shift in (-0.06, 0.06):
        axes.plot(ends, wall_bias(ends) + shift, color="white", linestyle=(0, (4, 2)), linewidth=1)
    axes.text(5.45, -2.72, "wall between the lines:\nb = x₀ − w σ(x₀)", color="white", fontsize=8)
    axes.set_xlim(*ends)
    axes.set_ylim(result.biases[0], result.biases[-1])
    axes.set_title("gradient over the same grid")


def _draw_section(axes: Any, result: Result) -> None:
    """Draw E and ‖∇E‖ against the distance from the wall."""
    weight = result.settings.section_weight
    norm = np.hypot(*result.section[:, 1:].T)
    axes.plot(result.offsets, result.section[:, 0], "o-", color=plots.COLORS["blue"],
              markersize=2.5, linewidth=0.8)  # fmt: skip
    axes.plot(result.offsets, norm, "o-", color=plots.COLORS["orange"], markersize=2.5,
              linewidth=0.8)  # fmt: skip
    axes.plot([0], [wall_gradient(weight)], "D", color="black", markersize=4)
    axes.annotate("closed form on the wall", (0, wall_gradient(weight)), xytext=(8, 14),
                  textcoords="offset points", fontsize=8,
                  arrowprops={"arrowstyle": "-", "linewidth": 0.8})  # fmt: skip
    axes.set_xscale("symlog", linthresh=1e-6)
    axes.set_xticks([-1e-1, -1e-4, 0, 1e-4, 1e-1])
    axes.set_yscale("log")
    axes.text(1e-3, 2e-3, "error E", color=plots.COLORS["blue"], fontsize=8.5)
    axes.text(1e-3, 4, "gradient ‖∇E‖", color=plots.COLORS["orange"], fontsize=8.5)
    axes.set_xlabel(f"bias minus the wall's bias (w = {weight:g})")
    axes.set_ylabel("error, gradient")
    axes.set_title("across the wall")


def _draw_height(axes: Any, result: Result) -> None:
    """Draw the gradient on the wall, on the grid and typically, and the symmetric line."""
    w = np.linspace(4.5, 6.5, 200)
    axes.semilogy(w, wall_gradient(w), color=plots.COLORS["orange"], linewidth=1.3)
    axes.semilogy(result.ridge_weights, np.hypot(*result.ridge[:, 1:].T), "o",
                  color=plots.COLORS["orange"], markersize=4)  # fmt: skip
    axes.text(4.6, 1e6, "on the wall\n(line: closed form)", color=plots.COLORS["orange"],
              fontsize=8.5)  # fmt: skip
    norm = np.hypot(result.gradient[..., 0], result.gradient[..., 1])
    axes.semilogy(result.weights, norm.max(axis=1), ".", color=plots.COLORS["gray"], markersize=2)
    axes.semilogy(result.weights, np.median(norm, axis=1), color=plots.COLORS["violet"])
    axes.text(6.5, 200, "largest on the grid:\nit misses the wall",
              color=plots.COLORS["gray"], fontsize=8, ha="right")  # fmt: skip
    axes.text(5.5, 0.012, "median on the grid", color=plots.COLORS["violet"], ha="center",
              fontsize=8)  # fmt: skip
    axes.set_ylim(1e-3, 1e9)
    axes.set_xlabel("weight w")
    axes.set_ylabel("gradient ‖∇E‖")
    axes.set_title("how high the wall is")
