"""The picture of the dashboard: ``python docs/dashboard_picture.py`` takes docs/images/dashboard.png anew.

An App with two agents, one of them behind and with a dead letter, on a private embedded Valkey; an installed Chromium
opens its dashboard.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DASHBOARD = Path(__file__).parent / "images" / "dashboard.png"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
BUSY = "() => /[1-9][0-9]/.test(document.querySelector('main td:nth-child(4)').textContent)"
SHOP = """
import asyncio
from streammachine import App, Message, Reject

app = App(name="shop", dashboard_enabled=True, dashboard_port=0, dashboard_refresh_interval=1)
hold = asyncio.Event()


@app.agent("orders", group="billing", concurrency=4)
async def bill(order: Message) -> None:
    if order.message["amount"] == "-1":
        raise Reject("a negative amount")
    await app.send("bills", {"id": order.message["id"]})


@app.agent("bills", group="mail")
async def mail(bill: Message) -> None:
    await hold.wait()


@app.timer(1)
async def order() -> None:
    for number in range(40):
        await app.send("orders", {"id": str(number), "amount": "-1" if number == 7 else "5"})


app.start()
"""


def taken() -> bytes:
    """The PNG.

    Raises:
        RuntimeError: no Chromium is installed, or the App did not say where its dashboard is.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise RuntimeError("No Chromium is installed.")
    with tempfile.TemporaryDirectory(prefix="sm-picture-") as name:
        folder = Path(name)
        (folder / "shop.py").write_text(SHOP, encoding="utf-8")
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": name,
            "STREAMMACHINE_EMBEDDED": "always",
            "STREAMMACHINE_DATA_DIR": name,
        }
        shop = subprocess.Popen([sys.executable, "shop.py"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
        try:
            assert shop.stderr is not None
            url = next((line.split()[-1] for line in shop.stderr if "Dashboard: http" in line), None)
            if url is None:
                raise RuntimeError("The App did not say where its dashboard is.")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = browser.new_page(viewport={"width": 1180, "height": 450}, color_scheme="light")
                page.goto(url)
                page.goto(url.split("?")[0] + "#agents")
                page.locator("main").get_by_text("bill@orders/billing").first.wait_for()
                page.locator("#live", has_text="live").wait_for()
                page.wait_for_function(BUSY)
                picture: bytes = page.screenshot()
                browser.close()
            return picture
        finally:
            shop.terminate()
            shop.communicate(timeout=30)


if __name__ == "__main__":
    DASHBOARD.write_bytes(taken())
