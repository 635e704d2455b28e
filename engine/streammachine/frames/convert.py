"""Stream replies to DataFrames, and old rows out of them."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from streammachine.frames.arrow import HAS_NATIVE, Columns, arrow_dtype, arrow_text, integers, repeated
from streammachine.frames.replies import MAX_INT64, named, parts_of, position_of, streams_of, text
from streammachine.frames.times import milliseconds_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Cells = NDArray[np.object_]

_SEQUENCE = "sequence"


def streams_to_dataframe(
    streams: Any,
    stream_name_column: str = "stream",
    id_column: str = "id",
    timestamp_column: str = "timestamp_ms",
    include_sequence: bool = False,
) -> pd.DataFrame:
    """The reply of XREAD or XREADGROUP as a frame with one row per entry.

    ``streams`` is the reply as coredis, redis-py or a raw connection gives it (bytes or str, RESP2 or RESP3). None and
    an empty reply give an empty frame with the columns below. For XRANGE, whose reply has no stream name, give
    ``{name: reply}``. Deleted entries have no fields and are left out.

    Columns, in this order; rows stand in the reply's order with the index 0, 1, 2, ...:

    - ``stream_name_column``, ``id_column``: text;
    - ``timestamp_column``: the milliseconds since the epoch in the id, int64;
    - ``sequence`` with ``include_sequence``: the number behind the id's dash, int64;
    - one column per field, in order of first appearance. Values stay text, since nothing tells a price from an order
      number: ``df["price"].astype(float)`` where they are numbers. A value that is not UTF-8 stays bytes. An entry
      without the field has NaN.

    Text columns have the installed pandas' dtype for text (``str`` in pandas 3, ``object`` in pandas 2), and ``object``
    where bytes are among the values.

    A field with the name of one of the columns above is kept beside it as ``<name>_field``: a field ``id`` stands in
    ``id_field``. Where the entries have a field of that name too, ``_field`` is added until the name is free.

    Raises ValueError for two columns of one name, a reply of another shape, or an id that is none; TypeError for what
    is no reply at all.
    """
    import numpy as np

    own = own_columns(stream_name_column, id_column, timestamp_column, include_sequence)
    names, ids, times, sequences = [], [], [], []
    rows: list[dict[Any, Any]] = []
    for name, entries in streams_of(streams):
        for entry in entries:
            entry_id, fields = parts_of(entry)
            if fields is None:
                continue
            entry_id = text(entry_id)
            milliseconds, sequence = position_of(entry_id)
            names.append(text(name))
            ids.append(entry_id)
            times.append(milliseconds)
            sequences.append(sequence)
            rows.append(named(fields))
    labels = dict.fromkeys(label for row in rows for label in row)
    return frame_of(
        own,
        [cells_of(names), cells_of(ids), np.array(times, dtype=np.int64), np.array(sequences, dtype=np.int64)],
        {label: cells_of([row.get(label, math.nan) for row in rows]) for label in labels},
    )


def streams_to_dataframe_fast(
    streams: Any,
    stream_name_column: str = "stream",
    id_column: str = "id",
    timestamp_column: str = "timestamp_ms",
    include_sequence: bool = False,
) -> pd.DataFrame:
    """The same frame as ``streams_to_dataframe``, with the same arguments and errors, several times as fast.

    With pyarrow installed and text in Arrow's layout (pandas 3), one native pass copies plain replies straight into
    the columns. Otherwise, and for what is unusual, it builds column by column: entries with the same fields are taken
    apart together, so the work per cell is one look-up and one decoding in C. Best where entries have the same fields,
    as a stream's usually do; right in any case.
    """
    own = own_columns(stream_name_column, id_column, timestamp_column, include_sequence)
    held = streams_of(streams)
    frame = _native_frame(own, held) if HAS_NATIVE else None
    if frame is not None:
        return frame
    names, counts, ids, rows = [], [], [], []
    for name, entries in held:
        if not _are_entries(entries):
            # Nulls among them, or nonsense: the other function leaves out the one and refuses the other.
            return streams_to_dataframe(streams, stream_name_column, id_column, timestamp_column, include_sequence)
        fields = [entry[1] for entry in entries]
        if all(fields):
            ids += [entry[0] for entry in entries]
        else:
            ids += [entry[0] for entry in entries if entry[1]]
            fields = [pairs for pairs in fields if pairs]
        names.append(text(name))
        counts.append(len(fields))
        rows += fields
    ids = texts_of(ids)
    positions = _positions(ids) if rows else None
    if positions is None:
        return streams_to_dataframe(streams, stream_name_column, id_column, timestamp_column, include_sequence)
    return frame_of(own, [cells_of(names).repeat(counts), cells_of(ids), *positions], fields_of(rows))


def prune_old_dataframe_rows(
    df: pd.DataFrame,
    cutoff_seconds: float,
    timestamp_column: str = "timestamp_ms",
    current_time: float | None = None,
    *,
    missing: Literal["keep", "drop"] = "keep",
) -> pd.DataFrame:
    """A new frame without the rows older than ``cutoff_seconds``; the given one is not changed.

    A row stays while ``timestamp >= current_time - cutoff_seconds``; rows keep their order and index labels.
    ``timestamp_column`` holds milliseconds since the epoch (numbers, or text of numbers), datetimes of any unit, dates
    or ISO 8601 text (without a zone: UTC), or periods (they count from their start). ``current_time`` is in seconds
    since the epoch, as ``time.time()``, which is the default.

    Rows without a timestamp (missing or infinite) are kept: pruning removes what is known to be old, and their age is
    not known. ``missing="drop"`` removes them too, for frames that would otherwise collect them; ``TimeSeriesBuffer``
    counts their age from their arrival.

    Raises ValueError for a frame without the column (it names those it has; a frame without any rows and columns has
    nothing to prune and is fine), for timestamps that are not numbers, and for a cutoff or time that is none.
    """
    import numpy as np

    if missing not in ("keep", "drop"):
        raise ValueError(f"missing is {missing!r}; give 'keep' or 'drop'")
    if not isinstance(cutoff_seconds, int | float) or not cutoff_seconds >= 0:
        raise ValueError(f"cutoff_seconds is {cutoff_seconds!r}; give the age in seconds, 0 or more")
    if df.shape == (0, 0):
        return df.copy()
    times = milliseconds_of(df, timestamp_column)
    cutoff = cutoff_ms(cutoff_seconds, current_time)
    kept = times >= cutoff
    if missing == "keep":
        kept |= np.isnan(times)
    return df[kept].copy()


def cutoff_ms(age_seconds: float, current_time: float | None = None) -> float:
    """The epoch milliseconds at which something is ``age_seconds`` old. Raises ValueError for a time that is none."""
    now = time.time() if current_time is None else current_time
    # 10^11 seconds are the year 5138; 10^11 milliseconds were in 1973.
    if not abs(now) < 1e11:
        raise ValueError(f"the current time is {now}; give seconds since the epoch, such as time.time()")
    # To the microsecond, about a float's precision here: a row exactly on the border must not fall to rounding.
    return round((now - age_seconds) * 1000, 3)


# --- putting the frame together ----------------------------------------------------------------------------------


def own_columns(stream: str, entry_id: str, timestamp: str, include_sequence: bool) -> list[str]:
    """Our own columns, in order. Raises ValueError where two would have one name."""
    own = [stream, entry_id, timestamp] + [_SEQUENCE] * include_sequence
    if len(set(own)) < len(own):
        raise ValueError(f"two columns would have one name: {', '.join(map(repr, own))}. Give each its own.")
    return own


def frame_of(own: list[str], values: list[Any], fields: Mapping[Any, Any], *, copy: bool | None = None) -> pd.DataFrame:
    """Our own columns, then the fields' beside them, under free names."""
    import pandas as pd

    columns: dict[Any, Any] = dict(zip(own, values, strict=False))
    if values and not len(values[0]):
        # An empty column has nothing to infer the text dtype from.
        columns |= {label: pd.Series([""])[:0] for label in own if columns[label].dtype == object}
    taken = {*own, *fields}
    for label, cells in fields.items():
        free = label
        if label in own:
            while free in taken:
                free = f"{free}_field"
            taken.add(free)
        columns[free] = cells
    return pd.DataFrame(columns, copy=copy)


def cells_of(values: list[Any]) -> Cells:
    """The values as an array of objects: what pandas then makes of it is text or object, never a guessed number."""
    import numpy as np

    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


# --- the fast road -----------------------------------------------------------------------------------------------


def _native_frame(own: list[str], streams: list[tuple[Any, Sequence[Any]]]) -> pd.DataFrame | None:
    """The frame from one native pass; None for what is unusual, where there are no entries, and where text is not kept
    in Arrow's layout."""
    dtype = arrow_dtype()
    if dtype is None or not all(isinstance(text(name), str) for name, _ in streams):
        return None
    columns, counted = Columns(), []
    for name, entries in streams:
        before = columns.rows
        if not columns.take_entries(entries):
            return None
        counted.append((text(name), columns.rows - before))
    if not columns.rows:
        return None
    fields = {name: arrow_text(dtype, column) for name, column in columns.finish().items()}
    positions = [integers(columns.milliseconds), integers(columns.sequences)]
    try:
        names = repeated(dtype, counted)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return frame_of(own, [names, arrow_text(dtype, columns.ids), *positions], fields, copy=False)


def _are_entries(entries: Sequence[Any]) -> bool:
    """Whether each is (id, fields), or longer where the client adds to them."""
    kinds = set(map(type, entries))
    return all(issubclass(kind, list | tuple) for kind in kinds) and min(map(len, entries), default=2) >= 2


def fields_of(rows: list[Any]) -> dict[Any, Cells]:
    """The fields of all entries, column by column, in order of first appearance."""
    kinds = set(map(type, rows))
    if kinds <= {list, tuple}:
        columns = _flat_columns(rows)
        if columns is not None:
            return columns
    if not kinds <= {dict, OrderedDict}:
        rows = [row if type(row) in (dict, OrderedDict) else named(row) for row in rows]
    columns = _same_columns(rows)
    return _mixed_columns(rows) if columns is None else columns


def _flat_columns(rows: list[Any]) -> dict[Any, Cells] | None:
    """Columns of flat [name, value, ...] lists with the same names in the same order; None where they differ."""
    width = len(rows[0])
    if width % 2 or set(map(len, rows)) != {width}:
        return None
    cells = list(chain.from_iterable(rows))
    columns: dict[Any, Cells] = {}
    for at in range(0, width, 2):
        names = cells[at::width]
        label = text(names[0])
        if names.count(names[0]) < len(names) or label in columns:
            return None
        columns[label] = cells_of(texts_of(cells[at + 1 :: width]))
    return columns


def _same_columns(rows: list[Any]) -> dict[Any, Cells] | None:
    """Columns of dicts with the same names; None where they differ."""
    names = list(rows[0])
    # Every name in every dict, and no room for another.
    if sum(map(len, rows)) != len(names) * len(rows):
        return None
    try:
        return {text(name): cells_of(texts_of(list(map(itemgetter(name), rows)))) for name in names}
    except KeyError:
        return None


def _mixed_columns(rows: list[Any]) -> dict[Any, Cells]:
    """Columns of dicts with different names: those with the same are taken apart together."""
    import numpy as np

    shapes: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        shapes.setdefault(tuple(row), []).append(at)
    columns: dict[Any, Cells] = {}
    for names, places in shapes.items():
        alike = [rows[at] for at in places]
        for name in names:
            label = text(name)
            if label not in columns:
                columns[label] = np.full(len(rows), math.nan, dtype=object)
            columns[label][places] = cells_of(texts_of(list(map(itemgetter(name), alike))))
    return columns


def texts_of(values: list[Any]) -> list[Any]:
    """All values as text, as ``text`` does it."""
    if set(map(type, values)) == {str}:
        return values
    try:
        return list(map(_DECODE, values))
    except (TypeError, UnicodeDecodeError):
        return list(map(text, values))


_DECODE: Callable[[bytes], str] = bytes.decode


def _positions(ids: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Milliseconds and sequence numbers of ids; None where one of them is not plainly "digits-digits"."""
    import numpy as np

    try:
        joined = " ".join(ids).encode("ascii")
    except (TypeError, UnicodeEncodeError):
        return None
    # What is left without the digits shows that each id has one dash and nothing else.
    if joined.translate(None, b"0123456789") != b" ".join([b"-"] * len(ids)):
        return None
    numbers = np.fromstring(joined.replace(b"-", b" ").decode(), dtype=np.uint64, sep=" ")
    if len(numbers) != 2 * len(ids) or numbers.max() > MAX_INT64:
        return None
    signed = numbers.astype(np.int64)
    return signed[::2], signed[1::2]
