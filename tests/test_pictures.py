"""docs/pictures.py and docs/dashboard_picture.py make the pictures that the README shows."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_dashboard_of_the_readme_is_one_that_is_taken() -> None:
    pictures = script("dashboard_picture")
    if pictures.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    kept = pictures.DASHBOARD.read_bytes()
    assert len(kept) < 60_000
    with Image.open(io.BytesIO(kept)) as shown, Image.open(io.BytesIO(pictures.taken())) as taken:
        assert shown.size == taken.size


def test_the_chart_of_the_readme_is_the_one_that_is_drawn() -> None:
    pictures = script("pictures")
    kept = pictures.CHART.read_bytes()
    assert len(kept) < 60_000
    with Image.open(io.BytesIO(kept)) as shown, Image.open(io.BytesIO(anyio.run(pictures.draw))) as drawn:
        assert shown.size == drawn.size == (1000, 600)
        # Another matplotlib may set a line of pixels otherwise; other candles would change far more.
        pairs = zip(shown.convert("L").tobytes(), drawn.convert("L").tobytes(), strict=True)
        assert sum(abs(one - other) > 40 for one, other in pairs) < 6_000


def test_the_chat_of_the_readme_is_one_that_is_taken() -> None:
    pictures = script("pictures")
    if pictures.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    kept = pictures.CHAT.read_bytes()
    assert len(kept) < 80_000
    with Image.open(io.BytesIO(kept)) as shown, Image.open(io.BytesIO(anyio.run(pictures.chat))) as taken:
        assert shown.size == taken.size
        pairs = zip(shown.convert("L").tobytes(), taken.convert("L").tobytes(), strict=True)
        assert sum(abs(one - other) > 40 for one, other in pairs) < 30_000  # other fonts; no chart is far more
