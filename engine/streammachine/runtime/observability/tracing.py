"""OpenTelemetry spans: one for every send, and one for every run of a handler, joined across processes.

The sender's context travels in ``sm-`` fields of the message (``sm-traceparent`` where W3C's format is used), put there
by OpenTelemetry's own propagators. It stays on the message while it is tried again, in its dead letter, and when it is
redriven. Attributes follow OpenTelemetry's semantic conventions for messaging.

Nothing here is imported before it is needed: without tracing a handler is called as it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from streammachine.errors import SettingsError
from streammachine.runtime.handlers import is_async
from streammachine.runtime.model.headers import HEADER
from streammachine.runtime.model.retry import Skip

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span

    from streammachine.runtime.model.agent import Agent
    from streammachine.runtime.model.message import Message, MessageBatch

SYSTEM = "redis"
ATTEMPT = "streammachine.attempt"
_PREFIX = HEADER.encode()


def find_tracing(wanted: bool | None) -> Tracing | None:
    """The tracing to use.

    Args:
        wanted: True: always; False: never; None: where the program has set a tracer provider.

    Raises:
        SettingsError: it is asked for, and OpenTelemetry is not installed.
    """
    if wanted is None:
        wanted = "opentelemetry.trace" in sys.modules and has_provider()
    if not wanted:
        return None
    try:
        return Tracing()
    except ImportError as error:
        raise SettingsError(
            "tracing=True needs OpenTelemetry, which is not installed: pip install 'streammachine-mcp[monitoring]'"
        ) from error


def has_provider() -> bool:
    """Whether the program (or its environment) has set a tracer provider: without one spans go nowhere."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))


class Tracing:
    """Makes the spans of one App."""

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace

        self._tracer = trace.get_tracer("streammachine")
        self._context = context
        self._propagate = propagate
        self._trace = trace

    @contextlib.contextmanager
    def sending(
        self, stream: str, records: Sequence[MutableMapping[bytes, bytes]], *, batch: bool = False
    ) -> Iterator[Span]:
        """A producer span around a send; its context is put into the records' fields."""
        attributes = {**_operation("send"), "messaging.destination.name": stream}
        if batch:
            attributes["messaging.batch.message_count"] = len(records)
        kind = self._trace.SpanKind.PRODUCER
        with self._tracer.start_as_current_span(f"send {stream}", kind=kind, attributes=attributes) as span:
            for fields in records:
                self._propagate.inject(fields, setter=_FIELDS)
            yield span

    def handler_of(self, agent: Agent) -> Callable[..., Any]:
        """The agent's handler with a consumer span around each of its runs, sync or async as it is."""
        handler, group = agent.handler, agent.config.group
        around = self._around_batch if agent.config.batch is not None else self._around_message
        if is_async(handler):

            async def traced(argument: Any) -> Any:
                with around(argument, group):
                    return await handler(argument)

            return traced

        def traced_in_thread(argument: Any) -> Any:
            with around(argument, group):
                return handler(argument)

        return traced_in_thread

    @contextlib.contextmanager
    def _around_message(self, message: Message, group: str) -> Iterator[None]:
        """The run of one message is the child of its send."""
        attributes: dict[str, str | int] = {"messaging.message.id": message.key or "", ATTEMPT: message.attempt}
        with self._processing(message, group, attributes, self._context_of(message)):
            yield

    @contextlib.contextmanager
    def _around_batch(self, batch: MessageBatch, group: str) -> Iterator[None]:
        """A batch has many senders: its span links to them, and is the child of none."""
        spans = (self._trace.get_current_span(self._context_of(message)) for message in batch)
        senders = {sender.span_id: sender for sender in (span.get_span_context() for span in spans)}
        links = [self._trace.Link(sender) for sender in senders.values() if sender.is_valid]
        attributes = {
            "messaging.batch.message_count": len(batch),
            ATTEMPT: max(message.attempt for message in batch),
        }
        with self._processing(batch[0], group, attributes, self._context.Context(), links) as span:
            yield
            failed = sum(not isinstance(error, Skip) for error in batch.failed.values())
            if failed:
                span.set_status(self._trace.StatusCode.ERROR, f"{failed} of {len(batch)} messages failed")

    @contextlib.contextmanager
    def _processing(
        self,
        message: Message,
        group: str,
        attributes: Mapping[str, str | int],
        context: Context,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        described = {
            **_operation("process"),
            "messaging.destination.name": message.topic or "",
            "messaging.consumer.group.name": group,
            "messaging.client.id": message.consumer_id or "",
            **attributes,
        }
        kind = self._trace.SpanKind.CONSUMER
        token = self._context.attach(context)  # the sender's baggage too; and not that of whoever started the App
        try:
            with self._tracer.start_as_current_span(
                f"process {message.topic}", kind=kind, attributes=described, links=links, record_exception=False,
                set_status_on_exception=False,
            ) as span:  # fmt: skip
                try:
                    yield span
                except Skip:
                    span.set_attribute("streammachine.skipped", True)  # the handler decided so: no failure
                    raise
                except BaseException as error:  # a timeout and sys.exit() too
                    span.record_exception(error)
                    span.set_attribute("error.type", type(error).__qualname__)
                    span.set_status(self._trace.StatusCode.ERROR, f"{type(error).__qualname__}: {error}")
                    raise
        finally:
            self._context.detach(token)

    def _context_of(self, message: Message) -> Context:
        """The sender's context; an empty one where the message carries none: its run begins a trace of its own."""
        return self._propagate.extract(message.data or {}, context=self._context.Context(), getter=_FIELDS)


class _Fields:
    """How OpenTelemetry's propagators read and write a message's fields."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(_PREFIX + key.lower().encode())
        return [value.decode("utf-8", "replace")] if value is not None else None

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        names = (name for name in carrier if name.startswith(_PREFIX))
        return [name[len(_PREFIX) :].decode("utf-8", "replace") for name in names]

    def set(self, carrier: MutableMapping[bytes, bytes], key: str, value: str) -> None:
        carrier[_PREFIX + key.lower().encode()] = value.encode()


_FIELDS: Any = _Fields()


def _operation(name: str) -> dict[str, str | int]:
    return {"messaging.system": SYSTEM, "messaging.operation.name": name, "messaging.operation.type": name}
