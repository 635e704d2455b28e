"""A picture of candles, with matplotlib's object API."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streammachine.charts.scale import ValueScale, amount, price, span_text, time_ticks
from streammachine.errors import ChartError

if TYPE_CHECKING:
    from streammachine.charts.chart import Chart, ChartLine

_DPI = 100
_COLOURS = {
    "light": {
        "ground": "#ffffff", "text": "#1f2328", "faint": "#59636e", "grid": "#e8eaed", "edge": "#c9ced4",
        "up": "#0f8a7e", "down": "#d1383d", "gap": "#8c959f", "mark": "#b35900",
        "lines": ("#1f5fd1", "#b35900", "#7b3fc4", "#0a7d33", "#a8326e", "#53606e"),
    },
    "dark": {
        "ground": "#131722", "text": "#e2e5ec", "faint": "#9aa1ad", "grid": "#242936", "edge": "#3a4150",
        "up": "#2bb3a3", "down": "#f0605d", "gap": "#8790a0", "mark": "#f2a33c",
        "lines": ("#6ea3ff", "#f2a33c", "#c08cff", "#63d48a", "#ff8ec4", "#aab4c3"),
    },
}  # fmt: skip
_LEFT, _RIGHT, _TOP, _BOTTOM = 14, 84, 54, 30  # pixels around the panes
_GAP_SLOTS = 4  # candles that a gap is at most as wide as
_LEAST_SLOTS = 16  # so that a few candles do not fill the picture
_BODY = 0.72  # of a candle's width
_BARS: dict[str, Any] = {"alpha": 0.55, "linewidths": 0, "antialiased": False, "zorder": 2}
_POINT = 72 / _DPI  # points in a pixel


def draw_chart(chart: Chart) -> bytes:
    """The chart as a PNG.

    Raises:
        ChartError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ChartError(
            "Charts as pictures need matplotlib, which is not installed: pip install 'streammachine-mcp[charts]'"
        ) from error
    figure = Figure(figsize=(chart.width / _DPI, chart.height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    _Picture(chart, figure).paint()
    return _png(figure.canvas)


def _png(canvas: Any) -> bytes:
    """The drawn figure as a PNG of 256 colours: a third of the size of one with all of them."""
    from PIL import Image  # matplotlib brings it

    canvas.draw()
    picture = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
    target = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, format="PNG")
    return target.getvalue()


class _Picture:
    """One figure while it is painted."""

    def __init__(self, chart: Chart, figure: Any) -> None:
        self.chart = chart
        self.figure = figure
        self.colours: dict[str, Any] = _COLOURS[chart.theme]
        self.places, self.slots, self.bands = _slots(chart)
        figure.set_facecolor(self.colours["ground"])

    def paint(self) -> None:
        own = [line for line in self.chart.lines if not line.on_price]
        has_volume = any(value for value in self.chart.volume)
        weights = [4.4, *([1.1] if has_volume else []), *([1.5] * len(own))]
        panes = self._panes(weights)
        self._price_pane(panes[0])
        rest = panes[1:]
        if has_volume:
            self._volume_pane(rest.pop(0))
        for number, (line, pane) in enumerate(zip(own, rest, strict=True)):
            self._indicator_pane(pane, line, number)
        self._time_axis(panes)
        self._title()

    def _panes(self, weights: Sequence[float]) -> list[Any]:
        """The panes from the top down, each an Axes from 0 to 1 upwards and one unit a candle wide."""
        width, height = self.chart.width, self.chart.height
        space, between = height - _TOP - _BOTTOM, 6
        unit = (space - between * (len(weights) - 1)) / sum(weights)
        top = float(height - _TOP)
        found = []
        for weight in weights:
            size = weight * unit
            box = (_LEFT / width, (top - size) / height, (width - _LEFT - _RIGHT) / width, size / height)
            axes = self.figure.add_axes(box, facecolor=self.colours["ground"])
            spare = max(0.0, _LEAST_SLOTS - self.slots) / 2
            axes.set_xlim(-1 - spare, self.slots + spare)
            axes.set_ylim(0, 1)
            axes.xaxis.set_visible(False)
            axes.yaxis.tick_right()
            for side in axes.spines.values():
                side.set_color(self.colours["edge"])
                side.set_linewidth(0.8)
            for first, last, _ in self.bands:
                axes.axvspan(first, last, facecolor=self.colours["gap"], alpha=0.16, linewidth=0)
                for edge in (first, last):
                    axes.axvline(edge, color=self.colours["gap"], linewidth=0.7, linestyle=(0, (3, 3)))
            axes.pixels = size
            found.append(axes)
            top -= size + between
        return found

    def _price_pane(self, axes: Any) -> None:
        over = [line for line in self.chart.lines if line.on_price]
        drawn = [values for line in over for values, style in _drawn(line) if style != "none"]
        scale = ValueScale([*self.chart.high, *self.chart.low, *(value for values in drawn for value in values)])
        last = scale.place(self.chart.close[-1])
        near = 13 / axes.pixels  # of the label of the last price
        ticks = scale.ticks(max(3, int(axes.pixels / 40)))
        self._value_axis(axes, ticks, hidden=[place for place, _ in ticks if abs(place - last) < near])
        self._candles(axes, scale)
        legend = []
        for number, line in enumerate(over):
            legend.append(self._line(axes, scale, line, number))
        self._legend(axes, legend)
        for left, right, missing in self.bands:
            self._text(
                axes, (left + right) / 2, 0.985, f"{missing:,} missing", colour="faint", size=10, rotation=90,
                horizontalalignment="center", verticalalignment="top",
            )  # fmt: skip
        colour = self.colours["up"] if self.chart.close[-1] >= self.chart.open[-1] else self.colours["down"]
        axes.axhline(last, color=colour, linewidth=0.7, linestyle=(0, (2, 3)))
        self._text(
            axes, 1.006, last, price(self.chart.close[-1], 8), size=10, transform=axes.get_yaxis_transform(),
            verticalalignment="center", weight="bold", ink=self.colours["ground"],
            bbox=self._box(colour, 1.0), zorder=9,
        )  # fmt: skip

    def _candles(self, axes: Any, scale: ValueScale) -> None:
        from matplotlib.collections import LineCollection, PolyCollection

        chart = self.chart
        half = _BODY / 2
        least = 1 / axes.pixels  # a body is at least a pixel high
        wicks, bodies, edges, fills = [], [], [], []
        for n, place in enumerate(self.places):
            first, last = sorted((scale.place(chart.open[n]), scale.place(chart.close[n])))
            if last - first < least:
                middle = (first + last) / 2
                first, last = middle - least / 2, middle + least / 2
            colour = self.colours["up"] if chart.close[n] >= chart.open[n] else self.colours["down"]
            wicks.append([(place, scale.place(chart.low[n])), (place, first)])
            wicks.append([(place, last), (place, scale.place(chart.high[n]))])
            edges.append(colour)
            fills.append(colour if not chart.closed or chart.closed[n] else self.colours["ground"])
            bodies.append([(place - half, first), (place - half, last), (place + half, last), (place + half, first)])
        doubled = [colour for colour in edges for _ in range(2)]
        thin = 1.0 if len(self.places) < 400 else 0.7
        pens: dict[str, Any] = {"linewidths": thin * _POINT, "antialiased": False}
        axes.add_collection(LineCollection(wicks, colors=doubled, zorder=3, **pens))
        axes.add_collection(PolyCollection(bodies, facecolors=fills, edgecolors=edges, zorder=4, **pens))
        marked = [place for n, place in enumerate(self.places) if chart.complete and not chart.complete[n]]
        if marked:
            axes.plot(marked, [0.018] * len(marked), "^", markersize=5, color=self.colours["mark"], zorder=6)

    def _volume_pane(self, axes: Any) -> None:
        from matplotlib.collections import PolyCollection

        chart = self.chart
        scale = ValueScale(chart.volume, floor=0.0)
        bars, colours = [], []
        for n, place in enumerate(self.places):
            top = scale.place(chart.volume[n])
            if math.isnan(top):
                continue
            left, right = place - _BODY / 2, place + _BODY / 2
            bars.append([(left, 0.0), (left, top), (right, top), (right, 0.0)])
            colours.append(self.colours["up"] if chart.close[n] >= chart.open[n] else self.colours["down"])
        axes.add_collection(PolyCollection(bars, facecolors=colours, **_BARS))
        ticks = scale.ticks(2)
        labels = [(place, amount(scale.low + place * (scale.high - scale.low))) for place, _ in ticks]
        self._value_axis(axes, [(place, "0" if place < 1e-9 else text) for place, text in labels])
        self._legend(axes, [("Volume", self.colours["faint"])])

    def _indicator_pane(self, axes: Any, line: ChartLine, number: int) -> None:
        bars = "histogram" in line.styles
        values = [value for column in line.columns.values() for value in column]
        scale = ValueScale([*values, *([0.0] if bars else [])])
        self._value_axis(axes, scale.ticks(max(3, int(axes.pixels / 26))))
        self._legend(axes, [self._line(axes, scale, line, number)])

    def _line(self, axes: Any, scale: ValueScale, line: ChartLine, number: int) -> tuple[str, str]:
        """Draw an indicator's columns; gives its part of the legend."""
        from matplotlib.collections import PolyCollection

        palette: Sequence[str] = self.colours["lines"]
        colour = palette[number % len(palette)]
        parts = 0
        for values, style in _drawn(line):
            points = [scale.place(value) for value in values]
            shade = colour if line.on_price or parts == 0 else palette[(number + parts) % len(palette)]
            if style == "histogram":
                zero = scale.place(0.0)
                bars = [
                    [(place - 0.3, zero), (place - 0.3, point), (place + 0.3, point), (place + 0.3, zero)]
                    for place, point in zip(self.places, points, strict=True)
                    if not math.isnan(point)
                ]
                inks = [self.colours["up" if value >= 0 else "down"] for value in values if value is not None]
                axes.add_collection(PolyCollection(bars, facecolors=inks, **_BARS))
            elif style == "dots":
                axes.plot(self.places, points, linestyle="none", marker=".", markersize=3, color=shade, zorder=5)
                parts += 1
            else:
                dashes = (0, (4, 2)) if style == "dashed" else "solid"
                axes.plot(*self._broken(points), color=shade, linewidth=1.2, linestyle=dashes, zorder=5)
                parts += 1
        lasts = [price(column[-1], 6) for column in list(line.columns.values())[: len(_drawn(line))]]
        return f"{_clean(line.name, 28)}  {'  '.join(lasts[:3])}", colour

    def _broken(self, points: Sequence[float]) -> tuple[list[float], list[float]]:
        """A line's points; it has a break where candles are missing."""
        across: list[float] = []
        up: list[float] = []
        starts = {last for _, last, _ in self.bands}
        for place, point in zip(self.places, points, strict=True):
            if place - 0.5 in starts:
                across.append(place)
                up.append(math.nan)
            across.append(place)
            up.append(point)
        return across, up

    def _value_axis(self, axes: Any, ticks: Sequence[tuple[float, str]], hidden: Sequence[float] = ()) -> None:
        """Lines and labels at the ticks; those of ``hidden`` have a line only."""
        inside = [(place, text) for place, text in ticks if -0.001 <= place <= 0.985]
        axes.set_yticks([place for place, _ in inside])
        labels = ["" if place in hidden else text for place, text in inside]
        axes.set_yticklabels(labels, fontsize=10 * _POINT * 1.05, color=self.colours["faint"])
        axes.tick_params(axis="y", length=0, pad=4)
        axes.grid(True, axis="y", color=self.colours["grid"], linewidth=0.8)
        axes.set_axisbelow(True)

    def _legend(self, axes: Any, parts: Sequence[tuple[str, str]]) -> None:
        """Names in their colours, in a column at the top left."""
        for number, (text, colour) in enumerate(parts):
            self._text(
                axes, 0.006, 1 - (4 + number * 15) / axes.pixels, text, size=11, ink=colour, transform=axes.transAxes,
                verticalalignment="top", zorder=8,
                bbox=self._box(self.colours["ground"], 0.75),
            )  # fmt: skip

    def _time_axis(self, panes: Sequence[Any]) -> None:
        room = max(2, int((self.chart.width - _LEFT - _RIGHT) / 95))
        for n, text in time_ticks(self.chart.times, room):
            for axes in panes:
                axes.axvline(self.places[n], color=self.colours["grid"], linewidth=0.8, zorder=0)
            self._text(
                panes[-1], self.places[n], -6 / panes[-1].pixels, text, size=10, colour="faint",
                horizontalalignment=_aligned(self.places[n], self.slots), verticalalignment="top",
            )  # fmt: skip
        self._text(
            panes[-1], 1.01, -6 / panes[-1].pixels, "UTC", size=10, colour="faint", transform=panes[-1].transAxes,
            verticalalignment="top",
        )  # fmt: skip

    def _title(self) -> None:
        chart = self.chart
        first, last = chart.open[0], chart.close[-1]
        change = f"{(last / first - 1) * 100:+.2f} %" if first and math.isfinite(last / first) else ""
        colour = self.colours["up"] if last >= first else self.colours["down"]
        left, right = _LEFT / chart.width, 1 - _LEFT / chart.width
        most = max(12, (chart.width - 260) // 10)
        self._figure_text(left, 10, _clean(chart.title, most), size=15, weight="bold", ink=self.colours["text"])
        self._figure_text(right, 10, f"{price(last)}   {change}", size=14, ink=colour, horizontalalignment="right")
        self._figure_text(left, 32, self._facts(), size=10.5, ink=self.colours["faint"])

    def _facts(self) -> str:
        """The range, and what the marks mean that are in this picture."""
        chart = self.chart
        parts = [f"{len(chart.times):,} candle{'s' * (len(chart.times) > 1)}", span_text(chart.times)]
        if missing := sum(chart.missing[1:]):
            parts.append(f"{missing:,} missing")
        if chart.complete and not all(chart.complete):
            parts.append("▲ incomplete")
        if chart.closed and not all(chart.closed):
            parts.append("hollow: still open")
        return "  ·  ".join(parts)

    def _figure_text(self, x: float, down: float, text: str, *, size: float, ink: str, **more: Any) -> None:
        y = 1 - down / self.chart.height
        points = size * _POINT
        self.figure.text(x, y, text, fontsize=points, color=ink, verticalalignment="top", parse_math=False, **more)

    def _text(
        self, axes: Any, x: float, y: float, text: str, *, size: float, colour: str = "text", ink: str = "", **more: Any
    ) -> None:
        points = size * _POINT * 1.05
        axes.text(x, y, text, fontsize=points, color=ink or self.colours[colour], parse_math=False, **more)

    def _box(self, colour: str, alpha: float) -> dict[str, Any]:
        return {"facecolor": colour, "edgecolor": "none", "alpha": alpha, "boxstyle": "square,pad=0.15"}


def _slots(chart: Chart) -> tuple[list[float], float, list[tuple[float, float, int]]]:
    """Where each candle stands, how wide all are, and the gaps: from, to, candles missing."""
    places: list[float] = []
    bands = []
    at = 0.0
    for n in range(len(chart.times)):
        missing = chart.missing[n] if chart.missing and n else 0
        if missing > 0:
            width = min(max(missing, 1.6), max(_GAP_SLOTS, len(chart.times) / 40))
            bands.append((at - 0.5, at - 0.5 + width, missing))
            at += width
        places.append(at)
        at += 1
    return places, at, bands


def _drawn(line: ChartLine) -> list[tuple[Sequence[float | None], str]]:
    """An indicator's columns and styles; over candles, only what is a price."""
    pairs = list(zip(line.columns.values(), line.styles, strict=True))
    if line.on_price and len(pairs) > 1:
        return [(values, style) for values, style in pairs if style != "dots"]
    return pairs


def _aligned(place: float, slots: float) -> str:
    share = place / max(1.0, slots)
    return "left" if share < 0.03 else "right" if share > 0.97 else "center"


def _clean(text: str, most: int) -> str:
    """A name on one line, without what cannot be seen; a box where the font has no such letter."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))  # matplotlib brings it
    seen = "".join(letter if letter.isprintable() else " " for letter in text[: most * 2])
    seen = "".join(letter if font.get_char_index(ord(letter)) else "□" for letter in seen)
    return seen if len(seen) <= most else f"{seen[: most - 1]}…"
