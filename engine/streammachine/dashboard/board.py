"""What the views look at: the connection, the App where one serves them, and what is looked up for all at once."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from streammachine.errors import StreamMachineError
from streammachine.redis import streams
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import encode_command

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

T = TypeVar("T")

PAGE = 50  # rows of a table that go out at once
MOST_CHARS = 300  # of a value in a table
MOST_LOOKS = 64  # different questions whose answers are kept for other pages
WANTED = 15.0  # seconds after a view asked in which what it asked for is kept up to date
SHARE = 200  # looking at everything may take a two-hundredth of the time
CHUNK = 100  # streams asked about at once; the loop is free between two chunks
PACE = 100  # a pause between two chunks: so many times what the last one took, and not longer than LONGEST_PAUSE
LONGEST_REST = 40.0  # seconds between two walks: by the clock they take long where the loop is busy
LONGEST_PAUSE = 0.1  # seconds; where the loop is busy, a chunk takes long without costing much


class Dashboard:
    """The one object that every view is given.

    Args:
        connect: gives the connection; called by the first view that needs it. interval: seconds between two looks.
        read_only: refuse every action.

    Attributes:
        closing: set when the server ends, so that open streams of events do.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[RedisConnection]], interval: float, *, read_only: bool = False
    ) -> None:
        self.interval = interval
        self.read_only = read_only
        self.closing = anyio.Event()
        self.names = Index(self)
        self.survey = Survey(self)
        self.rates: dict[str, tuple[float, int, float | None]] = {}
        self.watchers = 0
        self.looks: dict[Any, Look] = {}
        self._kept: dict[str, tuple[float, Any]] = {}
        self._connect = connect
        self._changed = anyio.Event()

    async def connection(self) -> RedisConnection:
        """The connection to Redis."""
        return await self._connect()

    async def kept(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        """What ``make`` gives, made anew when that was long ago for the time that it takes."""
        due, found = self._kept.get(name, (0.0, None))
        while len(self._kept) > MOST_LOOKS:
            self._kept.pop(next(iter(self._kept)))
        if time.monotonic() >= due:
            began = time.monotonic()
            found = await make()
            took = time.monotonic() - began
            self._kept[name] = (time.monotonic() + max(0.9 * self.interval, SHARE * took), found)
        made: T = found
        return made

    def touch(self) -> None:
        """Have every view look again now."""
        self._kept.clear()
        self.looks.clear()
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def changed(self) -> anyio.Event:
        """Is set by the next action: take it before a look, so that an action during the look is not missed."""
        return self._changed

    async def wait(self, changed: anyio.Event) -> None:
        """Wait until it is time to look again; not longer than the interval."""
        with anyio.move_on_after(self.interval):
            await changed.wait()

    def close(self) -> None:
        """End all streams of events."""
        self.closing.set()
        self.touch()

    async def look(self, question: Any, make: Callable[[], Awaitable[str]]) -> str:
        """What ``make`` gives, once for all pages that ask the same question within an interval.

        Args:
            question: what makes two looks the same. make: looks; must not raise.
        """
        look = self.looks.get(question)
        if look is None:
            while len(self.looks) >= MOST_LOOKS:
                self.looks.pop(next(iter(self.looks)))
            look = self.looks[question] = Look()
        async with look.lock:
            if time.monotonic() >= look.due:
                began = time.monotonic()
                look.text = await make()
                look.due = began + 0.9 * self.interval
            return look.text

    async def run(self) -> None:
        """Keep the survey up to date while anybody looks at it; until cancelled."""
        while True:
            await self.survey.wanted()
            try:
                await self.survey.look()
            except StreamMachineError:
                await anyio.sleep(2)  # the views themselves say what is wrong
            await anyio.sleep(max(self.interval, min(SHARE * self.survey.took, LONGEST_REST)))

    def rate(self, stream: str, added: int | None) -> float | None:
        """Entries a second since the last look at a stream; None: it is the first."""
        if added is None:
            return None
        now = time.monotonic()
        before = self.rates.get(stream)
        if before is not None and now - before[0] < 0.9 * min(self.interval, 1.0):
            return before[2]
        rate = None if before is None or now - before[0] > 60 else max(0, added - before[1]) / (now - before[0])
        if before is None and len(self.rates) >= 5000:
            self.rates.pop(next(iter(self.rates)))
        self.rates[stream] = (now, added, rate)
        return rate


class Look:
    """A view as it goes out, and until when it may be given to another page."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.text = ""
        self.due = 0.0


class Index:
    """The names of all streams, walked through with SCAN, and again when that was long ago."""

    def __init__(self, board: Dashboard) -> None:
        self._board = board
        self._lock = anyio.Lock()
        self._names: list[str] = []
        self._others: list[str] = []  # without StreamMachine's own
        self._due = 0.0

    async def get(self, own: bool = False) -> list[str]:
        """The streams' names, sorted; ``own``: StreamMachine's own too (dead letters, retries)."""
        if time.monotonic() >= self._due and not (self._names and self._lock.locked()):
            async with self._lock:
                if time.monotonic() >= self._due:
                    began = time.monotonic()
                    self._names, _ = await streams.find_streams(await self._board.connection(), own=True)
                    took = time.monotonic() - began
                    self._others = [name for name in self._names if not streams.is_own(name)]
                    self._due = time.monotonic() + max(0.9 * self._board.interval, SHARE * took)
        return self._names if own else self._others

    def forget(self) -> None:
        """Walk again at the next question."""
        self._due = 0.0


class Survey:
    """The groups of all streams, looked at one after another, so that the furthest behind can stand first.

    Attributes:
        found: lag (NaN: unknown) and pending, by stream and group. took: seconds that the last walk was at work.
        seen, total: streams that this walk has looked at, and all.
    """

    def __init__(self, board: Dashboard) -> None:
        self._board = board
        self._asked = 0.0
        self._ask = anyio.Event()
        self._first = anyio.Event()
        self._order: list[tuple[str, str]] = []
        self.found: dict[tuple[str, str], tuple[float, int]] = {}
        self.seen, self.total, self.took = 0, 0, 0.0

    async def wanted(self) -> None:
        """Wait until a view wants it."""
        while time.monotonic() - self._asked > WANTED:
            self._ask = anyio.Event()
            await self._ask.wait()

    async def behind(self) -> Sequence[tuple[str, str]]:
        """The groups by what was found last, the furthest behind first; the first time, those of half a second."""
        self._asked = time.monotonic()
        self._ask.set()
        with anyio.move_on_after(0.5):
            await self._first.wait()
        if len(self._order) != len(self.found):  # the first walk is under way
            self._sort()
        return self._order

    @property
    def note(self) -> str:
        """How far the first walk is; empty when there was one."""
        begun = not self._first.is_set() and self.total
        return f"looked at {self.seen:,} of {self.total:,} streams so far" if begun else ""

    async def look(self) -> None:
        """Go through all streams once, with pauses, so that whatever else the loop does hardly notices."""
        names = await self._board.names.get()
        connection = await self._board.connection()
        self.total, self.took, found = len(names), 0.0, {}
        for start in range(0, len(names), CHUNK):
            began = time.monotonic()
            chunk = names[start : start + CHUNK]
            replies = await ask(connection, [("XINFO", "GROUPS", name) for name in chunk])
            for name, reply in zip(chunk, replies, strict=True):
                for facts in map(streams.pairs, reply or ()):
                    lag = facts.get("lag")
                    known = float(lag) if isinstance(lag, int) else math.nan
                    found[name, text(facts["name"])] = (known, int(facts["pending"]))
            self.seen = start + len(chunk)
            if not self._first.is_set():
                self.found = found
            self.took += await rest(began)
        self.found = found
        self._sort()
        self._first.set()

    def _sort(self) -> None:
        self._order = sorted(self.found, key=lambda place: (-_behind(self.found[place]), place))


def _behind(found: tuple[float, int]) -> float:
    return (0.0 if math.isnan(found[0]) else found[0]) + found[1]


async def rest(began: float) -> float:
    """Leave the loop to others after a piece of work that began then; gives the seconds that it took."""
    took = time.monotonic() - began
    await anyio.sleep(min(PACE * took, LONGEST_PAUSE))
    return took


async def ask(connection: RedisConnection, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    """The replies to commands that change nothing and begin with their key; None where one was refused."""
    if not commands:
        return []
    if connection.is_cluster:
        return [await _one(connection, command) for command in commands]
    payload = b"".join(encode_command(list(command)) for command in commands)
    replies = await connection.exchange(payload, len(commands), repeatable=True)
    return [None if isinstance(reply, RespError) else reply for reply in replies]


async def _one(connection: RedisConnection, command: tuple[str | int, ...]) -> Any:
    from streammachine.errors import RedisUnavailableError

    try:
        return await connection.command(*command, repeatable=True)
    except RedisUnavailableError:
        raise
    except StreamMachineError:
        return None


def text(value: Any) -> str:
    """A reply as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def cut(value: Any, most: int = MOST_CHARS) -> str:
    """A value as a text of bounded length."""
    whole = text(value)
    return whole if len(whole) <= most else f"{whole[:most]}…"


def number(value: Any) -> float | int | None:
    """A finite number, or None: what others wrote into Redis may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if (isinstance(value, int) and abs(value) < 2**53) or math.isfinite(value) else None


def page_of(query: dict[str, str], total: int) -> tuple[int, int]:
    """The first row and the one behind the last, of the page that is asked for."""
    asked = query.get("page", "0")
    last = max(0, (total - 1) // PAGE)
    page = min(int(asked), last) if asked.isdigit() and len(asked) < 7 else 0
    return page * PAGE, min(total, (page + 1) * PAGE)


def matching(names: Sequence[str], query: dict[str, str]) -> list[str]:
    """The names that hold what is looked for, in any case."""
    wanted = query.get("q", "").lower()
    return [name for name in names if wanted in name.lower()] if wanted else list(names)
