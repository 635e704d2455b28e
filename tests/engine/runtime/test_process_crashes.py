"""Processes that die or freeze in the middle of a message, and messages that kill their process."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from streammachine.runtime.delivery.group import Delivery
from streammachine.runtime.model.message import Message
from support.runtime import MakeApp, Probe, Script
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
DEADLINE = 60.0
MakeScript = Callable[..., Script]

WAITS = """
app = App("crash", to_scan=False)

@app.agent("s", lease=1.0, transactional=True, concurrency=4)
async def handle(message):
    await app.send("out", {"n": message.message["n"], "attempt": message.attempt})
    await app.redis.command("RPUSH", "started", os.getpid())
    while await app.redis.command("EXISTS", f"hold:{os.getpid()}"):
        await anyio.sleep(0.02)
    await app.redis.command("RPUSH", "left", os.getpid())
"""


async def starts(probe: Probe) -> list[int]:
    return [int(pid) for pid in await probe.ask("LRANGE", "started", 0, -1)]


async def test_what_a_killed_process_held_is_done_once_by_another(script: MakeScript, probe: Probe) -> None:
    ours = script(WAITS)
    first = ours.start()
    await probe.ask("SET", f"hold:{first.pid}", 1)
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    await until(lambda: starts(probe), DEADLINE)
    ours.start()
    first.kill()
    await until(lambda: probe.done("s", 1), DEADLINE)
    assert await starts(probe) != [first.pid]
    assert [(fields["n"], fields["attempt"]) for fields in await probe.fields("out")] == [("1", "2")]


async def test_a_frozen_process_that_wakes_commits_nothing(script: MakeScript, probe: Probe) -> None:
    ours = script(WAITS)
    zombie = ours.start()
    await probe.ask("SET", f"hold:{zombie.pid}", 1)
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    await until(lambda: starts(probe), DEADLINE)
    zombie.send_signal(signal.SIGSTOP)
    ours.start()
    await until(lambda: probe.done("s", 1), DEADLINE)
    await probe.ask("DEL", f"hold:{zombie.pid}")
    zombie.send_signal(signal.SIGCONT)

    async def woken() -> bool:
        return str(zombie.pid).encode() in await probe.ask("LRANGE", "left", 0, -1)

    await until(woken, DEADLINE)
    # It goes on with what comes, and the first message stays committed once.
    await probe.redis.pipeline_xadd("s", [{"n": 2}])
    await until(lambda: probe.done("s", 2), DEADLINE)
    zombie.terminate()
    await until(lambda: zombie.poll() is not None, DEADLINE)
    found = [(fields["n"], fields["attempt"]) for fields in await probe.fields("out")]
    assert sorted(found) == [("1", "2"), ("2", "1")]


KILLER = """
app = App("killer", to_scan=False, max_processes=2)

@app.agent("s", lease=1.0, concurrency=8, transactional=True, max_deliveries=4{processes})
async def handle(message):
    await app.redis.command("HINCRBY", "starts", message.message["n"], 1)
    if message.message["n"] == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if message.message["n"] == "leaver":
        os._exit(0)
    await anyio.sleep(0.01)
    await app.send("out", {{"n": message.message["n"]}})
"""


async def killed_by_messages(probe: Probe, ours: Script, *, restart: bool) -> None:
    records: list[dict[str, object]] = [{"n": n} for n in range(30)]
    records.insert(10, {"n": "killer"})
    await probe.redis.pipeline_xadd("s", records)
    process = ours.start()

    def alive() -> None:
        nonlocal process
        if restart and process.poll() is not None:
            process = ours.start()

    async def given_up() -> bool:
        alive()
        return bool(await probe.ask("XLEN", "{s}:dlq") and await probe.done("s", 31))

    await until(given_up, 120)
    (letter,) = await probe.fields("{s}:dlq")
    assert (letter["n"], letter["sm-reason"], letter["sm-attempts"]) == ("killer", "max-deliveries", "4")
    out = sorted(int(fields["n"]) for fields in await probe.fields("out"))
    assert out == list(range(30))
    assert int(await probe.ask("HGET", "starts", "killer")) == 4
    process.terminate()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 0


async def test_a_message_that_kills_its_process_takes_no_neighbour_with_it(script: MakeScript, probe: Probe) -> None:
    ours = script(KILLER.format(processes=""))
    await killed_by_messages(probe, ours, restart=True)
    assert "was ended by SIGKILL" in ours.log
    assert len(ours.processes) == 3  # two normal starts; the others were alone


async def test_in_worker_processes_the_parent_lives_through_it(script: MakeScript, probe: Probe) -> None:
    ours = script(KILLER.format(processes=", processes=2"))
    await killed_by_messages(probe, ours, restart=False)
    assert len(ours.processes) == 1


async def test_where_no_process_can_import_the_app_a_suspect_runs_with_nothing_beside_it(
    make_app: MakeApp, probe: Probe
) -> None:
    app = make_app()
    beside: list[int] = []
    now = 0
    got: dict[str, int] = {}

    @app.agent("s", lease=0.4, concurrency=4)
    async def handle(message: Message) -> None:
        nonlocal now
        now += 1
        for _ in range(5):
            await until(lambda: True)
            if message.message["n"] == "suspect":
                beside.append(now)
        got[message.message["n"]] = message.attempt
        now -= 1

    await probe.redis.pipeline_xadd("s", [{"n": "suspect"}, {"n": "spent"}])
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0")
    ((_, entries),) = await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "STREAMS", "s", ">")
    for (identifier, _), count in zip(entries, (2, 4), strict=True):
        await probe.ask("XCLAIM", "s", "eventengine", "dead", 0, identifier, "RETRYCOUNT", count, "JUSTID")
    async with app:
        await app.send_batch("s", [{"n": number} for number in range(100)])
        await until(lambda: probe.done("s", 102), DEADLINE)
        assert app.consumers[0][1].metrics.alone == 1
    assert set(beside) == {1}
    assert got["suspect"] == 3
    assert len(got) == 101
    (letter,) = await probe.fields("{s}:dlq")
    assert (letter["n"], letter["sm-reason"], letter["sm-attempts"]) == ("spent", "max-deliveries", "4")


ALONE = """
app = App("alone", to_scan=False)

@app.agent("s", lease=2.0, transactional={transactional}{batch})
async def handle(message):
    {unpack}
    await app.redis.command("RPUSH", "ran", f"{{os.getpid()}} {{message.attempt}}")
    if message.message["n"] == "poison":
        raise Reject("no")
    await anyio.sleep(6.5)  # more than three leases: the parent renews it
    await app.send("out", {{"n": message.message["n"]}})
"""


@pytest.mark.parametrize(
    ("transactional", "batch", "unpack"), [(True, "", ""), (False, ", batch=5", "(message,) = message")]
)
async def test_a_suspect_runs_in_a_process_of_its_own_under_its_parents_lease(
    script: MakeScript, probe: Probe, transactional: bool, batch: str, unpack: str
) -> None:
    ours = script(ALONE.format(transactional=transactional, batch=batch, unpack=unpack))
    await probe.redis.pipeline_xadd("s", [{"n": 1}, {"n": "poison"}])
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0")
    ((_, entries),) = await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "STREAMS", "s", ">")
    for identifier, _ in entries:
        await probe.ask("XCLAIM", "s", "eventengine", "dead", 0, identifier, "RETRYCOUNT", 2, "JUSTID")
    parents = [ours.start(), ours.start()]
    await until(lambda: probe.done("s", 2), DEADLINE)
    ran = [tuple(map(int, line.split())) for line in await probe.ask("LRANGE", "ran", 0, -1)]
    assert len(ran) == 2
    assert {attempt for _, attempt in ran} == {3}
    assert not {pid for pid, _ in ran} & {parent.pid for parent in parents}
    assert [fields["n"] for fields in await probe.fields("out")] == ["1"]
    (letter,) = await probe.fields("{s}:dlq")
    assert (letter["n"], letter["sm-reason"], letter["sm-attempts"]) == ("poison", "rejected", "3")


async def test_trouble_outside_of_the_handler_is_not_held_against_the_message(script: MakeScript, probe: Probe) -> None:
    ours = script(
        """
        app = App("trouble", to_scan=False)

        @app.on_startup
        async def begin():
            if await app.redis.command("INCR", "begun") in (2, 3, 4):
                raise OSError("no table yet")

        @app.agent("s", lease=0.5)
        async def handle(message):
            await app.redis.command("RPUSH", "ran", message.attempt)
        """
    )
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0")
    await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "STREAMS", "s", ">")
    ((identifier, *_),) = await probe.ask("XPENDING", "s", "eventengine", "-", "+", 1)
    await probe.ask("XCLAIM", "s", "eventengine", "dead", 0, identifier, "RETRYCOUNT", 2, "JUSTID")
    ours.start()
    await until(lambda: probe.done("s", 1), DEADLINE)
    assert await probe.ask("LRANGE", "ran", 0, -1) == [b"3"]
    assert await probe.ask("EXISTS", "{s}:dlq") == 0


@pytest.mark.parametrize("front", [3000, 30_000])
async def test_one_sweep_reaches_a_dead_consumers_messages_whatever_stands_in_front(probe: Probe, front: int) -> None:
    lease = 1.0
    for _ in range(front // 1000):
        await probe.redis.pipeline_xadd("s", [{"n": 0}] * 1000)
    await probe.redis.pipeline_xadd("s", [{"n": 1}] * 3)
    await probe.ask("XGROUP", "CREATE", "s", "g", "0")
    ids = []
    for _ in range(front // 1000):
        reply = await probe.ask("XREADGROUP", "GROUP", "g", "alive", "COUNT", 1000, "STREAMS", "s", ">")
        ids.append([entry[0] for entry in reply[0][1]])
    reply = await probe.ask("XREADGROUP", "GROUP", "g", "dead", "COUNT", 3, "STREAMS", "s", ">")
    wanted = [entry[0] for entry in reply[0][1]]

    async def run_out() -> bool:
        return all(row[2] > 1000 * lease for row in await probe.ask("XPENDING", "s", "g", "-", "+", 3, "dead"))

    await until(run_out)
    for chunk in ids:
        await probe.ask("XCLAIM", "s", "g", "alive", 0, *chunk, "JUSTID")
    delivery = Delivery(probe.redis, "s", "g", "me", lease=lease)
    assert [item.id for item in await delivery.sweep(1)] == wanted[:1]
    assert [item.id for item in await delivery.sweep(10)] == wanted[1:]
    assert {item.deliveries for item in delivery.main.held.values()} == {1}
    assert not any(item.begun for item in delivery.main.held.values())


async def test_sweeps_find_what_a_living_consumer_let_go_of_behind_all_it_holds(probe: Probe) -> None:
    """More than one sweep looks at: it is walked over in parts."""
    for _ in range(12):
        await probe.redis.pipeline_xadd("s", [{"n": 0}] * 1000)
    await probe.ask("XGROUP", "CREATE", "s", "g", "0")
    for _ in range(12):
        reply = await probe.ask("XREADGROUP", "GROUP", "g", "alive", "COUNT", 1000, "STREAMS", "s", ">")
    last = reply[0][1][-1][0]
    await probe.ask("XCLAIM", "s", "g", "alive", 0, last, "IDLE", 100_000, "JUSTID")
    delivery = Delivery(probe.redis, "s", "g", "me", lease=60)
    found: list[bytes] = []

    async def swept() -> bool:
        found.extend(item.id for item in await delivery.sweep(5))
        return bool(found)

    await until(swept)
    assert found == [last]


async def test_what_was_trimmed_while_it_was_pending_is_said_and_leaves_the_pending_list(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(10)])
    await probe.ask("XGROUP", "CREATE", "s", "g", "0")
    await probe.ask("XREADGROUP", "GROUP", "g", "dead", "COUNT", 10, "STREAMS", "s", ">")
    ids = [row[0] for row in await probe.rows("s", "g")]
    await probe.ask("XCLAIM", "s", "g", "dead", 0, *ids, "IDLE", 100_000, "JUSTID")
    await probe.ask("XTRIM", "s", "MAXLEN", 4)
    delivery = Delivery(probe.redis, "s", "g", "me", lease=60)
    assert [item.id.decode() for item in await delivery.sweep(100)] == ids[6:]
    assert "6 entries of 's'" in caplog.text
    assert await probe.pending("s", "g") == 4


async def test_the_sweep_reaches_the_tail_of_a_long_pending_list(probe: Probe) -> None:
    """A cursor that began anew each time would look at the same first entries for ever."""
    await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(500)])
    await probe.ask("XGROUP", "CREATE", "s", "g", "0")
    await probe.ask("XREADGROUP", "GROUP", "g", "dead", "COUNT", 500, "STREAMS", "s", ">")
    ids = [row[0] for row in await probe.rows("s", "g")]
    await probe.ask("XCLAIM", "s", "g", "alive", 0, *ids[:490], "JUSTID")
    await probe.ask("XCLAIM", "s", "g", "dead", 0, *ids[490:], "IDLE", 100_000, "JUSTID")
    delivery = Delivery(probe.redis, "s", "g", "me", lease=60)
    found: list[str] = []

    async def swept() -> bool:
        found.extend(item.id.decode() for item in await delivery.sweep(5))
        return len(found) >= 10

    await until(swept)
    assert found == ids[490:]
    # Who swept them may sweep again: what it holds is not given out twice.
    await probe.ask("XCLAIM", "s", "g", "me", 0, *found, "IDLE", 100_000, "JUSTID")
    assert await delivery.sweep(100) == []
    # Another has taken one over: it is not begun here, and its lease not renewed.
    await probe.ask("XCLAIM", "s", "g", "other", 0, found[0], "JUSTID")
    first, second = (delivery.main.held[identifier.encode()] for identifier in found[:2])
    assert [item.id for item in await delivery.renew()] == [first.id]
    assert first.lost
    assert not await delivery.begin(first)
    assert await delivery.begin(second)
    assert second.deliveries == 2
    owners = {row[0]: row[1] for row in await probe.rows("s", "g")}
    assert (owners[found[0]], owners[found[1]]) == ("other", "me")
