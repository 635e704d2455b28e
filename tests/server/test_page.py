"""The interactive chart in Chromium, in a host that speaks MCP Apps; its screenshots and the pictures are made here.

To look at them: ``pytest tests/server/test_page.py -k look --basetemp=DIR``.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine_mcp.page.candles import LIBRARY, candles_html
from support.app_host import AppHost, chromium, of_server
from support.klines import MINUTE, random_candles, write_klines
from support.mcp import RawClient

T0 = 1_723_161_600_000
ARGUMENTS = {"exchange": "binance", "symbol": "BTCUSDT", "indicators": ["sma:20", "rsi:14"]}
DRAWN = "window.seen.some(each => each.method === 'ui/notifications/size-changed' && each.params.height > 400)"
has_library = (Path(__file__).parents[2] / "engine" / "streammachine" / "charts" / LIBRARY).is_file()
needs_library = pytest.mark.skipif(not has_library, reason="the build could not fetch the chart's library")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def server(raw: RawClient, shared_server: EmbeddedServer) -> RawClient:
    """With 300 candles of a coin whose price is 1.2e-12, and of one with a gap, an incomplete and an open candle."""
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as database:
        marked: dict[str, Any] = {"left_out": range(220, 225), "incomplete": {250}, "open_last": True}
        write_klines(database, "kline:binance:BTCUSDT:1m", T0, random_candles(300, price=61_000), **marked)
        write_klines(database, "kline:binance:PEPEUSDT:1m", T0, random_candles(300, price=1.2e-12))
    return raw


def page_of(client: RawClient) -> str:
    text: str = client.request("resources/read", uri="ui://streammachine/candles")["contents"][0]["text"]
    return text


def summary(**changes: Any) -> dict[str, Any]:
    data = {"tool": "candles_read", "arguments": {"exchange": "binance", "limit": 3}, "ended": True, "lines": []}
    return {"title": "BTCUSDT", "data": {**data, **changes}}


def result(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": json.dumps(value)}], "structuredContent": value, **more}


def columns(times: list[int], closes: list[float], **more: Any) -> dict[str, Any]:
    prices = dict.fromkeys(("open", "high", "low", "close"), closes)
    return result({"columns": {"open_ts": times, **prices, "volume": [1.0] * len(times), **more}})


@needs_library
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 360])
@pytest.mark.parametrize("symbol", ["BTCUSDT", "PEPEUSDT"])
def test_look_of_the_page_and_the_picture(
    browser: Any, server: RawClient, tmp_path: Path, theme: str, width: int, symbol: str
) -> None:
    arguments = {**ARGUMENTS, "symbol": symbol, "theme": theme}
    given = server.request("tools/call", name="candles_chart", arguments=arguments)
    host = AppHost(browser, page_of(server), of_server(server), theme=theme, width=width)
    host.give(arguments, given)
    host.until(DRAWN)
    host.page.screenshot(path=str(tmp_path / f"page-{symbol}-{theme}-{width}.png"))
    (tmp_path / f"picture-{symbol}-{theme}.png").write_bytes(base64.b64decode(given["content"][1]["data"]))
    assert host.problems == []
    assert [each for each in host.requests if not each.startswith(("data:", "about:"))] == []
    assert 400 < host.sent("ui/notifications/size-changed")[-1]["height"] <= 500
    assert host.inside("document.documentElement.scrollWidth <= window.innerWidth")
    assert host.frame.locator("#title").inner_text() == f"{symbol} · 1m · binance"
    assert "UTC" in host.frame.locator("#legend").inner_text()
    shown = Image.open(io.BytesIO(host.page.screenshot())).convert("RGB").crop((0, 0, width, 480))
    assert len(shown.getcolors(1_000_000) or []) > 20
    corner = shown.getpixel((2, 2))
    assert isinstance(corner, tuple)
    assert (sum(corner) < 200) is (theme == "dark")
    host.close()


@needs_library
def test_the_crosshair_shows_the_candle_below_it_and_the_wheel_zooms(browser: Any, server: RawClient) -> None:
    given = server.request("tools/call", name="candles_chart", arguments=ARGUMENTS)
    host = AppHost(browser, page_of(server), of_server(server))
    host.give(ARGUMENTS, given)
    host.until(DRAWN)
    newest = host.frame.locator("#legend").inner_text()
    assert "still open" in newest
    box = host.frame.locator("#chart").bounding_box()
    host.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 100)
    host.frame.locator("#legend").filter(has_not_text="still open").wait_for()
    before = host.page.screenshot()
    host.page.mouse.wheel(0, -600)
    host.page.wait_for_timeout(300)
    assert host.page.screenshot() != before
    host.close()


@needs_library
def test_doubled_unordered_and_broken_rows_are_mended_before_they_are_drawn(browser: Any) -> None:
    times = [T0 + n * MINUTE for n in (2, 0, 1, 1, 3)]
    given = columns(times, [12.0, 10.0, 99.0, 11.0, math.pi])
    given["structuredContent"]["columns"]["low"] = [12.0, 10.0, 99.0, 11.0, 50.0]  # above its high: no candle
    host = AppHost(browser, candles_html(), lambda *_: given, capabilities={"downloadFile": {}})
    host.give({}, result(summary()))
    host.until(DRAWN)
    assert "1 rows were no candles" in host.frame.locator("#note").inner_text()
    host.frame.locator("#csv").click()
    host.until("window.seen.some(each => each.method === 'ui/download-file')")
    (sent,) = host.sent("ui/download-file")
    resource = sent["contents"][0]["resource"]
    rows = [line.split(",") for line in resource["text"].split()]
    assert resource["mimeType"] == "text/csv"
    assert rows[0][:5] == ["open_ts", "open", "high", "low", "close"]
    assert [(int(row[0]), float(row[4])) for row in rows[1:]] == [
        (T0, 10.0), (T0 + MINUTE, 11.0), (T0 + 2 * MINUTE, 12.0),
    ]  # fmt: skip
    assert host.problems == []
    host.close()


@needs_library
def test_it_goes_on_live_until_it_is_told_to_stop(browser: Any) -> None:
    answers = [columns([T0, T0 + MINUTE], [10.0, 11.0]), columns([T0 + MINUTE, T0 + 2 * MINUTE], [11.5, 12.5])]
    host = AppHost(browser, candles_html(), lambda *_: answers.pop(0) if len(answers) > 1 else answers[0])
    host.give({}, result(summary(ended=False)))
    host.frame.locator("#last").filter(has_text="11").wait_for()
    assert host.frame.locator("#live").get_attribute("aria-pressed") == "true"
    host.frame.locator("#last").filter(has_text="12.5").wait_for()
    assert [call["name"] for call in host.calls[:2]] == ["candles_read", "candles_read"]
    assert host.ask("ui/resource-teardown")["result"] == {}
    assert host.ask("ping")["result"] == {}
    assert host.ask("something/else")["error"]["code"] == -32601
    assert host.frame.locator("#live").get_attribute("aria-pressed") == "false"
    host.close()


@needs_library
def test_a_host_that_passes_text_only_or_nothing_is_enough(browser: Any) -> None:
    def answer(name: str, _: dict[str, Any]) -> dict[str, Any]:
        return columns([T0, T0 + MINUTE], [10.0, 11.0]) if name == "candles_read" else result(summary())

    text_only = {"content": result(summary())["content"]}
    for given in (text_only, {"content": []}):
        host = AppHost(browser, candles_html(), answer)
        host.give({"exchange": "binance", "symbol": "BTCUSDT"}, given)
        host.frame.locator("#last").filter(has_text="11").wait_for()
        host.close()
    assert host.calls[0] == {"name": "candles_chart", "arguments": {"exchange": "binance", "symbol": "BTCUSDT"}}


def test_where_nothing_can_be_called_the_picture_or_the_text_stays(browser: Any) -> None:
    def refuse(*_: Any) -> dict[str, Any]:
        return {"error": {"code": -32601, "message": "tools/call is not allowed <b>here</b>"}}

    host = AppHost(browser, candles_html(), refuse)
    given = result(summary())
    dot = io.BytesIO()
    Image.new("RGB", (4, 4)).save(dot, format="PNG")
    image = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(dot.getvalue()).decode()}
    host.give({}, {**given, "content": [*given["content"], image]})
    host.frame.locator("#picture").wait_for()
    if has_library:
        assert "not allowed <b>here</b>" in host.frame.locator("#note").inner_text()
    host.close()
    host = AppHost(browser, candles_html(), refuse)
    host.give({}, given)
    host.frame.locator("#text").wait_for()
    assert "BTCUSDT" in host.frame.locator("#text").inner_text()
    host.close()


def test_a_build_without_the_library_says_so(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammachine_mcp.page.candles.LIBRARY", "absent.js")
    html = candles_html.__wrapped__()
    assert "LightweightCharts.create" not in html.partition("<script>")[0]
    host = AppHost(browser, html, lambda *_: result({}))
    host.give({}, result(summary()))
    host.frame.locator("#note").filter(has_text="without its library").wait_for()
    assert host.problems == []
    host.close()


@needs_library
def test_markup_stays_text_and_no_other_script_runs(browser: Any) -> None:
    name = "<img src=\"x\" onerror=\"window.parent.postMessage({method: 'evil'}, '*')\"><script>alert(1)</script>"
    line = {"columns": [name], "styles": ["line"], "on_price": True}
    given = columns([T0, T0 + MINUTE], [10.0, 11.0], **{name: [10.0, 10.5]})
    host = AppHost(browser, candles_html(), lambda *_: given)
    host.give({}, result({**summary(lines=[line]), "title": name}))
    host.frame.locator("#last").filter(has_text="11").wait_for()
    assert host.frame.locator("#title").inner_text() == name
    assert name in host.frame.locator("#legend").inner_text()
    assert host.inside("document.querySelectorAll('img').length") == 1  # the picture's own place
    script = "Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'})"
    host.inside(f"document.body.append({script})")
    assert host.inside("window.ran === undefined")
    assert host.sent("evil") == []
    host.close()


@needs_library
def test_the_theme_follows_the_host(browser: Any) -> None:
    host = AppHost(browser, candles_html(), lambda *_: columns([T0, T0 + MINUTE], [10.0, 11.0]))
    host.give({}, result(summary()))
    host.frame.locator("#last").filter(has_text="11").wait_for()
    assert host.inside("document.documentElement.dataset.theme") == "light"
    host.tell("ui/notifications/host-context-changed", {"theme": "dark"})
    host.frame.locator("html[data-theme=dark]").wait_for()
    assert host.problems == []
    host.close()


def test_one_file_that_reaches_nothing(raw: RawClient) -> None:
    (content,) = raw.request("resources/read", uri="ui://streammachine/candles")["contents"]
    assert content["mimeType"] == "text/html;profile=mcp-app"
    assert content["_meta"]["ui"]["csp"] == {"connectDomains": [], "resourceDomains": []}
    assert "default-src 'none'; script-src 'sha256-" in content["text"]
    assert raw.tools()["candles_chart"]["_meta"] == {"ui": {"resourceUri": "ui://streammachine/candles"}}
    for tag in ("<link", "src=", "@import", "url("):
        assert tag not in content["text"].partition("<script>")[0], tag
