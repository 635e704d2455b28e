"""The build step that fetches the chart's library: by hash or not at all, and never the reason that a build fails."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> Any:
    spec = importlib.util.spec_from_file_location("sm_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def npm_that_packs(folder: Path, build: Any, script: bytes) -> list[str]:
    """A command that leaves an archive of this content, as ``npm pack`` does."""
    archive = folder / "made.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in ((build.MEMBER, script), (build.LICENSE, b"licence")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return [sys.executable, "-c", f"import shutil; shutil.copy({str(archive)!r}, 'lightweight-charts.tgz')"]


def test_another_content_than_the_pinned_is_refused(build: Any, tmp_path: Path) -> None:
    target = tmp_path / "page"
    target.mkdir()
    (target / "lightweight-charts.js").write_text("an older one")
    problem = build.fetch(target, [npm_that_packs(tmp_path, build, b"evil()")])
    assert "not " + build.SHA256 in problem
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [["/nowhere/npm"], [sys.executable, "-c", "import sys; sys.exit('no network')"], [sys.executable, "-c", ""]],
)
def test_without_npm_or_a_network_it_says_why_and_goes_on(build: Any, tmp_path: Path, command: list[str]) -> None:
    assert build.fetch(tmp_path, [command])
    assert build.fetch(tmp_path, []) == "there is no npm."
    assert list(tmp_path.iterdir()) == []


def test_what_npm_brings_is_packed_with_its_licence(build: Any, tmp_path: Path) -> None:
    problem = build.fetch(tmp_path)
    if problem:
        pytest.skip(f"no npm or no registry here: {problem}")
    assert {path.name for path in tmp_path.iterdir()} == {"lightweight-charts.js", "lightweight-charts.LICENSE.txt"}
    assert b"Apache License" in (tmp_path / "lightweight-charts.LICENSE.txt").read_bytes()
    assert b"</script" not in (tmp_path / "lightweight-charts.js").read_bytes().lower()
    before = (tmp_path / "lightweight-charts.js").stat().st_mtime_ns
    assert build.fetch(tmp_path, []) == ""
    assert (tmp_path / "lightweight-charts.js").stat().st_mtime_ns == before


def test_it_is_no_part_of_the_repository() -> None:
    name = "engine/streammachine/charts/lightweight-charts.js"
    done = subprocess.run(["git", "check-ignore", name], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("this is no repository")
    assert done.stdout.strip() == name
