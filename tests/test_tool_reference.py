"""docs/reference-tools.md: every tool stands in it once, with a call that works and a result of the same make."""

from __future__ import annotations

from types import ModuleType

import pytest

from support.golden import OFF, golden
from support.scripts import script


@pytest.fixture(scope="module")
def written() -> ModuleType:
    return script("tool_examples")


def test_every_tool_stands_in_it_once(written: ModuleType) -> None:
    text = written.PAGE.read_text(encoding="utf-8")
    headed = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sorted(headed) == sorted({**golden(), **golden(OFF)})
    assert set(written.shown(text)) == set(headed)


def test_the_calls_give_what_the_page_shows(written: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("desk")
    made = written.shown(written.page(written.calls(folder), folder))
    page = written.shown(written.PAGE.read_text(encoding="utf-8"))
    wrong = [
        f"{tool}: {written.shape(page[tool][1])} is now {written.shape(result)}"
        for tool, (arguments, result) in made.items()
        if tool not in page
        or written.shape(arguments) != written.shape(page[tool][0])
        or written.shape(result) != written.shape(page[tool][1])
    ]
    assert not wrong, "\n".join([*wrong, "If that is meant, run: python docs/tool_examples.py"])
