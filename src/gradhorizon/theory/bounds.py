"""Certificates, transients and conditioning: what norms and resolvents say about long products."""

from gradhorizon.theory._certificates import SLOPE_BOUNDS as SLOPE_BOUNDS
from gradhorizon.theory._certificates import certified_horizon as certified_horizon
from gradhorizon.theory._certificates import hochreiter_certificate as hochreiter_certificate
from gradhorizon.theory._certificates import vanishing_certificate as vanishing_certificate
from gradhorizon.theory._conditioning import Conditioning as Conditioning
from gradhorizon.theory._conditioning import conditioning as conditioning
from gradhorizon.theory._conditioning import scalar_conditioning as scalar_conditioning
from gradhorizon.theory._kreiss import Resolvent as Resolvent
from gradhorizon.theory._kreiss import kreiss as kreiss
from gradhorizon.theory._kreiss import resolvent as resolvent
from gradhorizon.theory._kreiss import stability_radius as stability_radius
from gradhorizon.theory._normality import henrici_departure as henrici_departure
from gradhorizon.theory._normality import numerical_radius as numerical_radius
from gradhorizon.theory._transient import Transient as Transient
from gradhorizon.theory._transient import nilpotency_index as nilpotency_index
from gradhorizon.theory._transient import transient_growth as transient_growth
