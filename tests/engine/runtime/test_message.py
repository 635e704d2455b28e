"""Message: what a handler sees."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from streammachine.errors import StreamMachineError
from streammachine.runtime.consumer.messages import message_of
from streammachine.runtime.delivery.group import DeliveryLane, Item
from streammachine.runtime.model.message import Message


class Order(BaseModel):
    id: int
    price: float
    paid: bool


def message(fields: dict[bytes, bytes], *, companion: bool = False, deliveries: int = 1) -> Message:
    lane = DeliveryLane("s", companion=companion)
    return message_of("s", Item(lane, b"5-1", fields, deliveries), "me")


def test_the_fields_are_decoded_once_and_ours_left_out() -> None:
    found = message({b"id": b"1", b"sm-sent": b"1700000000500", b"name": "Zürich".encode()})
    assert found.message == {"id": "1", "name": "Zürich"}
    assert found.message is found.message
    assert (found.topic, found.key, found.consumer_id, found.attempt) == ("s", "5-1", "me", 1)
    assert found.sent == 1700000000.5
    assert found.data[b"sm-sent"] == b"1700000000500"


def test_it_is_a_dataclass_whose_fields_are_none_where_they_are_not_given() -> None:
    names = [field.name for field in dataclasses.fields(Message)]
    assert names[:6] == ["topic", "key", "sent", "received", "consumer_id", "data"]
    bare = Message()
    assert [getattr(bare, name) for name in names[:6]] == [None] * 6
    assert (bare.message, bare.raw("a"), bare.timer) == ({}, None, "")
    made = Message("s", "5-1", 1.0, 2.0, "me", {b"n": b"1"})
    assert dataclasses.asdict(made) == dict(zip(names, ("s", "5-1", 1.0, 2.0, "me", {b"n": b"1"}, 1), strict=True))
    assert dataclasses.replace(made, topic="t").message == {"n": "1"}
    assert pickle.loads(pickle.dumps(made)).message == {"n": "1"}


def test_bytes_that_are_no_text_do_no_harm() -> None:
    found = message({b"blob": b"\xff\x00"})
    assert found.raw("blob") == b"\xff\x00"
    assert found.raw("missing") is None
    assert isinstance(found.message["blob"], str)


def test_the_timer_tells_the_way() -> None:
    found = Message("topic", "1-0", sent=10.0, received=10.01234)
    assert found.timer == "topic: task 12.34 ms"
    assert Message("topic", "1-0").timer == ""
    assert message({b"sm-sent": b"soon"}).timer == ""


def test_json_and_models() -> None:
    assert message({b"only": b'{"a": [1]}'}).json() == {"a": [1]}
    assert message({b"a": b"1", b"b": b"2"}).json("b") == 2
    with pytest.raises(ValueError, match="2 fields"):
        message({b"a": b"1", b"b": b"2"}).json()
    with pytest.raises(KeyError):
        message({b"a": b"1"}).json("c")
    assert message({b"id": b"7", b"price": b"0.5", b"paid": b"true"}).model(Order) == Order(id=7, price=0.5, paid=True)
    with pytest.raises(ValidationError):
        message({b"id": b"x"}).model(Order)


def test_one_from_a_retry_companion_shows_its_own_id_and_all_attempts() -> None:
    fields = {b"n": b"1", b"sm-origin-id": b"3-0", b"sm-attempt": b"4"}
    assert (message(fields, companion=True).key, message(fields, companion=True).attempt) == ("3-0", 5)
    # Whoever sends such fields himself changes nothing.
    assert (message(fields).key, message(fields).attempt) == ("5-1", 1)
    assert message({**fields, b"sm-attempt": b"many"}, companion=True).attempt == 1


def test_a_message_made_by_hand_has_no_state() -> None:
    assert Message(data={b"a": b"1"}).to_dict()["message"] == {"a": "1"}
    assert "attempt=1" in repr(Message("t", "1-0"))
    with pytest.raises(StreamMachineError, match="no state"):
        _ = Message("t", "1-0").state
