"""Surveys that surveycodex does not hold: DECaLS and the SDSS coadd of Stripe 82, whose cameras it does, and HST.

Zero-points, sky brightness and pixels are the camera's in surveycodex; exposure times, visits and seeing are the
survey's own. What follows is not a calibration: sky and seeing vary from field to field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from perturbations.errors import InputError, unknown_name
from perturbations.exposure import PER_BAND, Exposure


@dataclass(frozen=True)
class Relative:
    """A survey as another one with other exposure times and seeing.

    Parameters
    ----------
    camera : the survey of surveycodex that used the same camera.
    exposure : by band, the exposure time in units of that survey's.
    visits : exposures in the stack.
    psf_fwhm : by band [arcsec].
    pixel_scale : of the published images [arcsec].
    """

    camera: str
    exposure: Mapping[str, float]
    visits: float
    psf_fwhm: Mapping[str, float]
    pixel_scale: float


SURVEYS: Mapping[str, Relative] = {
    # DECam, as DES with 900 s in each of g, r and z. Total exposure times of 166, 134 and 200 s in two exposures:
    # www.legacysurvey.org/decamls. Images at 0.262 arcsec per pixel, and approximate medians of the seeing: Dey et al.
    # 2019, AJ 157, 168.
    "DECaLS": Relative(
        camera="DES",
        exposure={"g": 166.0 / 900.0, "r": 134.0 / 900.0, "z": 200.0 / 900.0},
        visits=2.0,
        psf_fwhm={"g": 1.3, "r": 1.2, "z": 1.1},
        pixel_scale=0.262,
    ),
    # About 20 runs, median seeing of 1.1 arcsec in r: Annis et al. 2014, ApJ 794, 120. The other bands are
    # approximate: SDSS's own ratios to r.
    "Stripe82": Relative(
        camera="SDSS",
        exposure=dict.fromkeys("ugriz", 20.0),
        visits=20.0,
        psf_fwhm={"u": 1.29, "g": 1.19, "r": 1.1, "i": 1.04, "z": 0.98},
        pixel_scale=0.396,
    ),
}


# Imaging of a deep field with the Hubble Space Telescope in I (ACS F814W), J and H (WFC3 F125W and F160W), drizzled to
# 0.06 arcsec as by Koekemoer et al. 2011, ApJS 197, 36. All numbers approximate:
# - zero-points for one electron per second of 25.94, 26.23 and 25.95 mag (ACS and WFC3 instrument handbooks, STScI);
# - sky of 21.9 (I), 22.3 (J) and 22.0 (H) mag per square arcsec: about 41, 37 and 38 electrons per second there;
# - exposures of 4000, 1500 and 2000 s, our round numbers for a wide CANDELS-like field;
# - read noise per exposure of 5 e- (ACS) and 15 e- (WFC3), on pixels of 0.05 and 0.128 arcsec, by area;
# - PSF: its core, well described by a Gaussian (WFC3 instrument handbook, 7.6.1), with what pixels and drizzling add.
# The noise of drizzled pixels is correlated; here it is not, and has the variance of an area of that size.
HST = Exposure(
    bands=("I", "J", "H"),
    pixel_scale=0.06,
    sky=torch.tensor([590.0, 200.0, 274.0], dtype=torch.float64),
    visits=torch.tensor([8.0, 4.0, 4.0], dtype=torch.float64),
    read_noise=torch.tensor([6.0, 7.0, 7.0], dtype=torch.float64),
    zeropoint=torch.tensor([34.95, 34.17, 34.20], dtype=torch.float64),
    psf_fwhm=torch.tensor([0.12, 0.17, 0.18], dtype=torch.float64),
    psf_shape="gaussian",
    survey="HST",
)


def survey_names() -> list[str]:
    """Every survey that `survey_exposure` knows."""
    import surveycodex

    return sorted({*surveycodex.available_surveys, *SURVEYS, HST.survey})


def survey_exposure(survey: str, bands: Sequence[str], fraction: float = 1.0) -> Exposure:
    """The exposure of a survey that surveycodex or this module knows; see `Exposure.from_survey`.

    Raises
    ------
    InputError : a survey or band that is not known, with the nearest name.
    """
    names = {name.lower(): name for name in survey_names()}
    if survey.lower() not in names:
        raise unknown_name("survey", survey, names.values())
    survey = names[survey.lower()]
    known = survey_bands(survey)
    for band in bands:
        if band not in known:
            raise unknown_name(f"{survey} band", band, known)
    if survey == HST.survey:
        return HST.pick(bands).replace(fraction=fraction)
    if survey not in SURVEYS:
        return Exposure.from_survey(survey, bands, fraction)
    entry = SURVEYS[survey]
    camera = Exposure.from_survey(entry.camera, bands, fraction)
    longer = torch.tensor([entry.exposure[band] for band in bands], dtype=torch.float64)
    return camera.replace(
        pixel_scale=entry.pixel_scale,
        sky=camera.sky * longer * (entry.pixel_scale / camera.pixel_scale) ** 2,
        zeropoint=camera.zeropoint + 2.5 * torch.log10(longer),
        visits=entry.visits,
        psf_fwhm=[entry.psf_fwhm[band] for band in bands],
        survey=survey,
    )


def survey_bands(survey: str) -> list[str]:
    """The bands of a survey, by its exact name."""
    import surveycodex

    if survey == HST.survey:
        return list(HST.bands)
    if survey in SURVEYS:
        return list(SURVEYS[survey].exposure)
    return list(surveycodex.get_survey(survey).available_filters)


def mapped_exposure(survey: str, bands: Sequence[str], mapping: str, fraction: float) -> Exposure:
    """The exposure of a survey for an image's bands, under the image's names.

    Parameters
    ----------
    survey : a name that `survey_exposure` knows.
    bands : the image's.
    mapping : "g=g,r=r,i=z": image band = survey band; bands that are left out keep their name. Two bands may be
        observed in the same filter.
    fraction : part of the survey's full exposure.
    """
    names = dict(zip(bands, bands, strict=True))
    for part in filter(None, (p.strip() for p in mapping.split(","))):
        band, equals, filter_ = (p.strip() for p in part.partition("="))
        if not (equals and band and filter_):
            raise InputError(f"bands '{part}'", "image band = survey band, such as i=z", "separate pairs by commas")
        if band not in names:
            raise unknown_name("band", band, bands, "The image has no such band")
        names[band] = filter_
    single = [survey_exposure(survey, [name], fraction) for name in names.values()]
    return single[0].replace(
        bands=tuple(bands), **{name: torch.cat([getattr(one, name) for one in single]) for name in PER_BAND}
    )
