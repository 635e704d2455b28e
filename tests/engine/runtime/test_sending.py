"""app.send and send_batch."""

from __future__ import annotations

import asyncio

import pytest

from streammachine.errors import FieldError, SettingsError, WrongTypeError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.delivery.keys import Companions, dead_letters, dedup_key, tagged
from support.runtime import MakeApp, Probe

pytestmark = pytest.mark.anyio


async def test_send_gives_the_id_and_changes_nothing_of_the_callers(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    record = {"text": "a", "number": 1, "price": 0.1, "yes": True, "raw": b"\xff"}
    before = dict(record)
    async with app:
        identifier = await app.send("s", record)
        identifiers = await app.send_batch("s", [record, record])
    assert record == before
    reply = await probe.ask("XRANGE", "s", "-", "+")
    assert [entry[0].decode() for entry in reply] == [identifier, *identifiers]
    fields = dict(zip(reply[0][1][::2], reply[0][1][1::2], strict=True))
    assert abs(int(fields.pop(b"sm-sent")) - int(identifier.partition("-")[0])) < 60_000  # type: ignore[union-attr]
    assert fields == {b"text": b"a", b"number": b"1", b"price": b"0.1", b"yes": b"true", b"raw": b"\xff"}


async def test_fields_of_the_users_own_are_never_overwritten(make_app: MakeApp, probe: Probe) -> None:
    async with make_app() as app:
        await app.send("s", {"sent": "yesterday", "sm-sent": 5})
    assert await probe.fields("s") == [{"sent": "yesterday", "sm-sent": "5"}]


async def test_what_names_no_stream_is_refused(make_app: MakeApp, probe: Probe) -> None:
    async with make_app() as app:
        for name in ("", b"", None, 5):
            with pytest.raises(FieldError, match="stream"):
                await app.send(name, {"n": 1})  # type: ignore[arg-type]
            with pytest.raises(FieldError, match="stream"):
                await app.send_batch(name, [{"n": 1}])  # type: ignore[arg-type]
        for window in (0, -1, "1", True):
            with pytest.raises(SettingsError, match="dedup_window"):
                await app.send("s", {"n": 1}, dedup_key="k", dedup_window=window)  # type: ignore[arg-type]
    assert await probe.ask("EXISTS", "", "5", "s") == 0


async def test_a_bad_record_disturbs_nobody(make_app: MakeApp, probe: Probe) -> None:
    async with make_app() as app:
        good = [app.send("s", {"n": number}) for number in range(50)]
        bad = [app.send("s", {"n": None}), app.send("s", {"n": [1]}), app.send("s", {"n": {}}), app.send("s", [1])]  # type: ignore[arg-type]
        done = await asyncio.gather(*good[:25], *bad, *good[25:], return_exceptions=True)
        assert [type(found) for found in done[25:28]] == [FieldError] * 3
        assert "'n'" in str(done[25])
        assert all(isinstance(found, str) for found in done[:25] + done[29:])
        with pytest.raises(FieldError):
            await app.send_batch("s", [{"n": 1}, {"n": None}])
    assert len(await probe.fields("s")) == 50


async def test_an_error_of_the_server_reaches_only_its_own_caller(make_app: MakeApp, probe: Probe) -> None:
    await probe.ask("SET", "text", "1")
    async with make_app() as app:
        done = await asyncio.gather(
            app.send("s", {"n": 1}), app.send("text", {"n": 2}), app.send("s", {"n": 3}), return_exceptions=True
        )
    assert [type(found) for found in done] == [str, WrongTypeError, str]


async def test_sends_of_one_task_keep_their_order(make_app: MakeApp, probe: Probe) -> None:
    async with make_app() as app:
        await asyncio.gather(*(app.send("s", {"n": number}) for number in range(500)))
    assert [int(fields["n"]) for fields in await probe.fields("s")] == list(range(500))


async def test_a_hundred_thousand_sends_at_once_are_bounded(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(send_limit=1000)
    most = 0
    async with app:
        assert app._appender is not None
        waiting = app._appender._waiting

        async def send(number: int) -> None:
            nonlocal most
            await app.send("s", {"n": number})
            most = max(most, len(app._appender._waiting))  # type: ignore[union-attr]

        await asyncio.gather(*(send(number) for number in range(100_000)))
        del waiting
    assert most <= 1000
    assert await probe.ask("XLEN", "s") == 100_000


async def test_a_dedup_key_sends_once(make_app: MakeApp, probe: Probe) -> None:
    async with make_app() as app:
        first = await app.send("s", {"n": 1}, dedup_key="order 1")
        again = await app.send("s", {"n": 2}, dedup_key="order 1")
        other = await app.send("s", {"n": 3}, dedup_key="order 2")
    assert again == first != other
    assert [fields["n"] for fields in await probe.fields("s")] == ["1", "3"]
    assert 0 < await probe.ask("PTTL", dedup_key("s", "order 1")) <= 3_600_000


async def test_stream_maxlen_keeps_about_so_many(make_app: MakeApp, probe: Probe) -> None:
    async with make_app(stream_maxlen=1000) as app:
        for _ in range(3):
            await app.send_batch("s", [{"n": number} for number in range(1000)])
        await app.send("s", {"n": 0})
    assert 1000 <= await probe.ask("XLEN", "s") < 1300


async def test_a_bare_app_sends_too(make_app: MakeApp, redis: RedisConnection, probe: Probe) -> None:
    app = make_app()
    await app.send("s", {"n": 1})
    await app.redis.close()
    assert len(await probe.fields("s")) == 1


def test_companions_share_the_streams_slot() -> None:
    assert tagged("orders") == "{orders}"
    assert tagged("{eu}orders") == "{eu}orders"
    assert tagged("{}orders") == "{{}orders}"
    assert dead_letters("orders") == "{orders}:dlq"
    assert Companions("orders", "g").retry == "{orders}:retry:g"
    assert Companions("{eu}orders", "g").delayed == "{eu}orders:retry:g:due"
