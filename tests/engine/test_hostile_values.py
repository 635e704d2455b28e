"""The twins give the same, or raise the same, for arguments whose own code changes what is read.

``tests/fuzz`` runs the same cases in the build that watches every byte of memory.
"""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from fuzz import hostile
from fuzz.hostile import Case, outcome


def names(case: Case) -> str:
    return case.__name__


def needed(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not built here (no C compiler): there is no twin to compare")


@pytest.mark.parametrize("case", hostile.CANDLES, ids=names)
def test_the_candle_engines_agree(case: Case) -> None:
    needed("streammachine.ohlc.fast")
    native = importlib.import_module("streammachine.ohlc.fast")
    twin = importlib.import_module("streammachine.ohlc.reference")
    assert outcome(case, native) == outcome(case, twin)


@pytest.mark.parametrize("case", hostile.WIRE, ids=names)
def test_the_codecs_agree(case: Case) -> None:
    needed("streammachine.redis.transport.wire")
    native = importlib.import_module("streammachine.redis.transport.wire")
    twin = importlib.import_module("streammachine.redis.transport.wire_reference")
    assert outcome(case, native) == outcome(case, twin)


@pytest.mark.parametrize("case", hostile.KLINES, ids=names)
def test_the_kline_makers_agree(case: Case) -> None:
    needed("streammachine.market.exchanges.fast_decode")
    native, twin = hostile.kline_makers()
    assert outcome(case, native) == outcome(case, twin)
