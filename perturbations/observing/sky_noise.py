"""A brighter sky behind the same galaxy: moonlight, twilight, city light."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import brighter_sky


@corruption(
    space="flux",
    parameter="sky brightening",
    unit="mag",
    ladder=(0.5, 1.0, 1.5, 2.0, 3.0),
    identity=0.0,
    source="Krisciunas & Schaefer 1991, PASP 103, 1033 (moonlight, quarter to full moon)",
    version=1,
)
def sky_noise(sky: Observation, brightening: float, draws: Draws) -> Observation:
    """Observe under a sky that is `brightening` magnitudes per square arcsecond brighter.

    The extra sky is subtracted with the rest of it; its photon noise stays: variance (sky' - sky)/f is added.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    brightening : >= 0 mag.
    draws : this batch's random numbers, keyed by galaxy.

    Returns
    -------
    Observation whose exposure.sky is 10^(0.4 brightening) times the former one.

    Raises
    ------
    InputError : a negative brightening; noise cannot be taken out of an image.
    """
    if not 0.0 <= brightening < 25.0:
        raise InputError(
            f"sky_noise: brightening = {brightening:g} mag", "0 <= brightening < 25", "a sky cannot be made darker"
        )
    return brighter_sky(sky, brightening, draws)
