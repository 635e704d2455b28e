"""A PNG on a terminal that shows pictures: iTerm2's and kitty's protocols, told by the environment.

The escape sequences are those of https://iterm2.com/documentation-images.html and
https://sw.kovidgoyal.net/kitty/graphics-protocol/ (``q=2``: the terminal answers nothing).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["iterm2", "kitty"]

_CHUNK = 4096  # the most that kitty takes in one sequence
_ITERM2 = ("iTerm.app", "WezTerm", "mintty", "vscode")
_KITTY = ("ghostty",)


def protocol_of(env: Mapping[str, str]) -> Protocol | None:
    """How the terminal of this environment shows pictures; None where it is not known to, as inside tmux."""
    if "TMUX" in env or env.get("TERM", "").startswith(("screen", "tmux", "dumb")):
        return None
    program = env.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in env or env.get("TERM") in ("xterm-kitty", "xterm-ghostty") or program in _KITTY:
        return "kitty"
    if program in _ITERM2 or env.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return None


def escape_sequence(png: bytes, protocol: Protocol) -> str:
    """What shows the picture when it is written to the terminal."""
    data = base64.b64encode(png).decode("ascii")
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(png)};width=80;preserveAspectRatio=1:{data}\a\n"
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    heads = ["a=T,f=100,c=80,q=2,", *[""] * (len(parts) - 1)]
    more = [*[1] * (len(parts) - 1), 0]
    return "".join(f"\x1b_G{h}m={m};{part}\x1b\\" for h, m, part in zip(heads, more, parts, strict=True)) + "\n"
