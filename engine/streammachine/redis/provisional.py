"""ProvisionalSum: what ``incr`` gives before its addition is done, in a transactional handler."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any


class ProvisionalSum:
    """The sum as far as it is known now: a number that notes when it is read.

    Additions commute, so a commit checks nothing for one whose sum nobody reads. Whoever compares this, counts with
    it, shows or sends it relies on it, and the commit then checks that the sum has come true. It is no ``int``, since
    what is written in C reads those without a word. Where such a function refuses it (``json.dumps``), the handler
    runs again with plain numbers (``refused``); ``int()`` and ``float()`` spare it that.

    Args:
        number: the sum. on_read: called whenever it is read.
    """

    __slots__ = ("_number", "_on_read")

    def __init__(self, number: int | float, on_read: Callable[[], None]) -> None:
        self._number = number
        self._on_read = on_read

    @property
    def number(self) -> int | float:
        """The plain number; it counts as read."""
        self._on_read()
        return self._number

    def __reduce__(self) -> tuple[type, tuple[int | float]]:
        return (type(self._number), (self.number,))

    def __hash__(self) -> int:
        return hash(self.number)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(self.number, plain(other), plain(modulus))

    def __getattr__(self, name: str) -> Any:
        """A method of the plain number; looking it up counts as reading."""
        if name.startswith("__") or not hasattr(self._number, name):  # a protocol of somebody's: we have those below
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.number, name)


def refused(error: BaseException | None) -> bool:
    """Whether an error says that something takes a plain number only: those of Python and of its libraries name the
    type that they do not take. The errors that led to it and those in a group count too."""
    known: set[int] = set()
    waiting = [error]
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in known:
            continue
        known.add(id(part))
        if isinstance(part, (TypeError, ValueError, AttributeError)) and ProvisionalSum.__name__ in str(part):
            return True
        waiting += [part.__cause__, part.__context__, *getattr(part, "exceptions", ())]
    return False


def plain(value: Any) -> Any:
    """The value, a provisional sum as its plain number."""
    return value.number if isinstance(value, ProvisionalSum) else value


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *arguments: function(self.number, *arguments)


def _left(function: Callable[[Any, Any], Any]) -> Callable[[ProvisionalSum, Any], Any]:
    return lambda self, other: function(self.number, plain(other))


def _right(function: Callable[[Any, Any], Any]) -> Callable[[ProvisionalSum, Any], Any]:
    return lambda self, other: function(plain(other), self.number)


_ALONE: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "index": operator.index, "bool": bool, "str": str, "repr": repr, "format": format,
    "abs": abs, "neg": operator.neg, "pos": operator.pos, "round": round, "trunc": math.trunc, "floor": math.floor,
    "ceil": math.ceil, "invert": operator.invert, "complex": complex,
}  # fmt: skip
for _name, _function in _ALONE.items():
    setattr(ProvisionalSum, f"__{_name}__", _alone(_function))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ProvisionalSum, f"__{_name}__", _left(getattr(operator, _name)))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "lshift", "rshift", "and_", "or_", "xor"):
    setattr(ProvisionalSum, f"__{_name.rstrip('_')}__", _left(getattr(operator, _name)))
    setattr(ProvisionalSum, f"__r{_name.rstrip('_')}__", _right(getattr(operator, _name)))
setattr(ProvisionalSum, "__rpow__", _right(operator.pow))  # noqa: B010 - beside the others
setattr(ProvisionalSum, "__divmod__", _left(divmod))  # noqa: B010 - beside the others
setattr(ProvisionalSum, "__rdivmod__", _right(divmod))  # noqa: B010
