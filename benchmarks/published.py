"""The published streammachine 0.1.0 as a peer: its wheel, and what is compiled of it, under names of their own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

PEER = "streammachine==0.1.0"
PACKAGE = "sm_bench_published_package"


def published_wheel(folder: Path) -> Path | None:
    """The wheel, downloaded into the folder; None where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", PEER]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("streammachine-*.whl"))
    if done.returncode or not wheels:
        print(f"{PEER} cannot be downloaded: left out.", file=sys.stderr)
        return None
    return wheels[0]


def published_models(folder: Path) -> ModuleType | None:
    """The published package's models, with the decoder that they use compiled; None where they cannot be had."""
    wheel = published_wheel(folder)
    if wheel is None:
        return None
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    package = (folder / "streammachine").rename(folder / PACKAGE)
    (package / "__init__.py").write_text("")  # the App and its peers are not needed
    if not compiled(package / "cython" / "cython_decode.pyx"):
        return None
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{PACKAGE}.models")
    finally:
        sys.path.remove(str(folder))


def built(name: str, source: str, folder: Path) -> ModuleType | None:
    """Compile a Cython source at -O3 and import it under a name of its own."""
    path = folder / f"{name}.pyx"
    path.write_text(source)
    library = compiled(path)
    if library is None:
        return None
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(path: Path) -> Path | None:
    """The library that a Cython file becomes at -O3, beside it; None where it cannot be."""
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "-3", path.name]
    environment = {**os.environ, "CFLAGS": "-O3 -ffp-contract=off"}
    done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, check=False)
    libraries = [file for file in path.parent.glob(f"{path.stem}.*") if file.suffix in (".so", ".pyd")]
    if done.returncode or not libraries:
        print(f"{path.stem} cannot be compiled (Cython and a C compiler are needed): left out.", file=sys.stderr)
        return None
    return libraries[0]
