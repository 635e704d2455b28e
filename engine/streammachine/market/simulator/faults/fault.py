"""Faults: what goes wrong at a simulated exchange, when, and for whom."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final

from streammachine.errors import DataInputError

KINDS: Final[dict[str, str]] = {
    # at a moment, for the sockets open then
    "reset": "the TCP connection is reset",
    "close": "the socket is closed with a code: value (1001; 1006 means without a close frame)",
    "cut": "the socket is closed as after its 24 hours",
    "notice": "the exchange announces a service upgrade, and cuts the socket after so many seconds (10)",
    "stall": "no more data; pings are still answered; lasts",
    "freeze": "nothing is read or written any more, the connection stays; lasts",
    "mute": "the streams of a symbol (and timeframe) fall silent on the sockets open then; lasts",
    "snapshot": "the last frame of each stream is sent again (Kraken: the snapshot)",
    "burst": "the last frame of each stream is sent value (1000) times",
    "error": "an error frame that nobody asked for",
    # for everybody, from a moment on
    "skew": "the exchange's clock is off by value milliseconds; lasts",
    "delist": "the symbol is no longer traded: silence",
    # connection attempts
    "refuse": "the handshake is refused: value reset, or an HTTP status; times",
    # acknowledgements
    "ack_error": "a subscription is refused, whatever it is; times",
    "ack_never": "a subscription is never acknowledged, nor served; times",
    "data_first": "data comes before the acknowledgement; times",
    # frames with data
    "duplicate": "a frame comes twice; times",
    "reorder": "a frame comes after value (2) later ones; times",
    "malformed": "a frame is broken JSON; times",
    "truncated": "a frame ends within a UTF-8 character; times",
    "unknown": "a frame of an unknown channel comes before a frame; times",
    "strings": "numbers come as texts and texts as numbers; times",
    "nan": "a price is NaN; times",
    "zero": "a price is 0; times",
    # closing frames of candles
    "late_close": "the closing frame comes so many seconds (5) later, after the next candle's first; times",
    "lost_close": "the closing frame never comes, on no socket; times",
    # REST
    "status": "an HTTP status: value (429), with Retry-After: seconds; times",
    "timeout": "no answer; after seconds (60) the connection is closed; times",
    "slow": "the body takes so many seconds (20); times",
    "half": "the connection ends half-way through the body; times",
    "garbage": "status 200 and a body that is HTML; times",
    "rest_refuse": "the connection is reset instead of an answer; times",
    "behind": "REST knows only what was so many seconds (5) ago; lasts",
    "missing": "REST lacks a candle: value its open_ts (by default the one that runs at that moment); lasts",
    "off_grid": "REST's and bulk files' candles begin at value (epoch ms, by default that moment), off the grid, for "
    "so many seconds (86400); those cut by it end early; lasts",
    "listing": "the symbol is listed with the status value (PreLaunch, CANCEL_ONLY, suspend, cancel_only ..); lasts",
}
UNLIMITED: Final = -1
NUMBERS = {"at", "lasts", "seconds"}
INTEGERS = {"connection", "after", "times"}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: one of ``KINDS``. at: seconds after the simulator's start, from which on it can happen.
        exchange, symbol, timeframe, connection: whom it hits; None: all. symbol is the tape's ("BTC/USDT");
            connection is the number of a socket of that exchange, from 1.
        after: so many occasions are let pass first. times: how many it hits then; -1: all.
        lasts: seconds until it is over; None: for ever.
        seconds, value: see the kind.

    Raises:
        DataInputError: the kind or a number is not accepted.
    """

    script: ClassVar[Callable[..., Any]]  # scripts.random_script under its old name, for one more version

    kind: str
    at: float = 0.0
    exchange: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    connection: int | None = None
    after: int = 0
    times: int = 1
    lasts: float | None = None
    seconds: float | None = None
    value: str | int | float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind), KINDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataInputError(f"there is no fault {self.kind!r}: give one of {', '.join(KINDS)}{hint}")
        if self.at < 0 or self.after < 0 or self.times < UNLIMITED or (self.lasts is not None and self.lasts < 0):
            raise DataInputError(f"the fault {self.kind}: at, after and lasts begin at 0, times at 0 (-1: always)")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault from its text form, ``kind[@seconds][#occasion][:name=value,...]``.

        Examples: ``reset@30``, ``close@10:value=1006``, ``malformed#5``, ``status:value=429,seconds=3,times=2``,
        ``missing@60:exchange=okx,symbol=BTC/USDT,lasts=20``. ``times=all`` means every time.

        Raises:
            DataInputError: the text is not of that form; the message says what is wrong.
        """
        found = re.fullmatch(r"\s*([\w-]+)(?:@([\d.]+))?(?:#(\d+))?(?::(.*))?\s*", text)
        if found is None:
            raise DataInputError(
                f"the fault {text!r} is not accepted: write kind@seconds:name=value,..., e.g. reset@30"
            )
        kind, at, occasion, rest = found.groups()
        given: dict[str, Any] = {}
        known = {field.name for field in fields(cls)} - {"kind"}
        for part in filter(None, (rest or "").split(",")):
            name, equals, value = part.partition("=")
            name = name.strip()
            if not equals or name not in known:
                raise DataInputError(f"the fault {text!r}: {part!r} is not accepted: give {', '.join(sorted(known))}")
            given[name] = _value(text, name, value.strip())
        if at is not None:
            given["at"] = _value(text, "at", at)
        if occasion is not None:
            given["after"] = max(int(occasion) - 1, 0)
        return replace(cls(kind.replace("-", "_")), **given)

    def __str__(self) -> str:
        """The text form."""
        parts = []
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in ("kind", "at") and value != each.default:
                parts.append(f"{each.name}={'all' if each.name == 'times' and value == UNLIMITED else value}")
        moment = f"@{self.at:g}" if self.at else ""
        return f"{self.kind}{moment}" + (":" + ",".join(parts) if parts else "")


def _value(text: str, name: str, value: str) -> str | int | float:
    try:
        if name == "times" and value == "all":
            return UNLIMITED
        if name in INTEGERS:
            return int(value)
        if name in NUMBERS:
            return float(value)
    except ValueError:
        raise DataInputError(f"the fault {text!r}: {name}={value} is not accepted: give a number") from None
    if name == "value":
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
