"""OpenTelemetry spans: sends and handler runs in one trace, through retries, dead letters and processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from streammachine.errors import SettingsError
from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.model.config import Batch
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import Retry, RetryPolicy, Skip
from streammachine.runtime.observability import tracing
from streammachine.runtime.observability.tracing import find_tracing
from support.runtime import MakeApp, Probe, Script
from support.valkey import until

pytestmark = pytest.mark.anyio
AGAIN = RetryPolicy(max_attempts=3, initial=0.01, jitter=False)


class Spans:
    """The finished spans of a test."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """A tracer provider as a program sets it, for this test only (OpenTelemetry takes one a process)."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield Spans(exporter)
    provider.shutdown()


async def test_a_send_and_the_run_of_its_handler_are_one_trace(make_app: MakeApp, spans: Spans, probe: Probe) -> None:
    app = make_app("shop")
    got: list[Message] = []

    @app.agent("orders", group="billing")
    async def bill(message: Message) -> None:
        got.append(message)
        await app.send("bills", {"id": message.message["id"]})

    async with app:
        identifier = await app.send("orders", {"id": 7})
        await until(lambda: probe.done("orders", 1, "billing"))
    (sent,), (run,), (bill_sent,) = (spans.of(n) for n in ("send orders", "process orders", "send bills"))
    assert (sent.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert sent.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.message.id": identifier,
    }
    assert run.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "billing",
        "messaging.client.id": got[0].consumer_id,
        "messaging.message.id": identifier,
        "streammachine.attempt": 1,
    }
    assert run.parent is not None and bill_sent.parent is not None
    assert run.parent.span_id == sent.context.span_id
    assert bill_sent.parent.span_id == run.context.span_id
    assert {span.context.trace_id for span in (sent, run, bill_sent)} == {sent.context.trace_id}
    assert run.status.status_code == StatusCode.UNSET
    # The context travels beside the user's fields, which it never shows among.
    assert got[0].message == {"id": "7"}
    carried = str(got[0].data[b"sm-traceparent"], "ascii").split("-")
    assert carried[1:3] == [f"{sent.context.trace_id:032x}", f"{sent.context.span_id:016x}"]


async def test_a_failed_run_is_an_error_and_each_attempt_has_its_span(
    make_app: MakeApp, spans: Spans, probe: Probe
) -> None:
    app = make_app()

    @app.agent("s", retry=AGAIN)
    async def fail_twice(message: Message) -> None:
        if message.attempt < 3:
            raise ValueError(f"attempt {message.attempt}")

    @app.agent("s", group="sync", retry=AGAIN)
    def skip(message: Message) -> None:
        raise Skip("not mine")

    @app.agent("s", group="slow", retry=1, timeout=0.05)
    async def slow(message: Message) -> None:
        await anyio.sleep_forever()

    async with app:
        await app.send("s", {"n": 1})
        for group in ("eventengine", "sync", "slow"):
            await until(lambda group=group: probe.done("s", 1, group))  # type: ignore[misc]
    (sent,) = spans.of("send s")
    runs: dict[str, list[ReadableSpan]] = {}
    for run in spans.of("process s"):
        assert run.attributes is not None and run.parent is not None
        assert run.parent.span_id == sent.context.span_id
        runs.setdefault(str(run.attributes["messaging.consumer.group.name"]), []).append(run)
    failed = runs["eventengine"]
    assert [run.attributes["streammachine.attempt"] for run in failed if run.attributes] == [1, 2, 3]
    assert [run.status.status_code for run in failed] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert failed[0].status.description == "ValueError: attempt 1"
    assert failed[0].attributes is not None and failed[0].attributes["error.type"] == "ValueError"
    assert [event.name for event in failed[0].events] == ["exception"]
    (skipped,), (late,) = runs["sync"], runs["slow"]
    assert skipped.attributes is not None and skipped.attributes["streammachine.skipped"] is True
    assert (skipped.status.status_code, late.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)


async def test_a_delayed_a_dead_and_a_redriven_message_stay_in_their_trace(
    make_app: MakeApp, spans: Spans, probe: Probe
) -> None:
    app = make_app()
    broken = True

    @app.agent("s", lease=0.2, retry=RetryPolicy(max_attempts=2))
    async def handle(message: Message) -> None:
        if broken:
            raise Retry(after=0.3)  # longer than half the lease: through the group's companion

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
        box = await DeadLetters.open(app.redis, "s")
        ((letter,), _) = await box.newest(app.redis, 1)
        assert letter.data == {"n": "1"}
        (sent,) = spans.of("send s")
        assert letter.entry.data["sm-traceparent"].split("-")[2] == f"{sent.context.span_id:016x}"
        broken = False
        await box.redrive(app.redis, [letter.id])
        await until(lambda: len(spans.of("process s")) == 3)
    runs = spans.of("process s")
    assert {run.context.trace_id for run in runs} == {sent.context.trace_id}
    assert [run.status.status_code for run in runs] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    ids = {run.attributes["messaging.message.id"] for run in runs if run.attributes}
    assert len(ids) == 1  # the id in its own stream, wherever it came from


async def test_a_batch_links_to_its_senders(make_app: MakeApp, spans: Spans, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", batch=Batch(10, within=0.5), retry=1)
    async def handle(batch: MessageBatch) -> None:
        if len(batch) > 1:
            batch.fail(batch[0], "wrong")

    async with app:
        await app.send("s", {"n": 1})
        await app.send_batch("s", [{"n": 2}, {"n": 3}])
        await until(lambda: probe.done("s", 3))
    one, many = spans.of("send s")
    assert many.attributes is not None and many.attributes["messaging.batch.message_count"] == 2
    linked = {link.context.span_id for run in spans.of("process s") for link in run.links}
    assert linked == {one.context.span_id, many.context.span_id}
    assert all(run.parent is None for run in spans.of("process s"))
    runs = [run for run in spans.of("process s") if run.attributes]
    assert sum(int(str(run.attributes["messaging.batch.message_count"])) for run in runs if run.attributes) == 3
    for run in runs:
        assert run.attributes is not None
        several = run.attributes["messaging.batch.message_count"] != 1
        assert (run.status.status_code == StatusCode.ERROR) is several


async def test_a_run_sees_its_senders_baggage_and_not_the_starters_span(
    make_app: MakeApp, spans: Spans, probe: Probe
) -> None:
    app = make_app()
    seen: list[object] = []

    @app.agent("s")
    async def handle(message: Message) -> None:
        seen.append(baggage.get_baggage("tenant"))

    with trace.get_tracer("test").start_as_current_span("the program's start"):
        async with app:
            token = context.attach(baggage.set_baggage("tenant", "acme", context.Context()))
            await app.send("s", {"n": 1})
            context.detach(token)
            await probe.redis.pipeline_xadd("s", [{"n": 2}])  # by somebody without tracing
            await until(lambda: probe.done("s", 2))
    assert seen == ["acme", None]
    first, second = spans.of("process s")
    assert first.parent is not None and second.parent is None


async def test_sends_of_a_transaction_carry_the_handlers_trace(make_app: MakeApp, spans: Spans, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": 1})

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.ask("EXISTS", "out"))
    ((run,), (sent,), (fields,)) = spans.of("process s"), spans.of("send out"), await probe.fields("out")
    assert sent.parent is not None and sent.parent.span_id == run.context.span_id
    assert fields["sm-traceparent"].split("-")[2] == f"{sent.context.span_id:016x}"


async def test_without_a_provider_or_with_false_there_is_no_tracing(make_app: MakeApp, probe: Probe) -> None:
    assert not tracing.has_provider()
    assert find_tracing(None) is find_tracing(False) is None
    assert find_tracing(True) is not None
    app = make_app()

    @app.agent("s")
    async def handle(message: Message) -> None: ...

    async with app:
        await app.send("s", {"n": 1})
        assert app.consumers[0][1]._runner._handler is handle  # as it is
    assert list((await probe.fields("s"))[0]) == ["n", "sm-sent"]


async def test_tracing_that_goes_nowhere_is_told(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    async with make_app(tracing=True) as app:
        assert await app.send("s", {"n": 1})
    assert "no tracer provider is set" in caplog.text


async def test_without_opentelemetry_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert find_tracing(False) is None
    with pytest.raises(SettingsError, match=r"pip install 'streammachine-mcp\[monitoring\]'"):
        find_tracing(True)


async def test_a_provider_does_not_trace_an_app_that_wants_none(make_app: MakeApp, spans: Spans) -> None:
    async with make_app(tracing=False) as app:
        await app.send("s", {"n": 1})
    assert spans.of("send s") == []


async def test_a_provider_that_a_startup_hook_sets_is_used(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, probe: Probe
) -> None:
    app = make_app()
    exporter = InMemorySpanExporter()

    @app.on_startup
    async def begin() -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    @app.agent("s")
    async def handle(message: Message) -> None: ...

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
    assert [span.name for span in exporter.get_finished_spans()] == ["send s", "process s"]


async def test_worker_processes_trace_too(script: Callable[..., Script], probe: Probe) -> None:
    ours = script("""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    app = App("traced")

    @app.agent("s", processes=1)
    async def handle(message):
        pass
    """)
    ours.start()
    await until(lambda: probe.ask("EXISTS", "s"), 60)
    await probe.redis.pipeline_xadd("s", [{"n": 1, "sm-traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}])
    await until(lambda: f"0x{'a' * 32}" in ours.log and '"process s"' in ours.log, 60)


def test_opentelemetry_is_not_imported_unless_it_is_used() -> None:
    code = "import sys; from streammachine import App; App('x').name; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
