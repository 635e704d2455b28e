"""What every sink must do, as numbered cases over the registry's entries.

A sink that stands in the registry is in here; it needs a place for its rows in tests/support/sinks.py, and nothing in
this file. docs/contributing/sink.md lists the cases, from their docstrings.
"""

from __future__ import annotations

import inspect
import sys
import tomllib
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import streammachine as sf
from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.outlet import Outlet, check_emitter
from streammachine.market.emitters.registry import BY_WORD, ENTRIES, SinkEntry, accepted_text, forms_text
from streammachine.market.emitters.sink_text import emitter_for, emitters_for, module_of, shown
from streammachine_mcp.hosting import sinks as hosting
from support.rows import candles, columns_of
from support.sinks import PLACES, Place

pytestmark = pytest.mark.anyio
EACH = pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
HOSTED = pytest.mark.parametrize("entry", [entry for entry in ENTRIES.values() if entry.hosting], ids=lambda e: e.name)
WAIT = 60.0
PROJECT = Path(__file__).parents[4] / "pyproject.toml"


@pytest.fixture
def place(entry: SinkEntry, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """Where the rows of this test go."""
    return PLACES[entry.name](tmp_path, request.getfixturevalue)


async def there(place: Place) -> list[int]:
    """What stands there, in the order of time."""
    assert place.read is not None
    return sorted(await anyio.to_thread.run_sync(place.read))


# -- names and texts --------------------------------------------------------------------------


@EACH
def test_s01_the_class_is_that_of_the_entry_and_public(entry: SinkEntry, place: Place) -> None:
    """The text form means the class that the entry names, which is public and has a name for messages."""
    emitter = emitter_for(place.text)
    assert type(emitter) is getattr(sf, entry.emitter)
    assert isinstance(emitter, DataEmitter)
    assert emitter.name
    assert emitter.batch_size >= 1
    check_emitter(emitter)


@EACH
def test_s02_the_words_are_its_own(entry: SinkEntry) -> None:
    """Its words mean it alone, in any case; each form begins with one of them and stands in the help and in errors."""
    for word in (entry.name, *entry.words):
        assert BY_WORD[word] is entry
        assert [other.name for other in ENTRIES.values() if word in (other.name, *other.words)] == [entry.name]
    for form in entry.forms:
        assert form.partition(":")[0] == entry.name
        assert form in forms_text()
        assert form in accepted_text()


@EACH
def test_s03_a_text_that_lacks_a_part_is_refused_with_the_form(entry: SinkEntry) -> None:
    """A text that lacks what has to follow, or has what may not, is an EmitterError that shows what is accepted."""
    wrong = {"needed": (entry.name, f"{entry.name}:", f" {entry.name.upper()}: "), "none": (f"{entry.name}:x",)}
    for text in wrong.get(entry.rest, ()):
        with pytest.raises(EmitterError, match=entry.forms[0].split(":")[0]):
            emitter_for(text)


@EACH
def test_s04_no_password_is_shown(entry: SinkEntry) -> None:
    """Where the text may hold a password, nothing that is shown of it does."""
    if not entry.may_hold_password:
        return
    for word in (entry.name, *entry.words):
        for text in (f"{word}://me:hunter2@host:1/x", f"{word}:me:hunter2@host", f"{word}:x://h/x?password=hunter2"):
            assert "hunter2" not in shown(text)
            try:
                emitter = emitter_for(text)
            except EmitterError as error:
                assert "hunter2" not in str(error)
            else:
                assert "hunter2" not in str(getattr(emitter, "target", ""))


@EACH
def test_s05_one_place_is_named_once(entry: SinkEntry, place: Place) -> None:
    """The same place twice would get every row twice: it is refused."""
    with pytest.raises(EmitterError, match="given twice"):
        emitters_for([place.text, place.text])


@EACH
def test_s06_without_its_extra_it_says_what_to_install(
    entry: SinkEntry, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that the entry names is one of the package; without it the sink says what to install."""
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    assert bool(entry.extra) == bool(place.library)
    if not entry.extra:
        return
    assert extras[entry.extra]
    for module in [name for name in sys.modules if name == place.library or name.startswith(f"{place.library}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, place.library, None)

    async def start() -> None:
        await emitter_for(place.text).connect()

    with pytest.raises(EmitterError, match=rf"streammachine-mcp\[{entry.extra}\]"):
        anyio.run(start)


# -- rows -------------------------------------------------------------------------------------


@EACH
async def test_s07_rows_arrive_once(entry: SinkEntry, place: Place) -> None:
    """What was put is there once the outlet has drained: every row, each once."""
    rows = candles(25)
    async with Outlet(emitter_for(place.text), batch=10) as outlet:
        await outlet.put(rows[:12])
        await outlet.put(rows[12:])
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (25, 0)
    if place.read is not None:
        assert await there(place) == [row.open_ts for row in rows]


@EACH
async def test_s08_a_transformer_comes_first(entry: SinkEntry, place: Place) -> None:
    """A transformer gets each row as a dict; what it drops does not arrive."""
    seen: list[Any] = []

    def every_other(row: dict[str, Any]) -> dict[str, Any] | None:
        seen.append(row["open_ts"])
        return row if len(seen) % 2 else None

    rows = candles(9)
    async with Outlet(emitter_for(place.text).set_transformer(every_other)) as outlet:
        await outlet.put(rows)
        assert await outlet.drain(WAIT) == []
    assert seen == [row.open_ts for row in rows]
    if place.read is not None:
        assert await there(place) == [row.open_ts for row in rows[::2]]


def test_s08_what_is_no_transformer_is_refused_at_once() -> None:
    with pytest.raises(EmitterError, match="transformer=5 is no function"):
        sf.Logger().set_transformer(5)  # type: ignore[call-overload]


@EACH
async def test_s09_it_goes_on_where_it_was(entry: SinkEntry, place: Place) -> None:
    """A second emitter of the same place adds to what is there."""
    rows = candles(6)
    for part in (rows[:3], rows[3:]):
        async with Outlet(emitter_for(place.text)) as outlet:
            await outlet.put(part)
            assert await outlet.drain(WAIT) == []
    if place.read is not None:
        assert await there(place) == [row.open_ts for row in rows]


@EACH
async def test_s10_it_may_be_closed_without_having_been_opened(entry: SinkEntry, place: Place) -> None:
    """``close`` gives everything back, also where nothing was opened, and twice does no harm."""
    emitter = emitter_for(place.text)
    for _ in range(2):
        closing: Any = emitter.close()
        if inspect.isawaitable(closing):
            await closing


@EACH
async def test_s13_columns_are_as_good_as_rows(entry: SinkEntry, place: Place) -> None:
    """Candles put in columns are there as if they had been put as rows, each once, also beside rows."""
    rows = candles(30, origin="bulk")
    async with Outlet(emitter_for(place.text), batch=10) as outlet:
        await outlet.put(rows[:5])
        await outlet.put_columns(columns_of(rows[5:25]))
        await outlet.put(rows[25:])
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed, outlet.stats.queued) == (30, 0, 0)
    if place.read is not None:
        assert await there(place) == [row.open_ts for row in rows]


# -- a model's sinks --------------------------------------------------------------------------


@HOSTED
def test_s11_a_model_names_neither_folders_nor_servers(
    entry: SinkEntry, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the MCP server's runners: the hosted form is taken, a path is not, a variable that is not set is named."""
    assert entry.hosted_form in hosting.ACCEPTED
    text = entry.hosted_form.replace("NAME", "one").replace("TABLE", "one").replace("TOPIC", "one")
    if entry.hosting == "variable":
        with pytest.raises(EmitterError, match=entry.variable):
            hosting.check([text])
        monkeypatch.setenv(entry.variable, place.server)
        module_of(entry).check_server(place.server)
    assert hosting.check([text, text]) == [text]
    for wrong in ("../x", "a/b", "", "/etc/passwd", "x" * 101):
        if entry.hosting != "connection":
            with pytest.raises(EmitterError, match="not accepted"):
                hosting.check([f"{entry.name}:{wrong}"])


@HOSTED
async def test_s12_a_models_sink_takes_rows(
    entry: SinkEntry, place: Place, settings: sf.Settings, redis: sf.RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the MCP server's runners: the emitter that is made takes rows."""
    if entry.hosting == "variable":
        monkeypatch.setenv(entry.variable, place.server)
    text = entry.hosted_form.replace("NAME", "one").replace("TABLE", "one").replace("TOPIC", "one")
    emitter = hosting.emitter_for(text, settings, redis)
    assert type(emitter) is getattr(sf, entry.emitter)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (3, 0)
