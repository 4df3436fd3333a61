"""Dust of the Milky Way in front of the galaxy: fainter, and redder."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from perturbations.core import Observation, corruption
from perturbations.dimmed import dimmed
from perturbations.draws import Draws
from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure

CURVES = ("F99", "G23")  # Fitzpatrick 1999, PASP 111, 63; Gordon et al. 2023, ApJ 950, 86
FALLBACK = "LSST"  # whose filters give the wavelength of a band that the image's survey does not have


@corruption(
    space="flux",
    parameter="colour excess E(B-V) of the dust",
    unit="mag",
    ladder=(0.05, 0.1, 0.2, 0.4, 0.8),
    identity=0.0,
    source="our choice: from a clean field at high galactic latitude to the edge of the plane, by doubling",
    version=1,
)
def extinction(
    sky: Observation,
    reddening: float,
    draws: Draws,
    *,
    r_v: float = 3.1,
    curve: str = "F99",
    wavelengths: str = "",
) -> Observation:
    """Observe the galaxy through Milky Way dust that was not corrected for.

    Each band is dimmed by A(lambda) = R_V E(B-V) A(lambda)/A(V) at its effective wavelength, so blue bands lose more.
    The sky in front of the dust stays, and so does its noise. E(B-V) is the true colour excess; that of the
    Schlegel, Finkbeiner & Davis (1998) map is to be multiplied by 0.86 (Schlafly & Finkbeiner 2011, ApJ 737, 103).

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure. Not modified.
    reddening : 0 <= E(B-V) < 10 mag.
    draws : this batch's random numbers, keyed by galaxy.
    r_v : A(V)/E(B-V), 2.3 to 5.6.
    curve : "F99" (Fitzpatrick 1999) or "G23" (Gordon et al. 2023), from the package dust_extinction.
    wavelengths : effective wavelengths [Angstrom] by band, "g=4770,r=6230", for bands without one: others are those
        of the image's survey in surveycodex, else of the LSST filter of that name.

    Returns
    -------
    Observation with the same Exposure.

    Raises
    ------
    InputError : a negative reddening, a band whose wavelength is not known, or a curve used outside its range.
    """
    if not 0.0 <= reddening < 10.0:
        raise InputError(
            f"extinction: reddening = {reddening:g} mag", "0 <= E(B-V) < 10", "dust cannot be taken out of an image"
        )
    magnitudes = reddening * per_reddening(sky.exposure, r_v=r_v, curve=curve, wavelengths=wavelengths)
    if reddening == 0.0:
        return sky.replace(sky.flux.clone())
    return dimmed(sky, torch.pow(10.0, -0.4 * magnitudes), draws)


def per_reddening(exposure: Exposure, *, r_v: float = 3.1, curve: str = "F99", wavelengths: str = "") -> torch.Tensor:
    """A(lambda)/E(B-V) of each band, float64 (C,). Raises what `extinction` does."""
    from astropy import units
    from dust_extinction import parameter_averages

    if curve not in CURVES:
        raise unknown_name("extinction curve", curve, CURVES)
    if not 2.3 <= r_v <= 5.6:
        raise InputError(f"extinction: r_v = {r_v:g}", "2.3 <= r_v <= 5.6", "3.1 is the mean of the Milky Way")
    angstrom = effective_wavelengths(exposure, wavelengths)
    law = getattr(parameter_averages, curve)(Rv=r_v)
    low, high = (1e4 / float(x) for x in reversed(law.x_range))  # x_range is in 1/micron
    for band, at in zip(exposure.bands, angstrom, strict=True):
        if not low <= at <= high:
            raise InputError(
                f"band {band} at {at:g} Angstrom",
                f"{curve} is known from {low:.0f} to {high:.0f} Angstrom",
                "correct the wavelength, or take the other curve",
            )
    return torch.as_tensor(law(angstrom * units.AA), dtype=torch.float64) * r_v


def effective_wavelengths(exposure: Exposure, given: str = "") -> list[float]:
    """Effective wavelength of each band [Angstrom]: as given, of the survey's filter, or of LSST's of that name."""
    own = _given(given, exposure.bands)
    survey, fallback = _filters(exposure.survey), _filters(FALLBACK)
    found = []
    for band in exposure.bands:
        at = own.get(band) or survey.get(band) or fallback.get(band) or fallback.get(band.lower())
        if at is None:
            raise InputError(
                f"the wavelength of band '{band}' is not known",
                f"bands of {exposure.survey} in surveycodex, or of LSST: {', '.join(fallback)}",
                f"give it in Angstrom, --option wavelengths='{band}=6200'",
            )
        found.append(at)
    return found


def _given(text: str, bands: Sequence[str]) -> dict[str, float]:
    table = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        band, equals, value = (p.strip() for p in part.partition("="))
        if band not in bands:
            raise unknown_name("band", band, bands, "The image has no such band")
        try:
            table[band] = float(value)
        except ValueError:
            table[band] = 0.0
        if not (equals and 0.0 < table[band] < float("inf")):
            raise InputError(f"wavelength '{part}'", "band=Angstrom, such as g=4770", "separate bands by commas")
    return table


@functools.cache
def _filters(survey: str) -> Mapping[str, float]:
    """Effective wavelengths [Angstrom] of a survey's filters; none if surveycodex does not hold it."""
    import surveycodex

    names = {name.lower(): name for name in surveycodex.available_surveys}
    if survey.lower() not in names:
        return {}
    known: Any = surveycodex.get_survey(names[survey.lower()])
    filters = {band: known.get_filter(band).effective_wavelength for band in known.available_filters}
    return {band: float(value.to_value("angstrom")) for band, value in filters.items()}
