"""``ccxt:NAME`` on the command line, against a simulated exchange of that protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.simulator import exchange

pytest.importorskip("ccxt", reason="the extra [ccxt] is not installed")


def test_a_stream_through_ccxt_goes_into_a_file(cli: Any, tmp_path: Path) -> None:
    with exchange("okx", speed=60) as market:
        target = tmp_path / "rows.csv"
        done = cli(
            *("stream", "ccxt:okx", "BTC/USDT", "--candles", "2", "--seconds", "40", "--to", f"csv:{target}"),
            **market.env,
        )
        assert done.returncode == 0, done.stderr
        rows = target.read_text().splitlines()
        assert len(rows) >= 3
        assert rows[1].startswith("ccxt:okx,BTC/USDT,1m,")
        none = cli("stream", "ccxt:gat", "BTC/USDT", **market.env)
        assert (none.returncode, none.stderr.strip().count("\n")) == (1, 0)
        assert "ccxt streams no exchange 'gat': did you mean gate" in none.stderr
