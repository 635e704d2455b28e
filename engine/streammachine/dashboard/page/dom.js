// Building the page. Every value from outside becomes text through textContent or an attribute; nothing is parsed as HTML.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick" || name === "oninput" || name === "onchange" || name === "onsubmit") node[name] = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A table whose rows stay the same elements while their keys do, so that focus and selection outlive an update.
// columns: {head, text (left), value(row) -> text, or node(row, cell) that fills the cell itself}
export class Table {
  constructor(label, columns) {
    this.columns = columns;
    this.rows = new Map();
    this.body = make("tbody", { role: "rowgroup" });
    const heads = columns.map((column) =>
      make("th", { scope: "col", role: "columnheader", class: column.text ? "text" : null }, column.head));
    this.node = make("table", { role: "table", class: "grid", "aria-label": label },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
  }

  update(rows, keyOf) {
    const seen = new Set();
    let place = this.body.firstElementChild;
    for (const row of rows) {
      const key = keyOf(row);
      if (seen.has(key)) continue;
      seen.add(key);
      let node = this.rows.get(key);
      if (!node) {
        node = make("tr", { role: "row" });
        for (const column of this.columns) {
          node.append(make("td", { role: "cell", class: column.text ? "text" : null, "data-head": column.head }));
        }
        this.rows.set(key, node);
      }
      this.columns.forEach((column, at) => this.fill(column, node.children[at], row));
      if (node !== place) this.body.insertBefore(node, place);
      else place = place.nextElementSibling;
    }
    for (const [key, node] of this.rows) {
      if (!seen.has(key)) {
        node.remove();
        this.rows.delete(key);
      }
    }
  }

  fill(column, cell, row) {
    if (column.node) {
      column.node(row, cell);
      return;
    }
    const text = column.value(row);
    setText(cell, text);
    cell.classList.toggle("none", text === "–" && !column.text);
  }
}

// A button in a table's cell: made once, its meaning renewed at each update.
export function cellButton(cell, at, text, disabled, press) {
  while (cell.children.length <= at) cell.append(make("button", { type: "button" }));
  const button = cell.children[at];
  setText(button, text);
  button.disabled = disabled;
  button.onclick = press;
  return button;
}

export function pill(cell, text, kind, why = "") {
  if (!cell.firstElementChild) cell.append(make("div", {}, make("span"), make("div", { class: "why" })));
  const [mark, reason] = cell.firstElementChild.children;
  setText(mark, text);
  mark.className = `pill ${kind}`;
  setText(reason, why);
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const small = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 2 });
const tenth = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return whole.format(value);
  return Math.abs(value) < 1 ? small.format(value) : tenth.format(value);
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (value >= size) return `${tenth.format(value / size)} ${unit}`;
  return `${value} B`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 90) return `${tenth.format(value)} s`;
  if (value < 5400) return `${whole.format(value / 60)} min`;
  if (value < 172800) return `${tenth.format(value / 3600)} h`;
  return `${whole.format(value / 86400)} d`;
}

export function moment(ms) {
  if (!ms) return "–";
  const when = new Date(ms);
  return Number.isNaN(when.getTime()) ? "–" : when.toISOString().replace("T", " ").slice(0, 19);
}
