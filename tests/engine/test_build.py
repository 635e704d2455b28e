"""The build: with a C compiler at hand the native parts must be there (``optional`` would hide their absence)."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

import streammachine
from streammachine.frames import read
from streammachine.market.exchanges.decode import HAS_NATIVE
from streammachine.market.model import kline_columns
from streammachine.redis.transport import ticks

ROOT = Path(__file__).parents[2]


def has_compiler(folder: Path) -> bool:
    """Whether a C extension can be compiled here: a compiler that works, and Python's headers."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    source = folder / "probe.c"
    source.write_text("#include <Python.h>\nint main(void) { return 0; }\n")
    command = [*compiler, "-c", f"-I{sysconfig.get_path('include')}", str(source), "-o", str(folder / "probe.o")]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


def test_with_a_compiler_the_native_parts_are_built(tmp_path: Path) -> None:
    if not has_compiler(tmp_path):
        pytest.skip("no C compiler or no Python headers here: the plain-Python twins are used")
    assert streammachine._HAS_FAST_OHLC_CYTHON, (
        "streammachine.ohlc.fast is missing: install again and look at the build"
    )
    assert streammachine._has_cython_decode, (
        "streammachine.redis.transport.wire is missing: install again and look at the build"
    )
    assert read.HAS_NATIVE, "streammachine.frames.native_columns is missing: install again and look at the build"
    assert ticks.HAS_NATIVE, (
        "streammachine.redis.transport.tick_columns is missing: install again and look at the build"
    )
    assert kline_columns.HAS_NATIVE, "streammachine.market.model.fast_columns is missing: install again and look"
    assert HAS_NATIVE, "streammachine.market.exchanges.fast_decode is missing: install again and look at the build"


def test_the_twins_take_over_where_nothing_is_compiled(tmp_path: Path) -> None:
    """The engine in a process that cannot load the native modules."""
    code = (
        "import sys\n"
        "sys.modules['streammachine.ohlc.fast'] = None\n"
        "sys.modules['streammachine.redis.transport.wire'] = None\n"
        "sys.modules['streammachine.frames.native_columns'] = None\n"
        "sys.modules['streammachine.redis.transport.tick_columns'] = None\n"
        "sys.modules['streammachine.market.exchanges.fast_decode'] = None\n"
        "sys.modules['streammachine.market.model.fast_columns'] = None\n"
        "import streammachine as s\n"
        "agg = s.create_ohlc_aggregator([60000])\n"
        "agg.update_tick('A', 1.5, 2.0, 1700000000000)\n"
        "assert agg.get_candles(b'A', 60000)[0].close == 1.5\n"
        "assert s.decode_dict_bytes_to_utf8({b'a': b'b'}) == {'a': 'b'}\n"
        "from streammachine.market.exchanges.decode import HAS_NATIVE\n"
        "from streammachine.frames import read\n"
        "from streammachine.ohlc.consumer.tick_book import NATIVE\n"
        "print(s._HAS_FAST_OHLC_CYTHON, s._has_cython_decode, HAS_NATIVE, read.HAS_NATIVE, NATIVE)\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("False False False False False", "")


@pytest.mark.parametrize("name", ["other_versions", "newest_libraries"])
def test_the_tests_that_ci_chooses_are_there(name: str) -> None:
    files = (ROOT / "tests" / f"{name}.txt").read_text().split()
    assert len(files) == len(set(files)) > 5
    assert [file for file in files if not (ROOT / file).is_file()] == []
