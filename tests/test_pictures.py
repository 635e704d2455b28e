"""docs/pictures.py draws the chart that the README shows."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import anyio
from PIL import Image

ROOT = Path(__file__).parents[1]


def test_the_chart_of_the_readme_is_the_one_that_is_drawn() -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None and spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    kept = pictures.CHART.read_bytes()
    assert len(kept) < 60_000
    with Image.open(io.BytesIO(kept)) as shown, Image.open(io.BytesIO(anyio.run(pictures.draw))) as drawn:
        assert shown.size == drawn.size == (1000, 600)
        # Another matplotlib may set a line of pixels otherwise; other candles would change far more.
        pairs = zip(shown.convert("L").tobytes(), drawn.convert("L").tobytes(), strict=True)
        assert sum(abs(one - other) > 40 for one, other in pairs) < 6_000
