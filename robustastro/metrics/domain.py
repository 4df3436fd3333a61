"""How far apart two sets of galaxies lie in the latent space of a model: clean and perturbed, or source and target.

Where row i of both sets is the same galaxy, say `paired`: its two latents then stay together, so that no galaxy is
trained on and tested with, and none is compared with itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perturbations.errors import InputError
from robustastro.metrics.intervals import NOTHING, Estimate, balanced, fraction
from robustastro.metrics.paired import stacked
from robustastro.record import Record, Unit, jsonable

MOST = 500  # galaxies taken of a run: distances are wanted between all pairs
FOLDS, PERMUTATIONS = 5, 999
WIDER = 1.25  # than if the errors of all folds were independent; the scatter of simulated distances asks for up to 1.27


@dataclass(frozen=True)
class Discrepancy:
    """A squared maximum mean discrepancy: its unbiased estimate, which may be negative, and a permutation p-value.

    `width` is that of the Gaussian kernel [latent units], `n` the galaxies of the smaller set.
    """

    value: float
    p: float
    width: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON, None for NaN."""
        return jsonable(asdict(self))


def domain(record: Record, units: Sequence[Unit] | None = None) -> list[dict[str, Any]]:
    """Clean against perturbed latents of each unit, over at most 500 galaxies, the same for all units.

    Parameters
    ----------
    units : of the record; default all.

    Returns
    -------
    For each unit with rows: perturbation, severity, strength and unit; `n` galaxies used `of` those that have finite
    latents; `proxy_a_distance`, `mmd` (its p not corrected for the number of units), `silhouette_domains` of clean
    against perturbed, `silhouette_classes` and `silhouette_classes_clean` of the true classes; null with a `reason`
    where the unit kept no latents.
    """
    order = np.random.default_rng(0).permutation(len(record.galaxies))
    rank = dict(zip(record.galaxies.index, order, strict=True))
    rows = []
    for unit in record.units() if units is None else units:
        table = record.unit(unit.perturbation, unit.strength)
        if table.empty:
            continue
        clean = record.galaxies.loc[table.index]
        first = second = np.zeros((0, 1))
        if "latent" in table:
            first, second = (stacked(t["latent"]).astype(np.float64) for t in (clean, table))
        known = clean["label"].fillna(-1).to_numpy(dtype=np.int64)[: len(first)]
        finite = np.flatnonzero(np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1))
        which = sorted(sorted(finite, key=lambda k: rank[table.index[k]])[:MOST])
        first, second, known = first[which], second[which], known[which]
        both, sides = np.concatenate([first, second]), np.repeat([0, 1], len(which))
        rows.append(
            asdict(unit)
            | {
                "n": len(which),
                "of": len(finite),
                "reason": None if len(finite) else "no finite latents are kept of this unit",
                "proxy_a_distance": proxy_a_distance(first, second, paired=True).to_dict(),
                "mmd": mmd(first, second, paired=True).to_dict(),
                "silhouette_domains": silhouette(both, sides).to_dict(),
                "silhouette_classes": silhouette(second[known >= 0], known[known >= 0]).to_dict(),
                "silhouette_classes_clean": silhouette(first[known >= 0], known[known >= 0]).to_dict(),
            }
        )
    return rows


def proxy_a_distance(first: np.ndarray, second: np.ndarray, paired: bool = False, seed: int = 0) -> Estimate:
    """2 (1 - 2 error) of a linear classifier that tells the sets apart (Ben-David et al. 2007, NeurIPS 19, section 4).

    Logistic regression on latents standardised in each training fold, its error that of the test folds of a five-fold
    cross-validation, mean of both sets. 2: told apart always; 0: not at all; a little below 0 by chance. Interval: that
    of the error (`fraction` over galaxies, or `balanced` over sets), a quarter wider, because the folds share galaxies
    to train on, so that their errors vary together: then it covers 93% or more, simulated with N of 100 and 300.

    Parameters
    ----------
    first, second : latents (N, D) and (M, D).
    paired : row i of both is the same galaxy.
    seed : of the folds.

    Returns
    -------
    n counts galaxies; NaN with fewer than five in a set.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(first, second, paired)
    n, m = len(first), len(second)
    if min(n, m) < FOLDS:
        return NOTHING
    rng = np.random.default_rng(seed)
    folds = rng.permutation(n) % FOLDS
    folds = np.concatenate([folds, folds if paired else rng.permutation(m) % FOLDS])
    x, side = np.concatenate([first, second]), np.repeat([0, 1], [n, m])
    right = np.zeros(n + m, dtype=bool)
    for fold in range(FOLDS):
        test = folds == fold
        classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        right[test] = classifier.fit(x[~test], side[~test]).predict(x[test]) == side[test]
    found = fraction(np.mean([right[:n], right[n:]], axis=0)) if paired else balanced(right, side, 2)
    value = 4 * found.value - 2
    low, high = (value + WIDER * (4 * end - 2 - value) for end in (found.low, found.high))
    return Estimate(value, max(low, -2.0), min(high, 2.0), found.n)


def mmd(first: np.ndarray, second: np.ndarray, paired: bool = False, seed: int = 0) -> Discrepancy:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, JMLR 13, 723, eq. 3; eq. 4 where paired).

    Gaussian kernel exp(-d^2 / 2 width^2), its width the median distance between all pairs of points. p: how often 999
    random exchanges of the sets give as much, exchanged within each galaxy where paired; the value counts among them.

    Parameters
    ----------
    first, second : latents (N, D) and (M, D).
    paired : row i of both is the same galaxy; its two latents, which are not independent, are then not compared.
    seed : of the exchanges.
    """
    _check(first, second, paired)
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return Discrepancy(math.nan, math.nan, math.nan, 0)
    squared = _squared_distances(np.concatenate([first, second]).astype(np.float64))
    width = math.sqrt(float(np.median(squared[np.triu_indices(n + m, k=1)])))
    # points that mostly coincide have no median distance: then any width will do
    kernel = np.exp(-squared / (2 * width**2 or 1.0))
    np.fill_diagonal(kernel, 0.0)
    rng = np.random.default_rng(seed)
    if paired:
        cross = kernel[:n, n:]
        change = kernel[:n, :n] + kernel[n:, n:] - cross - cross.T
        np.fill_diagonal(change, 0.0)
        value = change.sum() / (n * (n - 1))
        signs = rng.choice([-1.0, 1.0], size=(PERMUTATIONS, n))  # to exchange a galaxy's two turns its sign
        exchanged = np.einsum("rn,rn->r", signs @ change, signs) / (n * (n - 1))
    else:
        value = float(_unpaired(kernel, (np.arange(n + m) < n)[None] + 0.0)[0])
        inside = rng.permuted(np.tile(np.arange(n + m) < n, (PERMUTATIONS, 1)), axis=1) + 0.0
        exchanged = _unpaired(kernel, inside)
    above = int(np.sum(exchanged >= value - 1e-12))  # a tie is not below because of rounding
    return Discrepancy(float(value), (1 + above) / (1 + PERMUTATIONS), width, min(n, m))


def silhouette(latent: np.ndarray, groups: np.ndarray) -> Estimate:
    """Mean silhouette (Rousseeuw 1987, J. Comput. Appl. Math. 20, 53): 1 apart, 0 overlapping, negative the wrong way.

    Without an interval: the silhouettes of galaxies are not independent of one another.

    Parameters
    ----------
    latent : (N, D), finite.
    groups : (N,) int. NaN unless there are two or more groups, and fewer than N.
    """
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(groups)) < len(groups):
        return NOTHING
    return Estimate(float(silhouette_score(latent, groups)), math.nan, math.nan, len(groups))


def _unpaired(kernel: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """MMD^2 (R,) of R ways to divide the points, of a kernel (P, P) with zero diagonal; inside (R, P) is 1 or 0."""
    n, outside = inside[0].sum(), 1.0 - inside
    m = len(kernel) - n
    reach = inside @ kernel
    within = np.einsum("rp,rp->r", reach, inside)
    across = np.einsum("rp,rp->r", reach, outside)
    beyond = kernel.sum() - within - 2 * across
    return within / (n * (n - 1)) + beyond / (m * (m - 1)) - 2 * across / (n * m)


def _squared_distances(x: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(x, "sqeuclidean"))


def _check(first: np.ndarray, second: np.ndarray, paired: bool) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(
            f"latents of shape {first.shape} and {second.shape}", "(N, D) and (M, D)", "take both from one model"
        )
    if paired and len(first) != len(second):
        raise InputError(
            f"{len(first)} and {len(second)} paired latents", "as many in both", "give the same galaxies in one order"
        )
