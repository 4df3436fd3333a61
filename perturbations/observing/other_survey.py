"""The same galaxy observed by another survey: its PSF, its pixels, its photons and its noise."""

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.regridding import reobserved
from perturbations.surveys import mapped_exposure

SHORTEST, LONGEST = 1e-6, 1e6  # of the survey's full exposure


@corruption(
    space="flux",
    parameter="fraction of the other survey's full exposure",
    unit="1",
    ladder=(1.0, 0.6, 0.4, 0.25, 0.15),
    identity=None,
    no_identity="another survey has its own PSF, pixels and noise, whatever its exposure",
    source="our choice (already the first rung changes pixels, PSF and noise at once): DES's 900 s down to the "
    "exposure of DECaLS with the same camera; surveys: surveycodex 1.3, and "
    "surveys.py for DECaLS and Stripe 82",
    version=1,
)
def other_survey(
    sky: Observation,
    fraction: float,
    draws: Draws,
    *,
    survey: str = "DES",
    bands: str = "",
    calibrated: bool = True,
) -> Observation:
    """Observe the galaxy of the image again, with another survey's telescope.

    In the order of nature: the light passes the new PSF (ratio of the two transfer functions) and falls on the new
    pixels; photons are counted with the new throughput under the new sky. The noise that the image already has went
    through the same steps, and what the new exposure has beyond it is added: blank sky is white, with the new
    variance. The stamp keeps its number of pixels and its centre, so larger pixels see more sky around a smaller
    galaxy; beyond the old stamp there is blank sky. Filters are taken for the same: no colour terms. The sky level of
    a survey counts in its full exposure; its read noise where it is known.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm and zeropoint. Not
        modified. For a survey that is sharper or deeper, noise-free light: a sharp PSF and a fraction of 1e12.
    fraction : 1e-6 to 1e6 of the survey's full exposure.
    draws : this batch's random numbers, keyed by galaxy.
    survey : a survey that surveycodex knows, "DECaLS" or "Stripe82".
    bands : which of its bands observes which of the image's: "g=g,r=r,i=z"; bands left out keep their name.
    calibrated : flux in the image's unit, so that magnitudes keep their zero-point and a frozen stretch stays right;
        otherwise in electrons of the new survey's full exposure.

    Returns
    -------
    Observation with the exposure of the new survey, under the image's band names.

    Raises
    ------
    InputError : a survey or band that is not known; an unknown zero-point or PSF; a sharper PSF, or a deeper exposure,
        than the image has; masked pixels.
    """
    if not SHORTEST <= fraction <= LONGEST:
        raise InputError(
            f"other_survey: fraction = {fraction:g}",
            f"{SHORTEST:g} <= fraction <= {LONGEST:g}",
            "1 is the survey's full exposure",
        )
    fresh = mapped_exposure(survey, sky.exposure.bands, bands, fraction)
    if not bool(torch.isfinite(sky.exposure.zeropoint).all()):
        raise InputError("the Exposure has no zeropoint", "an AB magnitude per band", "add zeropoint to the exposure")
    factor = torch.pow(10.0, 0.4 * (sky.exposure.zeropoint - fresh.zeropoint))
    seen = reobserved(sky, fresh.rescaled(factor), draws)
    if calibrated:
        return seen
    per_pixel = (factor if factor.ndim == 2 else factor[None])[:, :, None, None].to(seen.flux)
    return seen.replace(seen.flux / per_pixel, fresh)
