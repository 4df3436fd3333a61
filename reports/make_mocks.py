"""Show every class of mock galaxies and every test bed, measure the classes, and write the report reports/mocks.

    python reports/make_mocks.py [--galaxies 20] [--out DIR]

Needs statmorph (a development dependency). Four minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy import ndimage

from robustastro import __version__
from robustastro.data.domains import TEST_BEDS, recipes
from robustastro.data.galaxies import Galaxies
from robustastro.data.mocks import Recipe, simulate
from robustastro.data.morphologies import MORPHOLOGIES
from robustastro.evaluate.describe import _commit
from robustastro.figures.images import display
from robustastro.figures.style import PAGE, blank, colours, save, style
from robustastro.progress import say, shown
from robustastro.record import jsonable, write_whole

SHOWN, SEED = 8, 11
IN_BEDS = ("spiral", "elliptical", "merger", "barred_spiral", "edge_on_bulge", "disturbed", "strong_lens")
STRETCH = 3.0  # asinh(3 x / p99.5): faint tides and bright nuclei at once
BRIGHTER = 2.5  # mag: published values are of nearby galaxies with hardly any noise
WIDE = 160  # pixels: room for the sky around a galaxy
QUANTITIES = {
    "half_light_radius": "half-light radius [arcsec]",
    "magnitude": "r [mag]",
    "concentration": "concentration C",
    "asymmetry": "asymmetry A",
}
# Means and scatters of C and A: Conselice 2003, ApJS 147, 1, Table 6; and the asymmetry above which he calls a galaxy a
# merger. Our classes beside his types.
ELLIPTICALS, EARLY, LATE, EDGE_ON, ULIRGS = (
    {"concentration": (4.4, 0.3), "asymmetry": (0.02, 0.02), "name": "ellipticals"},
    {"concentration": (3.9, 0.5), "asymmetry": (0.07, 0.04), "name": "early-type disks"},
    {"concentration": (3.1, 0.4), "asymmetry": (0.15, 0.06), "name": "late-type disks"},
    {"concentration": (3.7, 0.6), "asymmetry": (0.17, 0.11), "name": "edge-on disks"},
    {"concentration": (3.5, 0.7), "asymmetry": (0.32, 0.19), "name": "ULIRGs"},
)
PUBLISHED: dict[str, dict[str, Any]] = {
    "elliptical": ELLIPTICALS,
    "round_smooth": ELLIPTICALS,
    "spiral": LATE,
    "barred_spiral": LATE,
    "loose_spiral": LATE,
    "tight_spiral": EARLY,
    "edge_on": EDGE_ON,
    "edge_on_bulge": EDGE_ON,
    **dict.fromkeys(("merger", "merging", "disturbed"), ULIRGS),
}
MERGER_ASYMMETRY = 0.35


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, default=20, help="of each class that are measured")
    parser.add_argument("--out", type=Path, default=Path("reports/mocks"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = [(name, _of(Recipe(n=SHOWN, seed=SEED + k, classes=(name,)))) for k, name in enumerate(MORPHOLOGIES)]
    save(sheet(rows), asked.out / "contact.jpg", dpi=150)
    beds = []
    for bed in TEST_BEDS:
        for role, recipe in zip(("source", "target"), recipes(bed, "ten", len(IN_BEDS)), strict=True):
            one = replace(recipe, classes=IN_BEDS, n=len(IN_BEDS), seed=SEED + 2)
            beds.append((f"{bed} {role}\n{recipe.domain().replace(', ', ',' + chr(10))}", _of(one)))
    save(sheet(beds, IN_BEDS), asked.out / "beds.jpg", dpi=150)

    measured = {}
    with shown() as progress:
        for k, name in enumerate(MORPHOLOGIES):
            progress("measure", k, len(MORPHOLOGIES))
            recipe = Recipe(n=asked.galaxies, seed=SEED + k, classes=(name,), bands=("r",), size=WIDE)
            measured[name] = {"standard": measure(recipe), "bright": measure(replace(recipe, brighter=BRIGHTER))}
    save(distributions(measured), asked.out / "distributions.png")
    table = {name: {of: summary(values) for of, values in both.items()} for name, both in measured.items()}
    document = {
        "command": f"python reports/make_mocks.py --galaxies {asked.galaxies}", "version": __version__,
        "git": _commit(), "galaxies": asked.galaxies, "brighter": BRIGHTER, "size": WIDE, "seed": SEED, "table": table,
        "published": PUBLISHED, "merger_asymmetry": MERGER_ASYMMETRY, "in_beds": IN_BEDS,
        "beds": {
            name: {"description": bed.description, "numbers": bed.numbers, "mergers": bed.mergers,
                   "source": shlex.join(settings(bed.source)), "target": shlex.join(settings(bed.target))}
            for name, bed in TEST_BEDS.items()
        },
    }  # fmt: skip
    text = json.dumps(jsonable(document), indent=1, allow_nan=False) + "\n"
    write_whole(asked.out / "results.json", lambda file: file.write_text(text))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(Path(__file__).with_name("mocks.md.j2").read_text()).render(d=document)
    write_whole(asked.out / "index.md", lambda file: file.write_text(page))
    say(f"wrote {asked.out / 'index.md'}")


def settings(side: Any) -> list[str]:
    """Settings of a domain as words."""
    return [f"{name}={','.join(v) if isinstance(v, tuple) else f'{v:g}' if isinstance(v, float) else v}"
            for name, v in side.items()]  # fmt: skip


def _of(recipe: Recipe) -> Galaxies:
    return simulate(recipe, processes=1)


def sheet(rows: Sequence[tuple[str, Galaxies]], columns: Sequence[str] = ()) -> Any:
    """A contact sheet: one row of galaxies under each name, each image stretched by itself."""
    count = len(rows[0][1])
    with style():
        fig = blank(PAGE, 0.15 + len(rows) * (PAGE - 1.05) / count)
        axes = fig.subplots(len(rows), count, squeeze=False)
        fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
        for line, (name, galaxies) in zip(axes, rows, strict=True):
            images = galaxies.batch(slice(None)).numpy()
            for ax, image in zip(line, images, strict=True):
                top = np.percentile(image, 99.5, axis=(1, 2), keepdims=True)
                ax.imshow(
                    display(np.arcsinh(STRETCH * image / top), galaxies.bands, -0.1, np.arcsinh(STRETCH) * 1.15),
                    interpolation="nearest",
                )
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            words = name.replace("_", " ")
            line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=7, labelpad=4)
        for ax, name in zip(axes[0], columns, strict=False):
            ax.set_title(name.replace("_", " "), fontsize=7)
    return fig


def measure(recipe: Recipe) -> dict[str, np.ndarray]:
    """statmorph on the noisy images of one class, and true sizes and magnitudes; NaN where statmorph gave up."""
    import statmorph

    galaxies = _of(recipe)
    flux = galaxies.batch(slice(None))
    assert galaxies.exposure is not None
    sigma = galaxies.exposure.variance(flux).sqrt().numpy()[:, 0].astype(float)
    found = {name: np.full(len(galaxies), np.nan) for name in ("concentration", "asymmetry", "gini", "m20", "sn")}
    for k, image in enumerate(flux.numpy()[:, 0].astype(float)):
        smooth = ndimage.gaussian_filter(image, 2.0)
        # noise of the smoothed image: sigma / (2 sqrt(pi) 2 pixels)
        pieces: Any = ndimage.label(smooth > 1.5 * np.median(sigma[k]) / (4.0 * np.sqrt(np.pi)))[0]
        middle = pieces[WIDE // 2 - 6 : WIDE // 2 + 6, WIDE // 2 - 6 : WIDE // 2 + 6]
        inside = middle[middle > 0]
        if not inside.size:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = statmorph.SourceMorphology(
                image, (pieces == np.bincount(inside).argmax()).astype(int), 1, weightmap=sigma[k],
                sersic_fitting_args={"maxiter": 1},  # not used here, and half of the time
            )  # fmt: skip
        if one.flag < 2:
            values = (one.concentration, one.asymmetry, one.gini, one.m20, one.sn_per_pixel)
            for name, value in zip(found, values, strict=True):
                found[name][k] = value
    truth = galaxies.catalogue
    return found | {
        "half_light_radius": truth.half_light_radius.to_numpy(), "magnitude": truth.magnitude_r.to_numpy(),
    }  # fmt: skip


def summary(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Median, 16th and 84th percentile of each quantity, and how many galaxies could be measured."""
    good = np.isfinite(values["concentration"])
    line: dict[str, Any] = {name: np.percentile(v[good], (50, 16, 84)).tolist() for name, v in values.items()}
    merging = values["asymmetry"][good] > MERGER_ASYMMETRY
    lotz = values["gini"][good] > 0.33 - 0.14 * values["m20"][good]  # Lotz et al. 2008, ApJ 672, 177
    return line | {"n": int(good.sum()), "asymmetric": float(merging.mean()), "gini_m20": float(lotz.mean())}


def distributions(measured: dict[str, dict[str, dict[str, np.ndarray]]]) -> Any:
    """Median, 16 to 84 and 2.5 to 97.5 per cent of size, magnitude, C and A by class, beside published ones."""
    bright, standard, grey = *colours(2), "0.85"
    place = np.arange(len(measured))[::-1]
    with style():
        fig = blank(PAGE, 4.3)
        axes = fig.subplots(1, 4, sharey=True)
        for ax, (name, words) in zip(axes, QUANTITIES.items(), strict=True):
            noisy = name in ("concentration", "asymmetry")
            for y, (of, both) in zip(place, measured.items(), strict=True):
                if noisy and of in PUBLISHED:
                    mean, scatter = PUBLISHED[of][name]
                    ax.barh(y, 2.0 * scatter, 0.8, mean - scatter, color=grey, lw=0)
                    ax.plot([mean, mean], [y - 0.4, y + 0.4], color="0.5", lw=1)
                sets = (("bright", bright, "o", 0.14), ("standard", standard, "s", -0.14))
                for which, colour, marker, off in sets if noisy else (("standard", "black", "o", 0.0),):
                    values = both[which][name][np.isfinite(both[which][name])]
                    faint, low, middle, high, top = np.percentile(values, (2.5, 16, 50, 84, 97.5))
                    ax.plot([faint, top], [y + off] * 2, color=colour, lw=0.6)
                    ax.plot([low, high], [y + off] * 2, color=colour, lw=2)
                    ax.plot(middle, y + off, marker, color=colour, ms=3.5, mec="white", mew=0.4)
            ax.set_xlabel(words)
        axes[0].set_xlim(left=0.0)
        axes[2].set_xlim(left=1.0)
        axes[0].set_ylim(-0.7, len(measured) - 0.3)
        axes[0].set_yticks(place, [name.replace("_", " ") for name in measured])
        axes[3].axvline(MERGER_ASYMMETRY, color="0.4", lw=0.8, ls=":")
        axes[3].set_xlim(-0.3, 1.0)
        handles = [axes[2].plot([], [], m, color=c, ms=3.5)[0] for m, c in (("o", bright), ("s", standard))]
        handles.append(axes[2].barh([0], [0], color=grey))
        texts = (f"{BRIGHTER:g} mag brighter", "as they are", "Conselice (2003)")
        fig.legend(handles, texts, loc="outside upper right", ncols=3)
    return fig


if __name__ == "__main__":
    main()
