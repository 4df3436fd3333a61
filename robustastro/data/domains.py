"""Test beds of domain adaptation: which mock galaxies are the labelled source and which the unlabelled target.

The pairs of DeepMerge II (Ciprijanovic et al. 2021, arXiv:2103.01373) and DeepAstroUDA (Ciprijanovic et al. 2023,
arXiv:2302.02005), with mocks in place of their simulations and surveys. How large and bright the galaxies are
(`zoom`, `brighter`) and how often they merge is our choice: well resolved and plain to see in the better of the two
domains, and harder in the other. Both domains count light on the source's zero-points, as calibrated surveys do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perturbations.errors import InputError, unknown_name
from robustastro.data.mocks import PRISTINE, Recipe

KNOWN: Mapping[str, tuple[str, ...]] = {
    "merger": ("non-merger", "merger"),
    "three": ("spiral", "elliptical", "merger"),
    "ten": (
        *("disturbed", "merging", "round_smooth", "cigar", "barred_spiral", "tight_spiral", "loose_spiral"),
        *("edge_on", "edge_on_bulge"),
    ),
}
UNKNOWN = "strong_lens"  # private class of the target, as in DeepAstroUDA
SIZES: Mapping[str, int] = {"merger": 75, "three": 100, "ten": 100}  # pixels: DeepMerge's, DeepAstroUDA's
OTHER_SEED = 100_003  # added to the seed of the source: the galaxies of the target are others


@dataclass(frozen=True)
class TestBed:
    """Two domains.

    Parameters
    ----------
    source, target : settings of `Recipe`; classes, number, seed and size come from `recipes`.
    description : for people.
    numbers : where the numbers come from.
    mergers : share of mergers in the two-class task, in source and target.
    """

    __test__ = False  # for pytest: not a test

    source: Mapping[str, Any]
    target: Mapping[str, Any]
    description: str
    numbers: str
    mergers: float = 0.5


def _bed(
    description: str,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    both: Mapping[str, Any],
    numbers: str,
    mergers: float = 0.5,
) -> TestBed:
    return TestBed({**both, **source}, {**both, **target}, description, numbers, mergers)


TEST_BEDS: Mapping[str, TestBed] = {
    "distant": _bed(
        "galaxies at redshift 2 through HST's PSF, without noise and with it",
        source={"depth": PRISTINE},
        target={},
        both={"survey": "HST", "bands": ("I", "J", "H"), "zoom": 0.18, "brighter": -1.3},
        numbers="approximate, perturbations.surveys.HST; half-light radii of 0.25 to 0.65 arcsec, those of large "
        "galaxies at redshift 2 (van der Wel et al. 2014, ApJ 788, 28); H of 21.8 to 23.8 is our choice",
    ),
    "nearby": _bed(
        "simulated galaxies of the nearby universe, nearly without noise, and observed ones as in SDSS",
        source={"population": "simulated", "depth": 20.0},
        target={"population": "observed"},
        both={"survey": "SDSS", "zoom": 2.0, "brighter": 4.0},
        numbers="surveycodex (SDSS); populations of robustastro.data.populations; r of 16.5 to 18.5, around the limit "
        "of 17.8 of the SDSS spectroscopic sample (Strauss et al. 2002, AJ 124, 1810); 20 times SDSS's depth, 15% of "
        "mergers and the sizes are our choice",
        mergers=0.15,
    ),
    "lsst": _bed(
        "LSST after ten years and after one",
        source={"depth": 1.0},
        target={"depth": 0.1},
        both={"survey": "LSST"},
        numbers="surveycodex (LSST); the standard galaxies",
    ),
    "decals": _bed(
        "SDSS and DECaLS: other pixels, seeing and depth",
        source={"survey": "SDSS"},
        target={"survey": "DECaLS", "calibrated_to": "SDSS"},
        both={"bands": ("g", "r", "z"), "zoom": 1.8, "brighter": 4.0},
        numbers="surveycodex (SDSS) and perturbations.surveys (DECaLS); r of 16.5 to 18.5 and the sizes are our choice",
    ),
    "stripe82": _bed(
        "single scans of SDSS, which have labels, and the deep coadd of Stripe 82",
        source={"survey": "SDSS"},
        target={"survey": "Stripe82", "calibrated_to": "SDSS"},
        both={"zoom": 1.8, "brighter": 3.2},
        numbers="surveycodex (SDSS) and perturbations.surveys (Stripe82); r of 17.3 to 19.3 and the sizes are our "
        "choice",
    ),
}


def recipes(bed: str, task: str, n: int, seed: int = 1, unknown: bool = True) -> tuple[Recipe, Recipe]:
    """Source and target of a test bed: different galaxies of the same classes.

    Parameters
    ----------
    bed : a name in `TEST_BEDS`.
    task : "merger" (two classes, 75 pixels), "three" or "ten" (100 pixels); "ten" counts the unknown class.
    n : galaxies in each domain, those of the unknown class included.
    seed : of the source; the target's is another.
    unknown : give the target of "three" and "ten" strong lenses as well, its last class. They get an equal share.

    Raises
    ------
    InputError : a name that is not known, or no galaxies.
    """
    if bed not in TEST_BEDS:
        raise unknown_name("test bed", bed, TEST_BEDS)
    if task not in KNOWN:
        raise unknown_name("task", task, KNOWN)
    if n < 1:
        raise InputError(f"n = {n}", "at least one galaxy", "ask for more")
    chosen, classes = TEST_BEDS[bed], KNOWN[task]
    private = (UNKNOWN,) if unknown and task != "merger" else ()
    shares = (1.0 - chosen.mergers, chosen.mergers) if task == "merger" and chosen.mergers != 0.5 else ()
    both: dict[str, Any] = {"n": n, "size": SIZES[task], "proportions": shares}
    return (
        Recipe(**chosen.source, **both, classes=classes, seed=seed),
        Recipe(**chosen.target, **both, classes=(*classes, *private), seed=seed + OTHER_SEED),
    )
