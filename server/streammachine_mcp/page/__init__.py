"""The interactive chart: one HTML file of our own page and TradingView's lightweight-charts, with no address in it."""

from streammachine_mcp.page.candles import CANDLES_URI, candles_resource

__all__ = ["CANDLES_URI", "candles_resource"]
