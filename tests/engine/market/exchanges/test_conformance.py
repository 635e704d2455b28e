"""What every exchange must do, as numbered cases over the registry's entries, on every kind of market.

Client and simulator were written apart: what one says the other understands. An exchange that stands in the registry is
in here; nothing is added to this file for it. docs/contributing/exchange.md lists the cases, from their docstrings.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streammachine as sf
from streammachine.errors import DataInputError, SymbolError, TimeframeError
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import (
    Ack,
    Adapter,
    Alive,
    BadFrame,
    Event,
    Notice,
    Numbered,
    Refused,
    Request,
    Subscription,
)
from streammachine.market.exchanges.registry import ENTRIES, ExchangeEntry
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.timeframe import MINUTE
from streammachine.market.network import rest_queries
from streammachine.market.network.rest_client import RestClient
from streammachine.market.simulator.simulator import exchange_class
from streammachine.market.simulator.venue.exchange import Exchange
from support.backfill import assert_golden, utc
from support.backfill import market as past_market
from support.exchange import START, Market, folded, simulated
from support.market_runs import Collector, run_until, same, short, world

pytestmark = pytest.mark.anyio

KINDS = [(entry.name, kind) for entry in ENTRIES.values() for kind in entry.market_types]
EACH = pytest.mark.parametrize(("exchange", "market_type"), KINDS)
ONCE = pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
END = START + 4 * MINUTE
GARBAGE = (b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b'{"data":null}', b"<html>", b'{"result":[]}')


# -- names ------------------------------------------------------------------------------------


@ONCE
def test_a01_the_classes_are_those_that_the_entry_names(entry: ExchangeEntry) -> None:
    """Adapter, simulator half, runner and backfill exist and say what the entry says; the last two are public."""
    adapter = adapter_for(entry.name)
    assert (adapter.name, adapter.source, adapter.env) == (entry.name, entry.title, entry.env)
    assert (adapter.market_types, adapter.closes) == (entry.market_types, entry.closes)
    assert exchange_class(entry).name == entry.name
    for name, doc in ((entry.runner_class, entry.runner_doc), (entry.backfill_class, entry.backfill_doc)):
        made = getattr(sf, name)
        assert (made.__name__, made.exchange, made.__doc__) == (name, entry.name, doc)
        assert getattr(importlib.import_module(made.__module__), name) is made


@EACH
def test_a02_a_kind_of_market_that_it_lacks_is_refused(exchange: str, market_type: str) -> None:
    """Kinds of market go by their names in any case; one that it lacks is refused, and those it has are named."""
    assert adapter_for(exchange.upper(), market_type.lower()).market_type == market_type
    with pytest.raises(DataInputError, match=market_type):
        adapter_for(exchange, "MOON")


@EACH
async def test_a03_symbols_in_its_own_form_are_taken(exchange: str, market_type: str) -> None:
    """Its own symbols are taken in either case and with spaces around, and come back as it writes them."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
    assert adapter.check_symbol(f" {symbol.lower()} ") == adapter.check_symbol(symbol) == symbol
    if market_type == "SPOT":
        assert adapter.check_symbol(adapter.symbol_example) == adapter.symbol_example


@EACH
@pytest.mark.parametrize("wrong", ["", " ", "?", "BTC USDT!", "BTC//USDT", "BTC--USDT", "\n", "BTC\x00USDT", "x" * 200])
def test_a04_what_is_no_symbol_is_refused_with_the_right_form(exchange: str, market_type: str, wrong: str) -> None:
    """What is no symbol is refused, and the text shows how the exchange writes one."""
    adapter = adapter_for(exchange, market_type)
    with pytest.raises(SymbolError, match=f"{adapter.source} writes \\S"):
        adapter.check_symbol(wrong)


@EACH
def test_a05_timeframes_are_ours(exchange: str, market_type: str) -> None:
    """Its timeframes are some of ours, in our order, 1m among them, each with a name of its own; others are refused."""
    adapter = adapter_for(exchange, market_type)
    assert [name for name in timeframes.TIMEFRAMES if name in adapter.timeframes] == list(adapter.timeframes)
    assert "1m" in adapter.timeframes
    assert len(set(adapter.timeframes.values())) == len(adapter.timeframes)
    for name in {*timeframes.TIMEFRAMES, "7m"} - set(adapter.timeframes):
        with pytest.raises(TimeframeError, match="1m, "):
            adapter.check_timeframe(name)


@EACH
def test_a06_urls_may_be_overridden(exchange: str, market_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base URLs are encrypted and end without a slash; an argument wins over a variable, that over the exchange's."""
    adapter = adapter_for(exchange, market_type)
    own = adapter.urls()
    assert own.ws.startswith("wss://")
    assert own.rest.startswith("https://")
    assert not [url for url in (own.ws, own.ws_business, own.rest, own.bulk) if url.endswith("/")]
    assert (own.bulk != "") == (adapter.bulk_folder is not None)
    for part, variable in ENTRIES[exchange].url_variables.items():
        monkeypatch.setenv(variable, f"ws://environment/{part}/")
    found = adapter.urls(rest_url="http://argument/")
    assert (found.rest, found.ws) == ("http://argument", "ws://environment/ws")
    for kind in ("kline", "trade"):
        assert adapter.endpoint(kind, found).startswith("ws://environment/ws")  # type: ignore[arg-type]


@EACH
def test_a07_limits_are_stated(exchange: str, market_type: str) -> None:
    """Every limit of sockets and of REST is a positive number; a request holds no more streams than a socket."""
    adapter = adapter_for(exchange, market_type)
    for limits in (adapter.socket, adapter.rest):
        values = {name: getattr(limits, name) for name in type(limits).__slots__}
        assert not [name for name, value in values.items() if value is not None and not value > 0]
    assert adapter.socket.args <= adapter.socket.streams


# -- the socket: what is sent -----------------------------------------------------------------


@EACH
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_a08_commands_hold_every_stream_once(exchange: str, market_type: str, method: str) -> None:
    """Commands are JSON, hold every stream once and no more than fit, and bear rising request ids."""
    adapter = adapter_for(exchange, market_type)
    wanted = [Subscription("kline", f"COIN{number}USD", "1m") for number in range(adapter.socket.args * 2 + 1)]
    wanted += [Subscription("trade", "COIN1USD"), Subscription("kline", "COIN1USD", "5m")]
    commands = getattr(adapter, method)(wanted, 7)
    assert sorted(map(repr, wanted)) == sorted(repr(one) for command in commands for one in command.subscriptions)
    assert [command.request_id for command in commands] == list(range(7, 7 + len(commands)))
    for command in commands:
        assert len(command.subscriptions) <= adapter.socket.args
        assert 1 <= command.acks <= len(command.subscriptions)
        assert isinstance(orjson.loads(command.frame), dict)


# -- the socket: what is understood -----------------------------------------------------------


@EACH
@settings(max_examples=60, deadline=None)
@given(
    frame=st.one_of(
        st.sampled_from(GARBAGE),
        st.binary(max_size=60),
        st.text(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(("data", "topic", "channel", "event", "e", "arg", "id")), inner)
            ),
            max_leaves=8,
        ).map(lambda value: orjson.dumps(value, default=str) if _fits(value) else b"{}"),
    )
)
def test_a09_no_frame_makes_it_fail(exchange: str, market_type: str, frame: str | bytes) -> None:
    """Whatever a frame holds, decoding it does not raise: what is not understood is a BadFrame."""
    events = adapter_for(exchange, market_type).decode(frame)
    assert all(isinstance(event, get_args(Event)) for event in events)
    if frame in GARBAGE[:6]:
        assert [type(event) for event in events] == [BadFrame]


@EACH
async def test_a10_pushed_candles(exchange: str, market_type: str) -> None:
    """Pushed candles are the tape's, folded; the last state of each is marked as closed where the entry says so."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        await learn(market, adapter)
        timeframe = pushed(adapter)
        step = timeframes.MILLISECONDS[timeframe]
        start, end = timeframes.ceil(timeframe, START), timeframes.ceil(timeframe, START) + max(4 * MINUTE, 2 * step)
        events = await listened(market, adapter, "kline", timeframe, end)
    assert {type(event) for event in events} <= {Kline, Ack, Alive, Notice, Numbered}
    candles = [event for event in events if isinstance(event, Kline)]
    states = {row.is_closed for row in candles}
    assert states == ({True, False} if adapter.closes == "flag" else {None})
    closed = {row.open_ts: row for row in candles if row.is_closed is not False}
    for begin, opened, high, low, close, volume, quote, count in folded(market.tape, step, start, end):
        row = closed[begin]
        assert (row.source, row.origin, row.end_ts) == (adapter.source, "ws", begin + step - 1)
        assert (row.open, row.high, row.low, row.close) == tuple(map(float, (opened, high, low, close)))
        assert row.volume == pytest.approx(float(volume), rel=1e-9)
        if row.quote_volume is not None:
            assert row.quote_volume == pytest.approx(float(quote), rel=1e-5 if row.estimated else 1e-9)
        assert row.n_trades in (count, None)


@EACH
async def test_a11_pushed_trades(exchange: str, market_type: str) -> None:
    """Pushed trades are the tape's, none missing, with their sides; ids are numbers that rise where it says so."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        await learn(market, adapter)
        events = await listened(market, adapter, "trade", None)
    assert {type(event) for event in events} <= {Trade, Ack, Alive, Notice, Numbered}
    trades = [event for event in events if isinstance(event, Trade)]
    want = market.tape.trades("BTC/USDT", START, END)
    assert {trade.side for trade in trades} == {"buy", "sell"}
    assert sum(trade.volume for trade in trades if START <= trade.ts < END) == pytest.approx(
        sum(float(row.quantity) for row in want), rel=1e-9
    )
    if adapter.contiguous_ids:
        ids = [int(trade.trade_id) for trade in trades]
        assert ids == sorted(set(ids))
        assert want[-1].id in ids


@EACH
async def test_a12_every_command_is_acknowledged(exchange: str, market_type: str) -> None:
    """A subscription has as many acknowledgements as its command says, and its end too; then no more candles come."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        line, symbol = await connected(market, adapter)
        wanted = [Subscription("kline", symbol, pushed(adapter))]
        for method, number in ((adapter.subscribe, 1), (adapter.unsubscribe, 2)):
            before = len(line.heard)
            (command,) = method(wanted, number)
            await line.say(command.frame)
            await market.pass_time(3)
            acks = [event for event in understood_of(adapter, line.heard[before:]) if isinstance(event, Ack)]
            assert len(acks) == command.acks
            assert {ack.request_id for ack in acks} <= {number, None}
            assert {ack.subscription for ack in acks} <= {wanted[0], None}
        before = len(line.heard)
        await market.pass_time(8)
        assert not [event for event in understood_of(adapter, line.heard[before:]) if isinstance(event, Kline)]


@EACH
async def test_a13_notices_errors_and_refused_subscriptions_are_understood(exchange: str, market_type: str) -> None:
    """A refused subscription is a Refused, an announced end a Notice; no frame is bad but a spoiled one."""
    adapter = adapter_for(exchange, market_type)
    faults = ["ack_error", "notice@3", "error@5", "unknown:times=2", "malformed#20"]
    async with simulated(exchange, faults) as market:
        line, symbol = await connected(market, adapter)
        for number in (1, 2):
            (command,) = adapter.subscribe([Subscription("kline", symbol, pushed(adapter))], number)
            await line.say(command.frame)
        await market.pass_time(12)
        events = understood_of(adapter, line.heard)
    assert any(isinstance(event, Refused) for event in events)
    if exchange_class(ENTRIES[exchange]).announce is not Exchange.announce:
        assert any(isinstance(event, Notice) for event in events)
    assert not [event for event in events if isinstance(event, BadFrame) and "omething" not in event.excerpt]


@EACH
async def test_a14_an_unknown_symbol_is_refused_by_name(exchange: str, market_type: str) -> None:
    """A subscription to a symbol that it has not is refused, and the answer tells which one is meant."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        line, symbol = await connected(market, adapter)
        unknown = symbol.replace("BTC", "ZZZ")
        (command,) = adapter.subscribe([Subscription("kline", unknown, pushed(adapter))], 5)
        await line.say(command.frame)
        await market.pass_time(5)
        events = understood_of(adapter, line.heard)
    refused = [event for event in events if isinstance(event, Refused)]
    if not refused:  # an exchange may say nothing of it, or acknowledge it: then no data comes
        assert not [event for event in events if isinstance(event, Kline)]
        return
    assert not refused[0].retry
    assert refused[0].request_id == 5 or refused[0].symbol == unknown or refused[0].subscription is not None


# -- REST -------------------------------------------------------------------------------------


@EACH
async def test_a15_listed_symbols_are_found(exchange: str, market_type: str) -> None:
    """The instruments hold what is traded, in its own form; one that is halted is told apart."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange) as market:
        symbol = await learn(market, adapter)
        assert adapter.check_symbol(symbol) == symbol
    async with simulated(exchange, ["delist@0:symbol=BTC/USDT"]) as market:
        request = adapter.instrument(symbol) or adapter.instruments([symbol])[0]
        found = adapter.decode_instruments(await asked(market, request))
        assert symbol not in found.trading


@EACH
async def test_a16_asked_candles(exchange: str, market_type: str) -> None:
    """Candles of REST are the tape's, folded, oldest first."""
    adapter = adapter_for(exchange, market_type)
    async with simulated(exchange, start=END) as market:
        symbol = await learn(market, adapter)
        body = await asked(market, adapter.klines(symbol, "1m", START - 30 * MINUTE, END))
        found = adapter.decode_klines(body, symbol, "1m")
    assert [row.open_ts for row in found] == sorted({row.open_ts for row in found})
    rows = {row.open_ts: row for row in found}
    for start, opened, high, low, close, volume, *_ in folded(market.tape, MINUTE, START - 30 * MINUTE, END):
        row = rows[start]
        assert (row.source, row.origin, row.symbol, row.timeframe) == (adapter.source, "rest", symbol, "1m")
        assert (row.open, row.high, row.low, row.close) == tuple(map(float, (opened, high, low, close)))
        assert row.volume == pytest.approx(float(volume), rel=1e-9)


@EACH
@pytest.mark.parametrize("timeframe", ["1h", "1d"])
async def test_a17_longer_candles_begin_where_ours_do(exchange: str, market_type: str, timeframe: str) -> None:
    """Hours and days begin by UTC."""
    adapter = adapter_for(exchange, market_type)
    length = {"1h": 60 * MINUTE, "1d": 1440 * MINUTE}[timeframe]
    first = START // length * length - 3 * length
    async with simulated(exchange) as market:
        symbol = await learn(market, adapter)
        body = await asked(market, adapter.klines(symbol, timeframe, first, first + 3 * length))
        rows = [row.open_ts for row in adapter.decode_klines(body, symbol, timeframe)]
    assert {first, first + length, first + 2 * length} <= set(rows)


@EACH
async def test_a18_asked_trades(exchange: str, market_type: str) -> None:
    """Trades of REST come page by page, oldest first, none missing from the first that it still has to the last."""
    adapter = adapter_for(exchange, market_type)
    found: list[Trade] = []
    async with simulated(exchange, start=END) as market:
        symbol = await learn(market, adapter)
        urls = market.simulator.urls(exchange, market_type)
        async with RestClient(adapter, urls, clock=market.clock) as rest:
            async for page in rest_queries.trade_pages(rest, symbol, since=START):
                found += page
    moments = [trade.ts for trade in found]
    assert moments == sorted(moments)
    first = max(START, moments[0] + 1)
    want = sum(float(row.quantity) for row in market.tape.trades("BTC/USDT", first, END))
    assert sum(trade.volume for trade in found if first <= trade.ts < END) == pytest.approx(want, rel=1e-9)


@EACH
@pytest.mark.parametrize("body", GARBAGE)
def test_a19_an_answer_that_is_none_is_a_value_error(exchange: str, market_type: str, body: bytes) -> None:
    """An answer of REST that is not what the exchange sends is a ValueError, nothing else, and never rows."""
    adapter = adapter_for(exchange, market_type)
    symbol = adapter.symbol_example
    for decode in (
        lambda: adapter.decode_instruments(body).trading,
        lambda: adapter.decode_klines(body, symbol, "1m"),
        lambda: adapter.decode_trades(body, symbol).trades,
    ):
        try:
            assert not decode()
        except ValueError:
            continue


@EACH
async def test_a20_every_refusal_is_understood(exchange: str, market_type: str) -> None:
    """Too many requests and a broken server may be tried again, a wrong request not; a success is no refusal."""
    adapter = adapter_for(exchange, market_type)
    for value in (429, 503):
        async with simulated(exchange, [f"status:value={value}"]) as market:
            symbol = market.simulator.symbol(exchange, "BTC/USDT", market_type)
            request = adapter.klines(symbol, "1m", START - 30 * MINUTE, START)
            answer = await market.get(request.path, **request.params)
            refusal = adapter.refusal(answer.status_code, dict(answer.headers), answer.content)
            assert refusal is not None
            assert refusal.retry
            good = await market.get(request.path, **request.params)
            assert adapter.refusal(good.status_code, dict(good.headers), good.content) is None
    wrong = adapter.refusal(400, {}, b"{}")
    assert wrong is not None
    assert not wrong.retry
    assert adapter.source in wrong.reason


# -- the whole road ---------------------------------------------------------------------------


@ONCE
async def test_a21_a_runner_streams_and_heals(entry: ExchangeEntry) -> None:
    """Its runner streams the tape's candles through a broken connection, each once and in order."""
    async with world(entry.name, faults=[sf_fault("reset@90")]) as there:
        name = there.simulator.symbol(entry.name, "BTC/USDT")
        collector = Collector(5)
        await run_until(there.runner(entry.name), collector)
        rows = collector.klines(name, "1m")
        first, last = rows[0].open_ts, rows[-1].open_ts
        same(short(rows), there.truth("BTC/USDT", "1m", first, last + MINUTE))


@ONCE
async def test_a22_a_backfill_is_exact(entry: ExchangeEntry) -> None:
    """Its backfill gives exactly the candles of a range, each once, from whatever home they have."""
    start, end = utc("2024-02-03T02:00"), utc("2024-02-03T03:00")
    async with past_market(entry.name) as market:
        backfill = market.backfill("1m", start, end)
        rows = [row async for batch in backfill.stream() for row in batch]
        assert_golden(rows, market.tape, "1m", start, end)


@ONCE
def test_a23_client_and_simulator_share_no_code(entry: ExchangeEntry) -> None:
    """Its simulator half imports nothing of the adapters, so that a mistake in one shows in the other."""
    tree = ast.parse(inspect.getsource(importlib.import_module(exchange_class(entry).__module__)))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in modules if name.startswith("streammachine.market.exchanges")]


# -- helpers ----------------------------------------------------------------------------------


def sf_fault(text: str) -> Any:
    """A fault by its text."""
    from streammachine.market.simulator import Fault

    return Fault.parse(text)


def _fits(value: object) -> bool:
    """Whether it can be written as JSON: whole numbers of at most 64 bits."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


async def asked(market: Market, request: Request) -> bytes:
    answer = await market.get(request.path, **request.params)
    assert answer.status_code == 200, answer.text
    return answer.content


async def connected(market: Market, adapter: Adapter) -> tuple[Any, str]:
    """A socket for candles, and a symbol that there is."""
    symbol = market.simulator.symbol(market.exchange, "BTC/USDT", adapter.market_type)
    return await market.connect(path_of(market, adapter, "kline")), symbol


def path_of(market: Market, adapter: Adapter, kind: Any) -> str:
    urls = market.simulator.urls(market.exchange, adapter.market_type)
    return adapter.endpoint(kind, urls).replace(urls.rest.replace("http", "ws", 1), "")


def understood_of(adapter: Adapter, heard: list[tuple[int, bytes]]) -> list[Event]:
    return [event for _, frame in heard for event in adapter.decode(frame)]


def pushed(adapter: Adapter) -> str:
    """A timeframe of candles that its socket has."""
    return "1m" if adapter.pushed is None else adapter.pushed[0]


async def listened(market: Market, adapter: Adapter, kind: Any, timeframe: str | None, until: int = END) -> list[Event]:
    """The events of a socket for a symbol, four minutes long."""
    symbol = market.simulator.symbol(market.exchange, "BTC/USDT", adapter.market_type)
    line = await market.connect(path_of(market, adapter, kind))
    for text in adapter.opening:
        await line.say(text)
    (command,) = adapter.subscribe([Subscription(kind, symbol, timeframe)], 1)
    await line.say(command.frame)
    while market.clock.time_ms() < until + 5_000:
        await market.pass_time(10)
        ping = adapter.ping()
        if ping is not None:
            await line.say(ping)
    assert line.closed is None
    return understood_of(adapter, line.heard)


async def learn(market: Market, adapter: Adapter) -> str:
    """Let the adapter see the instruments, for contract sizes stand there; gives a symbol that there is."""
    symbol = market.simulator.symbol(market.exchange, "BTC/USDT", adapter.market_type)
    body = await asked(market, adapter.instruments([symbol])[0])
    assert symbol in adapter.decode_instruments(body).trading
    return symbol
