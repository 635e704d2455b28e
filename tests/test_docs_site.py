"""The documentation site builds without a warning, shows every public name, and takes nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streammachine

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    return folder


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    missing = [
        page
        for page in pages
        if not (site / page.with_name("index.html" if page.name == "README.md" else f"{page.stem}.html")).is_file()
    ]
    assert missing == []


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    headed = {found.rpartition(".")[2] for found in re.findall(r'<h[2-6] id="([\w.]+)" class="doc doc-heading"', text)}
    assert {
        name
        for name in streammachine.__all__
        if name not in headed and not name.startswith("_") and not name.endswith(ALIASES)
    } == set()


ALIASES = ("Runner", "Backfilling", "BackFilling", "__version__")  # made from the registry of exchanges


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {
        found
        for page in site.rglob("*.html")
        for found in re.findall(
            r'<(?:script|img|iframe)[^>]+src="(https?://[^"]+)|<link[^>]+href="(https?://[^"]+)',
            page.read_text("utf-8"),
        )
    }
    assert loaded == set()
