"""``streammachine symbols``: against a simulated exchange in another thread."""

from __future__ import annotations

import json
from typing import Any

from support.simulator import exchange


def test_symbols_are_printed_as_a_table_and_as_json(cli: Any) -> None:
    with exchange("okx") as market:
        table = cli("symbols", "okx", "btc", "--market", "linear", **market.env)
        assert table.returncode == 0, table.stderr
        assert "BTC/USDT:USDT" in table.stdout
        assert "BTC-USDT-SWAP" in table.stdout
        listed = json.loads(cli("symbols", "okx", "btc/usdt", "--json", **market.env).stdout)
        assert {"symbol": "BTC-USDT", "pair": "BTC/USDT", "halted": "", "contract_size": None} in listed
        none = cli("symbols", "okx", "nosuch", **market.env)
        assert (none.returncode, none.stderr.count("\n")) == (1, 1)
        assert "lists no SPOT symbol with 'nosuch' in it" in none.stderr
