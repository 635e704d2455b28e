"""Dumps: all of the state, the same bytes from both twins, and nothing believed of what is loaded."""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.errors import SnapshotError, StreamMachineError

INTERVALS = [60_000, 300_000, 90_000]


def fill(agg: Any) -> Any:
    rnd = random.Random(7)
    for k in range(500):
        agg.update_tick(
            rnd.choice("ABÜ"), rnd.random(), rnd.random(), 1_700_000_000_000 + k * 3_000 - rnd.randrange(90_000)
        )
        if k % 100 == 99:
            agg.flush_interval("A", rnd.choice(INTERVALS), 1_700_000_000_000 + k * 3_000)
    return agg


def test_a_loaded_aggregator_goes_on_as_the_dumped_one(engine: ModuleType) -> None:
    agg = fill(engine.FastOHLC(INTERVALS, max_candles=5))
    other = engine.FastOHLC.load(agg.dump())
    for name in ("intervals", "max_candles", "symbols", "tick_count", "late_count", "dropped_count"):
        assert getattr(other, name) == getattr(agg, name)
    assert agg.late_count > 0 < agg.dropped_count
    assert fill(other).dump() == fill(agg).dump()


def test_the_same_state_gives_the_same_bytes(both: tuple[ModuleType, ModuleType]) -> None:
    dumps = {fill(engine.FastOHLC(INTERVALS)).dump() for engine in both}
    assert len(dumps) == 1
    ticks = [(symbol, 1.0, 1.0, 1) for symbol in "BAC"]
    for engine in both:
        one, other = engine.FastOHLC(), engine.FastOHLC()
        for tick in ticks:
            one.update_tick(*tick)
        for tick in reversed(ticks):
            other.update_tick(*tick)
        assert one.dump() == other.dump()


def test_the_bytes_of_version_1_stay_readable(engine: ModuleType) -> None:
    candle = struct.pack("<5d4q", 1.0, 1.0, 1.0, 1.0, 2.0, 60_000, 60_001, 60_001, 1)
    body = struct.pack("<6sHqqqqI", b"SMOHLC", 1, 0, 1, 0, 0, 1) + struct.pack("<qI", 60_000, 1)
    body += struct.pack("<I", 1) + b"X" + struct.pack("<qBI", -(2**63), 1, 1) + candle
    agg = engine.FastOHLC([60_000])
    agg.update_tick("X", 1.0, 2.0, 60_001)
    assert agg.dump() == signed(body)


def signed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize("wrong", [None, 5, "text", [], b"", b"SM", b"SMOHLC", b"x" * 100], ids=repr)
def test_what_is_no_dump_is_refused(engine: ModuleType, wrong: Any) -> None:
    with pytest.raises(SnapshotError):
        engine.FastOHLC.load(wrong)


def test_a_pickle_is_not_loaded(engine: ModuleType) -> None:
    with pytest.raises(SnapshotError):
        engine.FastOHLC.load(pickle.dumps({"a": 1}))


def test_a_dump_of_another_version_says_so(engine: ModuleType) -> None:
    body = bytearray(engine.FastOHLC().dump()[:-4])
    body[6] = 2
    with pytest.raises(SnapshotError, match="version 2"):
        engine.FastOHLC.load(signed(bytes(body)))


def test_every_cut_and_every_flipped_byte_is_noticed(engine: ModuleType) -> None:
    agg = engine.FastOHLC([60_000, 300_000])
    agg.update_tick("X", 1.0, 1.0, 1_700_000_000_000)
    data = agg.dump()
    for at in range(len(data)):
        with pytest.raises(SnapshotError):
            engine.FastOHLC.load(data[:at])
        with pytest.raises(SnapshotError):
            engine.FastOHLC.load(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(SnapshotError):
        engine.FastOHLC.load(data + b"x")
    assert engine.FastOHLC.load(bytearray(data)).dump() == engine.FastOHLC.load(memoryview(data)).dump() == data


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_forged_checksum_gives_a_sound_aggregator_or_an_error(
    both: tuple[ModuleType, ModuleType], data: st.DataObject
) -> None:
    agg = both[0].FastOHLC(INTERVALS)
    for k in range(6):
        agg.update_tick("AB"[k % 2], float(k), 1.0, 1_700_000_000_000 + k * 40_000)
    agg.flush_interval("A", 60_000, 1_700_000_100_000)
    body = bytearray(agg.dump()[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    results = []
    for engine in both:
        try:
            other = engine.FastOHLC.load(signed(bytes(body)))
        except SnapshotError as error:
            results.append(str(error).encode())
        else:
            assert other.dump() == signed(bytes(body))
            for symbol in other.symbols:
                for interval in other.intervals:
                    other.get_candles(symbol, interval)
                for k in range(20):
                    other.update_tick(symbol, 1.0, 1.0, 1_700_000_000_000 + k * 30_000)
                for interval in other.intervals:
                    other.flush_interval(symbol, interval, 2**63 - 1)
            results.append(other.dump())
    assert results[0] == results[1]


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(SnapshotError, StreamMachineError)
