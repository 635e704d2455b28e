"""The scripts of findings/ have the agreed form, and its README names each. They are run by hand, outside CI."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PARTS = ("Expected:", "Why it matters:", "Source:", "Versions:", "Date:", "Output seen:")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_says_what_when_why_and_fails_when_it_changes(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    comment = "\n".join(line[2:] for line in text.splitlines()[1:] if line.startswith("# "))
    assert [part for part in PARTS if part not in comment] == []
    assert re.search(r"Date: \d{4}-\d\d-\d\d", comment)
    assert "exit 1" in text and "mktemp -d" in text
    assert "streammachine" not in text.partition("set -euo pipefail")[2]
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("page", [FOLDER / "README.md", ROOT / "docs" / "surprises.md"], ids=lambda path: path.name)
def test_pages_link_only_scripts_that_exist(page: Path) -> None:
    named = set(re.findall(r"(\w+\.sh)\)", page.read_text(encoding="utf-8")))
    assert named and named <= {script.name for script in SCRIPTS}


def test_the_list_names_every_finding() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [script.name for script in SCRIPTS if f"]({script.name})" not in text] == []
