"""A Kafka broker of the test's own: librdkafka's mock cluster over TCP, in a process that can be stopped and go on.

It has no CreateTopics (topics appear when they are first asked for, with 4 partitions) and keeps about 5 MB each.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any, Self

_HOST = """
import sys, time
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
brokers = producer.list_topics(timeout=30).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
"""


class Kafka:
    """``with Kafka() as kafka: kafka.servers``."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()
        assert self.servers, "the mock cluster did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._process.kill()
        self._process.communicate(timeout=30)

    def stop(self) -> None:
        """The broker answers nothing any more, but its sockets stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def consume(self, topic: str, count: int, seconds: float = 60.0) -> list[Any]:
        """The topic's messages from its beginning, by partition in order: ``count`` at least, and what comes then."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test", "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(topic, timeout=seconds).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Any] = []
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                messages = consumer.consume(1000, timeout=0.5)
                found += [message for message in messages if message.error() is None]
                if len(found) >= count and not messages:
                    break
            return found
        finally:
            consumer.close()
