"""The worst night: its odds are those of nights, its image is that of its conditions, and it is the likeliest found."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.special
import torch
from conftest import make_blobs

from perturbations import conditions
from perturbations.attacks.worst_night import Nights, Prior, Verdict, _likelier
from perturbations.conditions import Conditions, Muon, observed
from perturbations.core import AttackResult, Observation, get
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from perturbations.exposure import Exposure
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import select, train
from robustastro.evaluate.engine import attack, choose
from robustastro.models.bundles import Model
from robustastro.models.subject import Subject

SIZE, BANDS = 24, 3
DETAILS = {
    "seeing", "sky_mag", "zeropoint_mag", "drift_arcsec", "direction_rad", "cosmic_band", "cosmic_row", "cosmic_column",
    "cosmic_azimuth", "cosmic_length", "charge_electrons",
}  # fmt: skip
LSST = Exposure.from_survey("LSST", "gri")


def galaxies(n: int, seed: int = 0) -> Observation:
    """Round galaxies of different brightness with LSST noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    light = torch.from_numpy(np.exp(-np.hypot(x, y) / 3.0)).float() * torch.linspace(4e4, 8e4, n)[:, None, None, None]
    light = light.expand(-1, BANDS, -1, -1)
    noise = torch.randn(light.shape, generator=torch.Generator().manual_seed(seed))
    return Observation(light + noise * LSST.variance(light).sqrt(), LSST)


def draws(n: int, seed: int = 0) -> Draws:
    return Draws([f"galaxy {k}" for k in range(n)], seed, "attack")


class Looking:
    """A victim of two classes that looks at the flux itself; it counts what it is shown."""

    classes = 2

    def __init__(self, second, scale=1e-3):
        self.second, self.scale, self.shown, self.most = second, scale, 0, 0
        self.box = (torch.zeros(()), torch.ones(()))

    def seen(self, flux):
        return flux * self.scale

    def logits(self, x):
        self.shown, self.most = self.shown + len(x), max(self.most, len(x))
        return torch.stack((torch.zeros(len(x)), self.second(x / self.scale)), dim=1)

    def gradient(self, x, loss):
        raise AssertionError("a search over nights needs no gradient")


def run(sky, victim, strength, seed=0, which=None, **options):
    keyed = draws(len(sky.flux) if which is None else 100, seed)
    keyed = keyed if which is None else keyed.take(which)
    labels = torch.zeros(len(sky.flux), dtype=torch.int64)
    return get("worst_night").run_attack(sky, labels, victim, strength, keyed, **options)


def night_of(details, image: int) -> Conditions:
    """The conditions that the details of one image state."""
    d = {name: values[image : image + 1] for name, values in details.items()}
    muon = Muon(
        d["cosmic_band"].long(), d["cosmic_row"], d["cosmic_column"], d["cosmic_azimuth"], d["cosmic_length"],
        d["charge_electrons"],
    )  # fmt: skip
    return Conditions(d["seeing"], d["sky_mag"], d["zeropoint_mag"], d["drift_arcsec"], d["direction_rad"], 0.0, muon)


def fainter(limit: float) -> Looking:
    """The second class where all the flux is below a part of what the first galaxy has: dimming, or noise, flips."""
    return Looking(lambda flux: (limit - flux.sum(dim=(1, 2, 3))) * 1e-3)


def brightest_pixel(limit: float) -> Looking:
    return Looking(lambda flux: (flux.flatten(1).amax(dim=1) - limit) * 1e-2)


def prior(unlikely=3.0, surviving=1.0) -> Prior:
    return Prior.of(galaxies(1), unlikely, surviving, 30.0, 10.0)


# ---------------------------------------------------------------------- odds


def p_of_one_reading(p):
    """q of p = 1 - (1 - q)^2."""
    return 1.0 - (1.0 - p) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.05, 1.0, 5.0])
def test_no_more_nights_than_stated_are_so_unlikely_however_they_are_read(rate):
    """Nights drawn from the distributions themselves, with all their muons; each is read in its least likely way."""
    own, n = dataclasses.replace(prior(), rate=rate), 200_000
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 4 + BANDS))
    z[:, 3] = scipy.special.ndtri(rng.uniform(size=n))  # the length of the drift is uniform
    struck = np.repeat(np.arange(n), rng.poisson(rate, n))
    # the charge per length: Moyal's variate -ln(z^2), ranked among many of its kind; cos^3: cos^4 is uniform
    moyal = -np.log(rng.standard_normal(len(struck)) ** 2)
    rank = (np.argsort(np.argsort(moyal)) + 0.5) / len(struck) if len(struck) else moyal
    of_muons = scipy.special.ndtri(np.stack((rank, rng.uniform(size=len(struck))), axis=1))
    read = np.concatenate((np.pad(z, ((0, 0), (0, 2))), np.concatenate((z[struck], of_muons), axis=1)))
    muon = torch.arange(len(read)) >= n
    p, sigma = own.unlikeliness(Nights(torch.from_numpy(read), torch.zeros(len(read), 5).double(), muon))
    least = np.ones(n)
    np.minimum.at(least, np.concatenate((np.arange(n), struck)), p.numpy())
    for a in (0.317, 0.0455, 0.0027):
        share, error = np.mean(least <= a), math.sqrt(a / n)
        assert share <= a + 4.0 * error
        assert share >= (a if rate == 0.0 else 0.45 * a) - 4.0 * error  # nor is much given away
    clear = p.numpy() < 0.99
    assert np.allclose(2.0 * scipy.special.ndtr(-sigma.numpy()[clear]), p.numpy()[clear], rtol=1e-9)


@pytest.mark.parametrize("muon", [False, True])
def test_the_probability_of_one_reading_is_the_share_of_nights_that_have_it(muon):
    own, n, radius = dataclasses.replace(prior(), rate=0.7), 200_000, 3.5
    z = torch.zeros(1, 4 + BANDS + 2, dtype=torch.float64)
    z[0, 0] = radius
    p, _ = own.unlikeliness(Nights(z, torch.zeros(1, 5, dtype=torch.float64), torch.tensor([muon])))
    rng = np.random.default_rng(0)
    far = (rng.standard_normal((n, 4 + BANDS + 2 * muon)) ** 2).sum(axis=1) >= radius**2
    if muon:  # as many of these as muons are expected, each in a night of its own: no night without one
        nights = rng.integers(n, size=rng.poisson(0.7 * n))
        far = np.bincount(nights, weights=far[rng.integers(n, size=len(nights))], minlength=n) > 0
    assert p_of_one_reading(float(p)) == pytest.approx(far.mean(), abs=5.0 * math.sqrt(far.mean() / n))


def test_a_muon_is_expected_so_often_as_its_flux_and_the_visits_say():
    expected = 0.017 * SIZE**2 * 1e-6 * 30.0 * float(LSST.visits.sum())
    assert prior().rate == pytest.approx(expected)
    assert prior(surviving=0.0).rate == 0.0


def test_the_typical_night_is_not_unlikely_at_all():
    nothing = Nights(torch.zeros(1, 9, dtype=torch.float64), torch.zeros(1, 5).double(), torch.tensor([False]))
    for surviving in (0.0, 1.0):
        assert [float(value) for value in prior(surviving=surviving).unlikeliness(nothing)] == [1.0, 0.0]


@pytest.mark.parametrize("unlikely", [0.5, 1.0, 2.0, 3.0, 5.0])
def test_every_candidate_is_allowed_and_the_farthest_reach_the_limit(unlikely):
    own = prior(unlikely)
    genes = torch.rand(4000, own.genes, generator=torch.Generator().manual_seed(1))
    genes[:2000, -2] = 1.0
    nights = own.expressed(genes)
    _, sigma = own.unlikeliness(nights)
    assert float(sigma.max()) <= unlikely + 1e-9
    assert float(nights.z[:, 0].abs().max()) <= 3.0
    edge = sigma[:2000][nights.z[:2000, 0].abs() < 3.0]
    assert float(edge.min()) == pytest.approx(unlikely, abs=1e-6)
    chance = 1.0 - math.exp(-0.017 * SIZE**2 * 1e-6 * 30.0 * float(LSST.visits.sum()))
    allowed = p_of_one_reading(2.0 * scipy.special.ndtr(-unlikely)) < chance
    assert bool(nights.muon.any()) == allowed
    if allowed:
        assert float(nights.muon.double().mean()) == pytest.approx(0.5, abs=0.05)


def test_at_strength_zero_there_is_no_muon_however_many_are_expected():
    own = Prior.of(galaxies(1), 0.0, 1.0, 3000.0, 10.0)
    assert own.rate > 1.0
    nights = own.expressed(torch.ones(1, own.genes))
    assert not bool(nights.muon)
    assert float(nights.z.abs().max()) == 0.0


def test_no_muon_survives_where_rejection_works():
    own = prior(surviving=0.0)
    assert not bool(own.expressed(torch.ones(1, own.genes)).muon)
    assert bool(prior().expressed(torch.ones(1, own.genes)).muon)


def test_nights_drawn_uniformly_have_the_distributions_of_night_and_of_cosmic_rays():
    """Genes that are standard normal and uniform give the conditions that `drawn` gives, and muons of `cosmic_rays`."""
    own, n = prior(), 20_000
    rng = torch.Generator().manual_seed(2)
    z = torch.randn(n, 9, generator=rng, dtype=torch.float64)
    badness = z[:, 0].clone()
    z[:, 0] = 1.0
    places = torch.rand(n, 5, generator=rng, dtype=torch.float64)
    seen = own.conditions(Nights(z, places, torch.ones(n, dtype=torch.bool)))
    usual = conditions.drawn(1.0, BANDS, draws(n))
    error = 5.0 / math.sqrt(n)
    for name in ("seeing", "sky", "zeropoint", "drift", "direction"):
        ours, theirs = (getattr(c, name).flatten().sort().values for c in (seen, usual))
        spread = float(theirs.std())
        assert float((ours - theirs).abs().mean()) < 2.0 * error * spread, name
    assert float(badness.std()) == pytest.approx(1.0, abs=error)
    muon = seen.muon
    assert torch.bincount(muon.band, minlength=3) / n == pytest.approx(
        (LSST.visits / LSST.visits.sum()).numpy(), abs=error
    )
    # a level sensor of 10 pixels: pi/4 of that in the mean; a most probable 75 electrons per um of path
    assert float(muon.length.mean()) == pytest.approx(10.0 * math.pi / 4.0, rel=3.0 * error)
    path = (100.0**2 + (10.0 * muon.length) ** 2).sqrt()
    density = muon.charge / path
    z2 = torch.special.ndtri(torch.tensor([0.05, 0.25, 0.45]).double()) ** 2
    expected = sorted((75.0 - 4.9 * z2.log()).tolist())  # quantiles 10, 50, 90%: -ln z^2 with |z| at 1.64, 0.67, 0.13
    assert torch.quantile(density, torch.tensor([0.1, 0.5, 0.9]).double()).tolist() == pytest.approx(expected, rel=0.01)
    assert float(torch.corrcoef(torch.stack((z[:, -2], density)))[0, 1]) > 0.5  # more of the number is more charge
    for values, high in ((muon.row, SIZE), (muon.column, SIZE), (muon.azimuth, 2.0 * math.pi)):
        assert float(values.mean()) == pytest.approx(high / 2.0, rel=error)


# ---------------------------------------------------------------------- what is found


def test_strength_zero_is_the_typical_night():
    sky = galaxies(3)
    result = run(sky, fainter(0.0), 0.0, pop=4, generations=1)
    d = result.details
    assert d["seeing"].tolist() == [1.0] * 3
    assert d["sky_mag"].tolist() == pytest.approx([0.2] * 3)
    assert d["zeropoint_mag"].abs().max() == 0.0
    assert d["drift_arcsec"].tolist() == pytest.approx([0.05] * 3)
    assert d["cosmic_band"].tolist() == [-1.0] * 3
    assert bool(d["charge_electrons"].isnan().all())


def cheapest(sky: Observation, image: int, limit: float) -> float:
    """Sum of z^2 of the likeliest night that dims the total flux to `limit`, by brute force over the badness.

    Zero-points are 0.01 x 2^badness z: of equal bands all z are equal to first order, and what is needed in total
    falls with the badness.
    """
    best = math.inf
    total = sky.flux[image].sum(dim=(1, 2)).double()
    for badness in np.linspace(-1.0, 3.0, 401):
        low, high = 0.0, 20.0
        for _ in range(60):  # the common part along the gradient, which is the flux of each band
            middle = (low + high) / 2.0
            z = middle * total / total.norm()
            dimmed = float((total * 10.0 ** (-0.4 * 0.01 * 2.0**badness * z)).sum())
            low, high = (middle, high) if dimmed > limit else (low, middle)
        best = min(best, badness**2 + high**2)
    return best


def bright(n: int) -> Observation:
    """Compact galaxies that outshine any noise, with a Gaussian PSF: no seeing takes light off the stamp."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    light = torch.from_numpy(np.exp(-(x**2 + y**2) / (2.0 * 1.5**2))).float()
    light = light * torch.tensor([1e8, 2e8, 3e8])[:, None, None]
    return Observation(light.expand(n, -1, -1, -1).clone(), LSST.replace(psf_shape="gaussian"))


@pytest.mark.parametrize(("options", "tolerance"), [({}, 0.3), ({"pop": 24, "generations": 40}, 0.1)])
def test_the_likeliest_night_that_dims_a_galaxy_is_found(options, tolerance):
    """A victim of total flux: seeing, sky, drift and muons are of no use, and zero-points have a closed form."""
    sky = bright(6)
    limit = 0.96 * float(sky.flux[0].sum(dtype=torch.float64))
    result = run(sky, fainter(limit), 3.0, **options)
    assert bool(result.success.all())
    assert result.details["cosmic_band"].tolist() == [-1.0] * 6
    found = np.sqrt(scipy.special.chdtri(7, p_of_one_reading(result.details["probability"].numpy())))
    best = math.sqrt(cheapest(sky, 0, limit))
    assert (found > best * 0.99).all()
    assert (found < best * (1.0 + tolerance)).all()


def test_the_walk_leaves_out_what_does_not_flip():
    """A night flips where its seeing is bad enough: the muon goes first, then the other numbers shrink."""
    own = prior()
    z = torch.full((1, 9), 0.5, dtype=torch.float64)
    z[0, 1] = 2.0
    start = Nights(z, torch.full((1, 5), 0.3, dtype=torch.float64), torch.tensor([True]))

    def judge(nights):
        shown.append(nights)
        return Verdict(nights.z[:, 1], nights.z[:, 1] >= 1.0, own.unlikeliness(nights)[1])

    shown = []
    night, spent = _likelier(start, own, judge)
    assert spent == sum(len(nights.z) for nights in shown)
    assert not bool(night.muon)
    assert float(night.z[0, 1]) == 1.0
    assert bool((night.z[0, 7:] == 0.0).all())
    assert float(night.z.square().sum()) < 2.0
    assert torch.equal(night.places, start.places)


def test_a_night_that_is_too_unlikely_is_not_found():
    sky = bright(3)
    total = float(sky.flux[0].sum(dtype=torch.float64))
    best = cheapest(sky, 0, 0.9 * total)
    q = scipy.special.gammaincc(3.5, best / 2.0)
    sigma = float(-scipy.special.ndtri(q * (2.0 - q) / 2.0))
    assert 1.0 < sigma < 3.0
    options = {"pop": 24, "generations": 20}
    assert not bool(run(sky, fainter(0.9 * total), sigma - 0.2, **options).success.any())
    missed = run(sky, fainter(0.9 * total), sigma - 0.2, **options).details
    assert bool(missed["sigma"].isnan().all())
    assert float(missed["zeropoint_mag"].min()) > 0.0  # the most harmful night is described
    assert bool(run(sky, fainter(0.9 * total), 3.0, **options).success.all())


def test_a_victim_of_one_bright_pixel_meets_a_muon():
    """Nothing but a muon makes a pixel so bright; what it costs is its chance to come and its charge."""
    sky = Observation(0.01 * galaxies(4).flux, LSST.replace(sky=1.0))  # no moon makes noise of such a dark sky
    victim = brightest_pixel(4000.0)
    result = run(sky, victim, 3.0, generations=30)
    assert bool(result.success.all())
    d = result.details
    assert bool((d["cosmic_band"] >= 0).all())
    chance = 1.0 - math.exp(-0.017 * SIZE**2 * 1e-6 * 30.0 * float(LSST.visits.sum()))
    assert float(p_of_one_reading(d["probability"]).max()) <= chance
    assert float(d["charge_electrons"].min()) > 4000.0
    assert not bool(run(sky, victim, 3.0, surviving_fraction=0.0).success.any())
    for image in range(4):
        band, row, column = (int(d[f"cosmic_{name}"][image]) for name in ("band", "row", "column"))
        brightest = result.images[image].flatten().argmax()
        at = np.unravel_index(int(brightest), (BANDS, SIZE, SIZE))
        length = float(d["cosmic_length"][image]) + 2.0
        apart = [min((a - b) % SIZE, (b - a) % SIZE) for a, b in zip(at[1:], (row, column), strict=True)]
        assert at[0] == band
        assert math.hypot(*apart) <= length


@pytest.mark.parametrize("make", [fainter, brightest_pixel])
def test_the_image_is_that_of_its_conditions_to_the_bit(make):
    sky = galaxies(4)
    limit = 0.93 * float(sky.flux[1].sum()) if make is fainter else float(sky.flux.max()) + 3000.0
    result = run(sky, make(limit), 3.0, pop=8, generations=3)
    keyed = draws(4).scoped("worst_night", get("worst_night").version)
    described = result.details["seeing"].isfinite()
    assert bool(described.any())
    for image in described.nonzero()[:, 0].tolist():
        again = observed(sky.take(slice(image, image + 1)), night_of(result.details, image), keyed.take([image]))
        assert torch.equal(again.flux[0], result.images[image])
    assert torch.equal(result.images[~described], sky.flux[~described])


def test_a_known_muon_leaves_its_charge_in_its_band_and_its_pixels_in_the_mask():
    sky = Observation(galaxies(3).flux, LSST.replace(fraction=0.5))
    place = torch.tensor([5.5, 9.2, 3.0], dtype=torch.float64)
    muon = Muon(
        torch.tensor([0, 2, -1]), place, place + 1.0, torch.tensor([0.0, math.pi / 2, 0.0]).double(),
        torch.tensor([6.0, 4.0, 5.0]).double(), torch.tensor([9e3, 2e4, 1e4]).double(),
    )  # fmt: skip
    night = conditions.drawn(0.0, BANDS, draws(3))
    night = dataclasses.replace(night, cosmic_rays=0.0, zeropoint=torch.zeros(3, BANDS, dtype=torch.float64))
    without = observed(sky, night, draws(3))
    struck = observed(sky, dataclasses.replace(night, muon=muon), draws(3), surviving_fraction=0.3)
    light = (struck.flux - without.flux).double()
    expected = torch.zeros(3, BANDS).double()
    expected[0, 0], expected[1, 2] = 0.3 * 9e3 / 0.5, 0.3 * 2e4 / 0.5  # one visit of a half exposure
    assert torch.allclose(light.sum(dim=(2, 3)), expected, rtol=1e-4, atol=0.5)
    assert struck.mask is not None
    assert bool((struck.mask == (light > 0.6)).all())
    y, x = torch.meshgrid(torch.arange(SIZE).double() + 0.5, torch.arange(SIZE).double() + 0.5, indexing="ij")
    for image, band, centre in ((0, 0, (5.5, 6.5 + 3.0)), (1, 2, (9.2 + 2.0, 10.2))):
        share = light[image, band] / light[image, band].sum()
        assert [float((share * y).sum()), float((share * x).sum())] == pytest.approx(centre, abs=0.1)


def test_what_a_victim_sees_is_what_the_contract_makes(contract):
    contract = contract.model_copy(update={"bands": ("i", "g", "r"), "crop": 16})
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    flux = galaxies(2).flux
    victim = Subject(network, contract).victim(contract.to_input(flux, LSST.bands), LSST)
    expected = contract.stretch(flux[:, [2, 0, 1], 4:20, 4:20])
    assert torch.equal(victim.seen(flux), expected)


def test_seeing_never_sharpens_and_a_flip_by_a_hair_is_none():
    own = prior(5.0)
    genes = torch.rand(2000, own.genes, generator=torch.Generator().manual_seed(3))
    seen = own.conditions(own.expressed(genes))
    assert float(seen.seeing.min()) == 1.0
    assert float(seen.sky.max()) <= 5.0
    assert float(seen.sky.min()) > 0.0
    assert 0.0 <= float(seen.drift.min()) <= float(seen.drift.max()) <= 0.8
    sky = galaxies(1)
    shy = run(sky, Looking(lambda flux: torch.where(flux[:, 0, 0, 0] == sky.flux[0, 0, 0, 0], -1.0, 5e-5)), 1.0, pop=4)
    assert bool(shy.success)  # by argmax it is one, but the search went on to the last night
    assert int(shy.queries) == 1 + 4 * 15 + 1


def test_what_is_spent_is_counted_and_bounded_and_memory_is_that_of_a_few():
    sky = galaxies(3)
    for make, options in ((fainter, {}), (brightest_pixel, {"pop": 50, "generations": 2})):
        limit = 0.9 * float(sky.flux[1].sum()) if make is fainter else float(sky.flux.max()) + 3000.0
        victim = make(limit)
        result = run(sky, victim, 3.0, **options)
        assert int(result.queries.sum()) == victim.shown
        most = get("worst_night").most_queries(get("worst_night").resolve(options))
        assert int(result.queries.max()) <= most
        assert victim.most <= 32


def test_a_galaxy_is_searched_alone():
    sky = galaxies(5)
    victim = fainter(0.95 * float(sky.flux[2].sum()))
    whole = run(sky, victim, 2.0, pop=6, generations=2)
    order = [3, 0]
    part = run(Observation(sky.flux[order], sky.exposure), victim, 2.0, which=order, pop=6, generations=2)
    assert torch.equal(part.images, whole.images[order])
    for name, values in part.details.items():
        assert torch.equal(values.nan_to_num(-9.0), whole.details[name][order].nan_to_num(-9.0)), name
    other = run(sky, victim, 2.0, seed=1, pop=6, generations=2)
    assert not torch.equal(other.images, whole.images)


def test_exposures_of_their_own_are_kept_apart():
    sky = galaxies(3)
    depths = torch.tensor([0.1, 1.0, 0.5], dtype=torch.float64)[:, None].expand(3, BANDS)
    mixed = Observation(sky.flux, LSST.replace(fraction=depths))
    victim = fainter(0.97 * float(sky.flux[0].sum()))
    whole = run(mixed, victim, 2.0, pop=6, generations=1)
    for image in range(3):
        alone = run(mixed.take(slice(image, image + 1)), victim, 2.0, which=[image], pop=6, generations=1)
        assert torch.equal(alone.images[0], whole.images[image])


def test_a_target_is_reached_and_wrong_images_are_left_alone():
    sky = galaxies(3)
    victim = fainter(1e12)  # all of the second class already
    left = run(sky, victim, 2.0)
    assert torch.equal(left.images, sky.flux)
    assert left.queries.tolist() == [1, 1, 1]
    assert bool(left.details["seeing"].isnan().all())
    victim = fainter(0.97 * float(sky.flux[0].sum()))
    assert bool(run(sky, victim, 3.0, target=1).success[0])
    assert run(sky, victim, 3.0, target=0).queries.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("strength", "options", "words"),
    [
        (-1.0, {}, "strength = -1"),
        (5.1, {}, "strength = 5.1"),
        (1.0, {"pop": 3}, "pop = 3"),
        (1.0, {"surviving_fraction": 1.5}, "surviving_fraction"),
        (1.0, {"visit_seconds": 0.0}, "visit_seconds"),
        (1.0, {"target": 2}, "target = 2"),
    ],
)
def test_what_is_out_of_range_is_refused(strength, options, words):
    with pytest.raises(InputError, match=words):
        run(galaxies(1), fainter(0.0), strength, **options)


def test_images_without_units_or_psf_are_refused():
    sky = galaxies(1)
    with pytest.raises(InputError, match="no Exposure"):
        get("worst_night").run_attack(sky.flux, torch.zeros(1).long(), fainter(0.0), 1.0, draws(1))
    with pytest.raises(InputError, match="psf_fwhm"):
        run(Observation(sky.flux, LSST.replace(psf_fwhm=math.nan)), fainter(0.0), 1.0)


# ---------------------------------------------------------------------- an attack in flux space


def meddling(change):
    """worst_night replaced by an attack that does something it must not."""

    def function(sky, labels, victim, strength, draws):
        images = change(sky)
        return AttackResult(images, torch.zeros(len(images)).bool(), torch.zeros(len(images)).long())

    return dataclasses.replace(get("worst_night"), function=function, options={})


def brighten(sky):
    sky.flux.add_(1.0)
    return sky.flux.clone()


def other_exposure(sky):
    sky.exposure.sky.mul_(2.0)
    return sky.flux.clone()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (brighten, "modified its input"),
        (other_exposure, "modified the exposure"),
        (lambda sky: sky.flux / 0.0, "not finite"),
        (lambda sky: sky.flux[:, :, 1:], "returned"),
    ],
)
def test_an_attack_in_flux_space_is_not_believed(change, words):
    sky = Observation(galaxies(2).flux, Exposure.from_survey("LSST", "gri"))
    with pytest.raises(BrokenPromise, match=words):
        meddling(change).run_attack(sky, torch.zeros(2).long(), fainter(0.0), 1.0, draws(2))


def test_a_run_judges_the_flux_through_the_contract_and_keeps_the_conditions(tmp_path):
    blobs = make_blobs(180, LSST)
    trained = train(Recipe(arch="tiny", epochs=12, batch=16, learning_rate=0.02), blobs)
    model = Model(trained.network, trained.contract, "tiny", "tiny.pt", "0" * 64)
    test = choose(select(blobs, "test"), 12)
    options = {"pop": 6, "generations": 2}
    record = attack(model, test, "worst_night", tmp_path / "run", strength=3.0, options=options)
    rows = record.unit("worst_night", 3.0)
    assert rows["success"].any()
    assert (rows["success"] == rows["claimed"]).all()
    flipped = rows[rows["success"]]
    assert (flipped["sigma"] <= 3.0 + 1e-9).all()
    assert np.allclose(2.0 * scipy.special.ndtr(-flipped["sigma"]), flipped["probability"])
    # by hand: the conditions of the record, through `observed` and the contract
    where = test.ids.index(flipped.index[0])
    first = {name: torch.as_tensor(np.array([flipped.iloc[0][name]])) for name in rows if name in DETAILS}
    keyed = Draws([test.ids[where]], 0, "attack").scoped("worst_night", get("worst_night").version)
    flux = observed(test.observation([where]), night_of(first, 0), keyed).flux
    logits = Subject(model.network, model.contract).outputs(model.contract.to_input(flux, test.bands)).logits
    assert np.allclose(logits[0], flipped.iloc[0]["logits"], atol=1e-5)
    pictures = dataclasses.replace(test, exposure=None)
    with pytest.raises(InputError, match="no Exposure"):
        attack(model, pictures, "worst_night", tmp_path / "pictures", strength=1.0, options=options)
    assert not (tmp_path / "pictures").exists()
