"""The pixel attacks against what a user would take instead: speed, success at equal queries, memory.

    make bench-pixel
    python benchmarks/pixel.py [--models reports/demo/none.pt ...] [--resnet18 FILE.pt] [--limit 60] [--rounds 5]

The same model, images and budget, in one process, taking turns. Exit status 1 where a goal is missed:
  ConvNet, differential evolution: at least 40 times the queries per second of torchattacks' OnePixel, popsize 400;
  ConvNet, every pixel at 8 values (80,000 candidates of 3 x 100 x 100): under 2 s a galaxy;
  ResNet18, differential evolution: at least 3 times torchattacks;
  success at equal queries: of no model lower than that of any peer;
  peak memory: eight times the candidates take no more.
A query is one image through the network, counted by a wrapper of the network (theirs) or of the victim (ours), which
also notes the first one that flips. A screened network (ResNet18) is asked in bfloat16 and the best again in float32:
both are counted as queries.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path[0] = str(Path(__file__).parents[1])  # not this folder, where a file could hide a package of its name

from perturbations.changed_pixels import CONFIRMED  # noqa: E402
from perturbations.core import get  # noqa: E402
from perturbations.draws import Draws  # noqa: E402
from robustastro import __version__, commands  # noqa: E402
from robustastro.evaluate.engine import choose  # noqa: E402
from robustastro.metrics.intervals import mean  # noqa: E402
from robustastro.models.bundles import load_model  # noqa: E402
from robustastro.models.subject import Subject, SubjectVictim  # noqa: E402
from robustastro.progress import say, shown  # noqa: E402
from robustastro.record import write_whole  # noqa: E402

POP, STEPS = 400, 3  # speed, and DeepAdversaries' population: four generations
SPLITS = {400: 3, 50: 31}  # of the equal budget into populations and generations after the first
BUDGET = POP * (1 + STEPS)
OURS = 50  # our population
SEEDS = (0, 1)
DE_GOAL, EXHAUSTIVE_GOAL, RESNET_GOAL, MEMORY_GOAL = 40.0, 2.0, 3.0, 16.0  # times, seconds, times, MiB
DEMO = [Path(f"reports/demo/{name}.pt") for name in ("none", "mmd", "dann")]
LIBRARIES = ("torch", "numpy", "torchattacks", "foolbox", "adversarial-robustness-toolbox")


@dataclass
class Case:
    """A model bound to galaxies that it classifies right."""

    name: str
    arch: str
    subject: Subject
    x: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, limit: int, device: str) -> Case:
        model = load_model(path)
        with shown() as progress:
            test, _ = commands.test_data(model, None, {}, progress)
        test = choose(test, 3 * limit)
        subject = Subject(model.network, model.contract, model.latent, device)
        x = model.contract.to_input(test.batch(slice(0, len(test))), test.bands).to(device)
        labels = torch.from_numpy(test.labels).to(device)
        right = (subject.victim(x).logits(x).argmax(dim=1) == labels).nonzero()[:limit, 0]
        return cls(path.stem, model.arch, subject, x[right], labels[right], tuple(test.ids[i] for i in right.tolist()))

    def first(self, count: int) -> Case:
        return Case(self.name, self.arch, self.subject, self.x[:count], self.labels[:count], self.ids[:count])


class Watched(nn.Module):
    """The network as a peer is given it: counts images, and notes the first that is not of the true class."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.network, self.contract = case.subject.network, case.subject.contract
        self.label, self.queries, self.flip = -1, 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.network(self.contract.to_network(x.float()).contiguous(memory_format=torch.channels_last))
        y = self.contract.to_logits(y[-1] if isinstance(y, tuple) else y)
        flipped = (y.detach().argmax(dim=1) != self.label).nonzero()
        if not self.flip and len(flipped):
            self.flip = self.queries + int(flipped[0]) + 1
        self.queries += len(x)
        return y


class WatchedVictim:
    """The same of our victim: queries and the first flip of each image, (N,)."""

    def __init__(self, case: Case) -> None:
        self.victim: SubjectVictim = case.subject.victim(case.x)
        self.classes, self.box, self.labels = self.victim.classes, self.victim.box, case.labels
        self.screens = self.victim.screens
        self.queries = torch.zeros(len(case.x), dtype=torch.int64)
        self.flip = torch.zeros(len(case.x), dtype=torch.int64)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.victim.logits(x)

    def gradient(self, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return self.victim.gradient(x, loss)

    def logits_at(self, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self._noted(which, self.victim.logits_at(which, positions, values), confirmed=True)

    def screened_at(self, which: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self._noted(which, self.victim.screened_at(which, positions, values), confirmed=False)

    def _noted(self, which: torch.Tensor, logits: torch.Tensor, *, confirmed: bool) -> torch.Tensor:
        flipped = (logits.argmax(dim=1) != self.labels[which]) & confirmed
        for image in which.unique().tolist():
            rows = (which == image).nonzero()[:, 0]
            hit = flipped[rows].nonzero()
            if not self.flip[image] and len(hit):
                self.flip[image] = self.queries[image] + int(hit[0]) + 1
            self.queries[image] += len(rows)
        return logits


# ---------------------------------------------------------------------- speed


def rates(case: Case, rounds: int, together: int) -> dict:
    """Queries per second of differential evolution, ours on many images at once, theirs one image after the other."""
    import torchattacks

    ours, theirs = [], []
    some = case.first(together)
    for turn in range(-1, rounds):  # the first turn allocates
        victim = some.subject.victim(some.x)
        started = time.perf_counter()
        result = get("onepixel").run_attack(
            some.x, some.labels, victim, 1.0, Draws(some.ids, turn, "attack", device=some.x.device), pop=POP,
            generations=STEPS,
        )  # fmt: skip
        own = float(result.queries.sum()) / (time.perf_counter() - started)
        network = Watched(case).eval()
        np.random.seed(turn + 1)  # noqa: NPY002
        attack = torchattacks.OnePixel(network, pixels=1, steps=STEPS, popsize=POP, inf_batch=128)
        k = (turn + 1) % len(case.x)
        network.label = int(case.labels[k])
        started = time.perf_counter()
        attack(case.x[k : k + 1], case.labels[k : k + 1])
        peer = network.queries / (time.perf_counter() - started)
        if turn >= 0:
            ours.append(own)
            theirs.append(peer)
    return {
        "model": case.name,
        "arch": case.arch,
        "together": len(some.x),
        "queries_per_second": statistics.median(ours),
        "torchattacks_queries_per_second": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def exhaustive(case: Case, galaxies: int) -> dict:
    """Seconds a galaxy for every pixel at the corners of the box, without the certificate."""
    seconds, candidates = [], 0
    for k in range(galaxies + 1):  # the first allocates
        one = Case(case.name, case.arch, case.subject, case.x[k : k + 1], case.labels[k : k + 1], case.ids[k : k + 1])
        started = time.perf_counter()
        result = get("onepixel_exhaustive").run_attack(
            one.x, one.labels, one.subject.victim(one.x), 1.0, Draws(one.ids, 0, "attack", device=one.x.device),
            certificate=False,
        )  # fmt: skip
        seconds.append(time.perf_counter() - started)
        candidates = int(result.queries[0]) - 1
    return {
        "model": case.name,
        "arch": case.arch,
        "galaxies": galaxies,
        "candidates": candidates,
        "seconds_a_galaxy": statistics.median(seconds[1:]),
        "candidates_per_second": candidates / statistics.median(seconds[1:]),
    }


def memory(case: Case) -> dict:
    """Peak memory of 80,000 and of 640,000 candidates for one galaxy [MiB]."""
    peak, cuda = {}, case.x.is_cuda
    for grid in ("corners", "corners", 4):  # the first allocates
        one = case.first(1)
        torch.cuda.reset_peak_memory_stats() if cuda else Path("/proc/self/clear_refs").write_text("5")
        get("onepixel_exhaustive").run_attack(
            one.x, one.labels, one.subject.victim(one.x), 1.0, Draws(one.ids, 0, "attack", device=one.x.device),
            certificate=False, grid=grid,
        )  # fmt: skip
        if cuda:
            peak[str(grid)] = torch.cuda.max_memory_allocated() / 2**20
            continue
        peak[str(grid)] = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024.0
    return {"peak_80000": peak["corners"], "peak_640000": peak["4"], "growth": peak["4"] - peak["corners"]}


# ---------------------------------------------------------------------- success


def by_us(case: Case, seed: int, **options: Any) -> np.ndarray:
    victim = WatchedVictim(case)
    draws = Draws(case.ids, seed, "attack", device=case.x.device)
    get("onepixel").run_attack(case.x, case.labels, victim, 1.0, draws, **options)
    return victim.flip.numpy()


def by_ours(case: Case, seed: int) -> np.ndarray:
    generation = OURS + (CONFIRMED if case.subject.victim(case.x).screens else 0)
    return by_us(case, seed, pop=OURS, generations=BUDGET // generation - 1)


def by_torchattacks(case: Case, seed: int, pop: int = POP) -> np.ndarray:
    import torchattacks

    network = Watched(case).eval()
    attack = torchattacks.OnePixel(network, pixels=1, steps=SPLITS[pop], popsize=pop, inf_batch=128)
    flips = []
    for k in range(len(case.x)):
        np.random.seed(1000 * seed + k)  # noqa: NPY002
        network.label, network.queries, network.flip = int(case.labels[k]), 0, 0
        attack(case.x[k : k + 1], case.labels[k : k + 1])
        flips.append(network.flip)
    return np.array(flips)


def by_library(case: Case, seed: int, name: str, **options: Any) -> np.ndarray:
    """What an attack of a library for few pixels finds with one: queries where it does."""
    draws = Draws(case.ids, seed, "attack", device=case.x.device)
    found = get(name).run_attack(case.x, case.labels, case.subject.victim(case.x), 1.0, draws, **options)
    return torch.where(found.success, found.queries, 0).cpu().numpy()


def by_art(case: Case, seed: int) -> np.ndarray:
    """ART's PixelAttack rounds to 0..255 and has no budget: what it finds counts within the equal number of queries."""
    from art.attacks.evasion import PixelAttack  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    network = Watched(case).eval()
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), tuple(case.x.shape[1:]), len(case.subject.contract.classes),
        clip_values=(0, 255), preprocessing=(0.0, 255.0), device_type="cpu",
    )  # fmt: skip
    attack = PixelAttack(classifier, th=1, es=1, max_iter=STEPS, verbose=False)
    flips = []
    for k in range(len(case.x)):
        np.random.seed(1000 * seed + k)  # noqa: NPY002
        network.label, network.queries, network.flip = int(case.labels[k]), 0, 0
        label = torch.nn.functional.one_hot(case.labels[k : k + 1], len(case.subject.contract.classes)).numpy()
        attack.generate((case.x[k : k + 1].cpu().numpy() * 255.0).round().astype(np.float32), label)
        flips.append(network.flip)
    return np.array(flips)


PEERS: dict[str, Callable[[Case, int], np.ndarray]] = {
    **{
        f"torchattacks OnePixel {pop} x {1 + steps}": partial(by_torchattacks, pop=pop) for pop, steps in SPLITS.items()
    },
    "DeepAdversaries settings": partial(by_us, settings="published", pop=POP, generations=STEPS, stop="argmax"),
    "torchattacks Pixle": partial(by_library, name="torchattacks:Pixle", restarts=40, max_iterations=39),
    "foolbox L0FMN": partial(by_library, name="foolbox:L0FMNAttack", steps=BUDGET // 2 - 1),
    "ART PixelAttack": by_art,
}
SLOW = ("torchattacks Pixle", "foolbox L0FMN", "ART PixelAttack")  # a minute or two each: one model, one seed


def success(case: Case, slow: bool) -> dict:
    """Galaxies flipped within the budget, of all seeds, and the queries to the first flip."""
    found: dict[str, list[np.ndarray]] = {"ours": [by_ours(case, seed) for seed in SEEDS]}
    for name, peer in PEERS.items():
        if slow or name not in SLOW:
            started = time.perf_counter()
            try:
                found[name] = [peer(case, seed) for seed in (SEEDS[:1] if name in SLOW else SEEDS)]
            except ImportError as problem:
                say(f"  {name} is not installed here: {problem}")
            say(f"  {case.name}: {name}, {time.perf_counter() - started:.0f} s")
    rows, ours = {}, np.mean([(flip > 0) & (flip <= BUDGET) for flip in found["ours"]], axis=0)
    for name, flips in found.items():
        won = [(flip > 0) & (flip <= BUDGET) for flip in flips]
        first = np.concatenate([flip[w] for flip, w in zip(flips, won, strict=True)])
        rows[name] = {
            "flipped": [int(w.sum()) for w in won],
            "seeds": len(won),
            "success": float(np.mean(won)),
            "median_queries_to_first_success": float(np.median(first)) if len(first) else None,
        }
        # paired by galaxy, of each the mean over the seeds
        rows[name]["ours_minus_theirs"] = mean(ours - np.mean(won, axis=0)).to_dict()
        say(
            f"  {case.name:9} {name:30} {rows[name]['flipped']} of {len(case.x)}, "
            f"first flip {rows[name]['median_queries_to_first_success']}"
        )
    return {"model": case.name, "arch": case.arch, "n": len(case.x), "budget": BUDGET, "found": rows}


# ---------------------------------------------------------------------- all of it


def goals(document: dict) -> dict[str, dict]:
    speed = {row["arch"]: row["ratio"] for row in document["speed"]}
    behind = [
        f"{row['model']}: {name}"
        for row in document["success"]
        for name, found in row["found"].items()
        if found["success"] > row["found"]["ours"]["success"]
    ]
    cuda, seconds = (
        not document["device"].startswith("cpu"),
        [row["seconds_a_galaxy"] for row in document["exhaustive"]],
    )
    measured = {
        "ConvNet, DE, times torchattacks": (speed["convnet"], ">=", 100.0 if cuda else DE_GOAL),
        "ConvNet, 80,000 candidates, seconds a galaxy": (seconds[0], "<=", 0.02 if cuda else EXHAUSTIVE_GOAL),
        "peers with more success at equal queries, mean of two seeds": (len(behind), "<=", 0),
        "peak memory of eight times the candidates [MiB more]": (document["memory"]["growth"], "<=", MEMORY_GOAL),
    }
    if "resnet18" in speed:
        measured["ResNet18, DE, times torchattacks"] = (speed["resnet18"], ">=", RESNET_GOAL)
    if len(seconds) > 1:
        measured["ResNet18, 80,000 candidates, seconds a galaxy"] = (seconds[1], "<=", 1.0)
    return {
        name: {"measured": value, "goal": f"{sign} {goal:g}", "met": value >= goal if sign == ">=" else value <= goal}
        for name, (value, sign, goal) in measured.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, nargs="+", default=DEMO, help="ConvNet bundles; speed is that of the first"
    )
    parser.add_argument("--resnet18", type=Path, help="a ResNet18 bundle")
    parser.add_argument("--limit", type=int, default=40, help="galaxies of each ConvNet; a third of it for ResNet18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/pixel.json"))
    asked = parser.parse_args()

    cases = [Case.of(path, asked.limit, asked.device) for path in asked.models]
    if asked.resnet18:
        cases.append(Case.of(asked.resnet18, max(asked.limit // 3, 2), asked.device))
    heavy = [case for case in cases if case.arch == "resnet18"]
    timed = [cases[0], *heavy]
    speed = [rates(case, asked.rounds, 4 if case in heavy else 32) for case in timed]
    for row in speed:
        say(f"{row['arch']:9} {row['queries_per_second']:9.0f} queries/s, {row['ratio']:.1f} times torchattacks")
    every = [exhaustive(cases[0], 5)]
    if asked.device != "cpu" and heavy:
        every.append(exhaustive(heavy[0], 5))
    for row in every:
        say(f"{row['arch']:9} {row['candidates']} candidates, {row['seconds_a_galaxy']:.2f} s a galaxy")
    document = {
        "benchmark": "pixel",
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if asked.device != "cpu" else f"cpu, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "image": list(cases[0].x.shape[1:]),
        "rounds": asked.rounds,
        "speed": speed,
        "exhaustive": every,
        "memory": memory(cases[0]),
        "success": [success(case, case is cases[0]) for case in cases],
    }
    document["goals"] = judged = goals(document)
    write_whole(asked.out, lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    for name, goal in judged.items():
        say(f"{'met   ' if goal['met'] else 'MISSED'} {name}: {goal['measured']:.3g}, goal {goal['goal']}")
    print(asked.out)
    return 0 if all(goal["met"] for goal in judged.values()) else 1


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
