// The current or last verification: how far it is, how it ended, and every row and object that differs. The status has it in short; what
// differs is asked for once there is something to list.

import { byId, bytes, count, duration, figures, fill, make, moment, plural, say, show } from "./dom.js";

const ANSWER_MAX_MS = 10_000;
const LISTED_MAX = 200;

/** What was asked for last, and what came. */
let wanted = "";
let details = null;

/** Shows the verification of a status; `redraw` is called when what differs has come. */
export function showVerification(status, redraw) {
  const { verification } = status;
  const isPossible = ["streaming", "rollback_window"].includes(status.phase);
  show(byId("verification"), verification !== null || isPossible);
  const running = verification !== null && verification.ended_at === null;
  show(byId("verification-progress"), running);
  show(byId("verification-figures"), verification !== null);
  const outcome = byId("verification-outcome");
  say(outcome, verdict(verification));
  outcome.className = verification === null ? "" : { clean: structural(verification) > 0 ? "warn" : "good", differences: "bad", incomplete: "warn" }[
    verification.outcome] ?? (verification.differences > 0 ? "bad" : "");
  say(byId("verification-validity"), validity(status));
  if (verification === null) {
    listDifferences(null);
    return;
  }
  const bar = byId("verification-progress");
  if (running && verification.bytes_total > 0) bar.value = Math.min(1, verification.bytes_compared / verification.bytes_total);
  else bar.removeAttribute("value");
  figures(byId("verification-figures"), [
    ["Rows compared", count(verification.rows_compared)],
    ["Tables", `${count(verification.tables_compared)} of ${count(verification.tables_total)}`],
    ["Size on the source", `${bytes(verification.bytes_compared)} of ${bytes(verification.bytes_total)}`],
    ["Rows that differ", count(verification.differences)],
    ["Structure that differs", verification.structural_differences === null ? "–" : count(verification.structural_differences)],
  ]);
  want(verification, redraw);
  listDifferences(details?.number === verification.number ? details : null);
}

const structural = (verification) => verification.structural_differences ?? 0;

/** How it stands, in a sentence or two. */
export function verdict(verification) {
  if (verification === null) return "The rows were not verified yet.";
  const { outcome, differences } = verification;
  const ended = verification.ended_at === null ? "" : `Ended ${moment(verification.ended_at)}. `;
  const rows = `${plural(differences, "row")} of ${count(verification.rows_compared)} ${differences === 1 ? "differs" : "differ"}`;
  switch (outcome) {
    case "running":
      return `Verification ${verification.number} runs since ${moment(verification.started_at)}: `
        + (differences === 0 ? "no row differs so far." : `${rows} so far.`);
    case "clean":
      return `${ended}Clean: ${verification.scope === "structure" ? "the structure is the same on both sides."
        : `every one of ${count(verification.rows_compared)} rows is the same on both sides.`}`
        + (structural(verification) > 0 ? ` Of the structure ${plural(structural(verification), "object")} is not the same.` : "");
    case "differences":
      return `${ended}${differences > 0 ? `${rows}: the target does not hold what the source holds. Do not cut over.`
        : "The structure is not the same on both sides."}`;
    default:
      return `${ended}Not complete: ${verification.reason ?? "the reason is not known"}.`;
  }
}

/** Why no verification lets a cutover begin; null if one does, or none has to. */
export function unverified(status) {
  const hours = status.configured.verified_within_hours ?? null;
  if (hours === null || (status.verified_until !== null && Date.parse(status.verified_until) > Date.now())) return null;
  const { verification } = status;
  switch (verification?.outcome) {
    case undefined:
      return "the rows were never verified";
    case "running":
      return "a verification is still running";
    case "differences":
      return `the last verification found ${plural(verification.differences, "row")} that ${verification.differences === 1 ? "differs" : "differ"}`;
    case "incomplete":
      return `the last verification is not complete: ${verification.reason ?? ""}`;
    default:
      return verification.scope === "structure" ? "the last verification compared no rows" : `the last verification is older than ${hours} hours`;
  }
}

function validity(status) {
  if (status.phase !== "streaming" || (status.configured.verified_within_hours ?? null) === null) return "";
  const why = unverified(status);
  return why === null
    ? `A cutover may begin on the strength of it for another ${duration(Date.parse(status.verified_until) - Date.now())}.`
    : `A cutover is refused as it is: ${why}.`;
}

/** Asks for what differs, whenever that may be something else than before. */
async function want(verification, redraw) {
  const { number, outcome, differences } = verification;
  const notable = differences > 0 || structural(verification) > 0 || outcome === "incomplete" || verification.structural_differences !== null;
  const key = notable ? `${number} ${outcome} ${differences} ${structural(verification)}` : "";
  if (key === wanted) return;
  wanted = key;
  if (key === "") {
    details = null;
    return;
  }
  try {
    const answer = await fetch("v1/verify", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX_MS) });
    if (!answer.ok) throw new Error(answer.statusText);
    details = await answer.json();
    redraw();
  } catch {
    // The next status asks again.
    wanted = "";
  }
}

function listDifferences(record) {
  const rows = record?.rows ?? [];
  show(byId("verification-rows"), rows.length > 0);
  fill(byId("differing-rows").tBodies[0], rows, () => rows.slice(0, LISTED_MAX).map((row) => {
    const table = make("th", "", row.table);
    table.scope = "row";
    return make("tr", "", table, make("td", "", row.count > 1 ? `${row.kind}, ${count(row.count)} times` : row.kind),
      make("td", "", row.key.map(({ column, value }) => `${column}=${value}`).join(", ")), make("td", "", row.columns.join(", ")));
  }));
  const listed = rows.slice(0, LISTED_MAX).reduce((sum, row) => sum + row.count, 0);
  const more = (record?.differences ?? 0) - listed;
  say(byId("verification-more"), rows.length > 0 && more > 0 ? `and ${plural(more, "more row", "more rows")}: pgsluice verify --show --output json` : "");
  const objects = record?.structure?.objects ?? [];
  const unknown = record?.structure?.not_compared ?? [];
  show(byId("verification-structure"), objects.length + unknown.length > 0);
  fill(byId("differing-objects"), [objects, unknown], () => objects.slice(0, LISTED_MAX).map((object) => make("li", "",
    make("p", "", make("span", object.note ? "badge" : "badge warn", object.note ? "note" : object.kind), ` ${object.what}`),
    object.fix === null ? null : make("pre", "", object.fix)))
    .concat(unknown.map((sentence) => make("li", "muted", `Not compared: ${sentence}`))));
  const leftOut = record?.left_out ?? [];
  show(byId("verification-left-out"), leftOut.length > 0);
  fill(byId("left-out-tables"), leftOut, () => leftOut.slice(0, LISTED_MAX).map((each) =>
    make("li", "", make("strong", "", each.table), ` ${each.reason}`)));
  show(byId("verification-remedy"), typeof record?.remedy === "string");
  say(byId("verification-remedy"), record?.remedy ?? "");
}
