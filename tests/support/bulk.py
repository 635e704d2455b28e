"""Zips as Binance's bulk files are, some with lines that are not as usual."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streammachine.market.simulator.protocols.binance_bulk import HEADER, BulkFiles

START = 1_704_067_200_000  # 2024-01-01
MINUTE = 60_000


def line(number: int, *, thousandths: bool = False, **cells: str) -> str:
    """The number-th minute's line; ``c5="x"`` puts x into its cell 5. ``thousandths``: times in microseconds."""
    start = START + number * MINUTE
    price = 42_000 + number % 977 / 8
    made = [
        f"{start}",
        f"{price:.8f}",
        f"{price + 3.25:.8f}",
        f"{price - 2.5:.8f}",
        f"{price + 0.125:.8f}",
        f"{number % 700 / 7:.8f}",
        f"{start + MINUTE - 1}",
        f"{number % 700 * 6000.123:.8f}",
        f"{number % 900}",
        f"{number % 350 / 7:.8f}",
        f"{number % 350 * 6000.123:.8f}",
        "0",
    ]
    if thousandths:
        made[0], made[6] = f"{start * 1000}", f"{(start + MINUTE) * 1000 - 1}"
    for name, value in cells.items():
        made[int(name[1:])] = value
    return ",".join(made)


def zipped(lines: Sequence[str], end: str = "\n", last: str = "\n", name: str = "BTCUSDT-1m-2024-01.csv") -> io.BytesIO:
    """A zip of one CSV. ``end``: of lines; ``last``: of the last one."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, end.join(lines) + (last if lines else ""))
    return target


def change_files(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], Sequence[str]]) -> None:
    """Change the lines of each file that the simulator gives; its checksum fits."""
    made = BulkFiles._file

    def file(files: BulkFiles, path: str, *arguments: Any) -> bytes:
        with zipfile.ZipFile(io.BytesIO(made(files, path, *arguments))) as archive:
            name = archive.namelist()[0]
            lines = archive.read(name).decode().splitlines()
        return zipped(change(lines), name=name).getvalue()

    monkeypatch.setattr(BulkFiles, "_file", file)


# What may stand in a cell, and mostly should not.
ODD_CELLS = (
    *("", " ", "0", "00", "007", "-1", "+1", "1e5", "1.5", ".5", "5.", "1.2.3", "nan", "inf", "null", "x", '"1"', "1 "),
    *("9" * 18, "9" * 19, "9" * 30, "1" * 70, "0." + "0" * 30 + "1", "123456789.123456789012", "1" * 950, "é", "\t"),
    *(str(START), str(START * 1000), str(START + 1), str(START + MINUTE - 1), "999", "9007199254740992"),
)
ODD_LINES = ("", " ", ",", "half,a,li", HEADER, f"{HEADER} ", "<html>", "," * 11, "," * 12, "0" * 1200, "open_time")
