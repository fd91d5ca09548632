"""Networks while they are trained: plain Adam loops on digits and on the adding problem.

Parameters are kept outside the repository, so that only the first run trains.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import gradhorizon as gh
from gradhorizon.studies._zoo import Network
from gradhorizon.studies._zoo_cells import MinimalStep

SEEDS, SNAPSHOTS, BATCH, ADDING_STEPS = 3, (0, 100, 400), 32, 60


class Digits(NamedTuple):
    """Rows of handwritten digits, image after image: sequences of any length, 8 numbers a step."""

    name: str = "digits"

    def draw(self, rng: np.random.Generator, length: int) -> np.ndarray:
        images = np.asarray(gh.tasks.sequential_digits().xs).reshape(-1, 8, 8)
        chosen = rng.integers(len(images), size=-(-length // 8))
        return images[chosen].reshape(-1, 8)[:length].astype(np.float64)


class Adding(NamedTuple):
    """Sequences of the adding problem, one after the other: a number and a marker a step."""

    name: str = "adding"

    def draw(self, rng: np.random.Generator, length: int) -> np.ndarray:
        count = -(-length // ADDING_STEPS)
        key = jax.random.key(int(rng.integers(2**31)))
        xs = gh.tasks.adding(key, count, ADDING_STEPS).xs
        return np.asarray(xs).reshape(-1, 2)[:length].astype(np.float64)


class Task(NamedTuple):
    """A task: its inputs, a batch of labeled sequences, the loss of the readout."""

    process: Any
    width: int
    outputs: int
    batch: Callable[[Any], tuple[Any, Any]]
    loss: Callable[[Any, Any], Any]


def digits_task() -> Task:
    data = gh.tasks.sequential_digits()
    images, labels = data.xs.reshape(-1, 8, 8), data.labels

    def batch(key: Any) -> tuple[Any, Any]:
        chosen = jax.random.randint(key, (BATCH,), 0, len(labels))
        return images[chosen], labels[chosen]

    def loss(out: Any, label: Any) -> Any:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, label))

    return Task(Digits(), 8, 10, batch, loss)


def adding_task() -> Task:
    def batch(key: Any) -> tuple[Any, Any]:
        return gh.tasks.adding(key, BATCH, ADDING_STEPS)

    return Task(Adding(), 2, 1, batch, lambda out, y: jnp.mean((out[:, 0] - y) ** 2))


def minimal_cell(n: int, m: int) -> gh.Cell:
    """Give the zoo's minimal RNN as a cell."""

    def init(key: Any) -> Any:
        draw, keys = gh.inits.gaussian(), jax.random.split(key, 3)
        square = {
            name: draw(k, (n, n), jnp.float64) for name, k in zip("WV", keys[:2], strict=True)
        }
        incoming = draw(keys[2], (n, m), jnp.float64)
        return square | {"U": incoming, "b": jnp.zeros(n), "d": jnp.ones(n)}

    return gh.Cell(init, MinimalStep(n), lambda: jnp.zeros(n))


CELLS: dict[str, Callable[[int, int], gh.Cell]] = {
    "elman": gh.cells.elman,
    "elman orthogonal": lambda n, m: gh.cells.elman(n, m, recurrent_init=gh.inits.orthogonal()),
    "lstm": gh.cells.lstm,
    "gru": gh.cells.gru,
    "minimal": minimal_cell,
}
SIZES = {"elman": 64, "elman orthogonal": 64, "lstm": 32, "gru": 32, "minimal": 48}


def snapshots(cell: gh.Cell, n: int, task: Task, seeds: int, places: tuple[int, ...]) -> list[Any]:
    """Train from several seeds at once; give the parameters at `places`, with a leading axis."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))

    def start(key: Any) -> Any:
        for_cell, for_readout = jax.random.split(key)
        readout = jax.random.normal(for_readout, (task.outputs, n)) / np.sqrt(n)
        params = {"cell": cell.init(for_cell), "readout": readout}
        return params, optimizer.init(params)

    def objective(params: Any, xs: Any, labels: Any) -> Any:
        def final(x: Any) -> Any:
            def body(h: Any, u: Any) -> tuple[Any, None]:
                return cell.step(params["cell"], h, u), None

            h, _ = jax.lax.scan(body, cell.initial_state(), x)
            return params["readout"] @ jax.tree.leaves(h)[-1]

        return task.loss(jax.vmap(final)(xs), labels)

    def update(carry: Any, key: Any) -> tuple[Any, Any]:
        params, state = carry
        gradient = jax.grad(objective)(params, *task.batch(key))
        change, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, change), state), None

    @jax.jit
    def train(carry: Any, keys: Any) -> Any:
        return jax.vmap(lambda c, k: jax.lax.scan(update, c, k)[0])(carry, keys)

    keys = jax.vmap(lambda k: jax.random.split(k, places[-1]))(
        jax.random.split(jax.random.key(7), seeds)
    )
    carry = jax.vmap(start)(jax.random.split(jax.random.key(3), seeds))
    found = [carry[0]["cell"]]
    width = int(np.gcd.reduce(places))
    for first in range(0, places[-1], width):  # pieces of one length compile once
        carry = train(carry, keys[:, first : first + width])
        if first + width in places:
            found.append(carry[0]["cell"])
    return [jax.tree.map(np.asarray, params) for params in found]


def networks(folder: Path, *, small: bool) -> list[Network]:
    """Give the networks of all cells and tasks, training those that are not yet stored."""
    tasks = {"digits": digits_task(), "adding": adding_task()}
    places, seeds = ((0, 5), 1) if small else (SNAPSHOTS, SEEDS)
    found = []
    pairs = [(c, t) for c in CELLS for t in tasks][:: 5 if small else 1]
    for name, label in tqdm.tqdm(pairs, desc="train"):
        task, n = tasks[label], SIZES[name]
        cell = CELLS[name](n, task.width)
        stem = f"{name}-{label}-{seeds}-{places[-1]}".replace(" ", "-")
        trained = stored(folder / f"{stem}.npz", cell, n, task, seeds, places)
        kind = f"trained {name}, {label}"
        h0 = jax.tree.map(np.asarray, cell.initial_state())
        for place, params in zip(places, trained, strict=True):
            for seed in range(seeds):
                one = jax.tree.map(lambda leaf, s=seed: leaf[s], params)
                seeded = (0, zlib.crc32(kind.encode()), place * 100 + seed)
                found.append(Network(kind, "trained", n, cell.step, one, h0, task.process, seeded))
    return found


def stored(path: Path, cell: gh.Cell, *settings: Any) -> list[Any]:
    """Give the snapshots of one cell and task, from the file if there is one."""
    structure = jax.tree.structure(jax.eval_shape(cell.init, jax.random.key(0)))
    width, places = structure.num_leaves, settings[-1]
    if not path.exists():
        trained = snapshots(cell, *settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *[leaf for params in trained for leaf in jax.tree.leaves(params)])
    with np.load(path) as arrays:
        leaves = [arrays[f"arr_{i}"] for i in range(width * len(places))]
    return [
        jax.tree.unflatten(structure, leaves[i : i + width]) for i in range(0, len(leaves), width)
    ]
