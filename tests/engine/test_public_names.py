"""The package's door: every public name loads, and loading the package itself costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import streammachine

ENGINE = Path(streammachine.__file__).parents[1]
HEAVY = ("pandas", "numpy", "coredis", "fastmcp", "mcp", "pydantic", "anyio")


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ENGINE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", streammachine.__all__)
def test_every_public_name_loads_and_is_kept(name: str) -> None:
    value = getattr(streammachine, name)
    assert value is not None
    assert getattr(streammachine, name) is value
    assert name in dir(streammachine)


def test_the_names_of_this_layer_are_public() -> None:
    wanted = {"RedisConnection", "Storage", "RedisObjectStorage", "Settings", "StreamMachineError"}
    assert wanted <= set(streammachine.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stroage'"):
        streammachine.Stroage  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run(f"import sys, streammachine; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_the_names_of_the_market_road_need_no_optional_library() -> None:
    code = (
        "import sys, streammachine as sf; [getattr(sf, name) for name in sf.__all__]; "
        "optional = ('sqlalchemy', 'psycopg', 'aiokafka', 'pyarrow', 'matplotlib', 'fastmcp'); "
        "print([name for name in optional if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_importing_the_connection_does_not_load_the_client_library() -> None:
    # The MCP server answers `initialize` before it talks to Redis; coredis alone costs a third of a second.
    code = "import sys; from streammachine import RedisConnection, Storage, RedisObjectStorage; "
    assert run(code + "print('coredis' in sys.modules, 'pandas' in sys.modules)") == "False False"
