"""What telescopes, air, cameras and grids do to the light. The noise law is in test_noise_law.py."""

import math
from typing import Any

import galsim
import galsim.dcr
import numpy as np
import pytest
import scipy.ndimage
import torch

from perturbations.core import Observation, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from perturbations.exposure import Exposure
from perturbations.observing.airmass import EDGES
from perturbations.optics import Telescope, same_area, telescope, wavelengths

SCALE, FWHM, LSST = 0.2, 0.7, 0.6265558793914554
FLUX = ("defocus", "astigmatism", "tracking", "airmass", "pixel_scale")
INPUT = ("subpixel_shift", "rotation")


def quiet(**changes) -> Exposure:
    """An exposure so deep that its noise does not show."""
    e = Exposure(bands=("r",), pixel_scale=SCALE, sky=1e-3, fraction=1e9, psf_fwhm=FWHM)  # pyright: ignore
    return e.replace(**changes)


def draws(n: int = 1, seed: int = 0) -> Draws:
    return Draws([f"g{k}" for k in range(n)], seed)


def drawn(*profiles: Any, nx: int = 96, ny: int = 96, scale: float = SCALE) -> torch.Tensor:
    profile: Any = galsim.Convolve(*profiles)
    image = profile.drawImage(nx=nx, ny=ny, scale=scale, dtype=np.float32)
    return torch.from_numpy(image.array)[None, None]


def moments(image: torch.Tensor) -> tuple[float, float, float, float, float]:
    """Centroid (columns, rows) from the centre of the stamp and central moments xx, yy, xy [pixels]."""
    image = image.double()
    y = torch.arange(image.shape[-2]).double()[:, None] - (image.shape[-2] - 1) / 2
    x = torch.arange(image.shape[-1]).double()[None] - (image.shape[-1] - 1) / 2
    mx, my = (float((image * c).sum() / image.sum()) for c in (x, y))
    xx, yy, xy = ((image * p).sum() / image.sum() for p in ((x - mx) ** 2, (y - my) ** 2, (x - mx) * (y - my)))
    return mx, my, float(xx), float(yy), float(xy)


def galaxy() -> Any:
    return galsim.Sersic(n=1.5, half_light_radius=0.6, flux=1e6).shear(g1=0.2, g2=0.15).shift(0.13, -0.3)


def star() -> Any:
    return galsim.Gaussian(sigma=0.5, flux=1e6)


def seen(name: str, image: torch.Tensor, strength: float, e: Exposure | None = None, **options: Any) -> torch.Tensor:
    return get(name)(Observation(image, e or quiet()), strength, draws(len(image)), **options).flux


def same_picture(ours: torch.Tensor, truth: torch.Tensor, share: float) -> bool:
    return float((ours - truth).abs().max()) < share * float(truth.max())


def moment_growth(name: str, strength: float, **options: Any) -> np.ndarray:
    """Growth of the second moments xx, yy, xy of a star without wings [arcsec^2]."""
    image = drawn(star(), nx=120, ny=128)
    after = seen(name, image, strength, **options)
    assert float(after.sum()) == pytest.approx(float(image.sum()), rel=2e-3)
    return (np.array(moments(after[0, 0])[2:]) - moments(image[0, 0])[2:]) * SCALE**2


# ---------------------------------------------------------------------- telescopes


def pupil(**aberrations: Any) -> Any:
    return galsim.OpticalPSF(
        lam=625.0, diam=8.36, obscuration=LSST, annular_zernike=True, oversampling=1, **aberrations
    )


@pytest.mark.parametrize("error", [250.0, 1000.0])
def test_defocus_is_what_galsim_draws_with_its_zernike_polynomial(error):
    air = galsim.Kolmogorov(fwhm=FWHM)
    ours = seen("defocus", drawn(galaxy(), air, pupil()), error, wavelength=625.0)
    assert same_picture(ours, drawn(galaxy(), air, pupil(defocus=error / 625.0)), 2e-3)


@pytest.mark.parametrize(("focus", "angle"), [(0.0, 0.0), (0.5, 0.0), (-1.0, 25.0)])
def test_astigmatism_is_what_galsim_draws_with_its_zernike_polynomials(focus, angle):
    error, air = 1200.0, galsim.Kolmogorov(fwhm=FWHM)
    ours = seen("astigmatism", drawn(galaxy(), air, pupil()), error, wavelength=625.0, focus=focus, angle=angle)
    balance = (1.0 - LSST**2) / math.sqrt(2.0 * (1.0 + LSST**2 + LSST**4))
    bent = pupil(astig2=error / 625.0, defocus=focus * balance * error / 625.0).rotate(angle * galsim.degrees)
    assert same_picture(ours, drawn(galaxy(), air, bent), 2e-3)


@pytest.mark.parametrize("obscuration", [0.0, 0.61])
def test_defocus_spreads_a_star_by_the_mean_square_slope_of_the_wavefront(obscuration):
    """The rays of the pupil land on a uniform ring: <x^2> = b^2 (1 + e^2)/4; the moments of a kernel add."""
    error = 1000.0
    growth = moment_growth("defocus", error, obscuration=obscuration, diameter=8.0)
    edge = 4.0 * 3**0.5 / (1.0 - obscuration**2) * error * 1e-9 / 4.0 * 180 / math.pi * 3600
    expected = edge**2 * (1.0 + obscuration**2) / 4.0
    assert growth == pytest.approx([expected, expected, 0.0], abs=0.01 * expected)


@pytest.mark.parametrize("focus", [-0.5, 0.0, 0.5, 1.0])
def test_astigmatism_stretches_a_star_as_far_as_it_is_out_of_focus(focus):
    """Semi-axes (1 + focus) and (1 - focus): a cross without net ellipticity in best focus, a line at a line focus."""
    error, angle = 2000.0, math.radians(30.0)
    growth = moment_growth("astigmatism", error, focus=focus, angle=30.0)
    norm = (6.0 / (1.0 + LSST**2 + LSST**4)) ** 0.5
    edge = 2.0 * norm * error * 1e-9 / 4.18 * 180 / math.pi * 3600
    along, across = ((edge * (1.0 + sign * focus)) ** 2 * (1.0 + LSST**2) / 4.0 for sign in (1, -1))
    c, s = math.cos(angle), math.sin(angle)
    expected = [along * c * c + across * s * s, along * s * s + across * c * c, (along - across) * c * s]
    assert growth == pytest.approx(expected, abs=0.01 * max(along, across))


def test_a_keyed_astigmatism_points_everywhere():
    image = drawn(star(), nx=48, ny=48).expand(64, 1, 48, 48)
    _, _, xx, yy, xy = np.array([moments(k[0]) for k in seen("astigmatism", image, 2000.0)]).T
    angle = np.arctan2(2 * xy, xx - yy) / 2
    assert np.hypot(xx - yy, 2 * xy).std() < 0.02 * np.hypot(xx - yy, 2 * xy).mean()
    assert np.histogram(angle, bins=4, range=(-math.pi / 2, math.pi / 2))[0].min() > 2
    again = get("astigmatism")(Observation(image[:1], quiet()), 2000.0, draws(1, seed=1)).flux
    assert not torch.equal(again[0], seen("astigmatism", image[:1], 2000.0)[0])


def test_a_small_telescope_is_diffraction_limited_beyond_which_nothing_passes():
    """Pixels finer than the resolution: GalSim's ratio of transfer functions, and zero past the cut-off."""
    from perturbations.optics import _ratio

    small = Telescope(1.2, 0.4)
    options: Any = {"lam": 700.0, "diam": 1.2, "obscuration": 0.4, "annular_zernike": True}
    k = np.array([1.0, 5.0, 15.0, 30.0, 60.0])
    edge = 4.0 * 3**0.5 / (1 - 0.16) * 50e-9 / 0.6 * 180 / math.pi * 3600
    ours = _ratio(k, np.zeros(1), (edge, edge), small, 700.0, 100)[:, 0]
    good, bad = galsim.OpticalPSF(**options), galsim.OpticalPSF(defocus=50.0 / 700.0, **options)
    theirs = [bad.kValue(q, 0.0).real / good.kValue(q, 0.0).real for q in k[:4]]
    assert ours[:4] == pytest.approx(theirs, abs=5e-3)
    assert theirs[2] < 0.95
    assert ours[4] == 0.0


def test_a_blur_of_many_pixels_is_refused_before_its_tables_fill_the_memory():
    fine = quiet(pixel_scale=0.03)
    with pytest.raises(InputError, match=r"0\.75 arcsec"):
        seen("astigmatism", torch.zeros(1, 1, 16, 16), 3000.0, fine)
    assert seen("astigmatism", torch.zeros(1, 1, 16, 16), 1000.0, fine).shape == (1, 1, 16, 16)


def test_telescopes_and_bands_are_the_surveys_or_given():
    hsc = Exposure.from_survey("HSC", bands="gr")
    assert telescope(hsc, None, None).diameter == 8.3
    assert telescope(hsc, 4.0, 0.3) == Telescope(4.0, 0.3)
    assert telescope(quiet(), None, None) == Telescope(8.36, LSST)
    assert wavelengths(hsc, None) == (484.37, 625.889)
    assert wavelengths(hsc, 500.0) == (500.0, 500.0)
    assert wavelengths(quiet(bands=("F106",), survey="Roman_WFI"), None) == (1073.633,)
    with pytest.raises(InputError, match=r"band 'H'.*wavelength"):
        seen("defocus", torch.zeros(1, 1, 9, 9), 100.0, quiet(bands=("H",)))


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_tracking_is_what_galsim_draws_with_a_trail(jitter):
    drift, angle = 1.5, 35.0
    trail: Any = galsim.Box(drift, 1e-3).rotate(angle * galsim.degrees)
    shake = [galsim.Gaussian(sigma=jitter * drift)] if jitter else []
    air = galsim.Kolmogorov(fwhm=FWHM)
    ours = seen("tracking", drawn(galaxy(), air), drift, angle=angle, jitter=jitter)
    assert same_picture(ours, drawn(galaxy(), air, trail, *shake), 2e-3)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_trail_adds_its_length_squared_over_twelve_along_and_nothing_across(jitter):
    for drift in get("tracking").ladder:
        shake = (jitter * drift) ** 2
        growth = moment_growth("tracking", drift, angle=90.0, jitter=jitter)
        assert growth == pytest.approx([shake, drift**2 / 12 + shake, 0.0], abs=2e-3 * drift**2)


@pytest.mark.parametrize("name", ["defocus", "astigmatism", "tracking"])
def test_optics_keep_the_centroid_and_the_flux(name):
    image = drawn(star())
    for strength in get(name).ladder:
        after = seen(name, image, strength)
        assert float(after.sum()) == pytest.approx(float(image.sum()), rel=3e-3)
        assert np.abs(moments(after[0, 0])[:2]).max() < 5e-3


# ---------------------------------------------------------------------- air


def test_refraction_is_galsims():
    from perturbations.observing.airmass import refraction

    nm = np.linspace(330.0, 1000.0, 20)
    ours = refraction(nm, math.tan(0.9), 72.0, 7.0, 0.8)
    theirs = galsim.dcr.get_refraction(
        nm, 0.9 * galsim.radians, pressure=72.0, temperature=280.15, H2O_pressure=0.8
    ) * (180 / math.pi * 3600)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours - ours[10] == pytest.approx(theirs - theirs[10], abs=2e-3)


@pytest.mark.parametrize("secant", get("airmass").ladder)
def test_bands_are_displaced_and_smeared_by_what_galsim_refracts(secant):
    """Centroid and variance along the zenith of equal photons at all wavelengths of a band, to 1% of the pixel."""
    bands, sigma = tuple("ugrizy"), 0.35
    e = quiet(bands=bands, psf_shape="gaussian", psf_fwhm=1e-6)
    image = drawn(galsim.Gaussian(sigma=sigma, flux=1e6), nx=80, ny=80).expand(1, 6, 80, 80)
    after = seen("airmass", image, secant, e, angle=90.0)
    zenith = math.acos(1 / secant) * galsim.radians
    lift = {b: galsim.dcr.get_refraction(np.linspace(*EDGES[b], 2001), zenith) * (180 / math.pi * 3600) for b in bands}
    was = moments(image[0, 0])
    for channel, b in enumerate(bands):
        x, y, xx, yy, xy = moments(after[0, channel])
        assert y * SCALE == pytest.approx(lift[b].mean() - lift["r"].mean(), abs=3e-3)
        assert (yy - was[3]) * SCALE**2 == pytest.approx(lift[b].var(), abs=3e-3)
        assert (x, xx - was[2], xy) == pytest.approx((0.0, 0.0, 0.0), abs=3e-3)


def test_the_image_is_what_galsim_draws_at_sixty_wavelengths_each_in_its_place():
    """As galsim.ChromaticAtmosphere does, whose own integral over a band is 1% off."""
    secant, angle, air = 2.0, 40.0, galsim.Kolmogorov(fwhm=FWHM)
    after = seen("airmass", drawn(galaxy(), air), secant, quiet(bands=("g",)), angle=angle)
    blue, red = EDGES["g"]
    nm = blue + (red - blue) * (np.arange(60) + 0.5) / 60
    lift = galsim.dcr.get_refraction(nm, math.acos(1 / secant) * galsim.radians) * (180 / math.pi * 3600)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    broad = galsim.Kolmogorov(fwhm=FWHM * secant**0.6)
    truth = sum(drawn(galaxy().shift(c * r, s * r), broad) for r in lift - lift.mean()) / 60
    assert same_picture(after, torch.as_tensor(truth), 1e-3)


def test_seeing_grows_with_airmass_to_the_power_of_three_fifths():
    """In air too thin to refract, against the image that GalSim draws with the broader PSF."""
    truth = drawn(galaxy(), galsim.Kolmogorov(fwhm=FWHM * 2.0**0.6))
    e = quiet(bands=("y",))
    sky = Observation(drawn(galaxy(), galsim.Kolmogorov(fwhm=FWHM)), e)
    after = get("airmass")(sky, 2.0, draws(), pressure=0.1, vapour=0.0)
    assert same_picture(after.flux, truth, 2e-3)
    assert float(after.exposure.psf_fwhm[0]) == pytest.approx(FWHM * 2.0**0.6, rel=1e-3)


def test_one_band_stays_and_registered_bands_all_do():
    e = quiet(bands=tuple("gri"), psf_fwhm=0.8)
    image = drawn(star()).expand(1, 3, 96, 96)

    def place(**options):
        after = seen("airmass", image, 2.0, e, angle=0.0, **options)
        return np.array([moments(after[0, c])[0] for c in range(3)]) * SCALE

    for kept, options in ((1, {}), (0, {"reference": "g"}), (2, {"reference": "i"})):
        x = place(**options)
        assert x[kept] == pytest.approx(0.0, abs=3e-3)
        assert x[0] - x[1] > 0.5 > x[1] - x[2] > 0.1
    assert place(registered=True) == pytest.approx(np.zeros(3), abs=3e-3)
    assert place(pressure=35.0)[0] == pytest.approx(place(pressure=70.0)[0] / 2, rel=0.03)
    with pytest.raises(InputError, match="reference"):
        place(reference="z")


# ---------------------------------------------------------------------- pixels


def test_pixels_twice_as_large_are_block_sums_in_a_frame_of_blank_sky():
    image = drawn(galaxy(), galsim.Kolmogorov(fwhm=FWHM), nx=64, ny=48)
    for ratio in (2, 4):
        after = seen("pixel_scale", image, float(ratio))[0, 0]
        blocks = image[0, 0].reshape(48 // ratio, ratio, 64 // ratio, ratio).sum(dim=(1, 3))
        top, left = (48 - 48 // ratio) // 2, (64 - 64 // ratio) // 2
        inside = after[top : top + 48 // ratio, left : left + 64 // ratio]
        assert torch.allclose(inside, blocks, rtol=1e-4, atol=float(image.max()) * 1e-4)
        frame = after.clone()
        frame[top : top + 48 // ratio, left : left + 64 // ratio] = 0.0
        assert float(frame.abs().max()) < 1e-4 * float(image.max())


@pytest.mark.parametrize("ratio", get("pixel_scale").ladder)
@pytest.mark.parametrize("size", [(64, 64), (65, 50)])
def test_larger_pixels_keep_flux_and_place_and_add_their_own_width(ratio, size):
    """Light even within an old pixel: moments grow by the variances of both squares, on average over places."""
    growth = []
    for step in range(6):
        lie = step / 6 * ratio * SCALE
        image = drawn(galsim.Gaussian(sigma=0.9, flux=1e6).shear(g1=0.2).shift(lie, -lie), nx=size[1], ny=size[0])
        sky = get("pixel_scale")(Observation(image, quiet()), ratio, draws())
        assert float(sky.flux.double().sum()) == pytest.approx(float(image.double().sum()), rel=1e-5)
        assert sky.exposure.pixel_scale == pytest.approx(SCALE * ratio)
        before, after = (np.array(moments(f[0, 0])) for f in (image, sky.flux))
        assert after[:2] * ratio == pytest.approx(before[:2], abs=5e-3)
        growth.append(after[2:4] * ratio**2 - before[2:4])
    if ratio == 1.98:  # old and new edges coincide, or alternate, over the whole galaxy
        assert (ratio**2 - 1.0) / 12 - 0.01 < np.min(np.mean(growth, axis=0))
        assert np.max(np.mean(growth, axis=0)) < (ratio**2 + 2.0) / 12 + 0.01
    else:
        assert np.mean(growth, axis=0) == pytest.approx((ratio**2 + 1.0) / 12, abs=0.02)


def test_larger_pixels_are_what_galsim_draws_with_them():
    """The old pixel is in the picture twice over: convolved once with the small and once with the large square."""
    ratio, profile = 1.98, [galaxy(), galsim.Kolmogorov(fwhm=FWHM)]
    after = seen("pixel_scale", drawn(*profile), ratio)
    truth: Any = galsim.Convolve(*profile, galsim.Pixel(SCALE), galsim.Pixel(SCALE * ratio))
    truth = truth.drawImage(nx=96, ny=96, scale=SCALE * ratio, method="no_pixel", dtype=np.float32).array
    assert same_picture(after, torch.from_numpy(truth), 0.03)


def test_blank_sky_on_larger_pixels_is_white_to_the_last_digit():
    """The covariance itself, not a sample of it: kept and missing noise sum up to ratio^2 times the unit matrix."""
    from perturbations.observing.pixel_scale import _binning

    for size, ratio in ((24, 1.32), (17, 1.98), (16, 2.0), (9, 7.3)):
        overlap, vectors, kept = _binning(size, ratio)
        one = overlap @ overlap.T
        binned = torch.kron(one, one)
        basis = torch.kron(vectors, vectors)
        added = basis @ torch.diag(ratio**2 * (1.0 - torch.outer(kept, kept).flatten())) @ basis.T
        assert float(kept.max()) < 1.0 + 1e-9
        assert torch.allclose(binned + added, ratio**2 * torch.eye(size**2, dtype=torch.float64), atol=1e-9)


def test_the_exposure_of_larger_pixels_collects_their_sky():
    e = Exposure.from_survey("LSST", bands="gri", fraction=0.5)
    sky = get("pixel_scale")(Observation(torch.zeros(1, 3, 10, 10), e), 1.5, draws())
    assert torch.allclose(sky.exposure.sky, e.sky * 2.25)
    assert torch.allclose(sky.exposure.read_noise, e.read_noise * 1.5)
    assert torch.equal(sky.exposure.full_well, e.full_well)
    assert torch.equal(sky.exposure.zeropoint, e.zeropoint)
    blank = torch.zeros(1, 3, 10, 10)
    assert torch.allclose(sky.exposure.variance(blank), 2.25 * e.variance(blank))


# ---------------------------------------------------------------------- grids


def white(n: int, bands: int, height: int, width: int) -> torch.Tensor:
    """White noise around 0.5 that clipping does not touch."""
    return 0.5 + 0.05 * Draws([f"w{k}" for k in range(n)], 3, "simulate").normal("white", (bands, height, width))


def display(profile: Any, size: int = 64) -> torch.Tensor:
    image = drawn(profile, galsim.Gaussian(fwhm=0.9), nx=size, ny=size)
    return 0.05 + 0.9 * image / image.max()


@pytest.mark.parametrize("name", INPUT)
def test_white_noise_stays_white_on_a_new_grid(name):
    """Variance to 1%, and the correlation of neighbours to 5 sigma: linear interpolation would make 0.2 of it."""
    x = white(40, 1, 40, 40)
    for strength in get(name).ladder:
        after = (get(name)(x, strength, draws(40)) - 0.5).double()[..., 4:-4, 4:-4] / 0.05
        count = after.numel()
        assert float(after.square().mean()) == pytest.approx(1.0, abs=5 * (2 / count) ** 0.5)
        for a, b in ((after[..., 1:], after[..., :-1]), (after[..., 1:, :], after[..., :-1, :])):
            assert abs(float((a * b).mean())) < 5 * count**-0.5


def test_a_shift_moves_the_centroid_by_its_length_in_all_bands():
    x = display(galaxy()).expand(8, 3, 64, 64)
    for shift in get("subpixel_shift").ladder:
        after = get("subpixel_shift")(x, shift, draws(8))
        moved = np.array([[np.subtract(moments(b - 0.05)[:2], moments(x[0, 0] - 0.05)[:2]) for b in k] for k in after])
        assert np.hypot(*moved.reshape(-1, 2).T) == pytest.approx(shift, abs=0.005)
        assert moved.std(axis=1).max() < 1e-3
        assert np.ptp(np.arctan2(moved[:, 0, 1], moved[:, 0, 0])) > 2.0
    right = get("subpixel_shift")(x, 0.5, draws(8), angle=0.0)
    down = get("subpixel_shift")(x, 0.5, draws(8), angle=90.0)
    assert moments(right[0, 0] - 0.05)[0] > moments(x[0, 0] - 0.05)[0] + 0.49
    assert moments(down[0, 0] - 0.05)[1] > moments(x[0, 0] - 0.05)[1] + 0.49


def test_a_shift_is_scipys_fourier_shift_away_from_the_border():
    x = display(galaxy())
    for angle in (0.0, 50.0, 200.0):
        step = (0.4 * math.sin(math.radians(angle)), 0.4 * math.cos(math.radians(angle)))
        theirs: Any = np.fft.ifft2(scipy.ndimage.fourier_shift(np.fft.fft2(x[0, 0].double().numpy()), step)).real  # pyright: ignore
        ours = get("subpixel_shift")(x, 0.4, draws(1), angle=angle)[0, 0].numpy()
        assert np.abs(ours - theirs)[8:-8, 8:-8].max() < 2e-4


def turn(x: torch.Tensor, angle: float, direction: str = "counterclockwise") -> torch.Tensor:
    return get("rotation")(x, angle, draws(len(x)), direction=direction)


@pytest.mark.parametrize("size", [(20, 20), (21, 21)])
def test_quarter_turns_are_exact(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turn(x, 90.0), torch.rot90(x, 1, (-2, -1)))
    assert torch.equal(turn(x, 90.0, "clockwise"), torch.rot90(x, -1, (-2, -1)))
    assert torch.equal(turn(x, 180.0), torch.rot90(x, 2, (-2, -1)))
    oblong = torch.rand(1, 1, 12, 21, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turn(oblong, 180.0), torch.rot90(oblong, 2, (-2, -1)))


@pytest.mark.parametrize("angle", [5.0, 30.0, 45.0, 60.0, 90.0, 135.0, 171.0])
@pytest.mark.parametrize("size", [(64, 64), (53, 64), (64, 48)])
def test_a_turned_galaxy_is_what_galsim_draws_turned(angle, size):
    """Rows grow downwards here and y upwards in GalSim, which turns the other way. Square or not, odd or even."""
    profile = galsim.Convolve(galaxy(), galsim.Gaussian(fwhm=1.0))

    def picture(profile):
        smooth: Any = galsim.Convolve(profile, galsim.Gaussian(fwhm=1.0))
        image = smooth.drawImage(nx=size[1], ny=size[0], scale=SCALE, method="no_pixel")
        return 0.05 + 8e-5 * torch.from_numpy(image.array)[None, None]

    x = picture(profile)
    assert 0.5 < float(x.max()) < 1.0
    y, x_ = (torch.arange(n) - (n - 1) / 2 for n in size)
    inside = torch.hypot(y[:, None], x_) < min(size) / 2 - 4  # of the border, and of the mirrored galaxies beyond
    for direction, sign in (("counterclockwise", -1), ("clockwise", 1)):
        truth = picture(profile.rotate(sign * angle * galsim.degrees))
        assert float(((turn(x, angle, direction) - truth) * inside).abs().max()) < 4e-3


def test_a_turn_is_scipys_with_a_spline_of_fifth_order():
    x = display(galaxy())
    for angle in (10.0, 45.0, 110.0):
        theirs = scipy.ndimage.rotate(x[0, 0].double().numpy(), angle, reshape=False, order=5, mode="mirror")
        assert np.abs(turn(x, angle)[0, 0].numpy() - theirs)[12:-12, 12:-12].max() < 3e-3


def test_a_turn_there_and_back_returns_the_image():
    """White noise too, but for 3% of its variance; splines of third order lose more than a tenth of it."""
    smooth, noise = display(galaxy()), white(4, 2, 64, 64)

    def lost(back: Any) -> float:
        return float((torch.as_tensor(back) - noise)[..., 22:-22, 22:-22].square().mean()) / 0.05**2

    for angle in (5.0, 30.0, 45.0):
        back = turn(turn(smooth, angle), angle, "clockwise")
        assert float((back - smooth)[..., 16:-16, 16:-16].abs().max()) < 2e-3
        assert lost(turn(turn(noise, angle), angle, "clockwise")) < 0.03
        splines = noise.numpy()
        for a in (angle, -angle):
            splines = scipy.ndimage.rotate(splines, a, axes=(2, 3), reshape=False, order=3, mode="mirror")
        assert lost(splines) > 0.1


def test_galaxies_turn_either_way_and_bands_together():
    x = display(galaxy()).expand(64, 2, 64, 64)
    after = get("rotation")(x, 30.0, draws(64))
    left, right = turn(x[:1], 30.0), turn(x[:1], 30.0, "clockwise")
    way = [torch.allclose(k, left[0], atol=1e-6) for k in after]
    other = [torch.allclose(k, right[0], atol=1e-6) for k in after]
    assert all(a != b for a, b in zip(way, other, strict=True))
    assert 32 - 5 * 4 < sum(way) < 32 + 5 * 4


def test_beyond_the_border_of_a_turned_image_is_the_image_mirrored():
    flat = torch.full((1, 1, 30, 22), 0.7)
    for angle in (20.0, 45.0, 90.0, 130.0):
        assert float((turn(flat, angle) - 0.7).abs().max()) < 1e-5


# ---------------------------------------------------------------------- all of them


def test_the_width_of_the_same_noise_equivalent_area():
    """Gaussians: a kernel of FWHM w makes sqrt(FWHM^2 + w^2). Others: GalSim's integral of the squared PSF."""

    def gaussian(k, angles):
        return torch.exp(-((k[:, None] * 0.9) ** 2) / (8.0 * math.log(2.0)))[None] * torch.ones_like(angles)

    e = quiet(bands=("g", "r"), psf_shape="gaussian", psf_fwhm=torch.tensor([[0.7, 0.8], [1.0, 1.2]]))
    assert torch.allclose(same_area(e, gaussian), (e.psf_fwhm**2 + 0.81).sqrt(), rtol=1e-4)
    after = get("tracking")(Observation(torch.zeros(1, 1, 32, 32), quiet(psf_fwhm=0.8)), 1.5, draws())
    trail: Any = galsim.Convolve(galsim.Kolmogorov(fwhm=0.8), galsim.Box(1.5, 1e-3))
    round_: Any = galsim.Kolmogorov(fwhm=float(after.exposure.psf_fwhm[0]))
    areas = [
        float((p.drawImage(nx=400, ny=400, scale=0.05, method="no_pixel").array ** 2).sum()) for p in (trail, round_)
    ]
    assert areas[0] == pytest.approx(areas[1], rel=5e-3)


@pytest.mark.parametrize("name", ["defocus", "astigmatism", "tracking"])
def test_an_unknown_psf_stays_unknown(name):
    e = Exposure(bands=("r",), pixel_scale=0.2, sky=100.0)  # pyright: ignore
    after = get(name)(Observation(torch.zeros(1, 1, 9, 12), e), get(name).ladder[0], draws())
    assert bool(torch.isnan(after.exposure.psf_fwhm).all())


def test_airmass_needs_a_psf_and_bands_that_pass_air():
    for e, words in (
        (quiet(psf_fwhm=float("nan")), "psf_fwhm"),
        (quiet(bands=("F106",)), "F106"),
    ):
        with pytest.raises(InputError, match=words):
            seen("airmass", torch.zeros(1, 1, 9, 9), 1.5, e)


@pytest.mark.parametrize("name", FLUX)
def test_light_passes_the_optics_before_the_detector(name):
    masked = Observation(torch.zeros(1, 1, 9, 9), quiet(), torch.ones(1, 1, 9, 9, dtype=torch.bool))
    with pytest.raises(InputError, match="damaged"):
        get(name)(masked, get(name).ladder[0], draws())
    clear = Observation(torch.zeros(1, 1, 9, 9), quiet(), torch.zeros(1, 1, 9, 9, dtype=torch.bool))
    assert get(name)(clear, get(name).ladder[0], draws()).flux.shape == (1, 1, 9, 9)


IMPOSSIBLE = {
    "defocus": (-1.0, 1e5),
    "astigmatism": (-1.0, 1e5),
    "tracking": (-0.1, 11.0),
    "airmass": (0.9, 5.0),
    "pixel_scale": (0.5, 0.0),
    "subpixel_shift": (-0.1, 0.6),
    "rotation": (-1.0, 181.0),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_strengths_are_refused(name):
    for strength in (*IMPOSSIBLE[name], float("nan"), float("inf")):
        with pytest.raises(InputError):
            _any_image(name, strength)


BAD = [
    ("defocus", {"diameter": 0.0}, "diameter"),
    ("defocus", {"obscuration": 1.0}, "obscuration"),
    ("defocus", {"wavelength": -5.0}, "wavelength"),
    ("astigmatism", {"focus": 1.5}, "focus"),
    ("astigmatism", {"angle": float("nan")}, "angle"),
    ("tracking", {"jitter": -0.1}, "jitter"),
    ("tracking", {"jitter": float("nan")}, "jitter"),
    ("tracking", {"angle": float("inf")}, "angle"),
    ("airmass", {"pressure": 500.0}, "kPa"),
    ("airmass", {"temperature": float("nan")}, "kPa"),
    ("airmass", {"vapour": -1.0}, "kPa"),
    ("subpixel_shift", {"angle": float("nan")}, "angle"),
    ("rotation", {"direction": "left"}, "direction"),
]


def _any_image(name: str, strength: float, **options: Any) -> Any:
    p = get(name)
    image = torch.full((1, 1, 9, 12), 0.5)
    return p(Observation(image, quiet()) if p.space == "flux" else image, strength, draws(), **options)


@pytest.mark.parametrize(("name", "options", "words"), BAD)
def test_impossible_options_are_refused_at_any_strength(name, options, words):
    p = get(name)
    for strength in (p.ladder[0], p.identity):
        if strength != p.identity or name in ("defocus", "astigmatism", "tracking", "airmass"):
            with pytest.raises(InputError, match=words):
                _any_image(name, strength or 0.0, **options)


@pytest.mark.parametrize("name", [*FLUX, *INPUT])
def test_any_number_of_bands_and_small_oblong_images(name):
    """Each galaxy alone, in one band and in five, is what it is in the batch; bands with the same draws do alike."""
    p = get(name)
    for bands, size in (("r", (8, 8)), ("ugriz", (8, 19)), ("r", (23, 9))):
        e = Exposure.from_survey("LSST", bands=bands)
        light = 1e5 * torch.rand(2, len(bands), *size, generator=torch.Generator().manual_seed(1))
        for strength in (p.ladder[0], p.ladder[-1]):
            if p.space == "flux":
                after = p(Observation(light, e), strength, draws(2))
                alone = p(Observation(light[1:], e), strength, draws(2).take([1])).flux
                after = after.flux
            else:
                after = p(light / 1e5, strength, draws(2))
                alone = p(light[1:] / 1e5, strength, draws(2).take([1]))
            assert after.shape == light.shape
            assert torch.allclose(
                after[1:], alone, rtol=1e-5, atol=1e-5 * float(light.max() if p.space == "flux" else 1)
            )


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_the_psf_of_a_trail_has_the_noise_equivalent_area_of_a_star_in_it(jitter):
    """1 / sum of PSF^2 of what GalSim draws, against that of a round PSF of the returned width."""
    air, drift = galsim.Kolmogorov(fwhm=0.8), 1.5
    parts: list[Any] = [air, galsim.Box(drift, 1e-3), *([galsim.Gaussian(sigma=jitter * drift)] if jitter else [])]
    e = quiet(psf_fwhm=0.8)
    after = get("tracking")(Observation(drawn(air), e), drift, draws(), jitter=jitter).exposure
    round_one = drawn(galsim.Kolmogorov(fwhm=float(after.psf_fwhm)))
    areas = [float(image.sum() ** 2 / image.square().sum()) for image in (drawn(*parts), round_one)]
    assert areas[1] == pytest.approx(areas[0], rel=0.02)
