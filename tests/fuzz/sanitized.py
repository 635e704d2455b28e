"""The native modules built with AddressSanitizer, in a folder of their own, and what loads them from there.

The build goes to ``build/asan`` (the modules that everybody imports are not touched) and is made again only where a
source or the interpreter changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = (
    "streammachine.ohlc.fast",
    "streammachine.redis.transport.wire",
    "streammachine.redis.transport.tick_columns",
    "streammachine.market.exchanges.fast_decode",
    "streammachine.frames.native_columns",
    "streammachine.market.model.fast_columns",
)
TARGETS = ("hostile", "wire", "candles", "frames", "pages", "ticks", "bulk", "trades")
FLAGS = ["-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
PROBE = "#include <Python.h>\nint main(void) { return 0; }\n"


class CannotBuildError(Exception):
    """There is no sanitized build here; the text says why."""


def built(folder: Path = ROOT / "build" / "asan") -> Path:
    """The folder with the sanitized modules, up to date. Raises CannotBuildError."""
    compiler = _compiler()
    _runtime(compiler)
    if importlib.util.find_spec("Cython") is None:
        raise CannotBuildError("Cython is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    for module in MODULES:
        source = ROOT.joinpath("engine", *module.split(".")).with_suffix(".pyx")
        rooms = sorted(source.parent.glob("native/*.pxi"))  # included by the source
        text = b"".join(path.read_bytes() for path in (source, *rooms))
        stamp = hashlib.sha256(text + repr((FLAGS, compiler, sys.version)).encode()).hexdigest()
        made, mark = folder / (module + EXTENSION_SUFFIXES[0]), folder / f"{module}.stamp"
        if made.exists() and mark.exists() and mark.read_text() == stamp:
            continue
        c_file = folder / f"{module}.c"
        _run([sys.executable, "-m", "cython", "-3", "--module-name", module, "-o", str(c_file), str(source)])
        partly = made.with_suffix(f".{os.getpid()}")
        _run([*compiler, *FLAGS, f"-I{sysconfig.get_path('include')}", str(c_file), "-o", str(partly)])
        partly.replace(made)
        mark.write_text(stamp)
    return folder


def environment() -> dict[str, str]:
    """What a process needs to load the modules: the sanitizer's runtime, and memory that it watches."""
    return os.environ | {
        "LD_PRELOAD": _runtime(_compiler()),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:exitcode=99",
        "PYTHONPATH": os.pathsep.join(str(ROOT / place) for place in ("engine", "tests")),
    }


def run(folder: Path, target: str, seed: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """One target in a process of its own; it fails where the sanitizer or a difference of the twins ends it."""
    command = [sys.executable, "-m", "fuzz.inside", str(folder), target, str(seed), str(seconds)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=seconds + 600, errors="replace"
    )


def use(folder: Path) -> None:
    """In this process, import the native modules from the folder. Before anything of ours is imported."""
    sys.meta_path.insert(0, _Finder(folder))
    for module in MODULES:
        loaded = importlib.import_module(module).__file__
        if loaded is None or Path(loaded).parent != folder:
            raise RuntimeError(f"{module} was loaded from {loaded}, not from {folder}")


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in MODULES:
            return None
        place = str(self.folder / (fullname + EXTENSION_SUFFIXES[0]))
        return importlib.util.spec_from_file_location(fullname, place, loader=ExtensionFileLoader(fullname, place))


def _compiler() -> list[str]:
    return str(sysconfig.get_config_var("CC") or "cc").split()


def _runtime(compiler: list[str]) -> str:
    """What LD_PRELOAD must name: without it the runtime comes too late; it looks for libstdc++ when it starts."""
    if not sys.platform.startswith("linux"):
        raise CannotBuildError("the sanitized build is made on Linux only")
    places = []
    for library in ("libasan.so", "libstdc++.so"):
        try:
            place = _run([*compiler, f"-print-file-name={library}"]).strip()
        except OSError as error:
            raise CannotBuildError(f"no C compiler: {error}") from error
        if not Path(place).is_absolute():
            raise CannotBuildError(f"the compiler {compiler[0]} has no {library}")
        places.append(str(Path(place).resolve()))
    headers = [*compiler, "-xc", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-"]
    if subprocess.run(headers, input=PROBE, text=True, capture_output=True, check=False, timeout=60).returncode:
        raise CannotBuildError("Python's headers are not installed")
    return " ".join(places)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise CannotBuildError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout
