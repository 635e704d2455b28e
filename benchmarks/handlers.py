"""A typed handler beside one that calls ``record.model(M)`` itself: the cost of a call, everybody in turns.

    python -m benchmarks.handlers [--messages 100000] [--rounds 7]

No server: messages are made once and handed to the handler as the consumer does. Quote the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from pydantic import BaseModel

from benchmarks.measuring import Row, in_turns, keep, median_ratio, table
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.typed import adapted


class Order(BaseModel):
    """Five fields, as text in the stream."""

    id: int
    symbol: str
    price: float
    volume: float
    side: str


@dataclass
class Plain:
    """The same as a dataclass."""

    id: int
    symbol: str
    price: float
    volume: float
    side: str


FIELDS = {b"id": b"7", b"symbol": b"BTCUSDT", b"price": b"64000.5", b"volume": b"0.25", b"side": b"buy"}


async def by_hand(record: Message) -> None:
    """What a user writes without annotations."""
    record.model(Order)


async def of_model(order: Order) -> None:
    """A pydantic model."""


async def of_dataclass(order: Plain) -> None:
    """A dataclass."""


async def of_dict(order: dict[str, str]) -> None:
    """The fields as text."""


def main(argv: list[str] | None = None) -> None:
    """Measure; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    rows = asyncio.run(measured(options.messages, options.rounds))
    keep(rows)
    print(table(rows))


async def measured(messages: int, rounds: int) -> list[Row]:
    """Seconds of every kind of handler over fresh messages, beside the one that does it by hand."""
    handlers = {
        "record.model(M)": by_hand,
        "a pydantic model": adapted(of_model, batch=False),
        "a dataclass": adapted(of_dataclass, batch=False),
        "a dict": adapted(of_dict, batch=False),
    }

    def run(handler):  # type: ignore[no-untyped-def]
        async def calls() -> None:
            for _ in range(messages):
                await handler(Message("orders", "1-0", None, 0.0, "me", FIELDS))

        return calls

    seconds = await in_turns({name: run(handler) for name, handler in handlers.items()}, rounds)
    base = seconds["record.model(M)"]
    return [
        {
            "handler of": name,
            "us a call": sorted(found)[len(found) // 2] / messages * 1e6,
            "x by hand": median_ratio(found, base),
        }
        for name, found in seconds.items()
    ]


if __name__ == "__main__":
    main()
