"""Candles as pictures: matplotlib's object API, no global state, values of any size.

``Chart`` says what is drawn, ``draw_chart`` gives a PNG. matplotlib (the extra ``charts``) is imported by the first
``draw_chart``.
"""

from streammachine.charts.chart import THEMES, Chart, ChartLine
from streammachine.charts.draw import draw_chart

__all__ = ["THEMES", "Chart", "ChartLine", "draw_chart"]
