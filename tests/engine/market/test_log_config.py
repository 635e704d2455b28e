"""``streammachine.config``: where log lines go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import streammachine as sf

LOG = logging.getLogger("streammachine.market.test")


class Own:
    """A logger of the user's, only its five methods."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, text: str) -> None:
        self.lines.append(("debug", text))

    def info(self, text: str) -> None:
        self.lines.append(("info", text))

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))

    def error(self, text: str) -> None:
        self.lines.append(("error", text))

    def critical(self, text: str) -> None:
        self.lines.append(("critical", text))


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    sf.config.logger = logging.getLogger("streammachine")


def test_a_logger_of_ones_own_gets_every_line() -> None:
    own = Own()
    sf.config.logger = own
    assert sf.config.logger is own
    LOG.info("hello %s", "there")
    LOG.warning("look")
    LOG.critical("out")
    try:
        raise ValueError("wrong")
    except ValueError:
        LOG.exception("it failed")
    assert own.lines[:3] == [("info", "hello there"), ("warning", "look"), ("critical", "out")]
    assert own.lines[3][0] == "error"
    assert "ValueError: wrong" in own.lines[3][1]


def test_a_standard_logger_does_too(caplog: pytest.LogCaptureFixture) -> None:
    sf.config.logger = logging.getLogger("mine")
    with caplog.at_level(logging.INFO, logger="mine"):
        LOG.info("hello")
    assert [(record.name, record.message) for record in caplog.records] == [("mine", "hello")]


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(TypeError, match="it has no debug, info, warning, error, critical"):
        sf.config.logger = object()
    with pytest.raises(TypeError, match="one of those that are sent on"):
        sf.config.logger = LOG
    assert sf.config.logger is logging.getLogger("streammachine")


def test_a_file_gets_the_lines_and_the_console_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sf.config.set_log_file(tmp_path / "only.log")
    LOG.info("one")
    sf.config.set_log_file(str(tmp_path / "both.log"), console=True)
    LOG.info("two")
    sf.config.logger = logging.getLogger("streammachine")
    assert (tmp_path / "only.log").read_text().endswith("streammachine.market.test: one\n")
    assert (tmp_path / "both.log").read_text().endswith("streammachine.market.test: two\n")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "two" in shown.err
    assert "one" not in shown.err


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        sf.config.set_log_file(tmp_path / "nowhere" / "x.log")


def test_console_only_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    sf.config.set_console_only()
    LOG.info("shown")
    LOG.debug("not shown")
    shown = capsys.readouterr()
    assert (shown.out, "shown" in shown.err, "not shown" in shown.err) == ("", True, False)


def test_silent_is_silent(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    sf.config.set_silent()
    LOG.error("not shown")
    shown = capsys.readouterr()
    assert (shown.out, shown.err, caplog.records) == ("", "", [])


def test_a_logger_that_fails_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Own):
        def info(self, text: str) -> None:
            raise RuntimeError("broken")

    sf.config.logger = Broken()
    LOG.info("hello")
    assert "RuntimeError: broken" in capsys.readouterr().err
