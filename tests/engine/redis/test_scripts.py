"""LuaScript: keys and arguments by name, and what is wrong with them told before anything is sent."""

from __future__ import annotations

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.redis.scripts import LuaScript

pytestmark = pytest.mark.anyio

ADD = LuaScript("return redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])", keys=("hash",), args=("field", "by"))
ALL = LuaScript("return {KEYS, ARGV}", keys=("first", "*rest"), args=("*values",))


async def test_a_script_is_called_by_names(redis: RedisConnection) -> None:
    assert await ADD(redis, by=2, hash="h", field="n") == 2
    assert await ADD(redis, hash="h", field=b"n", by=3, repeatable=True) == 5
    assert await ALL(redis, first="a", rest=["b", "c"], values=[1, b"x"]) == [[b"a", b"b", b"c"], [b"1", b"x"]]
    assert await ALL(redis, first="a", rest=[], values=[]) == [[b"a"], []]


def test_the_command_is_in_the_order_of_the_names() -> None:
    assert ADD.command(by=2, hash="h", field="n") == ["EVAL", ADD.source, 1, "h", "n", 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hash": "h", "field": "n"}, "'by' is missing"),
        ({"hash": "h", "field": "n", "by": 1, "ttl": 2}, "not also \\['ttl'\\]"),
        ({"key": "h", "field": "n", "by": 1}, "'hash' is missing"),
    ],
)
def test_wrong_names_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        ADD.command(**values)


@pytest.mark.parametrize(
    ("source", "keys", "args"),
    [
        ("return KEYS[2]", ("one",), ()),
        ("return KEYS[1]", ("one", "never"), ()),
        ("return ARGV[1]", (), ()),
        ("return 1", (), ("never",)),
        ("return ARGV[1]", (), ("used", "never", "*more")),
    ],
)
def test_names_that_do_not_fit_the_source_are_refused(
    source: str, keys: tuple[str, ...], args: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="A script with"):
        LuaScript(source, keys=keys, args=args)
