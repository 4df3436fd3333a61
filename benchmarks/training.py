"""Training with and without adaptation on mocks: accuracy on Y10 and Y1 of several training seeds.

    python benchmarks/training.py [--seeds 0 1 2] [--per-domain 3000] [--out benchmarks/training.json]

Goal: the median over seeds of each method is at least 0.90 on Y10, and no training collapses; exit status 1 otherwise.
Results are kept after each training, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).parents[1])  # not this folder, where perturbations.py would hide the package

from robustastro import __version__  # noqa: E402
from robustastro.adapt import METHODS  # noqa: E402
from robustastro.adapt.recipe import Recipe  # noqa: E402
from robustastro.adapt.training import stretched, train  # noqa: E402
from robustastro.data import mocks  # noqa: E402
from robustastro.data.splits import FRACTIONS, select  # noqa: E402
from robustastro.metrics.intervals import proportion  # noqa: E402
from robustastro.models.subject import Subject  # noqa: E402
from robustastro.progress import say, shown  # noqa: E402
from robustastro.record import write_whole  # noqa: E402

COMPARED, GOAL = ("none", "mmd", "dann"), 0.90


def accuracy(trained, galaxies, device: str) -> dict:
    test = select(galaxies, "test")
    outputs = Subject(trained.network, trained.contract, device=device).outputs(stretched(test, trained.contract))
    return proportion(outputs.logits.argmax(dim=1).numpy() == test.labels).to_dict()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-domain", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/training.json"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()

    count = round(2 * asked.per_domain / FRACTIONS[0])  # half of the training galaxies to each domain
    with shown() as progress:
        y10, y1 = (
            mocks.simulate(mocks.Recipe(n=count, seed=1, depth=depth), progress=lambda d, t: progress("simulate", d, t))
            for depth in (1.0, 0.1)
        )
    about = {
        "benchmark": "training",
        "per_domain": asked.per_domain,
        "galaxies": count,
        "mocks": mocks.parameters_hash(),
        "version": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name()
        if asked.device.startswith("cuda")
        else f"cpu, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
        "options": {name: dict(METHODS[name].options) for name in COMPARED},
        "recipe": asdict(replace(Recipe(), options={})),
    }
    rows = []
    if asked.out.exists():
        before = json.loads(asked.out.read_text())
        rows = before["rows"] if {k: before.get(k) for k in about} == about else []
    for method in COMPARED:
        for seed in asked.seeds:
            if any(row["method"] == method and row["seed"] == seed for row in rows):
                continue
            with shown() as progress:
                trained = train(
                    Recipe(method=method, seed=seed), y10, y1, device=asked.device,
                    progress=lambda epoch, epochs, _, what=f"{method}, seed {seed}": progress(what, epoch, epochs),
                )  # fmt: skip
            row = {
                "method": method,
                "seed": seed,
                "y10": accuracy(trained, y10, asked.device),
                "y1": accuracy(trained, y1, asked.device),
                "best_epoch": trained.record["best_epoch"],
                "epochs": len(trained.record["history"]),
                "train": trained.record["source"]["train"],
                "seconds": trained.record["seconds"],
                "flags": trained.record["flags"],
            }
            rows.append(row)
            y10_value, y1_value = row["y10"]["value"], row["y1"]["value"]
            say(f"{method:5} seed {seed}: Y10 {y10_value:.3f}, Y1 {y1_value:.3f}, {row['seconds']:.0f} s")
            _keep(asked.out, about, rows)
    medians = {
        m: {d: statistics.median(r[d]["value"] for r in rows if r["method"] == m) for d in ("y10", "y1")}
        for m in COMPARED
    }
    collapsed = [f"{r['method']} seed {r['seed']}" for r in rows if r["flags"]]
    good = not collapsed and all(m["y10"] >= GOAL for m in medians.values())
    _keep(asked.out, about, rows, medians=medians, collapsed=collapsed, goal=GOAL, met=good)
    for method, median in medians.items():
        print(f"{method:5} median Y10 {median['y10']:.3f}  Y1 {median['y1']:.3f}")
    print(f"goal of {GOAL} on Y10 for each method, none collapsed: {'met' if good else 'missed'}")
    return 0 if good else 1


def _keep(out: Path, about: dict, rows: list, **more) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = json.dumps({**about, "date": now, "rows": rows, **more}, indent=1)
    write_whole(out, lambda file: file.write_text(text + "\n"))


if __name__ == "__main__":
    sys.exit(main())
