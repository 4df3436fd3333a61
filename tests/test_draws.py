"""Same galaxy, same draw: whatever the batch, the order or the subset; and the distributions are what they say."""

import numpy as np
import pytest
import torch
from scipy import stats

from perturbations.draws import Draws, _expanded_poisson
from perturbations.errors import InputError
from perturbations.philox import MASK, box_muller, box_muller_torch, philox, philox_rounds, philox_torch

IDS = [f"galaxy {k}" for k in range(40)]

# known answers of Philox4x32-10, distributed with Random123 (Salmon et al. 2011): counter, key, result
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK, MASK, MASK, MASK), (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_generator_gives_the_published_answers(counter, key, answer):
    words = philox_rounds(tuple(torch.tensor([c]) for c in counter), *key)
    assert tuple(int(w) for w in words) == answer


@pytest.mark.parametrize("count", [1, 4, 7, 60_003])
def test_the_compiled_generator_is_the_torch_one(count):
    words = torch.tensor([[0, 0], [MASK, MASK], [1, 2**31], *[[k, MASK - k] for k in range(37)]])
    bits = philox(words, b"\xff\xff\xff\xff12345"[:8], count)
    assert torch.equal(bits, philox_torch(words, b"\xff\xff\xff\xff12345"[:8], -(-count // 4))[:, :count])
    even = bits[:, : count - count % 2].contiguous()
    ours, theirs = box_muller(even), box_muller_torch(even)
    assert torch.equal(ours, theirs) or float(((ours - theirs).abs() / theirs.abs()).max()) < 2.0**-22  # 2 ulp


def every_kind(draws: Draws) -> list[torch.Tensor]:
    rate = torch.linspace(0.0, 200.0, 30, dtype=torch.float64).expand(len(draws), 30)
    return [
        draws.uniform("a", (5, 3)),
        draws.integers("b", 1000, (7,)),
        draws.normal("c", (3, 5)),
        draws.poisson("d", rate),
    ]


def test_alone_shuffled_and_in_a_subset_each_galaxy_has_its_own_numbers():
    whole = every_kind(Draws(IDS, seed=3))
    order = np.random.default_rng(0).permutation(len(IDS))
    for which in (order, order[:7], [11]):
        for some, full in zip(every_kind(Draws([IDS[i] for i in which], seed=3)), whole, strict=True):
            assert torch.equal(some, full[torch.as_tensor(which)])
        for some, full in zip(every_kind(Draws(IDS, seed=3).take(which)), whole, strict=True):
            assert torch.equal(some, full[torch.as_tensor(which)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 101])
def test_the_first_numbers_of_a_stream_do_not_depend_on_how_many_are_asked_for(count):
    draws = Draws(IDS, seed=1)
    assert torch.equal(draws.words("s", count), draws.words("s", 400)[:, :count])
    assert torch.equal(draws.normal("s", (count,)), draws.normal("s", (400,))[:, :count])


def test_no_galaxies_get_no_numbers():
    assert [tuple(t.shape) for t in every_kind(Draws([], seed=0))] == [(0, 5, 3), (0, 7), (0, 3, 5), (0, 30)]


def test_every_part_of_the_key_matters_and_streams_are_uncorrelated():
    base = {"seed": 5, "purpose": "perturb", "scope": "depth", "version": 1}
    others = [{"seed": 6}, {"purpose": "simulate"}, {"purpose": "attack"}, {"scope": "seeing"}, {"version": 2}]
    first = Draws(IDS, **base).normal("noise", (5000,)).double()
    n = first.numel()
    for change in others:
        other = Draws(IDS, **(base | change)).normal("noise", (5000,)).double()
        assert abs(float((first * other).mean())) < 5.0 / n**0.5, change
    assert abs(float((first * Draws(IDS, **base).normal("other", (5000,))).mean())) < 5.0 / n**0.5
    assert abs(float((first[0] * first[1]).mean())) < 5.0 / 5000**0.5  # two galaxies
    assert abs(float((first[:, 1:] * first[:, :-1]).mean())) < 5.0 / n**0.5  # neighbours


def test_uniforms_are_uniform():
    u = Draws(IDS, seed=0).uniform("u", (5000,))
    assert u.dtype == torch.float32
    assert float(u.min()) >= 0.0
    assert float(u.max()) < 1.0
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert stats.kstest(u.numpy().ravel(), "uniform").pvalue > 1e-3


def test_integers_are_uniform():
    counts = torch.bincount(Draws(IDS, seed=0).integers("i", 37, (5000,)).ravel(), minlength=37)
    assert len(counts) == 37
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_normals_are_normal():
    z = Draws(IDS, seed=0).normal("z", (5001,)).double().numpy().ravel()
    n = z.size
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for power, mean, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs((z**power).mean() - mean) < 5.0 * (variance / n) ** 0.5


@pytest.mark.parametrize("rate", [1e-4, 0.03, 0.7, 5.0, 63.9])
def test_poisson_is_exact_at_small_rates(rate):
    counts = Draws(IDS, seed=2).poisson("p", torch.full((len(IDS), 5000), rate)).numpy().ravel()
    top = int(stats.poisson.isf(1e-4, rate)) + 1
    observed = np.bincount(counts.astype(int).clip(0, top), minlength=top + 1)
    expected = stats.poisson.pmf(np.arange(top + 1), rate) * counts.size
    expected[-1] = stats.poisson.sf(top - 1, rate) * counts.size
    enough = expected > 5
    observed = np.append(observed[enough], observed[~enough].sum())
    expected = np.append(expected[enough], expected[~enough].sum())
    good = expected > 0
    assert stats.chisquare(observed[good], expected[good] * observed.sum() / expected[good].sum()).pvalue > 1e-3


@pytest.mark.parametrize("rate", [64.0, 200.0, 1000.0])
def test_large_poisson_rates_have_the_right_distribution_function(rate):
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    counts = _expanded_poisson(u, torch.full_like(u, rate)).numpy()
    k = np.arange(int(rate - 6 * rate**0.5), int(rate + 6 * rate**0.5))
    found = np.searchsorted(counts, k, side="right") / counts.size
    assert np.abs(found - stats.poisson.cdf(k, rate)).max() < 2e-4


@pytest.mark.parametrize("rate", [64.0, 1e3, 1.3e5])
def test_large_poisson_rates_have_the_right_moments(rate):
    counts = Draws(IDS, seed=4).poisson("p", torch.full((len(IDS), 5000), rate)).numpy()
    n = counts.size
    assert abs(counts.mean() - rate) < 5 * (rate / n) ** 0.5
    assert abs(counts.var() / rate - 1) < 5 * (2 / n) ** 0.5


def test_strange_rates_and_purposes_are_refused():
    draws = Draws(IDS[:1], seed=0)
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="Poisson rate"):
            draws.poisson("p", torch.tensor([[rate]]))
    with pytest.raises(InputError, match="purpose 'trian'"):
        Draws(IDS, seed=0, purpose="trian")
    with pytest.raises(InputError, match="high = 0"):
        draws.integers("i", 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to compare with")
def test_gpu_gives_the_same_numbers():
    cpu, gpu = (every_kind(Draws(IDS, seed=3, device=device)) for device in ("cpu", "cuda"))
    assert torch.equal(cpu[0], gpu[0].cpu())
    assert torch.equal(cpu[1], gpu[1].cpu())
    ulp = (cpu[2].view(torch.int32) - gpu[2].cpu().view(torch.int32)).abs()
    assert int(ulp.max()) <= 2
    assert float((cpu[3] != gpu[3].cpu()).double().mean()) < 1e-3
