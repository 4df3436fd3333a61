"""A verdict as JUnit XML, which GitLab, Jenkins and GitHub actions show as tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from robustastro.gate.verdict import Verdict

# XML 1.0 has no place for these, escaped or not
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdict: Verdict) -> str:
    """One test case for each check and flag, failed where it makes the verdict no. Well-formed whatever is in it."""
    cases = [
        (
            check.rule,
            f"{check.where}: {check.kind} = {check.limit:g}",
            check.counted_as == "fail",
            check.status,
            check.message + (f" (counted as {check.counted_as})" if check.status == "uncertain" else ""),
        )
        for check in verdict.checks
    ] + [
        (f"flags of the {flag.of}", flag.code, not flag.allowed, "flag", f"{flag.message}. {flag.remedy}.")
        for flag in verdict.flags
    ]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(failed for _, _, failed, _, _ in cases)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "robustastro gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(verdict.run), **counts, "skipped": "0"})
    facts = {"rules": verdict.rules, "baseline": verdict.baseline or "", "verdict": verdict.status}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for group, name, failed, kind, message in cases:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _clean(group), "name": _clean(name), "time": "0"}
        )
        if failed:
            failure = ElementTree.SubElement(case, "failure", {"message": _clean(message), "type": kind})
            failure.text = _clean(message)
        ElementTree.SubElement(case, "system-out").text = _clean(message)
    if verdict.notes:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(verdict.notes))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
