"""``streammachine candles``: trade files from the command line into sinks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from support.trade_files import FORMS, packed, plain, trades

NAME = "BTCUSDT-trades-2025-01-01.csv"


def test_files_to_sinks(cli: Any) -> None:
    ts = trades(2_000, disorder=0)
    for number, part in enumerate((ts[:1_200], ts[1_000:])):
        packed(cli.folder / f"{number}" / f"{NAME}.gz", FORMS[NAME](part))
    done = cli("candles", str(cli.folder / "*" / "*.gz"), "--timeframes", "1m,5m", "--to", f"csv:{cli.folder}/out.csv")
    assert done.returncode == 0, done.stderr
    count = len(plain(ts, ["1m", "5m"]))
    assert f"{count:,} candles of BTCUSDT from 2,000 trades in 2 files to csv:" in done.stdout
    assert "200 rows were there before, by their id: left out" in done.stdout
    assert len(pd.read_csv(cli.folder / "out.csv")) == count


def test_what_is_wrong_is_one_line(cli: Any) -> None:
    path = packed(cli.folder / "x.csv", b"ts,price,qty\n1735689600000,1,1\n1735689600000,1,x\n")
    for arguments, words in (
        ((str(path), "--to", "log"), "x.csv: line 3: the volume 'x' is refused"),
        ((str(path),), "no sink for the candles: give --to"),
        (("none.csv", "--to", "log"), "there is no file none.csv"),
        ((str(path), "--timeframes", "7m", "--to", "log"), "'7m' is no timeframe"),
    ):
        done = cli("candles", *arguments)
        assert done.returncode == 1 and words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
