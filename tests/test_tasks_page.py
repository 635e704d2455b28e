"""docs/tasks.md: the fifteen tasks are done by the calls that the page counts, within the bytes that it shows."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from support.scripts import script

ROW = re.compile(r"^\| ([^|]+) \| (\d+): ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]*) \|$", re.MULTILINE)
MORE, ROOM = 1.25, 100  # a rate or an id may be a digit longer


def number(text: str) -> int:
    return int(text.replace(",", "") or 0)


@pytest.fixture(scope="module")
def written() -> ModuleType:
    return script("golden_tasks")


def test_the_tasks_cost_what_the_page_says(written: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = ROW.findall(written.PAGE.read_text(encoding="utf-8"))
    assert len(rows) == 15
    done = list(written.tasks(tmp_path_factory.mktemp("desk")))
    assert [told for told, _ in done] == [row[0] for row in rows]
    for (told, calls, named, asked, answered, picture), (_, count) in zip(rows, done, strict=True):
        assert (len(count.calls), count.calls) == (int(calls), re.findall(r"`(\w+)`", named)), told
        for now, then in ((count.asked, asked), (count.answered, answered), (count.picture, picture)):
            assert number(then) / MORE - ROOM <= now <= number(then) * MORE + ROOM, (told, now, then)
