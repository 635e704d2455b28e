"""The documents hold together: what is cited is there, links lead somewhere, decisions have one form."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
SECTIONS = ["What holds", "Why", "The price", "In the code"]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "changes" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
SOURCES = [
    path
    for folder in ("engine", "server", "prompts", "tests", "benchmarks", "examples", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".pyx", ".pxi", ".pyi", ".lua", ".md"} and path != Path(__file__)
]
HOMES = {"streammachine": "engine", "streammachine_mcp": "server"}
KINDS = {"added", "changed", "deprecated", "removed", "fixed", "security"}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_decisions_are_numbered_and_stand_in_the_index() -> None:
    assert [int(path.name[:2]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = text(ROOT / "docs" / "decisions" / "README.md")
    assert re.findall(r"\((\d\d-[\w-]+\.md)\)", index) == [path.name for path in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_has_the_form(page: Path) -> None:
    title, *_ = text(page).splitlines()
    assert re.fullmatch(rf"# {int(page.name[:2])}\. \S.*", title)
    assert re.findall(r"^## (.*)$", text(page), re.MULTILINE) == SECTIONS


def test_what_code_and_documents_cite_stands_in_the_repository() -> None:
    cited = {
        (found, name(path))
        for path in SOURCES
        for found in re.findall(r"(?<![\w/.-])docs/[\w/-]+(?:\.[\w-]+)*\.md", text(path))
    }
    assert len(cited) > 15
    missing = [(found, where) for found, where in cited if not (ROOT / found).is_file()]
    assert sorted(missing) == []


def test_nothing_cites_what_stands_outside_of_the_repository() -> None:
    outside = re.compile(r"\bDESIGN\b|\bCONTRACT\.md|\bfacts/\w+\.md|\b[Cc]ontract [A-J]\d?\b")
    assert [(name(path), found) for path in SOURCES for found in outside.findall(text(path))] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text(page)) if "://" not in link]
    files = [(page.parent / link.partition("#")[0]).resolve() for link in links]
    assert [name(file) for file in files if not file.exists()] == []


@pytest.mark.parametrize("page", [ROOT / "docs" / "architecture.md", *DECISIONS], ids=name)
def test_the_modules_that_a_page_names_are_there(page: Path) -> None:
    whole = re.findall(r"`((?:streammachine|streammachine_mcp)/[\w/.]*[\w/])`", text(page))
    short = re.findall(r"`((?:redis|runtime|ohlc|market|frames|cli)/[\w/.]*[\w/])`", text(page))
    wanted = [ROOT / HOMES[path.partition("/")[0]] / path for path in whole]
    wanted += [ROOT / "engine" / "streammachine" / path for path in short]
    assert [name(path) for path in wanted if not path.exists()] == []


def test_a_fragment_of_the_changelog_has_a_kind() -> None:
    fragments = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [each for each in fragments if not re.fullmatch(rf"[\w-]+\.({'|'.join(KINDS)})\.md", each)] == []


def test_make_help_shows_every_target() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text(ROOT / "Makefile"), re.MULTILINE)
    assert listed == set(phony.split())
    named = {target for page in PAGES for target in re.findall(r"(?:^|`|; )make ([a-z-]+)", text(page), re.MULTILINE)}
    assert named <= listed
