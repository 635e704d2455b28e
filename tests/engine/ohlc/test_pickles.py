"""What older builds pickled is read by this one, and the class paths in a pickle stay as they were."""

from __future__ import annotations

import base64
import pickle
from types import ModuleType

from streammachine.ohlc import reference

MINUTE, WEEK = 60_000, 604_800_000
OLD_TWIN = """
gASVPwIAAAAAAABdlCiMCGJ1aWx0aW5zlIwHZ2V0YXR0cpSTlIwcc3RyZWFtbWFjaGluZS5vaGxjLnJlZmVyZW5jZZSMCEZhc3RPSExDlJOUjA
Rsb2FklIaUUpRCPQEAAFNNT0hMQwEABQAAAAAAAAADAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAAAAYOoAAAAAAAAAhAwkAAAAAAEAAAADAAAA
QlRDAAAAAAAAAIABAgAAAAAAAAAAAFlAAAAAAAAAWUAAAAAAAABZQAAAAAAAAFlAAAAAAAAA4D/gGeXPiwEAAABo5c+LAQAAAGjlz4sBAAABAA
AAAAAAAAAAAAAAQFlAAAAAAACAWUAAAAAAAEBZQAAAAAAAgFlAAAAAAAAA8D9ABObPiwEAAEAE5s+LAQAAgKDmz4sBAAACAAAAAAAAAAAAAAAA
AACAAQEAAAAAAAAAAABZQAAAAAAAAFlAAAAAAAAAWUAAAAAAAABZQAAAAAAAAOA/AFj6xYsBAAAAaOXPiwEAAABo5c+LAQAAAQAAAAAAAACgVX
7blIWUUpRdlChoBIwKQ2FuZGxlRGF0YZSTlCmBlF2UKEdAWQAAAAAAAEdAWQAAAAAAAEdAWQAAAAAAAEdAWQAAAAAAAEc/4AAAAAAAAIoGAGjl
z4sBigbgGeXPiwFLAWViaA8pgZRdlChHQFlAAAAAAABHQFmAAAAAAABHQFlAAAAAAABHQFmAAAAAAABHP/AAAAAAAACKBoCg5s+LAYoGQATmz4
sBSwJlYmVlLg==
"""  # [an aggregator, its candles of a minute], pickled by the plain-Python engine when it was one module, reference.py


def filled(engine: ModuleType) -> list[object]:
    agg = engine.FastOHLC([MINUTE, WEEK], max_candles=5)
    for k in range(3):
        agg.update_tick("BTC", 100.0 + k, 0.5, 1_700_000_000_000 + 40_000 * k)
    return [agg, agg.get_candles("BTC", MINUTE)]


def test_a_pickle_of_the_twin_as_one_module_is_read() -> None:
    old, old_candles = pickle.loads(base64.b64decode(OLD_TWIN))
    agg, candles = filled(reference)
    assert type(old) is reference.FastOHLC
    assert old.dump() == agg.dump()  # type: ignore[attr-defined]
    assert old_candles == candles


def test_a_pickle_names_the_module_that_users_know(engine: ModuleType) -> None:
    agg, candles = filled(engine)
    assert type(agg).__module__ == engine.__name__
    assert type(candles[0]).__module__ == engine.__name__  # type: ignore[index]
    again, candles_again = pickle.loads(pickle.dumps([agg, candles]))
    assert again.dump() == agg.dump()  # type: ignore[attr-defined]
    assert candles_again == candles
