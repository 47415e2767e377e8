// The current or last rehearsal, cutover or rollback: its steps on a time line, the pause among them, how it ended, and the
// certificate.

import { byId, draw, duration, fill, make, moment, plural, say, show } from "./dom.js";

export const OPERATIONS = { cutover: "Cutover", rollback: "Rollback", rehearsal: "Rehearsal" };

/** Shows the operation of a status; the section is hidden while there was none. */
export function showOperation(operation) {
  show(byId("operation"), operation !== null);
  if (operation === null) return;
  const back = operation.mode === "rehearsal" && operation.direction === "back" ? " of the way back" : "";
  say(byId("operation-title"), `${OPERATIONS[operation.mode] ?? operation.mode}${back} ${operation.epoch}`);
  say(byId("operation-outcome"), outcome(operation));
  byId("operation-outcome").className = { completed: "good", aborted: "warn", in_doubt: "bad" }[operation.outcome] ?? "";
  show(byId("operation-remedy"), operation.remedy !== null);
  say(byId("operation-remedy"), operation.remedy);
  showSteps(operation);
  showCertificate(operation);
}

/** How it stands, in a sentence. */
export function outcome(operation) {
  const rehearsal = operation.mode === "rehearsal";
  const pause = operation.pause_ms === null ? "" : ` Writers waited ${duration(operation.pause_ms)}.`;
  switch (operation.outcome) {
    case "running":
      return `Under way since ${moment(operation.started_at)}: ${operation.state.replaceAll("_", " ")}.`;
    case "completed":
      return rehearsal
        ? `Completed, and everything is as before.${pause} That is what the real one can be expected to cost.`
        : `Completed ${moment(operation.ended_at)}.${pause}`;
    case "aborted":
      return `Aborted: ${operation.reason ?? ""} The side that was to be left is as before.${pause}`;
    default:
      return `In doubt: neither side is open. ${operation.reason ?? ""}`;
  }
}

const WIDTH = 1000;
const OUTCOMES = { running: "running", done: "done", failed: "failed", undone: "undone" };

function showSteps(operation) {
  const begin = Date.parse(operation.started_at);
  const steps = operation.steps.map((step) => {
    const from = Date.parse(step.started_at) - begin;
    return { ...step, from, to: from + step.duration_ms };
  });
  const end = Math.max(1, ...steps.map((step) => step.to));
  const paused = steps.filter((step) => step.in_pause);
  const pause = paused.length === 0 ? null
    : [Math.min(...paused.map((step) => step.from)), Math.max(...paused.map((step) => step.to))];
  const at = stretched(end, pause);
  fill(byId("steps").tBodies[0], [operation.epoch, steps], () => steps.map((step) => {
    const bar = draw("svg", { viewBox: `0 0 ${WIDTH} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const box = (from, to, kind) => bar.append(draw("rect", {
      class: kind, x: WIDTH * at(from), width: Math.max(5, WIDTH * (at(to) - at(from))), y: kind === "span" ? 0 : 2,
      height: kind === "span" ? 10 : 6,
    }));
    if (pause !== null) box(...pause, "span");
    box(step.from, step.to, step.in_pause ? "pausing" : "step");
    const name = make("th", "", step.name.replaceAll("_", " "));
    name.scope = "row";
    return make("tr", "", name, make("td", "wide", bar), make("td", "number", duration(step.duration_ms)),
      make("td", "", step.in_pause ? make("span", "badge warn", "wait") : "go on"),
      make("td", "", make("span", step.outcome === "failed" ? "badge bad" : "", OUTCOMES[step.outcome] ?? step.outcome),
        step.detail === null ? null : make("p", "muted", step.detail)));
  }));
}

/** The pause gets at least this part of the time line, so that its steps can be told apart; what is before and after, the rest. */
const PAUSE_SHARE_MIN = 0.6;

/** Maps a moment of the operation, in milliseconds, to 0 to 1. */
function stretched(end, pause) {
  if (pause === null || (pause[1] - pause[0]) / end >= PAUSE_SHARE_MIN) return (moment) => moment / end;
  const [from, to] = pause;
  const rest = (1 - PAUSE_SHARE_MIN) / (end - (to - from));
  const within = PAUSE_SHARE_MIN / Math.max(to - from, 1e-6);
  return (moment) => rest * Math.min(moment, from) + within * Math.max(0, Math.min(moment, to) - from) + rest * Math.max(0, moment - to);
}

function showCertificate(operation) {
  const { certificate } = operation;
  show(byId("certificate"), certificate !== null);
  if (certificate === null) return;
  const text = JSON.stringify(certificate, null, 2);
  say(byId("certificate-text"), text);
  byId("certificate-download").onclick = () => {
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const link = make("a", "");
    link.href = address;
    link.download = `pgsluice-${operation.mode}-${operation.epoch}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  byId("certificate-download").setAttribute("aria-label",
    `Download the certificate with ${plural(operation.steps.length, "step")}`);
}
