"""One spelling of markets for every exchange: what is traded against what, settled in what, until when.

``BTC/USDT`` is spot; ``BTC/USDT:USDT`` a linear contract (settled in the quote currency, or not in the base);
``BTC/USD:BTC`` an inverse one (settled in the base); ``BTC/USDT:USDT-261225`` is delivered on 25 December 2026.
A contract of 1,000 coins has the coin's name with the number, as exchanges call it: ``1000PEPE/USDT:USDT``.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Final, Literal

PairKind = Literal["SPOT", "LINEAR", "INVERSE"]
_FORM: Final = re.compile(
    r"(?P<base>[^\W_]{1,30})/(?P<quote>[^\W_]{1,15})(?::(?P<settle>[^\W_]{1,15})(?:-(?P<date>\d{6}))?)?"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A market in our spelling. ``date``: yymmdd of its delivery; empty where it has none."""

    base: str
    quote: str
    settle: str = ""
    date: str = ""

    def __str__(self) -> str:
        settled = f":{self.settle}" if self.settle else ""
        return f"{self.base}/{self.quote}{settled}{f'-{self.date}' if self.date else ''}"

    @property
    def kind(self) -> PairKind:
        """SPOT, LINEAR or INVERSE."""
        if not self.settle:
            return "SPOT"
        return "INVERSE" if self.settle == self.base else "LINEAR"


def parse_pair(text: str) -> Pair | None:
    """The market that a text in our spelling names, its letters made capitals; None: it is no such text."""
    found = _FORM.fullmatch(text.strip().upper())
    if found is None:
        return None
    return Pair(found["base"], found["quote"], found["settle"] or "", found["date"] or "")


def delivery(ms: object) -> str:
    """yymmdd (UTC) of a delivery time in epoch milliseconds, or of its text; empty where there is none.

    Perpetual contracts have none, 0, or a time beyond 2090 (Binance: 2100-12-25).
    """
    try:
        moment = int(str(ms))
    except ValueError:
        return ""
    if not 0 < moment < 3_786_912_000_000:
        return ""
    return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).strftime("%y%m%d")
