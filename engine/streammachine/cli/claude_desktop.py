"""``streammachine install claude-desktop``: merge one clean entry into Claude Desktop's configuration."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from streammachine.cli.json_lines import print_json
from streammachine.errors import SettingsError

console = Console(highlight=False, soft_wrap=True)


def install_entry(
    config_path: Path | None, *, name: str, env: Sequence[str], dry_run: bool, as_json: bool = False
) -> int:
    """Write (or with ``dry_run`` show) the entry; running it twice changes nothing the second time.

    Raises:
        SettingsError: the file is no JSON object or cannot be written, or an ``env`` item is not NAME=VALUE; the file
            is as it was.
    """
    # A link (dotfiles kept elsewhere) stays one: what it points to is written.
    path = (config_path if config_path is not None else default_config_path()).resolve()
    config = _read(path)
    servers = config.setdefault("mcpServers", {})
    if not isinstance(servers, dict):
        raise SettingsError(f"{path}: mcpServers is not an object. Correct the file by hand; nothing was written.")
    before = servers.get(name)
    entry = _entry(before if isinstance(before, dict) else {}, env)
    backup = None
    if before != entry:
        servers[name] = entry
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        if not dry_run:
            backup = _replace(path, text)
    if as_json:
        written = before != entry and not dry_run
        kept = None if backup is None else str(backup)
        print_json({"file": str(path), "name": name, "entry": entry, "written": written, "backup": kept})
    elif before == entry:
        console.print(f"{path}: the entry {name!r} is up to date; nothing to do.")
    elif dry_run:
        console.print(f"Would write {path}:")
        console.print(text, markup=False, end="")
    else:
        console.print(f"Wrote the entry {name!r} into {path}")
        if backup is not None:
            console.print(f"The file as it was: {backup}")
        console.print("Restart Claude Desktop to load it.")
    return 0


def _replace(path: Path, text: str) -> Path | None:
    """Write the file; gives the backup of the one that was there."""
    try:
        backup = _backup(path)
        _write(path, text)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}.") from error
    return backup


def default_config_path() -> Path:
    """Where Claude Desktop keeps its configuration on this system."""
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/Claude/claude_desktop_config.json"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData/Roaming")) / "Claude/claude_desktop_config.json"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "Claude/claude_desktop_config.json"


def installed_command(name: str = "streammachine") -> tuple[Path, str] | None:
    """The configuration file and the command of our entry in it; None when there is no such entry.

    Raises:
        SettingsError: the file is no JSON object.
    """
    path = default_config_path()
    servers = _read(path).get("mcpServers")
    entry = servers.get(name) if isinstance(servers, dict) else None
    command = entry.get("command") if isinstance(entry, dict) else None
    return (path, command) if isinstance(command, str) else None


def server_command() -> dict[str, Any]:
    """The absolute command: Claude Desktop starts servers without the user's PATH."""
    script = Path(sys.executable).parent / ("streammachine-mcp.exe" if sys.platform == "win32" else "streammachine-mcp")
    if script.exists():
        return {"command": str(script)}
    return {"command": sys.executable, "args": ["-m", "streammachine.mcp_server"]}


def _entry(before: dict[str, Any], env: Sequence[str]) -> dict[str, Any]:
    """The clean entry; variables that the user had set stay."""
    kept = before.get("env")
    variables = dict(kept) if isinstance(kept, dict) else {}
    for item in env:
        variable, equals, value = item.partition("=")
        if not equals or not variable:
            raise SettingsError(f"--env {item!r} is not NAME=VALUE, e.g. --env REDIS_URL=redis://localhost:6379")
        variables[variable] = value
    entry = server_command()
    if variables:
        entry["env"] = variables
    return entry


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        config = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not valid JSON ({error}). Correct it by hand; nothing was written.") from error
    if not isinstance(config, dict):
        raise SettingsError(f"{path} is not a JSON object. Correct it by hand; nothing was written.")
    return config


def _backup(path: Path) -> Path | None:
    if not path.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    backup = path.with_name(f"{path.name}.{stamp}.bak")
    number = 1
    while backup.exists():
        backup = path.with_name(f"{path.name}.{stamp}-{number}.bak")
        number += 1
    backup.write_bytes(path.read_bytes())
    backup.chmod(path.stat().st_mode & 0o777)
    return backup


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(mode)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
