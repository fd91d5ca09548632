"""One file per paper-style figure: Settings, SMALL, compute, checks, draw.

`NAMES` lists the studies in the order of the gallery; `load` gives one of them.
"""

import importlib
from types import ModuleType

from gradhorizon._checks import require_choice

NAMES = (
    "depth",
    "repetition",
    "isometry",
    "tying_is_irrelevant_when_shallow",
    "pascanu_certificate",
    "criteria_disagree",
    "critical_line",
    "nonnormal_transients",
    "random_network_exponent",
    "noise_suppresses_chaos",
    "predictor",
    "ginibre_exponents",
    "depth_scales",
    "layer_gradients",
    "deep_linear",
    "gated_mean_field",
    "unitary_spectra",
    "error_surface",
    "folds",
    "looped_residual",
    "curse_of_memory",
    "gates_make_slow_modes",
    "latch",
    "hippo",
    "lru_ring",
    "scalar_bound",
    "sigmoid_layers",
    "architectures",
    "dtype_horizons",
    "parallel_solves",
    "qr_interval",
    "generic_maps",
    "published_realisation",
)


def load(name: str) -> ModuleType:
    """Give the module of a study.

    Raises
    ------
    ValueError
        If there is no study of that name.
    """
    return importlib.import_module(f"gradhorizon.studies.{require_choice('name', name, NAMES)}")
