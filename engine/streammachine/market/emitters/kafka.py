"""KafkaEmitter: rows to a Kafka topic, each at least once, in order per key.

The producer is idempotent and waits for all in-sync replicas (acks=all). The key is ``source|symbol|timeframe`` (a
trade's timeframe is ``trade``), so one series stays in one partition. A batch counts as taken when every row of it is
acknowledged. While the brokers are away the producer keeps what it was given and goes on trying, so a batch that is
tried again waits for the same messages; only where the producer itself had to be replaced are they sent a second time.
Consumers drop repeated ones by key and ``open_ts`` (``trade_id``).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, extra_missing, values_of
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row, named
from streammachine.masking import mask_url

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

Serializer = Callable[[Any], bytes]

SCHEMA_VERSION = b"1"
_HOST_AND_PORT = re.compile(r":\d+")  # no topic's name has a colon in it
COMPRESSIONS = (None, "gzip", "snappy", "lz4", "zstd")

log = logging.getLogger(__name__)


class KafkaEmitter(DataEmitter):
    """Sends rows to a topic as JSON, with the headers ``schema`` (kline, trade, gap) and ``version``.

    Once it is connected, a login, topic or right that the brokers refuse is an outage: the rows wait. Only a row that
    is too large, or cannot be serialized, is refused.

    Args:
        bootstrap_servers: "host:port", several with commas or as a list. topic: where to.
        key_serializer: of the key, a str; by default UTF-8. value_serializer: of the row, a dict; by default JSON.
        compression_type: None, "gzip", "snappy", "lz4" or "zstd".
        timeout: seconds for connecting, for one request, and until rows that nobody acknowledges count as an outage.
        options: more of AIOKafkaProducer's arguments (security_protocol, sasl_mechanism, ssl_context, ...).

    Raises:
        EmitterError: an argument is not accepted; from ``connect``: the library is missing, the topic cannot be
            written to, or (EmitterUnavailableError) no broker answers.
    """

    def __init__(
        self,
        bootstrap_servers: str | Sequence[str] = "localhost:9092",
        topic: str = "",
        key_serializer: Serializer | None = None,
        value_serializer: Serializer | None = None,
        compression_type: str | None = None,
        name: str = "kafka",
        *,
        transformer: Transformer | None = None,
        timeout: float = 10.0,
        **options: Any,
    ) -> None:
        _check_topic(topic)
        if compression_type not in COMPRESSIONS:
            known = ", ".join(repr(item) for item in COMPRESSIONS)
            raise EmitterError(f"compression_type={compression_type!r} is not accepted: give one of {known}")
        if not timeout > 0:
            raise EmitterError(f"timeout={timeout!r} is not accepted: give seconds above 0")
        refuse_login(bootstrap_servers)
        self.topic = topic
        self.name = name
        self.transformer = transformer
        self.timeout = timeout
        self.bootstrap_servers = bootstrap_servers
        self._key = key_serializer or str.encode
        self._value = value_serializer or orjson.dumps
        self._options = {"compression_type": compression_type, "linger_ms": 5, **options}
        self._producer: AIOKafkaProducer | None = None
        self._taken = False  # the brokers took us once: what they refuse from then on is an outage
        self._sent: dict[tuple[int, int], tuple[Row, asyncio.Future[Any]]] = {}  # of batches that are not through

    @property
    def target(self) -> str:
        """Where the rows go."""
        return f"kafka://{self._servers()}/{self.topic}"

    async def connect(self) -> None:
        """Connect to the brokers, and see that the topic is there."""
        if self._producer is None:
            await self._open()
        self._taken = True

    async def emit(self, row: Any) -> None:
        """Send one row, and wait until it is acknowledged."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Send the rows, and wait until all are acknowledged."""
        keys = _keys(rows)
        if self._producer is None:
            await self._open()
        refused = await self._send(rows, keys)
        waiting = [self._sent[key][1] for key in keys if key in self._sent]
        if waiting:
            await asyncio.wait(waiting, timeout=self.timeout)
        if not all(future.done() for future in waiting):
            raise EmitterUnavailableError(
                f"{sum(not future.done() for future in waiting)} rows were not acknowledged within {self.timeout:g} s "
                f"by Kafka at {self._servers()}"
            )
        failure = next((error for future in waiting if (error := future.exception()) is not None), None)
        if failure is not None:
            raise await self._failed(failure)
        for key in keys:
            self._sent.pop(key, None)
        if refused:
            raise RowsRefusedError(refused)

    async def close(self) -> None:
        """Leave the brokers; what they have not acknowledged by now is given up (the outlet says which)."""
        await self._leave()
        self._taken = False
        for _, future in self._sent.values():
            if future.done() and not future.cancelled():
                future.exception()  # read, or asyncio logs that it was never retrieved
        self._sent.clear()

    # -- sending ------------------------------------------------------------------------------

    async def _send(self, rows: Sequence[Row], keys: Sequence[tuple[int, int]]) -> dict[int, Exception]:
        """Give the producer those rows that it does not have yet; gives those that cannot be sent at all."""
        from aiokafka.errors import KafkaError, MessageSizeTooLargeError

        refused: dict[int, Exception] = {}
        for at, (row, key) in enumerate(zip(rows, keys, strict=True)):
            if key in self._sent:
                continue
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            try:
                message = self._message(row, made)
            except EmitterError as error:
                refused[at] = error
                continue
            try:
                with anyio.fail_after(self.timeout):
                    self._sent[key] = row, await self._opened().send(self.topic, **message)
            except MessageSizeTooLargeError as error:
                refused[at] = EmitterError(f"{named(row)} is too large: {error}")
            except TimeoutError as error:
                raise EmitterUnavailableError(
                    f"Kafka at {self._servers()} took no rows in {self.timeout:g} s"
                ) from error
            except KafkaError as error:
                raise await self._failed(error) from error
        return refused

    def _message(self, row: Any, made: Any) -> dict[str, Any]:
        values = values_of(made)
        try:
            value = self._value(dict(values))
            key = self._key(_key_of(row))
        except Exception as error:
            raise EmitterError(f"{named(row)} cannot be serialized: {type(error).__name__}: {error}") from error
        schemas = {Trade: b"trade", Gap: b"gap", Quote: b"quote"}
        schema = next((name for kind, name in schemas.items() if isinstance(row, kind)), b"kline")
        return {"key": key, "value": value, "headers": [("schema", schema), ("version", SCHEMA_VERSION)]}

    async def _failed(self, error: BaseException) -> EmitterError:
        """Give up the producer, whose numbering has a hole now; the rows it did not deliver are sent anew."""
        await self._leave()
        self._sent = {
            key: (row, future)
            for key, (row, future) in self._sent.items()
            if future.done() and not future.cancelled() and future.exception() is None
        }
        text = f"Kafka at {self._servers()}, topic {self.topic}: {_said(error)}"
        at_once = _of_the_row() if self._taken else (*_of_the_row(), *_of_the_sink())
        return EmitterError(text) if isinstance(error, at_once) else EmitterUnavailableError(text)

    # -- the producer -------------------------------------------------------------------------

    def _opened(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise EmitterUnavailableError("the Kafka producer was closed meanwhile")
        return self._producer

    async def _open(self) -> None:
        try:
            from aiokafka import AIOKafkaProducer
            from aiokafka.errors import KafkaError
        except ImportError as error:
            raise extra_missing("kafka", error) from error
        fixed = {"enable_idempotence": True, "acks": "all", "request_timeout_ms": int(self.timeout * 1000)}
        try:
            self._producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, **fixed, **self._options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EmitterError(f"the Kafka producer cannot be made: {error}") from error
        opened = False
        try:
            with anyio.fail_after(self.timeout):
                await self._producer.start()
                await self._producer.partitions_for(self.topic)
            opened = True
        except _of_the_sink() as error:
            kind = EmitterUnavailableError if self._taken else EmitterError
            raise kind(f"Kafka at {self._servers()}, topic {self.topic}: {_said(error)}") from error
        except (KafkaError, OSError) as error:
            raise EmitterUnavailableError(
                f"Kafka at {self._servers()} does not answer, or has no topic {self.topic}: {error or 'timed out'}. "
                "Start it, create the topic, or correct bootstrap_servers"
            ) from error
        finally:
            if not opened:
                await self._leave()

    async def _leave(self) -> None:
        """End the producer, whatever state it is in."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        from aiokafka.errors import ProducerClosed

        held = producer._message_accumulator  # nothing public tells, and stop() would wait until it is delivered
        with anyio.CancelScope(shield=True):
            try:
                if held._batches or held._pending_batches:
                    with anyio.move_on_after(1):  # for what is under way to end; then it is cancelled
                        await producer.client.close()
                        await producer._sender.close()
                    for batches in held._batches.values():  # fail_all has one that was tried before taken from there
                        held._pending_batches.update(batches)
                    held.fail_all(ProducerClosed())
                with anyio.move_on_after(self.timeout):
                    await producer.stop()
            except Exception as error:  # noqa: BLE001 - it is being given up: what it held is sent anew, or reported
                log.debug("the Kafka producer ended with %s: %s", type(error).__name__, error)
                await producer.client.close()

    def _servers(self) -> str:
        return shown_servers(self.bootstrap_servers)


def _check_topic(topic: object) -> None:
    if isinstance(topic, str) and _HOST_AND_PORT.search(topic):
        raise EmitterError(
            f"topic={topic!r} is not accepted: it looks like host:port. The servers come first: "
            "KafkaEmitter('localhost:9092', 'candles')"
        )
    if not isinstance(topic, str) or not topic:
        raise EmitterError(f"topic={topic!r} is not accepted: give a name, e.g. KafkaEmitter(servers, 'candles')")


def _of_the_sink() -> tuple[type[Exception], ...]:
    """What the brokers refuse whatever the row is: at the start an error at once."""
    from aiokafka import errors

    return (
        errors.AuthenticationFailedError,
        errors.AuthenticationMethodNotSupported,
        errors.ClusterAuthorizationFailedError,
        errors.InvalidTopicError,
        errors.SaslAuthenticationFailed,
        errors.TopicAuthorizationFailedError,
        errors.UnsupportedCodecError,
        errors.UnsupportedForMessageFormatError,
    )


def _of_the_row() -> tuple[type[Exception], ...]:
    """What no waiting mends."""
    from aiokafka import errors

    return errors.MessageSizeTooLargeError, errors.RecordListTooLargeError


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _key_of(row: Any) -> str:
    """``source|symbol|timeframe``; of a dict of the user's, whatever of these it has."""
    if isinstance(row, (Kline, Gap)):
        return f"{row.source or ''}|{row.symbol}|{row.timeframe}"
    if isinstance(row, (Trade, Quote)):
        return f"{row.source or ''}|{row.symbol}|{'trade' if isinstance(row, Trade) else 'quote'}"
    return "|".join(str(row.get(name, "")) for name in ("source", "symbol", "timeframe"))


def shown_servers(servers: str | Sequence[str]) -> str:
    """The servers as one text, without what may be a password."""
    return mask_url(servers if isinstance(servers, str) else ",".join(servers))


def refuse_login(servers: str | Sequence[str]) -> None:
    """Refuse servers with a login before them: Kafka's client would log it.

    Raises:
        EmitterError: says where a login goes.
    """
    if any("@" in server for server in servers):
        raise EmitterError(
            f"the Kafka servers {shown_servers(servers)!r} hold a login: give HOST:PORT alone, and the login as "
            "options of KafkaEmitter (security_protocol, sasl_mechanism, sasl_plain_username, sasl_plain_password)"
        )


def _keys(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """What tells the rows of a batch apart (the same object may stand in it twice)."""
    seen: Counter[int] = Counter()
    keys = []
    for row in rows:
        keys.append((id(row), seen[id(row)]))
        seen[id(row)] += 1
    return keys


def from_text(text: SinkText) -> KafkaEmitter:
    """The emitter that ``kafka:HOST:PORT,HOST:PORT/TOPIC`` means.

    Raises:
        EmitterError: servers or topic are missing.
    """
    servers, slash, topic = text.rest.removeprefix("//").partition("/")
    if not slash or not servers or not topic or "/" in topic:
        raise text.refused("kafka:HOST:PORT/TOPIC")
    return KafkaEmitter(topic=topic, bootstrap_servers=servers)


def check_server(servers: str) -> None:
    """Raise EmitterError where the servers hold a login."""
    refuse_login(servers)


def from_server(servers: str, topic: str) -> KafkaEmitter:
    """The emitter for a topic of these servers."""
    return from_text(SinkText("kafka", f"{servers}/{topic}", f"kafka:{servers}/{topic}"))
