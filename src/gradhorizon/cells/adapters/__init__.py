"""Cells of other libraries as ``(step, params, h0)``: Flax linen and nnx, Equinox, Haiku.

Libraries disagree about the order of arguments and results, about the order of an LSTM's state,
about dtypes and about batches. Here all of them become ``step(params, h, x) -> h`` with an
unbatched state in one dtype; what cannot become that is refused in words, before anything is
compiled. No library is imported before its adapter is called.
"""

from gradhorizon.cells.adapters._common import Adapted as Adapted
from gradhorizon.cells.adapters._equinox import from_equinox as from_equinox
from gradhorizon.cells.adapters._haiku import from_haiku as from_haiku
from gradhorizon.cells.adapters._linen import from_linen as from_linen
from gradhorizon.cells.adapters._nnx import from_nnx as from_nnx
