// The views. Each is made with the question in the address and gives {title, node, show(found)}.
import { act, ask, confirmed, go } from "./app.js";
import { chartView } from "./chart.js";
import { Table, bytes, cellButton, make, moment, number, pill, seconds, setText } from "./dom.js";

const STATES = {
  running: "good", active: "good", reads: "good", done: "good", history: "good", paused: "still", standby: "still",
  waiting: "still", connecting: "still", warming: "still", failing: "bad", failed: "bad", lost: "bad",
};

// The common half: a heading, a filter, notes, what is said of an empty list, pages.
class Frame {
  constructor(title, query, { filter = "Filter by name", sorts = null, hint = [] } = {}) {
    this.heading = make("h2", {}, title);
    this.wrong = make("p", { class: "wrong", role: "alert", hidden: true });
    this.note = make("p", { class: "note", hidden: true });
    this.empty = make("div", { class: "empty", hidden: true });
    this.count = make("span", {}, "looking …");
    this.hint = hint;
    this.query = query;
    this.bar = make("div", { class: "bar" });
    if (filter) {
      const input = make("input", { type: "search", value: query.q || "", maxlength: 200, autocomplete: "off", spellcheck: "false" });
      let timer = null;
      input.oninput = () => {
        clearTimeout(timer);
        timer = setTimeout(() => ask({ q: input.value, page: "" }), 250);
      };
      this.filter = input;
      this.bar.append(make("label", { class: "wide" }, `${filter} (press /)`, input));
    }
    if (sorts) {
      const select = make("select", { onchange: () => ask({ sort: select.value, page: "" }) },
        ...sorts.map(([value, text]) => make("option", { value, selected: value === (query.sort || "") }, text)));
      this.bar.append(make("label", {}, "Order", select));
    }
    this.back = make("button", { type: "button", onclick: () => this.turn(-1) }, "Previous");
    this.next = make("button", { type: "button", onclick: () => this.turn(1) }, "Next");
    this.pages = make("div", { class: "pages" }, this.count, this.back, this.next);
    this.page = 0;
    this.node = make("section", { "aria-label": title }, this.heading, this.bar, this.wrong, this.note, this.empty);
  }

  turn(step) { ask({ page: String(this.page + step) }); }

  // Whether there is something to show.
  took(found, what) {
    this.wrong.hidden = !found.error;
    setText(this.wrong, found.error || "");
    if (found.error) return false;
    this.note.hidden = !found.note;
    setText(this.note, found.note || "");
    const first = found.first || 0;
    const rows = found.rows.length;
    this.page = Math.round(first / 50);
    setText(this.count, rows ? `${number(first + 1)}–${number(first + rows)} of ${number(found.total)} ${what}` : `no ${what}`);
    this.back.hidden = first === 0;
    this.next.hidden = first + rows >= found.total;
    this.pages.hidden = rows === 0;
    return true;
  }

  sayEmpty(isEmpty) {
    this.empty.hidden = !isEmpty;
    if (!isEmpty) return;
    const looked = this.filter && this.filter.value;
    const lines = looked ? [`Nothing here has “${this.filter.value}” in its name. Clear the filter to see all.`] : this.hint;
    this.empty.replaceChildren(...lines.map((line) => make(line.startsWith("$ ") ? "code" : "div", {}, line.replace(/^\$ /, ""))));
  }
}

function plain(head, value, text = false) { return { head, value, text }; }

function streamsView(query) {
  const frame = new Frame("Streams", query, {
    sorts: [["", "by name"], ["length", "longest first"], ["memory", "largest first"]],
    hint: ["There are no streams yet. Write one, or start a runner:", "$ streammachine publish ticks price=1.5",
      "$ streammachine stream binance BTCUSDT --simulated --to redis"],
  });
  const table = new Table("Streams", [
    { head: "stream", text: true, node: (row, cell) => {
      cellButton(cell, 0, row.name, false, () => go("entries", { stream: row.name })).className = "link";
    } },
    plain("entries", (row) => number(row.length)),
    plain("per second", (row) => number(row.rate)),
    plain("memory", (row) => bytes(row.memory)),
    plain("newest", (row) => (row.age === null ? "–" : `${seconds(row.age)} ago`)),
    plain("groups", (row) => number(row.groups)),
    plain("lag", (row) => number(row.lag)),
    plain("dead letters", (row) => (row.dead ? number(row.dead) : "–")),
  ]);
  frame.node.append(table.node, frame.pages);
  return { title: "Streams", node: frame.node, show(found) {
    if (!frame.took(found, "streams")) return;
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => row.name);
  } };
}

function entriesView(query) {
  const frame = new Frame(`Newest entries of ${query.stream || ""}`, query, { filter: null, hint: ["This stream is empty."] });
  const table = new Table("Entries", [
    plain("id", (row) => row.id, true),
    plain("age", (row) => seconds(row.age)),
    { head: "fields", text: true, node: (row, cell) => { cell.classList.add("payload"); setText(cell, row.data); } },
  ]);
  frame.bar.append(make("a", { href: "#streams" }, "All streams"));
  frame.node.append(table.node, frame.pages);
  return { title: "Entries", under: "streams", node: frame.node, show(found) {
    if (!frame.took(found, "entries")) return;
    frame.next.hidden = true;
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => row.id);
  } };
}

function groupsView(query) {
  const frame = new Frame("Consumer groups", query, {
    filter: "Filter by stream or group", sorts: [["", "furthest behind first"], ["name", "by name"]],
    hint: ["No stream has a consumer group yet. An App's agents make theirs when they start:", "$ streammachine run app.py:app"],
  });
  const table = new Table("Consumer groups", [
    plain("stream", (row) => row.stream, true),
    plain("group", (row) => row.group, true),
    plain("lag", (row) => number(row.lag)),
    plain("pending", (row) => number(row.pending)),
    plain("oldest", (row) => seconds(row.oldest)),
    plain("later tries", (row) => number(row.delayed)),
    plain("consumers", (row) => number(row.consumers)),
  ]);
  frame.node.append(table.node, frame.pages);
  return { title: "Groups", node: frame.node, show(found) {
    if (!frame.took(found, "groups")) return;
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => `${row.stream}\n${row.group}`);
  } };
}

function pauseButton(kind) {
  return { head: "action", node: (row, cell) => {
    const button = cellButton(cell, 0, row.paused ? "Resume" : "Pause", false, () => act("pause", { kind, name: row.name, paused: !row.paused }));
    button.setAttribute("aria-label", `${row.paused ? "Resume" : "Pause"} ${row.name}`);
  } };
}

function agentsView(query) {
  const frame = new Frame("Agents", query, {
    hint: ["No agent runs here. Start an App that has one:", "$ streammachine run app.py:app",
      "or declare one in a chat (agent_create)."],
  });
  const table = new Table("Agents", [
    plain("agent", (row) => row.name, true),
    plain("streams", (row) => row.streams, true),
    { head: "state", text: true, node: (row, cell) => pill(cell, row.state, STATES[row.state] || "", row.problem) },
    plain("per second", (row) => number(row.rate)),
    plain("handled", (row) => number(row.handled)),
    plain("handler", (row) => (row.handler_ms === null ? "–" : `${number(row.handler_ms)} ms`)),
    plain("latency", (row) => (row.latency_ms === null ? "–" : `${number(row.latency_ms)} ms`)),
    plain("failed", (row) => number(row.failed)),
    plain("dead", (row) => number(row.dead)),
    plain("lag", (row) => number(row.lag)),
    plain("under way", (row) => number(row.pending)),
    plain("processes", (row) => number(row.processes)),
    pauseButton("agent"),
  ]);
  const timers = new Table("Timers", [
    plain("timer", (row) => row.name, true),
    plain("every", (row) => row.every, true),
    { head: "state", text: true, node: (row, cell) => pill(cell, row.paused ? "paused" : "running", row.paused ? "still" : "good") },
    plain("ticks", (row) => number(row.ticks)),
    plain("failures", (row) => number(row.failures)),
    plain("took", (row) => (row.took_ms === null ? "–" : `${number(row.took_ms)} ms`)),
    plain("late", (row) => (row.late_ms === null ? "–" : `${number(row.late_ms)} ms`)),
    plain("processes", (row) => number(row.processes)),
    pauseButton("timer"),
  ]);
  const heading = make("h2", {}, "Timers");
  const none = make("p", { class: "soft" }, "No timer runs. Declare one with @app.timer(60).");
  frame.node.append(table.node, frame.pages, heading, timers.node, none);
  return { title: "Agents", node: frame.node, show(found) {
    if (!frame.took(found, "agents")) return;
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => row.name);
    timers.node.hidden = !found.timers.length;
    none.hidden = found.timers.length > 0;
    timers.update(found.timers, (row) => row.name);
  } };
}

function lettersView(query) {
  const frame = new Frame("Dead letters", query, {
    filter: null, hint: ["There are no dead letters: no agent has given up a message. What fails for good will stand here, to be given back or deleted."],
  });
  const streams = new Table("Streams with dead letters", [
    { head: "stream", text: true, node: (row, cell) => {
      cellButton(cell, 0, row.stream, false, () => ask({ stream: row.key, before: "" })).className = "link";
    } },
    plain("dead letters", (row) => number(row.count)),
  ]);
  const heading = make("h2", {});
  const all = make("button", { type: "button", class: "main" }, "Redrive all");
  const purge = make("button", { type: "button", class: "danger" }, "Delete all");
  const buttons = make("div", { class: "bar" }, all, purge);
  const letters = new Table("Dead letters", [
    plain("failed (UTC)", (row) => moment(row.failed), true),
    plain("reason", (row) => row.reason, true),
    plain("group", (row) => row.group, true),
    plain("tries", (row) => row.attempts || "–"),
    plain("error", (row) => row.error, true),
    { head: "payload", text: true, node: (row, cell) => { cell.classList.add("payload"); setText(cell, row.payload); } },
    { head: "action", node: (row, cell) => {
      cellButton(cell, 0, "Redrive", false, () => act("redrive", { stream: stream(), ids: [row.id] }))
        .setAttribute("aria-label", `Redrive ${row.id}`);
    } },
  ]);
  const older = make("button", { type: "button" }, "Older ones");
  let last = {};
  const stream = () => last.stream;
  all.onclick = () => act("redrive", { stream: stream(), all: true });
  older.onclick = () => ask({ before: last.letters[last.letters.length - 1].id });
  purge.onclick = async () => {
    const at = last; // what is seen now: letters that come while the question stands open are kept
    const sure = await confirmed("Delete dead letters?",
      `${number(at.count)} dead letters of ${at.stream} are deleted for good. Those that come from now on stay.`, "Delete for good");
    if (sure) await act("purge", { stream: at.stream, up_to: at.newest });
  };
  frame.node.append(streams.node, heading, buttons, letters.node, older);
  return { title: "Dead letters", node: frame.node, show(found) {
    const before = last;
    last = found;
    if (!frame.took(found, "streams")) { if (!found.stream) last = before; return; }
    if (found.letters.length && !found.before) found.newest = found.letters[0].id;
    streams.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    streams.update(found.rows, (row) => row.key);
    const chosen = found.stream !== "" && found.letters.length > 0;
    for (const node of [heading, buttons, letters.node]) node.hidden = !chosen;
    older.hidden = !chosen || !found.more;
    all.disabled = purge.disabled = Boolean(found.read_only);
    purge.disabled = purge.disabled || !found.newest;
    setText(heading, chosen ? `${number(found.count)} of ${found.stream}` : "");
    letters.update(found.letters, (row) => row.id);
  } };
}

function marketView(query) {
  const frame = new Frame("Runners", query, {
    hint: ["No runner is remembered. Ask for one in a chat (runner_start), or stream from the command line:",
      "$ streammachine stream binance BTCUSDT --timeframe 1m --to redis"],
  });
  const columns = [
    plain("name", (row) => row.name, true),
    plain("exchange", (row) => row.exchange, true),
    plain("symbols", (row) => row.symbols, true),
    plain("of", (row) => row.timeframe || "–"),
    { head: "state", text: true, node: (row, cell) => pill(cell, row.state, STATES[row.state] || "", row.problem) },
    plain("rows", (row) => number(row.done)),
  ];
  const runners = new Table("Runners", [...columns,
    plain("per second", (row) => number(row.rate)),
    plain("data age", (row) => seconds(row.age)),
    plain("gaps healed", (row) => number(row.healed)),
    plain("gaps left", (row) => number(row.gaps)),
    plain("reconnects", (row) => number(row.reconnects)),
  ]);
  const backfills = new Table("Backfills", [...columns,
    { head: "progress", node: (row, cell) => {
      if (!cell.firstElementChild) cell.append(make("progress", { max: 1, "aria-label": `Progress of ${row.name}` }), make("span"));
      const [bar, text] = cell.children;
      bar.hidden = row.fraction === null;
      bar.value = row.fraction || 0;
      setText(text, row.fraction === null ? "–" : ` ${Math.floor(row.fraction * 100)} %`);
    } },
    plain("gaps left", (row) => number(row.gaps)),
  ]);
  const heading = make("h2", {}, "Backfills");
  const none = make("p", { class: "soft" }, "No backfill is remembered: backfill_start in a chat, or streammachine backfill in a terminal.");
  frame.node.append(runners.node, heading, backfills.node, none);
  return { title: "Runners", node: frame.node, show(found) {
    if (!frame.took(found, "runners and backfills")) return;
    runners.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    runners.update(found.rows, (row) => row.name);
    backfills.node.hidden = !found.backfills.length;
    none.hidden = found.backfills.length > 0;
    backfills.update(found.backfills, (row) => row.name);
  } };
}

function alertsView(query) {
  const frame = new Frame("Alerts", query, {
    hint: ["There are no alerts. Fill in the form above: it fires each time its condition becomes true."],
  });
  const sources = make("datalist", { id: "sources" });
  const field = (label, name, attributes = {}, wide = false) =>
    make("label", { class: wide ? "wide" : null }, label, make("input", { name, autocomplete: "off", ...attributes }));
  const on = make("select", { name: "on" },
    ...[["closed", "closed candles"], ["running", "running candles"], ["tick", "ticks"]].map(([value, text]) => make("option", { value }, text)));
  const save = make("button", { type: "submit", class: "main" }, "Create alert");
  const form = make("form", { class: "bar", "aria-label": "New alert" },
    field("Name", "name", { required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*" }),
    field("Stream of candles or ticks", "source", { required: true, list: "sources", maxlength: 1000 }, true),
    field("Condition, e.g. close > 50000", "condition", { required: true, maxlength: 1000 }, true),
    make("label", {}, "Looks at", on),
    field("Pause after firing (seconds)", "cooldown_s", { type: "number", min: 0, max: 2592000, value: 0 }),
    save, sources);
  form.onsubmit = async (event) => {
    event.preventDefault();
    save.disabled = true;
    if (await act("alert-create", Object.fromEntries(new FormData(form)))) form.reset();
    save.disabled = false;
  };
  const table = new Table("Alerts", [
    plain("alert", (row) => row.name, true),
    plain("condition", (row) => row.condition, true),
    plain("stream", (row) => row.source, true),
    { head: "state", text: true, node: (row, cell) => pill(cell, row.holds ? "holds" : "waits", row.holds ? "good" : "still", row.problem) },
    plain("fired", (row) => number(row.fired)),
    plain("last (UTC)", (row) => moment(row.last)),
    { head: "action", node: (row, cell) => {
      cellButton(cell, 0, "Delete", false, async () => {
        if (await confirmed("Delete this alert?", `${row.name} is deleted. What it told stays.`, "Delete")) await act("alert-delete", { name: row.name });
      }).setAttribute("aria-label", `Delete ${row.name}`);
    } },
  ]);
  const heading = make("h2", {}, "Fired");
  const fired = new Table("Fired", [
    plain("when (UTC)", (row) => moment(row.ts), true),
    plain("alert", (row) => row.name, true),
    plain("condition", (row) => row.condition, true),
    plain("stream", (row) => row.source, true),
    plain("price", (row) => row.price),
  ]);
  const none = make("p", { class: "soft" }, "Nothing has fired yet.");
  frame.node.append(table.node, frame.pages, heading, fired.node, none);
  frame.node.insertBefore(form, frame.bar);
  return { title: "Alerts", node: frame.node, show(found) {
    if (!found.error && found.total && !found.evaluated) {
      found.note = "Nobody evaluates the alerts now. App(alerts=True), streammachine dashboard or the MCP server with its toolset live does.";
    }
    if (!frame.took(found, "alerts")) return;
    save.disabled = Boolean(found.read_only);
    if (sources.children.length !== found.sources.length) sources.replaceChildren(...found.sources.map((value) => make("option", { value })));
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => row.name);
    fired.node.hidden = !found.fired.length;
    none.hidden = found.fired.length > 0;
    fired.update(found.fired, (row) => row.id);
  } };
}

function storageView(query) {
  const frame = new Frame("Storage", query, {
    filter: "Filter by key", hint: ["The shared storage is empty. In an App:", "$ await app.storage.write(\"key\", {\"any\": \"value\"})",
      "or storage_write in a chat."],
  });
  const table = new Table("Keys", [
    { head: "key", text: true, node: (row, cell) => {
      cellButton(cell, 0, row.name, false, () => ask({ key: row.name })).className = "link";
    } },
    plain("size", (row) => bytes(row.bytes)),
  ]);
  const heading = make("h2", {});
  const value = make("pre", { tabindex: 0, role: "region", "aria-label": "Value" });
  frame.node.append(heading, value, table.node, frame.pages);
  return { title: "Storage", node: frame.node, show(found) {
    if (!frame.took(found, "keys")) return;
    table.node.hidden = !found.rows.length;
    frame.sayEmpty(!found.rows.length);
    table.update(found.rows, (row) => row.name);
    heading.hidden = !found.key;
    value.hidden = found.value === undefined;
    setText(heading, found.key || "");
    setText(value, found.value === undefined ? "" : found.value);
  } };
}

export const VIEWS = {
  streams: Object.assign(streamsView, { inNav: "Streams" }),
  groups: Object.assign(groupsView, { inNav: "Groups" }),
  agents: Object.assign(agentsView, { inNav: "Agents" }),
  letters: Object.assign(lettersView, { inNav: "Dead letters" }),
  market: Object.assign(marketView, { inNav: "Runners" }),
  candles: Object.assign(chartView, { inNav: "Candles" }),
  alerts: Object.assign(alertsView, { inNav: "Alerts" }),
  storage: Object.assign(storageView, { inNav: "Storage" }),
  entries: entriesView,
};
