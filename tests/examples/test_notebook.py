"""The notebook runs from its first cell to its last, and is kept without what it printed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "trades_to_chart.ipynb"


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


def test_it_runs_from_trades_to_a_chart(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("matplotlib", reason="the extra charts is not installed")
    pytest.importorskip("talib", reason="the extra indicators is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    (picture,) = (
        output["data"]["image/png"] for output in notebook.cells[-1]["outputs"] if "image/png" in output.get("data", {})
    )
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "43200 trades, 312 candles" in said
