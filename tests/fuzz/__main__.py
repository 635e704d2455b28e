"""The long form, ``make fuzz``: ``python -m tests.fuzz [--seconds 300] [--seed N] [TARGET ...]``.

Builds the native modules with AddressSanitizer into ``build/asan``, then tries the hostile cases, and random inputs for
so many seconds each on the wire codec, the candles, the frames' decoder, XRANGE's pages, the consumer's ticks, trade
files and bulk
files' lines, beside their plain-Python twins.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
for place in ("tests", "engine"):
    sys.path.insert(0, str(ROOT / place))

from fuzz import sanitized  # noqa: E402


def main() -> int:
    """1 where something failed."""
    parser = argparse.ArgumentParser(description="Random and hostile inputs for the native modules.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=" ".join(sanitized.TARGETS))
    parser.add_argument("--seconds", type=float, default=300, help="for each target")
    parser.add_argument("--seed", type=int, default=int(time.time()) << 20)
    options = parser.parse_args()
    try:
        folder = sanitized.built()
    except sanitized.CannotBuildError as error:
        print(f"No sanitized build: {error}", file=sys.stderr)
        return 1
    failed = False
    for target in options.targets or sanitized.TARGETS:
        done = sanitized.run(folder, target, options.seed, options.seconds)
        print(done.stdout + done.stderr[-20_000:] * bool(done.returncode), flush=True)
        failed = failed or bool(done.returncode)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
