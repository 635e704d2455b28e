"""Handlers by annotation: what they are given, what does not fit, and what the decorator refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import pytest
from pydantic import BaseModel, Field

from streammachine import TypedBatch
from streammachine.errors import SettingsError
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import RetryPolicy
from support.runtime import MakeApp, Probe
from support.valkey import until

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

pytestmark = pytest.mark.anyio
PATIENT = RetryPolicy(max_attempts=3, initial=0.001, maximum=0.002, give_up_on=())


class Order(BaseModel):
    id: int
    total: float = Field(ge=0)


@dataclass
class Tick:
    symbol: str
    price: float


async def test_each_kind_of_annotation_gets_what_it_says(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got: dict[str, Any] = {}

    @app.agent("orders", group="model")
    async def model(order: Order) -> None:
        got["model"] = order

    @app.agent("orders", group="thread")
    def in_thread(order: Order | None) -> None:
        got["thread"] = order

    @app.agent("orders", group="dict")
    async def fields(record: dict[str, str]) -> None:
        got["dict"] = record

    @app.agent("orders", group="numbers")
    async def numbers(record: dict[str, float]) -> None:
        got["numbers"] = record

    @app.agent("orders", group="raw")
    async def raw(record: dict[bytes, bytes]) -> None:
        got["raw"] = record

    @app.agent("orders", group="message")
    async def message(record: Message) -> None:
        got["message"] = record.message

    @app.agent("ticks")
    async def tick(tick: Tick) -> None:
        got["tick"] = tick

    @app.agent("pictures")
    async def picture(data: bytes) -> None:
        got["bytes"] = data

    await app.send("orders", {"id": "7", "total": 2.5})
    await app.send("ticks", {"symbol": "BTC", "price": 1.5})
    await app.send("pictures", {"data": b"\xff\x00"})
    async with app:
        await until(lambda: len(got) == 8)
    assert got["model"] == got["thread"] == Order(id=7, total=2.5)
    assert got["dict"] == got["message"] == {"id": "7", "total": "2.5"}
    assert got["numbers"] == {"id": 7.0, "total": 2.5}
    assert got["raw"] == {b"id": b"7", b"total": b"2.5"}
    assert got["tick"] == Tick("BTC", 1.5)
    assert got["bytes"] == b"\xff\x00"


@pytest.mark.parametrize("transactional", [False, True])
async def test_what_does_not_fit_is_a_dead_letter_at_once(make_app: MakeApp, probe: Probe, transactional: bool) -> None:
    app = make_app()
    got: list[Order] = []

    @app.agent("orders", retry=PATIENT, transactional=transactional)
    async def handle(order: Order) -> None:
        got.append(order)

    await app.send("orders", {"id": "x", "total": -1})
    await app.send("orders", {"id": 1, "total": 1})
    async with app:
        await until(lambda: probe.done("orders", 2))
    assert got == [Order(id=1, total=1)]
    [letter] = await probe.fields("{orders}:dlq")
    assert letter["sm-reason"] == "decode"
    assert letter["sm-attempts"] == "1"
    assert "id: Input should be a valid integer" in letter["sm-error"]
    assert "total: Input should be greater than" in letter["sm-error"]


async def test_bytes_of_several_fields_are_refused_by_name(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", retry=PATIENT)
    async def handle(data: bytes) -> None: ...

    await app.send("s", {"a": 1, "b": 2})
    async with app:
        await until(lambda: probe.done("s", 1))
    [letter] = await probe.fields("{s}:dlq")
    assert "this one has 2: a, b" in letter["sm-error"]


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_batch_of_a_type(make_app: MakeApp, probe: Probe, transactional: bool) -> None:
    app = make_app()
    got: set[int] = set()
    kept: set[int] = set()

    @app.agent("orders", batch=10, retry=PATIENT, transactional=transactional)
    async def handle(orders: list[Order]) -> None:
        assert orders, "a handler is not called with nothing"
        got.update(order.id for order in orders)
        if transactional:
            return
        assert isinstance(orders, TypedBatch)
        for order in orders:
            if order.id == 3:
                orders.fail(order, "an odd one")
            else:
                kept.add(order.id)

    await app.send_batch("orders", [{"id": number if number != 2 else "two", "total": 1} for number in range(5)])
    async with app:
        await until(lambda: probe.done("orders", 5))
    assert got == {0, 1, 3, 4}
    letters = {letter["id"]: letter for letter in await probe.fields("{orders}:dlq")}
    assert letters["two"]["sm-reason"] == "decode"
    assert letters["two"]["sm-attempts"] == "1"
    if not transactional:
        assert kept == {0, 1, 4}
        assert letters["3"]["sm-attempts"] == "3"


async def test_types_of_a_function_are_found_and_decorators_are_seen_through(make_app: MakeApp, probe: Probe) -> None:
    class Own(BaseModel):
        n: int

    def logged(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def around(*arguments: Any, **options: Any) -> None:
            await handler(*arguments, **options)

        return around

    app = make_app()
    got: list[Any] = []

    @app.agent("s", group="plain")
    async def plain(own: Own) -> None:
        got.append(own.n)

    @app.agent("s", group="wrapped")
    @logged
    async def wrapped(own: Own, again: bool = False) -> None:
        got.append(own.n)

    class Callable_:  # noqa: N801
        async def __call__(self, own: Own) -> None:
            got.append(own.n)

    app.agent("s", group="object")(Callable_())
    app.agent("s", group="partial")(functools.partial(plain))
    await app.send("s", {"n": 1})
    async with app:
        await until(lambda: len(got) == 4)
    assert got == [1] * 4


async def test_names_as_texts_in_brackets_are_found(make_app: MakeApp, probe: Probe) -> None:
    class Own(BaseModel):
        n: int

    app = make_app()
    got: list[Any] = []

    async def single(own: Any) -> None:
        got.append(own)

    async def several(owns: Any) -> None:
        got.extend(owns)

    single.__annotations__["own"] = Optional["Own"]
    several.__annotations__["owns"] = list["Own"]
    app.agent("s", group="single")(single)
    app.agent("s", group="several", batch=5)(several)
    await app.send("s", {"n": 1})
    async with app:
        await until(lambda: len(got) == 2)
    assert got == [Own(n=1), Own(n=1)]


async def test_what_a_validator_raises_fails_its_message_alone(make_app: MakeApp, probe: Probe) -> None:
    @dataclass
    class Odd:
        n: int

        def __post_init__(self) -> None:
            if self.n == 2:
                raise KeyError("two")

    app = make_app()
    got: list[int] = []

    @app.agent("odd", batch=10, retry=PATIENT)
    async def handle(odds: list[Odd]) -> None:
        got.extend(odd.n for odd in odds)

    await app.send_batch("odd", [{"n": n} for n in range(4)])
    async with app:
        await until(lambda: probe.done("odd", 4))
    assert sorted(got) == [0, 1, 3]
    [letter] = await probe.fields("{odd}:dlq")
    assert (letter["n"], letter["sm-attempts"]) == ("2", "3")


def test_the_decorator_refuses_what_no_message_can_be_made_to() -> None:
    app = App("refusals", to_scan=False)

    async def number(n: int) -> None: ...
    async def two(order: Order, other: Order) -> None: ...
    async def listed(orders: list[Order]) -> None: ...
    async def single(order: Order) -> None: ...
    async def unknown(order: OnlyForCheckers) -> None: ...

    with pytest.raises(SettingsError, match="takes int, and no message can be made to that"):
        app.agent("s")(number)
    with pytest.raises(SettingsError, match="cannot be called as it will be, with one argument"):
        app.agent("s")(two)
    with pytest.raises(SettingsError, match="Give the decorator a batch="):
        app.agent("s")(listed)
    with pytest.raises(SettingsError, match="takes batches, so its argument is a list"):
        app.agent("s", batch=5)(single)
    with pytest.raises(SettingsError, match="outside of 'if TYPE_CHECKING:'"):
        app.agent("s")(unknown)
    assert not app.agents


def test_handlers_of_messages_are_left_alone() -> None:
    app = App("plain", to_scan=False)

    async def nothing(record): ...  # type: ignore[no-untyped-def]
    async def message(record: Message) -> None: ...
    async def anything(record: Any) -> None: ...
    async def batch(records: MessageBatch) -> None: ...
    async def messages(records: list[Message]) -> None: ...

    for handler in (nothing, message, anything):
        app.agent("s")(handler)
    for handler in (batch, messages):
        app.agent("s", batch=5)(handler)
    assert [agent.handler for agent in app.agents] == [nothing, message, anything, batch, messages]
