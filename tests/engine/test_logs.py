"""Log lines as JSON: one object a line, bounded, masked, and nobody waits for whoever reads stderr."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from streammachine.errors import SettingsError
from streammachine.logs import MOST_TEXT, JsonFormatter, StderrHandler
from streammachine.settings import Settings
from support.mcp import clean_environment


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(record)
    assert len(text.splitlines()) == 1
    found: dict[str, Any] = json.loads(text)
    return found


def record(text: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.getLogger("streammachine.x").makeRecord(
        "streammachine.x", logging.INFO, "f.py", 1, text, arguments, more.pop("exc_info", None), **more
    )


def test_a_record_is_one_object_with_its_exception_inside() -> None:
    try:
        raise ValueError("line one\nredis://:hunter2@example/0")
    except ValueError:
        found = line_of(record("of %s:\x85\u2028 %d", "streams", 3, exc_info=sys.exc_info()))
    assert found["message"] == "of streams:\x85\u2028 3"
    assert (found["level"], found["logger"], found["process"]) == ("INFO", "streammachine.x", os.getpid())
    assert found["time"].endswith("Z") and len(found["time"]) == 24
    assert found["exception"]["type"] == "ValueError"
    assert "Traceback" in found["exception"]["traceback"]
    assert "hunter2" not in json.dumps(found)


def test_secrets_are_masked_and_everything_is_bounded() -> None:
    extra = {"password": "hunter2", "url": "redis://me:hunter2@h", "n": 3, "bad": float("nan")}
    found = line_of(record("password=hunter2 " + "x" * 100_000, extra=extra))
    assert "hunter2" not in json.dumps(found)
    assert (found["password"], found["n"], found["bad"]) == ("***", 3, "nan")
    assert len(found["message"]) <= MOST_TEXT + 10
    assert "do not fit" in line_of(record("%d", "x"))["message"]


def test_nobody_waits_for_a_stderr_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    handler = StderrHandler(writer)
    handler.setFormatter(JsonFormatter())
    for number in range(30_000):  # far more than the pipe and the buffer take
        handler.handle(record("line %d %s", number, "x" * 100))
    got = b""
    while b"log lines were dropped" not in got:
        got += os.read(reader, 1 << 20)
    handler.flush()
    os.close(writer)
    lines = [json.loads(line) for line in got.splitlines()]
    assert lines[0]["message"].startswith("line 0 ")
    assert lines[-1]["level"] == "WARNING"
    dropped = int(lines[-1]["message"].split(" ")[0].replace(",", ""))
    assert dropped + len(lines) - 1 == 30_000
    os.close(reader)


def test_a_wrong_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match="STREAMMACHINE_LOG_FORMAT='xml' is not accepted: give text or json"):
        Settings()


def stderr_of(arguments: list[str], folder: Path, **extra: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a process of ours with JSON logs; its status and the objects on its stderr."""
    env = clean_environment({"STREAMMACHINE_LOG_FORMAT": "json", "STREAMMACHINE_DATA_DIR": str(folder), **extra})
    done = subprocess.run(
        [sys.executable, *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"" or arguments[0] != "-m"
    return done.returncode, [json.loads(line) for line in done.stderr.decode().splitlines()]


def test_an_app_process_logs_objects(tmp_path: Path, shared_server: Any) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        textwrap.dedent(
            """
            import logging, warnings, threading
            from streammachine import App
            app = App("logged", to_scan=False)

            @app.on_startup
            async def begin():
                log = logging.getLogger("mine")
                try:
                    1 / 0
                except ZeroDivisionError:
                    log.exception("it failed")
                warnings.warn("an old way")
                thread = threading.Thread(target=lambda: {}["missing"])
                thread.start()
                thread.join()
                raise RuntimeError("cannot begin")

            if __name__ == "__main__":
                app.start()
            """
        )
    )
    status, lines = stderr_of([str(script)], tmp_path, REDIS_URL=shared_server.url)
    assert status == 1
    failed = next(line for line in lines if line["message"] == "it failed")
    assert failed["exception"]["type"] == "ZeroDivisionError"
    assert any("an old way" in line["message"] for line in lines)
    assert any(line.get("exception", {}).get("type") == "KeyError" for line in lines)
    assert lines[-1]["level"] == "CRITICAL"
    assert "cannot begin" in lines[-1]["message"]


def test_the_command_and_the_server_say_errors_as_objects(tmp_path: Path) -> None:
    status, lines = stderr_of(
        ["-m", "streammachine.cli", "run", "nothing.py:app"], tmp_path, STREAMMACHINE_EMBEDDED="always"
    )
    assert status == 1
    assert [line["message"] for line in lines] == [f"There is no file {Path.cwd()}/nothing.py."]
    status, lines = stderr_of(["-m", "streammachine_mcp.entry", "--app", "no app"], tmp_path)
    assert (status, len(lines), lines[0]["level"]) == (2, 1, "ERROR")


def test_the_server_logs_objects(tmp_path: Path) -> None:
    status, lines = stderr_of(["-m", "streammachine_mcp.entry"], tmp_path, STREAMMACHINE_EMBEDDED="always")
    assert status == 0
    assert "ended" in [line["message"] for line in lines]
    assert {"time", "level", "logger", "message", "process"} <= set(lines[-1])
