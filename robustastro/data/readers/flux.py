"""From the units, masks and variances of FITS images to reference electrons: the physics of the FITS reader."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbations.errors import InputError
from perturbations.exposure import Exposure

# AB magnitudes (Oke & Gunn 1983): zero is 3631 Jy. A nanomaggy is 22.5 mag (SDSS).
AB_ZERO_JY = 3631.0
JANSKYS = {"jy": 1.0, "mjy": 1e-3, "ujy": 1e-6, "njy": 1e-9}
NANOMAGGIES = ("nmgy", "nanomaggy", "nanomaggies")
ELECTRONS = ("electron", "electrons", "e-", "e")
COUNTS = ("adu", "dn", "count", "counts", "ct")
KNOWN = "nJy, uJy, mJy, Jy, nmgy, electron or adu"
ZEROPOINTS = ("MAGZERO", "MAGZPT", "MAGZP", "ZEROPT", "PHOTZP")  # AB magnitude of one unit of the image
NO_UNIT = "no BUNIT, taken as electrons of the reference exposure"
# Planes of an LSST mask that say a pixel was not measured. The others (DETECTED, on every galaxy; INTRP; ...) do not.
LSST_BAD = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "UNMASKEDNAN")


def unit_of(header: Mapping[str, Any]) -> str | None:
    """BUNIT, or None where there is none."""
    return str(header.get("BUNIT") or "").strip() or None


def is_flux(unit: str | None) -> bool:
    """Whether the unit is one that is converted to electrons."""
    return unit is not None and (_janskys(unit) is not None or unit.lower() in (*NANOMAGGIES, *ELECTRONS, *COUNTS))


def electrons_per_unit(
    header: Mapping[str, Any], exposure: Exposure, band: int, galaxy: int, where: str
) -> tuple[float, str]:
    """Reference electrons that one unit of an image is worth, and where that comes from.

    A flux f has m = -2.5 log10(f / 3631 Jy), and m gives 10^(0.4 (zeropoint - m)) reference electrons. Electrons and
    ADU of an image whose header has a zero-point (`ZEROPOINTS`) go the same way; without one they are taken to be those
    of the reference exposure, ADU times the gain.

    Parameters
    ----------
    header : of the image; BUNIT missing means electrons of the reference exposure.
    band, galaxy : positions, for the numbers of the exposure.
    where : the file, for errors.

    Raises
    ------
    InputError : an unknown unit, or a zero-point that is needed and not known.
    """
    unit = unit_of(header)
    if unit is None:
        return 1.0, NO_UNIT
    zeropoint = _number(exposure, "zeropoint", band, galaxy)
    own = next((float(header[k]) for k in ZEROPOINTS if isinstance(header.get(k), (int, float))), None)
    jansky = _janskys(unit)
    if jansky is not None:
        magnitude, said = -2.5 * np.log10(jansky / AB_ZERO_JY), f"{unit} through the zero-point"
    elif unit.lower() in NANOMAGGIES:
        magnitude, said = 22.5, f"{unit} (22.5 AB) through the zero-point"
    elif unit.lower() not in (*ELECTRONS, *COUNTS):
        raise InputError(f"{where}: BUNIT '{unit}'", KNOWN, "convert the images, or read them without an exposure")
    elif own is not None and np.isfinite(own):
        magnitude, said = own, f"{unit} through the zero-point of the header"
    elif unit.lower() in ELECTRONS:
        return 1.0, f"{unit} taken as those of the reference exposure"
    else:
        return _number(exposure, "gain", band, galaxy), f"{unit} times the gain, taken as of the reference exposure"
    if np.isnan(zeropoint):
        raise InputError(
            f"{where} is in {unit} and the exposure has no zeropoint in {exposure.bands[band]}",
            "the AB magnitude of one electron in the reference exposure",
            "add zeropoint to the exposure",
        )
    return float(10.0 ** (0.4 * (zeropoint - magnitude))), said


def bad_pixels(values: np.ndarray, header: Mapping[str, Any]) -> np.ndarray:
    """Where a mask plane says that a pixel was not measured.

    LSST masks name their bits (MP_BAD, MP_DETECTED, ...): those of `LSST_BAD` count. Elsewhere any value but 0.
    """
    if not any(str(key).startswith("MP_") for key in header):
        return np.asarray(values) != 0
    bits = sum(1 << int(header[f"MP_{name}"]) for name in LSST_BAD if f"MP_{name}" in header)
    return (np.asarray(values, dtype=np.int64) & bits) != 0


def filled(image: np.ndarray, mask: np.ndarray, where: str) -> np.ndarray:
    """An image (C, H, W) whose masked pixels are weighted means of their neighbours (astropy, Gaussian kernel).

    The kernel starts at a width of 1 pixel and doubles until the largest hole is closed.
    """
    from astropy.convolution import Gaussian2DKernel, convolve, interpolate_replace_nans

    result = np.where(mask, np.nan, image)
    for band in range(len(result)):
        if mask[band].all():
            raise InputError(
                f"{where}: every pixel of a band is masked", "some pixels to interpolate from", "use --masked reject"
            )
        width = 1.0
        while np.isnan(result[band]).any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # holes wider than the kernel: the next one is wider
                result[band] = interpolate_replace_nans(
                    result[band], Gaussian2DKernel(width), convolve, boundary="extend"
                )
            width *= 2
    return result


def observed_fraction(
    flux: np.ndarray, variance: np.ndarray, mask: np.ndarray, exposure: Exposure, galaxy: int, where: str
) -> np.ndarray:
    """The fraction of the reference exposure that was observed, from the variance of blank sky; float64 (C,).

    Blank sky has the variance (sky + visits x read_noise^2)/f. The median over the fainter half (by |flux|) of the
    pixels that are not masked keeps out the photon noise of the galaxy, where the variance plane has it.

    Parameters
    ----------
    flux, variance, mask : (C, H, W) in reference electrons, electrons^2, and True where not measured.

    Raises
    ------
    InputError : no pixel has a usable variance, or the exposure has neither sky nor read noise to compare with.
    """
    fractions = np.empty(len(flux))
    for band in range(len(flux)):
        sky, visits, read = (_number(exposure, n, band, galaxy) for n in ("sky", "visits", "read_noise"))
        expected = sky + visits * read**2
        good = ~mask[band] & np.isfinite(variance[band]) & (variance[band] > 0)
        if not good.any() or not expected > 0:
            raise InputError(
                f"{where}: the variance of band {exposure.bands[band]} gives no depth",
                "positive variances, and an exposure with a sky or read noise",
                "correct them, or remove the variance planes",
            )
        level = np.abs(flux[band])
        faint = good & (level <= np.median(level[good]))
        fractions[band] = expected / np.median(variance[band][faint])
    return fractions


def _janskys(unit: str) -> float | None:
    # "MJy" is a million, "mJy" a thousandth: only the prefix keeps its case
    plain = unit.replace("µ", "u").replace("μ", "u")
    return None if plain.startswith("M") and plain[1:].lower() == "jy" else JANSKYS.get(plain.lower())


def _number(exposure: Exposure, name: str, band: int, galaxy: int) -> float:
    value = getattr(exposure, name)
    return float(value[galaxy, band] if value.ndim == 2 else value[band])
