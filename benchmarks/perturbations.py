"""Speed of every corruption against what a user would take instead, and against the network that it tests.

    make bench-perturbations
    python benchmarks/perturbations.py [--names depth seeing] [--rounds 5] [--device cpu] [--out FILE.json]

3 x 100 x 100 mock galaxies in batches of 128, at the middle rung; the peer one image at a time, alternating with us in
one process. Exit status 1 where a goal is missed:
  the median over all corruptions is at least 5 times the peer, and none is slower than its peer: the fastest library
  that does the same, or NumPy by hand where no library does;
  the whole lsst suite costs at most as much as the ResNet18 forward passes that it feeds;
  FITS compression is at least 5 times astropy's round trip per image;
  a second pass over all corruptions takes no more memory than the first.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import importlib.metadata
import json
import pkgutil
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).parents[1])  # not this folder, where this file would hide the package of its name

from benchmarks import peers  # noqa: E402
from perturbations.core import Observation, Perturbation, Unstretched, catalogue  # noqa: E402
from perturbations.draws import Draws  # noqa: E402
from robustastro import __version__, suites  # noqa: E402
from robustastro.adapt.training import fit_contract  # noqa: E402
from robustastro.data import mocks  # noqa: E402
from robustastro.models.nets import ARCHITECTURES  # noqa: E402
from robustastro.models.subject import Subject  # noqa: E402
from robustastro.progress import say  # noqa: E402
from robustastro.record import write_whole  # noqa: E402

BATCH, SECONDS = 128, 0.3  # of one measurement, of us and of a peer
MEDIAN_GOAL, WORST_GOAL, FITS_GOAL, SUITE_GOAL, MEMORY_GOAL = 5.0, 1.0, 5.0, 1.0, 64.0  # MiB
LAST = "NRTK"  # the peer that is measured after all others
LIBRARIES = ("torch", "numpy", "scipy", "numba", "astropy", "galsim", "pillow", "imagecorruptions", "nrtk")


class Bench:
    """Mock galaxies in every space, and how long a call takes."""

    def __init__(self, device: str) -> None:
        galaxies = mocks.simulate(mocks.Recipe(n=BATCH, seed=5))
        self.contract, self.device = fit_contract(galaxies), device
        sky = galaxies.observation(slice(0, BATCH))
        self.sky = Observation(sky.flux.to(device), sky.exposure)
        self.x = self.contract.to_input(self.sky.flux, galaxies.bands)
        self.draws = Draws(galaxies.ids, 0, device=device)

    def ours(self, p: Perturbation, strength: float) -> Callable[[], object]:
        given = {"flux": self.sky, "stretch": Unstretched(self.sky.flux, self.contract.stretch), "input": self.x}
        return lambda: p(given[p.space], strength, self.draws)

    def theirs(self, p: Perturbation, strength: float, peer: Callable, count: int) -> Callable[[], object]:
        images = (self.x if p.space == "input" else self.sky.flux)[:count].cpu().numpy()
        rng = np.random.default_rng(0)
        return lambda: [peer(image, strength, rng) for image in images]

    def seconds(self, call: Callable[[], object], times: int = 1) -> float:
        """Of one call, the mean of some in a row."""
        self.wait()
        started = time.perf_counter()
        for _ in range(times):
            call()
        self.wait()
        return (time.perf_counter() - started) / times

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def found_peers() -> dict[str, list[tuple[str, Callable, str]]]:
    """Every peer of every perturbation: library, function, and what it counts as: "peer", "by hand" or "does less"."""
    found: dict[str, list[tuple[str, Callable, str]]] = {}
    for info in pkgutil.iter_modules(peers.__path__):
        module = importlib.import_module(f"benchmarks.peers.{info.name}")
        for name, (library, function) in module.PEERS.items():
            role = "does less" if name in getattr(module, "LESS", ()) else "by hand" if library == "NumPy" else "peer"
            found.setdefault(name, []).append((library, function, role))
    return found


def compare(
    bench: Bench, p: Perturbation, others: list[tuple[str, Callable, str]], forward: Callable, rounds: int
) -> dict:
    """Images per second of one perturbation and its peers, medians over alternating rounds."""
    strength = p.ladder[len(p.ladder) // 2]
    ours = bench.ours(p, strength)
    ours()  # compile, allocate
    times = max(1, round(SECONDS / bench.seconds(ours)))
    calls = {}
    for library, peer, _ in others:
        try:
            once = bench.seconds(bench.theirs(p, strength, peer, 2))
            once = bench.seconds(bench.theirs(p, strength, peer, 2)) / 2
        except ImportError as problem:
            say(f"  {library} is not installed here: {problem}")
            continue
        count = int(np.clip(SECONDS / max(once, 1e-9), 2, BATCH))
        calls[library] = (bench.theirs(p, strength, peer, count), count)
    own, network, theirs = [], [], {library: [] for library in calls}
    for _ in range(rounds):
        own.append(bench.seconds(ours, times) / BATCH)
        for library, (call, count) in calls.items():
            theirs[library].append(bench.seconds(call) / count)
        network.append(bench.seconds(forward) / BATCH)
    roles = {library: role for library, _, role in others}
    peers_of = {
        library: {
            "role": roles[library],
            "images_per_second": 1.0 / statistics.median(times),
            "ratio": statistics.median(t / o for t, o in zip(times, own, strict=True)),
        }
        for library, times in theirs.items()
    }
    return {
        "name": p.name,
        "family": p.family,
        "strength": strength,
        "unit": p.unit,
        "images_per_second": 1.0 / statistics.median(own),
        "of_a_resnet18_pass": statistics.median(o / n for o, n in zip(own, network, strict=True)),
        "peers": peers_of,
        "ratio": _ratio(peers_of),
    }


def _ratio(peers_of: dict[str, dict]) -> float | None:
    """To the fastest library that does the same; by hand where there is none."""
    for role in ("peer", "by hand"):
        ratios = [found["ratio"] for found in peers_of.values() if found["role"] == role]
        if ratios:
            return min(ratios)
    return None


def suite_cost(bench: Bench, forward: Callable) -> dict:
    """Time to perturb BATCH galaxies with the lsst suite, beside the forward passes that it feeds."""
    known, perturbing, passes = catalogue(), 0.0, 0
    network = min(bench.seconds(forward) for _ in range(3))
    for step in suites.load("lsst").steps():
        for strength in step.strengths:
            perturbing += bench.seconds(bench.ours(known[step.name], strength))
            passes += 1
    return {
        "units": passes,
        "perturbing_seconds": perturbing,
        "resnet18_seconds": network * passes,
        "cost": perturbing / (network * passes),
    }


def memory(bench: Bench) -> dict:
    """Memory after one and after two passes over every corruption [MiB]."""
    after = []
    for _ in range(2):
        for p in catalogue().values():
            if p.kind == "corruption":
                bench.ours(p, p.ladder[-1])()
        gc.collect()
        after.append(_resident())
    return {"after_one_pass": after[0], "after_two_passes": after[1], "growth": after[1] - after[0]}


def _resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024.0


def goals(rows: list[dict], suite: dict, grown: dict) -> dict[str, dict]:
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    fits = [
        found["ratio"]
        for row in rows
        if row["name"].startswith("fits_")
        for library, found in row["peers"].items()
        if "astropy" in library
    ]
    measured = {
        "median ratio to the peer": (statistics.median(ratios), ">=", MEDIAN_GOAL),
        "smallest ratio to a peer": (min(ratios), ">=", WORST_GOAL),
        "smallest ratio of FITS compression to astropy": (min(fits), ">=", FITS_GOAL),
        "lsst suite, in ResNet18 passes that it feeds": (suite["cost"], "<=", SUITE_GOAL),
        "memory grown in a second pass [MiB]": (grown["growth"], "<=", MEMORY_GOAL),
    }
    return {
        name: {"measured": value, "goal": f"{sign} {goal:g}", "met": value >= goal if sign == ">=" else value <= goal}
        for name, (value, sign, goal) in measured.items()
    }


def fastest_of_all(rows: list[dict]) -> dict:
    """The same against whatever does the same fastest, a library or NumPy by hand. No goal: told, not judged."""
    ratios = {
        row["name"]: min(found["ratio"] for found in row["peers"].values() if found["role"] != "does less")
        for row in rows
        if any(found["role"] != "does less" for found in row["peers"].values())
    }
    return {
        "median": statistics.median(ratios.values()),
        "under_one": {name: ratio for name, ratio in sorted(ratios.items(), key=lambda r: r[1]) if ratio < 1.0},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", help="only these; goals are then not judged and nothing is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/perturbations.json"))
    asked = parser.parse_args()

    bench, found = Bench(asked.device), found_peers()
    network = ARCHITECTURES["resnet18"](bands=3, classes=3, size=100)
    subject = Subject(network, bench.contract, device=asked.device, chunk=BATCH)

    def forward() -> object:
        return subject.outputs(bench.x)

    forward()
    corruptions = [p for p in catalogue().values() if p.kind == "corruption" and p.name in (asked.names or catalogue())]
    rows = []
    say(f"{'':28} {'images/s':>9} {'of a ResNet18 pass':>19}  ratio to peers")
    for p in sorted(corruptions, key=lambda p: (p.family, p.name)):
        rows.append(compare(bench, p, [o for o in found.get(p.name, []) if o[0] != LAST], forward, asked.rounds))
        _say(rows[-1])
    if asked.names:
        return 0
    suite, grown = suite_cost(bench, forward), memory(bench)
    for row in rows:  # last, as it leaves OpenMP's threads slower for the rest of the process
        others = [o for o in found.get(row["name"], []) if o[0] == LAST]
        if others:
            again = compare(bench, catalogue()[row["name"]], others, forward, asked.rounds)
            row["peers"] |= again["peers"]
            row["ratio"] = _ratio(row["peers"])
            _say(again)
    judged, strict = goals(rows, suite, grown), fastest_of_all(rows)
    document = {
        "benchmark": "perturbations",
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "batch": BATCH,
        "image": [3, 100, 100],
        "rounds": asked.rounds,
        "goals": judged,
        "lsst_suite": suite,
        "memory": grown,
        "without_peer": [row["name"] for row in rows if row["ratio"] is None],
        "against_the_fastest_of_all": strict,
        "perturbations": rows,
    }
    write_whole(asked.out, lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))
    for name, goal in judged.items():
        say(f"{'met   ' if goal['met'] else 'MISSED'} {name}: {goal['measured']:.3g}, goal {goal['goal']}")
    say(
        f"       with NumPy by hand as a peer of all: median {strict['median']:.3g}, under 1: "
        + (", ".join(f"{name} {ratio:.2g}" for name, ratio in strict["under_one"].items()) or "none")
    )
    print(asked.out)
    return 0 if all(goal["met"] for goal in judged.values()) else 1


def _say(row: dict) -> None:
    beside = ", ".join(
        f"{library} {found['ratio']:.1f}" + ("" if found["role"] == "peer" else f" ({found['role']})")
        for library, found in row["peers"].items()
    )
    say(f"{row['name']:28} {row['images_per_second']:9.0f} {row['of_a_resnet18_pass']:19.3f}  {beside or 'no peer'}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
