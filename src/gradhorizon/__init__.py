"""gradhorizon: how far back a recurrent network's gradient reaches, why, and what would help.

Public names are loaded on first use, so that importing the package touches no device and the
command line answers `--help` without importing JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradhorizon import cells as cells
    from gradhorizon import remedies as remedies
    from gradhorizon import theory as theory
    from gradhorizon._checks import NumericalError as NumericalError
    from gradhorizon._record import Status as Status
    from gradhorizon.cells import adapters as adapters
    from gradhorizon.cells import inits as inits
    from gradhorizon.cells import maps as maps
    from gradhorizon.cells._cell import Cell as Cell
    from gradhorizon.chain._contract import BatchWarning as BatchWarning
    from gradhorizon.chain._given import PrecisionWarning as PrecisionWarning
    from gradhorizon.chain._purity import EffectWarning as EffectWarning
    from gradhorizon.chain.gradient import GradientProfile as GradientProfile
    from gradhorizon.chain.gradient import backpropagate as backpropagate
    from gradhorizon.chain.gradient import gradient_profile as gradient_profile
    from gradhorizon.chain.jacobian import JacobianChain as JacobianChain
    from gradhorizon.chain.jacobian import jacobian_chain as jacobian_chain
    from gradhorizon.chain.unroll import Trajectory as Trajectory
    from gradhorizon.chain.unroll import unroll as unroll
    from gradhorizon.products.lyapunov import LyapunovSpectrum as LyapunovSpectrum
    from gradhorizon.products.lyapunov import lyapunov_spectrum as lyapunov_spectrum
    from gradhorizon.products.sensitivity import LyapunovGradient as LyapunovGradient
    from gradhorizon.products.sensitivity import lyapunov_gradient as lyapunov_gradient
    from gradhorizon.products.singular import SingularSpectrum as SingularSpectrum
    from gradhorizon.products.singular import singular_spectrum as singular_spectrum
    from gradhorizon.products.transition import transition_norms as transition_norms
    from gradhorizon.regimes.criteria import Criterion as Criterion
    from gradhorizon.regimes.diagnose import Diagnosis as Diagnosis
    from gradhorizon.regimes.diagnose import diagnose as diagnose
    from gradhorizon.regimes.forecast import DtypeForecast as DtypeForecast
    from gradhorizon.regimes.matrix import MatrixCriteria as MatrixCriteria
    from gradhorizon.regimes.matrix import analyze_matrix as analyze_matrix
    from gradhorizon.regimes.paths import StatePaths as StatePaths
    from gradhorizon.regimes.paths import state_paths as state_paths
    from gradhorizon.regimes.predict import Prediction as Prediction
    from gradhorizon.regimes.predict import predict as predict
    from gradhorizon.regimes.regime import Regime as Regime
    from gradhorizon.remedies import tasks as tasks

__version__ = "0.1.0"

_HOME = {
    "Cell": "cells._cell",
    "unroll": "chain.unroll",
    "Trajectory": "chain.unroll",
    "jacobian_chain": "chain.jacobian",
    "JacobianChain": "chain.jacobian",
    "gradient_profile": "chain.gradient",
    "backpropagate": "chain.gradient",
    "GradientProfile": "chain.gradient",
    "singular_spectrum": "products.singular",
    "SingularSpectrum": "products.singular",
    "lyapunov_spectrum": "products.lyapunov",
    "LyapunovSpectrum": "products.lyapunov",
    "lyapunov_gradient": "products.sensitivity",
    "LyapunovGradient": "products.sensitivity",
    "transition_norms": "products.transition",
    "state_paths": "regimes.paths",
    "StatePaths": "regimes.paths",
    "Regime": "regimes.regime",
    "Criterion": "regimes.criteria",
    "analyze_matrix": "regimes.matrix",
    "MatrixCriteria": "regimes.matrix",
    "predict": "regimes.predict",
    "Prediction": "regimes.predict",
    "diagnose": "regimes.diagnose",
    "Diagnosis": "regimes.diagnose",
    "DtypeForecast": "regimes.forecast",
    "Status": "_record",
    "NumericalError": "_checks",
    "PrecisionWarning": "chain._given",
    "EffectWarning": "chain._purity",
    "BatchWarning": "chain._contract",
}
_MODULES = {
    "cells": "cells",
    "inits": "cells.inits",
    "adapters": "cells.adapters",
    "maps": "cells.maps",
    "theory": "theory",
    "remedies": "remedies",
    "tasks": "remedies.tasks",
}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"gradhorizon.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"gradhorizon.{_MODULES[name]}")
    else:
        text = f"module 'gradhorizon' has no attribute '{name}'"
        raise AttributeError(text)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
