"""What to do about a gradient that vanishes or explodes, and tasks to try it on."""

from gradhorizon.remedies.critical_gain import CriticalGain as CriticalGain
from gradhorizon.remedies.critical_gain import critical_gain as critical_gain
from gradhorizon.remedies.penalties import flossing_loss as flossing_loss
from gradhorizon.remedies.penalties import omega_penalty as omega_penalty
from gradhorizon.remedies.penalties import orthogonality_penalty as orthogonality_penalty
from gradhorizon.remedies.rescale import rescale as rescale
