"""What repeats: recurrent cells as tuples of pure functions, and how their weights start."""

from gradhorizon.cells._cell import Cell as Cell
from gradhorizon.cells._cell import GatedStep as GatedStep
from gradhorizon.cells._cell import RepeatedTerm as RepeatedTerm
from gradhorizon.cells.additive import elman as elman
from gradhorizon.cells.additive import linear as linear
from gradhorizon.cells.additive import rate_network as rate_network
from gradhorizon.cells.feedforward import feedforward as feedforward
from gradhorizon.cells.gated import gru as gru
from gradhorizon.cells.gated import lstm as lstm
