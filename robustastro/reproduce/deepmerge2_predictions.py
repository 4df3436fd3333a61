"""What was foretold of DeepMerge II, and what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustastro.metrics.significance import difference, holm
from robustastro.reproduce.measures import Arm
from robustastro.reproduce.two_domain_measures import correct
from robustastro.reproduce.two_domains import Variant
from robustastro.reproduce.verdicts import Row, alone, every, said, verdict

GAINED, HARDLY = 0.10, 0.05
PLAIN = ("mmd", "dann")


def predictions(accuracy: Sequence[Row], added: Sequence[Row]) -> list[dict[str, Any]]:
    """For each architecture the predictions, each with its verdict and the numbers it stands on."""
    answer = []
    for arch in dict.fromkeys(row["arch"] for row in accuracy):
        rows = {row["label"]: row for row in accuracy if row["arch"] == arch}
        found = [_distant(rows), _hardly(rows), _transfer(rows)]
        found += [_added([r for r in added if r["arch"] == arch], word) for word in ("fisher-ratio", "entropy")]
        answer += [{"arch": arch, **each} for each in found]
    return answer


def _distant(rows: Mapping[str, Row]) -> dict[str, Any]:
    text = f"distant: MMD and DANN beat none on the target by at least {100 * GAINED:.0f} points"
    numbers, several, why = _gains(rows, [f"distant-{m}" for m in PLAIN])
    return said(
        text,
        every([n["points"] for n in numbers], np.nextafter(GAINED, 0), several)
        if len(numbers) == len(PLAIN)
        else "undecided",
        numbers,
        why,
    )


def _hardly(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Our reading of "hardly": less than five points; the published gain of MMD is three."""
    text = f"nearby: MMD and DANN alone gain less than {100 * HARDLY:.0f} points on the target"
    numbers, several, why = _gains(rows, [f"nearby-{m}" for m in PLAIN])
    each = [verdict(n["points"], HARDLY, more) for n, more in zip(numbers, several, strict=True)]
    answer = (
        "false" if "true" in each else "true" if len(each) == len(PLAIN) and set(each) == {"false"} else "undecided"
    )
    return said(text, answer, numbers, why)


def _transfer(rows: Mapping[str, Row]) -> dict[str, Any]:
    text = "nearby: transfer learning from the distant model gains on the target (MMD and DANN)"
    numbers, several, why = _gains(rows, [f"nearby-{m}+transfer" for m in PLAIN])
    return said(
        text,
        every([n["points"] for n in numbers], 0.0, several) if len(numbers) == len(PLAIN) else "undecided",
        numbers,
        why,
    )


def _gains(rows: Mapping[str, Row], labels: Sequence[str]) -> tuple[list[dict[str, Any]], list[bool], str]:
    """Gains on the target over `none` of the arms that were run, whether each has several trainings, and a remark."""
    known = [rows[label] for label in labels if label in rows and rows[label]["gain_target"] is not None]
    missing = [label for label in labels if label not in {row["label"] for row in known}]
    trainings = {row["label"]: len(row["seeds"]) for row in rows.values() if row["method"] == "none" or row in known}
    several = [min(len(row["seeds"]), trainings[f"{row['bed']}-none"]) > 1 for row in known]
    why = [f"not run: {', '.join(missing)}"] if missing else []
    said_alone = alone({row["label"]: len(row["seeds"]) for row in known})
    return (
        [{"method": row["label"], "points": row["gain_target"]} for row in known],
        several,
        "; ".join([*why, *([said_alone] if said_alone else [])]),
    )


WORDS = {"fisher-ratio": "the Fisher loss (trace ratio)", "entropy": "entropy minimisation"}


def _added(rows: Sequence[Row], word: str) -> dict[str, Any]:
    text = f"{WORDS[word]} helps every method on the target, on both beds"
    those = [row for row in rows if row["added"] == word]
    numbers = [{"method": row["label"], "points": row["gain"]} for row in those]
    answer = every([n["points"] for n in numbers], 0.0, [row["several"] for row in those])
    return said(text, answer, numbers, "" if those else "not run")


def additions(arms: Sequence[Arm], variants: Mapping[str, Variant]) -> list[dict[str, Any]]:
    """What Fisher, entropy and transfer learning add to a method: with minus without, on the target, Holm-corrected."""
    found = []
    for arm in arms:
        variant = variants[arm.method]
        method, _, added = variant.name.partition("+")
        plain = next((a for a in arms if a.arch == arm.arch and a.method == f"{variant.bed}-{method}"), None)
        if not added or plain is None:
            continue
        gain = difference(correct(arm, "target"), correct(plain, "target")).to_dict()
        several = min(len(arm.cells), len(plain.cells)) > 1
        found.append(
            {
                "arch": arm.arch,
                "bed": variant.bed,
                "label": arm.method,
                "method": method,
                "added": added,
                "gain": gain,
                "several": several,
            }
        )
    for arch in dict.fromkeys(row["arch"] for row in found):
        those = [row for row in found if row["arch"] == arch]
        for row, p in zip(
            those,
            holm(np.array([r["gain"]["p"] if r["gain"]["p"] is not None else np.nan for r in those])),
            strict=True,
        ):
            row["gain"]["p_corrected"] = float(p)
    return found
