"""How far a backfill has come in each of its sinks, on disk, so that a killed one goes on and a finished one is known.

One file for each CSV (hidden, beside it) or, for other sinks, for each target (below the data directory): a JSON object
a line, appended after what it speaks of was flushed; the last whole line of a request counts. The file is locked while
a backfill runs, and the lock goes with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from streammachine.errors import EmitterError
from streammachine.market.model.kline import Gap

try:
    import fcntl
except ImportError:  # Windows: nobody keeps two backfills apart there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JournalRecord:
    """What one request has done in one sink.

    Attributes:
        key: whose candles, from when. position: all that begin before it are in the sink; epoch milliseconds.
        size: of the CSV then, in bytes; None for other sinks. clean: nothing was written after that.
        close: the last price before ``position``, for folding on. rows: how many were emitted.
    """

    key: str
    position: int
    size: int | None = None
    clean: bool = False
    close: float | None = None
    rows: int = 0
    gaps: list[Gap] = field(default_factory=list)


class Journal:
    """The journal of one sink, open and locked.

    Raises:
        EmitterError: another backfill has it, or it cannot be written.
    """

    def __init__(self, path: Path, sink: str, *, own_folder: bool = False) -> None:
        self.path = path
        self._sink = sink
        self._own_folder = own_folder
        self._file: io.FileIO | None = None
        self._records: dict[str, JournalRecord] = {}
        self._last: str | None = None

    @classmethod
    def beside(cls, csv: Path) -> Self:
        """That of a CSV file."""
        return cls(csv.with_name(f".{csv.name}.backfill"), str(csv))

    @classmethod
    def below(cls, folder: Path, target: str) -> Self:
        """That of another sink, in the data directory; ``target`` says which, without a password."""
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in target)[:60]
        return cls(folder / f"{name}-{digest(target)}.backfill", target, own_folder=True)

    def __enter__(self) -> Self:
        try:
            if self._own_folder:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise EmitterError(
                f"a backfill into {self._sink} keeps its progress in {self.path}, which cannot be written: "
                f"{error.strerror}. Make it writable, or give resume=False"
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise EmitterError(
                f"another backfill is writing to {self._sink}: wait until it is through, or give each a sink of its own"
            ) from None
        self._read(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            if not self._records:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def find(self, key: str) -> JournalRecord | None:
        """What the request has done."""
        return self._records.get(key)

    @property
    def last(self) -> JournalRecord | None:
        """What was written last, by whichever request."""
        return self._records[self._last] if self._last is not None else None

    def write(self, record: JournalRecord) -> None:
        """Keep it; what it says must be in the sink already.

        Raises:
            EmitterError: it cannot be written: the disk is full, say. What was kept before it still is.
        """
        if self._file is None:
            raise EmitterError(f"the journal {self.path} is not open")
        before = self._records.get(record.key)
        known = before.gaps if before is not None else []
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, record.gaps, strict=False)))
        gaps = [gap.model_dump() for gap in record.gaps[same:]]  # only what is new: there may be many
        values = asdict(replace(record, gaps=[])) | {"gaps": gaps, "gaps_before": same}
        self._append(self._file, json.dumps(values).encode() + b"\n")
        self._records[record.key] = record
        self._last = record.key

    def _append(self, file: io.FileIO, line: bytes) -> None:
        size = file.seek(0, io.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(size)  # half a line would spoil the next one
            raise EmitterError(
                f"a backfill into {self._sink} keeps its progress in {self.path}, which cannot be written: "
                f"{error.strerror}. Mend that; the same backfill then goes on"
            ) from error

    def _read(self, file: io.FileIO) -> None:
        file.seek(0)
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(end)  # cut off by a kill
                break
            end += len(line)
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # of another version: as if none
                self._take(json.loads(line))

    def _take(self, values: dict[str, Any]) -> None:
        gaps, before = [Gap(**gap) for gap in values.pop("gaps")], values.pop("gaps_before")
        record = JournalRecord(**values)
        if not isinstance(record.position, int) or not isinstance(record.key, str):
            raise TypeError("no record")
        known = self._records.get(record.key)
        self._records[record.key] = replace(record, gaps=[*(known.gaps[:before] if known is not None else ()), *gaps])
        self._last = record.key


def digest(text: str) -> str:
    """A short name for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
