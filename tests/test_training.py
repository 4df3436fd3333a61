"""Training: no leakage, the same weights for the same seed, resumed or not, and collapse said as such."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from perturbations.errors import InputError
from robustastro.adapt.dann import reversal_schedule, reverse_gradient
from robustastro.adapt.mmd import mmd
from robustastro.adapt.recipe import Recipe
from robustastro.adapt.training import disjoint, id_hashes, select, stretched, train, write_bundle
from robustastro.data.splits import domain_half, split_of
from robustastro.models.bundles import load_model
from robustastro.models.subject import Subject

QUICK: dict[str, Any] = {"arch": "tiny", "epochs": 3, "batch": 16, "learning_rate": 0.01}


def shallower(galaxies, seed=1):
    """The same galaxies with three times the noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 1200.0, galaxies.images.shape).astype(np.float32)
    return dataclasses.replace(galaxies, images=np.asarray(galaxies.images) + noise, domain="shallow blobs")


def weights(trained) -> torch.Tensor:
    return torch.cat([t.flatten().double() for t in trained.network.state_dict().values()])


# ---------------------------------------------------------------------- splits


def test_splits_follow_the_id_and_have_their_fractions():
    ids = [f"galaxy {k}" for k in range(20_000)]
    splits = split_of(ids)
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert abs((splits == name).mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5
    order = np.random.default_rng(0).permutation(20_000)[:500]
    assert (split_of([ids[k] for k in order]) == splits[order]).all()
    # halves for source and target are independent of the split
    half = domain_half(ids)
    assert abs(half[splits == "train"].mean() - 0.5) < 0.03


def test_all_depths_of_a_galaxy_fall_together_and_domains_share_no_training_galaxy(blobs):
    deep, shallow = blobs, shallower(blobs)
    for split in ("train", "valid", "test"):
        assert select(deep, split).ids == select(shallow, split).ids
    source, target = disjoint(select(deep, "train"), select(shallow, "train"))
    assert not set(source.ids) & set(target.ids)
    assert set(source.ids) | set(target.ids) == set(select(deep, "train").ids)
    trained = train(Recipe(method="mmd", **QUICK), deep, shallow)
    used = trained.train_ids
    assert len(used) == len(set(used))
    assert not set(used) & set(select(deep, "test").ids)
    assert not set(used) & set(select(deep, "valid").ids)


def test_the_datas_own_split_column_is_kept(blobs):
    import pandas as pd

    column = pd.DataFrame({"split": ["test" if k < 40 else "train" for k in range(180)]})
    galaxies = dataclasses.replace(blobs, catalogue=column)
    assert select(galaxies, "test").ids == galaxies.ids[:40]
    valid, rest = select(galaxies, "valid"), select(galaxies, "train")
    assert set(valid.ids) | set(rest.ids) == set(galaxies.ids[40:])
    assert 5 <= len(valid) <= 35


# ---------------------------------------------------------------------- no leakage


@pytest.mark.parametrize("method", ["mmd", "dann"])
def test_permuting_target_labels_gives_identical_weights(blobs, method):
    shallow = shallower(blobs)
    permuted = dataclasses.replace(shallow, labels=np.random.default_rng(0).permutation(shallow.labels))
    recipe = Recipe(method=method, **QUICK)
    first, second = train(recipe, blobs, shallow), train(recipe, blobs, permuted)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(train(recipe, blobs, shallower(blobs, seed=9))))


def test_the_compared_methods_train_on_the_same_source_galaxies(blobs):
    shallow = shallower(blobs)
    ids = [train(Recipe(method=m, **QUICK), blobs, shallow).record["source"]["train"] for m in ("none", "mmd")]
    assert ids[0] == ids[1]


# ---------------------------------------------------------------------- the loop


def test_a_seed_gives_the_same_weights_and_another_gives_others(blobs):
    first, again, other = (train(Recipe(seed=s, **QUICK), blobs) for s in (3, 3, 4))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["none", "dann"])
def test_an_interrupted_training_goes_on_to_the_same_weights(blobs, tmp_path, method):
    shallow = shallower(blobs)
    recipe = Recipe(method=method, **QUICK)
    whole = train(recipe, blobs, shallow)

    def interrupt(epoch, epochs, numbers):
        if epoch == 2:
            raise Stop

    checkpoint = tmp_path / "c.partial"
    with pytest.raises(Stop):
        train(recipe, blobs, shallow, checkpoint=checkpoint, progress=interrupt)
    done = []
    resumed = train(recipe, blobs, shallow, checkpoint=checkpoint, progress=lambda e, n, _: done.append(e))
    assert done == [3]
    assert torch.equal(weights(whole), weights(resumed))
    with pytest.raises(InputError, match="another training"):
        train(dataclasses.replace(recipe, seed=1), blobs, shallow, checkpoint=checkpoint)


def test_a_trained_network_tells_the_shapes_apart_and_its_bundle_says_so(blobs, tmp_path):
    trained = train(Recipe(arch="tiny", epochs=60, batch=16, learning_rate=0.02, patience=0), blobs)
    assert trained.flags == []
    assert trained.record["validation"]["valid_accuracy"] > 0.8
    write_bundle(tmp_path / "m.pt", trained, blobs, None, "cpu")
    model = load_model(tmp_path / "m.pt")
    test = select(blobs, "test")
    x = stretched(test, model.contract)
    predicted = Subject(model.network, model.contract).outputs(x).logits.argmax(dim=1).numpy()
    assert (predicted == test.labels).mean() > 0.8
    assert model.data["test_sha256"] == test.digest()
    assert model.trained_on is not None
    assert model.centroids is not None
    assert torch.equal(model.trained_on.sort().values, id_hashes(trained.train_ids + trained.valid_ids).sort().values)
    source = select(blobs, "train")
    latent = Subject(model.network, model.contract).outputs(stretched(source, model.contract)).latent
    assert torch.allclose(model.centroids[1], latent[torch.from_numpy(source.labels == 1)].mean(dim=0), atol=1e-5)


def test_a_collapsed_training_says_so(blobs):
    nonsense = dataclasses.replace(blobs, labels=np.random.default_rng(0).integers(0, 3, 180))
    flags = train(Recipe(**(QUICK | {"epochs": 2, "learning_rate": 1e-5})), nonsense).flags
    assert [flag.code for flag in flags] == ["collapsed"]
    exploded = train(Recipe(**{**QUICK, "learning_rate": 1e30}), blobs)
    assert [flag.code for flag in exploded.flags] == ["collapsed"]


def test_a_good_network_on_rare_mergers_has_not_collapsed(blobs):
    """Nineteen common galaxies to a rare one: plain accuracy is no better than always saying common."""
    labels = np.where(np.arange(180) % 3 == 2, 1, 0)
    rare = np.flatnonzero(labels)[::9]
    galaxies = dataclasses.replace(blobs, labels=labels, classes=("round", "long"))
    keep = sorted(set(np.flatnonzero(labels == 0)) | set(rare))
    column = np.array(["train", "valid", "test"], dtype=object)[np.arange(len(keep)) % 3]
    column[[keep.index(k) for k in rare]] = ["train", "valid"] * 3 + ["train"]
    import pandas as pd

    galaxies = dataclasses.replace(galaxies.take(keep), catalogue=pd.DataFrame({"split": column}))
    trained = train(Recipe(arch="tiny", epochs=60, batch=8, learning_rate=0.02, patience=0), galaxies)
    right, n = (np.array(trained.record["validation"][k]) for k in ("right_per_class", "per_class"))
    assert (right / n).min() > 0.6
    assert trained.flags == []


def test_other_spellings_of_the_splits_are_understood_and_unknown_ones_refused(blobs):
    import pandas as pd

    def with_column(names):
        return dataclasses.replace(blobs, catalogue=pd.DataFrame({"split": names}))

    galaxies = with_column(["Training"] * 100 + ["val"] * 50 + ["TEST"] * 30)
    assert [len(select(galaxies, s)) for s in ("train", "valid", "test")] == [100, 50, 30]
    with pytest.raises(InputError, match="unknown split in the data 'extra'"):
        select(with_column(["train"] * 170 + ["extra"] * 10), "train")


def test_early_stopping_keeps_the_best_epoch(blobs):
    trained = train(Recipe(**(QUICK | {"epochs": 40, "learning_rate": 0.05}), patience=2), blobs)
    losses = [h["valid_loss"] for h in trained.record["history"]]
    assert trained.record["best_epoch"] == 1 + int(np.argmin(losses))
    assert trained.record["validation"]["valid_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert len(losses) == 40 or len(losses) - trained.record["best_epoch"] == 2


def test_rare_classes_weigh_as_much_as_common_ones(blobs):
    """Two identical images in two classes, nine to one: with class weights the best answer is even odds."""
    images = np.zeros((180, 3, 8, 8), np.float32)
    images[:, :, 4, 4] = 1.0
    labels = (np.arange(180) % 10 == 0).astype(np.int64)
    galaxies = dataclasses.replace(blobs, images=images, labels=labels, classes=("common", "rare"), exposure=None)
    trained = train(Recipe(arch="tiny", epochs=30, batch=16, learning_rate=0.02, patience=0), galaxies)
    p = Subject(trained.network, trained.contract).outputs(stretched(galaxies.take([0]), trained.contract))
    assert abs(float(p.logits.softmax(dim=1)[0, 1]) - 0.5) < 0.15


STRANGE = """
from torch import nn

class Dictionary(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(12, classes)

    def forward(self, x):
        return {"logits": self.head(input=self.pool(x).flatten(1))}

class Keyword(Dictionary):
    def forward(self, x):
        return super().forward(x)["logits"]

class Bare(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 24)
"""


def test_networks_of_the_users_own_train_or_say_why_not(blobs, tmp_path):
    (tmp_path / "net.py").write_text(STRANGE)
    arch = f"{tmp_path / 'net.py'}:"
    recipe = Recipe(**(QUICK | {"method": "mmd", "epochs": 1}))
    assert train(dataclasses.replace(recipe, arch=arch + "Keyword"), blobs, shallower(blobs)).record["history"]
    with pytest.raises(InputError, match="the network returns dict"):
        train(dataclasses.replace(recipe, arch=arch + "Dictionary"), blobs, shallower(blobs))
    with pytest.raises(InputError, match="no Linear layer"):
        train(dataclasses.replace(recipe, arch=arch + "Bare"), blobs, shallower(blobs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "dan"}, "Did you mean 'dann'"),
        ({"method": "mmd"}, "add --target|Add --target"),
        ({"arch": "convnt"}, "Did you mean 'convnet'"),
        ({"batch": 500}, "smaller --batch"),
        ({"epochs": 0}, "epochs = 0"),
        ({"options": {"wieght": 1.0}}, "option of none"),
    ],
)
def test_wrong_recipes_are_refused(blobs, change, words):
    with pytest.raises(InputError, match=words):
        train(Recipe(**(QUICK | change)), blobs)


# ---------------------------------------------------------------------- losses


def test_mmd_is_the_double_sum_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(6, 4, generator=generator).double(), torch.randn(5, 4, generator=generator).double() + 1.0
    both = torch.cat([s, t])
    squares = sorted(float((a - b) @ (a - b)) for i, a in enumerate(both) for j, b in enumerate(both) if i != j)
    median = squares[(len(squares) - 1) // 2]

    def k(a, b):
        return np.mean([math.exp(-float((a - b) @ (a - b)) / (w * median)) for w in (0.25, 0.5, 1.0, 2.0, 4.0)])

    def mean(a, b):
        return np.mean([[k(x, y) for y in b] for x in a])

    assert float(mmd(s, t)) == pytest.approx(mean(s, s) + mean(t, t) - 2 * mean(s, t), rel=1e-9)
    assert float(mmd(s, s)) == pytest.approx(0.0, abs=1e-12)
    assert float(mmd(s * 7.0, t * 7.0)) == pytest.approx(float(mmd(s, t)), rel=1e-9)  # shrinking gains nothing


def test_mmd_tells_shifted_samples_from_equal_ones():
    generator = torch.Generator().manual_seed(0)
    s, same, moved = (torch.randn(200, 8, generator=generator) for _ in range(3))
    assert float(mmd(s, moved + 1.0)) > 5 * float(mmd(s, same))


def test_gradient_reversal_and_its_schedule():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y * torch.tensor([2.0, 5.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([-0.6, -1.5])
    assert reversal_schedule(0.0) == 0.0
    assert reversal_schedule(1.0) == pytest.approx(0.9999092)
    assert reversal_schedule(0.1) == pytest.approx(2 / (1 + math.exp(-1)) - 1)
