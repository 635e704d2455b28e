"""Arguments as clients really send them, over stdio in both protocol eras; and what a text or number
means as a time, an interval, a timeframe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from streammachine.errors import StreamIdError
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine_mcp import argument_types as types
from streammachine_mcp.arguments import ArgumentError, prepare
from support.mcp import clean_environment

T0 = 1_723_161_600_000  # 2024-08-09T00:00:00Z, a full minute and a full 5 minutes
MINUTE = 60_000
N8N = {"sessionId": "s1", "action": "sendMessage", "chatInput": "hello", "toolCallId": "call_1", "tool": "x"}
GEMINI_CLI = {"wait_for_previous": True}

# A call of every tool with its required arguments; many are answered by an error, the same each time.
BASE: dict[str, dict[str, Any]] = {
    "stream_send": {"stream": "s", "message": {"a": "1"}},
    "stream_send_batch": {"stream": "s", "messages": [{"a": "1"}]},
    "stream_read": {"stream": "s"},
    "stream_info": {"stream": "s"},
    "stream_list": {},
    "stream_delete": {"stream": "nope"},
    "stream_trim": {"stream": "nope", "keep": 1},
    "storage_read": {"key": "k"},
    "storage_write": {"key": "k", "value": 5},
    "storage_delete": {"key": "gone"},
    "storage_keys": {},
    "storage_clear": {},
    "health_check": {},
    "redis_info": {},
    "redis_ping": {},
    "obj_get": {"key": "nope"},
    "obj_list": {},
    "obj_delete": {"pattern": "nope*"},
    "ohlc_create": {"name": "m"},
    "ohlc_update": {"name": "m"},
    "ohlc_get_candles": {"name": "m", "symbol": "A", "interval_ms": MINUTE},
    "ohlc_get_completed": {"name": "m", "symbol": "A", "interval_ms": MINUTE},
    "ohlc_flush": {"name": "m", "symbol": "A", "interval_ms": MINUTE},
    "ohlc_clear": {"name": "m"},
    "ohlc_stats": {"name": "m"},
    "ohlc_list": {},
    "agent_list": {},
    "agent_stats": {"name": "nope"},
    "agent_pause": {"name": "nope"},
    "agent_resume": {"name": "nope"},
    "agent_create": {"name": "a", "stream": "s", "output_stream": "s"},
    "agent_delete": {"name": "nope"},
    "dead_letter_list": {"stream": "s"},
    "dead_letter_redrive": {"stream": "s"},
    "dead_letter_purge": {"stream": "s"},
    "runner_start": {"exchange": "binance", "symbols": ["BTC/USDT/X"]},
    "runner_stop": {"name": "nope"},
    "runner_list": {},
    "backfill_start": {"exchange": "binance", "symbol": "BTC/USDT/X", "start": "now-1d"},
    "backfill_status": {},
    "candles_read": {"exchange": "binance", "symbol": "BTCUSDT"},
}


class Server:
    """A server process and a client of one era."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], Any], tools: dict[str, Any]) -> None:
        self._ask = ask
        self.tools = tools

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A call that must succeed; its data."""
        failed, found = self.answer(tool, arguments)
        assert not failed, (tool, arguments, found)
        return dict(found)

    def refused(self, tool: str, **arguments: Any) -> str:
        """A call that must fail; what the model reads."""
        failed, found = self.answer(tool, arguments)
        assert failed, (tool, arguments, found)
        return str(found)

    def answer(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
        """Whether the call failed, and its text or data."""
        result = self._ask(tool, arguments)
        text = result.content[0].text
        assert "Error calling tool" not in text
        assert "failed inside the server" not in text
        return bool(result.is_error), text if result.is_error else result.structured_content


@pytest.fixture(scope="module", params=["legacy", "auto"])
def server(
    request: pytest.FixtureRequest, shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=9) as database:
        database.flushdb()
    folder = tmp_path_factory.mktemp("arguments")
    env = {"REDIS_URL": f"{shared_server.url}?db=9", "STREAMMACHINE_DATA_DIR": str(folder)}
    transport = StdioTransport(
        command=sys.executable,
        args=["-m", "streammachine.mcp_server"],
        env=clean_environment(env),
        keep_alive=False,
        log_file=folder / "log",
    )
    client = Client(transport, mode=request.param)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        listed = portal.call(client.list_tools)
        served = Server(
            lambda tool, arguments: portal.call(client.call_tool_mcp, tool, arguments),
            {tool.name: tool for tool in listed},
        )
        served.call("stream_send", stream="s", message={"a": "1"})
        served.call("ohlc_create", name="m")
        yield served


def shape(answer: tuple[bool, Any]) -> Any:
    """What must not differ: the error's text, or which keys there are."""
    failed, found = answer
    return (failed, found if failed else sorted(found))


def optional(server: Server, tool: str) -> list[str]:
    schema = server.tools[tool].input_schema
    return [name for name in schema["properties"] if name not in schema.get("required", ())]


def base(server: Server, tool: str) -> dict[str, Any]:
    """A call with the required arguments; of a tool that has no line above, made up from its schema."""
    schema = server.tools[tool].input_schema
    made_up = {"string": "nope", "integer": T0, "number": 1, "boolean": False, "array": [], "object": {}}
    return BASE.get(tool) or {
        name: schema["properties"][name].get("enum", [made_up[schema["properties"][name]["type"]]])[0]
        for name in schema.get("required", ())
    }


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
def test_null_or_empty_text_for_what_may_be_left_out_is_left_out(server: Server, nothing: Any) -> None:
    """As Codex in strict mode, mcp-use, CrewAI, LlamaIndex and smolagents call."""
    for tool in server.tools:
        plain = base(server, tool)
        given = {**dict.fromkeys(optional(server, tool), nothing), **plain}
        assert shape(server.answer(tool, given)) == shape(server.answer(tool, plain)), tool


@pytest.mark.parametrize("extra", [N8N, GEMINI_CLI], ids=["n8n", "gemini-cli"])
def test_what_a_client_adds_of_its_own_is_dropped(server: Server, extra: dict[str, Any]) -> None:
    for tool in server.tools:
        plain = base(server, tool)
        assert shape(server.answer(tool, plain | extra)) == shape(server.answer(tool, plain)), tool


def test_any_other_unknown_argument_is_refused_with_the_nearest_name(server: Server) -> None:
    for tool, listed in server.tools.items():
        text = server.refused(tool, **base(server, tool), sessionid_x=1)
        assert f"{tool} has no argument 'sessionid_x'" in text
        known = list(listed.input_schema["properties"])
        if known:
            wrong = known[0][:-1] if len(known[0]) > 3 else known[0] + "s"
            text = server.refused(tool, **{wrong: 1})
            assert f"Did you mean {known[0]!r}" in text
            assert f"Its parameters are: {', '.join(known)}" in text


def test_an_empty_confirm_token_is_none_and_gives_a_plan(server: Server) -> None:
    server.call("storage_write", key="kept", value=1)
    plan = server.call("storage_clear", confirm=False, confirm_token="")
    assert plan["cleared"] is False
    assert plan["confirm_token"]
    assert "kept" in server.call("storage_keys")["keys"]


# -- JSON text ------------------------------------------------------------------------------------


def test_json_text_for_an_array_or_object_is_parsed_once(server: Server) -> None:
    """As Claude Desktop and Claude Code send them."""
    server.call("stream_send", stream="json", message='{"price": "1.5", "n": 2}')
    server.call("stream_send_batch", stream="json", messages='[{"n": 3}, {"n": 4}]')
    server.call("stream_send_batch", stream="json", messages=['{"n": 5}'])
    read = [message["data"] for message in server.call("stream_read", stream="json")["messages"]]
    assert read == [{"price": "1.5", "n": "2"}, {"n": "3"}, {"n": "4"}, {"n": "5"}]
    assert server.call("ohlc_create", name="json", intervals='["1m", 300000]')["intervals"] == [MINUTE, 5 * MINUTE]
    ticks = json.dumps([{"symbol": "A", "price": 1, "volume": 1, "timestamp_ms": T0}])
    assert server.call("ohlc_update", name="json", ticks=ticks)["accepted"] == 1


def test_text_that_should_have_been_json_says_so(server: Server) -> None:
    text = server.refused("stream_send_batch", stream="json", messages="a=1")
    assert "messages should be a JSON array" in text
    assert "'a=1' is no valid JSON" in text
    assert "JSON of something else" in server.refused("stream_send", stream="json", message="[1]")
    assert "JSON of something else" in server.refused("stream_send", stream="json", message='"{\\"a\\": 1}"')
    assert "symbols should be a JSON array" in server.refused("runner_start", exchange="okx", symbols="BTC-USDT")
    assert "nested too deep" in server.refused("stream_send", stream="json", message='{"a":' * 5000)
    assert "NaN is no JSON number" in server.refused("ohlc_update", name="m", ticks='[{"price": NaN}]')
    assert len(server.refused("stream_send", stream="json", message="x" * 100_000)) < 500


def test_a_member_of_an_array_is_held_to_its_fields(server: Server) -> None:
    tick = {"symbol": "A", "price": 1, "volume": 1}
    text = server.refused("ohlc_update", name="m", ticks=[tick, {**tick, "timestamp": T0}])
    assert "ticks[1] has no field 'timestamp'" in text
    assert "Did you mean 'timestamp_ms'" in text
    assert server.call("ohlc_update", name="m", ticks=[{**tick, "timestamp_ms": None}])["accepted"] == 1


def test_a_stored_value_of_any_kind_comes_back_however_it_is_written(server: Server) -> None:
    plain: list[Any] = [5, 1.5, True, None, "text", "5", "null", "", [1, "a"], {"a": {"b": None}}, "[not json", "{}x"]
    for value in plain:
        assert server.call("storage_write", key="v", value=value) == {"key": "v", "written": True}
        shown = server.call("storage_read", key="v")["value"]
        assert (type(shown), shown) == (type(value), value)
    for text in ('{"a": 1}', ' [1, {"b": null}]'):
        assert "as_json=false" in server.call("storage_write", key="v", value=text)["note"]
        assert server.call("storage_read", key="v")["value"] == json.loads(text)
        server.call("storage_write", key="v", value=text, as_json=False)
        assert server.call("storage_read", key="v")["value"] == text
    for text in ("5", "true", "null", '"5"', "1.5"):
        server.call("storage_write", key="v", value=text, as_json=True)
        assert server.call("storage_read", key="v")["value"] == json.loads(text)
    assert "as_json is true" in server.refused("storage_write", key="v", value="hello", as_json=True)


# -- times ----------------------------------------------------------------------------------------

FORMS: list[Any] = [
    T0,
    str(T0),
    float(T0),
    f"{T0}.0",
    "1.7231616e12",
    f" {T0} ",
    "2024-08-09T00:00:00Z",
    "2024-08-09",
    "2024-08-09T02:00:00+02:00",
    f"{T0}-0",
]
WRONG: list[tuple[Any, str]] = [
    (T0 // 1000, f"in seconds it would be 2024-08-09T00:00:00.000Z: give {T0}"),
    (str(T0 // 1000), "in seconds"),
    (T0 / 1000 + 0.25, f"in seconds it would be 2024-08-09T00:00:00.250Z: give {T0 + 250}"),
    (T0 * 1000, f"in microseconds it would be 2024-08-09T00:00:00.000Z: give {T0}"),
    (T0 * 10**6, "in nanoseconds"),
    (5, "nor in seconds or microseconds"),
    (-T0, "nor in seconds"),
    (10**300, "nor in seconds"),
    (T0 + 0.5, f"no whole number of milliseconds: give {T0}"),
    (True, "True"),
    ("1_723_161_600_000", "1_723_161_600_000"),
    ("yesterday", "yesterday"),
    ([T0], "[1723161600000]"),
]


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_a_time_is_taken_everywhere_in_every_form(server: Server, form: Any) -> None:
    server.call("ohlc_create", name="t", intervals=["1m"])
    server.call("ohlc_clear", name="t")
    server.call("ohlc_update", name="t", symbol="A", price=1, volume=1, timestamp_ms=form)
    server.call("ohlc_update", name="t", ticks=[{"symbol": "A", "price": 2, "volume": 1, "timestamp_ms": form}])
    server.call("ohlc_update", name="t", symbol="A", price=9, volume=1, timestamp_ms=T0 - MINUTE)
    found = server.call("ohlc_get_candles", name="t", symbol="A", interval_ms="1m")["columns"]
    assert (found["candle_start_ms"], found["trade_count"]) == ([T0 - MINUTE, T0], [1, 2])
    for tool, argument in (("ohlc_get_candles", "end_ms"), ("ohlc_get_completed", "before_timestamp_ms")):
        before = server.call(tool, name="t", symbol="A", interval_ms=MINUTE, **{argument: form})["columns"]
        assert before["candle_start_ms"] == [T0 - MINUTE]
    for argument in ("start", "end"):
        assert "There are no candles" in server.refused(
            "candles_read", exchange="okx", symbol="ETH-USDT", **{argument: form}
        )
    assert server.call("stream_read", stream="s", start=form)["count"] > 0
    assert server.call("dead_letter_list", stream="s", before=form)["count"] == 0
    plan = server.call("stream_trim", stream="s", before=form)
    assert plan["count"] == 0 or plan["confirm_token"]
    flushed = server.call("ohlc_flush", name="t", symbol="A", interval_ms="1m", before_timestamp_ms=form)
    assert flushed["flushed"] == 1


@pytest.mark.parametrize(("wrong", "wanted"), WRONG, ids=repr)
def test_what_is_no_time_in_milliseconds_is_refused_everywhere(server: Server, wrong: Any, wanted: str) -> None:
    tick = {"symbol": "A", "price": 1, "volume": 1}
    candles = {"name": "m", "symbol": "A", "interval_ms": MINUTE}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("ohlc_update", {"name": "m", **tick, "timestamp_ms": wrong}),
        ("ohlc_update", {"name": "m", "ticks": [{**tick, "timestamp_ms": wrong}]}),
        ("ohlc_get_candles", {**candles, "end_ms": wrong}),
        ("ohlc_get_completed", {**candles, "before_timestamp_ms": wrong}),
        ("ohlc_flush", {**candles, "before_timestamp_ms": wrong}),
        ("stream_read", {"stream": "s", "start": wrong}),
        ("candles_read", {"exchange": "okx", "symbol": "ETH-USDT", "start": wrong}),
        ("candles_read", {"exchange": "okx", "symbol": "ETH-USDT", "end": wrong}),
        ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": wrong}),
        ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": "now-1d", "end": wrong}),
        ("dead_letter_list", {"stream": "s", "before": wrong}),
        ("stream_trim", {"stream": "s", "before": wrong}),
        ("runner_start", {"exchange": "okx", "symbols": ["BTC-USDT"], "history": wrong}),
    ]
    for tool, arguments in calls:
        text = server.refused(tool, **arguments)
        assert wanted in text, (tool, arguments, text)
        assert len(text) < 1000


def test_zero_is_no_time_of_a_tick_but_now_and_the_beginning_where_it_says_so(server: Server) -> None:
    refused = server.refused("ohlc_update", name="m", symbol="A", price=1, volume=1, timestamp_ms=0)
    assert "0 is no time in epoch milliseconds" in refused
    for zero in (0, "0", 0.0):
        assert server.call("ohlc_get_candles", name="m", symbol="A", interval_ms=MINUTE, end_ms=zero)
        assert server.call("ohlc_flush", name="m", symbol="Z", interval_ms=MINUTE, before_timestamp_ms=zero)
        assert server.call("stream_read", stream="s", start=zero)["count"] > 0
    for beginning in ("-", "0-0"):
        assert server.call("stream_read", stream="s", start=beginning)["count"] > 0


def test_an_id_and_a_cursor_are_places_whatever_their_number(server: Server) -> None:
    assert server.call("stream_read", stream="s", start="5-1")["count"] > 0
    assert server.call("stream_read", stream="s", start="(5-1")["count"] > 0
    assert "not a time" in server.refused("candles_read", exchange="okx", symbol="ETH-USDT", start="(5-1")


@pytest.mark.parametrize("number", [True, False, "1_000", "1_0.5"])
def test_a_number_is_no_boolean_and_has_no_underscores(server: Server, number: Any) -> None:
    tick = {"symbol": "A", "price": 1, "volume": 1}
    for part in ("price", "volume"):
        assert f"{part} should be a number" in server.refused("ohlc_update", name="m", **{**tick, part: number})
        assert "should be a number" in server.refused("ohlc_update", name="m", ticks=[{**tick, part: number}])
    assert "count should be a number" in server.refused("stream_read", stream="s", count=number)
    assert "ttl_s should be a number" in server.refused("storage_write", key="k", value=1, ttl_s=number)


# -- intervals, timeframes, exchanges -------------------------------------------------------------


@pytest.mark.parametrize("form", [60000, "60000", 60000.0, "1m", " 1m ", "60s", "60000ms"], ids=repr)
def test_an_interval_is_taken_in_every_form_everywhere(server: Server, form: Any) -> None:
    assert server.call("ohlc_create", name=f"i{form!r}".replace(" ", "_").replace("'", "-"), intervals=[form])[
        "intervals"
    ] == [MINUTE]
    for tool in ("ohlc_get_candles", "ohlc_get_completed", "ohlc_flush"):
        server.call(tool, name="m", symbol="A", interval_ms=form)


def test_what_is_no_interval_says_what_is(server: Server) -> None:
    assert "no fixed length" in server.refused("ohlc_create", name="x", intervals=["1M"])
    for wrong in ("1 minute", "m", 0.5, [1]):
        assert "no interval" in server.refused("ohlc_create", name="x", intervals=[wrong]), wrong
    assert "it has [60000, 300000]" in server.refused("ohlc_flush", name="m", symbol="A", interval_ms="1h")


def test_exchanges_and_timeframes_are_taken_in_any_case(server: Server) -> None:
    for exchange, timeframe in (("Binance", "1H"), ("BINANCE", "1h"), (" binance ", "1D"), ("binance", "1M")):
        text = server.refused("candles_read", exchange=exchange, symbol="btcusdt", timeframe=timeframe)
        wanted = timeframe if timeframe == "1M" else timeframe.lower()
        assert f"There are no candles in 'kline:binance:BTCUSDT:{wanted}'" in text
    names = "'binance', 'okx', 'kraken', 'bybit' or 'coinbase'"
    assert names in server.refused("candles_read", exchange="ftx", symbol="A")


@pytest.mark.parametrize(
    "call",
    [
        ("candles_read", {"exchange": "okx", "symbol": "ETH-USDT", "timeframe": "7m"}),
        ("runner_start", {"exchange": "okx", "symbols": ["BTC-USDT"], "timeframe": "7m"}),
        ("runner_start", {"exchange": "okx", "symbols": ["BTC-USDT"], "aggregate": ["5m", "7m"]}),
        ("backfill_start", {"exchange": "okx", "symbol": "BTC-USDT", "start": "now-1d", "timeframe": "7m"}),
    ],
    ids=lambda call: call[0],
)
def test_an_unknown_timeframe_names_those_there_are(server: Server, call: tuple[str, dict[str, Any]]) -> None:
    text = server.refused(call[0], **call[1])
    assert "'7m' is no timeframe" in text
    assert "1s, 1m, 3m, 5m, 15m" in text


# -- the step by itself ---------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "number"}}}},
        "free": {"type": "object", "additionalProperties": True},
    },
    "required": ["text"],
}
texts = st.text('ab_1é\ud800"[{}]: ', max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@examples(suppress_health_check=[HealthCheck.too_slow])  # how fast inputs are made says only how busy the machine is
@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], *N8N, "other"]), json_values))
def test_whatever_comes_is_put_in_order_or_refused_with_a_reason(arguments: dict[str, Any]) -> None:
    try:
        prepared = prepare("t", SCHEMA, arguments)
    except ArgumentError as error:
        assert str(error)
    else:
        assert set(prepared) <= set(SCHEMA["properties"])
        assert prepare("t", SCHEMA, prepared) == prepared
        json.dumps(prepared, allow_nan=False, ensure_ascii=False).encode()


@given(json_values | st.text("0123456789.-+eE_ nowmsTZ:", max_size=20))
def test_whatever_comes_is_a_time_and_an_interval_or_refused_with_a_reason(value: Any) -> None:
    for taken in (types.time_ms, types.time_ms_or_now, types.moment, types.position, types.interval_ms):
        try:
            taken(value)
        except ValueError as error:
            assert type(error).__name__ in ("TimeError", "StreamIdError", "TimeframeError"), error
            assert len(str(error)) < 500


def test_a_history_is_a_length_of_time_or_a_time() -> None:
    assert [types.history(form) for form in ("7d", " 12h ", "now-7d", "2024-08-09", T0, str(T0))] == [
        *("7d", "12h", "now-7d", "2024-08-09", str(T0), str(T0))
    ]
    for wrong in ("7 days", T0 // 1000, True, "", "d"):
        with pytest.raises(types.TimeError):
            types.history(wrong)


def test_a_month_is_not_taken_for_a_minute() -> None:
    """now-1M in stream_trim would leave a minute of what should stay for a month."""
    takers = (types.history, types.moment, types.time_ms)
    for take, text in [*((take, "now-1M") for take in takers), (types.history, "3M"), (types.interval_ms, "3M")]:
        with pytest.raises(types.TimeError, match="M is a month"):
            take(text)
    with pytest.raises(StreamIdError, match="capital M is a month"):
        types.position("now-1M")
    assert types.history("7D") == "7D"
    assert types.interval_ms("1H") == 60 * MINUTE
    assert types.interval_ms("500MS") == 500


def test_relative_times_count_back_from_now() -> None:
    assert 0 <= types.time_ms("now") - types.time_ms("now-15m") - 15 * MINUTE <= 1000
    assert types.moment("now-15m") == "now-15m"


def test_an_error_names_the_first_of_many_wrong_members_and_counts_the_rest(server: Server) -> None:
    ticks = [{"symbol": "A", "price": 1, "volume": 1, "timestamp_ms": n} for n in range(1, 901)]
    text = server.refused("ohlc_update", name="m", ticks=ticks)
    assert "ticks.0.timestamp_ms: 1 is no time" in text
    assert "and 896 more" in text
    assert len(text) < 2000
