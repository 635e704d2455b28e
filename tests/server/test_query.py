"""stream_query: SQL over streams, candles, aggregators and dead letters, and what it must refuse."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.processes.origin import CHILD_URL
from streammachine_mcp.query import worker
from support.mcp import RawClient, ToolFailure, clean_environment

pytest.importorskip("duckdb", reason="the extra [sql] is not installed")

T0 = 1_723_161_600_000
HOUR = 3_600_000


@pytest.fixture
def database(shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as client:
        yield client


def rows(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(*found["columns"].values(), strict=True))


def trades(database: redis.Redis, name: str = "trades:BTC", count: int = 100) -> None:
    for n in range(count):
        fields = {"price": f"{n}.5", "qty": str(n), "side": "buy" if n % 2 else "sell", "code": "007", "maker": "true"}
        database.xadd(name, fields, id=f"{T0 + n * HOUR // 10}-0")


def test_a_stream_is_a_table_whose_numbers_are_numbers(raw: RawClient, database: redis.Redis) -> None:
    trades(database)
    sql = 'SELECT side, count(*) AS n, sum(qty) AS qty, max(price) AS top FROM "trades:BTC" GROUP BY ALL ORDER BY 1'
    found = raw.call("stream_query", sql=sql)
    assert rows(found) == [("buy", 50, 2500, 99.5), ("sell", 50, 2450, 98.5)]
    assert (found["rows_read"], found["truncated"]) == (100, False)
    types = raw.call("stream_query", sql='FROM "trades:BTC" LIMIT 1')["types"]
    assert types["qty"] == "BIGINT"
    assert types["price"] == "DOUBLE"
    assert types["code"] == "VARCHAR"  # 007 is no number
    assert types["maker"] == "BOOLEAN"


def test_long_ids_are_told_apart(raw: RawClient, database: redis.Redis) -> None:
    for last in "123":
        database.xadd(
            "ids", {"oid": f"172316160000000000{last}", "longer": "9" * 25 + last, "longest": "9" * 45 + last}
        )
    sql = "SELECT count(DISTINCT oid), count(DISTINCT longer), count(DISTINCT longest), max(oid) FROM ids"
    assert rows(raw.call("stream_query", sql=sql)) == [(3, 3, 3, "1723161600000000003")]
    assert rows(raw.call("stream_query", sql="SELECT count(*) FROM ids WHERE oid = 1723161600000000002")) == [(1,)]


def test_columns_are_found_in_any_case(raw: RawClient, database: redis.Redis) -> None:
    trades(database, count=3)
    sql = 'SELECT SUM(QTY), max(b.Price), max(TIMESTAMP_MS) FROM "trades:BTC" b WHERE "Side" IS NOT NULL'
    assert rows(raw.call("stream_query", sql=sql)) == [(3, 2.5, T0 + 2 * HOUR // 10)]
    database.xadd("cases", {"A": "1", "a": "2"})
    assert [rows(raw.call("stream_query", sql=f"SELECT {name} FROM cases")) for name in "aA"] == [[(1,)]] * 2


def test_what_a_with_is_called_takes_no_streams_place(raw: RawClient, database: redis.Redis) -> None:
    trades(database, count=3)
    for name in ("t0", "T0", "t_0"):
        sql = f'WITH {name} AS (SELECT 99 AS qty), t_1 AS (SELECT 1) SELECT sum(b.qty) FROM "trades:BTC" b, {name}'
        assert rows(raw.call("stream_query", sql=sql)) == [(3,)]


def test_volume_by_hour_in_order(raw: RawClient, database: redis.Redis) -> None:
    trades(database, count=30)
    hour = "date_trunc('hour', epoch_ms(timestamp_ms)) AS hour"
    sql = f'SELECT {hour}, sum(qty) FROM "trades:BTC" GROUP BY 1 ORDER BY 1 DESC'
    assert rows(raw.call("stream_query", sql=sql)) == [
        ("2024-08-09T02:00:00", 245),
        ("2024-08-09T01:00:00", 145),
        ("2024-08-09T00:00:00", 45),
    ]
    zoned = raw.call(
        "stream_query", sql='SELECT to_timestamp(timestamp_ms / 1000) AS t FROM "trades:BTC" ORDER BY t DESC LIMIT 1'
    )
    assert rows(zoned) == [("2024-08-09T02:54:00.000Z",)]


def test_a_time_range_reads_no_more_than_it_names(raw: RawClient, database: redis.Redis) -> None:
    trades(database)
    sql = f"SELECT count(*) FROM stream('trades:BTC', '{T0 + HOUR}', '{T0 + 2 * HOUR}')"
    found = raw.call("stream_query", sql=sql)
    assert (rows(found), found["rows_read"]) == ([(11,)], 11)


def test_streams_whose_names_differ_in_case_and_joins_and_with(raw: RawClient, database: redis.Redis) -> None:
    database.xadd("orders", {"id_": "1", "total": "10"})
    database.xadd("Orders", {"id_": "1", "name": "Ada"})
    sql = 'WITH big AS (FROM orders WHERE total > 5) SELECT b.total, o.name FROM big b JOIN "Orders" o USING (id_)'
    assert rows(raw.call("stream_query", sql=sql)) == [(10, "Ada")]


def test_aggregators_candles_and_dead_letters_are_tables(raw: RawClient, database: redis.Redis) -> None:
    raw.call("ohlc_create", name="agg", intervals=[60000])
    raw.call("ohlc_update", name="agg", symbol="BTC", price=5, volume=2, timestamp_ms=T0)
    found = raw.call("stream_query", sql="SELECT open_ts, close, trade_count FROM aggregator('agg', 'BTC', '1m')")
    assert rows(found) == [(T0, 5, 1)]
    for n in range(3):
        candle = {
            "open_ts": T0 + n * 60_000,
            "open": n,
            "high": n,
            "low": n,
            "close": n,
            "volume": 1.5,
            "is_closed": "true",
        }
        database.xadd("kline:binance:BTCUSDT:1m", candle, id=f"{T0 + n * 60_000}-0")
    late = {"open_ts": T0, "open": 0, "high": 9, "low": 0, "close": 9, "volume": 9, "is_closed": "false"}
    database.xadd("kline:binance:BTCUSDT:1m", late, id=f"{T0 + 180_000}-0")  # one that is open does not replace it
    sql = "SELECT count(*), sum(volume), min(open_ts) FROM candles('Binance', 'BTCUSDT', '1m')"
    found = raw.call("stream_query", sql=sql)
    assert rows(found) == [(3, 4.5, T0)]
    found = raw.call("stream_query", sql=f"SELECT count(*) FROM candles('binance', 'BTCUSDT', '1m', '{T0 + 60_000}')")
    assert rows(found) == [(2,)]
    database.xadd("{orders}:dlq", {"total": "x", "sm-reason": "rejected", "sm-error": "no number", "sm-group": "g"})
    database.xadd("orders", {"total": "1"})
    found = raw.call("stream_query", sql="SELECT reason, error, \"group\", total FROM dead_letters('orders')")
    assert rows(found) == [("rejected", "no number", "g", "x")]


def test_odd_names_of_streams_and_fields(raw: RawClient, database: redis.Redis) -> None:
    database.xadd('we"ird; DROP', {'a"b': "1", "Price": "2", "price": "3", "": "4", b"\xff": b"\xfe", "select": "5"})
    found = raw.call("stream_query", sql='SELECT * FROM "we""ird; DROP"')
    assert found["columns"]['a"b'] == [1]
    assert (found["columns"]["Price"], found["columns"]["price_1"]) == ([2], [3])
    assert found["columns"]["select"] == [5]
    assert found["columns"]["\\xff"] == ["\\xfe"]
    assert rows(raw.call("stream_query", sql='SELECT "a""b" + "select" FROM "we""ird; DROP"')) == [(6,)]


def test_a_series_is_read_across_its_archive(raw: RawClient, database: redis.Redis) -> None:
    series = "kline:binance:BTCUSDT:1m"
    for stream, times in ((series, (5, 6)), ("older", (1, 2, 5))):
        for n in times:
            fields = {name: str(n) for name in ("open", "high", "low", "close", "volume")}
            fields |= {"open_ts": str(T0 + n * 60_000), "is_closed": "true"}
            database.xadd(stream, fields, id=f"{T0 + n * 60_000}-0")
    database.zadd(f"sm:archive:{series}", {"older": T0})
    found = raw.call("stream_query", sql="SELECT close FROM candles('binance', 'BTCUSDT', '1m') ORDER BY open_ts")
    assert rows(found) == [(1,), (2,), (5,), (6,)]


def test_odd_values_are_shown_as_json_has_them(raw: RawClient) -> None:
    sql = "SELECT 'nan'::DOUBLE, 12345678901234567890123::HUGEINT, [1, 2], 1.5::DECIMAL(5,2), DATE '2024-01-01', NULL"
    found = raw.call("stream_query", sql=sql)
    assert rows(found) == [("nan", "12345678901234567890123", "[1, 2]", 1.5, "2024-01-01", None)]
    assert list(raw.call("stream_query", sql="SELECT 1 AS a, 2 AS a")["columns"]) == ["a", "a_1"]


def test_a_result_is_bounded_and_says_how_to_go_on(raw: RawClient) -> None:
    found = raw.call("stream_query", sql="SELECT range AS n FROM range(5000)")
    assert (found["count"], found["truncated"]) == (100, True)
    assert "limit" in found["hint"]
    wide = raw.call("stream_query", sql="SELECT repeat('é', 3000) AS t FROM range(1000)", limit=1000)
    assert wide["truncated"]
    assert len(json.dumps(wide, ensure_ascii=False).encode()) <= 60_000
    one = raw.call("stream_query", sql="SELECT repeat('x', 100000) AS t")
    assert len(json.dumps(one)) < 6000


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ('SELECT pric FROM "trades:BTC"', "price"),
        ("SELECT 1 FROM tradesBTC", "Did you mean 'trades:BTC'"),
        ("SELECT * FROM trades:BTC", "double quotes"),
        ("SELECT * FROM candles('binance', 'BTCUSDT')", "3 to 5 arguments"),
        ("SELECT * FROM candles('binanse', 'BTCUSDT', '1m')", "binance"),
        ("SELECT * FROM candles('binance', 'BTCUSDT', '7m')", "7m"),
        ("SELECT * FROM aggregator('none', 'BTC', '1m')", "none"),
        ("SELEC 1", "error"),
        ("", "SELECT"),
        ("SELECT 1; SELECT 2", "2 statements"),
    ],
)
def test_what_is_wrong_is_said_with_what_there_is(raw: RawClient, database: redis.Redis, sql: str, says: str) -> None:
    trades(database, count=3)
    with pytest.raises(ToolFailure, match=r".*") as failure:
        raw.call("stream_query", sql=sql)
    assert says in str(failure.value)
    assert "LINE 1" not in str(failure.value)


@pytest.fixture
def private_file(tmp_path: Path) -> Path:
    (tmp_path / "private.csv").write_text("word\nunreachable\n")
    return tmp_path / "private.csv"


READS_FILES = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM '{file}'",
    'SELECT * FROM "{file}"',
    "SELECT * FROM glob('{folder}/*')",
    "SELECT (SELECT content FROM read_text('{file}'))",
    "WITH a AS (FROM read_blob('{file}')) SELECT * FROM a",
    "SELECT * FROM query('FROM read_text(''{file}'')')",
    "SELECT * FROM query_table('{file}')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM parquet_metadata('{file}')",
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "EXPORT DATABASE '{folder}/out'",
    "ATTACH '{folder}/other.db'",
    "INSTALL httpfs",
    "LOAD '{file}'",
    "IMPORT DATABASE '{folder}'",
    "SET memory_limit = '8GB'",
    "RESET ALL",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE t (a INT)",
    "DROP TABLE t0",
    "EXPLAIN ANALYZE SELECT 1",
    "SHOW TABLES",
    "SELECT getenv('REDIS_URL')",
    "SELECT current_setting('temp_directory')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pandas_scan(0, 0, 0)",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT write_log('x')",
    "SELECT sleep_ms(60000)",
    "FROM (SUMMARIZE FROM read_csv('{file}'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('{file}'))",
    "SELECT list_transform([1], lambda x: (SELECT content FROM read_text('{file}')))",
]


@pytest.mark.parametrize("sql", READS_FILES)
def test_a_query_reaches_no_file_no_setting_and_no_extension(raw: RawClient, private_file: Path, sql: str) -> None:
    with pytest.raises(ToolFailure) as failure:
        raw.call("stream_query", sql=sql.format(file=private_file, folder=private_file.parent))
    assert "unreachable" not in str(failure.value)
    assert [each.name for each in private_file.parent.iterdir()] == ["private.csv"]


def test_no_table_function_of_duckdb_can_be_read_from_but_those_that_compute() -> None:
    """Whatever functions the installed DuckDB has."""
    from streammachine_mcp.query import plan, sandbox

    parser = sandbox.opened()
    kinds = "('table', 'table_macro', 'pragma')"
    listed = parser.execute(f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN {kinds}")
    names = {str(row[0]) for row in listed.fetchall()}
    assert len(names) > 100
    for name in names - {"unnest", "range", "generate_series", "repeat", "json_each", "json_tree"}:
        for sql in (f'SELECT * FROM "{name}"()', f'FROM main."{name.upper()}"(1)', f'CALL "{name}"()'):
            with pytest.raises(plan.QueryError):
                plan.plan_of(parser, sql)
    parser.close()


def test_a_query_that_never_ends_is_ended(raw: RawClient) -> None:
    sql = "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT count(*) FROM x"
    with pytest.raises(ToolFailure, match=r"took more than|more than the 512 MB"):
        raw.call("stream_query", sql=sql)
    assert raw.call("stream_query", sql="SELECT 1 AS a")["count"] == 1


def test_a_query_that_fills_memory_is_ended(raw: RawClient) -> None:
    sql = "SELECT length(string_agg(repeat('y', 100), ',')) FROM range(10000) a, range(10000) b"
    with pytest.raises(ToolFailure, match=r"512 MB|more memory"):
        raw.call("stream_query", sql=sql)
    assert raw.call("stream_query", sql="SELECT 1 AS a")["count"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's bound of a process's memory is Linux's")
def test_the_kernel_bounds_the_process_of_a_query(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env) as client:
        client.call("stream_query", sql="SELECT 1 AS a")
        (child,) = children(client.process.pid)
        status = Path(f"/proc/{child}/status").read_text()
        allocated = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
        bound, most = resource.prlimit(child, resource.RLIMIT_DATA)
        assert abs(bound - allocated - worker.MEMORY) < worker.KEPT
        assert most == bound, "the process cannot raise it"
        assert resource.prlimit(child, resource.RLIMIT_FSIZE) == (0, 0)
        assert resource.prlimit(child, resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's bound of a process's memory is Linux's")
@pytest.mark.parametrize("megabytes", [100, 250])
def test_what_a_query_reads_counts_too(shared_server: EmbeddedServer, database: redis.Redis, megabytes: int) -> None:
    """A process with a smaller bound is given a stream that is too wide for it: our own reader asks for more than it
    gets, of the one bound while the replies come in, of the other when it makes text of them."""
    database.delete("wide")
    for _ in range(64):
        database.xadd("wide", {"text": b"x" * (1 << 20)})
    code = f"import streammachine_mcp.query.worker as worker; worker.MEMORY = {megabytes << 20}; worker.main()"
    env = {**clean_environment({}), CHILD_URL: f"{shared_server.url}?db=5"}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=-1, stdout=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'{"sql": "SELECT max(length(text)) FROM wide", "limit": 1}\n')
        child.stdin.flush()
        ready, answer = (json.loads(child.stdout.readline()) for _ in range(2))
        child.stdin.close()
    database.delete("wide")
    assert (ready, answer["error"]) == ({"ready": True}, worker.OUT_OF_MEMORY)


def test_a_query_nested_too_deep_or_too_long_is_refused(raw: RawClient) -> None:
    for sql in (
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
        "SELECT 1" + " " * 30_000,
        "SELECT " + "+".join(["1"] * 9000),
    ):
        with pytest.raises(ToolFailure):
            raw.call("stream_query", sql=sql)
    assert raw.call("stream_query", sql="SELECT 1 AS a")["count"] == 1


def test_a_cancelled_call_ends_its_query(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env) as client:
        sql = "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT count(*) FROM x"
        assert client.call("stream_query", sql="SELECT 1 AS a")["count"] == 1
        (before,) = children(client.process.pid)
        used = cpu_ticks(before)
        call = client.send("tools/call", name="stream_query", arguments={"sql": sql})
        until(lambda: cpu_ticks(before) > used + 20)  # it runs
        client.notify("notifications/cancelled", requestId=call, reason="the user went away")
        until(lambda: before not in children(client.process.pid))


def test_the_processes_of_queries_end_with_the_server(server_env: dict[str, str]) -> None:
    client = RawClient(env=server_env)
    client.call("stream_query", sql="SELECT 1 AS a")
    (child,) = children(client.process.pid)
    client.kill()  # kill -9
    until(lambda: not Path(f"/proc/{child}/cmdline").exists() or b"query" not in cmdline(child))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_two_hundred_queries_leave_pings_quick(server_env: dict[str, str]) -> None:
    """Each is answered, with its result or that too many wait; meanwhile the server answers others."""
    with RawClient(env=server_env) as client:
        client.call("stream_query", sql="SELECT 1 AS a")
        sql = "SELECT sum(a.range * b.range) AS s FROM range(1000) a, range(1000) b"
        calls = [client.send("tools/call", name="stream_query", arguments={"sql": sql}) for _ in range(200)]
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            client.wait(client.send("ping"))
            slowest = max(slowest, time.monotonic() - began)
        answers = [client.wait(call) for call in calls]
        refused = [answer for answer in answers if answer.get("isError")]
        assert all("try again" in answer["content"][0]["text"] for answer in refused)
        print(f"slowest ping: {slowest * 1000:.0f} ms, refused: {len(refused)}")


def test_the_process_of_a_query_has_no_secret_in_its_environment(server_env: dict[str, str]) -> None:
    with RawClient(env={**server_env, "SOME_TOKEN": "s3cret-value", "STREAMMACHINE_SIGNING_KEY": "k" * 20}) as client:
        client.call("stream_query", sql="SELECT 1 AS a")
        (child,) = children(client.process.pid)
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"s3cret-value" not in environment
        assert b"kkkkkkkk" not in environment


@pytest.mark.anyio
async def test_without_duckdb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from streammachine.settings import Settings
    from streammachine_mcp.query import pool
    from streammachine_mcp.state import ServerState

    monkeypatch.setattr(pool, "_has_duckdb", lambda: False)
    with pytest.raises(pool.QueryError, match=r"pip install 'streammachine-mcp\[sql\]'"):
        await ServerState(Settings()).queries.run("SELECT 1", 10)


def test_fields_of_a_stream_are_described(raw: RawClient, database: redis.Redis) -> None:
    trades(database)
    database.xgroup_create("trades:BTC", "g", "0")
    database.xadd("trades:BTC", {"note": '{"a": 1}', "ts": str(T0)}, id=f"{T0 + 100 * HOUR // 10}-0")
    found = raw.call("stream_describe", stream="trades:BTC")
    fields = {field["name"]: field for field in found["fields"]}
    assert (fields["price"]["type"], fields["price"]["range"]) == ("number", "0.5 to 99.5")
    assert (fields["qty"]["type"], fields["code"]["type"], fields["maker"]["type"]) == ("integer", "text", "boolean")
    assert sorted(fields["side"]["values"]) == ["buy", "sell"]
    assert fields["note"]["type"] == "json"
    assert fields["ts"]["type"] == "time_ms"
    assert fields["ts"]["share"] == 0.01
    assert found["first"] == "2024-08-09T00:00:00.000Z"
    assert found["rate_per_s"] == pytest.approx(1 / 360, rel=0.1)
    assert found["groups"][0]["lag"] == 101
    assert len(found["sample"]) == 2
    with pytest.raises(ToolFailure, match="Did you mean 'trades:BTC'"):
        raw.call("stream_describe", stream="trades:BT")


def children(pid: int) -> set[int]:
    """The processes for queries that a server has."""
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"query.worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def cpu_ticks(pid: int) -> int:
    """The processor time that a process has used, in the kernel's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def until(condition: Any, timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
