"""Candles as pictures: matplotlib's object API, no global state, values of any size.

``Chart`` says what is drawn, ``draw_chart`` gives a PNG and imports matplotlib (the extra ``charts``).
"""

from streammachine.charts.chart import THEMES, Chart, ChartLine
from streammachine.charts.draw import draw_chart

__all__ = ["THEMES", "Chart", "ChartLine", "draw_chart"]
