"""What a pixel means: the exposure behind an image, in physical units.

One flux scale: flux is sky-subtracted electrons of the survey's *full-depth reference exposure*, whatever part of it
was observed. Depth therefore changes the noise of an image and not its scale.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perturbations.errors import InputError, unknown_name

# What surveycodex does not hold. LSST: a visit is one exposure of 30 s; read noise of 8.8 e- per exposure (technical
# note SMTN-002, "Calculating LSST limiting magnitudes and SNR"); a full well of about 100,000 e-.
VISITS = {"LSST": {"seconds": 30.0, "read_noise": 8.8, "full_well": 100_000.0}}
PER_BAND = ("fraction", "sky", "visits", "read_noise", "full_well", "gain", "psf_fwhm", "zeropoint")
PSF_SHAPES = ("kolmogorov", "moffat", "gaussian")


@dataclass(frozen=True, eq=False)
class Exposure:
    """The exposure behind an image. Numbers are per band, broadcastable to (galaxies, bands).

    Parameters
    ----------
    bands : names of the bands, in the order of the image.
    pixel_scale : arcsec per pixel.
    sky : sky level of the reference exposure [electrons per pixel].
    fraction : part of the reference exposure that was observed, f > 0 (LSST Y10: 1, Y1: 0.1).
    visits : exposures that the reference exposure is a sum of.
    read_noise : read noise of one visit [electrons per pixel].
    full_well : charge at which a pixel saturates in one visit [electrons].
    gain : electrons per ADU.
    psf_fwhm : full width at half maximum of the point-spread function [arcsec].
    zeropoint : AB magnitude of a source that gives one electron in the reference exposure [mag].
    psf_shape : "kolmogorov", "moffat" (beta = `moffat_beta`) or "gaussian".
    survey : where the numbers come from, for people.

    Raises
    ------
    InputError : a number outside its range or of a shape that does not fit the bands.
    """

    bands: tuple[str, ...]
    pixel_scale: float
    sky: torch.Tensor
    fraction: torch.Tensor = 1.0  # type: ignore[assignment]
    visits: torch.Tensor = 1.0  # type: ignore[assignment]
    read_noise: torch.Tensor = 0.0  # type: ignore[assignment]
    full_well: torch.Tensor = math.inf  # type: ignore[assignment]
    gain: torch.Tensor = 1.0  # type: ignore[assignment]
    psf_fwhm: torch.Tensor = math.nan  # type: ignore[assignment]
    zeropoint: torch.Tensor = math.nan  # type: ignore[assignment]
    psf_shape: str = "kolmogorov"
    moffat_beta: float = 2.5
    survey: str = "custom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise InputError(f"bands {self.bands}", "one or more different names", "name each band of the image once")
        for name in PER_BAND:
            object.__setattr__(self, name, self._checked(name))
        if not 1e-3 <= self.pixel_scale <= 1e3:
            raise InputError(
                f"pixel_scale = {self.pixel_scale}", "0.001 to 1000 arcsec per pixel", "give the camera's pixel scale"
            )
        if self.psf_shape not in PSF_SHAPES:
            raise unknown_name("PSF shape", self.psf_shape, PSF_SHAPES)
        if not self.moffat_beta > 1:
            raise InputError(f"moffat_beta = {self.moffat_beta}", "beta > 1", "atmospheric PSFs have 2.5 to 4.8")

    def _checked(self, name: str) -> torch.Tensor:
        try:
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            value = value.expand(*value.shape[:-1], len(self.bands)).clone()
        except (RuntimeError, TypeError, ValueError):
            raise InputError(
                f"{name} = {getattr(self, name)!r} for {len(self.bands)} band(s)",
                "one number, one per band, or (galaxies, bands)",
                "give as many numbers as there are bands",
            ) from None
        unknown_ok = name in ("psf_fwhm", "zeropoint")
        positive = name in ("fraction", "visits", "gain", "full_well")
        good = (value > 0) if positive else (value >= 0)
        if name == "zeropoint":
            good = value.abs() <= 100.0
        elif name != "full_well":
            good &= torch.isfinite(value)
        if unknown_ok:
            good |= torch.isnan(value)
        if value.ndim > 2 or not bool(good.all()):
            bound = "within 100 mag" if name == "zeropoint" else "> 0" if positive else ">= 0"
            raise InputError(f"{name} = {value.tolist()}", f"{name} {bound}", "correct the exposure")
        return value

    @classmethod
    def from_survey(cls, survey: str, bands: Sequence[str], fraction: float = 1.0) -> Exposure:
        """The exposure of a survey that surveycodex knows (`robustastro list surveys`).

        Sky, zero-point, PSF, pixel scale and exposure time are surveycodex's. Visits, read noise and full well are
        known here for LSST only; other surveys count as one visit without read noise or saturation.
        """
        import surveycodex
        import surveycodex.utilities

        names = {name.lower(): name for name in surveycodex.available_surveys}
        if survey.lower() not in names:
            raise unknown_name("survey", survey, surveycodex.available_surveys)
        known = surveycodex.get_survey(names[survey.lower()])
        for band in bands:
            if band not in known.available_filters:
                raise unknown_name(f"{known.name} band", band, known.available_filters)
        filters = [known.get_filter(band) for band in bands]
        seconds = [_number(f.full_exposure_time, "s") for f in filters]
        visit: Mapping[str, float] = VISITS.get(known.name, {})
        return cls(
            bands=tuple(bands),
            pixel_scale=_number(known.pixel_scale, "arcsec"),
            sky=_column(_number(surveycodex.utilities.mean_sky_level(known, f), "electron") for f in filters),
            fraction=_column([fraction] * len(filters)),
            visits=_column(s / visit["seconds"] if visit else 1.0 for s in seconds),
            read_noise=_column([visit.get("read_noise", 0.0)] * len(filters)),
            full_well=_column([visit.get("full_well", math.inf)] * len(filters)),
            gain=_column([_number(known.gain, "electron/adu")] * len(filters)),
            psf_fwhm=_column(_number(f.psf_fwhm, "arcsec") for f in filters),
            zeropoint=_column(
                _number(f.zeropoint, "mag") + 2.5 * math.log10(s) for f, s in zip(filters, seconds, strict=True)
            ),
            survey=known.name,
        )

    @classmethod
    def from_toml(cls, path: str | Path) -> Exposure:
        """An exposure from a TOML file: `survey`, `bands` and `fraction`, or the numbers of `Exposure` by name."""
        try:
            table = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise InputError(f"exposure file {path}: {problem}", "a readable TOML file", "correct the file") from None
        if isinstance(table.get("survey"), str) and set(table) <= {"survey", "bands", "fraction"}:
            if "bands" not in table:
                raise InputError(f"{path} names no bands", "bands = ['g', 'r', 'i']", "add the bands of the image")
            from perturbations.surveys import survey_exposure

            return survey_exposure(**table)
        return cls.from_dict(table)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Exposure:
        """The inverse of `to_dict`."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in table:
            if name not in known:
                raise unknown_name("exposure entry", name, known)
        for name in ("bands", "pixel_scale", "sky"):
            if name not in table:
                raise InputError(
                    f"an exposure without {name}", "bands, pixel_scale and sky are required", f"add {name}"
                )
        values = {k: (_from_null(k, v) if k in PER_BAND else v) for k, v in table.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON; unknown numbers are null, or left out where all are."""
        table: dict[str, Any] = {"bands": list(self.bands)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in PER_BAND:
                if bool(torch.isfinite(value).any()):
                    table[field.name] = _to_null(value.tolist())
            elif field.name != "bands":
                table[field.name] = value
        return table

    def replace(self, **changes: Any) -> Exposure:
        """This exposure with some of its numbers changed; the others are known to be right."""
        if not set(changes) <= set(PER_BAND):
            return dataclasses.replace(self, **changes)
        other = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
            object.__setattr__(other, name, other._checked(name))
        return other

    def rescaled(self, factor: torch.Tensor | float) -> Exposure:
        """The exposure of the same image with its flux multiplied by `factor`, a number per band or (galaxies, bands).

        The frames that were taken stay what they are, and the reference exposure is one that is `factor` times as long:
        `variance` of the multiplied flux is factor^2 times the former one, and a visit holds as many electrons.
        """
        factor = torch.as_tensor(factor, dtype=torch.float64)
        return self.replace(
            sky=self.sky * factor,
            fraction=self.fraction / factor,
            visits=self.visits * factor,
            zeropoint=self.zeropoint + 2.5 * torch.log10(factor),
        )

    def check(self, galaxies: int) -> None:
        """Refuse numbers per galaxy that are not of so many galaxies."""
        for name in PER_BAND:
            value = getattr(self, name)
            if value.ndim == 2 and len(value) not in (1, galaxies):
                raise InputError(
                    f"{name} of {len(value)} galaxies for {galaxies} images",
                    "one row per image",
                    "take the same galaxies",
                )

    @classmethod
    def joined(cls, parts: Sequence[Exposure], counts: Sequence[int]) -> Exposure:
        """The exposure of so many galaxies of each part, one after the other; the parts differ in numbers only."""
        fixed = ("bands", "pixel_scale", "psf_shape", "moffat_beta")
        if any(getattr(part, name) != getattr(parts[0], name) for part in parts for name in fixed):
            raise InputError(
                "exposures of different bands, pixels or PSF shape",
                "parts that differ in numbers per band only",
                "give all galaxies the same",
            )
        changes = {}
        for name in PER_BAND:
            values = [getattr(part, name) for part in parts]
            if any(v.ndim == 2 for v in values) or not all(torch.equal(v, values[0]) for v in values):
                changes[name] = torch.cat([v.expand(n, -1) for v, n in zip(values, counts, strict=True)])
        return parts[0].replace(**changes)

    def numbers(self) -> list[torch.Tensor]:
        """Every number per band, in a fixed order."""
        return [getattr(self, name) for name in PER_BAND]

    def take(self, which: Any) -> Exposure:
        """The exposure of a subset of the galaxies, given by position."""
        index = torch.as_tensor(which)
        changes = {n: v[index] for n in PER_BAND if (v := getattr(self, n)).ndim == 2 and len(v) > 1}
        return self.replace(**changes) if changes else self

    def summary(self) -> Exposure:
        """The same with numbers per galaxy replaced by their median over the galaxies."""
        return self.replace(**{n: v.median(dim=0).values for n in PER_BAND if (v := getattr(self, n)).ndim == 2})

    def pick(self, bands: Sequence[str]) -> Exposure:
        """The exposure of some of the bands, in that order."""
        for band in bands:
            if band not in self.bands:
                raise unknown_name("band", band, self.bands, "The image has no such band")
        index = torch.tensor([self.bands.index(band) for band in bands])
        return self.replace(bands=tuple(bands), **{n: getattr(self, n)[..., index] for n in PER_BAND})

    def pixels(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A number per band, shaped (N or 1, C, 1, 1) and with the dtype and device of `like`."""
        value = getattr(self, name)
        return (value if value.ndim == 2 else value[None])[:, :, None, None].to(like)

    def variance(self, flux: torch.Tensor) -> torch.Tensor:
        """Variance of each pixel [electrons^2 of the reference exposure], for flux (N, C, H, W).

        (flux + sky)/f for photons, visits x read_noise^2 / f for reading them out: f x visits were read, and the sum
        was scaled by 1/f. Pixels below -sky have no photons.
        """
        sky, fraction = self.pixels("sky", flux), self.pixels("fraction", flux)
        read = self.pixels("visits", flux) * self.pixels("read_noise", flux) ** 2
        shape = torch.broadcast_shapes(flux.shape, sky.shape, read.shape, fraction.shape)
        return (flux.expand(shape) + sky).clamp_min_(0.0).add_(read).div_(fraction)


def _number(quantity: Any, unit: str) -> float:
    return float(quantity.to_value(unit))


def _column(values) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _to_null(value: Any) -> Any:
    """Lists with None for what JSON cannot hold."""
    if isinstance(value, list):
        return [_to_null(v) for v in value]
    return value if math.isfinite(value) else None


def _from_null(name: str, value: Any) -> Any:
    """None is an unknown PSF or zero-point, and a full well without bound."""
    if isinstance(value, (list, tuple)):
        return [_from_null(name, v) for v in value]
    return {"full_well": math.inf, "psf_fwhm": math.nan, "zeropoint": math.nan}.get(name) if value is None else value
