"""Files of frames: a disk that is full, and files that somebody else made."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from streammachine.errors import DataInputError
from streammachine.market.network import frame_file
from streammachine.market.network.frame_file import FramesHeader, FrameWriter, read_events

HEADER = FramesHeader("binance", "SPOT", "kline", ("BTCUSDT",), "1m", (), 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_ends_the_recording_and_raises_in_no_socket(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "x.txt", HEADER)
    assert writer._file is not None
    writer._file.close()
    writer._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    ended: list[str] = []
    writer.on_end = lambda: ended.append(writer.problem)
    for _ in range(3):
        writer.frame(1, 1, b"x" * frame_file.CHUNK)
    writer.close()
    assert ended == [f"the recording {tmp_path / 'x.txt'} has ended, for it cannot be written: No space left on device"]


@pytest.mark.parametrize(
    "line", ['["f",1,1,5]', '["f","1",1,"x"]', '["f",1]', "[[],1]", '["r",1,"/x",5,"y"]', "{}", "5", '["o",1,1,null]']
)
def test_a_line_that_is_no_event_is_said(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.txt"
    FrameWriter(path, HEADER).close()
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataInputError, match="no event of a recording"):
        list(read_events(path))


def test_long_lines_and_a_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    writer = FrameWriter(path, HEADER)
    frames = [b"a", b"b" * 300_000, "\u2028\n".encode(), b"\xff", b""]
    for frame in frames:
        writer.frame(1, 1, frame)
        writer.flush()
    writer.close()
    assert [event[3] for event in read_events(path)] == frames
    path.write_bytes(path.read_bytes()[:-12])
    assert [event[3] for event in read_events(path)] == frames


def test_a_small_file_that_unpacks_to_one_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_file, "LONGEST_LINE", 1 << 20)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(DataInputError, match="no recording"):
        list(read_events(path))
