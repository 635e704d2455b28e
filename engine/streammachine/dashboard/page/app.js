// The frame: which view is shown, its stream of events, actions, the theme.
import { make, setText } from "./dom.js";
import { VIEWS } from "./views.js";

const byId = (id) => document.getElementById(id);
let source = null; // the stream of events of the view
let shown = null; // {name, view, query}
let opened = 0; // counts the streams, so that a late event of an old one is not taken for the new one's

// -- theme --

const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
function stored() {
  try { return localStorage.getItem("sm-theme") || "auto"; } catch { return "auto"; }
}
function applyTheme(theme) {
  const dark = theme === "dark" || (theme === "auto" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  setText(byId("theme"), `Theme: ${theme}`);
  if (shown && shown.view.themed) shown.view.themed();
}
byId("theme").onclick = () => {
  const next = THEMES[(THEMES.indexOf(stored()) + 1) % THEMES.length];
  try { localStorage.setItem("sm-theme", next); } catch { /* it holds for this page then */ }
  applyTheme(next);
};
system.addEventListener("change", () => applyTheme(stored()));

// -- what views may do --

export function tell(text, bad = false) {
  const note = make("p", { class: bad ? "bad" : null }, text);
  byId("told").append(note);
  while (byId("told").children.length > 3) byId("told").firstElementChild.remove();
  setTimeout(() => note.remove(), bad ? 12000 : 6000);
}

export async function act(action, given) {
  try {
    const answer = await fetch(`do/${action}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
    });
    if (answer.status === 401) throw new Error("The dashboard was started anew: open the address that it printed.");
    const told = await answer.json();
    if (told.error) throw new Error(told.error);
    tell(told.told);
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  }
}

export function confirmed(title, text, yes) {
  const dialog = byId("ask");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  return new Promise((resolve) => {
    byId("ask-yes").onclick = () => dialog.close("yes");
    byId("ask-no").onclick = () => dialog.close("no");
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.returnValue = "no";
    dialog.showModal();
  });
}

// Another question of the same view: what is looked for, the page, what is chosen. It stands in the address.
export function ask(changes) {
  const query = { ...shown.query, ...changes };
  for (const name of Object.keys(query)) if (query[name] === "" || query[name] === null) delete query[name];
  const words = new URLSearchParams(query).toString();
  history.replaceState(null, "", `#${shown.name}${words ? `?${words}` : ""}`);
  shown.query = query;
  watch();
}

export function go(name, query = {}) {
  const words = new URLSearchParams(query).toString();
  location.hash = `${name}${words ? `?${words}` : ""}`;
}

// -- the view --

function route() {
  const [name, words] = location.hash.slice(1).split("?", 2);
  if (name === "main") return;
  const known = Object.hasOwn(VIEWS, name) ? name : "streams";
  const query = Object.fromEntries(new URLSearchParams(words || ""));
  if (shown && shown.view.leave) shown.view.leave();
  shown = { name: known, view: VIEWS[known](query), query };
  document.title = `${shown.view.title} · StreamMachine`;
  for (const link of byId("nav").children) {
    if (link.dataset.view === (shown.view.under || known)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("main").replaceChildren(shown.view.node);
  watch();
}

function watch() {
  if (source) source.close();
  const mine = ++opened;
  const words = new URLSearchParams(shown.query).toString();
  source = new EventSource(`events/${shown.view.events || shown.name}${words ? `?${words}` : ""}`);
  const state = byId("live");
  source.onopen = () => { setText(state, "live"); state.className = "state"; };
  source.onmessage = (event) => {
    if (mine !== opened) return;
    const found = JSON.parse(event.data);
    setText(state, found.error ? "not well" : found.read_only ? "live, read-only" : "live");
    state.className = found.error ? "state bad" : "state";
    shown.view.show(found);
  };
  source.onerror = () => {
    if (mine !== opened) return;
    setText(state, "no connection; trying again");
    state.className = "state bad";
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (mine === opened) watch(); }, 3000);
  };
}

for (const [name, view] of Object.entries(VIEWS)) {
  if (!view.inNav) continue;
  byId("nav").append(make("a", { href: `#${name}`, "data-view": name }, view.inNav));
}
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    const filter = document.querySelector("main input[type=search]");
    if (filter) { event.preventDefault(); filter.focus(); }
  }
});
document.addEventListener("visibilitychange", () => { // a page that nobody sees costs nothing
  if (document.hidden) { if (source) source.close(); opened += 1; } else if (shown) watch();
});
addEventListener("hashchange", route);
applyTheme(stored());
route();
