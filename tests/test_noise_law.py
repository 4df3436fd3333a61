"""The noise law, over the whole flux catalogue: blank sky is a fresh exposure's, in the conditions after the change."""

import pytest
import torch

from perturbations.core import Observation, catalogue, get
from perturbations.draws import Draws
from perturbations.exposure import Exposure

FLUX = [name for name, p in catalogue().items() if p.space == "flux" and p.kind == "corruption"]
N, SIZE = 48, 40
IDS = [f"sky {k}" for k in range(N)]


class QuietDraws(Draws):
    """The same geometry without noise: normals are noise, and everything else is drawn from uniforms and counts."""

    def normal(self, stream, shape=()):
        return torch.zeros(len(self), *shape, device=self.device)


def exposure(shape: str) -> Exposure:
    return Exposure.from_survey("LSST", bands="gri", fraction=0.6).replace(psf_shape=shape)


def blank_sky(e: Exposure) -> Observation:
    noise = Draws(IDS, 0, "simulate").normal("noise", (3, SIZE, SIZE))
    return Observation(noise * e.variance(torch.zeros(N, 3, SIZE, SIZE)).sqrt(), e)


def broken(perturb, shape: str) -> str | None:
    """How blank sky differs from a fresh exposure after `perturb(sky, draws)`, or None."""
    e = exposure(shape)
    seen = perturb(blank_sky(e), Draws(IDS, 0))
    light = perturb(Observation(torch.zeros(N, 3, SIZE, SIZE), e), QuietDraws(IDS, 0)).flux
    variance = seen.exposure.variance(light).double()
    z = (seen.flux.double() - light.double()) / variance.sqrt()
    good = torch.ones_like(z) if seen.mask is None else (~seen.mask).expand_as(z).double()
    if float(good.mean()) < 0.5:
        return "most pixels are masked"
    edge = torch.zeros_like(good)
    edge[:, :, 0] = edge[:, :, -1] = edge[..., 0] = edge[..., -1] = 1.0
    for where, weight in (("", good), (" at the border", good * edge)):
        n = weight.sum(dim=(0, 2, 3))
        mean, square = (z * weight).sum(dim=(0, 2, 3)) / n, (z * z * weight).sum(dim=(0, 2, 3)) / n
        if float((mean * n.sqrt()).abs().max()) > 5.0:
            return f"its mean{where} is off by {mean.tolist()} sigma"
        if float(((square - 1.0) * (n / 2.0).sqrt()).abs().max()) > 5.0:
            return f"its variance{where} is {square.tolist()} of a fresh exposure's"
    for a, b in (
        ((..., slice(1, None)), (..., slice(-1))),
        ((..., slice(1, None), slice(None)), (..., slice(-1), slice(None))),
    ):
        both = good[a] * good[b]
        n = both.sum(dim=(0, 2, 3))
        correlation = (z[a] * z[b] * both).sum(dim=(0, 2, 3)) / n
        if float((correlation * n.sqrt()).abs().max()) > 5.0:
            return f"neighbours are correlated by {correlation.tolist()}"
    return None


@pytest.mark.parametrize("shape", ["kolmogorov", "moffat"])
@pytest.mark.parametrize("name", FLUX)
def test_blank_sky_has_the_noise_of_a_fresh_exposure(name, shape):
    """Mean, variance, at the border too, and independence of neighbours; after one change and after two."""
    p = get(name)
    for strength in (p.ladder[0], p.ladder[-1]):
        assert broken(lambda sky, draws: p(sky, strength, draws), shape) is None  # noqa: B023
        chained = broken(lambda sky, draws: get("depth")(p(sky, strength, draws), 0.5, draws.within("again")), shape)  # noqa: B023
        assert chained is None


@pytest.mark.parametrize("name", [name for name in FLUX if get(name).unit != "bit"])  # bits are whole
def test_severity_is_smooth(name):
    """The same galaxy meets the same draws at any strength: a strength a thousandth away gives nearly the same sky."""
    p = get(name)
    strength = p.ladder[-1]
    one, other = (
        p(blank_sky(exposure("kolmogorov")), s, Draws(IDS, 0)).flux.flatten() for s in (strength, 0.999 * strength)
    )
    assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.99


def seeing_without_noise_put_back(sky, draws):
    from perturbations.psf import broadening, frequencies

    e = sky.exposure
    kernel = broadening(e, (e.psf_fwhm**2 + 0.3**2).sqrt(), frequencies(SIZE, SIZE, e.pixel_scale, sky.flux))
    return sky.replace(torch.fft.irfft2(torch.fft.rfft2(sky.flux) * kernel.float(), s=(SIZE, SIZE)))


def noise_counted_twice(sky, draws):
    return sky.replace(sky.flux + draws.normal("again", sky.flux.shape[1:]) * sky.exposure.variance(sky.flux).sqrt())


def light_without_its_photon_noise(sky, draws):
    return sky.replace(sky.flux + 2e5)


def neighbours_shared(sky, draws):
    return sky.replace((sky.flux + sky.flux.roll(1, dims=-1)) / 2.0**0.5)


def a_shifted_sky(sky, draws):
    return sky.replace(sky.flux + 30.0 * draws.normal("offset", (3, 1, 1)))


MUTANTS = (
    seeing_without_noise_put_back,
    noise_counted_twice,
    light_without_its_photon_noise,
    neighbours_shared,
    a_shifted_sky,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda f: f.__name__)
def test_the_law_can_be_broken(mutant):
    assert broken(mutant, "kolmogorov") is not None
