"""Candles in columns into PostgreSQL: the table holds what it holds row by row, also where they go as rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import BigInteger, Boolean, CheckConstraint, DateTime, Double, Integer, Numeric, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from streammachine.market.emitters.any_emitter import takes_columns
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.emitters.sink_text import emitter_for
from streammachine.market.model.kline import Kline
from support.postgres import Postgres
from support.rows import MINUTE, START, candles, columns_of

pytestmark = pytest.mark.anyio
KEY = ("source", "symbol", "timeframe", "open_ts")
WAIT = 60.0


def model(*arguments: Any, **changed: Any) -> Any:
    """A candle's model; a column given as None is left out."""

    class Base(DeclarativeBase):
        pass

    columns: dict[str, Any] = {
        **{column: mapped_column(String(30), primary_key=True) for column in KEY[:3]},
        "open_ts": mapped_column(BigInteger, primary_key=True),
        **{column: mapped_column(Double, nullable=False) for column in ("open", "high", "low", "close", "volume")},
        "quote_volume": mapped_column(Double),
        "vwap": mapped_column(Double),
        "n_trades": mapped_column(Integer),
        "is_closed": mapped_column(Boolean),
    }
    columns = {column: made for column, made in (columns | changed).items() if made is not None}
    return type("Model", (Base,), {"__tablename__": "klines", "__table_args__": arguments, **columns})


@pytest.fixture(autouse=True)
def clean(postgres: Postgres) -> Iterator[None]:
    yield
    postgres.execute("DROP TABLE IF EXISTS klines")


def rows_of(count: int) -> list[Kline]:
    """Candles with numbers of every size."""
    return [
        row.model_copy(update={"volume": number * 10.0 ** (number % 40 - 25), "origin": "bulk", "vwap": None})
        for number, row in enumerate(candles(count))
    ]


async def written(postgres: Postgres, emitter: PostgresEmitter, rows: list[Kline], *, columns: bool) -> list[Any]:
    """What stands in a new table then."""
    postgres.execute("DROP TABLE IF EXISTS klines")
    async with Outlet(emitter) as outlet:
        assert takes_columns(emitter) == columns
        for _ in range(2):  # the same again changes nothing
            await (outlet.put_columns(columns_of(rows)) if columns else outlet.put(rows))
            assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (2 * len(rows), 0)
    return postgres.execute("SELECT * FROM klines ORDER BY ctid")


MODELS: dict[str, Any] = {
    "plain": model(),
    "numeric": model(close=mapped_column(Numeric(30, 12)), n_trades=mapped_column(Numeric)),
    "times": model(open_ts=mapped_column(DateTime(timezone=True), primary_key=True), end_ts=mapped_column(DateTime())),
    "fewer": model(vwap=None, is_closed=None, n_trades=None, quote_volume=None),
    "whole": model(open_ts=mapped_column(BigInteger, primary_key=True), close=mapped_column(Integer)),
}


@pytest.mark.parametrize("name", list(MODELS))
async def test_columns_are_written_as_rows_are(name: str, postgres: Postgres) -> None:
    rows = rows_of(12_001)
    made = [
        await written(
            postgres,
            PostgresEmitter(
                url=postgres.url, model=MODELS[name], from_model_create_table=True, transformer=transformer
            ),
            rows,
            columns=transformer is None,
        )
        for transformer in (None, dict)
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 12_001


async def test_renamed_fields_and_the_table_of_a_text(postgres: Postgres) -> None:
    renamed = model(open_ts=None, opened=mapped_column(BigInteger, primary_key=True))
    emitter = PostgresEmitter(url=postgres.url, model=renamed, from_model_create_table=True)
    emitter.on_conflict([*KEY[:3], "opened"]).register_map({"open_ts": "opened"})
    found = await written(postgres, emitter, rows_of(10), columns=True)
    assert sorted(row[-1] for row in found) == [START + number * MINUTE for number in range(10)]
    by_text: Any = emitter_for(f"{postgres.url}#klines")
    assert len(await written(postgres, by_text, rows_of(10), columns=True)) == 10


NOT_FOR_COLUMNS: dict[str, Any] = {
    "no key": model(
        *[], **{name: mapped_column(String(30)) for name in KEY[:3]}, open_ts=mapped_column(BigInteger),
        id=mapped_column(BigInteger, primary_key=True, autoincrement=True),
    ),
    "a default of the model's": model(note=mapped_column(String, default="x")),
    "a key without the start": model(open_ts=mapped_column(BigInteger)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NOT_FOR_COLUMNS))
async def test_other_tables_get_rows(name: str, postgres: Postgres) -> None:
    emitter = PostgresEmitter(url=postgres.url, model=NOT_FOR_COLUMNS[name], from_model_create_table=True)
    rows = rows_of(30)
    async with Outlet(emitter) as outlet:
        assert not takes_columns(emitter)
        await outlet.put_columns(columns_of(rows))
        assert await outlet.drain(WAIT) == []
    assert len(postgres.execute("SELECT * FROM klines")) == (1 if name == "a key without the start" else 30)


async def test_a_candle_that_the_table_refuses_is_left_out_by_name(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    made = model(CheckConstraint("n_trades <> 0"))
    rows = [row.model_copy(update={"n_trades": 0 if at == 77 else 5}) for at, row in enumerate(rows_of(6000))]
    async with Outlet(PostgresEmitter(url=postgres.url, model=made, from_model_create_table=True)) as outlet:
        with caplog.at_level(logging.ERROR):
            await outlet.put_columns(columns_of(rows))
            assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed, outlet.stats.queued) == (5999, 1, 0)
    assert f"left out the 1m candle of BTCUSDT at {START + 77 * MINUTE}" in caplog.text
    assert postgres.execute("SELECT count(*) FROM klines") == [(5999,)]


async def test_a_connection_that_breaks_in_the_middle_loses_and_doubles_nothing(postgres: Postgres) -> None:
    emitter = PostgresEmitter(url=postgres.url, model=model(), from_model_create_table=True)
    rows = rows_of(40_000)
    async with Outlet(emitter) as outlet, anyio.create_task_group() as tasks:

        async def cut() -> None:
            for emitted in (1, 10_000, 20_000):
                while outlet.stats.emitted < emitted:
                    await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(
                    postgres.execute,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend'",
                )

        tasks.start_soon(cut)
        await outlet.put_columns(columns_of(rows))
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.retried > 0
        assert (outlet.stats.emitted, outlet.stats.failed) == (40_000, 0)
    assert postgres.execute("SELECT count(*), count(DISTINCT open_ts) FROM klines") == [(40_000, 40_000)]
