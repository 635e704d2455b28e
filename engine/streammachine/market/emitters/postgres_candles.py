"""The PostgreSQL sink by its text: candles into a table of their own columns."""

from __future__ import annotations

import re
from typing import Any, Final

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.sink_text import SinkText

TABLE: Final = "klines"
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def from_text(text: SinkText) -> DataEmitter:
    """The emitter that ``postgres:postgresql://user@host/db#table`` means, also without the first ``postgres:``.

    Raises:
        EmitterError: it is no such URL, or as ``from_server``.
    """
    url, _, table = text.url.partition("#")
    if not re.match(r"postgres(ql)?(\+\w+)?://", url):
        raise text.refused("postgres:postgresql://USER@HOST/DATABASE#TABLE")
    return from_server(url, table or TABLE)


def check_server(url: str) -> None:
    """Any URL may be tried: ``connect`` says what is wrong with it."""


def from_server(url: str, table: str) -> DataEmitter:
    """Candles into a table of their own columns, made when it is not there; a candle that comes again is the same row.

    Args:
        url: ``postgresql://user:password@host:port/database``.

    Raises:
        EmitterError: the table's name is not accepted, or the extra ``postgres`` is not installed.
    """
    if not _TABLE_NAME.fullmatch(table):
        raise EmitterError(f"the table name {table!r} is not accepted: give letters, digits and _")
    try:
        from sqlalchemy import BigInteger, Boolean, Double, Integer, String
        from sqlalchemy.orm import DeclarativeBase, mapped_column
    except ImportError:
        raise EmitterError(
            "the postgres sink needs SQLAlchemy and psycopg: pip install 'streammachine-mcp[postgres]'"
        ) from None
    from streammachine.market.emitters.postgres import PostgresEmitter

    class Base(DeclarativeBase):
        """Holds this one table."""

    key = ("source", "symbol", "timeframe", "open_ts")
    columns: dict[str, Any] = {name: mapped_column(String(40), primary_key=True) for name in key[:3]}
    columns["open_ts"] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    columns["end_ts"] = mapped_column(BigInteger, nullable=False)
    columns |= {name: mapped_column(Double, nullable=False) for name in ("open", "high", "low", "close", "volume")}
    columns |= {name: mapped_column(Double) for name in ("quote_volume", "vwap")}
    columns["n_trades"] = mapped_column(Integer)
    columns |= {name: mapped_column(Boolean) for name in ("is_closed", "is_complete", "estimated")}
    columns["origin"] = mapped_column(String(12))
    model = type("Candle", (Base,), {"__tablename__": table, **columns})
    return PostgresEmitter(url=url, from_model_create_table=True).set_model(model).on_conflict(list(key))
