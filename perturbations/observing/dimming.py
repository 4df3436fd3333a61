"""The same galaxy, fainter: farther down the luminosity function, under the same sky."""

import torch

from perturbations.core import Observation, corruption
from perturbations.dimmed import dimmed
from perturbations.draws import Draws
from perturbations.errors import InputError


@corruption(
    space="flux",
    parameter="dimming of the source",
    unit="mag",
    ladder=(0.5, 1.0, 1.5, 2.0, 2.5),
    identity=0.0,
    source="our choice: up to a tenth of the light, about the width in magnitude of a morphological sample",
    version=1,
)
def dimming(sky: Observation, fainter: float, draws: Draws) -> Observation:
    """Observe a source that is `fainter` magnitudes fainter in every band, under the same sky.

    The light becomes a = 10^(-0.4 fainter) times what it was, and the noise that of a fresh exposure of it: blank sky
    stays as noisy as it was, so the signal-to-noise ratio falls. Size and shape stay.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    fainter : 0 <= fainter < 25 mag.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation with the same Exposure.

    Raises
    ------
    InputError : a negative dimming; a brighter source would need photons that were not observed.
    """
    if not 0.0 <= fainter < 25.0:
        raise InputError(
            f"dimming: fainter = {fainter:g} mag",
            "0 <= fainter < 25",
            "a source cannot be made brighter than its image",
        )
    if fainter == 0.0:
        return sky.replace(sky.flux.clone())
    bands = len(sky.exposure.bands)
    return dimmed(sky, torch.full((bands,), 10.0 ** (-0.4 * fainter), dtype=torch.float64), draws)
