"""A Kafka broker of the test's own: librdkafka's mock cluster over TCP, in a process that can be stopped and go on.

It has no CreateTopics (topics appear when they are first asked for, with 4 partitions) and keeps about 5 MB each.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any, Self

TOPIC_AUTHORIZATION_FAILED = 29

_HOST = """
import ctypes, glob, os, sys
import confluent_kafka
(path,) = glob.glob(os.path.dirname(confluent_kafka.__file__) + ".libs/librdkafka-*")
lib = ctypes.CDLL(path)
lib.rd_kafka_conf_new.restype = lib.rd_kafka_new.restype = lib.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
text = ctypes.create_string_buffer(512)
settings = ctypes.c_void_p(lib.rd_kafka_conf_new())
lib.rd_kafka_conf_set(settings, b"log_level", b"0", text, len(text))
handle = ctypes.c_void_p(lib.rd_kafka_new(0, settings, text, len(text)))
cluster = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(handle, 1))
print(lib.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
PRODUCE = 0
for line in sys.stdin:  # a topic, and the number of the error that it has from now on
    topic, code = line.split()
    lib.rd_kafka_mock_topic_set_error(cluster, topic.encode(), int(code))  # in answers about metadata
    lib.rd_kafka_mock_clear_request_errors(cluster, PRODUCE)
    if int(code):
        errors = (ctypes.c_int * 1000)(*[int(code)] * 1000)
        lib.rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, ctypes.c_size_t(len(errors)), errors)
    print("done", flush=True)
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

    def refuse(self, topic: str, code: int = TOPIC_AUTHORIZATION_FAILED) -> None:
        """Metadata of the topic, and what is produced to any, gets this error from now on; 0: none."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{topic} {code}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

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
