"""CEL over messages: what is seen, what is refused before the first message, and what one may cost."""

from __future__ import annotations

import pytest

from streammachine.errors import StreamMachineError
from streammachine.runtime.declared.evaluator import EvaluationStoppedError, Evaluator, Sample
from streammachine.runtime.declared.expressions import LONGEST, Expression, ExpressionError, ExpressionFailed, values_of
from streammachine.runtime.model.message import Message

pytestmark = pytest.mark.anyio


def message(**fields: str) -> Message:
    return Message("trades", "1700000000000-0", data={name.encode(): text.encode() for name, text in fields.items()})


def test_an_expression_sees_text_numbers_topic_id_and_sent_time() -> None:
    values = values_of(message(price="61837.5", side="buy", odd="1_0", nan="nan", big="1e999"))
    assert values == {
        "msg": {"price": "61837.5", "side": "buy", "odd": "1_0", "nan": "nan", "big": "1e999"},
        "num": {"price": 61837.5},
        "topic": "trades",
        "id": "1700000000000-0",
        "sent": 1_700_000_000_000,
    }
    values = values_of(Message("t", "5-0", data={b"a": b"1", b"sm-sent": b"7"}))
    assert values["msg"] == {"a": "1"}
    assert values["sent"] == 7


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("num.price > 100", True),
        ("num.price > 100.0 && msg.side == 'sell'", False),
        ("double(msg.price) >= 61837.5", True),
        ("has(msg.side) && !has(msg.venue)", True),
        ("topic.startsWith('trade') && id == '1700000000000-0' && sent > 1", True),
        ("msg.exists(name, name == 'side')", True),
        ("msg.side.matches('^b(u|x)y$') && msg.side.matches(r'\\w+') && '.all(x, (' != msg.side", True),
        ("// msg.all(a, b)\n'it\\'s // no comment' != r'\\' && ['''a'''].exists((x), x == 'a')", True),
        ("math.round(num.price) == 61838.0 && msg.side.upperAscii() == 'BUY'", True),
    ],
)
def test_a_filter_says_yes_or_no(text: str, passes: bool) -> None:
    assert Expression(text, "filter").evaluate(values_of(message(price="61837.5", side="buy"))) is passes


def test_a_select_makes_new_fields() -> None:
    select = Expression("{'symbol': msg.symbol, 'value': num.price * num.qty, 'big': num.qty > 1.0}", "select")
    found = select.evaluate(values_of(message(symbol="BTC", price="2.5", qty="4")))
    assert found == {"symbol": "BTC", "value": 10.0, "big": True}


@pytest.mark.parametrize(
    ("role", "text", "says"),
    [
        ("filter", "num.price >", "line 1, column 12"),
        ("filter", "true &&\n  (", "line 2, column"),
        ("filter", "", "is no CEL"),
        ("filter", "price > 1.0", "'price' (line 1, column 1), which is not defined"),
        ("filter", "true && msg.a.lower() == 'x'", "'lower' (line 1, column 15), which is no function"),
        ("filter", "msg.price > 5", "mixes types"),
        ("filter", "num.price + 1.0", "not true or false"),
        ("select", "{'v': num.price * 2}", "write 2.0 and not 2"),
        ("select", "msg.price", "not a map of fields"),
        ("select", "{}", "not a map of fields"),
        ("select", "{'a': null}", "gives None for 'a'"),
        ("select", "{'a': [1]}", "gives [1] for 'a'"),
        ("select", "{'': 1.0}", "names a field ''; a name is text that is not empty"),
        ("select", "{1: 'x'}", "names a field 1; a name is text"),
        ("filter", "(" * 200 + "true" + ")" * 200, "nested too deeply"),
        ("filter", "true && " * LONGEST + "true", "at most 2000"),
        ("select", "{'a': string([1].map(a, [2].map(b, [3].map(c, c))).size())}", "at most 2 are taken"),
        ("filter", "msg.all //(\n (k, msg.\nall // x\n(j, [1] .all((z), z == 1)))", "uses 3 of map"),
        ("filter", "[1].all(msg, [1].all(num, [1].all(topic, true)))", "uses 3 of map"),
        ("filter", "[1].all(x, true) && y == 1", "'y' (line 1, column 21), which is not defined"),
        ("filter", f"[1{',1' * 450}].all(a, [1{',1' * 450}].all(b, a == b))", "steps on"),
        ("filter", "msg.side.matches('((((')", "'((((' (line 1, column 17) is no regular expression (RE2): unclosed"),
        ("filter", "has(msg.side) && msg.side.matches('(?=a)')", "look-ahead"),
        ("filter", "has(msg.side) && msg.side.matches(r'(a{1000}){1000}')", "size limit"),
        ("filter", "msg.side.matches('(' + topic)", "no text in quotes"),
        ("filter", "msg.side.matches(msg.pattern)", "no text in quotes"),
        ("filter", "matches(msg.side, 'a')", "no text in quotes"),
        ("filter", "startsWith('a', 'b')", "cannot be called so"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place_and_a_hint(role: str, text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        Expression(text, role)  # type: ignore[arg-type]
    assert says in str(refused.value)


def test_a_message_that_does_not_fit_fails_and_not_the_expression() -> None:
    expression = Expression("num.price > 1.0", "filter")
    with pytest.raises(ExpressionFailed, match=r"has no field 'price'.*has\(msg.price\)"):
        expression.evaluate(values_of(message(price="free")))
    assert expression.evaluate(values_of(message(price="2"))) is True
    with pytest.raises(ExpressionFailed, match="at most 262,144"):
        values_of(message(price="1" * 300_000))


def test_macros_in_macros_are_counted_before_a_message_of_very_many_fields_is_tried() -> None:
    expression = Expression("msg.all(k, msg.all(j, true))", "filter")
    assert expression.evaluate(values_of(message(a="1", b="2"))) is True
    many = message(**{f"f{number}": "v" for number in range(30_000)})
    with pytest.raises(ExpressionFailed, match=r"steps on a message of 30,000 fields; at most 10,000,000"):
        expression.evaluate(values_of(many))
    assert Expression("msg.all(k, true)", "filter").evaluate(values_of(many)) is True


def test_only_what_has_no_loop_and_no_regular_expression_is_cheap_and_that_on_small_messages() -> None:
    plain = Expression("num.price > 1.0 && msg.side == 'buy'", "filter")
    assert (plain.cheap(1000), plain.cheap(200_000)) == (True, False)
    assert not Expression("msg.all(k, true)", "filter").cheap(10)
    assert not Expression("msg.side.matches('a')", "filter").cheap(10)


SAMPLE = Sample("trades", "1-1", {b"price": b"2", b"side": b"buy"})
SLOW = r"msg.all(k, !'1'.matches('(\\w{20}){10}'))"  # 50 ms for each field, to compile that
LARGE = Sample("trades", "1-1", {f"f{number}".encode(): b"1" for number in range(2000)})


async def test_an_evaluator_gives_what_the_expressions_give() -> None:
    async with Evaluator() as evaluator:
        assert await evaluator.check("num.price > 1.0", None) is None
        assert await evaluator.check("num.price > 1.0", None, SAMPLE) is True
        assert (await evaluator.apply("num.price > 2.0", None, SAMPLE))[0] is False
        assert (await evaluator.apply(None, "{'s': msg.side, 'p': num.price}", SAMPLE))[0] == {"s": "buy", "p": 2.0}
        with pytest.raises(ExpressionError, match="is no CEL"):
            await evaluator.check("num.price >", None)
        with pytest.raises(ExpressionFailed, match="no field 'qty'"):
            await evaluator.apply("num.qty > 1.0", None, SAMPLE)


async def test_what_computes_too_long_is_ended_and_the_next_question_answered() -> None:
    async with Evaluator() as evaluator:
        with pytest.raises(EvaluationStoppedError, match="more than 1 s of computing"):
            await evaluator.apply(SLOW, None, LARGE)
        assert (await evaluator.apply("true", None, SAMPLE))[0] is True
        with pytest.raises(ExpressionError, match="more than 1 s of computing"):
            await evaluator.check(SLOW, None, LARGE)


async def test_what_takes_too_much_memory_is_ended_in_its_own_process() -> None:
    many = Sample("trades", "1-1", {f"f{number}".encode(): b"v" * 800 for number in range(300)})
    async with Evaluator() as evaluator:
        with pytest.raises((EvaluationStoppedError, ExpressionFailed)):
            await evaluator.apply("size(msg.map(k, msg.map(j, msg[j] + msg[k] + msg[j] + msg[k]))) < 0", None, many)
        assert (await evaluator.apply("true", None, SAMPLE))[0] is True


async def test_an_evaluator_that_is_killed_starts_again_and_the_expression_is_not_blamed() -> None:
    async with Evaluator() as evaluator:
        await evaluator.check("true", None)
        assert evaluator._process is not None
        evaluator._process.kill()
        with pytest.raises(StreamMachineError, match="was killed") as killed:
            await evaluator.apply("true", None, SAMPLE)
        assert not isinstance(killed.value, (EvaluationStoppedError, ExpressionFailed))
        assert (await evaluator.apply("true", None, SAMPLE))[0] is True
