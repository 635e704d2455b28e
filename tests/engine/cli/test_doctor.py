"""``streammachine doctor`` on installations that are well and on such as are not."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import streammachine
from streammachine.cli import doctor
from support.contract import CONTRACT

BROKEN = {"STREAMMACHINE_COUNT": "many"}  # ends the doctor's visit before it opens Redis: the quick tests use it


def test_a_healthy_installation_has_nothing_to_mend(cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "Everything works." in done.stdout
    assert f"MCP handshake: {len(CONTRACT)} tools" in done.stdout
    assert "health: healthy" in done.stdout
    assert "embedded because" in done.stdout
    assert "bad" not in done.stdout
    assert done.stderr == ""
    assert list(cli.temporary.iterdir()) == []


def test_the_output_is_plain_text_when_it_is_no_terminal(cli) -> None:
    assert "\x1b" not in cli("doctor", **BROKEN).stdout


def test_no_line_is_wrapped_so_that_commands_and_paths_can_be_copied(cli) -> None:
    wanted = "a whole number from 1 to 100000"
    assert any(
        line.startswith("bad  Settings: STREAMMACHINE_COUNT='many'") and line.endswith(wanted)
        for line in cli("doctor", **BROKEN).stdout.splitlines()
    )


@pytest.mark.parametrize("width", [40, 60, 100])
def test_on_a_terminal_lines_are_broken_at_spaces_and_a_command_is_left_whole(width: int) -> None:
    path = "/home/somebody/.local/share/a-folder-with-hyphens/and-a-very-long-name-of-its-own/server.sock"
    seen = f"Valkey 9.1.0 at unix://{path}, embedded because nothing else was named; 0.4 ms"
    command = f"pip install --force-reinstall --no-deps 'streammachine-mcp[all]' && {path}"
    mend = "There is no C compiler here. Install one and Python's headers, then streammachine-mcp again."
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, soft_wrap=True)
    doctor._print(console, doctor.Finding("bad", "Redis", seen, f"Run: {command}"))
    doctor._print(console, doctor.Finding("note", "Wire codec", "not compiled: plain Python", mend))
    text = console.file.getvalue()
    lines = text.splitlines()
    assert f"        {command}" in lines
    assert " ".join(text.split()) == (
        f"bad Redis: {seen} -> Run: {command} note Wire codec: not compiled: plain Python -> {mend}"
    )
    for line in lines:
        assert len(line) <= width or path in line
    assert [line[:5] for line in lines].count("     ") == len(lines) - 2  # what goes on stands below its beginning


def test_a_setting_that_is_not_accepted_is_named_with_its_mend(cli) -> None:
    done = cli("doctor", **BROKEN)
    assert done.returncode == 1
    assert "-> Correct the variable or unset it." in done.stdout
    assert "1 to mend." in done.stdout


def test_a_redis_that_is_away_is_bad_and_the_server_starts_all_the_same(cli) -> None:
    done = cli("doctor", REDIS_URL="redis://user:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "bad  Redis: " in done.stdout
    assert "127.0.0.1:1" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert f"ok   MCP handshake: {len(CONTRACT)} tools" in done.stdout
    assert "health: unhealthy" in done.stdout
    assert "1 to mend." in done.stdout


def test_a_foreign_distribution_with_our_import_name_is_named(cli, importable: Callable[[str, str], None]) -> None:
    importable("streammachine-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: StreamMachine\nVersion: 0.1.0\n")
    importable("streammachine-0.1.0.dist-info/top_level.txt", "streammachine\n")
    done = cli("doctor", **BROKEN)
    assert done.returncode == 1
    assert "bad  Import name: 'streammachine' is also installed by streammachine " in done.stdout
    words = " ".join(done.stdout.split())  # no index has this distribution: pip is given what it was installed from
    assert "-> Run: pip uninstall streammachine && pip install --force-reinstall --no-deps --editable" in words
    assert str(Path(__file__).parents[3]) in words
    assert "2 to mend." in done.stdout


def test_a_server_that_fails_the_handshake_is_shown_with_its_last_words(
    cli, importable: Callable[[str, str], None]
) -> None:
    importable(
        "sitecustomize.py",
        "import os, sys\n"
        "if any('mcp' in part for part in sys.orig_argv[1:3]):\n"
        "    print('the disk is on fire', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n",
    )
    done = cli("doctor")
    assert done.returncode == 1
    assert "bad  MCP handshake: The MCP server did not start" in done.stdout
    assert "the disk is on fire" in done.stdout
    assert "-> Run it by hand to see more:" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("compiler", [False, True])
def test_a_missing_native_part_is_a_note_that_says_why(cli, compiler: bool) -> None:
    engine = cli.folder / "engine"
    package = Path(streammachine.__file__).parent
    shutil.copytree(package, engine / "streammachine", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    server = Path(sys.modules["streammachine"].__file__ or "").parents[2] / "server"
    tools = cli.folder / "bin"
    tools.mkdir()
    if compiler:
        (tools / "cc").write_text("#!/bin/sh\n")
        (tools / "cc").chmod(0o755)
    done = cli("doctor", PYTHONPATH=f"{engine}:{server}:{server.parent / 'prompts'}", PATH=str(tools), **BROKEN)
    assert "note Candle engine: not compiled: plain Python" in done.stdout
    assert "note Wire codec: not compiled: plain Python" in done.stdout
    assert "note Frame decoder: not compiled: plain Python" in done.stdout
    assert ("There is a C compiler" if compiler else "There is no C compiler") in done.stdout
    assert "1 to mend." in done.stdout


def test_claude_desktops_command_that_is_not_there_is_found(cli) -> None:
    cli.config.parent.mkdir(parents=True)
    cli.config.write_text(json.dumps({"mcpServers": {"streammachine": {"command": "/nowhere/streammachine-mcp"}}}))
    done = cli("doctor", **BROKEN)
    assert "bad  Claude Desktop: is told to run /nowhere/streammachine-mcp, which is not there" in done.stdout
    assert cli("install", "claude-desktop").returncode == 0
    assert "ok   Claude Desktop: runs " in cli("doctor", **BROKEN).stdout


def test_a_bare_command_of_claude_desktop_is_a_note(cli) -> None:
    cli.config.parent.mkdir(parents=True)
    cli.config.write_text(json.dumps({"mcpServers": {"streammachine": {"command": "streammachine-mcp"}}}))
    done = cli("doctor", **BROKEN)
    assert "note Claude Desktop: is told to run 'streammachine-mcp'" in done.stdout
    assert "1 to mend." in done.stdout
