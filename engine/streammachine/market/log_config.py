"""``streammachine.config``: where the engine's log lines go. A few settings of the standard ``logging``.

Every module logs to a logger below ``streammachine``. Nothing is configured at import, so Python's own rule holds
until one of these is called: warnings and errors go to stderr. What is set here stands in the logging module itself.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

ROOT: Final = "streammachine"
FORMAT: Final = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
METHODS: Final = ("debug", "info", "warning", "error", "critical")
_METHOD_OF: Final = {getattr(logging, method.upper()): method for method in METHODS}


class LogConfig:
    """Sends the engine's log lines to a logger of yours, a file, the console (stderr), or nowhere."""

    @property
    def logger(self) -> Any:
        """What gets the log lines: the object that was set, else the standard logger ``streammachine``."""
        for handler in logging.getLogger(ROOT).handlers:
            if isinstance(handler, _Forward):
                return handler.target
        return logging.getLogger(ROOT)

    @logger.setter
    def logger(self, target: Any) -> None:
        """Send every log line to ``target``: a standard logger, loguru's, or any object with the methods debug, info,
        warning, error and critical, each taking a text.

        Raises:
            TypeError: a method is missing; the text names it.
        """
        missing = [name for name in METHODS if not callable(getattr(target, name, None))]
        if missing:
            raise TypeError(
                f"{target!r} is no logger: it has no {', '.join(missing)}; give an object with {', '.join(METHODS)}"
            )
        if isinstance(target, logging.Logger):
            own = logging.getLogger(ROOT)
            if target is own:
                self._replace([], logging.NOTSET, propagate=True)
                return
            if target.name.startswith(f"{ROOT}."):
                raise TypeError(f"the logger {target.name!r} is one of those that are sent on: give another")
        self._replace([_Forward(target)], logging.DEBUG)

    def set_log_file(self, path: str | os.PathLike[str], console: bool = False) -> None:
        """Append log lines from INFO on to a file; with ``console`` to stderr too.

        Raises:
            OSError: the file cannot be written.
        """
        handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
        if console:
            handlers.append(logging.StreamHandler())
        self._replace(handlers)

    def set_console_only(self) -> None:
        """Write log lines from INFO on to stderr only."""
        self._replace([logging.StreamHandler()])

    def set_silent(self) -> None:
        """Write no log lines."""
        self._replace([logging.NullHandler()])

    def _replace(self, handlers: list[logging.Handler], level: int = logging.INFO, *, propagate: bool = False) -> None:
        own = logging.getLogger(ROOT)
        for handler in own.handlers[:]:
            own.removeHandler(handler)
            handler.close()
        for handler in handlers:
            handler.setFormatter(logging.Formatter(FORMAT))
            own.addHandler(handler)
        own.propagate = propagate
        own.setLevel(level)


class _Forward(logging.Handler):
    """Hands log lines to another object's debug, info, warning, error and critical."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            getattr(self.target, _METHOD_OF.get(record.levelno, "info"))(text)
        except Exception:  # noqa: BLE001 - logging's own way: a failing logger is reported, and ends nothing
            self.handleError(record)


config: Final = LogConfig()
