"""The sinks: one entry each. Adding one is a file beside this and an entry here.

From an entry are made: the parser of sinks' text forms (``sink_text``) and what it says of them, the command line's
help, what the MCP server's runners may emit to, and the tables of the documents. An entry holds values only; a sink's
module is loaded when one is made. The steps: docs/contributing/sink.md.

What the module of an entry gives:

- ``from_text(text: SinkText) -> DataEmitter``: the emitter that a text means.
- where ``hosting`` is "variable", ``from_server(value, name)``: the emitter for a table, topic or the like of the
  server that the variable names; and ``check_server(value)``, which raises EmitterError where that cannot be used.
- where ``hosting`` is "connection", ``from_connection(connection, archive=...)``: one on the server's own Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkEntry:
    """What there is to know of a sink before anything of it is loaded.

    Attributes:
        name: the word of its text form. words: others that mean it too.
        module: the file here with its ``from_text``; by default ``name``.
        emitter: the public name of its class.
        forms: its text forms, for help texts. note: more of them, where all that is accepted is named.
        rest: what stands behind the word and a colon: "needed", "optional" (``from_text`` sees to it), or "none" may.
        may_hold_password: whether the text may, so that logs show it masked. path_is_secret: its URL's path too.
        extra: the extra of the package that it needs. extra_form: the text form that the table of extras shows.
        hosting: how the MCP server's runners reach it: "connection" (the server's own Redis), "file" (below the data
            directory), "variable" (a server that ``variable`` of the environment names); None: they do not.
        hosted_form: how a model writes it. suffix: of a hosted file whose name has none. hosted_table: whether #TABLE
            may stand behind that name.
        arguments, place, promise: for the documents: what the class takes, where rows go, what is promised.
    """

    name: str
    emitter: str
    forms: tuple[str, ...]
    place: str
    promise: str = ""
    arguments: str = ""
    words: tuple[str, ...] = ()
    module: str = ""
    note: str = ""
    rest: Literal["needed", "optional", "none"] = "needed"
    may_hold_password: bool = True
    path_is_secret: bool = False
    extra: str = ""
    extra_form: str = ""
    hosting: Literal["connection", "file", "variable"] | None = None
    hosted_form: str = ""
    suffix: str = ""
    hosted_table: bool = False
    variable: str = ""

    @property
    def home(self) -> str:
        """The full name of its module."""
        return f"{__package__}.{self.module or self.name}"


_ENTRIES: Final = (
    SinkEntry(
        name="log",
        words=("logger", "print"),
        module="logger",
        emitter="Logger",
        forms=("log",),
        rest="none",
        may_hold_password=False,
        arguments='prefix=""',
        place="a line each",
    ),
    SinkEntry(
        name="csv",
        emitter="CSVEmitter",
        forms=("csv:FILE",),
        may_hold_password=False,
        hosting="file",
        hosted_form="csv:NAME",
        suffix=".csv",
        arguments="source, symbol, timeframe, file_path",
        place="a CSV file, appended; `file_path` alone is enough, the others select",
        promise="whole lines, one header; a file with other columns is refused and not touched",
    ),
    SinkEntry(
        name="parquet",
        emitter="ParquetEmitter",
        forms=("parquet:FOLDER",),
        may_hold_password=False,
        extra="parquet",
        hosting="file",
        hosted_form="parquet:NAME",
        arguments="path",
        place="Parquet files, when 100,000 rows or five minutes are together",
        promise=(
            "whole files; a column has one type in all files of the folder; a killed process loses the rows of the "
            "next one"
        ),
    ),
    SinkEntry(
        name="duckdb",
        emitter="DuckDBEmitter",
        forms=("duckdb:FILE",),
        note=" (#TABLE behind it, default klines)",
        may_hold_password=False,
        extra="sql",
        hosting="file",
        hosted_form="duckdb:NAME",
        hosted_table=True,
        suffix=".duckdb",
        arguments='path, table="klines"',
        place="a table of a DuckDB file, made if it is not there",
        promise=(
            "each candle once by source, symbol, timeframe and open_ts, whatever is repeated or killed; a late open "
            "candle never replaces a closed one; one process at a time may have the file open"
        ),
    ),
    SinkEntry(
        name="redis",
        words=("rediss", "unix", "valkey", "valkeys"),
        emitter="RedisEmitter",
        forms=("redis", "redis:URL"),
        rest="optional",
        hosting="connection",
        hosted_form="redis",
        arguments="url",
        place=(
            "streams `kline:{exchange}:{symbol}:{timeframe}`, `trades:{exchange}:{symbol}`, "
            "`quotes:{exchange}:{symbol}`"
        ),
        promise="each once, whatever is repeated",
    ),
    SinkEntry(
        name="postgres",
        words=("postgresql",),
        module="postgres_candles",
        emitter="PostgresEmitter",
        forms=("postgres:URL",),
        note=" (#TABLE behind it, default klines)",
        rest="optional",
        extra="postgres",
        extra_form="postgresql://...",
        hosting="variable",
        hosted_form="postgres:TABLE",
        variable="STREAMMACHINE_POSTGRES_URL",
        arguments="host, dbname, user, password",
        place="a table of your SQLAlchemy model (`set_model`), COPY and upsert; `url=` in place of the four",
        promise=("no row lost or doubled while the server is away; a late open candle never replaces a closed one"),
    ),
    SinkEntry(
        name="kafka",
        emitter="KafkaEmitter",
        forms=("kafka:HOST:PORT/TOPIC",),
        extra="kafka",
        hosting="variable",
        hosted_form="kafka:TOPIC",
        variable="STREAMMACHINE_KAFKA_SERVERS",
        arguments="bootstrap_servers, topic",
        place="JSON, keyed `source\\|symbol\\|timeframe`",
        promise="idempotent producer: at least once, in order per key",
    ),
    SinkEntry(
        name="webhook",
        emitter="WebhookEmitter",
        forms=("webhook:URL",),
        path_is_secret=True,
        hosting="variable",
        hosted_form="webhook:NAME",
        variable="STREAMMACHINE_WEBHOOK_URL",
        arguments="url",
        place="JSON, POSTed in batches; https, or http on this machine",
        promise="each row at least once, in order, with an `Idempotency-Key` that stays when it is sent again",
    ),
)
ENTRIES: Final[Mapping[str, SinkEntry]] = {entry.name: entry for entry in _ENTRIES}
BY_WORD: Final[Mapping[str, SinkEntry]] = {word: entry for entry in _ENTRIES for word in (entry.name, *entry.words)}


# -- texts for those who ask which there are --------------------------------------------------


def forms_text() -> str:
    """The text forms for a line of help: "log, csv:FILE, ..."."""
    return ", ".join(form for entry in _ENTRIES for form in entry.forms)


def accepted_text() -> str:
    """All that is accepted, for errors: "log, csv:FILE, ..., or kafka:HOST:PORT/TOPIC"."""
    *first, last = [", ".join(entry.forms) + entry.note for entry in _ENTRIES]
    return f"{', '.join(first)}, or {last}"


def hosted_forms() -> list[str]:
    """What a model may write: "redis", "csv:NAME", ...; the one on the server's own Redis first."""
    hosted = [entry for entry in _ENTRIES if entry.hosting is not None]
    return [entry.hosted_form for entry in sorted(hosted, key=lambda entry: entry.hosting != "connection")]
