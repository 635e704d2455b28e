"""The plan of the house, held by reading the imports (AST only): no circles, nobody imports upwards, one class name is
one class, no file is too long.

The table is docs/architecture.md's "Who may import whom". Imports for type checking count: a type that is needed is a
dependency.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"streammachine": "engine", "streammachine_mcp": "server", "streammachine_prompts": "prompts"}
LIMIT = 500  # lines; a longer file has two subjects
LONGER = {  # file: its own limit, and the reason
    "engine/streammachine/runtime/delivery/group.py": 650,  # the delivery protocol reads as its own specification
    "engine/streammachine/redis/transport/wire.pyx": 700,  # native rooms: the largest of each
    "engine/streammachine/redis/transport/wire_reference.py": 700,
}

# Rooms from top to bottom. A room may import the rooms below it in its own list, and what FOUNDATION and BELOW say.
FOUNDATION = ("errors", "settings", "backoff", "masking", "redis_url", "logs")
PACKAGES = {  # package: the packages of the engine that it may import
    "errors": (),
    "backoff": (),
    "masking": (),
    "redis_url": ("errors", "masking"),
    "settings": ("errors", "masking", "redis_url"),
    "logs": ("errors", "masking", "settings"),
    "redis": FOUNDATION,
    "frames": ("redis",),
    "indicators": ("errors",),
    "charts": ("errors",),
    "ohlc": (*FOUNDATION, "redis", "runtime"),
    "runtime": (*FOUNDATION, "redis", "indicators"),
    "market": (*FOUNDATION, "redis", "indicators"),
    "trade_files": (*FOUNDATION, "ohlc", "market"),
    "dashboard": (*FOUNDATION, "redis", "runtime", "market", "indicators"),
    "cli": (
        *FOUNDATION,
        "dashboard",
        "redis",
        "frames",
        "ohlc",
        "runtime",
        "market",
        "indicators",
        "trade_files",
        "cli",
    ),
    "mcp_server": (),
    "__main__": ("mcp_server",),
}
RUNTIME = (
    ("testing", "children"),
    ("app",),
    ("alerts",),
    ("admin", "observability", "declared"),
    ("consumer", "timer"),
    ("delivery", "handlers", "processes"),
    ("model", "presence"),
)
MARKET = (
    ("bridge",),
    ("live", "backfill"),
    ("emitters", "healing", "aggregation", "network"),
    ("exchanges",),
    ("model", "clock"),
)
REDIS = (
    ("storage", "objects", "streams", "group_reader", "stream_watch", "appender", "lease", "update_queue"),
    ("connection", "client"),
    ("transport", "embedded", "target", "failures", "signing", "commands", "scripts"),
)


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """The modules of ours that a module imports at its top level, type checking included, not in functions."""
    found = set()
    stack: list[ast.AST] = [ast.parse(MODULES[name].read_text("utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES:
                    found.add(inner)
                elif node.module in MODULES:
                    found.add(node.module)
        stack.extend(ast.iter_child_nodes(node))
    return found - {name}


GRAPH = {name: imports_of(name) for name in MODULES if name != "streammachine"}  # its names load on first use


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected parts with more than one member (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while not part or part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_module_stands_in_a_circle() -> None:
    assert circles(GRAPH) == []


def test_no_package_stands_in_a_circle() -> None:
    packages: dict[str, set[str]] = defaultdict(set)
    for name, others in GRAPH.items():
        home = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
        for other in others:
            there = other if MODULES[other].name == "__init__.py" else other.rpartition(".")[0]
            nested = home.startswith(f"{there}.") or there.startswith(f"{home}.")
            if there != home and not nested:
                packages[home].add(there)
    assert circles(packages) == []


def test_packages_import_only_what_the_table_allows() -> None:
    wrong = []
    for name, others in GRAPH.items():
        parts = name.split(".")
        if parts[0] != "streammachine":
            continue
        for other in others:
            there = other.split(".")
            if there[0] != "streammachine" or len(there) < 2:
                if there[0] != "streammachine":
                    wrong.append(f"{name} imports {other}")
                continue
            if there[1] != parts[1] and there[1] not in PACKAGES[parts[1]]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


@pytest.mark.parametrize(("package", "rooms"), [("runtime", RUNTIME), ("market", MARKET), ("redis", REDIS)])
def test_inside_a_package_imports_go_downwards(package: str, rooms: tuple[tuple[str, ...], ...]) -> None:
    level = {room: depth for depth, row in enumerate(rooms) for room in row}
    wrong = []
    for name, others in GRAPH.items():
        parts = name.split(".")
        if parts[:2] != ["streammachine", package] or len(parts) < 3 or parts[2] not in level:
            continue
        for other in others:
            there = other.split(".")
            if there[:2] != parts[:2] or len(there) < 3 or there[2] == parts[2] or there[2] not in level:
                continue
            if level[there[2]] < level[parts[2]]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


@pytest.mark.parametrize("wing", ["engine", "server"])
def test_a_class_name_means_one_class(wing: str) -> None:
    homes = defaultdict(set)
    for path in (ROOT / wing).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(path.relative_to(ROOT).as_posix())
    assert {name: sorted(places) for name, places in homes.items() if len(places) > 1} == {}


def test_no_file_is_too_long() -> None:
    long = {}
    for folder in SOURCES.values():
        for path in (ROOT / folder).rglob("*.p*"):
            if path.suffix not in {".py", ".pyx", ".pxi"}:
                continue
            place = path.relative_to(ROOT).as_posix()
            lines = path.read_text("utf-8").count("\n")
            if lines > LONGER.get(place, LIMIT):
                long[place] = lines
    assert long == {}
