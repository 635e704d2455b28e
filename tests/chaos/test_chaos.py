"""The short form of the chaos run. The long one: ``make chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.driver import Chaos, Plan


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_repeated_whatever_dies(tmp_path: Path) -> None:
    plan = Plan(messages=3000, kills=4, zombies=2, cuts=80, seed=7, deadline=200)
    report = Chaos(plan, tmp_path, say=print).run()
    print(report)
    assert not report.problems(), (tmp_path / "workers.log").read_text(errors="replace")[-20_000:]
    assert (report.kills, report.restarts) == (4, 2)
    assert report.cuts >= 80
