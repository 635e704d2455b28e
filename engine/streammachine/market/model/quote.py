"""Quote: the best bid and ask of a symbol at a moment."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field


class Quote(BaseModel):
    """The best bid and ask, with their sizes.

    Attributes:
        source, symbol: as in ``Kline``. pair: the symbol in the common spelling, where it is known.
        bid, ask: prices in the quote currency; None where nobody is on that side. bid_size, ask_size: what stands
            there, in the base currency.
        ts: the exchange's time of it in epoch milliseconds; where the exchange does not say, when it came.

    Raises:
        pydantic.ValidationError: a number is not finite, a price not above 0, a size below 0.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    source: str | None = None
    symbol: str
    pair: str | None = None
    bid: float | None = Field(gt=0)
    bid_size: float | None = Field(ge=0)
    ask: float | None = Field(gt=0)
    ask_size: float | None = Field(ge=0)
    ts: int

    @property
    def mid(self) -> float | None:
        """The price half way between bid and ask; None where one of them is missing."""
        return None if self.bid is None or self.ask is None else (self.bid + self.ask) / 2


_FIELDS: Final = set(Quote.model_fields)


def made_quote(fields: dict[str, Any]) -> Quote:
    """A Quote of all its fields, taken as they are: they were checked, and doing it again costs more than decoding."""
    made = object.__new__(Quote)
    put = object.__setattr__
    put(made, "__dict__", fields)
    put(made, "__pydantic_fields_set__", _FIELDS)
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made
