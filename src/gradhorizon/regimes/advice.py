"""What would change the verdict: from the numbers of a diagnosis to sentences."""

import math
from typing import TYPE_CHECKING

import numpy as np

from gradhorizon._record import Status
from gradhorizon.cells.adapters._steps import GatedCellStep
from gradhorizon.cells.chaos_free import ChaosFreeStep
from gradhorizon.cells.gated import GruStep, LstmStep
from gradhorizon.cells.minimal import MinGruStep, MinimalStep, MinLstmStep
from gradhorizon.regimes.regime import Regime

if TYPE_CHECKING:
    from gradhorizon.regimes.diagnose import Diagnosis

_KEEPING_BIAS = {
    LstmStep: "`forget_bias`",
    GruStep: "`update_bias`",
    MinimalStep: "`update_bias`",
    MinGruStep: "`keep_bias`",
    MinLstmStep: "`forget_bias`",
    ChaosFreeStep: "`forget_bias`",
}


def advice(diagnosis: "Diagnosis") -> tuple[str, ...]:
    """Say what to do, most important first; every number comes from the diagnosis."""
    if diagnosis.regime is None:
        return (Status(int(diagnosis.status)).text,)
    by_regime = {
        Regime.VANISHING: _when_vanishing,
        Regime.EXPLODING: _when_exploding,
        Regime.BALANCED: _when_balanced,
    }
    sentences = by_regime[diagnosis.regime](diagnosis)
    sentences += _about_paths(diagnosis)
    return (*sentences, *_about_directions(diagnosis), *_about_formats(diagnosis))


def _when_vanishing(diagnosis: "Diagnosis") -> list[str]:
    horizon, lag = float(diagnosis.horizon), diagnosis.lag
    found = [
        f"Backpropagating further than {horizon:.0f} steps adds less than "
        f"{diagnosis.threshold:g} of the gradient: truncate there at no loss, or change the "
        "network to learn from further back.",
        *_change_of_parameters(diagnosis),
    ]
    if lag > horizon:
        found.append("Clipping cannot help: it shrinks gradients, it never restores them.")
    return found


def _when_exploding(diagnosis: "Diagnosis") -> list[str]:
    found = [
        "Clip the gradient by its global norm (optax.clip_by_global_norm): it bounds the step, "
        "though the direction still comes from the steps that explode.",
        *_change_of_parameters(diagnosis),
    ]
    if math.isfinite(float(diagnosis.horizon)):
        found.append(
            f"Truncate backpropagation at {float(diagnosis.horizon):.0f} steps, up to which the "
            "gradient stays in bounds."
        )
    return found


def _when_balanced(diagnosis: "Diagnosis") -> list[str]:
    return [
        f"Nothing needs fixing up to lag {diagnosis.lag}: the gradient arrives within a factor "
        f"{1 / diagnosis.threshold:g} of its size."
    ]


def _change_of_parameters(diagnosis: "Diagnosis") -> list[str]:
    """Name the parameter that moves the rate, and roughly by how much."""
    rate, lag = float(diagnosis.rate), diagnosis.lag
    if not math.isfinite(rate):
        return ["Some step maps the whole state to zero: give it a path that keeps the state."]
    keep = diagnosis.threshold ** (1 / lag)  # factor per step that just survives the lag
    gate = _KEEPING_BIAS.get(type(diagnosis.step))
    if gate is not None and rate < 0:
        bias = math.log(keep / (1 - keep))
        return [
            f"Raise {gate}: a gate that keeps {keep:.4g} of the state per step survives "
            f"{lag} steps, which takes a bias of about {bias:.2f}."
        ]
    if isinstance(diagnosis.step, GatedCellStep) and rate < 0:
        bias = math.log(keep / (1 - keep))
        return [
            f"Let the gate keep more, through its bias: a share of {keep:.4g} per step survives "
            f"{lag} steps; a logistic gate is there at ±{bias:.2f}, by what it multiplies."
        ]
    if hasattr(diagnosis.step, "repeated_term"):
        way, factor = ("grow", -rate) if rate < 0 else ("shrink", rate)
        return [
            f"Let the recurrent weights {way} by a factor of at least {math.exp(factor):.3g}, "
            "which would bring the rate of a linear network to 0; saturation asks for more "
            "(gh.remedies.critical_gain measures it on these inputs)."
        ]
    return [
        f"The rate must come between {math.log(keep):.4g} and {-math.log(keep):.4g} nats per "
        f"step to reach lag {lag}; it is {rate:.4g}."
    ]


def _about_paths(diagnosis: "Diagnosis") -> list[str]:
    """Say whether a declared gate decides, or the detours through the recurrent weights."""
    paths, window = diagnosis.paths, -math.log(diagnosis.threshold)
    if paths is None or paths.status != Status.OK:
        return []
    row = int(np.argmax(np.asarray(paths.lags)))
    found = []
    for name in (n for n, gated in zip(paths.names, paths.gated, strict=True) if gated):
        direct, total = (float(logs[row]) for logs in paths.path(name, name))
        sizes = f"ln {direct:.4g} by the gate alone, {total:.4g} in all, at lag {paths.lags[row]}"
        if diagnosis.regime is Regime.EXPLODING and direct < window < total:
            found.append(
                f"The detours explode, not the gate of {name} ({sizes}): shrink the recurrent "
                "weights and leave the bias of the gate."
            )
        if diagnosis.regime is Regime.VANISHING and total < -window:
            half = float(np.median(np.asarray(paths.units(name))))
            found.append(
                f"The gate of {name} decides ({sizes}): half of its units have a time constant "
                f"below {half:.3g} steps."
                if total <= direct + window
                else f"What arrives has gone round the gate of {name} ({sizes}): the recurrent "
                "weights carry it."
            )
    return found


def _about_directions(diagnosis: "Diagnosis") -> list[str]:
    """Warn when the gradient arrives through few directions only."""
    alive, lags = np.asarray(diagnosis.alive), np.asarray(diagnosis.singular.lags)
    if alive[-1] == 0 or alive[-1] > diagnosis.size / 4 or diagnosis.size < 4:
        return []
    return [
        f"Only {int(alive[-1])} of {diagnosis.size} directions are alive at lag "
        f"{int(lags[-1])}: rescaling keeps the norm but cannot bring the others back; "
        "orthogonal or identity-like recurrent weights keep more."
    ]


def _about_formats(diagnosis: "Diagnosis") -> list[str]:
    """Warn when half precision fails within the lag."""
    found = []
    table = diagnosis.dtype_forecast
    rows = zip(table.formats, np.asarray(table.lags), np.asarray(table.fates), strict=True)
    for name, lag, fate in rows:
        if name in ("float16", "bfloat16") and lag <= diagnosis.lag and fate != 0:
            end = "is exactly zero" if fate < 0 else "overflows"
            found.append(f"In {name} the backward pass {end} from lag {lag:.0f} on.")
    return found
