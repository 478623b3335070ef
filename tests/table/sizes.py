"""The smallest networks and splines that can still be wrong."""

import numpy as np

import flowdists as fd

# Finite differences want a smooth network.
SMALL = {"hidden_sizes": (6, 6), "activation": "tanh"}
SMALL_CONV = {"hidden_channels": 4, "activation": "tanh"}
SPLINE = fd.RationalQuadratic(num_bins=5, bound=2.5)
CIRCULAR = fd.RationalQuadratic(num_bins=4, bound=np.pi, tails="circular")
