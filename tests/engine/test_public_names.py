"""The package's door: every public name loads, and loading the package itself costs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import streammachine

ENGINE = Path(streammachine.__file__).parents[1]
HEAVY = ("pandas", "numpy", "coredis", "fastmcp", "mcp", "pydantic", "anyio")


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ENGINE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", streammachine.__all__)
def test_every_public_name_loads_and_is_kept(name: str) -> None:
    value = getattr(streammachine, name)
    assert value is not None
    assert getattr(streammachine, name) is value
    assert name in dir(streammachine)


def test_the_names_of_this_layer_are_public() -> None:
    wanted = {"RedisConnection", "Storage", "RedisObjectStorage", "Settings", "StreamMachineError"}
    assert wanted <= set(streammachine.__all__)


# The names that documents and users rely on.
PUBLIC_NAMES = [
    "Alert",
    "App",
    "StreamConsumer",
    "Message",
    "AppConfig",
    "ConsumerConfig",
    "TimerConfig",
    "Storage",
    "RedisConnection",
    "streams_to_dataframe",
    "streams_to_dataframe_fast",
    "prune_old_dataframe_rows",
    "TimeSeriesBuffer",
    "FastOHLC",
    "FastOHLCConsumer",
    "create_ohlc_aggregator",
    "parse_stream_id_timestamp",
    "format_candle_for_redis",
    "_HAS_FAST_OHLC_CYTHON",
    "RedisObjectStorage",
    "decode_dict_bytes_to_utf8",
    "_has_cython_decode",
    "__version__",
    "Retry",
    "Reject",
    "Skip",
    "RetryPolicy",
    "Batch",
    "MessageBatch",
    "DeadLetters",
    "TestApp",
    "DataInput",
    "Kline",
    "Trade",
    "Gap",
    "FeedOptions",
    "BinanceRunner",
    "OKXRunner",
    "KrakenRunner",
    "BybitRunner",
    "BinanceBackfilling",
    "OKXBackfilling",
    "OkxBackfilling",
    "BybitBackfilling",
    "KrakenBackfilling",
    "Logger",
    "CSVEmitter",
    "PostgresEmitter",
    "KafkaEmitter",
    "RedisEmitter",
    "ParquetEmitter",
    "DuckDBEmitter",
    "FrameEmitter",
    "KlineColumns",
    "DataEmitter",
    "merge_streams",
    "config",
]


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_name_of_the_contract_is_public(name: str) -> None:
    assert name in streammachine.__all__
    assert run(f"from streammachine import {name}; print({name} is not None)") == "True"


def test_a_class_has_the_name_that_it_is_imported_by() -> None:
    aliases = {"OkxBackfilling"}
    classes = {name: value for name in streammachine.__all__ if isinstance(value := getattr(streammachine, name), type)}
    assert {name: value.__name__ for name, value in classes.items() if value.__name__ != name}.keys() == aliases


def test_the_version_is_the_distributions() -> None:
    written = re.search(r'^version = "(.+)"', (ENGINE.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert written is not None
    assert streammachine.__version__ == version("streammachine-mcp") == written[1]
    assert run("import streammachine; print(streammachine.__version__)") == written[1]


@pytest.mark.parametrize("page", ["README.md", "docs", "examples"])
def test_what_documents_import_are_public_names(page: str) -> None:
    deep = re.compile(r"(?:from|import) +streammachine\.(?!errors\b|mcp_server\b)\w+|streammachine\.[a-z_]+\.\w+")
    place = ENGINE.parent / page
    shown = {"docs": (".md",), "examples": (".md", ".py")}  # the scripts of docs/ make pages, they are none
    files = [place] if place.is_file() else [each for each in place.rglob("*") if each.suffix in shown[page]]
    found = {str(each): deep.findall(each.read_text()) for each in files}
    assert {name: names for name, names in found.items() if names} == {}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stroage'"):
        streammachine.Stroage  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run(f"import sys, streammachine; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_the_names_of_the_market_road_need_no_optional_library() -> None:
    code = (
        "import sys, streammachine as sf; [getattr(sf, name) for name in sf.__all__]; "
        "optional = ('sqlalchemy', 'psycopg', 'aiokafka', 'pyarrow', 'matplotlib', 'fastmcp'); "
        "print([name for name in optional if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_importing_the_connection_does_not_load_the_client_library() -> None:
    # The MCP server answers `initialize` before it talks to Redis; coredis alone costs a third of a second.
    code = "import sys; from streammachine import RedisConnection, Storage, RedisObjectStorage; "
    assert run(code + "print('coredis' in sys.modules, 'pandas' in sys.modules)") == "False False"
