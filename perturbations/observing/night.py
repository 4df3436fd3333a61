"""A whole night: seeing, sky, calibration, tracking and cosmic rays of one set of observing conditions."""

from perturbations.conditions import drawn, observed, refuse_badness
from perturbations.core import Observation, corruption
from perturbations.draws import Draws


@corruption(
    space="flux",
    parameter="how bad the night is: 0 typical, 1 poor, 2 bad",
    unit="sigma",
    ladder=(0.0, 1.0, 2.0),
    identity=None,
    no_identity="a typical night, too, has its own seeing, sky and calibration",
    source="seeing: simsee (Neilsen 2019, LSSTDESC/ObsStrat), fitted to the DIMM at Cerro Pachon; moonlit sky: "
    "Krisciunas & Schaefer 1991, PASP 103, 1033; zero-points: from 1-2% of SDSS, Padmanabhan et al. 2008, ApJ 674, "
    "1217; muons: Particle Data Group; how sky, calibration and drift grow with the night: our choice",
    version=1,
)
def night(
    sky: Observation,
    badness: float,
    draws: Draws,
    *,
    surviving_fraction: float = 1.0,
    visit_seconds: float = 30.0,
    pixel_um: float = 10.0,
) -> Observation:
    """Observe in conditions drawn jointly for a night `badness` standard deviations worse than a typical one.

    Of each galaxy: the width of the PSF is multiplied by 10^(0.086 badness + 0.073 z), at least 1, as an image cannot
    be sharpened; the sky is brighter by 0.2 x 3^badness x 10^(0.2 z) mag, at most 5 (0.2 typical, 0.6, 1.8: the moon is
    up); the zero-point of each band is off by 0.01 x 2^badness z mag; the telescope drifts by up to 0.1 x 2^badness
    arcsec; muons hit the sensor at 0.017 cm^-2 s^-1 in any night. The z are independent standard normal numbers of the
    galaxy. All visits count as taken in that night. Noise is that of a fresh exposure in these conditions.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    badness : -3 to 3 standard deviations.
    draws : this batch's random numbers, keyed by galaxy.
    surviving_fraction : of the charge of cosmic rays that outlier rejection among the visits leaves.
    visit_seconds, pixel_um : exposure time of a visit and size of a pixel, for the number of cosmic rays; LSST's.

    Returns
    -------
    Observation with the exposure of that night per galaxy, and the cosmic rays in its mask.

    Raises
    ------
    InputError : a badness outside [-3, 3], an exposure whose PSF is unknown, or masked pixels.
    """
    refuse_badness(badness)
    conditions = drawn(badness, len(sky.exposure.bands), draws)
    return observed(
        sky, conditions, draws,
        surviving_fraction=surviving_fraction, visit_seconds=visit_seconds, pixel_um=pixel_um,
    )  # fmt: skip
