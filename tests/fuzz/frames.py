"""Exchanges' frames with something wrong in them, decoded with the compiled Kline maker and without."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from random import Random
from types import ModuleType
from typing import Any

from fuzz.agree import agree
from streammachine.market.exchanges import EXCHANGES, adapter_for
from streammachine.market.exchanges import decode as wire
from support.frames import SAMPLES, Sample

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**53, 2**63, 2**64, 1.5, -0.5, 1e18, 1e30, 1e308, "", " ", "0", "-1", "1.5", "1e5",
    "1_000", "nan", "inf", "9" * 64, "9" * 70, "0." + "0" * 40 + "1", "1.2.3", ".5", "5.", "x" * 65, "é",
    "1m", "1M", "1w", [], {}, [1],
)  # fmt: skip


def _without_compiled_maker() -> dict[str, ModuleType]:
    """The exchanges' modules once more, as they are where nothing was compiled."""
    built, wire.HAS_NATIVE = wire.HAS_NATIVE, False
    try:
        found = {}
        for name in EXCHANGES:
            known = importlib.import_module(f"streammachine.market.exchanges.{name}")
            spec = importlib.util.spec_from_file_location(f"plain_{name}", known.__file__)
            assert spec is not None and spec.loader is not None
            found[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
        return found
    finally:
        wire.HAS_NATIVE = built


PLAIN = _without_compiled_maker()


def step(rnd: Random) -> None:
    """One frame."""
    sample = rnd.choice(SAMPLES)
    message: Any = json.loads(sample.frame())
    for _ in range(rnd.choice((0, 1, 1, 2, 3))):
        changed(rnd, message)
    frame = bytearray(json.dumps(message).encode())
    if rnd.random() < 0.2:
        at = rnd.randrange(len(frame))
        frame[at : at + rnd.randrange(3)] = rnd.randbytes(rnd.randrange(3))
    agree(lambda adapter: [shown(event) for event in adapter.decode(bytes(frame))], adapters(sample))


def adapters(sample: Sample) -> tuple[Any, Any]:
    compiled = adapter_for(sample.exchange, sample.market_type)
    plain = getattr(PLAIN[sample.exchange], type(compiled).__name__)
    return compiled, plain(sample.adapter.market_type)


def shown(event: Any) -> Any:
    """With its types: 1 and 1.0 are not the same."""
    return type(event).__name__, sorted((name, repr(value)) for name, value in vars(event).items()) if hasattr(
        event, "__dict__"
    ) else repr(event)


def changed(rnd: Random, message: Any) -> None:
    """Somewhere in it another value, one less, or one more."""
    while isinstance(message, dict | list) and message:
        key = rnd.choice(list(message)) if isinstance(message, dict) else rnd.randrange(len(message))
        if isinstance(message[key], dict | list) and rnd.random() < 0.9:
            message = message[key]
            continue
        if rnd.random() < 0.1:
            del message[key]
        else:
            message[key] = rnd.choice(VALUES)
        return
