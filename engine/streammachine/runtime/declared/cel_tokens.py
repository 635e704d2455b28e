"""The tokens of a CEL expression: macros, loop variables, how deep macros nest, and regular expressions.

The compiled program gives the names that it uses, but not how often, nor which are loop variables. So the text is split
into tokens by CEL's grammar, with comments and strings recognised: a macro is ``.name(`` in whatever layout.
Grammar: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MACROS = frozenset({"map", "filter", "all", "exists", "exists_one"})

_TOKEN = re.compile(
    r"""
    (?P<space>   [\t\n\f\r\ ]+ | //[^\n]* )
  | (?P<string>  (?:[rR][bB]?|[bB][rR]) (?: \"{3}.*?\"{3} | '{3}.*?'{3} | \"[^"\n]*\" | '[^'\n]*' )
              |  [bB]? (?: \"{3}(?:\\.|.)*?\"{3} | '{3}(?:\\.|.)*?'{3} | \"(?:\\.|[^"\\\n])*\" | '(?:\\.|[^'\\\n])*' ) )
  | (?P<name>    [A-Za-z_]\w* )
  | (?P<number>  \d[\w.]* )
  | (?P<sign>    . )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


@dataclass
class Tokens:
    """The tokens of an expression, without space and comments, counted.

    Attributes:
        count: how many there are. macros: how many of them begin a macro. nesting: how deep macros are nested.
        bound: the loop variables. sums: how many ``+``. patterns: the arguments of ``matches``: the literal (None
        for what is no literal) and its position in the text.
    """

    count: int = 0
    macros: int = 0
    nesting: int = 0
    sums: int = 0
    bound: set[str] = field(default_factory=set)
    patterns: list[tuple[str | None, int]] = field(default_factory=list)


def tokens_of(text: str) -> Tokens:
    """The tokens of an expression; it must compile."""
    found = [
        (match.lastgroup, match[0], match.start()) for match in _TOKEN.finditer(text) if match.lastgroup != "space"
    ]
    tokens = Tokens(count=len(found), sums=sum(what == "+" for _, what, _ in found))
    opened: list[bool] = []  # the brackets that are open: whether each is a macro's
    for index, (kind, what, start) in enumerate(found):
        if what in ("(", "[", "{"):
            called = found[index - 1][1] if index and what == "(" and found[index - 1][0] == "name" else ""
            of_object = index > 1 and found[index - 2][1] == "."
            is_macro = called in MACROS and of_object
            if is_macro:
                tokens.macros += 1
                tokens.bound |= _first_name(found[index + 1 :])
            if called == "matches":
                tokens.patterns.append((_only_string(found[index + 1 : index + 3]) if of_object else None, start))
            opened.append(is_macro)
            tokens.nesting = max(tokens.nesting, sum(opened))
        elif what in (")", "]", "}") and kind == "sign" and opened:
            opened.pop()
    return tokens


def _first_name(rest: list[tuple[str | None, str, int]]) -> set[str]:
    """The loop variable: a macro's first argument."""
    for kind, what, _ in rest:
        if what != "(":  # it may be in brackets
            return {what} if kind == "name" else set()
    return set()


def _only_string(rest: list[tuple[str | None, str, int]]) -> str | None:
    """The string literal where that is the only argument; else None."""
    if len(rest) == 2 and rest[0][0] == "string" and rest[1][1] == ")":
        return rest[0][1]
    return None
