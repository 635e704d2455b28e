"""What an alert waits for: an expression over the newest row of a series, its indicators, and the rows before.

The words are close, open, high, low, volume (of a tick: price, volume); indicators as ``sma20``, ``rsi14`` or
``sma(volume, 20)``; ``prev.close`` or ``prev(EXPRESSION)`` for the row before; ``cross(a, b)``, ``cross_up``,
``cross_down``; abs, min, max, round, floor, ceil, sqrt; numbers, comparisons, ``&&``, ``||``, ``!``, ``? :``.

A condition is rewritten into CEL over plain numbers, without loops or texts, so it costs next to nothing: every word
becomes a variable, and a crossing a comparison of two moments. The CEL of declared agents then checks and evaluates it
(``runtime/declared/expressions.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streammachine.errors import IndicatorError, StreamMachineError
from streammachine.indicators import Indicator, parse
from streammachine.redis.streams import nearest
from streammachine.runtime.declared.expressions import Expression, ExpressionError, ExpressionFailed

LONGEST = 500  # characters
MOST_TOKENS = 200
MOST_CEL = 2000  # characters, once it is rewritten
MOST_INDICATORS = 10
MOST_BACK = 3  # rows before the newest one
SERIES = ("open", "high", "low", "close", "volume", "price", "quote_volume", "vwap", "n_trades")
PRICES = ("open", "high", "low", "close", "volume")
_CROSSINGS = ("cross", "cross_up", "cross_down")
_FUNCTIONS = {
    "abs": "math.abs",
    "min": "math.least",
    "max": "math.greatest",
    "round": "math.round",
    "floor": "math.floor",
    "ceil": "math.ceil",
    "sqrt": "math.sqrt",
}
_WORDS = {"and": "&&", "or": "||", "not": "!"}
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>(?:\d[\w.]*|\.\d[\w.]*)(?:(?<=[eE])[+-]\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>&&|\|\||[<>=!]=|[-+*/<>!?:(),.])"
)
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_INDICATOR = re.compile(r"([a-z]+)_?(\d+(?:_\d+)*)((?:_[a-z]+)?)")
_EXAMPLES = "close > 50000, cross(close, sma20), or rsi14 < 30 && volume > 2 * sma(volume, 20)"


class ConditionError(StreamMachineError, ValueError):
    """A condition is refused; the text says why and what to write."""


@dataclass(frozen=True)
class Variable:
    """A number that a condition sees.

    Attributes:
        back: how many rows before the newest. name: the field of the row; "" for an indicator.
        indicator: the indicator, whose ``column`` it is. on: the field that it is computed of ("" its usual ones).
    """

    back: int
    name: str = ""
    indicator: Indicator | None = None
    column: str = ""
    on: str = ""


class AlertCondition:
    """A condition, checked and compiled.

    Attributes:
        text: as it was given. variables: what it sees, by the names that its CEL has. rows: how many of the newest rows
        its variables need. crosses: it holds at crossings only, so at each row where it does, it has become true anew.

    Raises:
        ConditionError: it is refused.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if not self.text or len(self.text) > LONGEST:
            raise ConditionError(f"A condition has 1 to {LONGEST} characters, e.g. {_EXAMPLES}.")
        writer = _Writer(self.text)
        self.cel = writer.cel
        self.variables = writer.variables
        self.crosses = writer.crosses
        history = max((each.back + _history(each) for each in self.variables.values()), default=0)
        self.rows = history + 1
        if not self.variables:
            raise ConditionError(
                f"The condition {self.text!r} asks for nothing of the candles: write e.g. {_EXAMPLES}."
            )
        try:
            self._expression = Expression(self.cel, "filter")
        except ExpressionError as error:
            raise ConditionError(f"The condition {self.text!r} cannot be read: {_own_words(error)}") from None
        if not self._expression.cheap(sum(len(name) + 24 for name in self.variables)):
            raise ConditionError(f"The condition {self.text!r} is too much for every candle: make two alerts of it.")

    def holds(self, values: dict[str, float]) -> bool:
        """Whether it holds.

        Args:
            values: each variable's number, by its name in ``variables``.

        Raises:
            ConditionError: it cannot be evaluated on these.
        """
        seen = {"msg": {}, "num": values, "topic": "", "id": "0-0", "sent": 0}
        try:
            return bool(self._expression.evaluate(seen))
        except ExpressionFailed as error:
            raise ConditionError(f"The condition {self.text!r} fails: {_own_words(error)}") from None


class _Writer:
    """Writes a condition as CEL."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.variables: dict[str, Variable] = {}
        self._tokens = self._read()
        words = {_WORDS.get(what.lower(), what) for _, what in self._tokens}
        self.crosses = not words.isdisjoint(_CROSSINGS) and words.isdisjoint(("||", "!", "?", "==", "!="))
        self.cel = self._written(self._tokens, 0)
        if len(self.cel) > MOST_CEL:
            raise self._error("is too long once crossings are written out")

    def _read(self) -> list[tuple[str, str]]:
        tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._error(f"has {self._text[at]!r}, which means nothing here (character {at + 1})")
            at = match.end()
            if match.lastgroup != "space":
                tokens.append((str(match.lastgroup), match[0]))
        if len(tokens) > MOST_TOKENS:
            raise self._error(f"has {len(tokens)} words and signs; at most {MOST_TOKENS} are taken")
        return tokens

    def _written(self, tokens: Sequence[tuple[str, str]], back: int) -> str:
        """The CEL of some tokens, ``back`` rows before the newest."""
        if back > MOST_BACK:
            raise self._error(f"looks more than {MOST_BACK} rows back")
        parts: list[str] = []
        at = 0
        while at < len(tokens):
            kind, what = tokens[at]
            following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
            if kind == "number":
                parts.append(self._number(what))
            elif kind == "name" and following == "(" and what not in _WORDS:
                end = self._closing(tokens, at + 1)
                parts.append(self._call(what, _split(tokens[at + 2 : end]), back))
                at = end
            elif what == "prev" and following == ".":
                name = tokens[at + 2][1] if at + 2 < len(tokens) else ""
                parts.append(self._variable(name, back + 1))
                at += 2
            elif kind == "name":
                parts.append(_WORDS.get(what.lower()) or self._variable(what, back))
            elif what in (",", "."):
                raise self._error(f"has a {what!r} where none belongs")
            else:
                parts.append(what)
            at += 1
        return " ".join(parts)

    def _number(self, text: str) -> str:
        plain = text.replace("_", "")
        if not _NUMBER.fullmatch(plain) or not float(plain) < float("inf"):
            raise self._error(f"has {text!r}, which is no number: write 50000, 0.5 or 1e-6")
        return plain if re.search(r"[.eE]", plain) else f"{plain}.0"

    def _call(self, name: str, arguments: list[Sequence[tuple[str, str]]], back: int) -> str:
        if name in _CROSSINGS:
            if len(arguments) != 2:
                raise self._error(f"gives {name} {len(arguments)} arguments; it takes two: {name}(close, sma20)")
            (a, b), (was_a, was_b) = (
                [f"({self._written(each, moment)})" for each in arguments] for moment in (back, back + 1)
            )
            up, down = f"({a} > {b} && {was_a} <= {was_b})", f"({a} < {b} && {was_a} >= {was_b})"
            return {"cross": f"({up} || {down})", "cross_up": up, "cross_down": down}[name]
        if name == "prev":
            if len(arguments) != 1:
                raise self._error("gives prev not one argument: prev(close), or prev.close")
            return f"({self._written(arguments[0], back + 1)})"
        if name in _FUNCTIONS:
            inside = ", ".join(self._written(each, back) for each in arguments)
            return f"{_FUNCTIONS[name]}({inside})"
        return self._indicator_call(name, arguments, back)

    def _indicator_call(self, name: str, arguments: list[Sequence[tuple[str, str]]], back: int) -> str:
        texts = ["".join(what for _, what in each) for each in arguments]
        on = texts.pop(0) if texts and texts[0] in (*PRICES, "price") else ""
        if not all(_NUMBER.fullmatch(text) for text in texts):
            raise self._error(
                f"calls {name}({', '.join(texts)}): an indicator takes a field and numbers, as sma(volume, 20), and "
                f"there are the functions {', '.join([*_CROSSINGS, 'prev', *_FUNCTIONS])}"
            )
        return self._indicator(
            f"{name}:{','.join(texts)}" if texts else name, "", "close" if on == "price" else on, back
        )

    def _variable(self, name: str, back: int) -> str:
        if name in ("true", "false"):
            return name
        if name in SERIES:
            return self._seen(Variable(back, name))
        if match := _INDICATOR.fullmatch(name):
            return self._indicator(f"{match[1]}:{match[2].replace('_', ',')}", match[3], "", back)
        if re.fullmatch(r"[a-z]+[a-z0-9_]*", name) and _is_indicator(name):
            return self._indicator(name, "", "", back)
        known = [*SERIES, *_CROSSINGS, *_FUNCTIONS, "prev", "sma20", "ema50", "rsi14", "atr14"]
        raise self._error(
            f"has {name!r}, which is not known.{nearest(name, known)} There are {', '.join(SERIES)}, indicators as "
            "sma20 or rsi14, prev.close and cross(a, b)"
        )

    def _indicator(self, text: str, output: str, on: str, back: int) -> str:
        try:
            indicator = parse(text)
        except IndicatorError as error:
            raise self._error(f"asks for an indicator that there is not. {error}", whole=True) from None
        column = indicator.columns[0] if not output else ""
        for each in indicator.columns:
            if output and each.endswith(output):
                column = each
        if not column or (indicator.columns[0] != column and not output):
            raise self._error(f"asks for {output[1:]!r} of {text}, which gives {', '.join(indicator.columns)}")
        return self._seen(Variable(back, indicator=indicator, column=column, on="" if on == "close" else on))

    def _seen(self, variable: Variable) -> str:
        name = variable.name or variable.column + (f"_of_{variable.on}" if variable.on else "")
        if variable.back:
            name = f"prev{variable.back}_{name}"
        self.variables[name] = variable
        if len({each.indicator.text + each.on for each in self.variables.values() if each.indicator}) > MOST_INDICATORS:
            raise self._error(f"has more than {MOST_INDICATORS} indicators")
        return f"num.{name}"

    def _closing(self, tokens: Sequence[tuple[str, str]], opening: int) -> int:
        depth = 0
        for at in range(opening, len(tokens)):
            depth += {"(": 1, ")": -1}.get(tokens[at][1], 0)
            if depth == 0:
                return at
        raise self._error("has a bracket that is not closed")

    def _error(self, what: str, *, whole: bool = False) -> ConditionError:
        return ConditionError(f"The condition {self._text!r} {what}{'' if whole else '.'}")


def _split(tokens: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    """The arguments of a call."""
    found: list[list[tuple[str, str]]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token[1], 0)
        if token[1] == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return [each for each in found if each] if found != [[]] else []


def _history(variable: Variable) -> int:
    if variable.indicator is None:
        return 0
    return variable.indicator.history if not variable.indicator.cumulative else 0


def _is_indicator(name: str) -> bool:
    try:
        parse(name)
    except IndicatorError:
        return False
    return True


def _own_words(error: Exception) -> str:
    text = str(error).replace("The filter ", "it ").replace("num.", "")
    return re.split(r" A filter is | It knows ", text)[0]
