"""What the pages for users show can be used as it stands."""

import re
import tomllib
from pathlib import Path

import pytest

from robustastro.gate import rules

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/gate.md")


@pytest.mark.parametrize("page", PAGES)
def test_rules_files_can_be_loaded(page):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    found = [tomllib.loads(block) for block in blocks if "[[rule]]" in block]
    assert found
    for table in found:
        assert len(rules.of(table, page).rule) == len(table["rule"])


@pytest.mark.parametrize("page", sorted(p for folder in ("", "docs", "design") for p in (ROOT / folder).glob("*.md")))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
