"""A collector for prometheus-client's registries (``metrics.collector``). Needs the extra ``monitoring``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.registry import Collector

from streammachine.runtime.observability.metrics import families

if TYPE_CHECKING:
    from streammachine.runtime.observability.running_app import RunningApp


class AppsCollector(Collector):
    """Collects the metrics of Apps. A scrape may come in any thread, so nothing here asks Redis."""

    def __init__(self, apps: Sequence[RunningApp]) -> None:
        self._apps = apps
        for app in apps:
            app.keep_gauges()

    def collect(self) -> Iterable[Metric]:
        """All metrics, each once, with the samples of every App."""
        metrics: dict[str, Metric] = {}
        for app in self._apps:
            for family in families(app, app.gauges):
                if family.name not in metrics:
                    metrics[family.name] = Metric(family.name, family.help, family.kind)
                for suffix, labels, value in family.samples:
                    metrics[family.name].add_sample(family.name + suffix, labels, value)
        return metrics.values()
