"""What a user would write without us: one image at a time, with the library that knows how.

Each module has PEERS: name of a perturbation -> (library, function). The function takes one image, the strength and a
numpy Generator, and does the same work: `flux` (C, H, W) float32 electrons of LSST Y10 in g, r, i for perturbations in
flux and stretch space, `values` (C, H, W) float32 in [0, 1] for the others.

"NumPy" is the same by hand, without a library that knows how. A module's LESS names those of its peers that do less
than we do (a blur that puts no noise back, a shift by whole pixels): their times are reported, and judge nothing.
"""

from collections.abc import Callable

import numpy as np

Peer = tuple[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]]
