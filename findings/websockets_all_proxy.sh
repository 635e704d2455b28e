#!/usr/bin/env bash
# websockets: ALL_PROXY is ignored, while HTTP clients beside it use it.
#
# Expected: with proxy=True (the default) connections go through ALL_PROXY where no closer variable is set, as curl,
# urllib-based clients and httpx do.
# Why it matters: a program that takes an exchange's REST answers through the proxy opens its WebSocket directly, past the
# proxy, or not at all behind a firewall.
# Source: websockets' documentation of proxies (environment variables); seen while testing SOCKS proxies on both roads.
# Versions: websockets 17.4, httpx2 2.16.2, Python 3.11. Date: 2026-11-30.
# Output seen:
#   websockets: None
#   httpx2: SOCKSProxy
#   websockets, the same in HTTPS_PROXY: socks5://127.0.0.1:1080
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "websockets==17.4" "httpx2==2.16.2" "socksio==1.0.0"
cat > "$folder/seen.py" <<'PYTHON'
import os

for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ["ALL_PROXY"] = "socks5://127.0.0.1:1080"

import httpx2
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

print("websockets:", get_proxy(parse_uri("wss://stream.test/ws")))
client = httpx2.Client()
print("httpx2:", type(client._transport_for_url(httpx2.URL("https://rest.test/"))._pool).__name__)
os.environ["HTTPS_PROXY"] = os.environ.pop("ALL_PROXY")
print("websockets, the same in HTTPS_PROXY:", get_proxy(parse_uri("wss://stream.test/ws")))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
