"""The native engine's rooms: each is compiled in, a change of one builds the module again; the twin has the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
OHLC = ROOT / "engine" / "streammachine" / "ohlc"
ROOMS = {path.name for path in (OHLC / "native").glob("*.pxi")}


def test_fast_includes_every_room() -> None:
    included = re.findall(r'^include "native/(.+)"$', (OHLC / "fast.pyx").read_text("utf-8"), re.MULTILINE)
    assert set(included) == ROOMS and len(included) == len(ROOMS)


def test_setuptools_knows_what_the_module_is_built_from() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    (module,) = [each for each in tool["ext-modules"] if each["name"] == "streammachine.ohlc.fast"]
    assert {ROOT / path for path in module["depends"]} == set((OHLC / "native").glob("*.pxi"))
    assert "**/*.pxi" in tool["package-data"]["streammachine"]  # without it a source distribution does not compile


def test_the_twin_has_the_rooms_of_the_native_engine() -> None:
    twin = {path.stem for path in (OHLC / "reference").glob("*.py")} - {"__init__", "engine"}
    native = {path.stem for path in (OHLC / "native").glob("*.pxi")}
    batches = {
        "stream_batch",
        "columns",
        "runs",
        "parts",
        "stretches",
        "taking",
        "texts",
        "arrow",
    }  # one room there: they are short
    consumers = {"encoded", "tick_book"}  # their twin is consumer/candle_book.py
    assert twin - {"batches"} == native - {"candle_data"} - batches - consumers
