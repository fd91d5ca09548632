"""The zoo: kinds of recurrent networks on which predictions are judged.

`KINDS` names them. A kind gives a step for every size and draws parameters, initial state and
input process with NumPy from a seed, so that nothing is compiled; networks with equal steps
form a group, whose arrays have equal shapes and can be mapped over.
"""

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradhorizon.studies import _zoo_matrices as m
from gradhorizon.studies._zoo_additive import Additive
from gradhorizon.studies._zoo_gated import Gated

PREFIX, TRUTH, AGAIN = 1, 2, 4  # which sequence of a network's input process is drawn


class Kind(NamedTuple):
    """A kind of network.

    Attributes
    ----------
    family
        What it is counted under in figures.
    sizes
        The numbers of units, gone through in turn.
    recipe
        Gives the step of a size and draws networks.
    """

    family: str
    sizes: tuple[int, ...]
    recipe: Additive | Gated


class Network(NamedTuple):
    """One drawn network.

    Attributes
    ----------
    kind, family, size
        What it is; `size` is the number of units.
    step
        Its step; hashable.
    params, h0
        NumPy arrays in the structure of the step.
    process
        Draws inputs, shape (length, m), from a generator; None without inputs.
    seed
        Seeds whatever else is drawn for it.
    """

    kind: str
    family: str
    size: int
    step: Any
    params: Any
    h0: Any
    process: Any
    seed: tuple[int, ...]

    def inputs(self, length: int, sequence: int) -> np.ndarray | None:
        """Draw the sequence `PREFIX`, `TRUTH` or `AGAIN` of its inputs."""
        if self.process is None:
            return None
        return self.process.draw(np.random.default_rng([*self.seed, sequence]), length)


class Group(NamedTuple):
    """Networks with one step: params and h0 have a leading axis over them."""

    step: Any
    networks: tuple[Network, ...]
    params: Any
    h0: Any

    def inputs(self, length: int, sequence: int) -> np.ndarray | None:
        """Draw the inputs of all networks, shape (networks, length, m)."""
        drawn = [network.inputs(length, sequence) for network in self.networks]
        driven = [xs for xs in drawn if xs is not None]
        return np.stack(driven) if driven else None


_USUAL, _FEW, _LARGE = (16, 32, 64), (16, 64), (32, 128, 64, 256)
_EDGE, _WIDE = (-0.15, 0.15), (-0.4, 1.2)


def _plain(family: str, sizes: tuple[int, ...], **settings: Any) -> dict[str, Kind]:
    """Give one kind for each matrix ensemble named in `ensembles`."""
    ensembles = settings.pop("ensembles")
    label = settings.pop("label")
    return {
        f"{label}, {name}": Kind(family, sizes, Additive(getattr(m, name), **settings))
        for name in ensembles.split()
    }


KINDS: dict[str, Kind] = {
    **_plain("tanh", _LARGE, label="tanh", ensembles="gaussian low_rank"),
    **_plain("tanh", (8, 16, 32, 64), label="tanh",
             ensembles="orthogonal sparse heavy lognormal dale blocks"),
    **_plain("tanh", (8, 32), label="tanh", ensembles="antisymmetric ring"),
    **_plain("tanh", (8, 32), label="tanh", gains="below",
             ensembles="triangular circulant jordan shift symmetric negative near_identity"),
    **_plain("tanh", _FEW, label="tanh, any gain", gains=_WIDE, ensembles="gaussian dale"),
    **_plain("autonomous", (16, 64, 128), label="autonomous tanh", driven=False, gains=_WIDE,
             ensembles="gaussian low_rank antisymmetric"),
    **_plain("autonomous", _FEW, label="autonomous tanh at the edge", driven=False, gains=_EDGE,
             ensembles="gaussian orthogonal negative permutation"),
    **_plain("relu", _USUAL, label="relu", activation="relu",
             ensembles="gaussian orthogonal sparse lognormal near_identity dale"),
    **_plain("relu", (32,), label="dying relu", activation="relu", bias=-0.5, gains=(-0.5, 0.7),
             ensembles="gaussian"),
    **_plain("relu", (32,), label="autonomous relu", activation="relu", driven=False,
             ensembles="gaussian ring"),
    **_plain("other", _FEW, label="sigmoid", activation="sigmoid",
             ensembles="gaussian heavy dale"),
    **_plain("other", (32, 64), label="erf", activation="erf",
             ensembles="gaussian orthogonal circulant"),
    **_plain("other", _FEW, label="softsign", activation="soft_sign",
             ensembles="gaussian sparse low_rank"),
    **_plain("linear", (8, 32, 128), label="linear", activation="identity",
             ensembles="gaussian jordan shift symmetric"),
    **_plain("linear", (16,), label="autonomous linear", activation="identity", driven=False,
             ensembles="triangular"),
    **_plain("linear", (8, 32, 128), label="linear", activation="identity", gains=(-0.3, 0.3),
             ensembles="nilpotent"),
    **_plain("tanh", (8, 32), label="tanh", gains=(-0.3, 1.0), ensembles="nilpotent"),
    **_plain("leaky", (32, 128), label="leak 0.1", leak=0.1,
             ensembles="gaussian orthogonal dale"),
    **_plain("leaky", (64,), label="leak 0.1, autonomous", leak=0.1, driven=False, gains=_WIDE,
             ensembles="gaussian antisymmetric"),
    **_plain("leaky", (32,), label="leak 0.5, relu", leak=0.5, activation="relu",
             ensembles="gaussian sparse"),
    "LSTM, orthogonal": Kind("gated", (8, 32, 64), Gated("lstm")),
    "LSTM, gaussian": Kind("gated", (8, 32, 64), Gated("lstm", m.gaussian, (-1.5, 1.0))),
    "LSTM, chrono": Kind("gated", (8, 32, 64), Gated("lstm", spread=True)),
    "LSTM, large gain": Kind("gated", (32, 128), Gated("lstm", m.gaussian, (1.0, 2.5), (-1, 3))),
    "LSTM, autonomous": Kind(
        "gated", (16,), Gated("lstm", m.gaussian, (0.5, 2.5), (0, 4), driven=False)
    ),
    "GRU, orthogonal": Kind("gated", (8, 32, 64), Gated("gru")),
    "GRU, gaussian": Kind("gated", (8, 32, 64), Gated("gru", m.gaussian, (-1.0, 1.5))),
    "GRU, chrono": Kind("gated", (8, 32, 64), Gated("gru", spread=True)),
    "GRU, large gain": Kind("gated", (32, 128), Gated("gru", m.gaussian, (0.5, 2.0), (-2, 2))),
    "GRU, autonomous": Kind(
        "gated", (32,), Gated("gru", m.gaussian, (0.3, 1.5), (-1, 4), driven=False)
    ),
    "minimal RNN, orthogonal": Kind("gated", (16, 64, 128), Gated("minimal")),
    "minimal RNN, large gain": Kind(
        "gated", _FEW, Gated("minimal", m.gaussian, (0.5, 2.5), (-1, 5))
    ),
    "diagonal": Kind("linear", _FEW, Gated("diagonal")),
}  # fmt: skip


def draw(kind: str, count: int, seed: int = 0) -> list[Network]:
    """Draw networks of one kind; the sizes take turns.

    Parameters
    ----------
    kind
        A name in `KINDS`.
    count
        How many.
    seed
        Another seed gives other networks; the same gives the same.

    Returns
    -------
    list of Network
        Of length `count`.
    """
    family, sizes, recipe = KINDS[kind]
    networks: list[Network] = []
    for place, n in enumerate(sizes[:count]):
        seeds = [(seed, zlib.crc32(kind.encode()), i) for i in range(place, count, len(sizes))]
        generators = [np.random.default_rng([*s, 0]) for s in seeds]
        step = recipe.step(n)
        for s, (params, h0, process) in zip(seeds, recipe.draw(generators, n), strict=True):
            networks.append(Network(kind, family, n, step, params, h0, process, s))
    return networks


def group(networks: Iterable[Network]) -> list[Group]:
    """Put networks of equal step and shapes together, in order of appearance, and stack them."""
    found: dict[Any, list[Network]] = {}
    for network in networks:
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves((network.params, network.h0)))
        key = network.step, shapes, network.process is None
        found.setdefault(key, []).append(network)
    groups = []
    for members in found.values():
        params, h0 = (
            jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
            for trees in ([n.params for n in members], [n.h0 for n in members])
        )
        groups.append(Group(members[0].step, tuple(members), params, h0))
    return groups
