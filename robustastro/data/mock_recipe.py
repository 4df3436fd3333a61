"""Which mock galaxies, and how they are observed: everything that images of mocks depend on."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbations.errors import InputError, unknown_name
from perturbations.exposure import Exposure
from perturbations.surveys import survey_exposure
from robustastro.data import morphologies
from robustastro.data.populations import POPULATIONS

SIZES = (32, 512)
ZOOMS = (0.02, 50.0)
PRISTINE = 1e6  # depth at which noise no longer shows: photon noise a thousandth of that of the survey
# entries that recipes in published bundles and records do not have: left out at their defaults
LATER = ("proportions", "zoom", "brighter", "population", "calibrated_to")


@dataclass(frozen=True)
class Recipe:
    """Which mock galaxies, and how they are observed.

    Parameters
    ----------
    survey : a name that `perturbations.surveys.survey_exposure` knows.
    bands : some of g, r, i, z; of HST, some of I, J, H.
    depth : fraction of the survey's full exposure that was observed (LSST: 1.0 is ten years, 0.1 one); `PRISTINE`, a
        million exposures, leaves the seeing and no noise to speak of.
    classes : names in the order of the labels (`morphologies.CLASSES`).
    n : number of galaxies.
    seed : any integer; other seeds are other galaxies.
    size : side of the images [pixels].
    seeing : FWHM of the PSF [arcsec], or None for the survey's in each band.
    proportions : share of each class, in any unit: each galaxy is of the class that has the fewest for its share so
        far. Empty: equal shares, galaxy i belongs to class i mod K.
    zoom : angular size of everything in the image, relative to the standard galaxies.
    brighter : [mag], of every galaxy, at the same size.
    population : statistics of the classes (`populations.POPULATIONS`).
    calibrated_to : the survey on whose zero-points the flux is given, so that a magnitude is the same number of
        electrons as there and one stretch serves both; empty: the survey's own.

    Raises
    ------
    InputError : a value out of range, or a name that is not known.
    """

    survey: str = "LSST"
    bands: tuple[str, ...] = ("g", "r", "i")
    depth: float = 1.0
    classes: tuple[str, ...] = ("spiral", "elliptical", "merger")
    n: int = 3000
    seed: int = 1
    size: int = 100
    seeing: float | None = None
    proportions: tuple[float, ...] = ()
    zoom: float = 1.0
    brighter: float = 0.0
    population: str = "standard"
    calibrated_to: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "proportions", tuple(float(share) for share in self.proportions))
        for band in self.bands:
            if band not in morphologies.BANDS:
                raise unknown_name("band of mock galaxies", band, morphologies.BANDS)
        for name in self.classes:
            if name not in morphologies.CLASSES:
                raise unknown_name("class of mock galaxies", name, morphologies.CLASSES)
        if self.population not in POPULATIONS:
            raise unknown_name("population of mock galaxies", self.population, POPULATIONS)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes {self.classes}", "one or more different names", "name each class once")
        if self.n < 1:
            raise InputError(f"n = {self.n}", "at least one galaxy", "ask for more")
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise InputError(f"size = {self.size}", f"{SIZES[0]} to {SIZES[1]} pixels", "choose another size")
        if not 0.0 < self.depth < math.inf:
            raise InputError(f"depth = {self.depth}", "a fraction of the full exposure above 0", "Y10 is 1.0")
        if self.proportions and (
            len(self.proportions) != len(self.classes) or not all(0.0 < share < math.inf for share in self.proportions)
        ):
            raise InputError(
                f"proportions {self.proportions} of {len(self.classes)} classes",
                "one number above 0 per class",
                "leave them out for equal shares; leave out a class of which there shall be none",
            )
        if not ZOOMS[0] <= self.zoom <= ZOOMS[1]:
            raise InputError(f"zoom = {self.zoom}", f"{ZOOMS[0]:g} to {ZOOMS[1]:g}", "1 is the standard size")
        if not -10.0 <= self.brighter <= 10.0:
            raise InputError(f"brighter = {self.brighter}", "-10 to 10 mag", "0 is the standard brightness")
        object.__setattr__(self, "survey", self.exposure().survey)

    def exposure(self) -> Exposure:
        """The exposure that the galaxies are observed with."""
        exposure = self._on_its_scale(survey_exposure(self.survey, self.bands, self.depth))
        return exposure if self.seeing is None else exposure.replace(psf_fwhm=self.seeing)

    def reference(self) -> Exposure:
        """The survey's full exposure, in which light is measured."""
        return self._on_its_scale(survey_exposure(self.survey, self.bands))

    def _on_its_scale(self, exposure: Exposure) -> Exposure:
        if not self.calibrated_to:
            return exposure
        zeropoint = survey_exposure(self.calibrated_to, self.bands).zeropoint
        return exposure.rescaled(10.0 ** (0.4 * (zeropoint - exposure.zeropoint)))

    def ids(self) -> tuple[str, ...]:
        """Ids of the galaxies: the same at every depth and seeing."""
        return tuple(f"{self.survey.lower()}-s{self.seed}-{index:06d}" for index in range(self.n))

    def labels(self) -> np.ndarray:
        """Class of each galaxy, int64 (N,)."""
        if not self.proportions:
            return np.arange(self.n, dtype=np.int64) % len(self.classes)
        shares = np.array(self.proportions) / sum(self.proportions)
        labels, counts = np.empty(self.n, dtype=np.int64), np.zeros(len(shares))
        for i in range(self.n):
            labels[i] = np.argmax(np.round(shares * (i + 1) - counts, 9))  # rounded: a tie goes to the first
            counts[labels[i]] += 1.0
        return labels

    def domain(self) -> str:
        """A name for people: "LSST Y10"."""
        years = self.depth * 10.0
        whole = self.survey == "LSST" and 1.0 <= years <= 10.0 and math.isclose(years, round(years))
        depth = f"Y{round(years)}" if whole else f"at {self.depth:g} {'times' if self.depth > 1.0 else 'of'} its depth"
        if self.survey != "LSST" and self.depth == 1.0:
            depth = ""
        elif self.depth == PRISTINE:
            depth = "pristine"
        name = f"{self.survey} {depth}".strip()
        if self.population != "standard":
            name += f", {self.population} galaxies"
        return name + ("" if self.seeing is None else f', {self.seeing:g}" seeing')

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON. The later entries are left out where they are at their defaults."""
        table: dict[str, Any] = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in LATER and table[field.name] == field.default:
                del table[field.name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in table:
            if name not in known:
                raise unknown_name("entry of a recipe", name, known)
        return cls(**table)


def parse_depth(text: str) -> float:
    """Fraction of the full exposure: "Y1" to "Y10" are years of LSST, "0.25" is a fraction.

    Raises
    ------
    InputError : neither.
    """
    years = re.fullmatch(r"[Yy]([1-9]|10)", text.strip())
    try:
        fraction = int(years[1]) / 10.0 if years else float(text)
    except ValueError:
        fraction = math.nan
    if not 0.0 < fraction < math.inf:
        raise InputError(f"depth '{text}'", "Y1 to Y10, or a fraction above 0", "Y10 is the full exposure, Y1 a tenth")
    return fraction


def parse_proportions(text: str) -> tuple[float, ...]:
    """Shares of the classes: "9,9,1"; of an empty text none, which are equal shares.

    Raises
    ------
    InputError : something else than numbers.
    """
    try:
        return tuple(float(share) for share in text.split(",")) if text.strip() else ()
    except ValueError:
        raise InputError(f"proportions '{text}'", "one number above 0 per class", "for instance 9,9,1") from None
