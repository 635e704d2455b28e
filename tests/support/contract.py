"""What the contract promises of each tool: its arguments, the keys of its result, and what it does to the data.

More tools, arguments and keys are welcome; the files in ``tests/server/golden`` say what there is, tool by tool.
"""

from __future__ import annotations

from typing import NamedTuple

READS, WRITES, DELETES = "reads", "writes", "deletes"


class ContractTool(NamedTuple):
    """One tool. ``required``, ``optional``: names of its arguments; ``keys``: of its result; ``kind``: READS, WRITES or
    DELETES; ``outside``: it talks to an exchange."""

    name: str
    required: str
    optional: str
    keys: str
    kind: str
    outside: bool = False


_TABLE = (
    ContractTool("stream_send", "stream message", "", "message_id", WRITES),
    ContractTool("stream_send_batch", "stream messages", "", "message_ids", WRITES),
    ContractTool("stream_read", "stream", "count start", "count messages next_cursor truncated", READS),
    ContractTool("stream_info", "stream", "", "length groups first_entry last_entry last_generated_id", READS),
    ContractTool("stream_list", "", "pattern", "streams", READS),
    ContractTool("stream_query", "sql", "limit", "columns types count rows_read truncated", READS),
    ContractTool("stream_describe", "stream", "", "stream length fields groups sample rate_per_s", READS),
    ContractTool("stream_delete", "stream", "confirm confirm_token", "deleted", DELETES),
    ContractTool("stream_trim", "stream", "keep before confirm confirm_token", "deleted", DELETES),
    ContractTool("storage_read", "key", "default", "key value", READS),
    ContractTool("storage_write", "key value", "", "key written", WRITES),
    ContractTool("storage_delete", "key", "", "key existed", DELETES),
    ContractTool("storage_keys", "", "", "keys count", READS),
    ContractTool("storage_clear", "", "confirm", "cleared", DELETES),
    ContractTool("explain", "", "topic", "off on", READS),
    ContractTool("health_check", "", "", "status redis", READS),
    ContractTool("redis_info", "", "section", "", READS),
    ContractTool("redis_ping", "", "", "ping", READS),
    ContractTool("obj_get", "key", "", "key value", READS),
    ContractTool("obj_list", "", "pattern", "keys count", READS),
    ContractTool("obj_delete", "pattern", "", "deleted", DELETES),
    ContractTool("ohlc_create", "name", "intervals", "name intervals implementation", WRITES),
    ContractTool("ohlc_update", "name", "symbol price volume timestamp_ms", "name symbol tick_count", WRITES),
    ContractTool("ohlc_get_candles", "name symbol interval_ms", "indicators fields format", "columns", READS),
    ContractTool(
        "ohlc_get_completed",
        "name symbol interval_ms",
        "before_timestamp_ms indicators fields format",
        "columns",
        READS,
    ),
    ContractTool("ohlc_flush", "name symbol interval_ms", "before_timestamp_ms", "flushed", DELETES),
    ContractTool("ohlc_clear", "name", "", "cleared", DELETES),
    ContractTool("ohlc_stats", "name", "", "tick_count symbols intervals implementation", READS),
    ContractTool("ohlc_list", "", "", "aggregators", READS),
    ContractTool("agent_list", "", "", "agents count truncated", READS),
    ContractTool("agent_stats", "name", "", "name kind app status streams processes", READS),
    ContractTool("agent_pause", "name", "", "name paused changed", WRITES),
    ContractTool("agent_resume", "name", "", "name paused changed", WRITES),
    ContractTool(
        "agent_create", "name stream output_stream", "filter select", "name stream output_stream group created", WRITES
    ),
    ContractTool("agent_delete", "name", "confirm confirm_token", "deleted", DELETES),
    ContractTool("dead_letter_list", "stream", "count", "stream total count letters truncated", READS),
    ContractTool("dead_letter_redrive", "stream", "ids all", "redriven ids missing refused remaining", WRITES),
    ContractTool("dead_letter_purge", "stream", "confirm confirm_token", "purged", DELETES),
    ContractTool(
        "runner_start",
        "exchange symbols",
        "timeframe aggregate emit history type every",
        "name started",
        WRITES,
        outside=True,
    ),
    ContractTool("runner_stop", "name", "", "name stopped", WRITES),
    ContractTool("runner_list", "", "", "runners count truncated", READS),
    ContractTool("backfill_start", "exchange symbol start", "end timeframe emit", "name started", WRITES, outside=True),
    ContractTool("backfill_status", "", "name", "backfills count truncated", READS),
    ContractTool(
        "candles_chart",
        "",
        "exchange symbol timeframe start end limit indicators theme name interval",
        "title count first_ms last_ms open close high low volume indicators missing gaps incomplete data truncated",
        READS,
    ),
    ContractTool(
        "candles_read",
        "exchange symbol",
        "timeframe start end limit indicators fields format",
        "exchange symbol timeframe count columns truncated",
        READS,
    ),
    ContractTool(
        "symbols_list",
        "exchange",
        "query market_type limit",
        "exchange market_type symbols count truncated",
        READS,
        outside=True,
    ),
    ContractTool("event_wait", "events", "cursor timeout_s", "events cursor timed_out", READS),
    ContractTool(
        "alert_create",
        "symbol condition",
        "exchange timeframe on name cooldown_s stream webhook",
        "name created",
        WRITES,
        outside=True,
    ),
    ContractTool("alert_list", "", "", "alerts count truncated", READS),
    ContractTool("alert_delete", "name", "", "name deleted", WRITES),
)
CONTRACT = {row.name: row for row in _TABLE}
