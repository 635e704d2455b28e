"""The last minutes of a series of rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from streammachine.frames.convert import cutoff_ms
from streammachine.frames.times import milliseconds_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

# Below this many rows the frames are not put together before somebody asks: pandas takes about as long for one row.
_FEW_ROWS = 1024


class TimeSeriesBuffer:
    """Rows of the last ``max_age_seconds``, at most ``max_rows`` of them: the newest by timestamp.

    ::

        recent = TimeSeriesBuffer(max_age_seconds=300)
        recent.append(streams_to_dataframe(reply))
        frame = recent.get()

    ``timestamp_column`` holds milliseconds since the epoch (numbers, or text of numbers), datetimes of any unit, dates
    or ISO 8601 text (without a zone: UTC), or periods (they count from their start). Age is measured from the wall
    clock at the moment of the question, so a buffer that nothing is appended to grows empty. Rows keep the order they
    were appended in, which need not be the order of time; of rows with one timestamp the later appended are the newer.
    A row without a timestamp cannot be dated: its age counts from its arrival, so it is neither lost nor kept for ever.

    Appending is cheap: frames are collected and put together when somebody asks, or when they outnumber what is held.
    So up to twice the rows that ``get`` gives stay in memory (and no fewer than about a thousand).

    ``now`` gives the current time in seconds since the epoch. One thread at a time; nothing here waits.
    """

    def __init__(
        self,
        max_age_seconds: float,
        timestamp_column: str = "timestamp_ms",
        max_rows: int | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError for an age that is not above 0 (infinite is allowed) or ``max_rows`` below 1."""
        if not isinstance(max_age_seconds, int | float) or not max_age_seconds > 0:
            raise ValueError(f"max_age_seconds is {max_age_seconds!r}; give an age above 0, in seconds")
        if max_rows is not None and (not isinstance(max_rows, int) or isinstance(max_rows, bool) or max_rows < 1):
            raise ValueError(f"max_rows is {max_rows!r}; give a number of rows from 1, or None for no limit")
        self._max_age = max_age_seconds
        self._column = timestamp_column
        self._max_rows = max_rows
        self._now = now
        self._frames: list[pd.DataFrame] = []  # the first holds the settled rows, the others came since
        self._times = _Times()
        self._settled = 0

    def append(self, df: pd.DataFrame) -> None:
        """Adds the frame's rows; they are copied. A frame without rows adds nothing.

        Raises ValueError, and adds nothing, for a frame without the timestamp column or with times that are not
        numbers.
        """
        import numpy as np

        if df.shape == (0, 0):
            return
        own = milliseconds_of(df, self._column)
        age_from = np.where(np.isnan(own), self._now() * 1000, own)
        if not len(own):
            # Its columns are worth knowing for an empty answer.
            self._frames = self._frames or [df.copy()]
            return
        self._frames.append(df.reset_index(drop=True))
        self._times.append(own, age_from)
        if self._times.count > 2 * self._settled + _FEW_ROWS:
            self._settle()

    def get(self) -> pd.DataFrame:
        """A copy of the rows held now, indexed 0, 1, 2, ...; where there are none, empty with the columns seen last."""
        import numpy as np
        import pandas as pd

        self._settle()
        if not self._frames:
            return pd.DataFrame({self._column: np.empty(0, dtype=np.int64)})
        return self._frames[0].copy()

    def clear(self) -> None:
        """Forgets all rows."""
        self._frames = []
        self._times = _Times()
        self._settled = 0

    def __len__(self) -> int:
        """How many rows ``get`` would give."""
        alive = int((self._times.age_from >= self._cutoff()).sum()) if self._times.count else 0
        return alive if self._max_rows is None else min(alive, self._max_rows)

    @property
    def last_timestamp(self) -> int | float | None:
        """The newest timestamp held, in epoch milliseconds (an int where it is whole); None without any."""
        if self._max_rows is not None and self._times.undated:
            # Rows that count from their arrival may have pushed out those with a timestamp.
            self._settle()
        if not self._times.count:
            return None
        own = self._times.own
        # A row whose own timestamp is NaN is no candidate: the comparison is False.
        held = own[own >= self._cutoff()]
        if not len(held):
            return None
        newest = float(held.max())
        return int(newest) if newest.is_integer() else newest

    def _cutoff(self) -> float:
        return cutoff_ms(self._max_age, self._now())

    def _settle(self) -> None:
        """Puts all rows into one frame, without the old ones and those beyond ``max_rows``."""
        import numpy as np

        times = self._times
        if not times.count:
            return
        # pandas takes the dtypes of empty frames into account; they have nothing to say beside rows.
        full = [frame for frame in self._frames if len(frame)]
        together = full[0] if len(full) == 1 else _together(full)
        kept = np.flatnonzero(times.age_from >= self._cutoff())
        if self._max_rows is not None and len(kept) > self._max_rows:
            newest = np.argsort(times.age_from[kept], kind="stable")[-self._max_rows :]
            kept = kept[np.sort(newest)]
        if len(kept) < len(together):
            together = together.iloc[kept].reset_index(drop=True)
            self._times = _Times()
            self._times.append(times.own[kept], times.age_from[kept])
        self._frames = [together]
        self._settled = len(together)


def _together(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One frame of all rows."""
    import pandas as pd

    try:
        return pd.concat(frames, ignore_index=True)
    except pd.errors.OutOfBoundsDatetime:
        # Datetimes of two units become nanoseconds, which end in 2262. As objects they stay what they are.
        is_datetime = pd.api.types.is_datetime64_any_dtype
        apart = [
            frame.astype({name: object for name, dtype in frame.dtypes.items() if is_datetime(dtype)})
            for frame in frames
        ]
        return pd.concat(apart, ignore_index=True)


class _Times:
    """The timestamps of all rows in arrays that double, so that a question is one pass in C and not one per frame."""

    def __init__(self) -> None:
        self.count = 0
        self.undated = False
        """Whether a row has no timestamp of its own."""
        self._rows: NDArray[np.float64] | None = None

    @property
    def own(self) -> NDArray[np.float64]:
        """Epoch milliseconds; NaN where a row has none."""
        assert self._rows is not None
        return self._rows[0, : self.count]

    @property
    def age_from(self) -> NDArray[np.float64]:
        """The times that the rows' ages count from, in epoch milliseconds."""
        assert self._rows is not None
        return self._rows[1, : self.count]

    def append(self, own: NDArray[np.float64], age_from: NDArray[np.float64]) -> None:
        import numpy as np

        end = self.count + len(own)
        if self._rows is None:
            self._rows = np.empty((2, max(64, end)))
        elif end > self._rows.shape[1]:
            larger = np.empty((2, 2 * end))
            larger[:, : self.count] = self._rows[:, : self.count]
            self._rows = larger
        self._rows[0, self.count : end] = own
        self._rows[1, self.count : end] = age_from
        self.count = end
        self.undated = self.undated or bool(np.isnan(own).any())
