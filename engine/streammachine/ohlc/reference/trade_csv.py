"""Lines of a trade file into columns, in plain Python: what ``native/trade_csv.pxi`` does."""

from __future__ import annotations

from typing import Any

from streammachine.ohlc.trade_rows import ROLES, TradeRows, field_error, number_of, roles_of, time_of


def trade_lines(block: Any, places: dict[str, int], line: int = 1, separator: bytes = b",") -> TradeRows:
    """Whole lines of a trade file as columns.

    Args:
        block: bytes, or what has a buffer of them; lines end with LF or CR LF, empty ones are passed over.
        places: the column, from 0, of each role (``trade_rows.ROLES``); price, volume and time at least.
        line: the number of the first, for messages. separator: one byte.

    Returns:
        TradeRows.

    Raises:
        TickError: names the first line and field that cannot be used.
    """
    import numpy as np

    data = bytes(block)
    roles = roles_of(places)
    found: dict[str, list[Any]] = {role: [] for role in ("price", "volume", "time", "id", "fills", "symbol")}
    symbols: dict[bytes, int] = {}
    rows_of: list[int] = []
    for number, whole in enumerate(data.split(b"\n"), line):
        text = whole.removesuffix(b"\r")
        if not text:
            continue
        fields = _split(text, separator, len(roles))
        if len(fields) < len(roles):
            missing = [role for role in ROLES if role in places and places[role] >= len(fields)]
            if missing:
                raise field_error(number, missing[0], None, len(fields))
        values = {role: fields[place] for role, place in places.items()}
        for role in ("price", "volume", "time"):
            value: float | None = time_of(values[role]) if role == "time" else number_of(values[role])
            if value is None or (role != "time" and value < 0):
                raise field_error(number, role, values[role], 0)
            found[role].append(value)
        if "id" in places:
            found["id"].append(_id(values["id"]))
        if "first" in places and "last" in places:
            first, last = _id(values["first"]), _id(values["last"])
            found["fills"].append(last - first + 1 if 0 <= first <= last else 1)
        if "symbol" in places:
            if values["symbol"] not in symbols:
                rows_of.append(len(found["symbol"]))
            found["symbol"].append(symbols.setdefault(values["symbol"], len(symbols)))
    names = []
    for name, row in zip(symbols, rows_of, strict=True):
        try:
            names.append(name.decode())
        except UnicodeDecodeError:
            raise field_error(line + row, "symbol", name, 0) from None
    return TradeRows(
        np.array(found["price"], np.float64),
        np.array(found["volume"], np.float64),
        np.array(found["time"], np.int64),
        np.array(found["id"], np.int64) if "id" in places else None,
        np.array(found["fills"], np.int64) if "first" in places and "last" in places else None,
        np.array(found["symbol"], np.int32) if "symbol" in places else None,
        names,
        data.count(b"\n") + (data[-1:] not in (b"\n", b"")),
    )


def _split(text: bytes, separator: bytes, most: int) -> list[bytes]:
    """The first fields of a line; a field in quotes ends at the next one."""
    if b'"' not in text:
        return text.split(separator, most)[:most]
    fields: list[bytes] = []
    at = 0
    while len(fields) < most:
        if text[at : at + 1] == b'"':
            end = text.find(b'"', at + 1)
            end = len(text) if end < 0 else end
            fields.append(text[at + 1 : end])
            at = text.find(separator, end)
        else:
            end = text.find(separator, at)
            fields.append(text[at:] if end < 0 else text[at:end])
            at = end
        if at < 0:
            break
        at += 1
    return fields


def _id(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) <= 18 else -1
