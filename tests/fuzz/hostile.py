"""Arguments whose own code changes what is read while it is read, or that are nested, long or large beyond measure.

Each case is a function of one of the twins; what it gives (or raises) must be the same from both, and in the sanitized
build no byte may be touched that is not ours. The inputs are bounded, and harmless to the interpreter itself.
"""

from __future__ import annotations

import enum
import gc
import struct
import zlib
from collections import UserDict
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Case = Callable[[ModuleType], Any]
MINUTE = 60_000
T0 = 1_700_000_040_000
DEEP = 300_000


def outcome(case: Case, engine: ModuleType) -> tuple[str, str]:
    """What a case gives or raises, comparable."""
    try:
        return "gave", repr(case(engine))
    except Exception as error:
        return type(error).__name__, str(error)


def nested(depth: int = DEEP) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def candles(agg: Any, *symbols: str) -> Any:
    return agg.tick_count, [[c.to_dict() for c in agg.get_candles(symbol, MINUTE)] for symbol in symbols]


def fresh(text: str) -> bytes:
    """Bytes that nobody else holds."""
    return bytes(bytearray(text.encode()))


# --- candles: what is nested or calls itself ---------------------------------------------------------------------


def nested_reply(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch(nested())


def nested_entries(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch({"X": nested()})


def reply_that_holds_itself(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch(itself())


def entries_that_hold_themselves(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch([("X", itself())])


def nested_price(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch({"X": [("1-0", {"price": nested(), "volume": 1})]})


def nested_fields(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).process_stream_batch({"X": [("1-0", nested())]})


def nested_tick(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).update_tick("X", nested(), 1.0, T0)


def nested_symbol(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).update_tick(nested(), 1.0, 1.0, T0)


def nested_column(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).update_batch(nested(), [1.0], [1.0], [T0])


def number_of_many_digits(engine: ModuleType) -> Any:
    return engine.FastOHLC([MINUTE]).update_tick("X", 10**5000, 1.0, T0)


# --- candles: code that runs in the middle -----------------------------------------------------------------------


def bytes_whose_decode_ticks(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])

    class Name(bytes):
        def decode(self, *_: Any, **__: Any) -> str:
            agg.update_tick("X", 5.0, 5.0, T0)
            return "X"

    for k in range(4):
        agg.update_tick(Name(b"X"), 1.0, 1.0, T0 + k)
        agg.update_tick("X", 2.0, 1.0, T0 + k)
    agg.process_stream_batch([("X", [("1-0", {"price": 1, "volume": 1, "s": Name(b"Y")})])], symbol_field="s")
    return candles(agg, "X", "Y")


class Clearing:
    """A key that looks like a name to the hash, and empties its dict when it is compared, once it is armed."""

    def __init__(self, name: str | bytes, fields: dict[Any, Any]) -> None:
        self.name, self.fields, self.armed = name, fields, False

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        if self.armed:
            self.fields.clear()
        return False


def dict_that_a_key_empties(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    found = []
    for name in ("price", "volume", "s", "T"):
        fields: dict[Any, Any] = {}
        key = Clearing(name, fields)
        fields[key] = 1
        fields |= {"price": fresh("1.5"), "volume": fresh("2"), "s": fresh("X"), "T": fresh(str(T0))}
        key.armed = True
        try:
            found.append(agg.process_stream_batch([("X", [("1-0", fields)])], "price", "volume", "s", "T"))
        except Exception as error:
            found.append(str(error))
    return found, candles(agg, "X")


def value_that_empties_its_dict(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    fields: dict[str, Any] = {}

    class Price:
        def __float__(self) -> float:
            fields.clear()
            gc.collect()
            return 1.5

    fields |= {"price": Price(), "volume": fresh("2"), "s": fresh("Long symbol"), "T": fresh(str(T0))}
    agg.process_stream_batch([("X", [("1-0", fields)])], "price", "volume", "s", "T")
    return candles(agg, "Long symbol")


def list_whose_length_empties_its_holder(engine: ModuleType) -> Any:
    holder: list[Any] = []

    class Inner(list[Any]):
        def __len__(self) -> int:
            holder.clear()
            self.clear()
            return 2

    holder += ["X", Inner([("1-0", {"price": 1, "volume": 1})])]
    return engine.FastOHLC([MINUTE]).process_stream_batch([holder])


def mapping_whose_length_lies(engine: ModuleType) -> Any:
    class Empty(UserDict[str, Any]):
        def __len__(self) -> int:
            return 3

    return engine.FastOHLC([MINUTE]).process_stream_batch([("X", [("1-0", Empty())])])


def collecting(wait: int, call: Callable[[], Any]) -> Any:
    """What ``call`` gives when the garbage collector begins at its ``wait``-th allocation, or about there."""
    held: list[Any] = [[] for _ in range(200)]  # the interpreter keeps some lists in store: none is left
    gc.set_threshold(gc.get_count()[0] + wait)
    gc.enable()
    try:
        return call()
    finally:
        gc.set_threshold(700, 10, 10)
        held.clear()
        gc.collect()


def collected_while(engine: ModuleType, look: Callable[[Any], Any]) -> list[Any]:
    """``look`` with a garbage cycle about whose ``__del__`` clears the aggregator and fills it anew."""
    found = []
    for wait in range(60):  # some of these set the collector off in the midst of it
        agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
        for k in range(50):
            agg.update_tick("X", float(k), 1.0, T0 + k * MINUTE)

        class Clears:
            def __init__(self, agg: Any) -> None:
                self.agg, self.me = agg, self

            def __del__(self) -> None:
                self.agg.clear()
                self.agg.update_tick("Y", 1.0, 1.0, T0)

        gc.disable()
        Clears(agg)
        found.append(collecting(wait, partial(look, agg)))
    return found


def clear_while_candles_are_collected(engine: ModuleType) -> Any:
    return {len(found) in (0, 50) for found in collected_while(engine, lambda agg: agg.get_candles("X", MINUTE))}


def clear_while_a_dump_is_made(engine: ModuleType) -> Any:
    if engine.__name__.endswith("reference"):
        return {True}  # plain Python is not at one with itself while somebody changes it
    return {
        engine.FastOHLC.load(dump).symbols in (["X"], ["Y"]) for dump in collected_while(engine, lambda agg: agg.dump())
    }


# --- candles: columns --------------------------------------------------------------------------------------------


class Symbols:
    """Looks like a categorical column."""

    def __init__(self, categories: Any, codes: Any) -> None:
        self.dtype = SimpleNamespace(categories=categories)
        self.codes = codes


class Liar(list[Any]):
    def __len__(self) -> int:
        return 100_000


class LyingArray(np.ndarray):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 100_000


def columns(
    engine: ModuleType, symbols: Any, prices: Any = (1.0, 2.0), volumes: Any = (1.0, 1.0), rows: int = 2
) -> Any:
    agg = engine.FastOHLC([MINUTE])
    return agg.update_batch(symbols, prices, volumes, [T0] * rows), candles(agg, "A", "B")


def categories_whose_length_lies(engine: ModuleType) -> Any:
    return columns(engine, Symbols(Liar(["A", "B"]), np.array([0, 90_000])))


def codes_whose_length_lies(engine: ModuleType) -> Any:
    many = [1.0] * 100_000
    return columns(engine, Symbols(["A", "B"], np.array([0, 1]).view(LyingArray)), many, many, 100_000)


def prices_whose_length_lies(engine: ModuleType) -> Any:
    return columns(engine, "A", np.array([1.0, 2.0]).view(LyingArray), [1.0] * 100_000, 100_000)


def codes_of_two_dimensions(engine: ModuleType) -> Any:
    return columns(engine, Symbols(["A", "B"], np.array([[0, 1], [1, 0]])))


def codes_that_are_no_integers(engine: ModuleType) -> Any:
    return columns(engine, Symbols(["A", "B"], np.array([0.5, 1.0])))


def codes_out_of_range(engine: ModuleType) -> Any:
    return columns(engine, Symbols(["A", "B"], np.array([0, -2])))


def category_whose_decode_changes_the_codes(engine: ModuleType) -> Any:
    codes = np.array([0, 1])

    class Name(bytes):
        def decode(self, *_: Any, **__: Any) -> str:
            codes[:] = 1_000_000
            return "B"

    return columns(engine, Symbols(["A", Name(b"B")], codes))


def iterating_categories_changes_the_codes(engine: ModuleType) -> Any:
    codes = np.array([0, 1])

    class Categories:
        def __iter__(self) -> Any:
            codes[:] = 1_000_000
            return iter(["A", "B"])

    return columns(engine, Symbols(Categories(), codes))


def number_that_writes_into_a_checked_array(engine: ModuleType) -> Any:
    prices = np.array([1.0, 2.0])

    class Volume:
        def __float__(self) -> float:
            prices[:] = np.nan
            return 1.0

    return columns(engine, "A", prices, [1.0, Volume()])


def time_that_writes_into_a_checked_array(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    volumes = np.array([1.0, 2.0])

    class Time:
        def __index__(self) -> int:
            volumes[:] = 7.0
            return T0

    return agg.update_batch("A", [1.0, 1.0], volumes, [T0, Time()]), candles(agg, "A")


def array_that_writes_into_another(engine: ModuleType) -> Any:
    prices = np.array([1.0, 2.0])

    class Volumes:
        def __array__(self, *_: Any, **__: Any) -> Any:
            prices[:] = np.inf
            return np.array([1.0, 1.0])

    return columns(engine, ["A", "B"], prices, Volumes())


# --- candles: large, and of subclasses ---------------------------------------------------------------------------


def counts_at_the_end_of_64_bits(engine: ModuleType) -> Any:
    """A dump of one candle of 2**63 - 1 ticks; a tick more does not fit."""
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0)
    body = agg.dump()[:-4]
    body = body[:-8] + struct.pack("<q", 2**63 - 1)
    agg = engine.FastOHLC.load(body + struct.pack("<I", zlib.crc32(body)))
    agg.update_tick("X", 1.0, 1.0, T0)
    return candles(agg, "X")


def ticks_at_the_end_of_64_bits(engine: ModuleType) -> Any:
    body = bytearray(engine.FastOHLC([MINUTE]).dump()[:-4])
    body[16:24] = struct.pack("<q", 2**63 - 1)
    agg = engine.FastOHLC.load(bytes(body) + struct.pack("<I", zlib.crc32(body)))
    agg.update_tick("X", 1.0, 1.0, T0)
    return agg.tick_count


class Text(str):
    """A str that says another thing when asked."""

    def __str__(self) -> str:
        return "other"

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"other"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Coin(enum.StrEnum):
    BTC = "BTC"
    PRICE = "price"


class Moment(enum.IntEnum):
    START = T0


def symbols_of_subclasses(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    for symbol in (Coin.BTC, Text("BTC"), np.str_("BTC"), np.bytes_(b"BTC"), "BTC"):
        agg.update_tick(symbol, 1.0, 1.0, Moment.START)
        agg.update_batch(symbol, [1], [1], [Moment.START])
        agg.process_stream_batch({symbol: [("1-0", {"price": 1, "volume": 1, "s": symbol})]}, symbol_field="s")
        assert agg.get_candles(symbol, MINUTE)
    assert {type(symbol) for symbol in agg.symbols} == {str}
    return candles(agg, "BTC"), [repr(candle) for candle in agg.get_candles("BTC", MINUTE)]


def names_of_subclasses(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    flat = [Coin.PRICE, "1", np.bytes_(b"volume"), "2", Text("other"), "9"]
    agg.process_stream_batch({"X": [("1-0", flat)]}, Coin.PRICE, Text("volume"))
    agg.process_stream_batch({"X": [(np.str_("60000-1"), flat), (np.bytes_(b"60000-2"), flat)]})
    return candles(agg, "X")


def names_that_have_no_hash(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    agg.process_stream_batch({"X": [("1-0", [[], "1", "price", "1", {}, "2", "volume", "1", 5, "3", None, "4"])]})
    return candles(agg, "X")


def names_as_text_and_bytes(engine: ModuleType) -> Any:
    agg = engine.FastOHLC([MINUTE])
    agg.process_stream_batch({"X": [("1-0", ["price", "1", b"price", "2", "volume", "3"])]})
    return candles(agg, "X")


def surrogates(engine: ModuleType) -> Any:
    words = []
    agg = engine.FastOHLC([MINUTE])
    for attempt in (
        lambda: agg.update_tick("\ud800", 1.0, 1.0, T0),
        lambda: agg.process_stream_batch({"\ud800": [("1-0", {"price": 1, "volume": 1})]}),
        lambda: agg.process_stream_batch({"X": [("\ud800-0", {"price": 1, "volume": 1})]}),
        lambda: agg.process_stream_batch({"X": [("1-0", {"price": "\ud800", "volume": 1})]}),
        lambda: agg.process_stream_batch(
            {"X": [("1-0", {"price": "1", "volume": 1, "T": "\ud800"})]}, timestamp_field="T"
        ),
        lambda: agg.process_stream_batch({"X": [("1-0", {"price": "1", "\ud800": 1})]}),
        lambda: agg.process_stream_batch({"X": [("1-0", ["price", "1", "\ud800", 1])]}),
        lambda: agg.process_stream_batch({}, "\ud800"),
        lambda: agg.update_batch(["\ud800"], [1.0], [1.0], [T0]),
        lambda: agg.get_candles("\ud800", MINUTE),
    ):
        try:
            words.append(str(attempt()))  # type: ignore[no-untyped-call]
        except Exception as error:
            words.append(f"{type(error).__name__}: {error}")
    return words, agg.symbols


def load_into_one_that_is_not_new(engine: ModuleType) -> Any:
    class Same(engine.FastOHLC):  # type: ignore[name-defined,misc]
        held: Any = None

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls.held is None:
                given = () if engine.FastOHLC.__new__ is object.__new__ else args
                cls.held = super().__new__(cls, *given)
            return cls.held

    agg = Same([MINUTE])
    symbol = "X"
    agg.update_tick(symbol, 1.0, 1.0, T0)
    dump = agg.dump()
    for _ in range(3):
        Same.load(dump)
        agg.update_tick(symbol, 2.0, 1.0, T0)
    return len(agg.get_candles(symbol, MINUTE))


CANDLES: tuple[Case, ...] = (
    nested_reply,
    nested_entries,
    reply_that_holds_itself,
    entries_that_hold_themselves,
    nested_price,
    nested_fields,
    nested_tick,
    nested_symbol,
    nested_column,
    number_of_many_digits,
    bytes_whose_decode_ticks,
    dict_that_a_key_empties,
    value_that_empties_its_dict,
    list_whose_length_empties_its_holder,
    mapping_whose_length_lies,
    clear_while_candles_are_collected,
    clear_while_a_dump_is_made,
    categories_whose_length_lies,
    codes_whose_length_lies,
    prices_whose_length_lies,
    codes_of_two_dimensions,
    codes_that_are_no_integers,
    codes_out_of_range,
    category_whose_decode_changes_the_codes,
    iterating_categories_changes_the_codes,
    number_that_writes_into_a_checked_array,
    time_that_writes_into_a_checked_array,
    array_that_writes_into_another,
    counts_at_the_end_of_64_bits,
    ticks_at_the_end_of_64_bits,
    symbols_of_subclasses,
    names_of_subclasses,
    names_that_have_no_hash,
    names_as_text_and_bytes,
    surrogates,
    load_into_one_that_is_not_new,
)


# --- the wire codec ----------------------------------------------------------------------------------------------


class Emptying:
    """A key that empties lists when its hash is asked for."""

    def __init__(self, *lists: list[Any]) -> None:
        self.lists = lists

    def __hash__(self) -> int:
        for one in self.lists:
            one.clear()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return "Emptying"


def key_that_empties_its_fields(wire: ModuleType) -> Any:
    fields: list[Any] = []
    fields += [Emptying(fields), fresh("value one"), fresh("name"), fresh("value two")]
    return wire.parse_entries([[b"1-0", fields]])


def key_that_empties_its_entry(wire: ModuleType) -> Any:
    entry: list[Any] = []
    entry += [fresh("1-0"), [Emptying(entry), fresh("value")]]
    return wire.parse_entries([entry])


def key_that_empties_the_reply(wire: ModuleType) -> Any:
    reply: list[Any] = []
    reply += [[fresh("1-0"), [Emptying(reply), fresh("a")]], [fresh("2-0"), [fresh("b"), fresh("c")]]]
    return wire.parse_entries(reply)


def key_that_empties_its_stream(wire: ModuleType) -> Any:
    pair: list[Any] = []
    pair += [fresh("stream"), [[fresh("1-0"), [Emptying(pair), fresh("a")]]]]
    return wire.parse_stream_reply([pair])


def key_without_a_hash(wire: ModuleType) -> Any:
    return wire.parse_entries([[b"1-0", [[], b"a"]]])


def subclasses_of_list_in_a_reply(wire: ModuleType) -> Any:
    class Short(list[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, at: Any) -> Any:
            return [b"a", b"b"] if at == 1 else b"other"

    return wire.parse_entries(Short([Short([b"1-0"]), [b"2-0", Short([b"c", b"d", b"e"])]]))


def lengths_beyond_64_bits(wire: ModuleType) -> Any:
    found = []
    for kind in b"$=!*%~>|":
        for text in (2**63 - 1, 2**63, 10**19 - 1, 10**19, 2**64, 2**64 + 5, 10**30):
            parser = wire.ReplyParser()
            parser.feed(b"%c%d\r\n" % (kind, text))
            for _ in range(2):
                try:
                    found.append(str(parser.get()))
                except Exception as error:
                    found.append(f"{type(error).__name__}: {error}")
    return found


def fields_of_subclasses(wire: ModuleType) -> Any:
    class Raw(bytes):
        def decode(self, *_: Any, **__: Any) -> str:
            return "other"

    decoded = wire.decode_dict_bytes_to_utf8({Coin.BTC: Text("a"), Raw(b"b"): np.str_("c"), np.bytes_(b"d"): Raw(b"e")})
    assert {type(text) for pair in decoded.items() for text in pair} == {str}
    return decoded


def records_of_subclasses(wire: ModuleType) -> Any:
    class Raw(bytes):
        def __bytes__(self) -> bytes:
            return b"other"

    record = {Coin.BTC: Coin.PRICE, Text("a"): Text("b"), Raw(b"c"): Raw(b"d"), "e": Moment.START, "f": np.float64(1.5)}
    return wire.encode_fields(record), wire.encode_xadd_batch(Text("key"), [record])


def records_with_surrogates(wire: ModuleType) -> Any:
    words = []
    for record in ({"\ud800": "a"}, {"a": "\ud800"}, {Text("\ud800"): 1}, {"a": Text("\ud800")}):
        for encode in (wire.encode_fields, lambda record: wire.encode_xadd_batch("key", [record])):
            try:
                words.append(str(encode(record)))
            except Exception as error:
                words.append(f"{type(error).__name__}: {error}")
    return words


def record_emptied_while_it_is_refused(wire: ModuleType) -> Any:
    found = set()
    for wait in range(60):
        record: dict[Any, Any] = {}

        class Clears:
            def __init__(self, record: dict[Any, Any]) -> None:
                self.record, self.me = record, self

            def __del__(self) -> None:
                self.record.clear()

        gc.disable()
        record["name " + chr(0xD800) * (wait % 2)] = "value " + chr(0xD800)
        Clears(record)
        try:
            collecting(wait // 2, partial(wire.encode_fields, record))
        except Exception as error:
            found.add(type(error).__name__)
    return found <= {"FieldError", "RuntimeError"}  # the twin notices that its dict changed


def names_that_are_no_names(wire: ModuleType) -> Any:
    words = []
    for name in (10**5000, None, 1.5, (1, 2), enum.Enum("E", "A").A):
        try:
            words.append(str(wire.encode_fields({name: 1})))
        except Exception as error:
            words.append(f"{type(error).__name__}: {error}")
    return words


def memory_of_other_shapes(wire: ModuleType) -> Any:
    found = []
    for data in (
        memoryview(b"+a+b+c")[::2],
        np.frombuffer(b":1\r\n", dtype="u1").reshape(2, 2),
        np.frombuffer(b":1\r\n", dtype="u4"),
        memoryview(b""),
        "text",
        5,
        None,
    ):
        parser = wire.ReplyParser()
        try:
            parser.feed(data)
            found.append(repr(parser.get()))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def parser_called_from_within(wire: ModuleType) -> Any:
    """A collector that runs in the midst of ``get``, and with it code that feeds and asks the same parser."""
    found = set()
    for wait in range(40):
        parser = wire.ReplyParser()
        parser.feed(b"*2\r\n" * 20 + b"$3\r\nabc\r\n")

        class Asks:
            def __init__(self, parser: Any) -> None:
                self.parser, self.me = parser, self

            def __del__(self) -> None:
                try:
                    self.parser.feed(b"*2\r\n" * 20 + b"x" * 100_000)
                    self.parser.get()
                except Exception as error:
                    found.add(type(error).__name__)

        gc.disable()
        Asks(parser)
        try:
            collecting(wait, parser.get)
        except Exception as error:
            found.add(type(error).__name__)
    return found <= {"RuntimeError", "ProtocolError"}


WIRE: tuple[Case, ...] = (
    key_that_empties_its_fields,
    key_that_empties_its_entry,
    key_that_empties_the_reply,
    key_that_empties_its_stream,
    key_without_a_hash,
    subclasses_of_list_in_a_reply,
    lengths_beyond_64_bits,
    fields_of_subclasses,
    records_of_subclasses,
    records_with_surrogates,
    record_emptied_while_it_is_refused,
    names_that_are_no_names,
    memory_of_other_shapes,
    parser_called_from_within,
)


# --- rows of exchanges' frames -----------------------------------------------------------------------------------


def kline_makers() -> tuple[Any, Any]:
    """What makes Klines of rows: the compiled way, and the validator alone. Each has ``made`` and ``placed``."""
    from streammachine.market.exchanges import decode as wire
    from streammachine.market.exchanges import kraken

    def makers() -> SimpleNamespace:
        placed = wire.placed_kline_maker("Kraken", {"n_trades": "trades"}, kraken._completed, weighted="vwap")
        return SimpleNamespace(made=wire.kline_maker("Here", PLACES), placed=placed)

    compiled, built = makers(), wire.HAS_NATIVE
    wire.HAS_NATIVE = False
    try:
        return compiled, makers()
    finally:
        wire.HAS_NATIVE = built


PLACES = {"open_ts": "t", "quote_volume": "quote", "n_trades": "n", "is_closed": "x"}
PLACE = ("BTC/USD", "1m", T0, T0 + MINUTE - 1)


def kline_row() -> dict[Any, Any]:
    """Values that nobody else holds."""
    numbers = {
        name: fresh(text).decode()
        for name, text in zip("ohlc", ("64040.25", "64041.5", "64025.75", "64033.5"), strict=True)
    }
    row: dict[Any, Any] = {"symbol": fresh("BTCUSDT").decode(), "timeframe": fresh("1m").decode()}
    row |= {"t": int(str(T0)), "end_ts": int(str(T0 + MINUTE - 1)), "quote": 1.5, "n": 2**40, "x": False}
    row |= {"open": numbers["o"], "high": numbers["h"], "low": numbers["l"], "close": numbers["c"]}
    return row | {"volume": fresh("12.5").decode(), "vwap": 64030.5, "trades": 7}


def row_that_a_key_empties(makers: Any) -> Any:
    found = []
    for make in (makers.made, lambda row: makers.placed(row, PLACE)):
        for name in kline_row():
            row: dict[Any, Any] = {}
            key = Clearing(name, row)
            row[key] = 1
            row |= kline_row()
            key.armed = True
            try:
                kline = make(row)
            except Exception as error:
                found.append(type(error).__name__ in ("ValidationError", "KeyError"))
            else:  # made of what stood there before
                found.append((kline.open, kline.close, kline.volume) == (64040.25, 64033.5, 12.5))
    return found


def rows_of_large_numbers(makers: Any) -> Any:
    from streammachine.market.exchanges import decode as wire

    found = []
    for name in kline_row():
        for value in (
            10**5000,
            -(2**63),
            2**64,
            "9" * 64,
            "9" * 65,
            "1." + "0" * 62,
            1e308,
            float("nan"),
            nested(5000),
        ):
            try:
                found.append(repr(makers.made(kline_row() | {name: value})))
            except wire.MALFORMED as error:
                found.append(type(error).__name__)
    return found


def places_that_are_too_short(makers: Any) -> Any:
    refused = []
    for place in ((), ("BTC/USD",), PLACE[:3], None, 5):
        try:
            makers.placed(kline_row(), place)
        except (TypeError, ValueError, IndexError):
            refused.append(place)
    return refused


KLINES: tuple[Case, ...] = (row_that_a_key_empties, rows_of_large_numbers, places_that_are_too_short)
