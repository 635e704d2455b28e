"""What stands in a CEL expression, token by token: macros, loop variables, how macros nest, and regular expressions.

The compiled program tells the names that it uses, but not how often, nor which are loop variables. So the text is cut
into tokens as CEL's grammar does, comments and strings as what they are: a macro is ``.name(`` in whatever layout.
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
    """The tokens of an expression, without space and comments, and what they make up.

    Attributes:
        count: how many there are. macros: how many of them begin a macro. nesting: how deep macros stand in macros.
        bound: the loop variables. sums: how many ``+``. patterns: the arguments of ``matches``: the literal and
        where it stands in the text, or None for what is no literal.
    """

    count: int = 0
    macros: int = 0
    nesting: int = 0
    sums: int = 0
    bound: set[str] = field(default_factory=set)
    patterns: list[tuple[str | None, int]] = field(default_factory=list)


def tokens_of(text: str) -> Tokens:
    """Read an expression that compiles."""
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
    """The loop variable that a macro's first argument is."""
    for kind, what, _ in rest:
        if what != "(":  # it may stand in brackets
            return {what} if kind == "name" else set()
    return set()


def _only_string(rest: list[tuple[str | None, str, int]]) -> str | None:
    """The string literal that is the one argument, or None."""
    if len(rest) == 2 and rest[0][0] == "string" and rest[1][1] == ")":
        return rest[0][1]
    return None
