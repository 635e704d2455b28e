"use strict";
// The interactive chart. It speaks MCP Apps (JSON-RPC by postMessage, protocol 2026-01-26) with its host, asks the
// server for candles by the host's tools/call, and gives them to lightweight-charts. All that comes from outside is put
// into the page as text.
(() => {
  const PROTOCOL = "2026-01-26";
  const FALLBACK_MS = 2000, POLL_MS = 5000, SLOWEST_POLL_MS = 60000, CALL_MS = 45000;
  const INLINE_HEIGHT = 500, MOST_HEIGHT = 400, LEAST_HEIGHT = 220; // pixels: of the page, of the chart
  const PRICE_SHARE = 240, PANE_SHARE = 76;
  const MOST_ROWS = 2000; // that are kept while it goes on live
  const MOST_BLANKS = 40; // places that a gap takes
  const THEMES = {
    light: { text: "#1f2328", grid: "#e8eaed", edge: "#c9ced4", up: "#0f8a7e", down: "#d1383d", mark: "#b35900",
      lines: ["#1f5fd1", "#b35900", "#7b3fc4", "#0a7d33", "#a8326e", "#53606e"] },
    dark: { text: "#e2e5ec", grid: "#242936", edge: "#3a4150", up: "#2bb3a3", down: "#f0605d", mark: "#f2a33c",
      lines: ["#6ea3ff", "#f2a33c", "#c08cff", "#63d48a", "#ff8ec4", "#aab4c3"] },
  };
  const byId = (id) => document.getElementById(id);
  const state = { theme: "light", input: null, summary: null, rows: [], names: [], capabilities: {}, live: false, wait: POLL_MS };
  let drawn = null; // what lightweight-charts holds

  // -- the host ------------------------------------------------------------------------------

  const waiting = new Map();
  let nextId = 0;
  const post = (message) => window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  const notify = (method, params = {}) => post({ method, params });

  function request(method, params = {}) {
    const id = ++nextId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { waiting.delete(id); reject(new Error(method + ": the host did not answer")); }, CALL_MS);
      waiting.set(id, { resolve, reject, timer });
      post({ id, method, params });
    });
  }

  window.addEventListener("message", (event) => {
    const message = event.data;
    if (event.source !== window.parent || !message || message.jsonrpc !== "2.0") return;
    if (message.method === undefined) {
      const pending = waiting.get(message.id);
      if (!pending) return;
      waiting.delete(message.id);
      clearTimeout(pending.timer);
      if (message.error) pending.reject(new Error(String(message.error.message || "refused")));
      else pending.resolve(message.result || {});
      return;
    }
    const params = message.params || {};
    if (message.method === "ui/notifications/tool-input") state.input = params.arguments || {};
    else if (message.method === "ui/notifications/tool-result") taken(params);
    else if (message.method === "ui/notifications/tool-cancelled") note("The call was cancelled.");
    else if (message.method === "ui/notifications/host-context-changed") context(params);
    if (message.id !== undefined) {
      if (message.method === "ui/resource-teardown") setLive(false);
      if (["ping", "ui/resource-teardown"].includes(message.method)) post({ id: message.id, result: {} });
      else post({ id: message.id, error: { code: -32601, message: "Method not found" } });
    }
  });

  async function call(name, args) {
    const result = await request("tools/call", { name, arguments: args });
    if (result.isError) throw new Error(textOf(result) || name + " failed");
    return dataOf(result);
  }

  const parts = (result) => (Array.isArray(result.content) ? result.content : []);
  const textOf = (result) => parts(result).filter((part) => part && part.type === "text").map((part) => String(part.text)).join("\n");

  // A host may pass content only, or structuredContent only.
  function dataOf(result) {
    if (result.structuredContent && typeof result.structuredContent === "object") return result.structuredContent;
    try { return JSON.parse(textOf(result)); } catch { return null; }
  }

  // -- what the tool gave --------------------------------------------------------------------

  async function taken(result) {
    state.result = result;
    const slow = setTimeout(showFallback, FALLBACK_MS);
    if (result.isError) { clearTimeout(slow); note(textOf(result) || "The chart failed."); return; }
    let summary = dataOf(result);
    try {
      if (!summary || !summary.data) summary = await call("candles_chart", state.input || {});
      if (!summary || !summary.data) throw new Error("The result has no data.");
      state.summary = summary;
      byId("title").textContent = String(summary.title);
      if (!window.LightweightCharts) throw new Error("this build is without its library; the picture shows the same.");
      show(await load(summary.data.arguments));
      if (!summary.data.ended) setLive(true);
    } catch (error) {
      showFallback();
      note("No interactive chart: " + error.message);
    } finally {
      clearTimeout(slow);
    }
  }

  async function load(args) {
    const page = await call(state.summary.data.tool, args);
    const columns = page && page.columns;
    if (!columns || !Object.keys(columns).length) throw new Error("The server gave no columns.");
    return checked(columns);
  }

  // The library takes doubled and unordered times in silence and draws nonsense: rows are sorted, the last of a time
  // counts, and what is no candle is left out.
  function checked(columns) {
    const names = Object.keys(columns);
    const first = names[0];
    const rows = new Map();
    let invalid = 0;
    for (let at = 0; at < columns[first].length; at++) {
      const row = {};
      for (const name of names) row[name] = columns[name][at];
      row.time = Number(row[first]) / 1000;
      const prices = [row.open, row.high, row.low, row.close];
      if (!Number.isFinite(row.time) || prices.some((value) => typeof value !== "number" || !Number.isFinite(value))
        || row.low > row.high) { invalid++; continue; }
      rows.set(row.time, row);
    }
    return { names, invalid, rows: [...rows.values()].sort((one, other) => one.time - other.time) };
  }

  function show({ rows, names, invalid }) {
    state.rows = rows;
    state.names = names;
    if (!rows.length) { note("There are no candles in that range."); return; }
    byId("picture").hidden = byId("text").hidden = true;
    for (const id of ["fit", "csv", "live"]) byId(id).hidden = false;
    if (state.summary.data.ended) byId("live").hidden = true;
    note(invalid ? invalid + " rows were no candles and are left out." : "");
    draw();
  }

  // -- drawing -------------------------------------------------------------------------------

  // Values go to the library multiplied, so that they are neither too small nor too large for its axis; what is written
  // is divided again.
  function scaled(values) {
    const largest = Math.max(...values.map((value) => Math.abs(value)), 0);
    if (!largest) return 1;
    const power = Math.floor(Math.log10(largest));
    return power < -2 || power > 8 ? Math.pow(10, Math.max(-300, Math.min(300, 3 - power))) : 1;
  }

  function priceFormat(values) {
    const factor = scaled(values);
    const low = Math.min(...values) * factor, high = Math.max(...values) * factor;
    const range = high - low || Math.abs(high) * 0.01 || 1;
    const minMove = Math.pow(10, Math.max(-8, Math.min(3, Math.floor(Math.log10(range)) - 3)));
    return { factor, options: { type: "custom", minMove, formatter: (value) => written(value / factor) } };
  }

  function written(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "n/a";
    const size = Math.abs(value);
    if (size && (size < 1e-6 || size >= 1e15)) return value.toExponential(5).replace(/\.?0+e/, "e");
    const digits = size >= 1 ? Math.max(0, 7 - Math.floor(Math.log10(size))) : 8;
    return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(digits, 10) });
  }

  function amount(value) {
    for (const [limit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]])
      if (Math.abs(value) >= limit) return Number((value / limit).toPrecision(4)) + letter;
    return String(Number(value.toPrecision(4)));
  }

  const filled = (values) => values.filter((value) => typeof value === "number" && Number.isFinite(value));

  function draw() {
    const kit = window.LightweightCharts, colours = THEMES[state.theme], rows = state.rows;
    const visible = drawn && drawn.chart.timeScale().getVisibleRange();
    if (drawn) drawn.chart.remove();
    const asked = state.summary.data.lines || [];
    headline(); // before the height is measured: it may take a second row
    const rest = document.querySelector("main").getBoundingClientRect().height - byId("chart").clientHeight;
    const height = Math.max(LEAST_HEIGHT, Math.min(MOST_HEIGHT, INLINE_HEIGHT - Math.ceil(rest)));
    const chart = kit.createChart(byId("chart"), {
      autoSize: false, width: byId("chart").clientWidth, height,
      layout: { background: { type: "solid", color: "transparent" }, textColor: colours.text, fontSize: 11,
        panes: { separatorColor: colours.edge }, attributionLogo: true },
      grid: { vertLines: { color: colours.grid }, horzLines: { color: colours.grid } },
      rightPriceScale: { borderColor: colours.edge }, crosshair: { mode: kit.CrosshairMode.Normal },
      timeScale: { borderColor: colours.edge, timeVisible: true, secondsVisible: rows.some((row) => row.time % 60) },
      localization: { locale: "en-US" },
    });
    const prices = rows.flatMap((row) => [row.high, row.low]);
    const format = priceFormat(prices);
    const candles = chart.addSeries(kit.CandlestickSeries, {
      upColor: colours.up, downColor: colours.down, borderUpColor: colours.up, borderDownColor: colours.down,
      wickUpColor: colours.up, wickDownColor: colours.down, priceFormat: format.options,
    });
    drawn = { chart, candles, format, extras: [], fill: null };
    if (filled(rows.map((row) => row.volume)).some((value) => value > 0)) addVolume(kit, chart, colours);
    let pane = 0;
    asked.forEach((line, number) => {
      const own = line.on_price ? 0 : ++pane;
      addIndicator(kit, chart, colours, line, own, number);
    });
    drawn.markers = kit.createSeriesMarkers(candles, []);
    fill();
    chart.panes().forEach((each, number) => each.setStretchFactor(number ? PANE_SHARE : PRICE_SHARE));
    chart.subscribeCrosshairMove((move) => legend(move.time));
    if (visible) chart.timeScale().setVisibleRange(visible);
    else chart.timeScale().fitContent();
    legend();
    sized();
  }

  function addVolume(kit, chart, colours) {
    const series = chart.addSeries(kit.HistogramSeries, { priceScaleId: "volume", priceFormat: { type: "custom", minMove: 1e-8, formatter: amount }, lastValueVisible: false, priceLineVisible: false });
    series.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    drawn.extras.push({ series, point: (row) => ({ value: row.volume, color: (row.close >= row.open ? colours.up : colours.down) + "66" }), has: (row) => typeof row.volume === "number" && Number.isFinite(row.volume) });
  }

  function addIndicator(kit, chart, colours, line, pane, number) {
    const format = pane ? priceFormat([0, ...filled(state.rows.flatMap((row) => line.columns.map((name) => row[name])))]) : drawn.format;
    line.columns.forEach((name, part) => {
      const style = line.styles[part], colour = colours.lines[(number + (pane ? part : 0)) % colours.lines.length];
      const bars = style === "histogram";
      const options = { color: colour, lineWidth: bars ? undefined : 2, priceFormat: format.options, priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: !bars };
      if (style === "dashed") options.lineStyle = kit.LineStyle.Dashed;
      if (style === "dots") Object.assign(options, { lineVisible: false, pointMarkersVisible: true, pointMarkersRadius: 1.5 });
      const series = chart.addSeries(bars ? kit.HistogramSeries : kit.LineSeries, options, pane);
      drawn.extras.push({ series, name, colour, title: name, has: (row) => typeof row[name] === "number" && Number.isFinite(row[name]),
        point: (row) => ({ value: row[name] * format.factor, ...(bars ? { color: (row[name] >= 0 ? colours.up : colours.down) + "88" } : {}) }) });
    });
  }

  // The points of a series, with blank places where candles are missing.
  function points(rows, has, point) {
    const step = smallest(rows), found = [];
    rows.forEach((row, at) => {
      const missing = at ? Math.round((row.time - rows[at - 1].time) / step) - 1 : 0;
      const blanks = Math.min(missing, MOST_BLANKS);
      for (let blank = 1; blank <= blanks; blank++) found.push({ time: rows[at - 1].time + (blank * (row.time - rows[at - 1].time)) / (blanks + 1) });
      found.push(has(row) ? { time: row.time, ...point(row) } : { time: row.time });
    });
    return found;
  }

  const smallest = (rows) => rows.reduce((least, row, at) => (at ? Math.min(least, row.time - rows[at - 1].time) : least), Infinity);

  function fill() {
    const { rows } = state, { factor } = drawn.format, colours = THEMES[state.theme];
    drawn.candles.setData(points(rows, () => true, (row) => ({
      open: row.open * factor, high: row.high * factor, low: row.low * factor, close: row.close * factor,
      ...(row.is_closed === false ? { color: "transparent" } : {}),
    })));
    for (const extra of drawn.extras) extra.series.setData(points(rows, extra.has, extra.point));
    drawn.markers.setMarkers(marks(rows, colours));
    headline();
    const newest = rows[rows.length - 1]; // hollow while it is open; the line of its price is not
    drawn.candles.applyOptions({ priceLineColor: newest.close >= newest.open ? colours.up : colours.down });
  }

  function headline() {
    const rows = state.rows;
    const first = rows[0].open, last = rows[rows.length - 1].close;
    const change = first && Number.isFinite(last / first) ? ((last / first - 1) * 100).toFixed(2) + " %" : "";
    byId("last").textContent = written(last) + "  " + (last >= first && change ? "+" : "") + change;
    byId("last").className = last >= first ? "up" : "down";
  }

  function marks(rows, colours) {
    const step = smallest(rows), found = [];
    rows.forEach((row, at) => {
      const missing = at ? Math.round((row.time - rows[at - 1].time) / step) - 1 : 0;
      if (missing > 0) found.push({ time: row.time, position: "aboveBar", shape: "square", size: 0.5, color: colours.mark, text: missing + " missing" });
      if (row.is_complete === false) found.push({ time: row.time, position: "belowBar", shape: "arrowUp", size: 0.7, color: colours.mark, text: "incomplete" });
    });
    return found;
  }

  function legend(time) {
    const row = (time !== undefined && state.rows.find((each) => each.time === time)) || state.rows[state.rows.length - 1];
    const place = byId("legend");
    place.replaceChildren();
    const put = (text, colour) => {
      const part = document.createElement("span");
      part.textContent = text;
      if (colour) part.style.color = colour;
      place.append(part);
    };
    put(new Date(row.time * 1000).toISOString().replace("T", " ").replace(/(:00)?\.000Z$/, "") + " UTC");
    put("O " + written(row.open) + "  H " + written(row.high) + "  L " + written(row.low) + "  C " + written(row.close),
      row.close >= row.open ? THEMES[state.theme].up : THEMES[state.theme].down);
    if (typeof row.volume === "number") put("Vol " + amount(row.volume));
    for (const extra of drawn.extras) if (extra.name && extra.has(row)) put(extra.title + " " + written(Number(row[extra.name].toPrecision(6))), extra.colour);
    if (row.is_closed === false) put("still open");
    if (row.is_complete === false) put("incomplete");
  }

  // -- live ----------------------------------------------------------------------------------

  let timer = null;
  function setLive(on) {
    state.live = on;
    state.wait = POLL_MS;
    byId("live").setAttribute("aria-pressed", String(on));
    clearTimeout(timer);
    if (on) timer = setTimeout(poll, state.wait);
  }

  async function poll() {
    if (!state.live) return;
    if (!document.hidden) {
      try {
        const { arguments: args } = state.summary.data;
        const { start, ...newest } = args;
        merge((await load({ ...newest, limit: 5 })).rows);
        state.wait = POLL_MS;
        note("");
      } catch (error) {
        state.wait = Math.min(state.wait * 2, SLOWEST_POLL_MS);
        note("No update: " + error.message);
      }
    }
    if (state.live) timer = setTimeout(poll, state.wait);
  }

  function merge(fresh) {
    const last = state.rows[state.rows.length - 1];
    if (!fresh.length || fresh[fresh.length - 1].time < last.time) return;
    const step = smallest(state.rows);
    if (fresh[0].time > last.time + (Number.isFinite(step) ? step : 0)) { reload(); return; } // more than one call gives
    const known = new Map(state.rows.map((row) => [row.time, row]));
    for (const row of fresh) if (row.time >= state.rows[0].time) known.set(row.time, row);
    state.rows = [...known.values()].sort((one, other) => one.time - other.time).slice(-MOST_ROWS);
    fill();
    legend();
  }

  async function reload() {
    const { start, ...newest } = state.summary.data.arguments;
    try { show(await load(newest)); } catch (error) { note("No update: " + error.message); }
  }

  // -- buttons, theme, size ------------------------------------------------------------------

  byId("live").addEventListener("click", () => setLive(!state.live));
  byId("fit").addEventListener("click", () => drawn && drawn.chart.timeScale().fitContent());
  byId("csv").addEventListener("click", () => download());

  function csv() {
    const quoted = (value) => (value === null || value === undefined ? "" : String(value));
    return [state.names.join(","), ...state.rows.map((row) => state.names.map((name) => quoted(row[name])).join(","))].join("\r\n") + "\r\n";
  }

  async function download() {
    const name = (String(state.summary.title).replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "") || "candles") + ".csv";
    const text = csv();
    if (state.capabilities.downloadFile) {
      const resource = { uri: "file:///" + name, mimeType: "text/csv", text };
      try {
        const answer = await request("ui/download-file", { contents: [{ type: "resource", resource }] });
        if (!answer.isError) return;
      } catch { /* the link below */ }
    }
    const link = document.createElement("a");
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
    link.download = name;
    link.click();
  }

  function context(given) {
    if (given.theme === "light" || given.theme === "dark") setTheme(given.theme);
  }

  function setTheme(theme) {
    const changed = state.theme !== theme;
    state.theme = theme;
    document.documentElement.dataset.theme = theme;
    if (drawn && changed) draw();
  }

  function note(text) {
    byId("note").textContent = text;
    sized();
  }

  // The picture and the text that came with the tool's result.
  function showFallback() {
    if (drawn) return;
    const { result } = state;
    const image = parts(result).find((part) => part && part.type === "image" && /^image\/(png|jpeg)$/.test(part.mimeType) && /^[A-Za-z0-9+/=]+$/.test(part.data));
    if (image) {
      byId("picture").src = "data:" + image.mimeType + ";base64," + image.data;
      byId("picture").hidden = false;
    }
    byId("text").textContent = image ? "" : textOf(result).slice(0, 4000);
    byId("text").hidden = Boolean(image) || !byId("text").textContent;
    sized();
  }

  let told = 0;
  function sized() {
    const height = Math.ceil(document.querySelector("main").getBoundingClientRect().height);
    if (height === told) return;
    told = height;
    notify("ui/notifications/size-changed", { height });
  }

  new ResizeObserver(() => {
    if (drawn) drawn.chart.resize(byId("chart").clientWidth, drawn.chart.options().height);
    sized();
  }).observe(document.querySelector("main"));

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  request("ui/initialize", {
    appInfo: { name: "streammachine-candles", version: "1" }, appCapabilities: {}, protocolVersion: PROTOCOL,
  }).then((answer) => {
    state.capabilities = answer.hostCapabilities || {};
    context(answer.hostContext || {});
    note("");
    notify("ui/notifications/initialized");
    sized();
  }).catch((error) => note("The host did not answer: " + error.message));
})();
