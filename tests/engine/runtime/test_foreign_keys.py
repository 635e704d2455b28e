"""What others wrote into the keys of a group is set aside with an ERROR, and the rest goes on."""

from __future__ import annotations

import logging
import time

import pytest

from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.delivery.dead_letter import NoLetterError, redrive
from streammachine.runtime.delivery.group import pack_array
from streammachine.runtime.delivery.keys import Companions
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
KEYS = Companions("s", "eventengine")

FOREIGN = [
    b"no msgpack \xff", b"", b"5", b'{"n": 1}', b"\x80", b"\xc0", pack_array([]), pack_array([b"odd"]),
    b"\xdd\x00\x00\x00\x02\x01\x02", b"\xdd\x00\x00\x00\x02\x90\x90", b"\xdd\xff\xff\xff\xff", b"\x92\xa1n\xc0",
]  # fmt: skip


async def test_foreign_members_of_the_retry_set_become_dead_letters(
    make_app: MakeApp, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    got = []

    @app.agent("s", lease=2.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    due = int(time.time() * 1000) - 1000
    for number, member in enumerate(FOREIGN):
        await probe.ask("ZADD", KEYS.delayed, due + number, member)
    ours = [b"n", b"1", b"sm-origin-id", b"5-1", b"sm-origin-stream", b"s", b"sm-attempt", b"1", b"sm-first-seen", b"5"]
    await probe.ask("ZADD", KEYS.delayed, due + 100, pack_array(ours))
    async with app:
        await until(lambda: got == ["1"])
        await until(lambda: app.consumers[0][1].held == 0)
        assert (await app.health_check())["status"] == "healthy"
    letters = await probe.ask("XRANGE", KEYS.dead_letters, "-", "+")
    assert sorted(fields[1] for _, fields in letters) == sorted(FOREIGN)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"{len(FOREIGN)} members" in errors[0].message
    box = await DeadLetters.open(probe.redis, "s")
    newest, _ = await box.newest(probe.redis, 100)
    assert {letter.fact("reason") for letter in newest} == {"broken"}
    with pytest.raises(NoLetterError):
        await redrive(probe.redis, "s", newest[0].entry.id, newest[0].entry.raw)


async def test_a_foreign_entry_of_the_retry_companion_is_a_message_like_others(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got = []

    @app.agent("s", lease=1.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])
        raise Reject("foreign")

    await probe.ask("XADD", KEYS.retry, "*", "n", "1", "sm-origin-id", "no id", "sm-first-seen", "²")
    await probe.ask("XADD", KEYS.retry, "*", "n", "2", "sm-origin-id", "9" * 5000, "sm-attempt", "x")
    await probe.ask("XADD", KEYS.retry, "*", "n", "3")
    async with app:
        await until(lambda: probe.ask("XLEN", KEYS.dead_letters))
        await until(lambda: sorted(got) == ["1", "2", "3"])
        await until(lambda: app.consumers[0][1].held == 0)
        assert (await app.health_check())["status"] == "healthy"
    assert [fields["n"] for fields in await probe.fields(KEYS.dead_letters)] == ["1", "2", "3"]


@pytest.mark.parametrize("key", [KEYS.delayed, KEYS.mark, KEYS.retry])
async def test_a_key_of_another_type_is_said_by_health_and_hinders_nothing_else(
    make_app: MakeApp, probe: Probe, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    app = make_app()
    got = []

    @app.agent("s", lease=1.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: got)
        await until(lambda: probe.done("s", 1))
        await probe.ask("DEL", key)
        await probe.ask("SADD", key, "foreign")
        if key == KEYS.retry:
            await probe.ask("ZADD", KEYS.delayed, 1, pack_array([b"n", b"1"]))
        consumer = app.consumers[0][1]
        await until(lambda: consumer.context.maintenance_errors)
        assert "fails at" in str((await app.health_check())["problems"])
        await app.send("s", {"n": 2})
        await until(lambda: len(got) == 2)
        await probe.ask("DEL", key)
        await until(lambda: not consumer.context.maintenance_errors)
    assert 1 <= len([record for record in caplog.records if record.levelno == logging.ERROR]) <= 2


async def test_a_right_that_is_missing_for_one_step_doubles_no_delayed_message(make_app: MakeApp, probe: Probe) -> None:
    """What may be added to the companion and not be taken out of the set would be added again and again."""
    await probe.ask("ACL", "SETUSER", "default", "-zrem")
    app = make_app()
    got = []

    @app.agent("s", lease=1.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    try:
        await probe.ask("ZADD", KEYS.delayed, 1, pack_array([b"n", b"1"]))
        async with app:
            await until(lambda: app.consumers[0][1].context.maintenance_errors)
            assert await probe.ask("EXISTS", KEYS.retry) == 0
            await probe.ask("ACL", "SETUSER", "default", "+zrem")
            await until(lambda: got == ["1"])
            await until(lambda: app.consumers[0][1].held == 0)
    finally:
        await probe.ask("ACL", "SETUSER", "default", "+zrem")
    assert got == ["1"]
