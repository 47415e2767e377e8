// The initial copy: everything in one bar, the indexes in another, the tables under way, and any table by name. Thousands of tables are fine: the feed
// brings only those under way, the others are asked for while somebody looks at them.

import { byId, bytes, count, duration, make, plural, say, show } from "./dom.js";

const LISTED_MAX = 40;
const LIST_EVERY_MS = 2000;

let latest = null;
let listed = null;
let listing = false;
let listedAt = 0;
const rows = new Map();

/** Shows the copy of a status. */
export function showCopy(status) {
  const { copy } = status;
  latest = status;
  show(byId("copy"), copy.tables > 0);
  if (copy.tables === 0) return;
  const done = copy.joined === copy.tables;
  byId("copy-progress").value = done ? 1 : Math.min(0.99, share(copy));
  say(byId("copy-summary"), done
    ? `All ${plural(copy.tables, "table")} copied: ${plural(copy.rows_copied, "row")}.${repeated(copy)}`
    : `${count(copy.joined)} of ${plural(copy.tables, "table")} copied, ${count(copy.copying + copy.snapshotting)} under way. `
      + `${count(copy.rows_copied)} of about ${plural(copy.rows_estimated, "row")}, ${bytes(copy.bytes_copied)}`
      + `${speed(copy)}.${repeated(copy)}`);
  showIndexes(copy);
  showTables();
}

const share = (copy) => (copy.rows_estimated > 0 ? copy.rows_copied / copy.rows_estimated : 0);

function speed(copy) {
  const rate = copy.bytes_per_second > 0 ? `, ${bytes(copy.bytes_per_second)} a second` : "";
  if (copy.eta_seconds === null) return rate;
  const left = copy.eta_seconds < 60 ? plural(copy.eta_seconds, "second") : duration(copy.eta_seconds * 1000);
  return `${rate}, about ${left} left`;
}

/** What an interruption cost. */
const repeated = (copy) => (copy.bytes_repeated > 0
  ? ` ${bytes(copy.bytes_repeated)} were copied again, because a chunk was interrupted.` : "");

function showIndexes(copy) {
  show(byId("copy-indexes"), copy.indexes_total > 0);
  if (copy.indexes_total === 0) return;
  byId("copy-index-progress").value = copy.indexes_built / copy.indexes_total;
  say(byId("copy-index-summary"), `${count(copy.indexes_built)} of ${plural(copy.indexes_total, "index", "indexes")} built.`);
}

function wanted() {
  const state = byId("copy-states").value;
  const name = byId("copy-filter").value.trim().toLowerCase();
  const fits = (table) => `${table.schema}.${table.name}`.toLowerCase().includes(name)
    && (state === "all" || (state === "under_way" ? table.state === "copying" || table.state === "snapshotting" : table.state === state));
  return { needsAll: state !== "under_way", fits };
}

function showTables() {
  if (latest === null) return;
  const { needsAll, fits } = wanted();
  if (needsAll && performance.now() - listedAt > LIST_EVERY_MS) list();
  const tables = (needsAll ? listed ?? [] : latest.tables).filter(fits);
  const visible = tables.slice(0, LISTED_MAX);
  const keys = new Set(visible.map((table) => JSON.stringify([table.schema, table.name])));
  for (const [key, row] of rows) {
    if (!keys.has(key)) {
      row.element.remove();
      rows.delete(key);
    }
  }
  visible.forEach((table, place) => showTable(table, place));
  const more = tables.length - visible.length;
  const nothing = needsAll && listed === null ? "Asking for the tables …" : "No such table.";
  say(byId("copy-more"), more > 0 ? `and ${count(more)} more: narrow them down by name`
    : visible.length === 0 && needsAll ? nothing : "");
}

function showTable(table, place) {
  const key = JSON.stringify([table.schema, table.name]);
  let row = rows.get(key);
  if (row === undefined) {
    const name = `${table.schema}.${table.name}`;
    const bar = make("progress", "");
    bar.max = 1;
    bar.setAttribute("aria-label", `Copy of ${name}`);
    const note = make("span", "muted");
    row = { element: make("li", "", make("span", "name", name), bar, note), bar, note };
    rows.set(key, row);
  }
  const joined = table.state === "joined";
  row.bar.value = joined ? 1 : Math.min(0.99, share(table));
  const state = table.state === "copying" || joined ? "" : `${table.state}, `;
  say(row.note, joined ? `${plural(table.rows_copied, "row")}, ${bytes(table.bytes_copied)}`
    : `${state}${count(table.rows_copied)} of about ${plural(table.rows_estimated, "row")}`);
  const list = byId("copy-tables");
  if (list.children[place] !== row.element) list.insertBefore(row.element, list.children[place] ?? null);
}

async function list() {
  if (listing) return;
  listing = true;
  listedAt = performance.now();
  try {
    const answer = await fetch("v1/status", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (answer.ok) listed = (await answer.json()).tables;
  } catch {
    // The feed says that the connection is lost.
  } finally {
    listing = false;
    showTables();
  }
}

// Somebody who looks for a table by name wants it in whatever state it is.
let widened = false;

byId("copy-states").addEventListener("change", () => {
  widened = false;
  showTables();
});
byId("copy-filter").addEventListener("input", () => {
  const states = byId("copy-states");
  const named = byId("copy-filter").value.trim() !== "";
  if (named && states.value === "under_way") {
    states.value = "all";
    widened = true;
  } else if (!named && widened) {
    states.value = "under_way";
    widened = false;
  }
  showTables();
});
