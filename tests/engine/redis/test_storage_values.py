"""What Storage keeps: every value comes back as it was, and nobody else's bytes are trusted."""

from __future__ import annotations

import asyncio
import enum
import json
import math
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import (
    SerializationError,
    SignatureError,
    UnsafePickleError,
    WrongTypeError,
)
from streammachine.redis.connection import RedisConnection
from streammachine.redis.signing import MAGIC, Signer
from streammachine.redis.storage import KEY, Storage
from streammachine.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def storage(redis: RedisConnection) -> Storage:
    return Storage(redis)


async def set_raw(storage: Storage, key: str, stored: bytes | str) -> None:
    await storage._connection.run(lambda client: client.hset(KEY, {key: stored}))


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


class Side(enum.IntEnum):
    BUY = 1


# --- what comes back ------------------------------------------------------------------------------------------------

JSON_VALUES: list[Any] = [
    None,
    True,
    0,
    -0.0,
    1.0,
    1e-07,
    5e-324,
    1.7976931348623157e308,
    2**64,
    -(2**2000),
    "",
    "ä\u2028\x00\U0001f600",
    [1, [2.5, "x", None, False], {}],
    {"a": {"b": [1]}, "": 0},
]
PICKLED_VALUES: list[Any] = [
    (1, 2),
    [1, (2,)],
    {1: "a"},
    {"a": {2.5: 1}},
    {(1, 2): 3},
    {1, 2},
    frozenset({1}),
    b"\x00\xff",
    bytearray(b"x"),
    math.inf,
    2**100_000,
    "half \ud800",
    {"half \ud800": 1},
    datetime(2026, 11, 20, tzinfo=UTC),
    date(2026, 11, 20),
    Decimal("1.10"),
    1 + 2j,
    Side.BUY,
    Point(3),
]


def same(one: Any, other: Any) -> bool:
    """Equal and of the same types all the way down; NaN is NaN, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    return bool(one == other)


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
async def test_plain_data_is_json_that_any_client_can_read(storage: Storage, value: Any) -> None:
    await storage.write("k", value)
    stored = await storage.read_raw("k")
    assert stored is not None and same(json.loads(stored), value)
    assert same(await storage.read("k"), value)


@pytest.mark.parametrize("value", PICKLED_VALUES, ids=lambda value: type(value).__name__)
async def test_what_json_would_change_is_a_signed_pickle(storage: Storage, value: Any) -> None:
    await storage.write("k", value)
    stored = await storage.read_raw("k")
    assert stored is not None and stored.startswith(MAGIC)
    assert same(await storage.read("k"), value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))  # lone surrogates too
    | st.binary()
    | st.datetimes()
    | st.decimals(allow_nan=False)
)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.binary())
    ),
    max_leaves=20,
)


@given(value=values, key=st.text(min_size=1))
async def test_every_value_comes_back_equal_and_of_the_same_type(value: Any, key: str) -> None:
    storage = Storage(RedisConnection(url="redis://never-opened", settings=Settings(signing_key="k" * 16)))
    assert same(storage.decode(key, storage.encode(key, value)), value)


async def test_nan_and_deep_nesting_come_back(storage: Storage) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    await storage.write("deep", deep)
    await storage.write("nan", [math.nan])
    assert await storage.read("deep") == deep
    assert math.isnan((await storage.read("nan"))[0])


@pytest.mark.parametrize("value", [lambda: 1, (x for x in ()), asyncio.Lock], ids=["lambda", "generator", "class"])
async def test_what_nothing_can_store_is_refused_by_name(storage: Storage, value: Any) -> None:
    if value is asyncio.Lock:

        class Local:
            def __reduce__(self) -> str:
                raise KeyError("its own fault")

        value = Local()
    with pytest.raises(SerializationError, match=r"cannot be stored.*Store plain data"):
        await storage.write("k", value)
    assert not await storage.exists("k")


# --- nobody else's bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"\xff\xfe\xfd", b"not json", b"", b"[" * 100_000, b"\x01SM"])
async def test_what_somebody_else_wrote_is_a_named_error(storage: Storage, garbage: bytes) -> None:
    await set_raw(storage, "k", garbage)
    with pytest.raises(WrongTypeError, match="'k' in sm:storage was not written by StreamMachine"):
        await storage.read("k")
    await storage.write("k", 1)
    assert await storage.read("k") == 1


class Boom:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


async def test_a_pickle_of_somebody_else_is_never_loaded(storage: Storage, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    hostile = pickle.dumps(Boom(mark))
    pickle.loads(hostile)
    assert mark.exists()  # it does what it is made for
    mark.unlink()
    honest = storage.signer.dump((1, 2), KEY, "k")
    forged = Signer(b"another key of 32 bytes ........").dump(Boom(mark), KEY, "k")
    for stored in (MAGIC + hostile, MAGIC + bytes(32) + hostile, honest[:36] + hostile, forged, MAGIC):
        await set_raw(storage, "k", stored)
        with pytest.raises(SignatureError, match="was not loaded"):
            await storage.read("k")
        with pytest.raises(SignatureError):
            storage.decode_plain("k", stored)
        with pytest.raises(SignatureError):
            await storage.update("k", lambda old: old)
    assert not mark.exists()


async def test_a_value_moved_to_another_field_is_refused(storage: Storage) -> None:
    await storage.write("a", (1, 2))
    stored = await storage.read_raw("a")
    assert stored is not None
    await set_raw(storage, "b", stored)
    with pytest.raises(SignatureError, match=r"sm:storage\[b\].*changed, moved"):
        await storage.read("b")
    assert await storage.read("a") == (1, 2)


async def test_another_key_is_told_to_use_the_same(storage: Storage, settings: Settings) -> None:
    await storage.write("k", (1, 2))
    foreign = settings.model_copy(update={"signing_key": Settings(signing_key="x" * 32).signing_key})
    async with RedisConnection(settings=foreign) as connection:
        with pytest.raises(SignatureError, match="Set the same STREAMMACHINE_SIGNING_KEY on all machines"):
            await Storage(connection).read("k")


async def test_plain_reading_shows_data_and_refuses_objects(storage: Storage) -> None:
    assert storage.decode_plain("k", storage.encode("k", {"pair": (1, b"\xff")})) == {"pair": (1, b"\xff")}
    assert storage.decode_plain("k", storage.encode("k", [1])) == [1]
    with pytest.raises(UnsafePickleError, match="Point; only plain data is shown"):
        storage.decode_plain("k", storage.encode("k", Point(1)))


def shared(depth: int, leaf: Any = 1) -> list[Any]:
    """A list of two times the same list, so deep: small in memory, 2**depth leaves when written out."""
    value = [leaf]
    for _ in range(depth):
        value = [value, value]
    return value


async def test_a_list_that_stands_in_many_places_is_written_as_small_as_it_is(storage: Storage) -> None:
    for value in (shared(60), {"a": shared(60)}, ["x" * 100_000] * 1000):
        encoded = storage.encode("k", value)
        assert encoded.startswith(MAGIC)
        assert len(encoded) < 110_000
    await storage.write("k", shared(60))
    found = await storage.read("k")
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found == [1]
    part = [1.5, "a"]
    assert storage.encode("k", [part, part]) == b'[[1.5,"a"],[1.5,"a"]]', "a few times is plain JSON"
    assert storage.encode("k", shared(10)).startswith(b"[["), "and a thousand"
    assert storage.encode("k", ["short"] * 300_000).startswith(b"["), "and what is as large as it looks"


async def test_a_value_that_contains_itself_comes_back_so(storage: Storage) -> None:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    await storage.write("k", value)
    found = await storage.read("k")
    assert found["a"][1] is found


async def test_a_part_that_is_deep_itself_counts_where_it_is_deepest(storage: Storage) -> None:
    part: list[Any] = []
    for _ in range(60):
        part = [part]
    deep: list[Any] = [part]
    for _ in range(60):
        deep = [deep]
    assert storage.encode("k", [part, part]).startswith(b"[[")
    assert storage.encode("k", [part, deep]).startswith(MAGIC)
