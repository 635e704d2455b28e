"""CEL expressions over a message: compiled and checked when an agent is declared, evaluated for each message.

An expression sees ``msg`` (the fields as text), ``num`` (those whose text is a number, as doubles), ``topic``, ``id``
and ``sent`` (epoch ms). CEL has no loops but its macros, and no effects. Its cost is bounded by its length, the number
of its macros and the size of a message, because macros in macros multiply (five of them took ten seconds), and before
each message by an estimate of its steps. The library cannot be interrupted, and no other thread runs meanwhile, so
whatever is not ``cheap`` belongs in a process of its own (``evaluator.py``).
CEL: https://github.com/google/cel-spec/blob/master/doc/langdef.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from streammachine.errors import StreamMachineError
from streammachine.runtime.declared.cel_tokens import Tokens, tokens_of
from streammachine.runtime.model.headers import SENT
from streammachine.runtime.model.retry import Reject

if TYPE_CHECKING:
    from streammachine.runtime.model.message import Message

Role = Literal["filter", "select"]

LONGEST = 2000  # characters of an expression
MOST_MACROS = 2  # of map, filter, all, exists, exists_one in one expression
MOST_BYTES = 262_144  # of a message's fields
MOST_STEPS = 10_000_000  # tokens evaluated for one message, repeated by macros; up to a second
CHEAP_WORK = 10_000_000  # tokens squared times bytes: what sums of long texts copy, some milliseconds
VARIABLES = ("msg", "num", "topic", "id", "sent")

_TYPES = {
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "timestamp",
    "duration",
}
_NATIVE = """size contains startsWith endsWith matches string int uint double bytes timestamp duration type dyn has
getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds getMilliseconds"""
_OPTIONAL = {"of", "none", "value", "hasValue", "orValue"}
# Of the library's Python extensions those whose result is never much larger than their arguments.
_EXTRA = """bool min max sum charAt indexOf lastIndexOf substring lowerAscii upperAscii trim math.greatest math.least
math.abs math.sign math.ceil math.floor math.round math.trunc math.sqrt"""
_FUNCTIONS = {*_NATIVE.split(), *_EXTRA.split()}
_OPERATOR = re.compile(r"^[@_!?-]|_$")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_FIELD = re.compile(r"\b(?:msg|num)\s*(?:\.\s*([A-Za-z_]\w*)|\[\s*(?:\"([^\"]*)\"|'([^']*)')\s*\])")
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_HINTS = {
    "filter": "A filter is e.g. num.price > 100.0 && msg.side == 'buy'.",
    "select": "A select is e.g. {'symbol': msg.symbol, 'value': num.price * num.qty}.",
}
_KNOWS = (
    "It knows msg (text), num (numbers), topic, id and sent; has(msg.x) tells whether there is a field; numbers are "
    "doubles, so write 2.0 and not 2."
)


class ExpressionError(StreamMachineError, ValueError):
    """An expression is refused before any message: it is no CEL, or its value cannot have the type its role needs."""


class ExpressionFailed(Reject):
    """An expression cannot be evaluated on this message, which goes to the dead letters."""


class Expression:
    """A compiled expression.

    Args:
        text: the expression. role: what it must give: a filter true or false, a select a map of new fields.

    Raises:
        ExpressionError: it is too long, no CEL, or uses undefined names; says where.
    """

    def __init__(self, text: str, role: Role) -> None:
        self.text = text
        self.role: Role = role
        if len(text) > LONGEST:
            raise ExpressionError(f"The {role} has {len(text)} characters; at most {LONGEST} are taken.")
        self._program = self._compiled()
        self._tokens = tokens_of(text)
        macros = self._tokens.macros
        if macros > MOST_MACROS:
            raise ExpressionError(
                f"The {role} uses {macros} of map, filter, all, exists and exists_one; at most {MOST_MACROS} are "
                "taken, because they multiply. Split the work between two agents."
            )
        self._context = _context()
        self._refuse_unknown()
        self._refuse_patterns()
        self._try()

    def cheap(self, size: int) -> bool:
        """Whether it takes milliseconds at most on a message of ``size`` bytes."""
        return _is_plain(self._tokens) and self._tokens.count**2 * size <= CHEAP_WORK

    def evaluate(self, values: dict[str, Any]) -> Any:
        """Evaluate it on one message.

        Args:
            values: what it sees of the message (``values_of``).

        Returns:
            A filter's True or False; a select's map of fields.

        Raises:
            ExpressionFailed: it fails, gives a value of the wrong type, or would take too many steps.
        """
        self._refuse_steps(len(values["msg"]))
        try:
            result = self._run(values)
        except Exception as error:
            raise ExpressionFailed(f"The {self.role} fails: {_reason(error)}") from error
        return self._checked(result)

    def _refuse_steps(self, fields: int) -> None:
        tokens = self._tokens
        longest = fields * (1 + tokens.sums) + tokens.count  # of the lists and maps that there can be
        steps = tokens.count * longest**tokens.nesting
        if steps > MOST_STEPS:
            raise ExpressionFailed(
                f"The {self.role} could take {steps:,} steps on a message of {fields:,} fields; at most {MOST_STEPS:,} "
                "are taken. Macros in macros multiply: do without one, or send smaller messages."
            )

    def _run(self, values: dict[str, Any]) -> Any:
        self._context.update(values)
        try:
            return self._program.execute(self._context)
        except Exception:
            raise
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # what pyo3 raises for a failed assertion in Rust
                raise
            raise ValueError(f"the CEL library failed ({error})") from error

    def _checked(self, result: Any) -> Any:
        if self.role == "filter" and not isinstance(result, bool):
            raise ExpressionFailed(f"The filter gives {_shown(result)}, not true or false. {_HINTS['filter']}")
        if self.role == "select":
            if not isinstance(result, dict) or not result:
                raise ExpressionFailed(f"The select gives {_shown(result)}, not a map of fields. {_HINTS['select']}")
            for name, value in result.items():
                if not isinstance(name, str) or not name:
                    raise ExpressionFailed(
                        f"The select names a field {_shown(name)}; a name is text that is not empty. {_HINTS['select']}"
                    )
                if not isinstance(value, (str, bytes, bool, int, float)):
                    raise ExpressionFailed(
                        f"The select gives {_shown(value)} for {name!r}; give text, a number, or true or false."
                    )
        return result

    # -- checks before the first message ------------------------------------------------------

    def _compiled(self) -> Any:
        import cel

        try:
            return cel.compile(self.text)
        except ValueError as error:
            raise self._syntax_error(str(error)) from None

    def _syntax_error(self, text: str) -> ExpressionError:
        found = _PLACE.search(text)
        if found is None or "Recursion limit" in text:
            return ExpressionError(f"The {self.role} cannot be read: it is nested too deeply. {_HINTS[self.role]}")
        line, column, reason = found.groups()
        reason = reason.partition(" expecting ")[0].removeprefix("Syntax error: ")
        return ExpressionError(
            f"The {self.role} is no CEL: line {line}, column {column}: {reason}. {_HINTS[self.role]} {_KNOWS}"
        )

    def _refuse_unknown(self) -> None:
        used = self._program.references()
        known = {*VARIABLES, *_TYPES, *self._tokens.bound, "math", "optional"}
        for name in sorted(set(used["variables"]) - known):
            raise ExpressionError(f"The {self.role} uses {name!r}{self._place(name)}, which is not defined. {_KNOWS}")
        functions = {*_OPTIONAL, *(name.rpartition(".")[2] for name in _FUNCTIONS)}
        for name in sorted(set(used["functions"]) - functions):
            if not _OPERATOR.search(name):
                raise ExpressionError(
                    f"The {self.role} calls {name!r}{self._place(name)}, which is no function here. There are "
                    f"{', '.join(sorted(_FUNCTIONS))}."
                )

    def _refuse_patterns(self) -> None:
        """Check each regular expression now: else it would fail on every message, or be compiled anew for each."""
        import cel

        for literal, start in self._tokens.patterns:
            if literal is None:
                raise ExpressionError(
                    f"The pattern of matches{self._place_at(start)} is no text in quotes, so it cannot be checked. "
                    "Write e.g. msg.symbol.matches('^BTC')."
                )
            try:
                cel.compile(f"''.matches({literal})").execute({})
            except Exception as error:  # noqa: BLE001 - the library's own, of whatever type
                lines = [line.removeprefix("error: ") for line in str(error).splitlines() if line.strip()]
                reason = lines[-1].partition(". Check function")[0].rstrip(".") if lines else "it cannot be read"
                raise ExpressionError(
                    f"The pattern {literal}{self._place_at(start)} is no regular expression (RE2): {reason}."
                ) from None

    def _place(self, name: str) -> str:
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.text)
        return "" if found is None else self._place_at(found.start())

    def _place_at(self, start: int) -> str:
        before = self.text[:start]
        return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"

    def _try(self) -> None:
        """Evaluate on a made-up message, in which every field that is named is 1: wrong types show at once."""
        fields = {name for match in _FIELD.findall(self.text) for name in match if name}
        values = {
            "msg": dict.fromkeys(fields, "1"),
            "num": dict.fromkeys(fields, 1.0),
            "topic": "t",
            "id": "1-1",
            "sent": 1,
        }
        try:
            self._refuse_steps(len(fields))
            result = self._run(values)
        except ExpressionFailed as error:
            raise ExpressionError(str(error)) from None
        except TypeError as error:
            raise ExpressionError(f"The {self.role} mixes types: {_reason(error)} {_KNOWS}") from None
        except Exception as error:  # noqa: BLE001 - what a made-up message cannot have: times, other fields
            if "Undefined variable or function" in str(error):
                raise ExpressionError(f"The {self.role} cannot be called so: {_reason(error)} {_KNOWS}") from None
            return
        try:
            self._checked(result)
        except ExpressionFailed as error:
            raise ExpressionError(str(error)) from None


def may_be_cheap(text: str) -> bool:
    """Whether an expression can be ``cheap`` on small messages: it has no loop and no regular expression."""
    return _is_plain(tokens_of(text))


def _is_plain(tokens: Tokens) -> bool:
    return not tokens.macros and not tokens.patterns


def values_of(message: Message) -> dict[str, Any]:
    """What expressions see of a message.

    Raises:
        ExpressionFailed: the message is too large.
    """
    size = sum(len(name) + len(value) for name, value in (message.data or {}).items())
    if size > MOST_BYTES:
        raise ExpressionFailed(f"The message has {size:,} bytes; expressions take at most {MOST_BYTES:,}.")
    fields = message.message
    identifier = message.key or "0-0"
    sent = (message.data or {}).get(SENT, b"")
    moment = int(sent) if sent.isdigit() and len(sent) < 19 else int(identifier.partition("-")[0])
    return {
        "msg": fields,
        "num": dict(_numbers(fields)),
        "topic": message.topic or "",
        "id": identifier,
        "sent": moment,
    }


def _numbers(fields: dict[str, str]) -> Iterator[tuple[str, float]]:
    for name, text in fields.items():
        if _NUMBER.fullmatch(text):
            value = float(text)
            if abs(value) != float("inf"):
                yield name, value


def _context() -> Any:
    import cel
    from cel import stdlib

    context = cel.Context()
    for name in _EXTRA.split():
        context.add_function(name, stdlib.STDLIB_FUNCTIONS[name])
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        name = error.args[0]
        return f"the message has no field {name!r}, or in num no number in it; has(msg.{name}) asks first."
    text = str(error).partition(" CEL does not coerce")[0]
    return text if text.endswith(".") else f"{text}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
