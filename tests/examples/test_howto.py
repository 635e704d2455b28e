"""The scripts in examples/howto, as a user runs them: an embedded Valkey of their own and a simulated exchange."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import cluster
from support.docs import environment, run_python
from support.mcp import clean_environment
from support.simulator import exchange

FOLDER = Path(__file__).parents[2] / "examples" / "howto"
PRICE = r"\d+\.\d+"
SHOWN = {  # what each prints, as a pattern over the whole
    "exactly_once": r"failed once: \['3'\]\nreceipts: 10 balance: 100\n",
    "alert": rf"higher at {PRICE}\n",
    "year_to_parquet": r"527040 candles, 0 gaps\nopen_ts\n(\d+ .*\n){12}.*\n",
    "typed_handlers": r"taken: \[12\.5, 2\.0\]\nrefused: \{'id': 'two', 'total': '1'\} decode\n",
    "webhook": rf"(30 rows, the first: BTCUSDT closed at {PRICE} key: True\n){{2}}",
    "duckdb_table": rf"(\d\d:00  {PRICE} BTC, up to {PRICE}\n){{3}}",
    "quotes_to_candles": rf"(\d{{13}} ({PRICE} ){{4}}\d+ quotes\n){{3}}",
    "record_and_replay": r"recorded: (\d+) candles\nreplayed: \1 candles, the same: True\n",
    "read_frame": r"5000 trades, vwap \d+\.\d+\n",
    "trade_file_to_candles": r"900 trades, 18 candles\n(.*\n){4}",
    "indicators": rf"(BTCUSDT {PRICE} sma20 {PRICE} rsi14 {PRICE}\n){{3}}",
    "chart_png": r"288 candles drawn to .*/chart\.png\n",
    "testing": r"bills: \[\{'for': '1'\}\]\nrefused: 2 a negative amount\n",
    "mcp_usage": r"\{'text': 'hello'\} \{'BTCUSDT': 5\}\nhealthy\n",
    "mcp_ohlc": r"closes: \[2003\.0, 2007\.0, 2008\.0\]\nflushed: 3\nticks: 9\n",
}
NEEDS = {"chart_png": "matplotlib", "duckdb_table": "duckdb", "indicators": "talib", "year_to_parquet": "pyarrow"}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with environment(tmp_path_factory.mktemp("howto")) as found, exchange("binance", speed=60) as market:
        yield {**found, **market.env}


def test_every_script_is_tested_and_short() -> None:
    scripts = {path.stem: path.read_text("utf-8").count("\n") for path in FOLDER.glob("*.py")}
    assert set(scripts) == {*SHOWN, "cluster"}
    assert {name: lines for name, lines in scripts.items() if lines >= 60} == {}


@pytest.mark.parametrize("name", SHOWN)
def test_a_script_shows_what_it_says(name: str, env: dict[str, str], tmp_path: Path) -> None:
    library = NEEDS.get(name, "streammachine")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    shown = run_python([str(FOLDER / f"{name}.py")], env, cwd=tmp_path, logs=" ")
    assert re.fullmatch(SHOWN[name], shown), shown
    if name == "chart_png":
        assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_app_on_a_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        env = clean_environment({"REDIS_URL": f"redis://127.0.0.1:{nodes[0].port}?cluster=true"})
        env["STREAMMACHINE_DATA_DIR"] = str(tmp_path / "data")
        assert run_python([str(FOLDER / "cluster.py")], env, logs=" ") == "bills for 0, 1, 2, 3, 4\n"
