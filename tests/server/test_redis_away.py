"""Redis is away, comes, hangs, dies, refuses: the server stays up, says what to do, and goes on by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streammachine.redis.target import probe
from streammachine_mcp import entry
from support.golden import golden
from support.mcp import RawClient, ToolFailure, clean_environment
from support.servers import Valkey, embedded_pids, free_port, redis_at, until

SECRET = "hunter2-top-secret"


def health(client: RawClient) -> dict[str, Any]:
    """health_check; it must answer while Redis is away, and soon (a command's timeout is 5 s)."""
    identifier = client.send("tools/call", name="health_check", arguments={})
    found: dict[str, Any] = client.wait(identifier, timeout=12)["structuredContent"]
    return found


def healthy(client: RawClient) -> bool:
    return bool(health(client)["status"] == "healthy")


@pytest.fixture
def valkey(tmp_path: Path) -> Any:
    """A Valkey that is not started yet, on a port and a socket of its own."""
    server = Valkey(tmp_path / "valkey", free_port(), "--unixsocket", str(tmp_path / "v.sock"))
    yield server
    server.kill()


def test_a_redis_at_its_memory_limit_is_not_called_healthy(valkey: Valkey, tmp_path: Path) -> None:
    valkey.start()
    env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env) as client, redis_at(valkey.url) as admin:
        until(lambda: healthy(client), "healthy at first")
        admin.config_set("maxmemory", 1_000)
        found = health(client)
        assert (found["status"], found["redis"]) == ("degraded", "connected")
        assert "of 1,000 bytes) and refuses writes" in found["problem"]
        with pytest.raises(ToolFailure, match="memory limit"):
            client.call("storage_write", key="k", value=1)
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert healthy(client)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_starts_without_redis_says_so_and_finds_it_when_it_comes(kind: str, valkey: Valkey, tmp_path: Path) -> None:
    url = valkey.url if kind == "tcp" else f"unix://{tmp_path / 'v.sock'}"
    env = {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env, log=tmp_path / "log") as client:
        send = {"name": "stream_send", "arguments": {"stream": "s", "message": {"a": "1"}}}
        sent = client.send("tools/call", **send)  # all at once: each waits a moment for a server that restarts
        pinged = client.send("tools/call", name="redis_ping", arguments={})
        found = health(client)
        assert set(client.tools()) == set(golden())
        assert (found["status"], found["redis"]) == ("unhealthy", "disconnected")
        assert url in found["problem"]
        assert "Start it, or correct REDIS_URL" in found["problem"]
        assert found["origin"] == "explicit"
        assert client.wait(pinged)["structuredContent"] == {"ping": "failed"}
        failed = client.wait(sent)
        assert failed["isError"]
        assert "Start it, or correct REDIS_URL" in failed["content"][0]["text"]
        valkey.start()
        until(lambda: healthy(client), "found again")
        assert client.call("stream_send", stream="s", message={"a": "1"})["message_id"]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_redis_that_hangs_is_an_error_in_time_and_no_more_once_it_wakes(valkey: Valkey, tmp_path: Path) -> None:
    valkey.start()
    env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    calls: dict[str, dict[str, Any]] = {
        "storage_write": {"key": "k", "value": 2},
        "stream_send": {"stream": "s", "message": {"a": "1"}},
        "ohlc_update": {"name": "btc", "symbol": "BTC", "price": 1, "volume": 1},
    }
    with RawClient(env=env, log=tmp_path / "log") as client:
        client.call("ohlc_create", name="btc")
        client.call("storage_write", key="k", value=1)
        valkey.stop()
        try:
            sent = {tool: client.send("tools/call", name=tool, arguments=given) for tool, given in calls.items()}
            asked = client.send("tools/call", name="health_check", arguments={})
            assert set(client.tools()) == set(golden()), "it answers meanwhile what needs no Redis"
            for tool, identifier in sent.items():
                result = client.wait(identifier, timeout=20)
                assert result["isError"], tool
                assert "did not answer within" in result["content"][0]["text"], tool
            assert client.wait(asked, timeout=20)["structuredContent"]["status"] == "unhealthy"
        finally:
            valkey.resume()
        until(lambda: healthy(client), "works again")
        assert client.call("storage_write", key="k", value=3)["written"]
        assert client.call("storage_read", key="k")["value"] == 3
        assert client.call("ohlc_update", name="btc", symbol="BTC", price=1, volume=1)["accepted"] == 1
    assert "Traceback" not in (tmp_path / "log").read_text()


LISTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stream_list", {}),
    ("obj_list", {}),
    ("obj_delete", {"pattern": "*"}),
)


def test_listings_say_that_redis_hangs_each_time_they_are_called(valkey: Valkey, tmp_path: Path) -> None:
    """They walk with SCAN; from the second call on no connection can be opened."""
    valkey.start()
    env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env, log=tmp_path / "log") as client:
        client.call("stream_list")
        valkey.stop()
        try:
            for tool, given in LISTINGS:
                with pytest.raises(ToolFailure, match="did not answer within"):
                    client.call(tool, **given)
        finally:
            valkey.resume()
        until(lambda: healthy(client), "works again")
        assert client.call("obj_list")["keys"] == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_listings_right_after_the_embedded_valkey_was_killed_succeed(private_env: dict[str, str]) -> None:
    """Looking may be done twice, so it is done again after the restart."""
    with RawClient(env=private_env) as client:
        for tool in ("stream_list", "obj_list"):
            client.call(tool)
            [pid] = embedded_pids(Path(private_env["STREAMMACHINE_DATA_DIR"]))
            os.kill(pid, signal.SIGKILL)
            assert client.call(tool)["count"] == 0


def test_the_log_is_in_one_format(valkey: Valkey, tmp_path: Path) -> None:
    valkey.start()
    env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env, log=tmp_path / "log") as client:
        with pytest.raises(ToolFailure):
            client.call("stream_info", stream="missing")
        with pytest.raises(ToolFailure):
            client.call("stream_info")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+: ", line)] == []


def test_a_redis_that_dies_in_the_middle_of_a_call_is_an_error_and_the_next_call_finds_the_new_one(
    valkey: Valkey, tmp_path: Path
) -> None:
    valkey.start()
    env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env, log=tmp_path / "log") as client:
        client.call("ohlc_create", name="btc")
        client.call("redis_ping")  # the connection that the send takes is open: what is sent now is lost, not unsent
        valkey.stop()
        sent = client.send("tools/call", name="stream_send", arguments={"stream": "s", "message": {"a": "1"}})
        client.tools()  # the call is under way
        valkey.kill()
        result = client.wait(sent)
        assert result["isError"]
        assert "Look before you repeat a write" in result["content"][0]["text"]
        valkey.start()
        until(lambda: healthy(client), "works again")
        assert client.call("stream_send", stream="s", message={"a": "1"})["message_id"]
        with pytest.raises(ToolFailure, match="no aggregator 'btc'"):  # this Valkey keeps nothing
            client.call("ohlc_stats", name="btc")
        assert client.call("ohlc_create", name="btc")["created"]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_embedded_valkey_that_is_killed_is_there_again_with_its_data(
    private_env: dict[str, str], tmp_path: Path
) -> None:
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    with RawClient(env=private_env, log=tmp_path / "log") as client:
        client.call("ohlc_create", name="btc")
        for value in range(2):
            client.call("storage_write", key="k", value=value)
            tick = {"symbol": "BTC", "price": 1.0 + value, "volume": 1, "timestamp_ms": 1_723_161_600_000 + value}
            assert client.call("ohlc_update", name="btc", **tick)["tick_count"] == value + 1
            [pid] = embedded_pids(data_dir)
            os.kill(pid, signal.SIGKILL)
            until(lambda: healthy(client), "there again")
            assert client.call("storage_read", key="k")["value"] == value
            assert health(client)["embedded"]["pid"] != pid
    assert embedded_pids(data_dir) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_write_right_after_the_embedded_valkey_was_killed_succeeds(private_env: dict[str, str]) -> None:
    """Nothing was sent when no connection could be opened, so the call is made once more after the restart."""
    with RawClient(env=private_env) as client:
        client.call("storage_write", key="k", value=1)
        [pid] = embedded_pids(Path(private_env["STREAMMACHINE_DATA_DIR"]))
        os.kill(pid, signal.SIGKILL)
        try:
            client.call("storage_write", key="k", value=2)
        except ToolFailure as error:  # the broken connection was still in the pool: not known whether it was sent
            assert "Look before you repeat" in str(error)
        assert client.call("storage_read", key="k")["value"] in (1, 2)
        client.call("storage_write", key="k", value=3)
        assert client.call("storage_read", key="k")["value"] == 3


def test_a_data_directory_that_cannot_be_used_is_a_problem_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    env = {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env, log=tmp_path / "log") as client:
        assert "Set STREAMMACHINE_DATA_DIR" in health(client)["problem"]
        with pytest.raises(ToolFailure, match="Set STREAMMACHINE_DATA_DIR"):
            client.call("storage_keys")
        (tmp_path / "data").unlink()
        until(lambda: healthy(client), "usable now")
    assert (tmp_path / "log").read_text().count("Set STREAMMACHINE_DATA_DIR") == 1, "one problem, one log line"
    assert embedded_pids(tmp_path / "data") == []


def test_never_an_embedded_server_and_none_on_localhost(tmp_path: Path) -> None:
    if probe("localhost", 6379) != "none":
        pytest.skip("a Redis runs on localhost:6379")
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env) as client:
        assert "Start a Redis or Valkey, or set REDIS_URL" in health(client)["problem"]
        with pytest.raises(ToolFailure, match="STREAMMACHINE_EMBEDDED=never"):
            client.call("storage_keys")
        assert client.request("resources/read", uri="streammachine://status")["contents"]
    assert not (tmp_path / "data").exists()


def test_a_wrong_password_is_a_problem_that_does_not_repeat_it(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", free_port(), password="the right one") as valkey:
        url = f"redis://:{SECRET}@127.0.0.1:{valkey.port}"
        env = {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
        with RawClient("--log-level", "DEBUG", env=env, log=tmp_path / "log") as client:
            found = health(client)
            assert found["status"] == "unhealthy"
            assert "password" in found["problem"]
            with pytest.raises(ToolFailure) as failure:
                client.call("stream_list")
            config = client.request("resources/read", uri="streammachine://config")
            status = client.request("resources/read", uri="streammachine://status")
        said = f"{found} {failure.value} {config} {status} {(tmp_path / 'log').read_text()}"
        assert SECRET not in said
        assert "***" in said


def test_no_password_where_one_is_demanded_is_a_problem_that_says_so(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", free_port(), password="the right one") as valkey:
        env = {"REDIS_URL": valkey.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
        with RawClient(env=env) as client:
            found = health(client)
        assert found["status"] == "unhealthy"
        assert "password" in found["problem"]


def test_embedded_always_beside_a_redis_url_is_a_problem_that_says_so(
    tmp_path: Path, server_env: dict[str, str]
) -> None:
    with RawClient(env={**server_env, "STREAMMACHINE_EMBEDDED": "always"}) as client:
        assert "unset one or the other" in health(client)["problem"]


WRONG: list[tuple[dict[str, str], list[str], str]] = [
    ({"REDIS_URL": "http://somewhere"}, ["REDIS_URL", "http://somewhere", "redis://"], ""),
    ({"REDIS_URL": f"http://:{SECRET}@somewhere"}, ["REDIS_URL", "somewhere", "redis://"], SECRET),
    ({"REDIS_URL": "localhost:6379"}, ["REDIS_URL", "localhost:6379", "redis://"], ""),
    ({"REDIS_URL": f"redis://u:{SECRET}@h:99999"}, ["REDIS_URL", "99999"], SECRET),
    ({"REDIS_URL": f"redis://u:{SECRET}@h/zero"}, ["REDIS_URL", "zero", "whole number"], SECRET),
    ({"REDIS_URL": f"redis://u:{SECRET}@h/3?cluster=true"}, ["REDIS_URL", "a Cluster"], SECRET),
    ({"REDIS_URL": f"redis+sentinel://:{SECRET}@h1,h2"}, ["REDIS_URL", "names no group"], SECRET),
    ({"REDIS_URL": f"redis://h?passwordd={SECRET}"}, ["REDIS_URL", "passwordd"], SECRET),
    ({"REDIS_URL": "unix://"}, ["REDIS_URL", "unix:///path"], ""),
    ({"REDIS_HOST": "redis://h"}, ["REDIS_HOST", "redis://h", "host name"], ""),
    ({"REDIS_PORT": "abc"}, ["REDIS_PORT='abc'", "1 to 65535"], ""),
    ({"REDIS_PORT": "70000"}, ["REDIS_PORT='70000'", "1 to 65535"], ""),
    ({"REDIS_DB": "-1"}, ["REDIS_DB='-1'", "whole number"], ""),
    ({"REDIS_MAX_CONNECTIONS": "0"}, ["REDIS_MAX_CONNECTIONS='0'", "1 to"], ""),
    ({"STREAMMACHINE_EMBEDDED": "sometimes"}, ["STREAMMACHINE_EMBEDDED='sometimes'", "auto, always or never"], ""),
    ({"STREAMMACHINE_EMBEDDED_FSYNC": "no"}, ["STREAMMACHINE_EMBEDDED_FSYNC='no'", "always or everysec"], ""),
    ({"STREAMMACHINE_LOG_LEVEL": "LOUD"}, ["STREAMMACHINE_LOG_LEVEL='LOUD'", "DEBUG, INFO"], ""),
    ({"STREAMMACHINE_READ_ONLY": "perhaps"}, ["STREAMMACHINE_READ_ONLY='perhaps'", "true or false"], ""),
    ({"STREAMMACHINE_TOOLSETS": "stream,nonsense"}, ["STREAMMACHINE_TOOLSETS='stream,nonsense'", "storage"], ""),
    ({"STREAMMACHINE_STREAM_MAXLEN": "-5"}, ["STREAMMACHINE_STREAM_MAXLEN='-5'", "whole number"], ""),
    ({"STREAMMACHINE_COUNT": "0"}, ["STREAMMACHINE_COUNT='0'", "1 to"], ""),
    ({"STREAMMACHINE_SIGNING_KEY": "short-Secret"}, ["STREAMMACHINE_SIGNING_KEY", "16"], "short-Secret"),
]


@pytest.mark.parametrize(("env", "said", "unsaid"), WRONG, ids=[f"{next(iter(w[0].items()))}" for w in WRONG])
def test_a_wrong_setting_is_one_clear_line(
    env: dict[str, str],
    said: list[str],
    unsaid: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert entry._run(entry._parser().parse_args([]), None) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(word in line for word in said), line
    if unsaid:
        assert unsaid not in line


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ({"REDIS_PORT": "abc"}, [], "REDIS_PORT='abc'"),
        ({}, ["--redis-url", "http://somewhere"], "http://somewhere"),
        ({}, ["--log-level", "LOUD"], "LOUD"),
        ({}, ["--toolsets", "nonsense"], "nonsense"),
    ],
)
def test_the_process_ends_with_it_and_status_2(env: dict[str, str], options: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streammachine.mcp_server", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment(env),
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
