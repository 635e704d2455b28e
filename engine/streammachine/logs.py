"""Log lines of our processes: as text for people, or with ``STREAMMACHINE_LOG_FORMAT=json`` one JSON object a line.

They go to stderr and nowhere else. As JSON an exception stands inside its line, passwords are masked, a line is
bounded, and writing never waits: what stderr does not take is kept up to ``MOST_BYTES``, then dropped and counted, and
the count is a line of its own. Nothing is configured at import; a process of ours calls ``configure_logging`` once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from streammachine.errors import SettingsError, text_of
from streammachine.masking import HIDDEN, mask_text
from streammachine.settings import Settings

MOST_BYTES: Final = 1 << 20  # kept for a stderr that takes nothing at the moment
MOST_TEXT: Final = 16_384  # characters of a message; of a traceback, its end
MOST_EXTRA: Final = 20  # values given as ``extra=``
LAST_WRITE: Final = 0.5  # seconds at the end for what stderr has not taken yet
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHILD_TEXT: Final = "%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s"
_SECRET_NAMES = ("password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "signature")
_OWN = set(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


def configure_logging(
    level: str,
    *,
    log_format: str | None = None,
    stream: TextIO | Any = None,
    child: bool = False,
    force: bool = False,
    libraries: str | None = None,
) -> None:
    """Send log lines to stderr in the format that the settings name.

    Args:
        level: from which on, for the root logger.
        log_format: "text" or "json"; None: STREAMMACHINE_LOG_FORMAT.
        stream: what takes the lines and never waits, instead of stderr.
        child: as text with the process's number (JSON always has it).
        force: replace handlers that are there. Else nothing is done where the root logger has one.
        libraries: the root logger's level where only our own loggers have ``level``.
    """
    as_json = (log_format or chosen_format()) == "json"
    handler: logging.Handler
    if as_json:
        handler = StderrHandler() if stream is None else logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter())
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread
    else:
        handler = logging.StreamHandler(sys.stderr if stream is None else stream)
        handler.setFormatter(logging.Formatter(CHILD_TEXT if child else TEXT))
    logging.basicConfig(level=libraries or level, handlers=[handler], force=force)
    if libraries is not None:
        for name in ("streammachine", "streammachine_mcp"):
            logging.getLogger(name).setLevel(level)


def chosen_format() -> str:
    """What STREAMMACHINE_LOG_FORMAT names; "text" where a setting is wrong, which is said elsewhere."""
    try:
        return Settings().log_format
    except SettingsError:
        return "json" if os.environ.get("STREAMMACHINE_LOG_FORMAT", "").strip().lower() == "json" else "text"


def configure_command_logging() -> None:
    """What a command of the command line does first: where JSON is asked for, log so; else as Python does."""
    if chosen_format() != "json":
        return
    try:
        level = Settings().log_level
    except SettingsError:
        level = "INFO"
    configure_logging(level, log_format="json", libraries="WARNING")


def print_error(program: str, text: str) -> None:
    """Say on stderr why the process ends: a line for people, or a JSON object."""
    line = f"{program}: {text}"
    if chosen_format() == "json":
        record = logging.LogRecord(program, logging.ERROR, "", 0, text, (), None)
        line = JsonFormatter().format(record)
    print(line, file=sys.stderr)  # noqa: T201


class JsonFormatter(logging.Formatter):
    """A record as one JSON object in one line: time, level, logger, message, process; exception and extras if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        found: dict[str, Any] = {
            "time": _moment(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _shown(_message_of(record)),
            "process": record.process,
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            found["exception"] = {
                "type": type(error).__qualname__,
                "message": _shown(text_of(error)),
                "traceback": _shown("".join(traceback.format_exception(error)), end=True),
            }
        elif record.exc_text:
            found["exception"] = {"traceback": _shown(record.exc_text, end=True)}
        if record.stack_info:
            found["stack"] = _shown(record.stack_info, end=True)
        extras = [name for name in vars(record) if name not in _OWN and not name.startswith("_")]
        for name in extras[:MOST_EXTRA]:
            found.setdefault(name, _value(name, getattr(record, name)))
        return json.dumps(found)


class StderrHandler(logging.Handler):
    """Writes to stderr from a thread of its own, so that no log line waits for whoever reads it."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # the thread is the parent's

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._busy = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record to be written; never waits."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            with self._changed:
                # Once lines are dropped all are, until there is room: the count then stands where they are missing.
                if self._dropped or self._bytes + len(line) > MOST_BYTES:
                    self._dropped += 1
                    return
                self._add(line)
        except Exception:  # noqa: BLE001 - logging's own way: a failing handler is reported, and ends nothing
            self.handleError(record)

    def flush(self) -> None:
        """Wait until stderr has everything, ``LAST_WRITE`` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy, LAST_WRITE)

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        self._bytes += len(line)
        self._changed.notify_all()
        if self._thread is None:
            with contextlib.suppress(RuntimeError):  # the interpreter ends: no thread can begin any more
                self._thread = threading.Thread(target=self._write, name="log-lines", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait()
                self._busy = True
                line = self._waiting.popleft()
            view = memoryview(line)
            with contextlib.suppress(OSError):  # its reader is gone: nothing more can be written
                while view:
                    view = view[self._written(view) :]
            with self._changed:
                self._bytes -= len(line)
                if self._dropped and self._bytes < MOST_BYTES // 2:
                    text = f"{self._dropped:,} log lines were dropped: nobody read stderr"
                    self._dropped = 0
                    record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None)
                    self._add(self.format(record).encode() + b"\n")

    def _written(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:  # somebody made it non-blocking
            threading.Event().wait(0.01)
            return 0


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit the text: the line is said all the same
        return f"{record.msg} (its arguments do not fit: {text_of(error)})"


def _shown(text: str, *, end: bool = False) -> str:
    """The text, bounded and with its passwords masked."""
    if len(text) > MOST_TEXT:
        text = f"...{text[-MOST_TEXT:]}" if end else f"{text[:MOST_TEXT]}..."
    return mask_text(text)


def _value(name: str, value: Any) -> Any:
    if any(part in name.lower() for part in _SECRET_NAMES):
        return HIDDEN
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and value - value == 0:  # JSON has no NaN
        return value
    try:
        return _shown(str(value))
    except Exception:  # noqa: BLE001 - a value that cannot be shown takes no log line with it
        return f"<{type(value).__qualname__}>"


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("streammachine").critical("the process ends: %s", text_of(error), exc_info=(kind, error, trace))
    _flush_all()


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else "a thread"
    logging.getLogger("streammachine").error(
        "%s ended: %s", name, text_of(error), exc_info=(type(error), error, arguments.exc_traceback)
    )


def _flush_all() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


Notice = Callable[[int], str]


def dropped_notice(log_format: str) -> Notice:
    """What says that so many lines for stderr were dropped, in the format of the log."""

    def notice(count: int) -> str:
        text = f"{count:,} lines for stderr were dropped: nobody read it"
        if log_format != "json":
            return text
        return JsonFormatter().format(logging.LogRecord("streammachine", logging.WARNING, "", 0, text, (), None))

    return notice
