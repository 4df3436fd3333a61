"""What was foretold of DeepMerge II, and what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustastro.metrics.significance import holm
from robustastro.reproduce.measures import Arm, nan
from robustastro.reproduce.two_domain_measures import correct, gain_of, uneven
from robustastro.reproduce.two_domains import Variant
from robustastro.reproduce.verdicts import Row, alone, said, verdict

GAINED, HARDLY = 0.10, 0.05
PLAIN, METHODS, BEDS = ("mmd", "dann"), ("none", "mmd", "coral", "dann"), ("distant", "nearby")
WORDS = {
    "fisher-ratio": "the Fisher loss (trace ratio)",
    "fisher-difference": "the Fisher loss (trace difference)",
    "entropy": "entropy minimisation",
}
Numbers = list[dict[str, Any]]


def predictions(accuracy: Sequence[Row], added: Sequence[Row]) -> list[dict[str, Any]]:
    """For each architecture the predictions, each with its verdict and the numbers it stands on.

    One about several methods or beds is true where all of them were run and each is, and false where one is.
    """
    answer = []
    for arch in dict.fromkeys(row["arch"] for row in accuracy):
        gains = {
            row["label"]: {"points": row["gain_target"], "several": _several(row, accuracy)}
            for row in accuracy
            if row["arch"] == arch and row["gain_target"] is not None
        }
        more = {
            row["label"]: {"points": row["gain"], "several": row["several"]} for row in added if row["arch"] == arch
        }
        found = [
            _judged(
                f"distant: MMD and DANN beat none on the target by at least {100 * GAINED:.0f} points",
                gains, [f"distant-{m}" for m in PLAIN], GAINED,
            ),
            # our reading of "hardly": less than five points; the published gain of MMD is three
            _judged(
                f"nearby: MMD and DANN alone gain less than {100 * HARDLY:.0f} points on the target over none",
                gains, [f"nearby-{m}" for m in PLAIN], HARDLY, below=True,
            ),
            _judged(
                "nearby: transfer learning from the distant model gains on the target over the same method without it "
                "(MMD and DANN)",
                more, [f"nearby-{m}+transfer" for m in PLAIN], ABOVE_ZERO,
            ),
        ]  # fmt: skip
        for word, called in WORDS.items():
            labels = [f"{bed}-{method}+{word}" for bed in BEDS for method in METHODS]
            found.append(_judged(f"{called} helps every method on the target, on both beds", more, labels, ABOVE_ZERO))
        answer += [{"arch": arch, **each} for each in found]
    return answer


ABOVE_ZERO = float(np.nextafter(0.0, 1.0))


def _several(row: Row, accuracy: Sequence[Row]) -> bool:
    """Whether an arm and `none` of its bed have several trainings each."""
    none = next(r for r in accuracy if (r["arch"], r["label"]) == (row["arch"], f"{row['bed']}-none"))
    return min(len(row["seeds"]), len(none["seeds"])) > 1


def _judged(
    text: str, known: Mapping[str, Row], labels: Sequence[str], least: float, *, below: bool = False
) -> dict[str, Any]:
    """True where every number is at least so large (or, `below`, smaller), false where one is not."""
    there = [label for label in labels if label in known]
    missing = [label for label in labels if label not in known]
    each = [verdict(known[label]["points"], least, known[label]["several"]) for label in there]
    yes, no = ("false", "true") if below else ("true", "false")
    answer = "false" if no in each else "true" if not missing and set(each) == {yes} else "undecided"
    numbers = [{"method": label, "points": known[label]["points"]} for label in there]
    why = [f"not run: {', '.join(missing)}"] if missing else []
    single = {label: 1 for label in there if not known[label]["several"]}
    return said(text, answer, numbers, "; ".join(filter(None, [*why, alone(single)])))


def additions(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """What is added to a method (Fisher, entropy, transfer, published settings): with minus without, on the target.

    `p_corrected` of each gain is Holm's over the rows of an architecture.
    """
    found: list[dict[str, Any]] = []
    for arm in arms:
        variant = variants[arm.method]
        method, _, added = variant.name.partition("+")
        plain = next((a for a in arms if a.arch == arm.arch and a.method == f"{variant.bed}-{method}"), None)
        if not added or plain is None:
            continue
        right, labels = correct(arm, "target")
        gain = gain_of(right, correct(plain, "target")[0], labels, uneven(arm.records[0]["target"])).to_dict()
        several = min(len(arm.cells), len(plain.cells)) > 1
        about = {"arch": arm.arch, "bed": variant.bed, "label": arm.method, "method": method, "added": added}
        found.append({**about, "gain": gain, "several": several})
    for arch in dict.fromkeys(row["arch"] for row in found):
        those = [row["gain"] for row in found if row["arch"] == arch]
        for gain, p in zip(those, holm(np.array([nan(g["p"]) for g in those])), strict=True):
            gain["p_corrected"] = float(p)
    return found
