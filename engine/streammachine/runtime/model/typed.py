"""Handlers by annotation: what a handler's first argument is declared as decides what it is given.

``Message`` (or nothing): the message. ``dict``: its fields as text. ``bytes``: the value of its only field, unchanged.
A pydantic model or a dataclass: its fields, validated. Of a batch handler it is a list of one of them. What does not
fit is a dead letter at once, with the field's name, and the handler does not see it.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from streammachine.errors import SettingsError
from streammachine.runtime.model.checks import is_async, signature_of
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import Retry, Unfit

T = TypeVar("T")
Convert = Callable[[Message], Any]

MOST_NAMED = 5  # fields that the text of an error names
_LISTS = (list, MessageBatch, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_WHAT = "Message, dict, bytes, a pydantic model or a dataclass"


class TypedBatch(list[T], Generic[T]):
    """What a batch handler with a declared type gets: the values, and a way to fail some of them alone.

    ``messages`` are the messages they were made of, in the same order.

    Example:
        >>> @app.agent("orders", batch=100)
        ... async def handle(orders: TypedBatch[Order]) -> None:
        ...     for order in orders:
        ...         if order.total < 0:
        ...             orders.fail(order, "a negative total")
    """

    def __init__(self, batch: MessageBatch, convert: Convert) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self._batch = batch
        for index, message in enumerate(batch):
            try:
                value = convert(message)
            except Exception as error:  # noqa: BLE001 - what a validator raises, too, fails its message alone
                batch.failed[index] = error
            else:
                self.append(value)
                self.messages.append(message)

    def fail(self, value: T, error: BaseException | str) -> None:
        """Count the message of this value as failed; the others are finished when the handler returns.

        Args:
            value: one of the batch. error: why; it is tried again by the agent's retry policy.

        Raises:
            ValueError: the value is not one of the batch.
        """
        reason = error if isinstance(error, Exception) else Retry(reason=str(error))
        failed = {id(self._batch[index]) for index in self._batch.failed}
        for candidate, message in zip(self, self.messages, strict=False):
            if candidate is value and id(message) not in failed:
                self._batch.fail(message, reason)
                return
        raise ValueError("The value is not part of this batch.")


def adapted(
    handler: Callable[..., Any], *, batch: bool, local_names: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """The handler as the consumer calls it, with a ``Message`` or a ``MessageBatch``.

    Args:
        handler: what the decorator was given. batch: whether it takes lists.
        local_names: what is known where it was decorated: types of a function's own.

    Returns:
        The handler itself where it takes messages, else one (async or sync, as it is) that converts first.

    Raises:
        SettingsError: no message can be made to what it declares.
    """
    declared = _declared(handler, local_names)
    if declared is None:
        return handler
    name = getattr(handler, "__qualname__", repr(handler))
    if batch:
        declared = _item_of(declared, name)
    convert = _converter(declared, name)
    if convert is None:
        return handler
    made: Callable[[Any], Any] = functools.partial(TypedBatch, convert=convert) if batch else convert
    if is_async(handler):

        @functools.wraps(handler, updated=())
        async def converting(argument: Any) -> Any:
            value = made(argument)
            return None if batch and not value else await handler(value)

        return converting

    @functools.wraps(handler, updated=())
    def converting_in_thread(argument: Any) -> Any:
        value = made(argument)
        return None if batch and not value else handler(value)

    return converting_in_thread


# -- what is declared -----------------------------------------------------------------------------


def _declared(handler: Callable[..., Any], local_names: Mapping[str, Any] | None) -> Any:
    """The annotation of the handler's first argument; None where there is none, or it says Message."""
    found = _first_parameter(handler)
    if found is None:
        return None
    function, parameter = found
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return None
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    known, mine = getattr(function, "__globals__", {}), dict(local_names or {})
    try:
        if isinstance(annotation, str):
            annotation = eval(annotation, known, mine)
        return _resolved(annotation, known, mine)
    except Exception as error:
        if not isinstance(annotation, str):
            annotation = str(annotation)
        if annotation.rstrip("]").rpartition("[")[2].rpartition(".")[2] in ("Message", "MessageBatch", "Any"):
            return None  # imported for type checkers only
        raise SettingsError(
            f"The handler {getattr(handler, '__qualname__', handler)!s} takes {annotation!r}, and that name is not "
            f"known when the module runs ({error}). Import it outside of 'if TYPE_CHECKING:'."
        ) from error


def _resolved(annotation: Any, known: dict[str, Any], mine: dict[str, Any]) -> Any:
    """The annotation with the names in it that are texts looked up: ``list["Order"]``, ``Optional["Order"]``."""
    if not any(isinstance(part, (str, typing.ForwardRef)) for part in _parts(annotation)):
        return annotation

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    return typing.get_type_hints(holder, known, mine, include_extras=True)["it"]


def _parts(annotation: Any) -> collections.abc.Iterator[Any]:
    """What stands in an annotation's brackets, however deep; not what Literal and Annotated say beside a type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return
    for part in arguments[:1] if origin is typing.Annotated else arguments:
        yield part
        yield from _parts(part)


def _first_parameter(handler: Callable[..., Any]) -> tuple[Any, inspect.Parameter] | None:
    """The function that is called in the end, and its parameter that gets the message."""
    signature = signature_of(handler)
    if signature is None:
        return None
    first = next(iter(signature.parameters.values()), None)
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    if first is not None and first.kind is first.VAR_POSITIONAL and hasattr(function, "__wrapped__"):
        return _first_parameter(function.__wrapped__)  # a decorator that hands on whatever comes
    if first is None or first.kind is first.VAR_POSITIONAL:
        return None
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    return inspect.unwrap(getattr(function, "__func__", function)), first


def _item_of(declared: Any, name: str) -> Any:
    origin = typing.get_origin(declared) or declared
    if declared is Any or declared is object or isinstance(declared, TypeVar):
        return Any
    arguments = typing.get_args(declared)
    if origin not in _LISTS and origin is not TypedBatch:
        raise SettingsError(
            f"The handler {name} takes batches, so its argument is a list. Write 'list[...]' of {_WHAT}, or take the "
            "batch= out of the decorator."
        )
    return arguments[0] if arguments else Any


def _converter(declared: Any, name: str) -> Convert | None:
    """What makes the declared type of a message; None where it is the message."""
    declared = _plain(declared)
    annotated = typing.get_origin(declared) is typing.Annotated
    base = typing.get_args(declared)[0] if annotated else declared
    origin = typing.get_origin(base) or base
    if base is bytes:
        return _only_value
    if declared in (Any, object) or isinstance(declared, TypeVar) or getattr(declared, "_is_protocol", False):
        return None
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return _dict_converter(declared, () if annotated else typing.get_args(declared), name)
    if isinstance(origin, type):
        if issubclass(origin, Message):
            return None
        if issubclass(origin, BaseModel) or dataclasses.is_dataclass(origin) or typing.is_typeddict(origin):
            return _validating(declared, name)
    if origin in _LISTS:
        raise SettingsError(f"The handler {name} takes a list, and gets one message. Give the decorator a batch=.")
    if _is_union(declared) and any(_plain(part) is Message for part in typing.get_args(declared)):
        return None
    shown = getattr(declared, "__name__", None) or str(declared)
    raise SettingsError(
        f"The handler {name} takes {shown}, and no message can be made to that. Annotate its argument as {_WHAT}."
    )


def _plain(declared: Any) -> Any:
    """X for X | None: a message is never None."""
    if _is_union(declared):
        rest = [part for part in typing.get_args(declared) if part is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return declared


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (typing.Union, types.UnionType)


# -- how it is made -------------------------------------------------------------------------------


def _dict_converter(declared: Any, arguments: Sequence[Any], name: str) -> Convert:
    if arguments == (bytes, bytes):
        return Message._payload
    if not arguments or arguments in ((str, str), (str, Any), (str, object), (Any, Any)):
        return lambda message: dict(message.message)
    return _validating(declared, name)


def _only_value(message: Message) -> bytes:
    raw = message._payload()
    if len(raw) != 1:
        names = ", ".join(list(message.message)[:MOST_NAMED])
        raise Unfit(f"A handler of bytes takes messages of one field; this one has {len(raw)}: {names or 'none'}.")
    return next(iter(raw.values()))


def _validating(declared: Any, name: str) -> Convert:
    shown = getattr(declared, "__name__", None) or str(declared)
    try:
        validator = TypeAdapter(declared).validator
    except (PydanticUserError, NameError, TypeError) as error:
        raise SettingsError(f"The handler {name} takes {shown}, which pydantic cannot validate: {error}") from error
    validate = validator.validate_python

    def convert(message: Message) -> Any:
        try:
            return validate(message.message)
        except ValidationError as error:
            raise Unfit(f"The message does not fit {shown}: {_named(error)}") from error

    return convert


def _named(error: ValidationError) -> str:
    """The fields that do not fit and why, without their values: these stand in the dead letter."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    parts = [f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}" for each in found[:MOST_NAMED]]
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return "; ".join(parts) + more
