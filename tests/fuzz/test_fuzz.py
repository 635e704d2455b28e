"""The short form of ``make fuzz``: the native modules under AddressSanitizer, about 20 seconds of inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import sanitized

SECONDS = {"hostile": 0, "wire": 6, "candles": 8, "frames": 6, "pages": 4, "ticks": 6, "bulk": 4, "trades": 6}


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return sanitized.built()
    except sanitized.CannotBuildError as error:
        pytest.skip(f"no build with AddressSanitizer here: {error}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", sanitized.TARGETS)
def test_no_input_touches_foreign_memory_and_the_twins_agree(folder: Path, target: str) -> None:
    done = sanitized.run(folder, target, seed=20_261_130, seconds=SECONDS[target])
    assert done.returncode == 0, done.stderr[-10_000:]
    assert int(done.stdout.split()[-2]) > 10
