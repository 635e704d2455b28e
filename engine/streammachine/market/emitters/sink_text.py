"""Sinks by their text form, as command lines and tools name them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter
from streammachine.masking import mask_url

ACCEPTED: Final = (
    "log, csv:FILE, parquet:FOLDER, redis, redis:URL, postgres:URL (#TABLE behind it, default klines), "
    "or kafka:HOST:PORT/TOPIC"
)
TABLE: Final = "klines"
SIMULATED: Final = "simulated:"  # begins the names of Redis streams of made-up candles
_REDIS: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def emitter_for(text: str, *, simulated: bool = False) -> DataEmitter:
    """The emitter that a text means; ``simulated``: Redis streams of its own, that no real candle has to follow.

    ``log`` · ``csv:out.csv`` · ``parquet:folder`` · ``redis`` (the server that is configured, or the embedded one) ·
    ``redis://host:6379/0`` · ``postgres:postgresql://user@host/db#table`` (also without the first ``postgres:``) ·
    ``kafka:host:9092,host2:9092/topic``.

    Raises:
        EmitterError: the text is none of them, or lacks a part; the message shows the form.
    """
    kind, colon, rest = text.strip().partition(":")
    kind, rest = kind.lower(), rest.strip()
    if kind in ("log", "logger", "print") and not colon:
        from streammachine.market.emitters.logger import Logger

        return Logger()
    if kind in _REDIS:
        return _redis(kind, rest, text, SIMULATED if simulated else "")
    if kind in ("postgres", "postgresql"):
        return _postgres(kind, rest, text)
    if not rest:
        near = f"{kind}:..." if kind in ("csv", "parquet", "kafka") else None
        raise EmitterError(
            f"the sink {shown(text)!r} lacks what follows {near}: give one of {ACCEPTED}" if near else _unknown(text)
        )
    if kind == "csv":
        from streammachine.market.emitters.csv import CSVEmitter

        return CSVEmitter(file_path=rest)
    if kind == "parquet":
        from streammachine.market.emitters.parquet import ParquetEmitter

        return ParquetEmitter(rest)
    if kind == "kafka":
        return _kafka(rest.removeprefix("//"), text)
    raise EmitterError(_unknown(text))


def emitters_for(texts: Sequence[str], *, simulated: bool = False) -> list[DataEmitter]:
    """The emitters that texts mean; ``simulated``: see ``emitter_for``.

    Raises:
        EmitterError: as ``emitter_for``, or two mean the same place, which would get every row twice.
    """
    emitters = [emitter_for(text, simulated=simulated) for text in texts]
    places: set[object] = set()
    for text, emitter in zip(texts, emitters, strict=True):
        place = getattr(emitter, "target", type(emitter))
        if place in places:
            raise EmitterError(f"the sink {shown(text)!r} is given twice: name each place once")
        places.add(place)
    names = [emitter.name for emitter in emitters]
    for text, emitter in zip(texts, emitters, strict=True):
        if names.count(emitter.name) > 1:
            emitter.name = shown(text)  # which of them is meant
    return emitters


def postgres(url: str, table: str = TABLE) -> DataEmitter:
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


def _redis(kind: str, rest: str, text: str, prefix: str) -> DataEmitter:
    from streammachine.market.emitters.redis import RedisEmitter

    if not rest:
        if kind != "redis":
            raise EmitterError(_unknown(text))
        return RedisEmitter(prefix=prefix)
    return RedisEmitter(url=f"{kind}:{rest}" if rest.startswith("//") else rest, prefix=prefix)


def _postgres(kind: str, rest: str, text: str) -> DataEmitter:
    url = f"{kind}:{rest}" if rest.startswith("//") else rest
    url, _, table = url.partition("#")
    if not re.match(r"postgres(ql)?(\+\w+)?://", url):
        raise EmitterError(
            f"the sink {shown(text)!r} is not accepted: write postgres:postgresql://USER@HOST/DATABASE#TABLE"
        )
    return postgres(url, table or TABLE)


def shown(text: str) -> str:
    """The text of a sink without what is, or may be, a password."""
    kind, colon, rest = text.partition(":")
    if kind.strip().lower() in ("csv", "parquet", "log", "logger", "print"):
        return text
    if rest.startswith("//"):
        return mask_url(text)
    if "://" not in text and "@" in text:
        return mask_url(text.rpartition("@")[2])
    return f"{kind}:{mask_url(rest)}" if colon else mask_url(text)


def _kafka(rest: str, text: str) -> DataEmitter:
    from streammachine.market.emitters.kafka import KafkaEmitter

    servers, slash, topic = rest.partition("/")
    if not slash or not servers or not topic or "/" in topic:
        raise EmitterError(f"the sink {shown(text)!r} is not accepted: write kafka:HOST:PORT/TOPIC")
    return KafkaEmitter(topic=topic, bootstrap_servers=servers)


def _unknown(text: str) -> str:
    return f"there is no sink {mask_url(text.partition(':')[0])!r}: give one of {ACCEPTED}"
