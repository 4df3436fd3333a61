"""What a user would write without us: one image at a time, with the library that knows how.

Each module has PEERS: name of a perturbation -> (library, function). The function takes one image as the peer wants it,
the strength and a numpy Generator, and does the same work: `flux` (C, H, W) float32 electrons of LSST Y10 in g, r, i for
flux perturbations, `values` (C, H, W) float32 in [0, 1] for the others.
"""

from collections.abc import Callable

import numpy as np

Peer = tuple[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]]
