"""A PostgreSQL and a Kafka broker for the emitters' tests, started once; tests that end a server start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kafka import Kafka
from support.postgres import Postgres
from support.webhook import Receiver


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    with Kafka() as broker:
        yield broker


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
