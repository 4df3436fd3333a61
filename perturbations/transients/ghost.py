"""A ghost: the out-of-focus reflection of a bright star elsewhere in the field."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.light import with_light
from perturbations.profiles import at_edge, edge_spread, from_centre, line_spread


@corruption(
    space="flux",
    parameter="surface brightness as a part of the sky's",
    unit="1",
    ladder=(0.001, 0.003, 0.01, 0.03, 0.1),
    identity=0.0,
    source="our choice: from 0.4 sigma of a pixel in LSST's ten years (r: 361 of 130,617 electrons), which only the "
    "eye's averaging finds, to 36 sigma, a bright star's ghost in a single visit",
    version=1,
)
def ghost(
    sky: Observation,
    brightness: float,
    draws: Draws,
    *,
    radius: float = 20.0,
    obscuration: float = 0.61,
    visits_share: float = 1.0,
) -> Observation:
    """Add a uniform ring, the image of the telescope's pupil, whose outer edge passes through the stamp.

    Light that is reflected twice between optics or detector comes out of focus: the ring has the brightness
    `brightness` times the sky of each band, everywhere in it, and edges as sharp as the PSF. The point of the edge is
    uniform in the stamp and the ring lies on a keyed side of it. It is not subtracted with the sky; its photon noise
    stays. Dithering moves ghosts from visit to visit: `visits_share` of the visits have it here.

    Edges are taken as straight over the width of the PSF: good to 1% of the ring's brightness at 20 arcsec behind a
    seeing of 0.8, and to 2.5% at the least radius.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    brightness : 0 to 100, per visit that has the ghost.
    draws : this batch's random numbers, keyed by galaxy.
    radius : outer radius [arcsec], at least ten PSF FWHM; 20 is our choice.
    obscuration : 0 to 0.95, inner over outer radius; 0.61 is Rubin's pupil (5.1 m over 8.4 m).
    visits_share : 0 < share <= 1.

    Returns
    -------
    Observation with the same exposure; the added light has its photon noise.

    Raises
    ------
    InputError : a brightness or option out of range, or an unknown PSF.
    """
    if not 0.0 <= brightness <= 100.0:
        raise InputError(f"ghost: brightness = {brightness:g}", "0 to 100 of the sky", "give a part of the sky level")
    broadest = float(sky.exposure.psf_fwhm.max())
    if not 10.0 * broadest <= radius <= 3600.0 and not math.isnan(broadest):
        raise InputError(
            f"ghost: radius = {radius:g} arcsec",
            f"{10.0 * broadest:.3g} (ten PSF FWHM) to 3600 arcsec",
            "ghosts are large",
        )
    if not 0.0 <= obscuration <= 0.95:
        raise InputError(f"ghost: obscuration = {obscuration:g}", "0 to 0.95", "0 is a filled disk")
    if not 0.0 < visits_share <= 1.0:
        raise InputError(f"ghost: visits_share = {visits_share:g}", "0 < visits_share <= 1", "brightness 0 has none")
    if brightness == 0.0:
        return sky.replace(sky.flux.clone())
    u = draws.uniform("place", (3,))
    size = torch.tensor(sky.flux.shape[-2:], dtype=torch.float32, device=u.device)
    angle, outer = 2.0 * math.pi * u[:, 2], radius / sky.exposure.pixel_scale
    centre = (u[:, :2] - 0.5) * size + outer * torch.stack([angle.sin(), angle.cos()], dim=1)
    distance = torch.hypot(*from_centre(centre, sky.flux))
    edge = edge_spread(line_spread(sky.exposure, angle, sky.flux))
    shape = at_edge(edge, outer - distance)
    if obscuration:
        shape.sub_(at_edge(edge, obscuration * outer - distance)).clamp_min_(0.0)
    return with_light(sky, shape.mul_(brightness * visits_share * sky.exposure.pixels("sky", sky.flux)), draws)
