"""One file per paper-style figure: Settings, SMALL, compute, checks, draw.

`CHAPTERS` sorts the studies for the gallery, `NAMES` lists them in that order; `load` gives one.
"""

import importlib
from types import ModuleType

from gradhorizon._checks import require_choice

CHAPTERS = {
    "Depth and repetition": (
        "depth",
        "repetition",
        "scalar_bound",
        "sigmoid_layers",
        "layer_gradients",
        "deep_linear",
        "ginibre_exponents",
        "isometry",
        "tying_is_irrelevant_when_shallow",
        "looped_residual",
        "residual_networks",
    ),
    "One unit": ("latch", "folds", "error_surface"),
    "Predicting the regime": (
        "pascanu_certificate",
        "criteria_disagree",
        "nonnormal_transients",
        "critical_line",
        "depth_scales",
        "predictor",
    ),
    "Chaos": (
        "random_network_exponent",
        "noise_suppresses_chaos",
        "chaotic_spectra",
        "published_realisation",
        "generic_maps",
    ),
    "Architectures and their memory": (
        "architectures",
        "gates_make_slow_modes",
        "gated_mean_field",
        "unitary_spectra",
        "lru_ring",
        "hippo",
        "curse_of_memory",
    ),
    "Numerics": ("qr_interval", "parallel_solves", "dtype_horizons"),
}
NAMES = tuple(name for names in CHAPTERS.values() for name in names)


def load(name: str) -> ModuleType:
    """Give the module of a study.

    Raises
    ------
    ValueError
        If there is no study of that name.
    """
    return importlib.import_module(f"gradhorizon.studies.{require_choice('name', name, NAMES)}")
