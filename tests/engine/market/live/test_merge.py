"""merge_streams: any number of sources, bounded, a failure told, all closed at the end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from streammachine import Kline, merge_streams
from streammachine.errors import DataInputError, ExchangeError
from support.rows import candle

pytestmark = pytest.mark.anyio


class Source:
    """Streams so many candles, then ends, fails, or waits."""

    def __init__(self, name: str, count: int, then: Exception | str | None = None) -> None:
        self.name = name
        self.count = count
        self.then = then
        self.given = 0
        self.closed = False

    async def stream(self) -> AsyncIterator[Kline]:
        try:
            for number in range(self.count):
                self.given += 1
                yield candle(number, source=self.name)
                await anyio.lowlevel.checkpoint()
            if isinstance(self.then, Exception):
                raise self.then
            if self.then == "wait":
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()  # as a runner drains
            self.closed = True


async def taken(*sources: Any, **options: Any) -> list[Kline]:
    return [row async for row in merge_streams(*sources, **options) if isinstance(row, Kline)]


@pytest.mark.parametrize("sources", [1, 2, 5])
async def test_every_row_of_every_source_comes_in_its_order(sources: int) -> None:
    rows = await taken(*(Source(f"S{k}", 100) for k in range(sources)))
    assert len(rows) == 100 * sources
    for k in range(sources):
        mine = [row.open_ts for row in rows if row.source == f"S{k}"]
        assert mine == sorted(mine)
        assert len(mine) == 100


async def test_async_iterables_are_merged_too() -> None:
    assert len(await taken(Source("A", 3).stream(), Source("B", 4))) == 7


async def test_a_source_that_fails_does_not_end_the_others_and_is_raised_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = Source("bad", 2, ExchangeError("refused")), Source("good", 50)
    rows: list[Any] = []
    with pytest.raises(ExchangeError, match="refused"):
        async for row in merge_streams(bad, good):
            rows.append(row)
    assert len(rows) == 52
    assert "Source ended with ExchangeError: refused" in caplog.text


async def test_several_failures_are_a_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await taken(Source("a", 1, ExchangeError("one")), Source("b", 1, ValueError("two")), Source("c", 3))
    assert {str(error) for error in caught.value.exceptions} == {"one", "two"}


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_error_deals_with_a_failure(is_async: bool) -> None:
    told: list[tuple[Any, str]] = []

    def plain(runner: Any, error: Exception) -> None:
        told.append((runner, str(error)))

    async def other(runner: Any, error: Exception) -> None:
        told.append((runner, str(error)))

    bad = Source("bad", 1, ExchangeError("refused"))
    assert len(await taken(bad, Source("good", 5), on_error=other if is_async else plain)) == 6
    assert told == [(bad, "refused")]


async def test_an_on_error_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(runner: Any, error: Exception) -> None:
        raise RuntimeError("broken")

    with caplog.at_level(logging.ERROR):
        assert len(await taken(Source("bad", 1, ExchangeError("no")), Source("good", 5), on_error=broken)) == 6
    assert "RuntimeError: broken" in caplog.text


async def test_leaving_the_loop_closes_all() -> None:
    sources = [Source("a", 3, "wait"), Source("b", 3, "wait"), Source("c", 10_000)]
    rows = merge_streams(*sources, capacity=10)
    async for _ in rows:
        break
    await rows.aclose()
    assert all(source.closed for source in sources)


async def test_cancelling_the_consumer_closes_all() -> None:
    sources = [Source("a", 3, "wait"), Source("b", 3, "wait")]
    with anyio.CancelScope() as scope:
        async for row in merge_streams(*sources):
            assert isinstance(row, Kline)
            if row.open_ts == candle(2).open_ts:
                scope.cancel()
    assert all(source.closed for source in sources)


async def test_a_slow_consumer_holds_the_sources_up() -> None:
    sources = [Source("a", 10_000), Source("b", 10_000)]
    rows = merge_streams(*sources, capacity=20)
    async for _ in rows:
        for _ in range(500):
            await anyio.lowlevel.checkpoint()
        assert sum(source.given for source in sources) <= 20 + 20 + 2 * 2
        break
    await rows.aclose()


async def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(DataInputError, match="at least one"):
        await taken()
    with pytest.raises(DataInputError, match="cannot be merged"):
        await taken(42)
    one = Source("a", 1)
    with pytest.raises(DataInputError, match="given twice"):
        await taken(one, one)
