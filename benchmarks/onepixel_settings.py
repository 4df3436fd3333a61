"""The default one-pixel search against the published way of drawing, at the same number of queries.

    python benchmarks/onepixel_settings.py reports/demo/none.pt reports/demo/mmd.pt [--limit 100]

Both use 100 candidates and 14 generations and stop at the first flip; "uniform" draws values evenly, and again those
that leave the box, as DeepAdversaries did. Paired: the same galaxies, the same models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).parents[1])  # not this folder, where perturbations.py would hide the package

from robustastro import __version__, commands  # noqa: E402
from robustastro.evaluate.plan import step  # noqa: E402
from robustastro.metrics.summary import summarise  # noqa: E402
from robustastro.models.bundles import load_model  # noqa: E402
from robustastro.progress import shown  # noqa: E402
from robustastro.record import write_whole  # noqa: E402

UNIFORM = {"settings": "published", "pop": 100, "generations": 14, "stop": "argmax"}
BUDGETS = (101, 401, 1001, 1501)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/onepixel_settings.json"))
    asked = parser.parse_args()
    rows = []
    for path in asked.models:
        model = load_model(path)
        for name, options in (("default", {}), ("uniform", UNIFORM)):
            with shown() as progress, tempfile.TemporaryDirectory() as folder:
                test, _ = commands.test_data(model, None, {}, progress)
                galaxies = commands.choose(test, asked.limit)
                record = commands.run(
                    [step("onepixel", options=options)], model, galaxies, Path(folder) / "run",
                    seed=0, limit=asked.limit, device="auto", progress=progress,
                )  # fmt: skip
                unit = record.unit("onepixel", 1.0)
                (result,) = summarise(record)
            won, queries = unit["success"].to_numpy(), unit["queries"].to_numpy()
            flips = {str(budget): int((won & (queries <= budget)).sum()) for budget in BUDGETS}
            rows.append({"model": path.stem, "search": name, "success": result["attack_success_rate"], "flips": flips})
            print(f"{path.stem:5} {name:8} flips within {flips} of {result['attack_success_rate']['n']}")
    document = {"benchmark": "onepixel_settings", "version": __version__, "torch": str(torch.__version__), "rows": rows}
    write_whole(asked.out, lambda file: file.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
