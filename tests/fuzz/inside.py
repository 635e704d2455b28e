"""Inside a process with the sanitizer's runtime: ``python -m fuzz.inside FOLDER TARGET SEED SECONDS``.

``FOLDER`` holds the sanitized modules. ``TARGET``: hostile (every case once), wire, candles, frames, pages, ticks,
trades or
bulk.
Prints how many inputs it tried; a difference between the twins is an error that names the input's seed.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from random import Random

from fuzz import sanitized


def hostile() -> int:
    """Every case of hostile.py with both twins."""
    from fuzz import hostile as cases

    engines = [importlib.import_module(f"streammachine.ohlc.{name}") for name in ("fast", "reference")]
    codecs = [importlib.import_module(f"streammachine.redis.transport.{name}") for name in ("wire", "wire_reference")]
    groups = ((cases.CANDLES, engines), (cases.WIRE, codecs), (cases.KLINES, cases.kline_makers()))
    count = 0
    for group, (native, twin) in groups:
        for case in group:
            print(f"hostile: {case.__name__}", file=sys.stderr, flush=True)  # the last one is the one that crashed
            found, wanted = cases.outcome(case, native), cases.outcome(case, twin)
            assert found == wanted, f"{case.__name__}:\n{found}\n{wanted}"
            count += 1
    return count


def fuzz(target: str, seed: int, seconds: float) -> int:
    """Random inputs until the time is over."""
    step = importlib.import_module(f"fuzz.{target}").step
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        try:
            step(Random(seed + count))
        except BaseException:
            print(f"{target}: the input of --seed {seed + count} failed", file=sys.stderr, flush=True)
            raise
        count += 1
    return count


def main() -> None:
    folder, target, seed, seconds = sys.argv[1:]
    sanitized.use(Path(folder))
    count = hostile() if target == "hostile" else fuzz(target, int(seed), float(seconds))
    print(f"{target}: {count} inputs", flush=True)


if __name__ == "__main__":
    main()
