"""What an emitter is: a subclass of DataEmitter, or any object with connect(), emit(row) and close().

A runner (or a backfill) owns its emitters and drives each through an ``Outlet`` of its own: connected before the first
row, rows in order, in batches where it can take them, flushed, and closed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, overload

from streammachine.errors import EmitterError, TransformError
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Lane, Row, named

Transformer = Callable[[dict[str, Any]], Mapping[str, Any] | None]


class RowsRefusedError(EmitterError):
    """Raised by ``emit_batch``: some rows will never be taken; all the others were.

    Attributes:
        refused: why, by the row's place in the batch.
    """

    def __init__(self, refused: Mapping[int, Exception]) -> None:
        first = next(iter(refused.values()))
        super().__init__(f"{len(refused)} rows were refused; the first: {first}")
        self.refused = dict(refused)


class DataEmitter:
    """Base of all emitters of ours, and of a user's own.

    Override ``emit`` (or ``emit_batch``, which the runner calls and which by default emits one by one), and
    ``connect``, ``flush`` and ``close`` where there is something to do. Any of them may be plain or async.

    A row is a Kline (or Trade, or Gap); where a transformer is set, ``emit`` gets what it returned, a dict.

    An emitter may also have ``emit_columns(columns: KlineColumns)``, which takes closed candles of one series at once,
    as ``emit_batch`` would take their rows; where it raises EmitterError they come again as rows. It is not called
    where a transformer is set, ``takes_columns`` is False, or a subclass overrides what takes rows and not this;
    ``wants`` is asked for the first candle only.

    Errors: raise ``EmitterUnavailableError`` (or any ConnectionError, TimeoutError) for what may pass: the same rows
    come again, in order, until they are taken. Raise ``EmitterError`` for a row that will never be taken: it is logged,
    counted and left out, the others go on.
    """

    name = ""
    transformer: Transformer | None = None
    batch_size = 1_000  # most rows of one emit_batch
    columns_size = 50_000  # most rows of one emit_columns
    taken = 0  # rows ever, where the emitter counts them for ``settled``
    _made: dict[int, Any] | None = None  # what the outlet had transformed of the batch under way, by id(row)
    _sharing: Any = None  # the outlets that have it open

    @overload
    def set_transformer(self, transformer: Transformer | None, inplace: Literal[True]) -> None: ...
    @overload
    def set_transformer(self, transformer: Transformer | None, inplace: Literal[False] = False) -> Self: ...
    def set_transformer(self, transformer: Transformer | None, inplace: bool = False) -> Self | None:
        """Change every row before it is emitted: a dict in, a dict out, None drops the row.

        Gives the emitter, for chaining; with ``inplace`` None. The emitter itself is changed in both cases.

        Raises:
            EmitterError: the transformer is no function.
        """
        if transformer is not None and not callable(transformer):
            raise EmitterError(f"transformer={transformer!r} is no function: give one of a dict that returns a dict")
        self.transformer = transformer
        return None if inplace else self

    def wants(self, row: Row) -> bool:
        """Whether the row is for this emitter at all; others are left out before the transformer sees them."""
        return True

    @property
    def takes_columns(self) -> bool:
        """Whether ``emit_columns``, if there is one, may be called as it is set up now."""
        return True

    async def connect(self) -> None:
        """Open what is needed; called once before the first row. Raises EmitterError when it can never work."""

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Told after ``connect`` what is going to come. Raises EmitterError when rows of it can never be taken."""

    def resuming(self) -> None:
        """Told before ``connect`` that the first rows may be among those that it took in an earlier process."""

    def settled(self, taken: int) -> bool:
        """Whether a kill loses none of the first ``taken`` rows."""
        return True

    async def emit(self, row: Any) -> None:
        """Take one row."""
        raise NotImplementedError(f"{type(self).__name__} has neither emit nor emit_batch")

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Take rows, in order; they are not transformed yet: ``self.transformed(row)`` does that.

        All or none of them, or so that the same rows again do no harm: after a failure they come again. A
        ``RowsRefusedError`` says that all but the rows it names were taken.
        """
        for row in rows:
            value = self.transformed(row)
            if value is not None:
                await self.emit(value)

    async def flush(self) -> None:
        """See to it that what was taken is where it belongs."""

    async def close(self) -> None:
        """Give everything back; called once, also after an error."""

    def transformed(self, row: Row) -> Any:
        """What is to be emitted for a row: the row itself, the transformer's dict, or None (dropped).

        The transformer runs once for a row, however often its batch is tried.

        Raises:
            TransformError: the transformer failed, or gave something else; the text names the row.
        """
        if self.transformer is None:
            return row
        if self._made is not None and id(row) in self._made:
            return self._made[id(row)]
        values = row.model_dump()
        try:
            made = self.transformer(values)
        except Exception as error:
            raise TransformError(f"the transformer failed on {named(row)}: {type(error).__name__}: {error}") from error
        if made is not None and not isinstance(made, Mapping):
            raise TransformError(
                f"the transformer gave {type(made).__name__} for {named(row)}: return a dict, or None to drop the row"
            )
        return made


def values_of(row: Any) -> Mapping[str, Any]:
    """A row's fields by name: a mapping is taken as it is. Do not change it."""
    if type(row) in (Kline, Trade, Quote):  # isinstance is slow on a pydantic class when it is False
        own: dict[str, Any] = vars(row)
        return own
    other: Mapping[str, Any] = row.model_dump() if hasattr(row, "model_dump") else row
    return other


def extra_missing(extra: str, error: ImportError) -> EmitterError:
    """The error for a library that an optional part of the package brings."""
    return EmitterError(f'{error.name} is not installed: pip install "streammachine-mcp[{extra}]"')
