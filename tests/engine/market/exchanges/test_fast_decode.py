"""The compiled way to a Kline takes what the validator takes, makes the same of it, and refuses it in its words."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streammachine.market.exchanges import decode, kraken
from streammachine.market.exchanges.base import BadFrame
from streammachine.market.model.kline import Kline
from support.frames import SAMPLES, START

if not decode.HAS_NATIVE:
    pytest.skip("the frame decoder was not compiled here: the validator does its work", allow_module_level=True)

from streammachine.market.exchanges import fast_decode as usual

PLACES = {"open_ts": "t", "quote_volume": "quote", "vwap": "vwap", "n_trades": "n", "is_closed": "x"}
ROW: dict[str, Any] = {
    "symbol": "BTCUSDT", "timeframe": "1m", "t": START, "end_ts": START + 59_999, "open": "64040.2", "high": "64041",
    "low": "64025.70", "close": 64033.5, "volume": "2.16787395", "quote": 138825, "vwap": None, "n": 101, "x": False,
}  # fmt: skip

texts = st.decimals(min_value=0, max_value=10**20, allow_nan=False).map(lambda value: f"{value:f}")
no_decimals = [
    "",
    " ",
    "1 ",
    " 1",
    "+1",
    "-1",
    "-0",
    "1e5",
    "1_000",
    ".5",
    "5.",
    "1.2.3",
    "0x10",
    "nan",
    "inf",
    "\u0661",
]
decimals = ["0", "0.0", "1e400", "9" * 30, "0." + "0" * 30 + "1", "2" * 22, "1" * 70]
names_and_such = ["true", "1m", "1h", "1w", "7m", "x" * 65, "\xe9", b"1", [], {}, True, False, None]
integers = [0, 1, -1, 2**53, 2**60, 10**400, START, START + 1, START + 59_999, decode.LATEST, decode.LATEST + 1]
floats = [0.0, -0.0, 1e18, 1e30, 1e-320, float("nan"), float("inf")]
unusual = st.sampled_from([*no_decimals, *decimals, *names_and_such, *integers, *floats])
names = st.sampled_from(sorted(ROW))
values = st.one_of(unusual, texts, st.floats(), st.integers(), st.text(max_size=4))


@given(
    st.lists(values, max_size=8),
    st.sampled_from(["BTC/USDT", "", "x" * 65]),
    st.sampled_from(["1m", "1h", "1w", "1M", "7m"]),
)
@example([START, 2.0, 3.0, 1.0, 2.5, 7.0], "BTC/USDT", "1m")
@example([START, 2, 3, 1, 2, 0, "more"], "BTC/USDT", "1m")
@example([START + 1, 2.0, 3.0, 1.0, 2.5, 7.0], "BTC/USDT", "1m")
def test_rows_in_lists_are_the_same_both_ways(row: list[Any], symbol: str, timeframe: str) -> None:
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for native in (True, False):
            patch.setattr(decode, "HAS_NATIVE", native)
            try:
                said.append(repr(decode.listed_kline_maker("X")(row, symbol, timeframe)))
            except decode.MALFORMED as error:
                said.append(decode.reason(error))
    assert said[0] == said[1]


@pytest.fixture(scope="module")
def makers() -> tuple[Any, Any]:
    """(the compiled one, the validator alone)"""
    patch = pytest.MonkeyPatch()
    quick = decode.kline_maker("Here", PLACES, estimated=True, origin="rest")
    with patch.context() as without:
        without.setattr(decode, "HAS_NATIVE", False)
        plain = decode.kline_maker("Here", PLACES, estimated=True, origin="rest")
    return quick, plain


def outcome(make: Any, row: Any) -> tuple[str, ...]:
    """The Kline's values with their types, or why there is none."""
    try:
        kline = make(row)
    except decode.MALFORMED as error:
        return type(error).__name__, decode.reason(error)
    assert type(kline) is Kline
    return tuple(f"{name}={value!r}" for name, value in kline.__dict__.items())


@settings(max_examples=1500, deadline=None)
@given(changes=st.dictionaries(names, values, max_size=3), left_out=st.sets(names, max_size=1))
@example(changes={"volume": False}, left_out=set())
@example(changes={"x": "1"}, left_out=set())
@example(changes={"t": START + 1}, left_out=set())
@example(changes={"timeframe": "7m"}, left_out=set())
@example(changes={"high": "64025.69"}, left_out=set())
@example(changes={"quote": None}, left_out={"x"})
def test_whatever_a_row_holds_both_make_the_same_of_it(
    makers: tuple[Any, Any], changes: dict[str, Any], left_out: set[str]
) -> None:
    quick, plain = makers
    row = {name: value for name, value in (ROW | changes).items() if name not in left_out}
    assert outcome(quick, dict(row)) == outcome(plain, dict(row))


@pytest.fixture(scope="module")
def placed_makers() -> tuple[Any, Any]:
    """As ``makers``, of Kraken's rows."""
    patch = pytest.MonkeyPatch()
    wanted = ("Kraken", {"n_trades": "trades"}, kraken._completed)
    quick = decode.placed_kline_maker(*wanted, weighted="vwap", numbers="number")
    with patch.context() as without:
        without.setattr(decode, "HAS_NATIVE", False)
        plain = decode.placed_kline_maker(*wanted, weighted="vwap", numbers="number")
    return quick, plain


PLACE = ("BTC/USD", "1m", START, START + 59_999)
KRAKEN = {
    "open": 64040.2,
    "high": 64041,
    "low": 64025.7,
    "close": "64033.5",
    "volume": 2.5,
    "vwap": 64030.1,
    "trades": 7,
}


@settings(max_examples=700, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(KRAKEN)), values, max_size=3),
    left_out=st.sets(st.sampled_from(sorted(KRAKEN)), max_size=1),
    place=st.tuples(*(st.one_of(st.just(usually), values) for usually in PLACE)),
)
@example(changes={"volume": 0.0, "vwap": 0.0}, left_out=set(), place=PLACE)
@example(changes={"volume": 1e29, "vwap": 1e29}, left_out=set(), place=PLACE)
@example(changes={}, left_out=set(), place=PLACE)
def test_so_it_is_with_rows_that_say_less(
    placed_makers: tuple[Any, Any], changes: dict[str, Any], left_out: set[str], place: Any
) -> None:
    quick, plain = placed_makers
    row = {name: value for name, value in (KRAKEN | changes).items() if name not in left_out}
    found = outcome(lambda given: quick(given, place), dict(row))
    assert found == outcome(lambda given: plain(given, place), dict(row))
    if not changes and not left_out and place == PLACE:
        assert f"quote_volume={2.5 * 64030.1!r}" in found


@pytest.mark.parametrize("row", [None, [], "row", 1, type("Row", (dict,), {})(ROW)])
def test_what_is_no_plain_dict_is_the_validators_affair(makers: tuple[Any, Any], row: Any) -> None:
    quick, plain = makers
    assert outcome(quick, row) == outcome(plain, row)


@given(whole=st.text("0123456789", min_size=1, max_size=25), behind=st.text("0123456789", min_size=1, max_size=30))
def test_a_decimal_text_is_the_nearest_float(whole: str, behind: str) -> None:
    assert usual.number(whole) == float(whole)
    assert usual.number(f"{whole}.{behind}") == float(f"{whole}.{behind}")


def test_the_usual_row_does_not_ask_the_validator() -> None:
    def never(row: dict[str, Any]) -> Kline:
        raise AssertionError(row)

    quick = usual.UsualKlines(Kline, "Here", PLACES, {"1m": 60_000}, never, estimated=False, origin="ws")
    made = quick.made(ROW)
    assert (made.symbol, made.close, made.is_closed, made.vwap, made.origin) == ("BTCUSDT", 64033.5, False, None, "ws")
    assert made.model_fields_set == set(Kline.model_fields)


def test_every_exchange_decodes_the_same_without_it() -> None:
    """In a process that cannot load the compiled one."""
    code = (
        "import sys; sys.modules['streammachine.market.exchanges.fast_decode'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from support.frames import SAMPLES\n"
        "from streammachine.market.exchanges import decode\n"
        "assert not decode.HAS_NATIVE\n"
        "for sample in SAMPLES: print(sample.decoded(sample.frame())[0].model_dump_json())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, next(path for path in sys.path if path.endswith("tests"))],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = [sample.decoded(sample.frame())[0] for sample in SAMPLES]
    assert not any(isinstance(row, BadFrame) for row in found)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [row.model_dump() for row in found]  # type: ignore[union-attr]
