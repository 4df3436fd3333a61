"""A FITS image compressed by fpack: Rice coding of integers that are a fraction of the noise apart."""

from perturbations.core import Observation, corruption
from perturbations.draws import Draws
from perturbations.quantising import check_level, requantised


@corruption(
    space="flux",
    parameter="quantisation level: steps per noise",
    unit="1",
    ladder=(16.0, 4.0, 2.0, 1.0, 0.5),
    identity=None,
    no_identity="floating-point pixels are rounded to steps of the noise at any level",
    source="Pence, White & Seaman 2010, PASP 122, 1065 (method); 16 is astropy's default and 4 is fpack's; our choice "
    "below: down to a step of twice the noise, a third more variance",
    version=1,
    whole=True,
)
def fits_rice(
    sky: Observation, level: float, draws: Draws, *, dither: str = "subtractive_1", tile: str = "row"
) -> Observation:
    """Store an image as fpack does, in steps of noise/`level`, and read it back.

    Rice coding keeps the integers, so only the rounding to steps is seen. It multiplies the noise of blank sky by
    sqrt(1 + 1/(12 level^2)). With dither, as fpack's default, the rounding error is independent of the image at any
    level; without, below a level of about 0.7, it is not, and neither mean nor noise is kept.

    Parameters
    ----------
    sky : flux (N, C, H, W), and its Exposure. Not modified.
    level : 0.001 <= level <= 10000 steps per noise.
    draws : this batch's random numbers; each band of a galaxy has its own dither seed.
    dither : "subtractive_1" (fpack), "none" (astropy's default) or "subtractive_2" (exact zeros stay zero).
    tile : "row" (CFITSIO's and astropy's default) or "image"; the noise is that of each tile.

    Returns
    -------
    Observation with the values of astropy.io.fits.CompImageHDU. The variance of the rounding, step^2/12, is added to
    its exposure as read noise, by galaxy and band. Rows of fewer than nine pixels are stored without loss.

    Raises
    ------
    InputError : a level out of range, a dither or tile of another name.
    """
    check_level("fits_rice", level)
    return requantised(sky, level, draws, dither, tile)
