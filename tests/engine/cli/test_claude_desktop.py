"""``streammachine install claude-desktop``: one clean entry, and nothing else is touched."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from streammachine.cli.claude_desktop import install_entry, server_command
from streammachine.errors import SettingsError
from support.mcp import LEGACY, RawClient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Claude" / "claude_desktop_config.json"


def install(path: Path, *, name: str = "streammachine", env: tuple[str, ...] = (), dry_run: bool = False) -> int:
    return install_entry(path, name=name, env=env, dry_run=dry_run)


def servers(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["mcpServers"]
    return found


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.bak"))


def test_a_missing_file_is_made_with_an_absolute_command(path: Path) -> None:
    assert install(path) == 0
    entry = servers(path)["streammachine"]
    assert entry == server_command()
    assert Path(entry["command"]).is_absolute()
    assert os.access(entry["command"], os.X_OK)
    assert backups(path) == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_command_that_is_written_answers_a_handshake(path: Path, server_environment: dict[str, str]) -> None:
    install(path)
    entry = servers(path)["streammachine"]
    with RawClient(command=[entry["command"], *entry.get("args", [])], env=server_environment) as client:
        assert client.server_info["protocolVersion"] == LEGACY


def test_other_servers_and_settings_stay_and_the_old_file_is_kept(path: Path) -> None:
    path.parent.mkdir()
    before = '{"theme": "dark", "mcpServers": {"other": {"command": "ö", "args": ["-x"]}}}'
    path.write_text(before, encoding="utf-8")
    path.chmod(0o640)
    install(path)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["theme"] == "dark"
    assert after["mcpServers"]["other"] == {"command": "ö", "args": ["-x"]}
    assert "ö" in path.read_text(encoding="utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = backups(path)
    assert backup.read_text(encoding="utf-8") == before


def test_the_second_time_nothing_changes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_text("{}")
    install(path, env=("REDIS_URL=redis://localhost",))
    text = path.read_text()
    assert install(path) == 0
    assert install(path, env=("REDIS_URL=redis://localhost",)) == 0
    assert path.read_text() == text
    assert len(backups(path)) == 1
    assert "up to date" in capsys.readouterr().out


def test_an_old_entry_is_made_clean_and_keeps_the_users_variables(path: Path) -> None:
    path.parent.mkdir()
    old = {"command": "/gone/python", "args": ["old"], "cwd": None, "env": {"REDIS_URL": "redis://a", "KEEP": "1"}}
    path.write_text(json.dumps({"mcpServers": {"streammachine": old}}))
    install(path, env=("REDIS_URL=redis://b",))
    assert servers(path)["streammachine"] == {**server_command(), "env": {"REDIS_URL": "redis://b", "KEEP": "1"}}


def test_two_installs_in_one_second_keep_both_backups(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}")
    for number in range(3):
        install(path, name=f"s{number}")
    assert len(backups(path)) == 3
    assert set(servers(path)) == {"s0", "s1", "s2"}


def test_a_dry_run_shows_the_file_and_writes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_text('{"theme": "[bold]dark[/]"}')
    assert install(path, env=("A=B=C",), dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "Would write" in shown
    assert json.loads(shown[shown.index("{") :]) == {
        "theme": "[bold]dark[/]",
        "mcpServers": {"streammachine": {**server_command(), "env": {"A": "B=C"}}},
    }
    assert path.read_text() == '{"theme": "[bold]dark[/]"}'
    assert backups(path) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": []}', "\xff"])
def test_a_file_that_is_not_understood_is_left_as_it_is(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match="nothing was written"):
        install(path)
    assert path.read_text(encoding="latin-1") == text
    assert backups(path) == []


def test_an_empty_file_and_a_byte_order_mark_are_understood(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(" \n")
    install(path, name="a")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    install(path, name="b")
    assert set(servers(path)) == {"a", "b"}


def test_a_symbolic_link_stays_one(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    path.symlink_to(real)
    install(path)
    assert path.is_symlink()
    assert "streammachine" in servers(real)


def test_a_place_that_cannot_be_written_is_one_error(path: Path) -> None:
    path.parent.write_text("a file, not a folder")
    with pytest.raises(SettingsError, match="cannot be read: Not a directory"):
        install(path)


def test_a_wrong_variable_is_refused_in_one_line(cli) -> None:
    done: subprocess.CompletedProcess[str] = cli("install", "claude-desktop", "--env", "NOVALUE")
    assert done.returncode == 1
    assert done.stderr.startswith("streammachine: --env 'NOVALUE' is not NAME=VALUE")
    assert not cli.config.exists()


def test_the_command_writes_the_usual_place(cli) -> None:
    done = cli("install", "claude-desktop", "--env", "REDIS_URL=redis://x", "STREAMMACHINE_READ_ONLY=true")
    assert done.returncode == 0, done.stderr
    assert servers(cli.config)["streammachine"]["env"] == {
        "REDIS_URL": "redis://x",
        "STREAMMACHINE_READ_ONLY": "true",
    }
    assert "Restart Claude Desktop" in done.stdout


@pytest.fixture
def server_environment(tmp_path: Path) -> dict[str, str]:
    return {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
