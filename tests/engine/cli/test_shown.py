"""Tables on narrow terminals, and others' data on any."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from streammachine.cli.inspect import COLUMNS, StreamRow, _table
from streammachine.cli.shown import fitting, shown
from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at

DATABASE = 9
EVIL = "\x1b[31mred\x07\x9b2J\u202e"


def test_what_a_terminal_obeys_is_shown_and_not_obeyed() -> None:
    assert shown("Zürich 東京 [red]") == "Zürich 東京 [red]"
    assert shown(EVIL) == "\\x1b[31mred\\x07\\x9b2J\\u202e"
    assert shown("a\n\tb\x1b") == "a\\n\\tb\\x1b"
    assert shown("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_the_names_stay_on_a_narrow_terminal(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width, highlight=False)
    rows = [
        StreamRow("orders.incoming", 21_000, 3.5, 5, "billing", 12, 7, 3.0, 2, "bill"),
        StreamRow("bills", 16, 0.0, 0),
    ]
    console.print(_table(console, rows, False, "here"))
    printed = output.getvalue()
    assert all(len(line) <= width for line in printed.splitlines())
    assert "…" not in printed
    for text in ("stream", "group", "lag", "pending", "orders.in", "billing", "bills", "12", "7"):
        assert text in printed
    if width == 140:
        assert all(name in printed for name in COLUMNS)
    else:
        assert "too narrow for" in printed or all(name in printed for name in COLUMNS)


def test_a_column_is_left_out_rather_than_cut() -> None:
    console = Console(file=io.StringIO(), width=50)
    letters = [["1795198870150-0", "rejected", "billing", "x" * 80]]
    table, left_out = fitting(
        console, ("id", "reason", "group", "error"), letters, folding=("error",), first_to_go=("group", "error")
    )
    assert left_out == ["group"]
    console.print(table)
    assert "1795198870150-0" in console.file.getvalue()  # type: ignore[attr-defined]


def test_commands_print_no_control_characters_of_others(cli: Any, shared_server: EmbeddedServer) -> None:
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto"})
    letter = {f"note{EVIL}": EVIL, "sm-group": "g", "sm-origin-stream": EVIL, "sm-origin-id": "1-1"}
    letter |= {"sm-reason": "retries", "sm-error": EVIL, "sm-traceback": f"Traceback\n{EVIL}\n"}
    with redis_at(url) as client:
        client.flushdb()
        client.xadd(EVIL, {"n": 1})
        client.xadd(f"{{{EVIL}}}:dlq", letter, id="1-0")
        try:
            for command in (
                ("inspect", "--once"), ("dlq", "list"), ("dlq", "list", EVIL), ("dlq", "show", EVIL, "1-0"),
            ):  # fmt: skip
                done = cli(*command)
                assert (done.returncode, done.stderr) == (0, "")
                assert "\\x1b[31mred" in done.stdout
                assert not set("\x1b\x07\x9b\u202e") & set(done.stdout)
        finally:
            client.flushdb()
