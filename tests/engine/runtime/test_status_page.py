"""The status page as Chromium shows it, and what it says when Redis is away."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.applications import Starlette

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.observability import status_page as status
from streammachine.settings import Settings
from support.proxy import Proxy
from support.runtime import MakeApp, Probe
from support.servers import free_port
from support.valkey import until

pytestmark = pytest.mark.anyio
EVIL = "<script>document.title='owned'</script>"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt install chromium)")


class Dom(HTMLParser):
    """What stands in a page: its text, its scripts, and the cells of its tables by row."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text = ""
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self._within: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within.append(tag)
        if tag == "script":
            self.scripts.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "script" in self._within:
            self.scripts[-1] += data
            return
        if "style" not in self._within:
            self.text += data
        if "td" in self._within or "th" in self._within:
            self.rows[-1][-1] += data

    def row(self, name: str) -> dict[str, str]:
        """The agents' row that begins with this name, by the columns' heads."""
        heads = next(row for row in self.rows if row and row[0] == "agent")
        return dict(zip(heads, next(row for row in self.rows if row and row[0] == name), strict=True))


async def dom_of(url: str, milliseconds: int = 500) -> Dom:
    """The page after so much time of its own: waiting costs none."""
    with tempfile.TemporaryDirectory(prefix="sm-chromium-", ignore_cleanup_errors=True) as profile:
        options = [
            *OPTIONS.split(),
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={milliseconds}",
            "--dump-dom",
        ]
        with anyio.fail_after(90):
            done = await anyio.run_process([CHROMIUM, *options, url], env={"HOME": profile, "PATH": "/usr/bin:/bin"})
    return Dom(done.stdout.decode())


def watched(make_app: MakeApp, **options: object) -> tuple[App, str]:
    port = free_port()
    token = secrets.token_urlsafe(16)
    app = make_app(
        dashboard_enabled=True, dashboard_port=port, dashboard_host="127.0.0.1", dashboard_token=token, **options
    )
    return app, f"http://127.0.0.1:{port}/status?token={token}"


@needs_chromium
async def test_chromium_shows_names_as_text_and_the_numbers(make_app: MakeApp, probe: Probe) -> None:
    app, url = watched(make_app, name=EVIL)

    @app.agent("orders", retry=1)
    async def charge(message: Message) -> None:
        if message.message["n"] == "5":
            raise ValueError("refused")

    async def evil(message: Message) -> None: ...

    evil.__qualname__ = EVIL
    app.agent(EVIL, group=EVIL)(evil)

    @app.timer(1000)
    async def tick() -> None: ...

    async with app:
        await app.send_batch("orders", [{"n": number} for number in range(1234)])
        await until(lambda: probe.done("orders", 1234))
        page = await dom_of(url)
    assert len(page.scripts) == 1  # the page's own
    assert "owned" in page.text and "healthy" in page.text
    title = re.search(r"(\w+) · (.*)", page.text)
    assert title is not None and title[0].startswith(f"healthy · {EVIL}")
    row = page.row(charge.__qualname__)
    wanted = {
        "stream": "orders",
        "group": "eventengine",
        "state": "reads",
        "handled": "1,233",
        "waiting": "0",
        "dead": "1",
    }
    assert {head: row[head] for head in wanted} == wanted
    assert (page.row(EVIL)["stream"], page.row(EVIL)["group"]) == (EVIL, EVIL)
    assert any(row[0] == tick.__qualname__ for row in page.rows)


@needs_chromium
async def test_the_page_renews_itself_and_says_when_the_app_is_gone(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = watched(make_app)
    asked = 0
    really = status._page

    async def counted(one: App) -> str:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise RuntimeError("the app is gone")
        return (await really(one)).replace("as of", f"look {asked}, as of")

    monkeypatch.setattr(status, "_page", counted)
    async with app:
        page = await dom_of(url, 14_000)  # it renews itself after 5 s and after 10 s
        assert "look 3," in page.text and "does not answer" not in page.text
        asked = 2
        page = await dom_of(url, 7_000)
    assert "look 3," in page.text and "The app does not answer. What you see is from" in page.text


async def test_with_redis_away_the_page_and_the_metrics_come_at_once_and_the_app_counts_as_alive(
    settings: Settings, redis: RedisConnection
) -> None:
    assert redis.target is not None
    async with Proxy(Path(str(redis.target.endpoint.path))) as proxy:
        app = App("proxied", to_scan=False, settings=settings, redis_url=proxy.url)

        @app.agent([f"s{number}" for number in range(20)])
        async def handle(message: Message) -> None: ...

        transport = httpx2.ASGITransport(app=Starlette(routes=status.status_routes(app)))
        async with app, httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await proxy.refuse()
            proxy.reset()
            await until(lambda: all(consumer.last_error for _, consumer in app.consumers), 30)
            with anyio.fail_after(15):
                page = Dom((await client.get("/status")).text)
                metrics = (await client.get("/metrics")).text
            assert "Redis does not answer" in page.text and "cannot read" in page.text
            assert 'streammachine_consumed_total{app="proxied"' in metrics
            assert (await client.get("/livez")).status_code == 200  # a new start would not bring Redis back
            assert (await client.get("/readyz")).status_code == 503
            await proxy.listen()
            await until(lambda: not any(consumer.last_error for _, consumer in app.consumers), 30)
