"""The paths of the version before: they still lead to the same objects, and warn; nothing of it is loaded unasked."""

from __future__ import annotations

import importlib
import io
import pickle
import subprocess
import sys
import warnings

import pytest

import streammachine
from streammachine import DataInput, Kline, RetryPolicy
from streammachine.moved import MOVED, PACKAGE, RENAMED, current
from streammachine.redis.signing import MAGIC, Signer

# What README and docs/app.md of the version before told users to import.
DOCUMENTED = {
    "streammachine.runtime.config.Batch": "streammachine.Batch",
    "streammachine.runtime.metrics.collector": "streammachine.collector",
    "streammachine.runtime.redrive.Box": "streammachine.DeadLetters",
    "streammachine.runtime.retry.Reject": "streammachine.Reject",
    "streammachine.runtime.retry.Retry": "streammachine.Retry",
    "streammachine.runtime.retry.RetryPolicy": "streammachine.RetryPolicy",
    "streammachine.runtime.retry.Skip": "streammachine.Skip",
    "streammachine.runtime.running.MessageBatch": "streammachine.MessageBatch",
    # Where the public names stood.
    "streammachine.market.backfill.BinanceBackfilling": "streammachine.BinanceBackfilling",
    "streammachine.market.data_input.DataInput": "streammachine.DataInput",
    "streammachine.market.kline.Gap": "streammachine.Gap",
    "streammachine.market.kline.Kline": "streammachine.Kline",
    "streammachine.market.kline.Trade": "streammachine.Trade",
    "streammachine.market.logs.config": "streammachine.config",
    "streammachine.market.merge.merge_streams": "streammachine.merge_streams",
    "streammachine.market.runner.KrakenRunner": "streammachine.KrakenRunner",
    "streammachine.ohlc.consumer.FastOHLCConsumer": "streammachine.FastOHLCConsumer",
    "streammachine.redis.codec.decode_dict_bytes_to_utf8": "streammachine.decode_dict_bytes_to_utf8",
    "streammachine.runtime.app.App": "streammachine.App",
    "streammachine.runtime.config.AppConfig": "streammachine.AppConfig",
    "streammachine.runtime.consumer.StreamConsumer": "streammachine.StreamConsumer",
    "streammachine.runtime.message.Message": "streammachine.Message",
}


@pytest.mark.parametrize(("old", "new"), DOCUMENTED.items())
def test_an_old_path_gives_the_same_object_and_says_the_new_one(old: str, new: str) -> None:
    module, _, name = old.rpartition(".")
    namespace: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new};") as seen:
        exec(f"from {module} import {name}", namespace)
    assert namespace[name] is getattr(streammachine, new.rpartition(".")[2])
    assert seen[0].filename == "<string>", "the warning names the line that imports"


@pytest.mark.parametrize("old", MOVED)
def test_every_old_module_can_be_imported_and_every_new_one_is_there(old: str) -> None:
    assert importlib.import_module(PACKAGE + old)
    for new in MOVED[old]:
        assert importlib.import_module(PACKAGE + new)


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_name_is_found(old: str) -> None:
    module, _, name = old.rpartition(".")
    place, found = current(PACKAGE + module, name)
    assert getattr(importlib.import_module(place), found)


def test_what_never_was_is_refused_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'streammachine\.nothing'"):
        importlib.import_module("streammachine.nothing")
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from streammachine.market.kline import Nothing")
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from streammachine.runtime.consumer import Nothing")
    assert current("json", "loads") == ("json", "loads")
    assert current("streammachine.market.kline", "Nothing") == ("streammachine.market.kline", "Nothing")


def test_a_submodule_of_a_package_with_an_old_name_is_the_submodule() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from streammachine.runtime.app import current")
        exec("from streammachine.market.clock import clock")


def old_pickle(value: object, module: str) -> bytes:
    """The value's pickle as the version before wrote it: with its class's old module."""
    new = type(value).__module__
    text = pickle.dumps(value, protocol=0)  # names stand in lines of text
    assert f"c{new}\n".encode() in text or f"{new}\n".encode() in text
    return text.replace(new.encode(), module.encode())


VALUES = [
    (DataInput("kline", ["BTCUSDT"], "1m"), "streammachine.market.data_input"),
    (RetryPolicy(max_attempts=2), "streammachine.runtime.retry"),
    (
        Kline(symbol="A", timeframe="1m", open_ts=0, end_ts=59_999, open=1, high=2, low=1, close=2, volume=3),
        "streammachine.market.kline",
    ),
]


@pytest.mark.parametrize(("value", "module"), VALUES, ids=lambda part: type(part).__name__)
def test_a_stored_pickle_with_an_old_path_is_read_without_a_warning(value: object, module: str) -> None:
    signer = Signer(b"x" * 16)
    payload = old_pickle(value, module)
    stored = MAGIC + signer._mac(payload, "key", "") + payload
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = signer.load(stored, "key")
    assert found == value
    assert type(found) is type(value)


def test_a_pickle_in_a_file_of_a_users_own_is_read_with_a_warning() -> None:
    value, module = VALUES[0]
    with pytest.warns(DeprecationWarning, match=r"is now streammachine\.DataInput"):
        assert pickle.load(io.BytesIO(old_pickle(value, module))) == value


def test_the_table_is_not_loaded_until_an_old_path_is_asked_for() -> None:
    program = (
        "import sys, streammachine, streammachine.runtime.app.app, streammachine.redis.embedded.server\n"
        "from streammachine import App, Kline, FastOHLC\n"
        "assert 'streammachine.moved' not in sys.modules, 'loaded unasked'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
