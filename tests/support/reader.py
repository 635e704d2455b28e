"""A reader of a page: what its blocks say is done in their order, in a home and a folder of its own.

A ``sh`` block runs in one terminal with those before it (its exports stay); its ``# -> text`` must be in its output.
``<!-- stays: READY -> LATER -->`` before a block: it runs on in a terminal of its own; READY must be in its output
before the page goes on, LATER before it ends (each may be left out). ``<!-- not run: REASON -->``: it is left out. A
``python`` block that begins with a file's name is saved under it; the others run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.docs import Block, blocks, run_python
from support.servers import until

SHOWN = re.compile(r"# -> (.*)$", re.MULTILINE)
MARKS = {"", "stays", "not run"}
DEADLINE = 100.0


def follow(page: Path, folder: Path, env: Mapping[str, str], languages: Sequence[str] = ("sh", "python")) -> None:
    """Do what the page says, with its files and commands in ``folder``."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    reader = _Reader(folder, {**env, "HOME": str(folder), "PATH": path})
    with ExitStack() as terminals:
        later: list[tuple[Path, str]] = []
        for block in blocks(page):
            assert block.mark in MARKS, f"{block}: {block.mark}"
            if block.mark == "not run" or block.language not in languages:
                continue
            if block.file is not None:
                (folder / block.file).write_text(block.code, encoding="utf-8")
            elif block.language == "python":
                shown = run_python(["-c", block.code], reader.env, folder, logs="live ").splitlines()
                assert [wanted for wanted in SHOWN.findall(block.code) if wanted not in shown] == [], shown
            elif block.language == "sh" and block.mark == "stays":
                ready, _, then = (part.strip() for part in block.said.partition("->"))
                out = terminals.enter_context(reader.staying(block))
                _wait(out, ready)
                later.append((out, then))
            elif block.language == "sh":
                reader.type(block)
        for out, then in later:
            _wait(out, then)


def _wait(out: Path, text: str) -> None:
    try:
        until(lambda: text in out.read_text(), timeout=DEADLINE)
    except AssertionError:
        raise AssertionError(f"{text!r} did not come in {DEADLINE:g} s: {out.read_text()}") from None


class _Reader:
    """One person at a terminal in ``folder``."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env
        (folder / "bin").mkdir()
        client = folder / "bin" / "valkey-cli"  # in place of the program, which does not come with the package
        client.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("valkey_cli.py")} "$@"\n')
        client.chmod(0o755)
        self._exported = folder / ".exported"

    def type(self, block: Block) -> None:
        script = f"set -e\n{block.code}\nenv -0 > {self._exported}\n"
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=DEADLINE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # what it started too
                raise
        assert process.returncode == 0, f"{block}: {output}"
        assert [wanted for wanted in SHOWN.findall(block.code) if wanted not in output] == [], output
        pairs = self._exported.read_text(encoding="utf-8").rstrip("\0").split("\0")
        self.env = dict(pair.split("=", 1) for pair in pairs)

    @contextmanager
    def staying(self, block: Block) -> Iterator[Path]:
        """The block in a terminal of its own, which Ctrl-C ends; the file of its output."""
        out = self.folder / f".terminal-{block.line}"
        with out.open("wb") as target:
            process = subprocess.Popen(
                ["bash", "-c", block.code],
                cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=target, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield out
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(DEADLINE)
            assert "Traceback" not in out.read_text(), out.read_text()
