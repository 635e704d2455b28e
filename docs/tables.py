"""The tables of the README and of docs/ (market, metrics, architecture, the guides), from the code:
``python docs/tables.py --write``.

Without ``--write`` it says whether they are up to date, and exits 1 if not; a test does the same.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import re
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
START_PAGE = Path(__file__).parent / "start.md"
TOOLS_PAGE = Path(__file__).parent / "tools.md"
SETTINGS_PAGE = Path(__file__).parent / "settings.md"
METRICS_PAGE = Path(__file__).parent / "metrics.md"
MARKET_PAGE = Path(__file__).parent / "market.md"
PLAN_PAGE = Path(__file__).parent / "architecture.md"
GUIDES = Path(__file__).parent / "contributing"
EXAMPLES_PAGE = Path(__file__).parents[1] / "examples" / "README.md"

# What each variable does; that all of them are here, and their defaults, comes from Settings.
MEANINGS = {
    "REDIS_URL": "A server: `redis://`, `rediss://`, `valkey://`, `valkeys://` or `unix://`. Wins over these three",
    "REDIS_HOST": "Its host; any of the four set names a server, and an embedded one is then never started",
    "REDIS_PORT": "Its port",
    "REDIS_DB": "Its database number",
    "REDIS_MAX_CONNECTIONS": "Most connections for commands; blocking readers have their own",
    "STREAMMACHINE_RECORDS": "How many trades the demo generates",
    "STREAMMACHINE_COUNT": "Most messages in one read of a consumer group",
    "STREAMMACHINE_DEFAULT_GROUP": "Consumer group where none is named",
    "STREAMMACHINE_EMBEDDED": "The embedded Valkey: `auto` (where no Redis is found), `always` or `never`",
    "STREAMMACHINE_EMBEDDED_FSYNC": "`always`: on disk before it is acknowledged; `everysec` may lose the last seconds",
    "STREAMMACHINE_DATA_DIR": "Where the embedded Valkey's data and the signing key are",
    "STREAMMACHINE_STREAM_MAXLEN": "Keep about so many entries in a stream that is appended to; 0 keeps all",
    "STREAMMACHINE_LOG_LEVEL": "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`; the log goes to stderr",
    "STREAMMACHINE_LOG_FORMAT": "`json`: one JSON object a line, with exceptions inside; `text` is for people",
    "STREAMMACHINE_READ_ONLY": "`true` leaves out every tool that changes something",
    "STREAMMACHINE_TOOLSETS": "Only these families of tools, separated by commas; `all,groups` adds consumer groups",
    "STREAMMACHINE_SIGNING_KEY": "Signs pickled values; the same on all machines that share them",
    "STREAMMACHINE_HTTP_TOKENS": "HTTP: a file of lines `token,name,scope scope`, mode 0600 (docs/http.md)",
    "STREAMMACHINE_JWT_JWKS": "HTTP: the keys of JSON Web Tokens, a URL or a file; with the two below",
    "STREAMMACHINE_JWT_ISSUER": "Who issues them",
    "STREAMMACHINE_JWT_AUDIENCE": "Whom they are for",
    "STREAMMACHINE_DASHBOARD_TOKEN": "The dashboard's token; without it a new one is made at each start",
    "STREAMMACHINE_ALERT_WEBHOOKS": "Where alerts may post: `any`, `public`, or hosts with commas (docs/alerts.md)",
}
DEFAULTS = {
    "REDIS_URL": "none",
    "STREAMMACHINE_DATA_DIR": "the platform's",
    "STREAMMACHINE_TOOLSETS": "`all`",
    "STREAMMACHINE_SIGNING_KEY": "a file in the data directory",
    "STREAMMACHINE_DASHBOARD_TOKEN": "a new one",
    "STREAMMACHINE_ALERT_WEBHOOKS": "`any`; of callers with a token `public`",
    **dict.fromkeys(
        ("STREAMMACHINE_HTTP_TOKENS", *(f"STREAMMACHINE_JWT_{part}" for part in ("JWKS", "ISSUER", "AUDIENCE"))), "none"
    ),
}
# What each extra is for, but for those of sinks; that all of them are here comes from pyproject.toml. An empty one's
# parts are in the core.
EXTRAS = {
    "charts": "matplotlib, for candle charts as pictures",
    "sql": "DuckDB, for SQL over streams and candles, and the sink `duckdb:FILE`",
    "indicators": "TA-Lib, for indicators on candles",
    "ccxt": "the exchanges that ccxt speaks, as `ccxt:NAME`",
    "polars": "polars frames beside pandas",
    "trades": "trade files to candles: gzip and zip three times as fast (isal), Parquet",
    "reload": "`streammachine run --reload`",
    "socks": "SOCKS proxies (`ALL_PROXY=socks5://...`)",
    "monitoring": "OpenTelemetry spans, and the metrics in a prometheus-client registry",
    "all": "all of these",
}


def main() -> int:
    """Write the tables or check them."""
    parser = argparse.ArgumentParser(description="The tables of the README and of docs/, from the code.")
    parser.add_argument("--write", action="store_true", help="write them into the pages")
    options = parser.parse_args()
    status = 0
    for page, tables in PAGES.items():
        before = page.read_text(encoding="utf-8")
        after = filled(page, before, {name: table() for name, table in tables.items()})
        if options.write:
            page.write_text(after, encoding="utf-8")
        elif before != after:
            sys.stderr.write(f"The tables of {page.name} are out of date. Run: python docs/tables.py --write\n")
            status = 1
    return status


def filled(page: Path, text: str, tables: dict[str, str]) -> str:
    """The page's text with the tables of today between their markers."""
    for name, table in tables.items():
        pattern = re.compile(f"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"{page} needs the markers of the table {name!r} once.")
        text = pattern.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", text)  # type: ignore[misc]
    return text


def tools_table() -> str:
    """One row a tool: its name, what it does to the data, the first sentence of its description."""
    from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS, Settings
    from streammachine_mcp.server import create_server

    server = create_server(Settings(embedded="never", toolsets=(*TOOLSETS, *OPTIONAL_TOOLSETS)))
    default = {tool.name for tool in asyncio.run(create_server(Settings(embedded="never")).list_tools())}
    rows = ["| tool | kind | what it does |", "|---|---|---|"]
    for tool in asyncio.run(server.list_tools()):
        off = "" if tool.name in default else " (off unless its toolset is named, see `STREAMMACHINE_TOOLSETS`)"
        rows.append(f"| `{tool.name}` | {_kind(tool)} | {_first_sentence(tool.description or '')}{off} |")
    return "\n".join(rows) + "\n"


def families_table() -> str:
    """One row a family of tools: its name, its tools."""
    import pkgutil

    from streammachine.settings import Settings
    from streammachine_mcp import tools
    from streammachine_mcp.server import create_server

    server = create_server(Settings(embedded="never"))
    found: dict[str, list[str]] = {}
    for tool in asyncio.run(server.list_tools()):
        found.setdefault(tool.fn.__module__.rpartition(".")[2], []).append(f"`{tool.name}`")
    order = [module.name for module in pkgutil.iter_modules(tools.__path__) if module.name in found]
    rows = ["| family | tools |", "|---|---|"]
    rows += [f"| {name} | {', '.join(found[name])} |" for name in order]
    return "\n".join(rows) + "\n"


def settings_table() -> str:
    """One row a variable: its name, its default, what it does."""
    from streammachine.settings import Settings

    for name in [name for name in os.environ if name.startswith(("REDIS_", "STREAMMACHINE_"))]:
        del os.environ[name]
    defaults = Settings().describe()
    if set(defaults) != set(MEANINGS):
        raise ValueError(f"MEANINGS and Settings differ in {sorted(set(defaults) ^ set(MEANINGS))}.")
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    rows += [f"| `{name}` | {_default(name, defaults[name])} | {MEANINGS[name]} |" for name in defaults]
    return "\n".join(rows) + "\n"


def extras_table() -> str:
    """One row an extra: its name, what it is for."""
    from streammachine.market.emitters.registry import ENTRIES

    sinks = [entry for entry in ENTRIES.values() if entry.extra]
    extras = {
        entry.extra: f"`{entry.emitter}`, `--to {entry.extra_form or f'{entry.name}:...'}`"
        for entry in sorted(sinks, key=lambda entry: entry.hosting != "variable")  # servers first
    } | EXTRAS
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {name for name, needs in project["optional-dependencies"].items() if needs and name != "dev"}
    if known != set(extras):
        raise ValueError(f"The sinks, EXTRAS and pyproject.toml differ in {sorted(known ^ set(extras))}.")
    return "\n".join(["| extra | for |", "|---|---|", *(f"| `{name}` | {extras[name]} |" for name in extras)]) + "\n"


def exchanges_table() -> str:
    """One row an exchange: its name, its classes, its kinds of market, symbols, timeframes, and its past."""
    from streammachine.market.exchanges import adapter_for
    from streammachine.market.exchanges.registry import ENTRIES

    rows = [
        "| exchange | classes | kinds of market | symbols | timeframes | the past comes from |",
        "|---|---|---|---|---|---|",
    ]
    for entry in ENTRIES.values():
        classes = f"`{entry.runner_class}`, `{entry.backfill_class}`"
        kinds = ", ".join(f"`{kind}`" for kind in entry.market_types)
        past = (entry.past or "REST") + (f"; since {entry.first_day}" if entry.first_day else "")
        timeframes = " ".join(adapter_for(entry.name).timeframes)
        rows.append(f"| `{entry.name}` | {classes} | {kinds} | `{entry.symbol}` | {timeframes} | {past} |")
    return "\n".join(rows) + "\n"


def variables_table() -> str:
    """One row an exchange: the variables that override its base URLs."""
    from streammachine.market.exchanges.registry import ENTRIES

    rows = ["| exchange | variables of its base URLs |", "|---|---|"]
    for entry in ENTRIES.values():
        rows.append(f"| `{entry.name}` | {', '.join(f'`{name}`' for name in entry.url_variables.values())} |")
    return "\n".join(rows) + "\n"


def sinks_table() -> str:
    """One row a sink: its emitter, its text form, how a model names it, where rows go, what is promised."""
    from streammachine.market.emitters.registry import ENTRIES

    rows = ["| emitter | `--to` | for a model | where rows go | what is promised |", "|---|---|---|---|---|"]
    for entry in ENTRIES.values():
        forms = ", ".join(f"`{form}`" for form in entry.forms)
        hosted = f"`{entry.hosted_form}`" if entry.hosting else ""
        rows.append(f"| `{entry.emitter}({entry.arguments})` | {forms} | {hosted} | {entry.place} | {entry.promise} |")
    return "\n".join(rows) + "\n"


def metrics_table() -> str:
    """One row a metric: its name as Prometheus shows it, its kind, its labels, its meaning."""
    from streammachine.runtime.observability.metrics import METRICS, PREFIX

    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        suffix = "_total" if metric.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{PREFIX}{name}{suffix}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(rows) + "\n"


def plan_table() -> str:
    """One row a package: its path and the first sentence of its docstring."""
    rows = ["| room | what it holds |", "|---|---|"]
    for root in ("engine/streammachine", "server/streammachine_mcp"):
        for init in sorted((README.parent / root).rglob("__init__.py")):
            name = init.parent.relative_to(README.parent / root).as_posix()
            text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            what = _first_sentence(" ".join(text.split())).replace("``", "`")
            rows.append(f"| {f'`{name}/`' if name != '.' else f'**`{init.parent.name}`**'} | {what} |")
    return "\n".join(rows) + "\n"


def examples_table() -> str:
    """A row a script of examples/."""
    sys.path.insert(0, str(Path(__file__).parent))
    from example_index import examples_table

    return examples_table()


def cases_table(suite: str, letter: str) -> str:
    """One row a numbered case of a conformance suite: its number and its docstring."""
    tree = ast.parse((README.parent / "tests" / "engine" / "market" / suite).read_text(encoding="utf-8"))
    rows = ["| case | what must hold |", "|---|---|"]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = re.match(rf"test_({letter}\d\d)_", node.name)
            if found:
                text = " ".join((ast.get_docstring(node) or "").split()).replace("``", "`")
                rows.append(f"| {found[1].upper()} | {text} |")
    return "\n".join(rows) + "\n"


def _kind(tool: Any) -> str:
    if tool.annotations.read_only_hint:
        return "reads"
    if not tool.annotations.destructive_hint:
        return "writes"
    return "deletes, asks first" if "confirm" in tool.parameters["properties"] else "deletes"


def _first_sentence(description: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", description, maxsplit=1)[0].rstrip(".").replace("|", "\\|")


def _default(name: str, value: Any) -> str:
    return DEFAULTS.get(name) or f"`{str(value).lower() if isinstance(value, bool) else value}`"


# The tables that stand in each page, between its markers.
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"families": families_table},
    START_PAGE: {"extras": extras_table},
    TOOLS_PAGE: {"tools": tools_table},
    SETTINGS_PAGE: {"settings": settings_table},
    METRICS_PAGE: {"metrics": metrics_table},
    MARKET_PAGE: {"exchanges": exchanges_table, "variables": variables_table, "sinks": sinks_table},
    PLAN_PAGE: {"plan": plan_table},
    EXAMPLES_PAGE: {"examples": examples_table},
    GUIDES / "exchange.md": {"adapter-cases": partial(cases_table, "exchanges/test_conformance.py", "a")},
    GUIDES / "sink.md": {"sink-cases": partial(cases_table, "emitters/test_conformance.py", "s")},
}

if __name__ == "__main__":
    sys.exit(main())
