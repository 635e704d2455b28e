"""Each tool is listed as its file in ``golden/`` has it: name, title, description, hints, input and output schema.

What clients see changes on purpose only: run ``python tests/support/golden.py``, and look at the difference.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.golden import OFF, REFRESH, golden, listed

EVERY = {**golden(), **golden(OFF)}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return listed(tmp_path_factory.mktemp("data"))


def test_there_is_a_file_for_each_tool(tools: dict[str, dict[str, Any]]) -> None:
    assert sorted(tools) == sorted(EVERY), REFRESH


@pytest.mark.parametrize("name", EVERY)
def test_a_tool_is_listed_as_its_file_has_it(tools: dict[str, dict[str, Any]], name: str) -> None:
    assert tools.get(name) == EVERY[name], REFRESH
