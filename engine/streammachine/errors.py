"""Every error this package raises on purpose, under one base.

The message of each says what failed, why, and what to do next; none holds a password.
"""

from __future__ import annotations


class StreamMachineError(Exception):
    """Base of all errors that StreamMachine raises on purpose."""


class SettingsError(StreamMachineError, ValueError):
    """A setting (environment variable or argument) has a value that is not accepted."""


class OwnKeyError(SettingsError):
    """The key is one that StreamMachine keeps its own things in; nothing else may write there."""


class RedisUnavailableError(StreamMachineError, ConnectionError):
    """The Redis server cannot be reached, or the connection broke before a reply came."""


class RedisAuthError(RedisUnavailableError):
    """The Redis server demands a password, or refuses the one given."""


class RedisTimeoutError(RedisUnavailableError, TimeoutError):
    """The Redis server did not answer in time; whether the command ran is not known."""


class RedisReadOnlyError(RedisUnavailableError):
    """The Redis server takes no writes: it is a replica, or has just become one. Nothing was written."""


class RedisDiskError(RedisUnavailableError):
    """The Redis server cannot write its data to its disk, so it refuses writes. Nothing was written."""


class RedisFullError(StreamMachineError, MemoryError):
    """The Redis server is at its memory limit and refuses writes."""


class RedisCommandError(StreamMachineError):
    """The Redis server refused a command."""


class RedisPermissionError(RedisCommandError):
    """The Redis server's ACL does not allow this user the command, or the key."""


class UnsupportedServerError(StreamMachineError):
    """The Redis server, or this platform, lacks what the call needs."""


class EmbeddedServerError(RedisUnavailableError):
    """The embedded Valkey cannot be started or adopted."""


class FieldError(StreamMachineError, ValueError):
    """A record cannot be written to a stream: a field's name or value is not accepted."""


class StreamIdError(StreamMachineError, ValueError):
    """A text does not name a position in a stream (id, time, or relative time)."""


class StreamNotFoundError(StreamMachineError, LookupError):
    """No stream has this name."""


class WrongTypeError(StreamMachineError, TypeError):
    """The key exists, but it is not of the type that the call needs."""


class CrossSlotError(StreamMachineError):
    """What must be written in one step stands in different slots of a Redis Cluster."""


class SerializationError(StreamMachineError, TypeError):
    """A value can be stored neither as JSON nor as a pickle."""


class SignatureError(StreamMachineError):
    """A stored pickle is unsigned, tampered with, or signed with another key. It was not loaded."""


class UnsafePickleError(StreamMachineError):
    """A stored pickle asks for more than plain data. It was not loaded."""


class ConflictError(StreamMachineError):
    """A value kept changing under an atomic update until the attempts ran out."""


class TickError(StreamMachineError, ValueError):
    """A tick is refused: price, volume, symbol or timestamp is not usable."""


class IntervalError(StreamMachineError, ValueError):
    """A candle interval is refused, or the aggregator does not have it."""


class SnapshotError(StreamMachineError, ValueError):
    """The bytes given to ``load`` are not a dump that this version reads."""


class AggregatorNotFoundError(StreamMachineError, LookupError):
    """No durable aggregator has this name."""


class AggregatorExistsError(StreamMachineError):
    """A durable aggregator of this name exists, with other intervals."""


class IndicatorError(StreamMachineError, ValueError):
    """An indicator is none, a parameter of it is not accepted, or TA-Lib is not installed."""


class ChartError(StreamMachineError, ValueError):
    """What is to be drawn cannot be, or matplotlib is not installed."""


class MarketError(StreamMachineError):
    """Base of the errors of the market road: exchanges, runners, backfill, emitters."""


class TimeframeError(MarketError, ValueError):
    """A timeframe is unknown, or the exchange does not have it."""


class SymbolError(MarketError, ValueError):
    """A symbol is not in the exchange's form, or the exchange does not have it."""


class DataInputError(MarketError, ValueError):
    """What is to be streamed or backfilled is not accepted as it is given."""


class UnknownExchangeError(MarketError, LookupError):
    """There is no adapter for this exchange."""


class ExchangeError(MarketError):
    """The exchange refused a request."""


class ExchangeUnavailableError(MarketError, ConnectionError):
    """The exchange cannot be reached, or did not answer in time."""


class EmitterError(MarketError):
    """A sink cannot be used as it is set up, or refuses a row; trying again would not help."""


class EmitterUnavailableError(EmitterError, ConnectionError):
    """A sink cannot be reached for now; trying again may help."""


class OutOfOrderError(EmitterError):
    """A candle is older than what its stream already holds, and is not in it."""


class TransformError(EmitterError):
    """A transformer failed on a row."""


def text_of(error: BaseException | None) -> str:
    """What an exception says; its kind, where saying it fails."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - the user's __str__
        return f"{type(error).__name__}, whose text cannot be told ({type(failure).__name__})"


def single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in a group; the group itself where there are several."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
