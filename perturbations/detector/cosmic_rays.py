"""Charged particles that cross the sensor and leave a track."""

import math

import torch

from perturbations.core import Observation, corruption
from perturbations.defects import damaged, one_visit, refuse_outside, refuse_survivors
from perturbations.draws import Draws
from perturbations.errors import InputError

DENSEST = 20.0  # hits per 100 pixels, far beyond any sky; a bound on memory
IONISATION, LANDAU_WIDTH = 75.0, 4.9  # most probable and width [electrons per um of silicon]
DIFFUSION = 0.4  # pixels
STEP = 1.0  # pixels between the points of a track
SEEN = 1.0  # electrons that damage a pixel


@corruption(
    space="flux",
    parameter="rate of cosmic-ray hits",
    unit="cm^-2 s^-1",
    ladder=(0.01, 0.03, 0.1, 0.3, 1.0),
    identity=0.0,
    source="around the muon flux at sea level, 1 per cm2 and minute = 0.017 (Particle Data Group, Review of Particle "
    "Physics, 'Cosmic Rays'); above it our choice, towards the rates of space",
    version=1,
    whole=True,
)
def cosmic_rays(
    sky: Observation,
    rate: float,
    draws: Draws,
    *,
    visit_seconds: float = 30.0,
    pixel_um: float = 10.0,
    thickness_um: float = 100.0,
    surviving_fraction: float = 1.0,
    repaired: bool = False,
) -> Observation:
    """Let muons cross the sensor during all the visits of the exposure.

    The number of hits is Poisson with mean rate x area x time; at rate 0.03 a ten-year LSST stamp of 100 x 100 pixels
    has 1.7 in r. Arrival directions follow cos^2 of the zenith angle over a sensor that looks up: the flux through it
    goes as cos^3, a track has the length thickness x tan on the sensor, pi/4 of the thickness in the mean. Energy loss
    fluctuates by the approximation of Moyal (1955, Phil. Mag. 46, 263) to Landau's law, about a most probable 75
    electrons per um of path, and diffuses by 0.4 pixel. Each track is in one visit. One that leaves the stamp comes in
    at the opposite side, as its neighbours' do. The hits of a low rate are hits of a higher one. Compton electrons,
    which curl, are not modelled.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    rate : >= 0 hits per cm^2 of sensor and second.
    draws : this batch's random numbers, keyed by galaxy.
    visit_seconds : exposure time of one visit; the whole is fraction x visits times that.
    pixel_um, thickness_um : size of a pixel and depth of the silicon [um]; LSST's are 10 and 100. After `pixel_scale`,
        the pixels are larger by its ratio.
    surviving_fraction : of the charge of a track that outlier rejection among the visits leaves.
    repaired : damaged pixels are filled from their neighbours, as a pipeline leaves them. They are masked in any case.

    Returns
    -------
    Observation with the pixels in its mask that got more than one electron.

    Raises
    ------
    InputError : a negative rate, one of more than 20 hits in 100 pixels, or a size or time that is not positive.
    """
    refuse_outside("cosmic_rays", "rate", rate, 0.0, math.inf, "sea level has some 0.02 cm^-2 s^-1")
    refuse_survivors("cosmic_rays", surviving_fraction)
    refuse_outside("cosmic_rays", "visit_seconds", visit_seconds, 1e-3, math.inf, "give the time of one visit")
    refuse_outside("cosmic_rays", "pixel_um", pixel_um, 0.1, 1000.0, "give micrometres")
    refuse_outside("cosmic_rays", "thickness_um", thickness_um, 0.1, 100.0 * pixel_um, "give micrometres")
    if rate == 0.0 or surviving_fraction == 0.0:
        return sky.replace(sky.flux.clone())
    n, bands, height, width = sky.flux.shape
    area = height * width * (pixel_um * 1e-4) ** 2
    mean = rate * area * visit_seconds * sky.exposure.fraction * sky.exposure.visits
    if float(mean.max()) > DENSEST / 100.0 * height * width:
        raise InputError(
            f"cosmic_rays: {float(mean.max()):.3g} hits in a stamp of {height} x {width}",
            f"at most {DENSEST:g} in 100 pixels",
            "choose a lower rate, or a shorter visit_seconds",
        )
    hits = draws.poisson("hits", mean.expand(n, bands))
    charge = _tracks(hits, draws, (height, width), thickness_um / pixel_um, thickness_um).to(sky.flux)
    flux = torch.addcmul(sky.flux, charge, one_visit(sky.exposure, sky.flux) * surviving_fraction)
    return damaged(sky, flux, charge > SEEN, repaired)


def _tracks(
    hits: torch.Tensor, draws: Draws, size: tuple[int, int], thickness: float, thickness_um: float
) -> torch.Tensor:
    """Charge (N, C, H, W) of so many tracks (N, C); `thickness` in pixels."""
    (n, bands), (height, width) = hits.shape, size
    most = int(hits.max()) if hits.numel() else 0
    # the first hits of a stream are the same however many are drawn
    numbers = draws.uniform("tracks", (most, bands, 5)).transpose(1, 2)
    there = torch.arange(most, device=hits.device) < hits[..., None]
    which = there.flatten(0, 1).nonzero()[:, 0]
    row, column, azimuth, slant, loss = numbers[there].double().unbind(dim=1)

    cosine = (1.0 - slant) ** 0.25
    length = thickness * (1.0 / cosine**2 - 1.0).sqrt()
    charge = thickness_um / cosine * (IONISATION + LANDAU_WIDTH * _moyal(loss))
    image = tracks(which, row * height, column * width, 2.0 * math.pi * azimuth, length, charge, n * bands, size)
    return image.reshape(n, bands, height, width)


def tracks(
    which: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
    azimuth: torch.Tensor,
    length: torch.Tensor,
    charge: torch.Tensor,
    images: int,
    size: tuple[int, int],
) -> torch.Tensor:
    """Charge [electrons] of tracks on so many images, (images, H, W) float32.

    Parameters
    ----------
    which : (M,) int64, the image that each track is on.
    row, column : (M,) where it starts [pixels from the corner].
    azimuth, length : (M,) its direction on the sensor [rad; 0 along a row, pi/2 along a column] and its length there
        [pixels].
    charge : (M,) electrons over the whole track.
    """
    height, width = size
    points = (length / STEP).ceil().clamp_min(1.0).long()
    track = torch.repeat_interleave(points)
    first = (points.cumsum(0) - points)[track]
    along = (torch.arange(len(track), device=which.device) - first + 0.5) / points[track] * length[track]
    y = row[track] + along * torch.sin(azimuth)[track]
    x = column[track] + along * torch.cos(azimuth)[track]
    down, right = _spread(y), _spread(x)
    rows = (y.floor().long()[:, None] + torch.arange(-1, 2, device=y.device)) % height
    columns = (x.floor().long()[:, None] + torch.arange(-1, 2, device=x.device)) % width
    where = ((which[track][:, None] * height + rows) * width)[:, :, None] + columns[:, None, :]
    value = (((charge / points)[track][:, None] * down)[:, :, None] * right[:, None, :]).float()
    image = torch.zeros(images * height * width, dtype=value.dtype, device=which.device)
    image.index_put_((where.flatten(),), value.flatten(), accumulate=True)
    return image.reshape(images, height, width)


def _moyal(uniform: torch.Tensor) -> torch.Tensor:
    """Moyal's variate, most probable at 0, mean 1.27: -ln z^2 of a standard normal z."""
    z = torch.special.ndtri(uniform + 2.0**-25)
    return -(z * z).log()


def _spread(position: torch.Tensor) -> torch.Tensor:
    """Parts (M, 3) of a Gaussian at `position` that fall below, on and above its pixel."""
    inside = position - position.floor()
    below, above = torch.special.ndtr(-inside / DIFFUSION), torch.special.ndtr((inside - 1.0) / DIFFUSION)
    return torch.stack([below, 1.0 - below - above, above], dim=1)
