"""From a frame of an exchange to the Kline that goes to the sinks, and the memory that takes.

    python -m benchmarks.market [--frames 100000] [--rounds 7] [--memory 5000000] [--no-peer] [--json]

The floor is what cannot be avoided: ``orjson.loads`` of the frame, and one pydantic validation of the candle's values.
"decoded" is the adapter alone, "emitted" the whole way of a frame in a runner: adapter, ledger of the feed (order,
duplicates, holes) and pipeline, which hands on every state of every candle. Frames are of 50 symbols, 30 a candle, the
last one closing it. streamforge 0.1.3 takes the same frames: "normalised" is from bytes to its own Kline and nothing
more, "streamed" what its stream() does with them. Everybody in turns, by the processor's time; quote the ratios.
Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import heapq
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import orjson

from benchmarks.measuring import Row, keep, median_ratio, table
from benchmarks.streamforge import StreamForge, streamforge
from streammachine.market.aggregation.pipeline import Pipeline
from streammachine.market.clock.clock import SystemClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.live.feed import Feed
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Kline
from streammachine.market.model.timeframe import MILLISECONDS

START_MS = 1_699_999_980_000  # the start of a minute
MINUTE = 60_000
SYMBOLS = 50
PUSHES = 30  # of one candle
CHUNK = 100_000  # frames made at a time for the memory's sake
STEPS = 5  # looks at the memory

Stamped = tuple[int, bytes]  # when the frame came, epoch ms; the frame


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print tables, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Frames of exchanges to Klines.")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, default=5_000_000, help="frames; 0: leave it out")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--peer-python", help="an interpreter that has streamforge, instead of a new environment")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-", ignore_cleanup_errors=True) as folder:
        if options.no_peer:
            found = {"frames": frames(options.frames, options.rounds, None, Path(folder))}
        else:
            with streamforge(Path(folder), options.peer_python) as peer:
                found = {"frames": frames(options.frames, options.rounds, peer, Path(folder))}
    if options.memory:
        found["memory"] = memory(options.memory)
    keep(found)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, rows in found.items():
        print(f"{name}\n{table(rows)}\n")


# -- time -------------------------------------------------------------------------------------


def frames(count: int, rounds: int, peer: StreamForge | None, folder: Path) -> list[Row]:
    """Each exchange's frames from bytes to Klines, as multiples of the floor."""
    rows = []
    for road in ROADS:
        stamped = list(road.frames(count))
        runs: dict[str, Callable[[], float]] = {
            "floor": partial(timed, road.floor, stamped),
            "decoded": partial(timed, decoded, road, stamped),
            "emitted": partial(timed, emitted, road, stamped),
        }
        if peer is not None and road.name == COMBINED:
            path = folder / "frames"
            path.write_bytes(b"\n".join(frame for _, frame in stamped))
            peer.ask("frames", path=str(path))
            runs["streamforge normalised"] = lambda: float(peer.ask("normalise")["seconds"])
            runs["streamforge streamed"] = lambda: float(peer.ask("stream")["seconds"])
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                took = run()
                if number:  # the first round warms up
                    seconds[name].append(took)
        row: Row = {"frames": road.name, "floor us": min(seconds["floor"]) / len(stamped) * 1e6}
        row |= {f"{name} x floor": median_ratio(times, seconds["floor"]) for name, times in seconds.items()}
        row.pop("floor x floor")
        row["emitted a second"] = len(stamped) / min(seconds["emitted"])
        rows.append(row)
    return rows


def timed(run: Callable[..., object], *arguments: Any) -> float:
    """The seconds of the processor's time that it takes: what else runs on the machine counts less so."""
    began = time.process_time()
    run(*arguments)
    return time.process_time() - began


def decoded(road: RawConnection, stamped: list[Stamped]) -> None:
    """The adapter alone."""
    decode = adapter_for(road.exchange).decode
    for _, frame in stamped:
        decode(frame)


def emitted(road: RawConnection, stamped: list[Stamped]) -> None:
    """The way of a frame in a runner, without sockets and sinks."""
    core = Core(road)
    take, process = core.take, core.process
    rows = now = 0
    for moment, frame in stamped:
        if moment != now:
            now = moment
            rows += len(core.tick(now))
        rows += len(process(take(frame, now)))
    if rows < len(stamped):
        raise RuntimeError(f"{len(stamped)} frames of {road.name}, and {rows} rows came out")


class Core(Feed):
    """A feed and a pipeline, without socket and sinks. Timers are looked at when the frames' time moves on."""

    def __init__(self, road: RawConnection) -> None:
        adapter = adapter_for(road.exchange)
        wanted = DataInput("kline", [road.symbol(number) for number in range(SYMBOLS)], road.timeframe)
        super().__init__(adapter, wanted, urls=adapter.urls(), rest=None, clock=SystemClock())
        self.process = Pipeline(wanted, adapter.source, only_closed=False).process

    def tick(self, moment: int) -> list[Any]:
        """What the sinks get because time has come so far."""
        rows: list[Any] = []
        while self._timers and self._timers[0][0] <= moment:
            due, _, ledger = heapq.heappop(self._timers)
            if ledger.due == due:
                ledger.tick(moment, rows)
        return self.process(rows)


# -- memory -----------------------------------------------------------------------------------


def memory(count: int) -> list[Row]:
    """What the process holds on the way through so many frames."""
    road = ROADS[0]
    core = Core(road)
    rows: list[Row] = []
    done = 0
    stamped = road.frames(count + CHUNK)
    for target in (CHUNK, *(CHUNK + count * step // STEPS for step in range(1, STEPS + 1))):
        while done < target:
            moment, frame = next(stamped)
            core.tick(moment)
            core.process(core.take(frame, moment))
            done += 1
        row: Row = {"frames so far": done, "resident MB": resident_mb()}
        row["grown MB"] = row["resident MB"] - rows[0]["resident MB"] if rows else 0.0
        rows.append(row)
    return rows


def resident_mb() -> float:
    """What this process holds of the memory; where the system does not say so, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 1e6


# -- frames -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawConnection:
    """The frames of one exchange.

    Attributes:
        frame: what it sends: (symbol, start of the candle, price, volume, closed).
        floor: reads frames with as little as can be.
        symbol: the number's symbol. timeframe: of its candles.
    """

    name: str
    exchange: str
    symbol: Callable[[int], str]
    frame: Callable[[str, int, float, float, bool], bytes]
    floor: Callable[[list[Stamped]], None]
    timeframe: str = "1m"

    def frames(self, count: int) -> Iterator[Stamped]:
        """So many, in the order of their time; all of them distinct."""
        left = count
        length = MILLISECONDS[self.timeframe]
        start = START_MS // length * length
        symbols = [self.symbol(number) for number in range(SYMBOLS)]
        while True:
            for push in range(1, PUSHES + 1):
                moment = start + push * length // PUSHES
                for number, symbol in enumerate(symbols):
                    if not left:
                        return
                    left -= 1
                    price = 60_000 + (start // MINUTE * 7 + number * 31) % 1000 + push / 100
                    yield moment, self.frame(symbol, start, price, push / 7, push == PUSHES)
            start += length


def binance(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    return (
        f'{{"e":"kline","E":{start + 2000},"s":"{symbol}","k":{{"t":{start},"T":{start + MINUTE - 1},"s":"{symbol}",'
        f'"i":"1m","f":100,"L":200,"o":"60000.50000000","c":"{price:.8f}","h":"62000.00000000","l":"59000.00000000",'
        f'"v":"{volume:.8f}","n":100,"x":{"true" if closed else "false"},"q":"{volume * price:.8f}",'
        f'"V":"0.50000000","Q":"30000.00000000","B":"0"}}}}'
    ).encode()


def combined(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    inner = binance(symbol, start, price, volume, closed)
    return b'{"stream":"' + symbol.lower().encode() + b'@kline_1m","data":' + inner + b"}"


def okx(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    return (
        f'{{"arg":{{"channel":"candle1m","instId":"{symbol}"}},"data":[["{start}","60000.5","62000","59000",'
        f'"{price:.2f}","{volume:.8f}","{volume * price:.8f}","{volume * price:.8f}","{int(closed)}"]]}}'
    ).encode()


def kraken(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start // 1000))
    return (
        f'{{"channel":"ohlc","type":"update","timestamp":"{begin}.084233010Z","data":[{{"symbol":"{symbol}",'
        f'"open":60000.5,"high":62000,"low":59000,"close":{price:.2f},"trades":27,"volume":{volume:.8f},'
        f'"vwap":60100.2,"interval_begin":"{begin}.000000000Z","interval":1,"timestamp":"{begin}.000000Z"}}]}}'
    ).encode()


def bybit(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    return (
        f'{{"topic":"kline.1.{symbol}","data":[{{"start":{start},"end":{start + MINUTE - 1},"interval":"1",'
        f'"open":"60000.5","close":"{price:.2f}","high":"62000","low":"59000","volume":"{volume:.6f}",'
        f'"turnover":"{volume * price:.7f}","confirm":{"true" if closed else "false"},"timestamp":{start + 14563}}}],'
        f'"ts":{start + 14563},"type":"snapshot"}}'
    ).encode()


def coinbase(symbol: str, start: int, price: float, volume: float, closed: bool) -> bytes:
    row = {"start": str(start // 1000), "high": f"{price * 1.0002:.2f}", "low": f"{price * 0.9998:.2f}"}
    row |= {"open": f"{price:.2f}", "close": f"{price * 1.0001:.2f}", "volume": f"{volume:.8f}", "product_id": symbol}
    head = {"channel": "candles", "client_id": "", "timestamp": "2023-11-14T22:13:02.396253500Z", "sequence_num": 0}
    return orjson.dumps({**head, "events": [{"type": "update", "candles": [row]}]})


# -- the floor: JSON, and one validation of the values, which have their names already or get them from a zip ----------

_validate = Kline.__pydantic_validator__.validate_python


def floor_binance(stamped: list[Stamped]) -> None:
    for _, frame in stamped:
        _validate(orjson.loads(frame)["k"])


def floor_combined(stamped: list[Stamped]) -> None:
    for _, frame in stamped:
        _validate(orjson.loads(frame)["data"]["k"])


def floor_okx(stamped: list[Stamped]) -> None:
    names = ("t", "o", "h", "l", "c", "v", "_", "q", "x")
    more = ("s", "i", "T")
    for moment, frame in stamped:
        message = orjson.loads(frame)
        row = message["data"][0]
        _validate(dict(zip((*names, *more), (*row, message["arg"]["instId"], "1m", moment), strict=True)))


def floor_kraken(stamped: list[Stamped]) -> None:
    for moment, frame in stamped:
        row = orjson.loads(frame)["data"][0]
        row["tf"] = "1m"
        row["t"] = row["T"] = moment
        del row["interval_begin"], row["timestamp"]
        _validate(row)


def floor_bybit(stamped: list[Stamped]) -> None:
    for _, frame in stamped:
        message = orjson.loads(frame)
        row = message["data"][0]
        row["s"], row["i"], row["t"], row["T"] = message["topic"], "1m", row["start"], row["end"]
        _validate(row)


def floor_coinbase(stamped: list[Stamped]) -> None:
    for moment, frame in stamped:
        row = orjson.loads(frame)["events"][0]["candles"][0]
        row["s"], row["i"], row["t"], row["T"] = row["product_id"], "5m", moment, moment
        _validate(row)


COMBINED = "Binance, combined"
ROADS = (
    RawConnection("Binance", "binance", lambda number: f"COIN{number}USDT", binance, floor_binance),
    RawConnection(COMBINED, "binance", lambda number: f"COIN{number}USDT", combined, floor_combined),
    RawConnection("OKX", "okx", lambda number: f"COIN{number}-USDT", okx, floor_okx),
    RawConnection("Kraken", "kraken", lambda number: f"COIN{number}/USD", kraken, floor_kraken),
    RawConnection("Bybit", "bybit", lambda number: f"COIN{number}USDT", bybit, floor_bybit),
    RawConnection("Coinbase", "coinbase", lambda number: f"COIN{number}-USD", coinbase, floor_coinbase, "5m"),
)


if __name__ == "__main__":
    main()
