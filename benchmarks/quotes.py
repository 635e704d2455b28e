"""Frames of quotes to Quotes, beside what cannot be avoided: ``orjson.loads`` and a dict of the values as floats.

    python -m benchmarks.quotes [--frames 50000] [--rounds 9]

Everybody in turns, by the processor's time; quote the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from benchmarks.measuring import Row, in_turns, keep, median_ratio, table
from streammachine.market.exchanges import adapter_for

Frames = list[bytes]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)


def binance(number: int) -> bytes:
    """A bookTicker of spot."""
    return orjson.dumps(
        {"u": 400_900_217 + number, "s": f"COIN{number % 97}USDT", "b": f"25.{number:08d}", "B": "31.21000000",
         "a": f"26.{number:08d}", "A": "40.66000000"}
    )  # fmt: skip


def okx(number: int) -> bytes:
    """A push of bbo-tbt."""
    row = {"asks": [[f"8476.{number}", "415", "0", "13"]], "bids": [[f"8475.{number}", "256", "0", "12"]],
           "ts": str(1_597_026_383_085 + number), "seqId": number}  # fmt: skip
    return orjson.dumps({"arg": {"channel": "bbo-tbt", "instId": f"COIN{number % 97}-USDT"}, "data": [row]})


def bybit(number: int) -> bytes:
    """A push of orderbook.1."""
    name = f"COIN{number % 97}USDT"
    book = {"s": name, "b": [[f"16493.{number}", "0.006"]], "a": [[f"16611.{number}", "0.029"]], "u": number, "seq": 7}
    ts = 1_672_304_484_978 + number
    return orjson.dumps({"topic": f"orderbook.1.{name}", "type": "snapshot", "ts": ts, "data": book, "cts": ts})


def kraken(number: int) -> bytes:
    """A ticker."""
    row = {"symbol": f"COIN{number % 97}/USD", "bid": 0.10025 + number, "bid_qty": 740.0, "ask": 0.10036 + number,
           "ask_qty": 1361.44813783, "last": 0.1, "volume": 997038.98, "vwap": 0.1, "low": 0.1}  # fmt: skip
    return orjson.dumps({"channel": "ticker", "type": "update", "data": [row]})


def coinbase(number: int) -> bytes:
    """A ticker."""
    row = {"type": "ticker", "product_id": f"COIN{number % 97}-USD", "price": f"21932.{number}",
           "volume_24_h": "16038.28770938", "low_24_h": "21835.29", "high_24_h": "23011.18", "low_52_w": "15460",
           "high_52_w": "48240", "price_percent_chg_24_h": "-4.15", "best_bid": f"21931.{number}",
           "best_bid_quantity": "8000.21", "best_ask": f"21933.{number}", "best_ask_quantity": "8038.07"}  # fmt: skip
    return orjson.dumps(
        {"channel": "ticker", "client_id": "", "timestamp": "2023-02-09T20:30:37.167359596Z", "sequence_num": number,
         "events": [{"type": "update", "tickers": [row]}]}
    )  # fmt: skip


def floor_binance(frame: bytes) -> dict[str, Any]:
    """As little as can be."""
    row = orjson.loads(frame)
    return {"source": "Binance", "symbol": row["s"], "pair": None, "bid": float(row["b"]), "bid_size": float(row["B"]),
            "ask": float(row["a"]), "ask_size": float(row["A"]), "ts": 0}  # fmt: skip


def floor_okx(frame: bytes) -> dict[str, Any]:
    """As little as can be."""
    message = orjson.loads(frame)
    row = message["data"][0]
    bid, ask = row["bids"][0], row["asks"][0]
    return {"source": "OKX", "symbol": message["arg"]["instId"], "pair": None, "bid": float(bid[0]),
            "bid_size": float(bid[1]), "ask": float(ask[0]), "ask_size": float(ask[1]),
            "ts": int(row["ts"])}  # fmt: skip


def floor_bybit(frame: bytes) -> dict[str, Any]:
    """As little as can be."""
    message = orjson.loads(frame)
    book = message["data"]
    bid, ask = book["b"][0], book["a"][0]
    return {"source": "Bybit", "symbol": book["s"], "pair": None, "bid": float(bid[0]), "bid_size": float(bid[1]),
            "ask": float(ask[0]), "ask_size": float(ask[1]), "ts": message["ts"]}  # fmt: skip


def floor_kraken(frame: bytes) -> dict[str, Any]:
    """As little as can be."""
    row = orjson.loads(frame)["data"][0]
    return {"source": "Kraken", "symbol": row["symbol"], "pair": None, "bid": float(row["bid"]),
            "bid_size": float(row["bid_qty"]), "ask": float(row["ask"]), "ask_size": float(row["ask_qty"]),
            "ts": 0}  # fmt: skip


def floor_coinbase(frame: bytes) -> dict[str, Any]:
    """As little as can be."""
    message = orjson.loads(frame)
    row = message["events"][0]["tickers"][0]
    return {"source": "Coinbase", "symbol": row["product_id"], "pair": None, "bid": float(row["best_bid"]),
            "bid_size": float(row["best_bid_quantity"]), "ask": float(row["best_ask"]),
            "ask_size": float(row["best_ask_quantity"]),
            "ts": (datetime.datetime.fromisoformat(message["timestamp"]) - EPOCH) // MILLISECOND}  # fmt: skip


ROADS: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], dict[str, Any]]]] = {
    "binance": (binance, floor_binance),
    "okx": (okx, floor_okx),
    "kraken": (kraken, floor_kraken),
    "bybit": (bybit, floor_bybit),
    "coinbase": (coinbase, floor_coinbase),
}


def main(argv: list[str] | None = None) -> None:
    """Measure; print the table."""
    parser = argparse.ArgumentParser(description="Frames of quotes to Quotes.")
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    rows = [asyncio.run(measured(name, options.frames, options.rounds)) for name in ROADS]
    keep(rows)
    print(table(rows))


async def measured(name: str, count: int, rounds: int) -> Row:
    """One exchange: seconds of both over the same frames."""
    made, floor = ROADS[name]
    frames = [made(number) for number in range(count)]

    async def run(decode: Callable[[bytes], Any]) -> None:
        for frame in frames:
            decode(frame)

    decode = adapter_for(name).decode
    seconds = await in_turns({"floor": partial(run, floor), "ours": partial(run, decode)}, rounds, time.process_time)
    return {
        "frames": name,
        "floor us": min(seconds["floor"]) / count * 1e6,
        "decode x floor": median_ratio(seconds["ours"], seconds["floor"]),
    }


if __name__ == "__main__":
    main()
