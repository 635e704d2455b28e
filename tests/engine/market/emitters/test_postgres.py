"""PostgresEmitter on a real PostgreSQL: models, keys, transformers, and every wrong setting named at the start."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Double,
    Enum,
    Index,
    Integer,
    Numeric,
    Sequence,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL, UUID
from sqlalchemy.orm import DeclarativeBase, mapped_column

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.model.rows import Lane
from support.postgres import PASSWORD, Postgres
from support.rows import START, candle, candles, trade
from support.valkey import free_port, until

pytestmark = pytest.mark.anyio
KEY = ["source", "symbol", "timeframe", "open_ts"]


def model(name: str = "klines", *arguments: Any, **changed: Any) -> Any:
    """A candle's model; a column given as None is left out."""

    class Base(DeclarativeBase):
        pass

    columns: dict[str, Any] = {
        **{column: mapped_column(String(30), primary_key=True) for column in KEY[:3]},
        "open_ts": mapped_column(BigInteger, primary_key=True),
        **{column: mapped_column(Double, nullable=False) for column in ("open", "high", "low", "close", "volume")},
        "n_trades": mapped_column(Integer),
        "is_closed": mapped_column(Boolean),
    }
    columns = {column: made for column, made in (columns | changed).items() if made is not None}
    return type("Model", (Base,), {"__tablename__": name, "__table_args__": arguments, **columns})


@pytest.fixture(autouse=True)
def clean(postgres: Postgres) -> Iterator[None]:
    yield
    postgres.execute("DROP SCHEMA public CASCADE")
    postgres.execute("CREATE SCHEMA public")
    postgres.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def emitter_for(postgres: Postgres, made: Any = None, **options: Any) -> PostgresEmitter:
    return PostgresEmitter(url=postgres.url, from_model_create_table=True, **options).set_model(
        model() if made is None else made
    )


async def emitted(emitter: PostgresEmitter, rows: Any, **options: Any) -> Outlet:
    async with Outlet(emitter, **options) as outlet:
        await outlet.put(rows)
        assert await outlet.drain(60) == []
    return outlet


# -- what is written --------------------------------------------------------------------------


async def test_candles_stand_in_the_table_that_the_model_describes(postgres: Postgres) -> None:
    await emitted(emitter_for(postgres), candles(3))
    assert postgres.execute("SELECT symbol, open_ts, close, n_trades, is_closed FROM klines ORDER BY open_ts") == [
        ("BTCUSDT", START + number * 60_000, 100.0 + number, 7, True) for number in range(3)
    ]


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgres"])
async def test_every_form_of_the_url_is_taken(postgres: Postgres, driver: str) -> None:
    url = postgres.url.replace("postgresql", driver, 1) + "?ssl=disable"
    await emitted(PostgresEmitter(url=url, from_model_create_table=True).set_model(model()), candles(1))
    assert postgres.execute("SELECT count(*) FROM klines") == [(1,)]


async def test_the_parts_of_the_url_may_be_given_by_name(postgres: Postgres) -> None:
    parts = {"dbname": "postgres", "user": "postgres", "port": postgres.port}
    for host, password in (("127.0.0.1", PASSWORD), (str(postgres.data), None)):
        emitter = PostgresEmitter(host=host, password=password, from_model_create_table=True, **parts)
        emitter.set_model(model())
        await emitted(emitter, candles(1))
    assert postgres.execute("SELECT count(*) FROM klines") == [(1,)]


async def test_setting_up_can_be_chained(postgres: Postgres) -> None:
    emitter = (
        PostgresEmitter(url=postgres.url, from_model_create_table=True)
        .set_model(model(), inplace=False)
        .on_conflict(KEY, inplace=False)
        .set_transformer(dict, inplace=False)
    )
    await emitted(emitter, candles(2))
    assert postgres.execute("SELECT count(*) FROM klines") == [(2,)]


async def test_a_row_is_cut_to_the_columns_after_the_transformer(postgres: Postgres) -> None:
    """The main example of the peer: rename fields for one's own table."""
    made = model(open=None, high=None, low=None, close=None, price=mapped_column(Double, nullable=False))
    emitter = emitter_for(postgres, made)
    emitter.set_transformer(lambda row: {**row, "price": row["close"], "unknown": "left out"})
    await emitted(emitter, candles(2))
    assert postgres.execute("SELECT price FROM klines ORDER BY 1") == [(100.0,), (101.0,)]


async def test_register_map_renames_fields(postgres: Postgres) -> None:
    made = model(close=None, closing_price=mapped_column(Double, nullable=False))
    await emitted(emitter_for(postgres, made).register_map({"close": "closing_price"}), candles(1))
    assert postgres.execute("SELECT closing_price FROM klines") == [(100.0,)]


async def test_fields_are_found_by_attribute_and_by_column_name(postgres: Postgres) -> None:
    made = model(open_ts=mapped_column("Opened At", BigInteger, primary_key=True))
    emitter = emitter_for(postgres, made).on_conflict([made.source, made.symbol, made.timeframe, made.open_ts])
    await emitted(emitter, candles(2))
    assert postgres.execute('SELECT "Opened At" FROM klines ORDER BY 1') == [(START,), (START + 60_000,)]


async def test_a_table_in_a_schema_may_be_given_as_table(postgres: Postgres) -> None:
    postgres.execute("CREATE SCHEMA IF NOT EXISTS market")
    try:
        table: Table = model().__table__
        await emitted(emitter_for(postgres, table.to_metadata(table.metadata, schema="market")), candles(2))
        assert postgres.execute("SELECT count(*) FROM market.klines") == [(2,)]
    finally:
        postgres.execute("DROP SCHEMA market CASCADE")


class Colour(enum.Enum):
    RED = "r"


async def test_values_of_every_kind_come_back_as_they_were(postgres: Postgres) -> None:
    values = {
        "text": "tab\t newline\n backslash \\ quote' \" \\N é 😀 \x01",
        "empty": "",
        "nothing": None,
        "flag": False,
        "whole": 5.0,
        "big": -(2**62),
        "real": 0.1 + 0.2,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "nan": float("nan"),
        "exact": decimal.Decimal("12345678901234567890.123456789"),
        "naive": START + 1,
        "aware": START + 1,
        "given": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        "json": {"a": [1, None, "x\ty"]},
        "jsonb": [1, 2],
        "list": ["a,b", 'c"d', None],
        "colour": Colour.RED,
        "uid": uuid.UUID(int=5),
        "mixed": 7,
    }
    kinds: dict[str, Any] = {
        **dict.fromkeys(("text", "empty", "nothing"), String),
        **dict.fromkeys(("whole", "big"), BigInteger),
        **dict.fromkeys(("real", "tiny", "huge", "nan", "mixed"), Double),
        "flag": Boolean,
        "exact": Numeric,
        "naive": DateTime,
        "aware": DateTime(timezone=True),
        "given": DateTime(timezone=True),
        "json": JSON,
        "jsonb": JSONB,
        "list": ARRAY(String),
        "colour": Enum(Colour),
        "uid": UUID(as_uuid=True),
    }
    made = model(**{name: mapped_column(kind) for name, kind in kinds.items()})
    emitter = emitter_for(postgres, made)
    emitter.set_transformer(lambda row: row | values | {"mixed": row["close"] if row["close"] > 100 else None})
    await emitted(emitter, candles(2))
    names = ", ".join(f'"{name}"' for name in kinds)
    postgres.execute("SET TIME ZONE 'UTC'")
    first, second = postgres.execute(f"SELECT {names} FROM klines ORDER BY open_ts")
    found = dict(zip(kinds, second, strict=True))
    moment = datetime.datetime(2023, 11, 14, 22, 14, 0, 1000)
    assert str(found.pop("nan")) == "nan"
    expected = values | {"naive": moment, "aware": moment.replace(tzinfo=datetime.UTC), "colour": "RED", "mixed": 101}
    assert found == {name: expected[name] for name in found}
    assert dict(zip(kinds, first, strict=True))["mixed"] is None


async def test_the_models_own_defaults_fill_what_a_row_does_not_bring(postgres: Postgres) -> None:
    made = model(
        id=mapped_column(Integer, primary_key=True, autoincrement=True),
        **{column: mapped_column(String(30)) for column in KEY[:3]},
        open_ts=mapped_column(BigInteger),
        kind=mapped_column(String, nullable=False, default="spot"),
        made=mapped_column(Integer, nullable=False, default=lambda: 5),
        at=mapped_column(DateTime, nullable=False, server_default=func.now()),
    )
    await emitted(emitter_for(postgres, made), candles(2))
    assert postgres.execute("SELECT id, kind, made, at IS NOT NULL FROM klines ORDER BY id") == [
        (1, "spot", 5, True),
        (2, "spot", 5, True),
    ]


async def test_rows_with_different_fields_stand_side_by_side(postgres: Postgres) -> None:
    emitter = emitter_for(postgres)
    emitter.set_transformer(
        lambda row: row if row["close"] % 2 else {k: v for k, v in row.items() if k not in ("n_trades", "is_closed")}
    )
    await emitted(emitter, candles(6))
    assert postgres.execute("SELECT close, n_trades FROM klines ORDER BY open_ts") == [
        (100.0 + number, 7 if number % 2 else None) for number in range(6)
    ]


async def test_a_model_for_trades_takes_the_trades_and_one_for_candles_the_candles(postgres: Postgres) -> None:
    class Base(DeclarativeBase):
        pass

    class Deal(Base):
        __tablename__ = "trades"
        symbol = mapped_column(String, primary_key=True)
        trade_id = mapped_column(String, primary_key=True)
        price = mapped_column(Double, nullable=False)
        ts = mapped_column(BigInteger, nullable=False)

    rows = [candle(0), trade(0), Gap("Binance", "BTCUSDT", "1m", 0, 1, "lost"), candle(1), trade(1), trade(1)]
    await emitted(emitter_for(postgres, Deal), rows)
    outlet = await emitted(emitter_for(postgres), rows)
    assert postgres.execute("SELECT price FROM trades ORDER BY ts") == [(100.0,), (101.0,)]
    assert postgres.execute("SELECT count(*) FROM klines") == [(2,)]
    assert (outlet.stats.emitted, outlet.stats.skipped, outlet.stats.failed) == (2, 4, 0)


async def test_a_table_of_candles_where_trades_come_is_an_error_at_the_start(postgres: Postgres) -> None:
    trades, candles_1m = Lane("Binance", "BTCUSDT", None), Lane("Binance", "BTCUSDT", "1m")
    emitter = emitter_for(postgres)
    with pytest.raises(EmitterError, match="the table klines is for candles, and trades are going to come"):
        async with Outlet(emitter, expected=[trades]):
            pass
    for expected in ([candles_1m], [candles_1m, trades]):
        async with Outlet(emitter, expected=expected):
            pass
    async with Outlet(emitter.set_transformer(dict), expected=[trades]):
        pass


async def test_far_more_rows_than_one_statement_has_parameters_go_in(postgres: Postgres) -> None:
    """The peer lost a whole batch of more than 2,700 rows, or with one repeated row in it."""
    rows = candles(8000)
    await emitted(emitter_for(postgres), [*rows, *rows[::7]])
    assert postgres.execute("SELECT count(*), sum(close) FROM klines") == [(8000, sum(row.close for row in rows))]


# -- upserts ----------------------------------------------------------------------------------


async def test_a_repeated_row_updates_the_one_that_is_there(postgres: Postgres) -> None:
    emitter = emitter_for(postgres).on_conflict(KEY)
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(0, close=1.0), candle(0, close=2.0), candle(0, close=3.0)])  # inside one batch
        await outlet.drain()
        assert postgres.execute("SELECT close FROM klines") == [(3.0,)]
        await outlet.put([candle(0, close=4.0)])
        await outlet.drain()
    assert postgres.execute("SELECT close FROM klines") == [(4.0,)]


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_late_open_candle_does_not_overwrite_the_closed_one(postgres: Postgres, in_one_batch: bool) -> None:
    states = [
        candle(0, is_closed=False, close=1.0),
        candle(0, is_closed=False, close=2.0),
        candle(0, is_closed=True, close=3.0),
        candle(0, is_closed=False, close=4.0),
        candle(0, is_closed=None, close=5.0),
    ]
    seen = []
    async with Outlet(emitter_for(postgres).on_conflict(KEY)) as outlet:
        for rows in [states] if in_one_batch else [[state] for state in states]:
            await outlet.put(rows)
            await outlet.drain()
            seen += postgres.execute("SELECT close FROM klines")
    assert seen == ([(3.0,)] if in_one_batch else [(1.0,), (2.0,), (3.0,), (3.0,), (3.0,)])
    assert postgres.execute("SELECT is_closed FROM klines") == [(True,)]


async def test_without_on_conflict_the_primary_key_tells_rows_apart(postgres: Postgres) -> None:
    for _ in range(2):
        await emitted(emitter_for(postgres), candles(3))
    assert postgres.execute("SELECT count(*) FROM klines") == [(3,)]


@pytest.mark.parametrize(
    "unique", [UniqueConstraint(*KEY), Index("one_candle", *KEY, unique=True)], ids=["constraint", "index"]
)
async def test_a_unique_constraint_does_where_the_primary_key_is_a_number_of_its_own(
    postgres: Postgres, unique: Any
) -> None:
    made = model(
        "klines",
        unique,
        id=mapped_column(Integer, primary_key=True),
        **{column: mapped_column(String(30)) for column in KEY[:3]},
        open_ts=mapped_column(BigInteger),
    )
    for _ in range(2):
        await emitted(emitter_for(postgres, made), candles(3))
    assert postgres.execute("SELECT count(*) FROM klines") == [(3,)]


async def test_update_columns_limit_what_changes_and_do_nothing_changes_nothing(postgres: Postgres) -> None:
    await emitted(emitter_for(postgres), [candle(0)])
    changed = candle(0, close=5.0, volume=6.0)
    await emitted(emitter_for(postgres).on_conflict(KEY, update_columns=["volume"]), [changed])
    assert postgres.execute("SELECT close, volume FROM klines") == [(100.0, 6.0)]
    for emitter in (
        emitter_for(postgres).on_conflict_do_nothing(KEY),
        emitter_for(postgres, upsert=False),
        emitter_for(postgres).on_conflict_do_nothing(),
    ):
        await emitted(emitter, [candle(0, volume=7.0), candle(1), candle(1)])
    assert postgres.execute("SELECT volume FROM klines ORDER BY open_ts") == [(6.0,), (2.5,)]


async def test_one_emitter_may_serve_several_runners(postgres: Postgres) -> None:
    emitter = emitter_for(postgres)
    async with Outlet(emitter, batch=10) as first, Outlet(emitter, batch=10) as second:
        await first.put(candles(100))
        await second.put(candles(100, source="OKX"))
    assert postgres.execute("SELECT source, count(*) FROM klines GROUP BY 1 ORDER BY 1") == [
        ("Binance", 100),
        ("OKX", 100),
    ]


# -- rows that are refused --------------------------------------------------------------------


async def test_a_bad_row_in_a_batch_is_refused_alone_by_name(postgres: Postgres) -> None:
    def transformer(row: dict[str, Any]) -> dict[str, Any]:
        changes: dict[float, dict[str, Any]] = {
            101.0: {"symbol": "x" * 31},
            102.0: {"volume": None},
            103.0: {"symbol": "nul \x00"},
            104.0: {"n_trades": 2**40},
            105.0: {"n_trades": object()},
            106.0: {"n_trades": "seven"},
        }
        made = row | changes.get(row["close"], {})
        if row["close"] == 107:
            del made["high"]
        return made

    refused: dict[float, str] = {}
    emitter = emitter_for(postgres).set_transformer(transformer)
    outlet = await emitted(emitter, candles(50), on_error=lambda row, why: refused.update({row.close: str(why)}))
    assert (outlet.stats.emitted, outlet.stats.failed) == (43, 7)
    assert set(refused) == {101, 102, 103, 104, 105, 106, 107}
    assert "too long" in refused[101]
    assert '"volume"' in refused[102]
    assert "NUL" in refused[103]
    assert "out of range" in refused[104]
    assert "object cannot be written" in refused[105]
    assert "seven" in refused[106]
    assert "needs high" in refused[107]
    assert postgres.execute("SELECT count(*) FROM klines") == [(43,)]


async def test_milliseconds_in_an_integer_column_say_what_to_do(postgres: Postgres) -> None:
    made = model(open_ts=mapped_column(Integer, primary_key=True))
    emitter = emitter_for(postgres, made)
    await emitter.connect()
    with pytest.raises(EmitterError, match="BigInteger"):
        await emitter.emit(candle())
    await emitter.close()


# -- wrong settings ---------------------------------------------------------------------------


async def refused_at_start(emitter: PostgresEmitter, words: str, kind: type[EmitterError] = EmitterError) -> str:
    with pytest.raises(kind, match=words) as caught:
        async with Outlet(emitter):
            raise AssertionError("it was entered")
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def test_a_wrong_password_is_named_at_the_start_and_not_shown(postgres: Postgres) -> None:
    emitter = PostgresEmitter(url=postgres.url.replace(PASSWORD, "not-the-password")).set_model(model())
    text = await refused_at_start(emitter, "password authentication failed")
    assert "not-the-password" not in text + repr(emitter)


async def test_an_unknown_database_is_named_at_the_start(postgres: Postgres) -> None:
    url = postgres.url.removesuffix("postgres") + "nowhere"
    await refused_at_start(PostgresEmitter(url=url).set_model(model()), '"nowhere" does not exist')


async def test_a_server_that_is_not_there_is_named_at_the_start() -> None:
    url = f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/d"
    await refused_at_start(PostgresEmitter(url=url).set_model(model()), "refused", EmitterUnavailableError)


async def test_a_missing_table_or_column_is_named_at_the_start(postgres: Postgres) -> None:
    await refused_at_start(PostgresEmitter(url=postgres.url).set_model(model()), "from_model_create_table")
    await emitted(emitter_for(postgres), candles(1))
    made = model(quote_volume=mapped_column(Double))
    await refused_at_start(PostgresEmitter(url=postgres.url).set_model(made), "quote_volume")


async def test_a_key_without_a_unique_constraint_is_named_at_the_start(postgres: Postgres) -> None:
    await refused_at_start(emitter_for(postgres).on_conflict(["symbol", "open_ts"]), "unique constraint")


async def test_a_column_that_no_row_brings_is_named_at_the_start(postgres: Postgres) -> None:
    made = model(strategy=mapped_column(String, nullable=False))
    await refused_at_start(emitter_for(postgres, made), "needs strategy")


async def test_missing_rights_are_named_at_the_start(postgres: Postgres) -> None:
    await emitted(emitter_for(postgres), candles(1))
    postgres.execute("DROP ROLE IF EXISTS reader")
    postgres.execute("CREATE ROLE reader LOGIN")
    postgres.execute("GRANT SELECT ON klines TO reader")
    try:
        url = postgres.socket_url.replace("postgres@", "reader@")
        await refused_at_start(PostgresEmitter(url=url).set_model(model()), "permission denied")
    finally:
        postgres.execute("DROP OWNED BY reader")
        postgres.execute("DROP ROLE reader")


@pytest.mark.parametrize(
    ("column", "advice"),
    [
        (Numeric(5, 2), "Give the column close more precision, Numeric() without any, or Double"),
        (Integer, "Make the column close BigInteger"),
        (REAL, "Make the column close Double"),
    ],
)
async def test_a_number_that_is_too_big_for_its_column_names_the_column_and_what_would_hold_it(
    postgres: Postgres, column: Any, advice: str
) -> None:
    emitter = emitter_for(postgres, model(close=mapped_column(column)))
    refused: list[str] = []
    async with Outlet(emitter, on_error=lambda row, why: refused.append(str(why))) as outlet:
        await outlet.put([candle(0), candle(1, close=1e300 if column is REAL else 1e10), candle(2)])
        await outlet.drain(60)
        assert (outlet.stats.emitted, outlet.stats.failed) == (2, 1)
    assert advice in refused[0]


async def test_the_rights_that_are_documented_are_enough_and_each_of_them_is_needed(postgres: Postgres) -> None:
    grants = {
        "CONNECT": "CONNECT ON DATABASE postgres",
        "TEMPORARY": "TEMPORARY ON DATABASE postgres",
        "USAGE": "USAGE ON SCHEMA public",
        "SELECT": "SELECT ON klines",
        "INSERT": "INSERT ON klines",
        "UPDATE": "UPDATE ON klines",
    }
    number = mapped_column(Integer, Sequence("klines_number_seq"), server_default=text("nextval('klines_number_seq')"))
    await emitted(emitter_for(postgres, model(number=number)), candles(1))
    postgres.execute("DROP ROLE IF EXISTS bare")
    postgres.execute("CREATE ROLE bare LOGIN")
    postgres.execute("REVOKE ALL ON DATABASE postgres FROM PUBLIC")
    postgres.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    url = postgres.socket_url.replace("postgres@", "bare@")
    try:
        for grant in grants.values():
            postgres.execute(f"GRANT {grant} TO bare")
        for name, grant in grants.items():
            postgres.execute(f"REVOKE {grant} FROM bare")
            said = await refused_at_start(PostgresEmitter(url=url).set_model(model()), "denied|does not exist")
            assert name in ("CONNECT", "USAGE") or "The user needs CONNECT and TEMPORARY on the database" in said
            if name == "UPDATE":  # only rows that are updated need it
                await emitted(PostgresEmitter(url=url, upsert=False).set_model(model()), [])
            postgres.execute(f"GRANT {grant} TO bare")
        async with Outlet(PostgresEmitter(url=url).set_model(model())) as outlet:
            await outlet.put(candles(3))
            await until(lambda: outlet.stats.retried, 60)  # a sequence's rights show at the first row only
            assert "USAGE on the sequence" in (outlet.stats.last_error or "")
            postgres.execute("GRANT USAGE ON SEQUENCE klines_number_seq TO bare")
            assert await outlet.drain(60) == []
        await refused_at_start(
            PostgresEmitter(url=url, from_model_create_table=True).set_model(model("other")), "CREATE on the schema"
        )
        postgres.execute("GRANT CREATE ON SCHEMA public TO bare")
        await emitted(PostgresEmitter(url=url, from_model_create_table=True).set_model(model("other")), candles(3))
    finally:
        postgres.execute("DROP OWNED BY bare")
        postgres.execute("DROP ROLE bare")
        postgres.execute("GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC")
    assert len(postgres.execute("SELECT FROM klines")) == 3


def test_host_database_user_and_password_come_by_place() -> None:
    emitter = PostgresEmitter("db.example", "market", "writer", "hush", 5433)
    assert emitter.target.startswith("postgresql://writer:***@db.example:5433/market")
    with pytest.raises(EmitterError, match=r"host is a URL: give it by name, PostgresEmitter\(url="):
        PostgresEmitter("postgresql://u:hush@h/d")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (PostgresEmitter, "needs url, or host and dbname"),
        (lambda: PostgresEmitter(host="h"), "needs url, or host and dbname"),
        (
            lambda: PostgresEmitter("h", 5432, "db", "me", "hunter2"),
            "^port must be a number.*the order is host, dbname",
        ),  # type: ignore[arg-type]
        (lambda: PostgresEmitter("h", "db", port=0), "port must be a number"),
        (lambda: PostgresEmitter(url="mysql://u:hush@h/d"), "no PostgreSQL"),
        (lambda: PostgresEmitter(url="u:hush@h/d"), "cannot be read"),
        (lambda: PostgresEmitter(host="h", dbname="d").set_model(Kline), "no SQLAlchemy model"),
        (lambda: PostgresEmitter(host="h", dbname="d").set_model(model()).on_conflict(["smybol"]), "no column smybol"),
        (lambda: PostgresEmitter(host="h", dbname="d", model=model(), index_elements=["nope"]), "no column nope"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make: Any, words: str) -> None:
    with pytest.raises(EmitterError, match=words) as caught:
        make()
    assert "hush" not in str(caught.value)


async def test_no_model_is_an_error_at_the_start(postgres: Postgres) -> None:
    await refused_at_start(PostgresEmitter(url=postgres.url), "set_model")
