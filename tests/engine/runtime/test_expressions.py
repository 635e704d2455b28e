"""CEL over messages: what is seen, what is refused before the first message, and what one may cost."""

from __future__ import annotations

import pytest

from streammachine.runtime.expressions import LONGEST, Expression, ExpressionError, ExpressionFailed, values_of
from streammachine.runtime.message import Message


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
        ("filter", "(" * 200 + "true" + ")" * 200, "nested too deeply"),
        ("filter", "true && " * LONGEST + "true", "at most 2000"),
        ("select", "{'a': string([1].map(a, [2].map(b, [3].map(c, c))).size())}", "at most 2 are taken"),
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
