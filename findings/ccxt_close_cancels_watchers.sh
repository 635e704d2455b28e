#!/usr/bin/env bash
# ccxt for Python: closing an exchange, or one of its connections, cancels the tasks that wait in its watch methods, though nobody cancelled them.
#
# Expected: an exception of ccxt's (there is ExchangeClosedByUser for it), which `except ccxt.BaseError` or `except Exception` takes.
# Why it matters: a loop that watches, and tries again after an error, ends without a word: CancelledError is no Exception, and to
# whoever awaits the task it looks as if the task had been cancelled from outside; under a TaskGroup it is not even told.
# One that closes a connection to have it opened anew ends its own streams so.
# Source: ccxt raises ExchangeClosedByUser where a closed exchange is asked again; seen with a local websocket server that sends nothing.
# Versions: ccxt 4.5.90, websockets 17.4, Python 3.11. Date: 2026-11-30.
# Output seen:
#   close() of the connection: CancelledError, an Exception: False, task.cancelled(): True, asked to: 0 times
#   close() of the exchange: CancelledError, an Exception: False, task.cancelled(): True, asked to: 0 times
#   ExchangeClosedByUser is an Exception: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "ccxt==4.5.90" "websockets==17.4"
cat > "$folder/seen.py" <<'PYTHON'
import asyncio

import ccxt
import ccxt.pro
from websockets.asyncio.server import serve


async def silent(connection):
    await connection.wait_closed()


async def seen(what, url, close):
    exchange = ccxt.pro.binance()

    async def watch():
        return await exchange.watch(url, "anything")

    task = asyncio.create_task(watch())
    while not exchange.clients or not next(iter(exchange.clients.values())).connected.done():
        await asyncio.sleep(0.01)
    await close(exchange)
    asked = task.cancelling()
    await asyncio.wait([task], timeout=10)
    try:
        task.result()
    except BaseException as error:
        kind = f"{type(error).__name__}, an Exception: {isinstance(error, Exception)}"
        print(f"{what}: {kind}, task.cancelled(): {task.cancelled()}, asked to: {asked} times")
    await exchange.close()


async def main():
    async with serve(silent, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        async def connection(exchange):
            for client in list(exchange.clients.values()):
                await client.close()

        await seen("close() of the connection", url, connection)
        await seen("close() of the exchange", url, lambda exchange: exchange.close())
    print("ExchangeClosedByUser is an Exception:", issubclass(ccxt.ExchangeClosedByUser, Exception))


asyncio.run(main())
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
