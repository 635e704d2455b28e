"""docs/sinks.md: its examples run, against a real PostgreSQL, Kafka's protocol and the simulator; its tables hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammachine import Kline, Trade
from support.docs import Block, blocks, environment, run_python
from support.kafka import Kafka
from support.postgres import Postgres
from support.simulator import exchange
from support.webhook import Receiver

PAGE = Path(__file__).parents[1] / "docs" / "sinks.md"
SHOWN = re.compile(r"# -> (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with Kafka() as broker:
        yield broker


@pytest.fixture(scope="module")
def webhook() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def env(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, kafka: Kafka, webhook: Receiver
) -> Iterator[dict[str, str]]:
    servers = {"DATABASE_URL": postgres.url, "KAFKA_SERVERS": kafka.servers, "WEBHOOK_URL": f"{webhook.url}/in"}
    with environment(tmp_path_factory.mktemp("sinks")) as found, exchange("binance", speed=30) as market:
        yield {**found, **market.env, **servers}


@pytest.mark.parametrize("block", blocks(PAGE, "python"), ids=str)
def test_an_example_runs_and_shows_what_it_says(block: Block, env: dict[str, str]) -> None:
    shown = run_python(["-c", block.code], env, logs="live ").splitlines()
    assert [wanted for wanted in SHOWN.findall(block.code) if wanted not in shown] == []


def test_what_the_examples_wrote_is_there(
    env: dict[str, str], postgres: Postgres, kafka: Kafka, webhook: Receiver
) -> None:
    assert [row["text"].split(" at ")[0] for row in webhook.taken] == ["BTCUSDT closed"] * 10
    assert postgres.execute("SELECT count(*), count(DISTINCT open_ts) FROM candles WHERE is_closed") == [(10, 10)]
    assert len(kafka.consume("candles", 10)) == 10


def test_every_field_of_a_row_stands_in_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {name for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)}
    assert rows == set(Kline.model_fields)
    trade = text[text.index("A trade (`sf.Trade`)") :].split("## ")[0]
    assert set(Trade.model_fields) - {"fills"} <= set(re.findall(r"`(\w+)`", trade))
