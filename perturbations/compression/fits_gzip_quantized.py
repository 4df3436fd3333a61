"""A FITS image quantised without dither and gzipped: flat steps where the light varies by less than one."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.quantising import check_level, requantised


@corruption(
    space="flux",
    parameter="quantisation level: steps per noise",
    unit="1",
    ladder=(16.0, 4.0, 2.0, 1.0, 0.75),
    identity=None,
    no_identity="floating-point pixels are rounded to steps of the noise at any level",
    source="Pence, White & Seaman 2010, PASP 122, 1065 (method); 16 is astropy's default; our choice below: down to "
    "the coarsest step, 1.3 times the noise, whose error without dither is still noise",
    version=1,
    whole=True,
)
def fits_gzip_quantized(
    sky: Observation, level: float, draws: Draws, *, dither: str = "none", tile: str = "row"
) -> Observation:
    """Store an image in whole steps of noise/`level` under gzip, and read it back.

    What astropy writes by default: pixels are multiples of the step, so that blank sky holds few different values and
    equal neighbours, which no other noise has. Gzip keeps them. Noise is multiplied by sqrt(1 + 1/(12 level^2)) down
    to a level of about 0.7; coarser steps without dither lose faint light and change noise by another factor.

    Parameters
    ----------
    sky : flux (N, C, H, W), and its Exposure. Not modified.
    level : 0.001 <= level <= 10000 steps per noise.
    draws : this batch's random numbers; used where there is dither.
    dither : "none" (astropy's default), "subtractive_1" (fpack) or "subtractive_2" (exact zeros stay zero).
    tile : "row" (CFITSIO's and astropy's default) or "image"; the noise is that of each tile.

    Returns
    -------
    Observation with the values of astropy.io.fits.CompImageHDU. The variance of the rounding, step^2/12, is added to
    its exposure as read noise, by galaxy and band. Rows of fewer than nine pixels are stored without loss.

    Raises
    ------
    InputError : a level out of range, a dither or tile of another name.
    """
    check_level("fits_gzip_quantized", level)
    return requantised(sky, level, draws, dither, tile)
