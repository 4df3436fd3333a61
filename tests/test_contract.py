"""How flux becomes input: frozen constants, named bands, errors that name the entry."""

import numpy as np
import pytest
import torch

from perturbations.errors import InputError
from robustastro.adapt.training import fit_contract
from robustastro.contract import InputContract, Stretch


def asinh(**changes) -> Stretch:
    return Stretch(**({"kind": "asinh", "low": (-100.0,), "high": (1000.0,)} | changes))


def test_the_published_stretch():
    """facts of DeepAdversaries: zero flux lands at 0.5 and the 99.9 percentile at 0.886."""
    t = asinh()(torch.tensor([0.0, 1000.0, 5000.0, -100.0, -900.0]).view(5, 1, 1, 1)).flatten()
    assert t[0] == 0.5
    assert float(t[1]) == pytest.approx(0.886, abs=5e-4)
    assert t[2] == t[1]  # clipped
    assert float(t[3]) == pytest.approx((np.arcsinh(-0.085) + 1) / 2, abs=1e-6)
    assert t[4] == t[3]


def test_bands_are_found_by_name_and_the_centre_is_cropped(contract):
    contract = contract.model_copy(update={"crop": 4, "bands": ("i", "g", "r")})
    images = torch.arange(3 * 36.0).view(1, 3, 6, 6) * 100.0
    x = contract.to_input(images, ("g", "r", "i"))
    assert x.shape == (1, 3, 4, 4)
    assert torch.allclose(x[0, 0] * 2.2e4 - 2e3, images[0, 2, 1:5, 1:5], atol=0.01)
    with pytest.raises(InputError, match="the model needs i, g, r"):
        contract.to_input(images, ("u", "g", "r"))
    with pytest.raises(InputError, match="at least 4 x 4"):
        contract.to_input(images[..., :3], ("g", "r", "i"))


def test_resizing_keeps_a_constant_and_the_range(contract):
    x = contract.model_copy(update={"resize": 10}).to_input(torch.full((2, 3, 33, 33), 9e3), contract.bands)
    assert x.shape == (2, 3, 10, 10)
    assert torch.allclose(x, torch.tensor(0.5), atol=1e-6)


def test_normalisation_and_channel_order_come_after_input_space(contract):
    contract = contract.model_copy(
        update={"range": (-1.0, 1.0), "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 4.0), "channels": "last"}
    )
    given = contract.to_network(torch.full((1, 3, 2, 2), 0.75))
    assert given.shape == (1, 2, 2, 3)
    assert given[0, 0, 0].tolist() == pytest.approx([0.4, 0.15, 0.05])


def test_vote_fractions_become_logits(contract):
    votes = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    logits = contract.model_copy(update={"output": "probabilities"}).to_logits(votes)
    assert torch.allclose(logits.softmax(dim=1), votes, atol=1e-6)
    assert bool(torch.isfinite(logits).all())


def test_constants_are_fitted_once_and_travel(blobs, tmp_path):
    contract = fit_contract(blobs)
    pixels = np.asarray(blobs.images)
    assert contract.stretch.high == pytest.approx(np.percentile(pixels, 99.9, axis=(0, 2, 3)), rel=1e-5)
    assert contract.stretch.low == pytest.approx(np.percentile(pixels, 0.1, axis=(0, 2, 3)), rel=1e-5)
    (tmp_path / "c.toml").write_text(contract.to_toml())
    assert InputContract.from_toml(tmp_path / "c.toml") == contract
    assert InputContract.from_dict(contract.to_dict()) == contract
    # one file's pixels do not change how another file's are seen
    few, all_ = (
        contract.to_input(blobs.batch([3]), blobs.bands),
        contract.to_input(blobs.batch(slice(0, 9)), blobs.bands),
    )
    assert torch.equal(few[0], all_[3])


def test_display_images_are_stretched_linearly(blobs):
    import dataclasses

    pictures = dataclasses.replace(blobs, images=np.full((180, 3, 8, 8), 51, np.uint8), exposure=None)
    assert fit_contract(pictures).to_input(pictures.batch([0]), pictures.bands).unique().item() == pytest.approx(0.2)


GOOD = {"bands": ["r"], "classes": ["a", "b"], "stretch": {"kind": "linear", "low": [0.0], "high": [1.0]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meen": [0.1]}, "Did you mean 'mean'"),
        ({"stretch": {"kind": "linear", "low": [0.0], "high": [1.0], "sofening": 1}}, "Did you mean 'softening'"),
        ({"classes": ["a"]}, "two or more"),
        ({"std": [0.0]}, "std is positive"),
        ({"mean": [0.0, 1.0]}, "2 value"),
        ({"stretch": {"kind": "linear", "low": [1.0], "high": [1.0]}}, "low < high"),
        ({"stretch": {"kind": "asinh", "low": [-2.0], "high": [-1.0]}}, "high > 0"),
        ({"stretch": {"kind": "log", "low": [0.0], "high": [1.0]}}, "stretch.kind = 'log'"),
        ({"crop": 0}, "crop = 0"),
        ({"output": "logit"}, "output = 'logit'"),
    ],
)
def test_wrong_contracts_are_refused_by_entry(change, words):
    with pytest.raises(InputError, match=words):
        InputContract.from_dict(GOOD | change)


def test_a_missing_entry_is_named():
    with pytest.raises(InputError, match="classes; Field required"):
        InputContract.from_dict({k: v for k, v in GOOD.items() if k != "classes"})
