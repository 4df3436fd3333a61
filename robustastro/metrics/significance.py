"""Is one model better than another, or is it chance? Tests and intervals for galaxies that several models have seen.

Arrays of one model are (n,), of k trainings (seeds) of one method (k, n); column i is always the same galaxy. A galaxy
with a value that is not finite, in any row of either array, is left out of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robustastro.metrics.intervals import CONFIDENCE, NOTHING, Estimate, fraction, mean, paired_drop, proportion
from robustastro.metrics.resampling import same_galaxies
from robustastro.record import jsonable


@dataclass(frozen=True)
class Difference:
    """First minus second, with its interval, and how likely so large a difference is where there is none.

    Parameters
    ----------
    estimate : the difference, its interval, and the number of galaxies.
    p : two-sided; NaN only without any galaxy.
    df : degrees of freedom of t; NaN where the test has none.
    method : how it was found, and which chance it leaves out.
    """

    estimate: Estimate
    p: float
    df: float
    method: str

    def to_dict(self) -> dict[str, float | int | str | None]:
        """{"value", "low", "high", "n", "p", "df", "method"} for JSON, None for NaN."""
        return jsonable(self.estimate.to_dict() | {"p": self.p, "df": self.df, "method": self.method})


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of the exact test of McNemar, `first` and `second` (N,) bool of the same galaxies.

    Only galaxies on which the two disagree count: where there is no difference, each is as likely right in the first as
    in the second (Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13, 91). 1 where they never
    disagree; NaN without galaxies.
    """
    from scipy.special import bdtr  # not scipy.stats, which takes half a second to import

    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    same_galaxies(first, second)
    if len(first) == 0:
        return math.nan
    gained, lost = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def over_seeds(values: np.ndarray, confidence: float = CONFIDENCE, *, fractions: bool = False) -> Estimate:
    """Mean over k trainings and n galaxies, with the chance in both.

    Every training sees every galaxy (crossed, not nested), so the variance is (variance of the seed means) / k +
    (variance over galaxies of their mean over seeds) / n. What is particular to a galaxy in one training is counted in
    both parts, which errs on the wide side. The factor is the mean of t(k - 1) and t(n - 1), weighted by the two
    variances (Cochran & Cox 1950, Experimental Designs). Where trainings scatter by a few points it covers 94% and
    more from two of them; by ten points, at least 91%, where the t of Satterthwaite covers as little as 87%. With
    k = 1 the chance of training is unknown and left out: the interval is of that one network (`proportion`, `fraction`,
    `mean`).

    Booleans and fractions: never narrower than `fraction` of the galaxies' means, and within [0, 1].

    Parameters
    ----------
    values : (k, n), bool or real; (n,) is one training.
    fractions : the values are shares in [0, 1], such as the rungs on which a galaxy is right, and no distances.

    Returns
    -------
    Estimate whose n is the number of galaxies.
    """
    (values,) = _complete(values)
    k, n = values.shape
    if k * n == 0:
        return NOTHING
    if k == 1 and values.dtype == bool:
        return proportion(values[0], confidence)
    fractions = fractions or values.dtype == bool
    galaxies = values.mean(axis=0)
    if k == 1 or n == 1:
        return (fraction if fractions else mean)(galaxies, confidence)
    parts = [_seeds(values), (float(galaxies.var(ddof=1)) / n, n - 1)]
    centre = float(galaxies.mean())
    total = sum(v for v, _ in parts)
    half = sum(v * _t(df, confidence) for v, df in parts) / math.sqrt(total) if total else 0.0
    low, high = centre - half, centre + half
    if fractions:
        alone = fraction(galaxies, confidence)
        low, high = max(0.0, min(low, alone.low)), min(1.0, max(high, alone.high))
    return Estimate(centre, low, high, n)


def difference(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> Difference:
    """First minus second, in the mean over trainings and galaxies; the same galaxies, but seeds are not paired.

    - Booleans of one training each: the interval of Newcombe (`paired_drop`) and the exact p of McNemar. The two can
      disagree at the edge: the test errs on the careful side.
    - Real values of one training each: paired t.
    - More trainings of either: d_i, the difference of the means over seeds, of each galaxy; the variance is S1^2 / k1 +
      S2^2 / k2 + var(d_i) / n with S^2 the variance of the seed means, and the t is that of Satterthwaite (1946,
      Biometrics Bulletin 2, 110) with k1 + k2 - 2 degrees of freedom at most. His are found from S1^2 and S2^2, which
      two or three trainings hardly know: where these are small by chance, the degrees of freedom are many by the same
      chance, and a p near 0.001 comes up to ten times too often. The price: of two trainings each, hardly any p stays
      small when it is corrected for many tests. Where only the arm of fewer trainings scatters, p is still too small:
      train both as often.
    - An arm of a single training has no S^2 (k - 1 degrees of freedom at most): its own chance is left out, and
      `method` says so. The result is about that network, not its method. Where trainings scatter by 3.5 points, the
      difference of two methods is within the interval in 46% of cases of one training each, and in 88% of one against
      five, with 500 galaxies of which 85% are right; where they scatter by seven, in 25% and 83%.

    Booleans of several trainings: var(d_i) counts two more galaxies, one at +1 and one at -1 (Bonett & Price 2012,
    Journal of Educational and Behavioral Statistics 37, 479), so that a sample without any difference still has an
    interval. Real values that all differ by the same nonzero amount have no variance, so no t: p is that of the sign
    test, 2^(1 - n), the smallest that n galaxies allow. Where all values agree p is 1.

    Parameters
    ----------
    first, second : (k1, n) and (k2, n), both bool or real; (n,) is one training.

    Raises
    ------
    InputError : not the same number of galaxies.
    """
    first, second = _complete(first, second)
    (k1, n), k2 = first.shape, len(second)
    method = _method(k1, k2)
    if k1 * k2 * n == 0:
        return Difference(NOTHING, math.nan, math.nan, method)
    boolean = first.dtype == bool and second.dtype == bool
    if boolean and k1 == k2 == 1:
        p = mcnemar(first[0], second[0])
        return Difference(paired_drop(first[0], second[0], confidence), p, math.nan, method)
    one, two = first.mean(axis=0), second.mean(axis=0)
    apart = one - two
    value = float(apart.mean())
    if boolean:
        galaxies = (float((np.sum(apart**2) + 2) / (n + 2) - (np.sum(apart) / (n + 2)) ** 2) / (n + 2), n + 1)
    else:
        galaxies = (float(apart.var(ddof=1)) / n if n > 1 else 0.0, n - 1)
    parts = [*(_seeds(values) for values in (first, second) if len(values) > 1), galaxies]
    spread = math.sqrt(sum(v for v, _ in parts))
    rounding = 1e-12 * float(np.abs([one, two]).max())
    if spread <= rounding or (n == 1 and not boolean):
        p = 1.0 if abs(value) <= rounding else 2.0 ** (1 - n)
        limit = math.nan if n == 1 else value
        return Difference(Estimate(value, limit, limit, n), p, math.nan, f"{method}; all differences equal, sign test")
    df = _satterthwaite(parts, k1 + k2 - 2)
    half = _t(df, confidence) * spread
    low, high = value - half, value + half
    if boolean:
        low, high = max(-1.0, low), min(1.0, high)
    return Difference(Estimate(value, low, high, n), 2.0 * _below(-abs(value) / spread, df), df, method)


def ratio(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of the first over mean of the second, on the same galaxies, with an interval.

    That of Fieller (1954, Journal of the Royal Statistical Society B 16, 175): the ratios R for which first - R second
    is not different from 0 by the t test of `difference`. Of skewed distances it covers what it says, where `bootstrap`
    covers less; it needs no random numbers.

    Parameters
    ----------
    first, second : (k1, n) and (k2, n) real; (n,) is one training, whose own chance is left out.

    Returns
    -------
    Estimate without an interval where the mean of the second could be 0: often, where it is of two trainings.

    Raises
    ------
    InputError : not the same number of galaxies.
    """
    first, second = (values.astype(np.float64) for values in _complete(first, second))
    n = first.shape[1]
    if len(first) * len(second) * n == 0:
        return NOTHING
    one, two = first.mean(axis=0), second.mean(axis=0)
    above, below = float(one.mean()), float(two.mean())
    value = above / below if below else math.nan
    if n < 2 or not below:
        return Estimate(value, math.nan, math.nan, n)
    chance1, chance2 = (_seeds(values) if len(values) > 1 else (0.0, 1) for values in (first, second))
    between = np.cov(one, two) / n
    galaxies = (float((one - value * two).var(ddof=1)) / n, n - 1)
    parts = [chance1, (value**2 * chance2[0], chance2[1]), galaxies]
    df = _satterthwaite(parts, len(first) + len(second) - 2)
    t2 = _t(df, confidence) ** 2
    a = below**2 - t2 * (chance2[0] + float(between[1, 1]))
    b = above * below - t2 * float(between[0, 1])
    c = above**2 - t2 * (chance1[0] + float(between[0, 0]))
    if a <= 0:
        return Estimate(value, math.nan, math.nan, n)
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return Estimate(value, (b - root) / a, (b + root) / a, n)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (m,) corrected for how many there are: the chance of any false finding among them stays below the level.

    The step-down rule of Holm (1979, Scandinavian Journal of Statistics 6, 65). NaN ones are not counted and stay NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = p.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected


# ---------------------------------------------------------------------- effect sizes


def cohens_h(first: float, second: float) -> float:
    """Effect size of two fractions, 2 asin sqrt(first) - 2 asin sqrt(second); 0.2 is small, 0.5 medium, 0.8 large.

    Cohen (1988, Statistical Power Analysis for the Behavioral Sciences, chapter 6). NaN of NaN.
    """
    return 2.0 * float(np.arcsin(np.sqrt(first)) - np.arcsin(np.sqrt(second)))


def cohens_dz(first: np.ndarray, second: np.ndarray) -> float:
    """Effect size of paired real values (n,): mean of the differences over their standard deviation.

    Cohen (1988, Statistical Power Analysis for the Behavioral Sciences, section 2.3.5). NaN where the differences do
    not vary, or below two galaxies.
    """
    one, two = _complete(first, second)
    apart = (one.astype(np.float64) - two)[0]
    if len(apart) < 2 or not (spread := float(apart.std(ddof=1))):
        return math.nan
    return float(apart.mean()) / spread


def odds_ratio(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Galaxies that only the first has right, over those that only the second has right, with the exact interval.

    `first` and `second` are (N,) bool. The interval of Clopper & Pearson (1934, Biometrika 26, 404) of the first among
    the discordant galaxies, as odds. Infinite (null in JSON) where the second is never alone; `n` counts discordant
    galaxies.
    """
    from scipy.special import betaincinv

    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    same_galaxies(first, second)
    gained, lost = int(np.sum(first & ~second)), int(np.sum(~first & second))
    if gained + lost == 0:
        return NOTHING
    tail = (1 - confidence) / 2
    low = float(betaincinv(gained, lost + 1, tail)) if gained else 0.0
    high = float(betaincinv(gained + 1, lost, 1 - tail)) if lost else 1.0
    value, below, above = (x / (1 - x) if x < 1 else math.inf for x in (gained / (gained + lost), low, high))
    return Estimate(value, below, above, gained + lost)


# ---------------------------------------------------------------------- parts


def _complete(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays (k, n), bool or float64, of the galaxies whose values are all finite."""
    found = [np.atleast_2d(values) for values in arrays]
    found = [values if values.dtype == bool else values.astype(np.float64) for values in found]
    same_galaxies(*(values.T for values in found))
    kept = np.all([np.isfinite(values).all(axis=0) for values in found], axis=0)
    return [values[:, kept] for values in found]


def _seeds(values: np.ndarray) -> tuple[float, int]:
    """Variance of the mean over seeds that comes from the seeds (k, n), and its degrees of freedom."""
    return float(values.mean(axis=1).var(ddof=1)) / len(values), len(values) - 1


def _satterthwaite(parts: list[tuple[float, int]], trainings: int) -> float:
    """Degrees of freedom of a sum of variances, each with its own; not more than those of the trainings, if any."""
    total = sum(v for v, _ in parts)
    df = total**2 / sum(v**2 / df for v, df in parts) if total else 1.0
    return min(df, trainings) if trainings else df


def _t(df: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2))


def _below(t: float, df: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, t))


def _method(k1: int, k2: int) -> str:
    if k1 == k2 == 1:
        return "one training each"
    alone = [name for name, k in (("first", k1), ("second", k2)) if k == 1]
    left_out = f"; the chance of training of the {alone[0]} is left out" if alone else ""
    return f"{k1} and {k2} trainings{left_out}"
