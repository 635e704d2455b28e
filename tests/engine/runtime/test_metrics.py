"""Metrics: the text at /metrics, and the collector for a registry of prometheus-client's."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import fields
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streammachine.errors import SettingsError
from streammachine.runtime.app import lifecycle as life
from streammachine.runtime.app.app import App
from streammachine.runtime.model.counters import BUCKETS, COUNTERS, ConsumerMetrics
from streammachine.runtime.model.message import Message
from streammachine.runtime.observability.health import read_gauges
from streammachine.runtime.observability.metrics import METRICS, collector, families, prometheus_text
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
EVIL = 'a"b\\c\nd'


def parsed(text: str) -> dict[str, Metric]:
    """The families as Prometheus' own parser reads them."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample of this name and these labels."""
    (sample,) = [
        each
        for family in found.values()
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    ]
    return float(sample.value)


def with_failures(app: App) -> None:
    """Nine messages of ten are handled; the fourth is a dead letter. And a timer."""

    @app.agent("s", retry=1)
    async def handle(message: Message) -> None:
        if message.message["n"] == "3":
            raise ValueError("wrong")

    @app.timer(0.02)
    async def tick() -> None:
        raise ValueError("the tick fails")


async def test_the_text_is_what_prometheus_reads(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(EVIL)
    with_failures(app)
    async with app:
        await app.send_batch("s", [{"n": number} for number in range(10)])
        await until(lambda: probe.done("s", 10))
        await until(lambda: app.running_timers[0].failures > 0)
        text = prometheus_text(families(app, await read_gauges(app)))
    found = parsed(text)
    kinds = {name.removeprefix("streammachine_"): family.type for name, family in found.items()}
    assert kinds == {name: meaning.kind for name, meaning in METRICS.items()}
    assert {name for name, kind in kinds.items() if kind == "counter"} > set(COUNTERS)
    assert kinds["handler_seconds"] == "histogram"
    assert all(family.documentation for family in found.values())
    silent = [name for name, family in found.items() if not family.samples]
    assert silent == ["streammachine_oldest_pending_seconds"]  # nothing is pending
    labels = {"app": EVIL, "agent": app.agents[0].name, "stream": "s", "group": "eventengine"}
    assert value(found, "streammachine_consumed_total", **labels) == 9
    assert value(found, "streammachine_failed_total") == value(found, "streammachine_dead_total") == 1
    assert value(found, "streammachine_pending") == value(found, "streammachine_lag") == 0
    assert value(found, "streammachine_handler_seconds_count") == 9
    buckets = [each for each in found["streammachine_handler_seconds"].samples if each.name.endswith("_bucket")]
    assert [each.labels["le"] for each in buckets] == [*map(str, BUCKETS), "+Inf"]
    counts = [each.value for each in buckets]
    assert counts == sorted(counts) and counts[-1] == 9
    assert value(found, "streammachine_timer_failures_total", app=EVIL, timer=app.timers[0].name) >= 1
    assert value(found, "streammachine_workers") == value(found, "streammachine_workers_wanted") == 0


async def test_an_app_without_anything_is_valid_text_too(make_app: MakeApp) -> None:
    assert "streammachine_consumed" in parsed(prometheus_text(families(make_app(), {})))


async def test_a_registry_collects_apps_in_any_thread(
    make_app: MakeApp, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "GAUGES_PERIOD", 0.05)
    first, second = make_app("first"), make_app("second")
    with_failures(first)

    @second.agent("t")
    async def handle(message: Message) -> None: ...

    registry = CollectorRegistry(auto_describe=True)  # as the global one
    registry.register(collector(first, second))
    generate_latest(registry)  # before they run
    async with first, second:
        await first.send_batch("s", [{"n": number} for number in range(10)])
        await first.send("t", {"n": 1})
        await until(lambda: probe.done("s", 10))
        await until(lambda: probe.done("t", 1))
        await until(lambda: second.consumers[0][1].metrics.consumed == 1)

        def looked() -> bool:
            gauges = [app._lifecycle.gauges for app in (first, second) if app._lifecycle is not None]
            return all(each and all(group.get("lag") == 0 for group in each.values()) for each in gauges)

        await until(looked)
        here = generate_latest(registry).decode()  # in the loop's own thread
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(generate_latest(registry).decode()))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    for text in (here, *texts):
        found = parsed(text)
        assert value(found, "streammachine_consumed_total", app="first") == 9
        assert value(found, "streammachine_consumed_total", app="second") == 1
        assert value(found, "streammachine_lag", app="first", stream="s") == 0
        assert value(found, "streammachine_handler_seconds_count", app="first") == 9
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(collector(first))


async def test_the_collector_says_the_same_as_the_text(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(EVIL)
    with_failures(app)
    registry = CollectorRegistry()
    registry.register(collector(app))
    async with app:
        await app.send_batch("s", [{"n": number} for number in range(10)])
        await until(lambda: probe.done("s", 10))
        app.running_timers[0].stop()
        text = prometheus_text(families(app, {}))
        collected = generate_latest(registry).decode()

    def samples(of: str) -> set[Any]:
        names = ("consumed", "failed", "dead", "handler_seconds_bucket", "handler_seconds_count", "restarts")
        return {
            (each.name, *sorted(each.labels.items()), each.value)
            for family in parsed(of).values()
            for each in family.samples
            if each.name.removeprefix("streammachine_").removesuffix("_total") in names
        }

    assert samples(text) == samples(collected)


def test_one_line_in_consumer_metrics_is_a_metric() -> None:
    counters = {each.name for each in fields(ConsumerMetrics) if each.type == "int"}
    assert counters == set(COUNTERS)
    assert counters <= set(METRICS)
    assert counters <= set(ConsumerMetrics().counts())


def test_counts_pass_to_another_process() -> None:
    metrics = ConsumerMetrics(consumed=3, failed=1, handler_seconds=0.5, latency_seconds=2.0)
    metrics.buckets[2] = 3
    again = ConsumerMetrics.of(metrics.counts())
    again.add(ConsumerMetrics(consumed=4, latency_seconds=1.0))
    assert (again.consumed, again.failed, again.handler_seconds, again.latency_seconds) == (7, 1, 0.5, 2.0)
    assert again.buckets[2] == 3
    assert metrics.consumed == 3


def test_without_prometheus_it_names_what_to_install(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streammachine.runtime.observability.prometheus", None)
    with pytest.raises(SettingsError, match=r"pip install 'streammachine-mcp\[monitoring\]'"):
        collector(make_app())


def test_prometheus_is_not_imported_unless_it_is_used() -> None:
    code = "import sys, streammachine.runtime.observability.status_page; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
