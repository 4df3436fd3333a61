"""Registering is being tested: one contract over the whole catalogue, and planted mutants that must fail it."""

import subprocess
import sys
import textwrap

import pytest
import torch
from catalogue_contract import STRETCH, broken, draws_of, galaxies, mutant

from perturbations.core import TOGETHER, Observation, Perturbation, Unstretched, catalogue, get
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError


@pytest.mark.parametrize("name", [name for name in catalogue() if ":" not in name])  # those: test_adapters.py
def test_every_perturbation_keeps_the_contract(name):
    assert broken(get(name)) is None


def test_the_promised_perturbations_are_there():
    promised = {"depth", "sky_noise", "seeing", "pixel_noise", "jpeg", "onepixel", "fgsm", "pgd"}
    assert promised <= set(catalogue())


DEPTH = get("depth").function
NOISE = get("pixel_noise").function


def in_place(sky, kept, draws):
    sky.flux.mul_(1.0 if kept == 1.0 else 1.001)
    return DEPTH(sky, kept, draws)


def global_state(sky, kept, draws):
    return sky.replace(sky.flux + (1.0 - kept) * torch.randn_like(sky.flux) * 100.0)


def whole_batch(sky, kept, draws):
    changed = DEPTH(sky, kept, draws)
    return sky.replace(changed.flux + (1.0 - kept) * sky.flux.mean())


def by_position(sky, kept, draws):
    noise = torch.randn(sky.flux.shape, generator=torch.Generator().manual_seed(0))
    return sky.replace(sky.flux + (1.0 / kept - 1.0) * 300.0 * noise)


def no_identity(sky, kept, draws):
    return sky.replace(DEPTH(sky, kept, draws).flux + 1e-3)


def backwards(sky, kept, draws):
    return DEPTH(sky, {1.0: 1.0}.get(kept, 0.9 - kept * 0.9 + 0.05), draws)


def not_finite(sky, kept, draws):
    changed = DEPTH(sky, kept, draws).flux
    return sky.replace(changed if kept > 0.5 else changed / 0.0)


def wrong_shape(sky, kept, draws):
    return sky if kept == 1.0 else Observation(DEPTH(sky, kept, draws).flux[:, :, 1:], sky.exposure)


def same_memory(sky, kept, draws):
    return sky


MUTANTS = (
    in_place,
    global_state,
    whole_batch,
    by_position,
    no_identity,
    backwards,
    not_finite,
    wrong_shape,
    same_memory,
)


@pytest.mark.parametrize("function", MUTANTS, ids=lambda f: f.__name__)
def test_planted_mutants_fail_the_contract(function):
    assert broken(mutant(get("depth"), function)) is not None


def test_a_noise_outside_the_input_range_is_a_broken_promise():
    entry = mutant(get("pixel_noise"), lambda x, sigma, draws: x + sigma)
    with pytest.raises(BrokenPromise, match="outside"):
        entry(torch.rand(2, 3, 8, 8), 0.5, draws_of(galaxies(2)))


def an_attack(function) -> Perturbation:
    return mutant(get("fgsm"), function)


def test_an_attack_that_leaves_its_budget_or_its_box_is_a_broken_promise():
    from catalogue_contract import LinearVictim

    from perturbations.core import AttackResult

    x = torch.full((2, 3, 8, 8), 0.5)
    nothing = torch.zeros(2, dtype=torch.bool)

    def jump(by):
        return an_attack(lambda x, labels, victim, strength, draws: AttackResult(x + by, nothing, nothing.long()))

    for by, words in ((0.02, "spent"), (-0.02, "spent"), (0.6, "box")):
        with pytest.raises(BrokenPromise, match=words):
            jump(by).run_attack(x, nothing.long(), LinearVictim(x), 0.01, draws_of(galaxies(2)))
    jump(0.009).run_attack(x, nothing.long(), LinearVictim(x), 0.01, draws_of(galaxies(2)))


def test_a_flux_perturbation_refuses_images_without_units():
    with pytest.raises(InputError, match=r"no Exposure.*--exposure"):
        get("depth")(torch.rand(2, 3, 8, 8), 0.5, draws_of(galaxies(2)))


def test_names_and_options_come_with_suggestions():
    with pytest.raises(InputError, match="Did you mean 'onepixel'"):
        get("onepixle")
    with pytest.raises(InputError, match="Did you mean 'generations'"):
        get("onepixel").resolve({"generation": "3"})
    with pytest.raises(InputError, match="pop = 'many'"):
        get("onepixel").resolve({"pop": "many"})


PLUG_IN = '''
"""A perturbation of another package."""
from perturbations.core import corruption

@corruption(space="input", parameter="share", unit="1", ladder=(0.1,), identity=0.0, source="test", version=1)
def {name}(x, share, draws):
    """Fade."""
    return x * (1 - share)
'''


def test_another_package_adds_a_perturbation_by_entry_point_and_a_clash_is_an_error(tmp_path):
    def listed(name):
        (tmp_path / "plug.py").write_text(PLUG_IN.format(name=name))
        info = tmp_path / "plug-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[robustastro.perturbations]\n{name} = plug\n")
        program = f"""
            import sys; sys.path.insert(0, {str(tmp_path)!r})
            from perturbations.core import catalogue
            print(catalogue()[{name!r}].family)
        """
        return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)

    assert listed("fading").stdout.strip() == "plug"
    clash = listed("depth")
    assert clash.returncode != 0
    assert "two perturbations are called 'depth'" in clash.stderr


@pytest.mark.parametrize("name", [name for name, p in catalogue().items() if p.kind == "corruption"])
def test_a_large_batch_is_its_galaxies_with_exposures_and_masks_of_their_own(name):
    """A corruption is given a few images at a time; what comes back is in order, whole, and the same to the bit."""
    p, n = get(name), TOGETHER + 5
    few = galaxies(6)
    which = [k % 6 for k in range(n)]
    depths = torch.linspace(0.5, 1.0, n, dtype=torch.float64)[:, None].expand(n, 3)
    sky = Observation(few.flux[which], few.exposure.replace(fraction=depths))
    ids = [f"galaxy {k}" for k in range(n)]
    given = {"flux": sky, "stretch": Unstretched(sky.flux, STRETCH), "input": STRETCH(sky.flux)}[p.space]
    whole = p(given, p.ladder[-1], Draws(ids, 0))
    for k in (0, TOGETHER - 1, TOGETHER, n - 1):
        one = slice(k, k + 1)
        alone = {"flux": sky.take(one), "stretch": Unstretched(sky.flux[one], STRETCH), "input": STRETCH(sky.flux)[one]}
        expected = p(alone[p.space], p.ladder[-1], Draws([ids[k]], 0))
        if p.space != "flux":
            assert torch.allclose(whole[one], expected, rtol=1e-5, atol=1e-5)
            continue
        assert torch.allclose(whole.flux[one], expected.flux, rtol=1e-4, atol=2e-2)
        assert whole.exposure.take([k]).pixels("fraction", sky.flux).flatten().tolist() == (
            expected.exposure.pixels("fraction", sky.flux).flatten().tolist()
        )
        masks = [m.mask if m.mask is not None else torch.zeros(1) for m in (whole.take(one), expected)]
        assert bool((masks[0] == masks[1]).all())


def flux_mutant(change) -> Perturbation:
    """Depth that also does something to what it is given, or to what it returns."""

    def function(sky, kept, draws):
        return change(sky, DEPTH(sky, kept, draws))

    return mutant(get("depth"), function)


def brighter_sky(sky, seen):
    sky.exposure.sky.mul_(2.0)
    return seen


def masked_input(sky, seen):
    sky.mask.fill_(True)
    return seen


def through_numpy(sky, seen):
    sky.flux.numpy()[0, 0, 0, 0] += 1e-3
    return seen


@pytest.mark.parametrize("images", [6, TOGETHER + 3])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (brighter_sky, "modified the exposure"),
        (masked_input, "modified the exposure or the mask"),
        (through_numpy, "modified its input"),
        (lambda sky, seen: seen.flux, "returned a Tensor"),
        (lambda sky, seen: None, "returned a NoneType"),
        (lambda sky, seen: Observation(seen.flux, seen.exposure.replace(bands=("a", "b", "c"))), "other bands"),
    ],
)
def test_what_is_given_stays_and_what_comes_back_is_an_observation(change, words, images):
    few = galaxies(6)
    flux = few.flux[[k % 6 for k in range(images)]]
    sky = Observation(flux, few.exposure, torch.zeros(images, 1, *flux.shape[2:], dtype=torch.bool))
    with pytest.raises(BrokenPromise, match=words):
        flux_mutant(change)(sky, 0.5, Draws([str(k) for k in range(images)], 0))


@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (7, 1, 32, 32), (32, 32)])
def test_a_mask_fits_its_images(shape):
    sky = galaxies(6)
    with pytest.raises(InputError, match="mask of shape"):
        Observation(sky.flux, sky.exposure, torch.zeros(shape, dtype=torch.bool))
    with pytest.raises(InputError, match="float32"):
        Observation(sky.flux, sky.exposure, torch.zeros_like(sky.flux))


@pytest.mark.parametrize("name", [name for name, p in catalogue().items() if p.kind == "corruption"])
def test_no_galaxies_are_no_galaxies(name):
    p, sky = get(name), galaxies(6).take(slice(0, 0))
    given = {"flux": sky, "stretch": Unstretched(sky.flux, STRETCH), "input": sky.flux}[p.space]
    result = p(given, p.ladder[-1], Draws([], 0))
    assert len(result.flux if isinstance(result, Observation) else result) == 0


def test_two_files_of_one_name_and_a_plug_in_that_cannot_be_imported_are_said(tmp_path):
    program = """
        import sys, pkgutil; sys.path.insert(0, {place!r})
        import perturbations
        perturbations.__path__.append({place!r})
        from perturbations.core import catalogue
        catalogue()
    """

    def said(setup):
        setup()
        code = textwrap.dedent(program.format(place=str(tmp_path)))
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()[-1]

    def twice():
        (tmp_path / "weather").mkdir()
        (tmp_path / "weather" / "__init__.py").touch()
        (tmp_path / "weather" / "depth.py").touch()

    def broken_plug_in():
        (tmp_path / "weather" / "depth.py").unlink()
        info = tmp_path / "plug-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[robustastro.perturbations]\nfog = nowhere\n")

    assert "two perturbations are called 'depth'" in said(twice)
    assert "plug-in 'fog' of plug: ModuleNotFoundError" in said(broken_plug_in)
