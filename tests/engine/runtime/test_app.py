"""App: the registry, and the life cycle in a loop of somebody else's."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from streammachine.errors import RedisUnavailableError, SettingsError, StreamMachineError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.model.config import Batch, TimerConfig
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from streammachine.settings import Settings
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio


async def test_an_app_without_a_name_takes_its_modules(settings: Settings) -> None:
    assert App(settings=settings, to_scan=False).name == __name__
    assert App("orders", settings=settings).name == "orders"


async def test_two_apps_in_one_module_stay_apart(make_app: MakeApp, probe: Probe) -> None:
    first, second = make_app("first"), make_app("second")
    got: list[str] = []

    @first.agent("a")
    async def on_a(message: Message) -> None:
        got.append(f"first {message.message['n']}")

    @second.agent("b")
    async def on_b(message: Message) -> None:
        got.append(f"second {message.message['n']}")

    assert [agent.config.topics for agent in first.agents] == [("a",)]
    assert [agent.config.topics for agent in second.agents] == [("b",)]
    async with first, second:
        await first.send("b", {"n": 1})
        await second.send("a", {"n": 2})
        await until(lambda: len(got) == 2)
    assert sorted(got) == ["first 2", "second 1"]


async def test_include_takes_over_another_modules_handlers(make_app: MakeApp) -> None:
    other = ModuleType("other_module")
    part = make_app("part")
    other.part = part  # type: ignore[attr-defined]
    got, hooks = [], []

    @part.agent("in")
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    @part.timer(1000)
    async def tick() -> None: ...

    @part.on_startup
    def begin() -> None:
        hooks.append("begin")

    sys.modules["other_module"] = other
    try:
        app = make_app("whole")
        app.include("other_module")
        app.include(other)  # again: nothing twice
    finally:
        del sys.modules["other_module"]
    assert (len(app.agents), len(app.timers)) == (1, 1)
    async with app:
        await app.send("in", {"n": 1})
        await until(lambda: got == ["1"])
    assert hooks == ["begin"]


async def test_to_scan_imports_the_packages_sub_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, redis: RedisConnection
) -> None:
    package = tmp_path / "scanned_shop"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("raise SystemExit('a __main__ is run, not imported')")
    (package / "app.py").write_text(
        "from streammachine.runtime.app.app import App\nfrom scanned_settings import settings\n"
        "app = App(settings=settings)\n"
    )
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "orders.py").write_text(
        "from scanned_shop.app import app\n@app.agent('orders')\nasync def on_order(message): ...\n"
    )
    holder = ModuleType("scanned_settings")
    holder.settings = settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scanned_settings", holder)
    monkeypatch.syspath_prepend(str(tmp_path))
    from scanned_shop.app import app  # type: ignore[import-not-found]

    assert (app.name, app.agents) == ("scanned_shop.app", ())
    async with app:
        assert [agent.name for agent in app.agents] == ["on_order@orders/eventengine"]
    for name in [name for name in sys.modules if name.startswith("scanned_shop")]:
        del sys.modules[name]


async def test_hooks_run_in_order_around_the_messages(make_app: MakeApp) -> None:
    app = make_app()
    events: list[str] = []

    @app.on_startup
    async def first() -> None:
        events.append("start 1")
        await app.send("s", {"n": 1})

    @app.on_startup
    def second() -> None:
        events.append("start 2")

    @app.agent("s")
    async def handle(message: Message) -> None:
        events.append(f"message {message.message['n']}")

    @app.on_shutdown
    async def failing() -> None:
        events.append("stop 1")
        raise ValueError("this hook fails")

    @app.on_shutdown
    async def last() -> None:
        assert await app.redis.health_check()
        events.append("stop 2")

    async with app:
        await until(lambda: "message 1" in events)
    assert events == ["start 1", "start 2", "message 1", "stop 1", "stop 2"]


async def test_an_exception_in_a_startup_hook_comes_out_as_itself(make_app: MakeApp) -> None:
    app = make_app()

    @app.on_startup
    async def fails() -> None:
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        async with app:
            raise AssertionError("not reached")
    with pytest.raises(KeyError):
        await app.run_async()


async def test_without_redis_the_start_says_so(settings: Settings) -> None:
    app = App("away", to_scan=False, settings=settings, redis_url="redis://127.0.0.1:1")
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1"):
        async with app:
            raise AssertionError("not reached")


async def test_run_async_ends_with_shutdown_and_runs_again(make_app: MakeApp) -> None:
    app = make_app()
    got = []

    @app.agent("s")
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    for number in range(2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.run_async)
            await until(lambda: app._appender is not None)
            await app.send("s", {"n": number})
            await until(lambda number=number: len(got) == number + 1)  # type: ignore[misc]
            await app.shutdown()
    assert got == ["0", "1"]


async def test_shutdown_from_a_handler_ends_the_app(make_app: MakeApp) -> None:
    app = make_app(grace=500.0)

    @app.agent("s")
    async def handle(message: Message) -> None:
        await app.shutdown()

    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.run_async)
            await until(lambda: app._appender is not None)
            await app.send("s", {"n": 1})


async def test_a_running_app_cannot_be_started_again(make_app: MakeApp) -> None:
    app = make_app()
    async with app:
        with pytest.raises(StreamMachineError, match="runs already"):
            await app.run_async()


async def test_start_inside_a_loop_says_what_to_use(make_app: MakeApp) -> None:
    with pytest.raises(StreamMachineError, match="run_async"):
        make_app().start()


async def test_cancelling_run_async_ends_everything(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    started = anyio.Event()

    @app.agent("s")
    async def handle(message: Message) -> None:
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app.run_async)
        await until(lambda: app._appender is not None)
        await app.send("s", {"n": 1})
        await started.wait()
        tasks.cancel_scope.cancel()
    rows = await probe.rows("s")
    assert [(consumer, deliveries) for _, consumer, deliveries in rows] == [("sm-handed-back", 1)]
    assert await probe.consumers("s") == ["sm-handed-back"]
    left = [task.get_name() for task in asyncio.all_tasks()]
    assert [name for name in left if "streammachine.runtime" in name or "streammachine-app" in name] == []


async def test_a_handler_that_outlives_the_grace_is_cancelled(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(grace=0.2)
    started = anyio.Event()

    @app.agent("s")
    async def handle(message: Message) -> None:
        started.set()
        await anyio.sleep_forever()

    with anyio.fail_after(60):
        async with app:
            await app.send("s", {"n": 1})
            await started.wait()
    assert await probe.pending("s") == 1


async def test_the_same_handler_twice_is_refused(make_app: MakeApp) -> None:
    app = make_app()

    @app.agent("a")
    async def handle(message: Message) -> None: ...

    app.agent("b")(handle)
    app.agent("a", group="other")(handle)
    with pytest.raises(SettingsError, match="registered twice"):
        app.agent("a", concurrency=2)(handle)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stream": ""}, "name of a stream"),
        ({"stream": []}, "name of a stream"),
        ({"stream": ["a", "a"]}, "twice"),
        ({"group": ""}, "group"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"processes": 0}, "processes"),
        ({"prefetch": 0}, "prefetch"),
        ({"lease": 0}, "lease"),
        ({"timeout": -1}, "timeout"),
        ({"batch": 0}, "batch"),
        ({"batch": True}, "batch"),
        ({"batch": 5, "key": "k"}, "batch and key"),
        ({"batch": 5, "dedup": str}, "batch and dedup"),
        ({"retry": True}, "retry"),
        ({"retry": "often"}, "retry"),
        ({"key": ""}, "key"),
        ({"retain": "some"}, "retain"),
        ({"transactional": "yes"}, "transactional"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"stream": 5}, "name of a stream"),
        ({"stream": b"s"}, "name of a stream"),
        ({"stream": print}, "name of a stream"),
        ({"group": 5}, "group"),
        ({"lease": "30"}, "lease"),
        ({"lease": math.inf}, "lease"),
        ({"lease": True}, "lease"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"dedup": "id"}, "dedup"),
        ({"dedup": str, "dedup_window": "1"}, "dedup_window"),
        ({"start": "now"}, "start"),
        ({"start": 5}, "start"),
        ({"start": ""}, "start"),
        ({"retry": 0}, "at least one attempt"),
        ({"dead_letter": "no"}, "dead_letter"),
    ],
)
async def test_combinations_that_make_no_sense_are_refused(
    settings: Settings, options: dict[str, object], says: str
) -> None:
    app = App("refusals", to_scan=False, settings=settings)
    with pytest.raises(SettingsError, match=says):
        app.agent(**{"stream": "s", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"max_processes": 0},
        {"max_threads": 0},
        {"grace": -1},
        {"grace": "25"},
        {"grace": math.nan},
        {"dashboard_port": 70000},
        {"dashboard_port": "8000"},
        {"dashboard_host": 5},
        {"name": 5},
        {"redis_url": 5},
    ],
)
async def test_an_apps_own_settings_are_checked(settings: Settings, options: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        App(**{"name": "refusals", "to_scan": False, "settings": settings, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [5, None])
async def test_what_is_no_module_cannot_be_included(settings: Settings, module: object) -> None:
    with pytest.raises(SettingsError, match="module"):
        App("refusals", to_scan=False, settings=settings).include(module)  # type: ignore[arg-type]


async def test_a_hook_must_be_callable(settings: Settings) -> None:
    app = App("refusals", to_scan=False, settings=settings)
    for register in (app.on_startup, app.on_shutdown):
        with pytest.raises(SettingsError, match="hook"):
            register(5)  # type: ignore[type-var]


async def test_the_configs_are_values() -> None:
    assert Batch(5) == Batch(5, 0.0)
    with pytest.raises(ValueError, match="at least one attempt"):
        RetryPolicy(max_attempts=0)
    with pytest.raises(ValueError, match="initial"):
        RetryPolicy(initial=-1)
    with pytest.raises(SettingsError, match="jitter"):
        RetryPolicy(jitter="x")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="overlap"):
        TimerConfig(1.0, overlap="x")  # type: ignore[arg-type]
    for options in ({"max_attempts": "3"}, {"initial": "1"}, {"retry_on": ValueError}, {"give_up_on": ("KeyError",)}):
        with pytest.raises(SettingsError, match=r"give|at least"):
            RetryPolicy(**options)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="within"):
        Batch(5, "1")  # type: ignore[arg-type]
    policy = RetryPolicy(initial=1, factor=2, maximum=5, jitter=False)
    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4)] == [1, 2, 4, 5]
    assert all(0 <= RetryPolicy().delay(attempt) <= 60 for attempt in range(1, 200))
