"""Faults as text, and random scripts of them."""

from __future__ import annotations

import pytest

from streammachine.errors import DataInputError
from streammachine.market.simulator import Fault, Tape, random_script
from streammachine.market.simulator.faults.fault import KINDS
from support.exchange import START


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset@30", Fault("reset", 30.0)),
        ("late-close@1.5", Fault("late_close", 1.5)),
        ("close@10:value=1006", Fault("close", 10.0, value=1006)),
        ("malformed#5", Fault("malformed", after=4)),
        ("status:value=429,seconds=3,times=2", Fault("status", seconds=3.0, times=2, value=429)),
        ("missing@60:exchange=okx,symbol=BTC/USDT,lasts=20",
         Fault("missing", 60.0, "okx", "BTC/USDT", lasts=20.0)),
        ("duplicate:times=all", Fault("duplicate", times=-1)),
        ("refuse:value=reset,connection=2", Fault("refuse", connection=2, value="reset")),
    ],
)  # fmt: skip
def test_a_text_is_a_fault_and_a_fault_a_text(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rest@30", "did you mean reset"),
        ("reset@soon", "write kind@seconds"),
        ("", "write kind@seconds"),
        ("reset:colour=red", "'colour=red' is not accepted"),
        ("reset:times=often", "give a number"),
        ("reset:lasts=-1", "begin at 0"),
    ],
)
def test_another_text_is_refused_with_a_reason(text: str, match: str) -> None:
    with pytest.raises(DataInputError, match=match):
        Fault.parse(text)


def test_scripts_are_the_same_by_seed_and_use_every_kind_that_can_be_healed() -> None:
    tape = Tape.generate(1, start_ms=START)
    scripts = [random_script(seed, tape, "okx", minutes=10) for seed in range(300)]
    assert scripts == [random_script(seed, tape, "okx", minutes=10) for seed in range(300)]
    assert len(set(scripts)) > 290
    used = {fault.kind for script in scripts for fault in script}
    assert used == set(KINDS) - {"ack_error", "delist", "listing", "off_grid", "skew"}
    for script in scripts:
        assert all(fault.at <= 10 * 60 for fault in script)
        assert [fault.at for fault in script] == sorted(fault.at for fault in script)


def test_a_script_says_which_candles_nobody_can_get() -> None:
    tape = Tape.generate(1, start_ms=START)
    scripts = [random_script(seed, tape, "bybit", minutes=10, harsh=0.5) for seed in range(100)]
    harsh = [script for script in scripts if script.unobtainable]
    assert 30 < len(harsh) < 70
    for script in harsh:
        for symbol, timeframe, start in script.unobtainable:
            assert START <= start < START + 9 * 60_000
            assert any(fault.kind == "missing" and fault.value == start and fault.symbol == symbol for fault in script)
            assert any(fault.kind == "lost_close" and fault.timeframe == timeframe for fault in script)
    assert not any(random_script(seed, tape, "kraken", harsh=1.0).unobtainable for seed in range(20))
