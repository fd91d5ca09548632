"""Closed forms and quadrature: what theory says, without simulation and without any cell."""

from gradhorizon.theory import bounds as bounds
from gradhorizon.theory import gated_mean_field as gated_mean_field
from gradhorizon.theory import hippo as hippo
from gradhorizon.theory import horizons as horizons
from gradhorizon.theory import isometry as isometry
from gradhorizon.theory import latch as latch
from gradhorizon.theory import linear_memory as linear_memory
from gradhorizon.theory import mean_field as mean_field
from gradhorizon.theory import norm_moments as norm_moments
from gradhorizon.theory import random_matrix as random_matrix
from gradhorizon.theory import random_network as random_network
from gradhorizon.theory import residual as residual
from gradhorizon.theory import scalar as scalar
from gradhorizon.theory import sigmoid_window as sigmoid_window
