"""Make the records of this folder: one of each schema, small, kept as that version of the program wrote them.

`python tests/records/make.py` writes the one of the present schema; those of older schemas are never made again.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import make_blobs  # noqa: E402

from perturbations.exposure import Exposure  # noqa: E402
from robustastro.adapt.recipe import Recipe  # noqa: E402
from robustastro.adapt.training import train, write_bundle  # noqa: E402
from robustastro.data.galaxies import Galaxies  # noqa: E402
from robustastro.data.splits import select  # noqa: E402
from robustastro.evaluate.engine import evaluate  # noqa: E402
from robustastro.evaluate.plan import Plan, step  # noqa: E402
from robustastro.models.bundles import load_model  # noqa: E402
from robustastro.record import SCHEMA  # noqa: E402

STEPS = (
    {"name": "depth"},
    {"name": "onepixel", "options": {"pop": 10, "generations": 2}},
    {"name": "onepixel_exhaustive"},
    {"name": "fgsm", "severity": 3},
)


def main() -> None:
    galaxies: Galaxies = make_blobs(300, Exposure.from_survey("LSST", bands="gri"))
    os.chdir(HERE)  # so that no path of this machine is written
    bundle = Path("tiny.pt")
    trained = train(Recipe(arch="tiny", epochs=3, batch=16), galaxies, None)
    write_bundle(bundle, trained, galaxies, None, "cpu")
    model = load_model(bundle)
    test = select(galaxies, "test")
    plan = Plan.of(model, test, [step(**wanted) for wanted in STEPS]).model_copy(update={"kept_images": 2})
    evaluate(plan, model, test, f"schema-{SCHEMA}", validation=select(galaxies, "valid"))
    bundle.unlink()


if __name__ == "__main__":
    main()
