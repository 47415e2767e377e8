// What needs a person: the last problem, tables outside of the migration, what preflight found. Each with its remedy.

import { byId, fill, make, moment, plural, say, show } from "./dom.js";

const LISTED_MAX = 50;

const BLOCKING = {
  retrying: ["A problem that is being tried again", "warn"],
  waiting_for_operator: ["It waits for you", "bad"],
  halted: ["Stopped: it waits for your decision", "bad"],
};

/** Shows the notices of a status. */
export function showNotices(status) {
  const { problem } = status;
  const section = byId("problem");
  show(section, problem !== null);
  if (problem !== null) {
    const [title, kind] = BLOCKING[problem.blocking] ?? ["A problem", "bad"];
    section.className = `card notice ${kind}`;
    say(byId("problem-title"), title);
    say(byId("problem-message"), problem.message);
    say(byId("problem-remedy"), problem.remedy);
    say(byId("problem-at"), `Seen ${moment(problem.at)}`);
  }
  showOutside(status.tables_outside ?? []);
  showFindings(status.findings);
}

function showOutside(tables) {
  show(byId("outside"), tables.length > 0);
  say(byId("outside-title"), `${plural(tables.length, "table")} outside of the migration, or not all of it inside`);
  fill(byId("outside-tables"), tables, () => limited(tables, (table) => make("li", "",
    make("p", "", make("strong", "", `${table.schema}.${table.name}`), " ",
      make("span", table.blocks_cutover ? "badge bad" : "badge", table.state),
      table.blocks_cutover ? " a cutover is refused because of it" : null),
    table.explanation === null ? null : make("p", "", table.explanation),
    table.remedy === null ? null : make("p", "remedy", table.remedy))));
}

const SEVERITIES = { blocker: "bad", warning: "warn", info: "" };

function showFindings(findings) {
  const order = Object.keys(SEVERITIES);
  const sorted = [...findings].sort((left, right) => order.indexOf(left.severity) - order.indexOf(right.severity));
  show(byId("findings"), findings.length > 0);
  say(byId("findings-title"), `What the check found (${findings.length})`);
  fill(byId("findings-list"), sorted, () => limited(sorted, (finding) => {
    const details = make("details", "",
      make("summary", "", make("span", `badge ${SEVERITIES[finding.severity] ?? ""}`, finding.severity), " ",
        make("strong", "", finding.subject), " ", make("code", "", finding.id)),
      make("p", "", finding.finding),
      make("p", "remedy", finding.remedy));
    details.open = finding.severity === "blocker";
    return make("li", "", details);
  }));
}

function limited(all, build) {
  const items = all.slice(0, LISTED_MAX).map(build);
  if (all.length > LISTED_MAX) items.push(make("li", "muted", `and ${all.length - LISTED_MAX} more`));
  return items;
}
