"""Analysis tools: SQL over what Redis holds, and what a stream is made of."""

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from streammachine_mcp.tools.family import Family, tool


class QueryResult(TypedDict):
    columns: dict[str, list[float | int | bool | str | None]]
    types: dict[str, str]
    count: int
    rows_read: int
    elapsed_ms: float
    truncated: bool
    hint: NotRequired[str]


class QueryTools(Family):
    toolset = "stream"

    @tool("stream_query", "Query with SQL", reads=True)
    async def query(
        self,
        sql: Annotated[str, Field(description='One SELECT, e.g. SELECT symbol, sum(volume) FROM "trades" GROUP BY 1')],
        limit: Annotated[int, Field(description="Most rows", ge=1, le=1000)] = 100,
    ) -> QueryResult:
        """Read-only SQL (DuckDB) over streams: FROM "name" (columns: id, timestamp_ms and the fields) or
        stream('name', 'now-1d'); candles('binance', 'BTCUSDT', '1m', 'now-7d'); aggregator('name', 'SYMBOL', '1m');
        dead_letters('stream'). epoch_ms(open_ts) makes a time. 10 s, 5M rows in; aggregate rather than fetch."""
        found = await self.state.queries.run(sql, limit)
        if found["truncated"]:
            found["hint"] = "There are more rows: raise limit (at most 1000), aggregate, or use LIMIT and OFFSET."
        return found  # type: ignore[return-value]
