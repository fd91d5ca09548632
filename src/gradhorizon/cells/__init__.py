"""What repeats: recurrent cells as tuples of pure functions, and how their weights start."""

from gradhorizon.cells._cell import Cell as Cell
from gradhorizon.cells._cell import GatedStep as GatedStep
from gradhorizon.cells._cell import RepeatedTerm as RepeatedTerm
from gradhorizon.cells.additive import elman as elman
from gradhorizon.cells.additive import linear as linear
from gradhorizon.cells.additive import rate_network as rate_network
from gradhorizon.cells.chaos_free import cfn as cfn
from gradhorizon.cells.feedforward import feedforward as feedforward
from gradhorizon.cells.gated import gru as gru
from gradhorizon.cells.gated import lstm as lstm
from gradhorizon.cells.minimal import min_gru as min_gru
from gradhorizon.cells.minimal import min_lstm as min_lstm
from gradhorizon.cells.minimal import minimal_rnn as minimal_rnn
from gradhorizon.cells.orthogonal import orthogonal_rnn as orthogonal_rnn
from gradhorizon.cells.orthogonal import unitary_rnn as unitary_rnn
from gradhorizon.cells.oscillator import cornn as cornn
from gradhorizon.cells.residual import residual as residual
from gradhorizon.cells.selective_scan import selective as selective
from gradhorizon.cells.stacked import stacked as stacked
from gradhorizon.cells.state_space import lru as lru
from gradhorizon.cells.state_space import s4d as s4d
