"""About how long the parts of a cell take, from a few steps of training and queries of an untrained network.

Every search is taken to spend all its queries, and training to see all epochs: the truth is mostly less.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perturbations.core import get
from robustastro.adapt.contracts import fit_contract
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import select
from robustastro.evaluate.engine import choose
from robustastro.evaluate.plan import Plan, step
from robustastro.models.bundles import Model, build
from robustastro.models.subject import Subject
from robustastro.progress import say


def seconds_of_parts(
    arch: str,
    galaxies: Galaxies,
    device: str,
    *,
    train: int,
    epochs: int,
    batch: int,
    attacks: Sequence[tuple[int, Mapping[str, Any]]],
) -> tuple[float, float]:
    """Seconds of a training and of its one-pixel attacks.

    Parameters
    ----------
    galaxies : some that are like those of the study, with a training and a test split.
    train, epochs, batch : source training galaxies, and how they are trained on beside as many of the target.
    attacks : galaxies and options of each search.
    """
    where = torch.device(device)
    contract = fit_contract(choose(select(galaxies, "train"), 64))
    shape = galaxies.images.shape
    options = {"bands": shape[1], "classes": len(galaxies.classes), "size": contract.crop or shape[-1]}
    network = build(arch, options).to(where)
    x = contract.to_input(galaxies.batch(slice(0, 2 * batch)), galaxies.bands).to(where)
    network.train()
    spent = []
    for _ in range(3):
        started = time.monotonic()
        output = network(x)
        nn.functional.cross_entropy(output, torch.zeros(len(x), dtype=torch.long, device=where)).backward()
        spent.append(time.monotonic() - started)
    steps = epochs * max(1, train // batch)
    most = get("onepixel").most_queries
    assert most is not None
    queries = sum(n * most({**step("onepixel", options=given).options, "shape": shape[1:]}) for n, given in attacks)
    few = choose(select(galaxies, "test"), 1)
    model = Model(network.cpu().eval(), contract, arch)
    plan = Plan.of(model, few, [step("onepixel")])
    subject = Subject(model.network, contract, None, device, plan.chunk, plan.pixels)
    one = contract.to_input(few.batch(slice(0, 1)), few.bands).to(where)
    each = _seconds_of_query(subject, one)
    say(f"{arch}: a step of training takes about {min(spent):.2g} s, a query of the attack {1e3 * each:.2g} ms")
    return 1.2 * steps * min(spent), queries * each


def _seconds_of_query(subject: Subject, x: torch.Tensor) -> float:
    """Of one pixel changed in the image x (1, C, H, W)."""
    victim, count = subject.victim(x), 100
    row = torch.arange(count, device=x.device) % min(x.shape[2:])
    asked = torch.zeros_like(row), row[:, None, None].expand(-1, -1, 2), x.new_zeros(count, 1, x.shape[1])
    victim.logits_at(*asked)  # the first pass also allocates
    started = time.monotonic()
    victim.logits_at(*asked)
    return (time.monotonic() - started) / count
