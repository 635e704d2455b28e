"""ProvisionalSum: what ``incr`` gives before its addition is done, in a transactional handler."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any


class ProvisionalSum:
    """The sum as far as it is known now: a number that notes when it is read.

    Additions commute, so a commit checks nothing for one whose sum nobody reads. Whoever compares this, counts with
    it, shows or sends it relies on it, and the commit then checks that the sum has come true. ``int()`` and ``float()``
    give the plain number, for what takes no other (``json.dumps``).

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
    "ceil": math.ceil,
}  # fmt: skip
for _name, _function in _ALONE.items():
    setattr(ProvisionalSum, f"__{_name}__", _alone(_function))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ProvisionalSum, f"__{_name}__", _left(getattr(operator, _name)))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(ProvisionalSum, f"__{_name}__", _left(getattr(operator, _name)))
    setattr(ProvisionalSum, f"__r{_name}__", _right(getattr(operator, _name)))
setattr(ProvisionalSum, "__divmod__", _left(divmod))  # noqa: B010 - beside the others
setattr(ProvisionalSum, "__rdivmod__", _right(divmod))  # noqa: B010
