"""Candles as pictures: matplotlib's object API, no global state, values of any size.

``Chart`` says what is drawn, ``draw`` gives a PNG. matplotlib (the extra ``charts``) is imported by the first ``draw``.
"""

from streammachine.charts.chart import THEMES, Chart, ChartLine
from streammachine.charts.draw import draw

__all__ = ["THEMES", "Chart", "ChartLine", "draw"]
