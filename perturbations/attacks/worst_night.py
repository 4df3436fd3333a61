"""The least unlikely night that makes the network err: an adversary who may choose only what nature does anyway."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import scipy.special
import torch

from perturbations import conditions, goal, search
from perturbations.core import TOGETHER, AttackResult, Observation, Victim, attack
from perturbations.defects import refuse_outside, refuse_survivors
from perturbations.detector.cosmic_rays import IONISATION, LANDAU_WIDTH
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.psf import known_psf

FARTHEST = 5.0  # sigma
WORST = 3.0  # the most that `night` knows of its badness
NUMBERS = 4  # badness, seeing, sky and drift; then a zero-point per band; of a muon, charge and slant
OF_MUON = 2
PLACES = 5  # direction of the drift; band, row, column and azimuth of the muon
# steps towards the typical night after the search: how many, and by which factors all of its numbers shrink, or one
WALKS, SHORTER, ONE_SHORTER = 5, (0.5, 0.7, 0.85, 0.95), (0.0, 0.5)
THICKNESS_UM = 100.0  # of the sensor, as in cosmic_rays
MARGIN = 1e-4  # logits by which a flip must win: the same image has others by 1e-8 in another batch


@attack(
    space="flux",
    parameter="how unlikely the night may be",
    unit="sigma",
    ladder=(1.0, 2.0, 3.0),
    norm=None,
    access="logits",
    identity=None,
    no_identity="the typical night, which strength 0 gives, has its own seeing, sky and noise",
    source="the distributions of night: Neilsen 2019 (simsee), Krisciunas & Schaefer 1991, Padmanabhan et al. 2008, "
    "Particle Data Group, and our choice; muons as in cosmic_rays",
    version=1,
    most_queries=lambda options: 2 + options["pop"] * (1 + options["generations"]) + WALKS * (len(SHORTER) + 25),
)
def worst_night(
    sky: Observation,
    labels: torch.Tensor,
    victim: Victim,
    unlikely: float,
    draws: Draws,
    *,
    pop: int = 16,
    generations: int = 14,
    target: int | None = None,
    surviving_fraction: float = 1.0,
    visit_seconds: float = 30.0,
    pixel_um: float = 10.0,
) -> AttackResult:
    """Search the conditions of a night, no more than so unlikely, for the likeliest ones that flip the class.

    A night is what `night` draws: its badness, and deviations of seeing, sky brightness, drift (length) and zero-point
    (each band), all as standard normal numbers z; and, if the search wants one, a muon with a charge and a slant, both
    as normal numbers of their distributions. Other muons count as rejected. How unlikely it is: the chance q that the d
    numbers of a night lie at least as far from zero, q = P(chi^2_d >= sum z^2); with a muon, that those of any muon do,
    at most q = 1 - exp(-m P(chi^2_(d+2) >= sum z^2)), where m muons are expected on the stamp. Where m > 0 a night
    can be read in both ways, so p = 1 - (1 - q)^2; else p = q. No more than a share p of all nights can be read as one
    so unlikely. Sigma is that of a normal number with p on both sides: p = 2 Phi(-sigma), 0 for the typical night. The
    direction of the drift, and band, place and azimuth of the muon, are chosen freely: no place is less likely than
    another. So p is not the chance that the galaxy is misclassified.

    In three bands these are seven numbers, and half of all nights have a sum of squares above 6.3. At 1, 2 and 3 sigma
    it may reach 10, 16 and 24, and one number alone may take all of it; with a muon, where one is expected, 12, 19 and
    27, and more where more are. Without a muon at 3 sigma, with -3 <= badness <= 3, the PSF is at most 3.4 times as
    wide (and never narrower), the sky 5 mag brighter, a zero-point off by 0.31 mag and the drift 0.8". The noise is
    that of a fresh exposure, of the same random numbers in every night of a galaxy.

    Differential evolution makes the class flip, then the flipping night likelier; five rounds of shrinking one number,
    or all, or leaving the muon out, follow. A flip must win by 1e-4 in the logits. Images that are wrong already, or of
    the target class, are left as they are after one query.

    Parameters
    ----------
    sky : flux (N, C, H, W) in reference electrons per pixel, and its Exposure with psf_fwhm. Not modified.
    labels : (N,) int64, the true classes.
    victim : has `seen`.
    unlikely : 0 to 5 sigma.
    draws : this batch's random numbers, keyed by galaxy: noise and search.
    pop, generations : candidates in a generation, at least 4, and generations after the first, at least 0.
    target : the class to reach; None for any wrong one.
    surviving_fraction : of the charge of the muon that outlier rejection among the visits leaves; 0 means no muon.
    visit_seconds, pixel_um : exposure time of a visit and size of a pixel, for the chance of a muon; LSST's.

    Returns
    -------
    AttackResult of flux images: in the likeliest flipping night, else in the most harmful one allowed. Details, of that
    night, NaN for images left as they are: seeing (FWHM over that of the image), sky_mag, zeropoint_mag (N, C),
    drift_arcsec, direction_rad; cosmic_band (-1: no muon), cosmic_row, cosmic_column, cosmic_length [pixels],
    cosmic_azimuth [rad], charge_electrons; sigma and probability (p), NaN also where no night flips.

    Raises
    ------
    InputError : a strength or option out of range, an exposure whose PSF is unknown, or masked pixels.
    """
    refuse_outside("worst_night", "strength", unlikely, 0.0, FARTHEST, "1, 2 and 3 sigma are the ladder")
    refuse_survivors("worst_night", surviving_fraction)
    refuse_outside("worst_night", "visit_seconds", visit_seconds, 1e-3, math.inf, "give the time of one visit")
    refuse_outside("worst_night", "pixel_um", pixel_um, 0.1, 1000.0, "give micrometres")
    if pop < 4 or generations < 0:
        raise InputError(
            f"worst_night: pop = {pop}, generations = {generations}",
            "pop >= 4 and generations >= 0",
            "a child is made from three members other than its parent",
        )
    known_psf(sky.exposure)
    n, bands = sky.flux.shape[:2]
    images, success = sky.flux.clone(), torch.zeros(n, dtype=torch.bool, device=sky.flux.device)
    queries = torch.zeros(n, dtype=torch.int64, device=sky.flux.device)
    details = _nothing(n, bands)
    result = AttackResult(images, success, queries, details)
    if n == 0:
        return result
    seen: Callable[[torch.Tensor], torch.Tensor] = victim.seen  # pyright: ignore[reportAttributeAccessIssue]
    attacked = goal.worth_attacking(seen(sky.flux), labels, victim, target)
    queries += 1

    for image in attacked.tolist():  # each alone: memory is that of a few candidates, and no galaxy meets another
        own, keyed, label = sky.take(slice(image, image + 1)), draws.take([image]), labels[image : image + 1]
        prior = Prior.of(own, unlikely, surviving_fraction, visit_seconds, pixel_um)

        def seen_in(nights: Nights, own=own, keyed=keyed, prior=prior) -> torch.Tensor:
            return _observed(own, prior.conditions(nights), keyed, surviving_fraction).flux

        def judge(nights: Nights, seen_in=seen_in, prior=prior, label=label) -> Verdict:
            parts = [victim.logits(seen(seen_in(part))) for part in nights.parts(TOGETHER)]
            logits = torch.cat(parts)
            true = label.expand(len(logits))
            flipped = _decided(logits, true, target)
            return Verdict(goal.harm(logits, true, target), flipped, prior.unlikeliness(nights)[1])

        night, spent = _search(judge, prior, keyed, pop, generations)
        images[image] = seen_in(night)[0]
        success[image] = goal.flipped(victim.logits(seen(images[image : image + 1])), label, target)[0]
        queries[image] += spent + 1
        _note(details, image, prior.conditions(night), *prior.unlikeliness(night), bool(success[image]))
    return result


@dataclass(frozen=True, eq=False)
class Nights:
    """Some nights of one galaxy.

    Parameters
    ----------
    z : (P, D) float64: badness, seeing, sky, drift, a zero-point per band; charge and slant of the muon.
    places : (P, 5) float64 in [0, 1]: direction of the drift; band, row, column and azimuth of the muon.
    muon : (P,) bool, there is one; without, its two numbers are 0.
    """

    z: torch.Tensor
    places: torch.Tensor
    muon: torch.Tensor

    def take(self, which: torch.Tensor | slice) -> Nights:
        return Nights(self.z[which], self.places[which], self.muon[which])

    def parts(self, size: int) -> list[Nights]:
        return [self.take(slice(start, start + size)) for start in range(0, len(self.z), size)]


@dataclass(frozen=True)
class Verdict:
    """On P nights: the harm (P,), whether they flip the class (P,) bool, and sigma (P,)."""

    harm: torch.Tensor
    flipped: torch.Tensor
    sigma: torch.Tensor


Judge = Callable[[Nights], Verdict]


@dataclass(frozen=True, eq=False)
class Prior:
    """The nights that one galaxy may meet, and how unlikely each is.

    Parameters
    ----------
    bands, height, width : of its image.
    hits : (C,) float64, expected number of muons on the stamp, in all visits.
    rate : their sum; 0 where none survives.
    plain, struck : largest sqrt(sum z^2) allowed without and with a muon; NaN where even the likeliest muon is too
        unlikely.
    pixel_um : size of a pixel.
    """

    bands: int
    height: int
    width: int
    hits: torch.Tensor
    rate: float
    plain: float
    struck: float
    pixel_um: float

    @classmethod
    def of(
        cls, sky: Observation, unlikely: float, surviving_fraction: float, visit_seconds: float, pixel_um: float
    ) -> Prior:
        """That of one galaxy, up to so many sigma."""
        _, bands, height, width = sky.flux.shape
        seconds = visit_seconds * (sky.exposure.fraction * sky.exposure.visits).reshape(bands)
        hits = conditions.MUONS * height * width * (pixel_um * 1e-4) ** 2 * seconds
        rate = float(hits.sum()) if surviving_fraction > 0.0 else 0.0
        tail = 2.0 * float(scipy.special.ndtr(-unlikely))
        if rate > 0.0:
            tail /= 1.0 + math.sqrt(1.0 - tail)  # q of p, without cancellation
        return cls(
            bands, height, width, hits.to(sky.flux.device), rate,
            plain=_radius(NUMBERS + bands, tail),
            struck=_radius(NUMBERS + bands + OF_MUON, -math.log1p(-tail) / rate)
            if tail < -math.expm1(-rate) else math.nan,
            pixel_um=pixel_um,
        )  # fmt: skip

    @property
    def genes(self) -> int:
        """A direction for the z, the places, then how far out along the direction and whether there is a muon."""
        return NUMBERS + self.bands + OF_MUON + PLACES + 2

    def expressed(self, genes: torch.Tensor) -> Nights:
        """Nights of genes (P, G) in [0, 1]; all are allowed."""
        muon = (genes[:, -1] >= 0.5) & (not math.isnan(self.struck))
        z = 2.0 * genes[:, : -PLACES - 2].double() - 1.0
        z[~muon, -OF_MUON:] = 0.0
        z /= z.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        z *= torch.where(muon, z.new_tensor(self.struck), self.plain)[:, None] * genes[:, -2:-1]
        z[:, 0].clamp_(-WORST, WORST)
        return Nights(z, genes[:, -PLACES - 2 : -2].double(), muon)

    def unlikeliness(self, nights: Nights) -> tuple[torch.Tensor, torch.Tensor]:
        """The chance p (P,) of a night at least as unlikely, and the same as sigma (P,), both float64.

        No more than p: of nights with the same conditions z, the share with a muon so far out is concave in its
        expected number, so its mean is at most that of the mean number (Jensen). And both readings become likelier
        farther out in z, so a night that has neither is at least as likely as if they were independent (Chebyshev).
        """
        freedom = NUMBERS + self.bands + OF_MUON * nights.muon.double()
        q = torch.special.gammaincc(freedom / 2.0, nights.z.square().sum(dim=1) / 2.0)
        q = torch.where(nights.muon, -torch.expm1(-self.rate * q), q)
        p = q * (2.0 - q) if self.rate > 0.0 else q
        return p, -torch.special.ndtri(p / 2.0)

    def conditions(self, nights: Nights) -> conditions.Conditions:
        """In physical units, with no other cosmic rays."""
        badness, seeing, sky, drift = nights.z[:, :NUMBERS].unbind(dim=1)
        zeropoint, charge, slant = nights.z[:, NUMBERS:-OF_MUON], nights.z[:, -2], nights.z[:, -1]
        direction, band, row, column, azimuth = nights.places.unbind(dim=1)
        night = conditions.in_night(badness, seeing, sky, zeropoint, torch.special.ndtr(drift), direction, 0.0)
        thickness = THICKNESS_UM / self.pixel_um
        cosine = torch.special.ndtr(-slant) ** 0.25  # cos^3 of the zenith angle goes through a level sensor
        # Moyal's variate is -ln of the square of a normal number: large where that is small
        loss = torch.special.ndtri(1.0 - torch.special.ndtr(charge) / 2.0).square().log().neg()
        share = self.hits.cumsum(0) / self.hits.sum()
        which = (band[:, None] >= share).sum(dim=1).clamp_max(self.bands - 1)
        muon = conditions.Muon(
            band=torch.where(nights.muon, which, -1),
            row=row * self.height,
            column=column * self.width,
            azimuth=2.0 * math.pi * azimuth,
            length=thickness * (1.0 / cosine**2 - 1.0).sqrt(),
            charge=THICKNESS_UM / cosine * (IONISATION + LANDAU_WIDTH * loss),
        )
        return replace(night, muon=muon)


def _search(judge: Judge, prior: Prior, draws: Draws, pop: int, generations: int) -> tuple[Nights, int]:
    """The likeliest night found that flips the class, or else the most harmful one; and the queries spent."""

    def evaluate(_: torch.Tensor, genes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        verdict = judge(prior.expressed(genes[0]))
        harm, sigma = verdict.harm, verdict.sigma
        # any flip before none; flips by how likely their night is, the others by their harm
        score = torch.where(verdict.flipped, 1.0 + 1.0 / (1.0 + sigma), harm / (1.0 + harm.abs()))
        return score[None], verdict.flipped[None]

    population = draws.uniform("population", (pop, prior.genes))
    population[:, : pop // 2, -2] = 1.0  # half of them as unlikely as is allowed
    population[:, 0] = 0.0  # the typical night
    found = search.evolve(evaluate, draws, population, generations, onward=True)
    night, spent = prior.expressed(found.genes), int(found.queries)
    if not bool(found.success):
        return night, spent
    night, walked = _likelier(night, prior, judge)
    return night, spent + walked


def _likelier(night: Nights, prior: Prior, judge: Judge) -> tuple[Nights, int]:
    """The night (one that flips) walked towards the typical one as far as it still flips, and the queries spent."""
    z, spent = night.z, 0
    numbers = z.shape[1]
    shrunk = [torch.full((numbers,), factor, dtype=z.dtype) for factor in SHORTER]
    for k in range(numbers if bool(night.muon) else numbers - OF_MUON):
        for factor in ONE_SHORTER:
            shrunk.append(torch.ones(numbers, dtype=z.dtype).index_fill_(0, torch.tensor(k), factor))
    shrunk.append(torch.ones(numbers, dtype=z.dtype).index_fill_(0, torch.arange(numbers - OF_MUON, numbers), 0.0))
    factors = torch.stack(shrunk).to(z.device)
    for _ in range(WALKS):
        muon = night.muon.repeat(len(factors))
        muon[-1] = False  # the last one leaves it out
        tried = Nights(night.z * factors, night.places.expand(len(factors), -1), muon)
        verdict = judge(tried)
        spent += len(factors)
        sigma = verdict.sigma.masked_fill(~verdict.flipped, math.inf)
        best = int(sigma.argmin())
        if not bool(sigma[best] < prior.unlikeliness(night)[1]):
            break
        night = tried.take(slice(best, best + 1))
    return night, spent


def _observed(sky: Observation, night: conditions.Conditions, draws: Draws, surviving_fraction: float) -> Observation:
    """One galaxy in several nights, its noise of the same random numbers in each."""
    count = len(night.seeing)
    copies = Observation(sky.flux.expand(count, -1, -1, -1), sky.exposure, sky.mask)
    return conditions.observed(copies, night, draws.take([0] * count), surviving_fraction=surviving_fraction)


def _decided(logits: torch.Tensor, labels: torch.Tensor, target: int | None) -> torch.Tensor:
    """(P,) bool: flipped, and not by a hair."""
    wanted = labels if target is None else torch.full_like(labels, target)
    own = logits.gather(1, wanted[:, None])[:, 0]
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(dim=1)
    return (others - own if target is None else own - others) > MARGIN


def _radius(freedom: int, tail: float) -> float:
    """The radius that so many normal numbers exceed with the chance `tail`."""
    return math.sqrt(scipy.special.chdtri(freedom, tail))


def _nothing(n: int, bands: int) -> dict[str, torch.Tensor]:
    """Details of no night, float64 on the CPU."""
    names = (
        "seeing", "sky_mag", "drift_arcsec", "direction_rad", "cosmic_band", "cosmic_row", "cosmic_column",
        "cosmic_azimuth", "cosmic_length", "charge_electrons", "sigma", "probability",
    )  # fmt: skip
    nothing = {name: torch.full((n,), math.nan, dtype=torch.float64) for name in names}
    return nothing | {"zeropoint_mag": torch.full((n, bands), math.nan, dtype=torch.float64)}


def _note(
    details: dict[str, torch.Tensor],
    image: int,
    night: conditions.Conditions,
    probability: torch.Tensor,
    sigma: torch.Tensor,
    flipped: bool,
) -> None:
    muon = night.muon
    assert muon is not None
    values = {
        "seeing": night.seeing, "sky_mag": night.sky, "zeropoint_mag": night.zeropoint, "drift_arcsec": night.drift,
        "direction_rad": night.direction, "cosmic_band": muon.band,
    }  # fmt: skip
    if int(muon.band) >= 0:
        values |= {
            "cosmic_row": muon.row, "cosmic_column": muon.column, "cosmic_azimuth": muon.azimuth,
            "cosmic_length": muon.length, "charge_electrons": muon.charge,
        }  # fmt: skip
    if flipped:
        values |= {"sigma": sigma, "probability": probability}
    for name, value in values.items():
        details[name][image] = value[0]
