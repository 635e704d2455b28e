// Live candles of one series: TradingView's lightweight-charts where the build could fetch it, else a plain picture of our own.
import { ask } from "./app.js";
import { make, moment, number, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const LINES = 5;
let library = null; // a promise: the library, or null where there is none

function loaded() {
  library = library || new Promise((resolve) => {
    const script = make("script", { src: "assets/lightweight-charts.js" });
    script.onload = () => resolve(window.LightweightCharts || null);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });
  return library;
}

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(); }

function precision(rows) { // decimals that tell the prices apart
  const smallest = Math.min(...rows.map((row) => Math.abs(row[4]) || 1));
  return Math.max(2, Math.min(10, 4 - Math.floor(Math.log10(smallest))));
}

const usable = (row) => row.slice(0, 5).every((value) => Number.isFinite(value));

class Drawn {
  constructor(kit, place) {
    this.kit = kit;
    this.place = place;
    this.lines = new Map();
    this.chart = kit.createChart(place, { autoSize: true, layout: { attributionLogo: false }, localization: { locale: "en-US" } });
    this.candles = this.chart.addSeries(kit.CandlestickSeries, {});
    this.volume = this.chart.addSeries(kit.HistogramSeries, { priceScaleId: "volume", priceFormat: { type: "volume" }, priceLineVisible: false, lastValueVisible: false });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.newest = null;
    this.count = 0;
    this.dress();
  }

  dress() {
    this.chart.applyOptions({
      layout: { background: { type: "solid", color: "transparent" }, textColor: colour("soft"), fontSize: 11, attributionLogo: false,
        panes: { separatorColor: colour("edge") } },
      grid: { vertLines: { color: colour("edge") }, horzLines: { color: colour("edge") } },
      rightPriceScale: { borderColor: colour("edge") },
      timeScale: { borderColor: colour("edge"), timeVisible: true },
    });
    const [upColor, downColor] = [colour("up"), colour("down")];
    this.candles.applyOptions({ upColor, downColor, wickUpColor: upColor, wickDownColor: downColor, borderUpColor: upColor, borderDownColor: downColor });
    this.volume.applyOptions({ color: colour("edge") });
  }

  show(rows, lines) {
    const bars = rows.map(([ms, open, high, low, close]) => ({ time: ms / 1000, open, high, low, close }));
    const decimals = precision(rows);
    this.candles.applyOptions({ priceFormat: { type: "price", precision: decimals, minMove: 10 ** -decimals } });
    this.candles.setData(bars);
    this.volume.setData(rows.map((row) => ({ time: row[0] / 1000, value: row[5] || 0 })));
    const names = new Set(lines.map((line) => line.name));
    for (const [name, series] of this.lines) if (!names.has(name)) { this.chart.removeSeries(series); this.lines.delete(name); }
    lines.forEach((line, at) => {
      let series = this.lines.get(line.name);
      if (!series) {
        const kind = line.style === "histogram" ? this.kit.HistogramSeries : this.kit.LineSeries;
        const options = { color: ["#3b82f6", "#d97706", "#a855f7", "#0891b2", "#db2777"][at % LINES], lineWidth: 2, priceLineVisible: false, title: line.name };
        series = this.chart.addSeries(kind, options, line.on_price ? 0 : 1);
        this.lines.set(line.name, series);
      }
      series.setData(line.values.flatMap((value, place) => (value === null ? [] : [{ time: bars[place].time, value }])));
    });
    if (!this.count) this.chart.timeScale().fitContent();
    this.count = rows.length;
  }

  end() { this.chart.remove(); }
}

class Picture { // without the library: SVG, no zoom
  constructor(place) {
    this.place = place;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", "0 0 900 400");
    this.svg.setAttribute("preserveAspectRatio", "none");
    place.append(this.svg);
  }

  dress() {}

  show(all, lines) {
    const rows = all.slice(-120);
    const high = Math.max(...rows.map((row) => row[2]));
    const low = Math.min(...rows.map((row) => row[3]));
    const y = (price) => 10 + 380 * (high === low ? 0.5 : (high - price) / (high - low));
    const step = 840 / rows.length;
    const draw = (name, attributes) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const nodes = rows.flatMap(([, open, top, bottom, close], at) => {
      const kind = close >= open ? "up" : "down";
      const x = (at + 0.5) * step;
      return [draw("line", { class: kind, x1: x, x2: x, y1: y(top), y2: y(bottom) }),
        draw("rect", { class: kind, x: x - step * 0.35, width: step * 0.7, y: y(Math.max(open, close)), height: Math.max(1, Math.abs(y(open) - y(close))) })];
    });
    for (const line of lines.filter((each) => each.on_price)) {
      const points = line.values.slice(-120).flatMap((value, at) => (value === null ? [] : [`${(at + 0.5) * step},${y(value)}`]));
      nodes.push(draw("polyline", { class: "line", points: points.join(" ") }));
    }
    for (const price of [high, low]) {
      const label = draw("text", { x: 846, y: y(price) + 4 });
      label.textContent = String(price);
      nodes.push(label);
    }
    this.svg.replaceChildren(...nodes);
  }

  end() { this.svg.remove(); }
}

export function chartView(query) {
  const select = make("select", { onchange: () => ask({ stream: select.value }) });
  const input = make("input", { type: "text", value: query.indicators || "", placeholder: "sma:20 rsi:14", maxlength: 200, autocomplete: "off", spellcheck: "false" });
  const form = make("form", { class: "bar", "aria-label": "What is shown" },
    make("label", { class: "wide" }, "Series", select), make("label", { class: "wide" }, "Indicators, e.g. sma:20 rsi:14", input),
    make("button", { type: "submit" }, "Show"));
  form.onsubmit = (event) => { event.preventDefault(); ask({ indicators: input.value.trim() }); };
  const wrong = make("p", { class: "wrong", role: "alert", hidden: true });
  const note = make("p", { class: "note", hidden: true });
  const empty = make("div", { class: "empty", hidden: true },
    make("div", {}, "There are no candles in Redis yet. Stream some, from a simulated exchange too:"),
    make("code", {}, "streammachine stream binance BTCUSDT --timeframe 1m --to redis --simulated"));
  const place = make("div", { id: "chart", role: "img", "aria-label": "Candles" });
  const last = make("div", { class: "last", id: "last" });
  const thanks = make("p", { class: "soft", hidden: true }, "Chart: ",
    make("a", { href: "https://www.tradingview.com/", rel: "noreferrer noopener", target: "_blank" }, "TradingView lightweight-charts"));
  const node = make("section", { "aria-label": "Candles" }, make("h2", {}, "Candles"), form, wrong, note, empty, last, place, thanks);
  let drawn = null;
  let of = null;
  let waiting = null; // what came while the library was loading

  async function draw(found) {
    const rows = found.candles.filter(usable);
    const lines = (found.lines || []).map((line) => ({ ...line, values: line.values.filter((_, at) => usable(found.candles[at])) }));
    if (!drawn || of !== found.stream) {
      if (waiting) { waiting = found; return; }
      waiting = found;
      const kit = await loaded();
      const newest = waiting;
      waiting = null;
      if (!node.isConnected) return;
      if (drawn) drawn.end();
      drawn = kit ? new Drawn(kit, place) : new Picture(place);
      thanks.hidden = !kit;
      of = newest.stream;
      if (newest !== found) { draw(newest); return; }
    }
    drawn.show(rows, lines);
  }

  function showLast(found) {
    const row = found.candles[found.candles.length - 1];
    if (!row) { last.replaceChildren(); return; }
    const [ms, open, high, low, close, volume, closed] = row;
    const words = [`${moment(ms)} UTC`, closed ? "closed" : "still open", `open ${open}`, `high ${high}`, `low ${low}`, `close ${close}`,
      `volume ${number(volume)}`, ...(found.lines || []).map((line) => `${line.name} ${line.values.at(-1) === null ? "–" : number(line.values.at(-1))}`)];
    while (last.children.length < words.length) last.append(make("span"));
    while (last.children.length > words.length) last.lastElementChild.remove();
    words.forEach((word, at) => setText(last.children[at], word));
    place.setAttribute("aria-label", `Candles of ${found.stream}: ${found.candles.length}, the last: ${words.slice(0, 6).join(", ")}`);
  }

  return { title: "Candles", node,
    show(found) {
      wrong.hidden = !found.error;
      setText(wrong, found.error || "");
      if (found.error) return;
      note.hidden = !found.note;
      setText(note, found.note || "");
      const names = found.rows.includes(found.stream) || !found.stream ? found.rows : [found.stream, ...found.rows];
      if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
        select.replaceChildren(...names.map((value) => make("option", { value }, value)));
      }
      if (document.activeElement !== select) select.value = found.stream;
      const none = !found.candles.length;
      empty.hidden = !none;
      place.hidden = last.hidden = none;
      showLast(found);
      if (!none) draw(found);
    },
    themed() { if (drawn) drawn.dress(); },
    leave() { if (drawn) drawn.end(); drawn = null; } };
}
