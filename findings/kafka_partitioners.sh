#!/usr/bin/env bash
# Kafka: aiokafka and librdkafka put the same key into different partitions unless one is told otherwise.
#
# Expected: one partition for one key, whoever writes: both speak for the same cluster.
# Why it matters: candles of one symbol written by two programs are no longer in order for anybody, a compacted topic keeps two
# rows of a key, and a join of two topics by partition misses.
# Source: librdkafka's configuration page (partitioner, consistent_random) and aiokafka's DefaultPartitioner (murmur2, as Java's).
# Versions: aiokafka 0.14.0, confluent-kafka 2.16.1 (its mock cluster as broker), Python 3.11. Date: 2026-11-30.
# Output seen:
#   librdkafka: [3, 0, 0, 0, 1, 2]
#   aiokafka: [2, 1, 1, 0, 0, 0]
#   librdkafka, partitioner=murmur2_random: [2, 1, 1, 0, 0, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "aiokafka==0.14.0" "confluent-kafka==2.16.1"
cat > "$folder/seen.py" <<'PYTHON'
import asyncio

from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

KEYS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "DOGEUSDT")
cluster = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1})
broker = next(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=10).brokers.values())
cluster.list_topics("klines", timeout=10)  # the mock cluster makes it, with four partitions


def librdkafka(**settings):
    places = {}
    producer = Producer({"bootstrap.servers": broker, **settings})
    for key in KEYS:
        producer.produce("klines", key=key, value=b"1", on_delivery=lambda _, row: places.update({row.key().decode(): row.partition()}))
    producer.flush(10)
    return [places[key] for key in KEYS]


async def aiokafka():
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    places = [(await producer.send_and_wait("klines", b"1", key=key.encode())).partition for key in KEYS]
    await producer.stop()
    return places


print("librdkafka:", librdkafka())
print("aiokafka:", asyncio.run(aiokafka()))
print("librdkafka, partitioner=murmur2_random:", librdkafka(partitioner="murmur2_random"))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py 2> /dev/null)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
