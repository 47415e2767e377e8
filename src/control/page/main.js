// The status page: takes each status from the feed, has every part show it, offers the commands that are possible now, and says
// aloud what somebody who does not see the page has to know.

import { byId, duration, fill, make, moment, plural, say, show } from "./dom.js";
import { showCluster } from "./cluster.js";
import { forgetToken, holdsToken } from "./commands.js";
import { ask } from "./dialog.js";
import { follow } from "./feed.js";
import { OPERATIONS, outcome, showOperation } from "./operation.js";
import { showCopy } from "./copy.js";
import { showNotices } from "./notices.js";
import { showStream } from "./stream.js";
import { showVerification, unverified, verdict } from "./verification.js";

const PHASES = {
  starting: ["Starting", "It connects and finds out where an earlier run stopped."],
  preflight: ["Checking", "Both sides are looked at; nothing is changed yet."],
  schema: ["Schema", "Definitions of the tables are brought to the target."],
  slot: ["Slot", "Publication and slot are made on the source; old transactions there may have to end first."],
  snapshot: ["Copying", "The target gets what is there. The source serves its clients as ever."],
  indexes: ["Indexes", "Indexes and constraints are built on the target."],
  streaming: ["Streaming", "Every change of the source is applied to the target. The source is the primary."],
  cut_over: ["Cut over", "The target is the primary now. The source refuses writes and says where to go."],
  rollback_window: ["Way back open", "The target is the primary now, and what is written there goes back to the source: until the "
    + "window is ended by cleanup, a rollback loses nothing."],
  halted: ["Halted", "It has stopped for a decision. Nothing is lost."],
};
const STAGES = [
  ["Check", ["starting", "preflight"]],
  ["Schema", ["schema", "slot"]],
  ["Copy", ["snapshot"]],
  ["Indexes", ["indexes"]],
  ["Stream", ["streaming"]],
  ["Cut over", ["cut_over", "rollback_window"]],
];
/** Before the fence may be committed: what an abort takes back. */
const ABORTABLE = ["arming", "pausing", "fencing", "draining", "aligning", "securing"];

let latest = null;
let feed = "connecting";
let drawing = false;

function render() {
  drawing = false;
  if (latest === null) return;
  const status = latest;
  const [title, meaning] = PHASES[status.phase] ?? [status.phase, ""];
  const { source, target } = status.configured;
  document.title = `${status.problem === null ? "" : "! "}${title} · pgsluice`;
  say(byId("route"), `${place(source)} → ${place(target)}`);
  say(byId("phase-title"), title);
  say(byId("phase-meaning"), `${meaning} Since ${moment(status.phase_since)}.`);
  showStages(status.phase);
  showActions(status);
  showNotices(status);
  showOperation(status.cutover);
  showVerification(status, render);
  showStream(status);
  showCluster(status.cluster);
  showCopy(status);
  say(byId("version"), `pgsluice ${status.version}, running since ${moment(status.started_at)}`);
  show(byId("forget"), holdsToken());
  announce(status, title);
}

const place = (database) => `${database.host}:${database.port}/${database.database}`;

function showStages(phase) {
  const now = STAGES.findIndex(([, phases]) => phases.includes(phase));
  fill(byId("stages"), phase, () => STAGES.map(([name], at) => {
    const stage = make("li", at < now ? "past" : at === now ? "now" : "", name);
    if (at === now) stage.setAttribute("aria-current", "step");
    return stage;
  }));
}

/** Each command: its name, and the dialog's content, or null and why it is not possible. */
function commands(status) {
  const { source, target, max_pause_ms: pauseMs, commands: who, waits_for_confirmation: manual } = status.configured;
  const running = status.cutover?.outcome === "running" ? status.cutover : null;
  const base = { word: null, pauseMs: null, body: null, dangerous: false, needsToken: who === "token" };
  const back = status.phase === "rollback_window";
  const why = feed === "lost" ? "No connection." : who === "nobody"
    ? "Commands are refused here: set api.token_file, or let the API listen on 127.0.0.1." : null;
  const startable = why ?? (running !== null ? "An operation is under way."
    : back || status.phase === "streaming" ? null : "Possible while changes are streamed.");
  const list = [{
    id: "rehearse", name: back ? "Rehearse the way back" : "Rehearse", why: startable, command: {
      ...base, title: back ? "Rehearse the way back" : "Rehearse the cutover", submit: "Rehearse", pauseMs,
      path: back ? "v1/rollback" : "v1/cutover", body: { mode: "rehearsal" },
      text: "Writers wait as in the real one, then everything is let go again: it measures the pause and changes nothing. Nobody gets an error.",
    },
  }];
  if (back) {
    list.push({
      id: "rollback", name: "Roll back", dangerous: true, why: startable, command: {
        ...base, title: "Roll back", submit: "Roll back", dangerous: true, pauseMs, word: "roll back",
        path: "v1/rollback", body: { mode: "rollback" },
        text: `${place(source)} becomes the primary again; ${place(target)} refuses writes from then on. Nothing that was written is lost.`,
      },
    });
  } else if (status.phase !== "cut_over") {
    list.push({
      id: "cutover", name: "Cut over", dangerous: true, why: startable, command: {
        ...base, title: "Cut over", submit: "Cut over", dangerous: true, pauseMs, word: target.database,
        path: "v1/cutover", body: { mode: "cutover" }, unverified: unverified(status),
        text: `${place(target)} becomes the primary; ${place(source)} refuses writes from then on. If that cannot be proven safe within the `
          + "pause, everything is as before.",
      },
    });
  }
  const verifying = status.verification !== null && status.verification.ended_at === null;
  if (["streaming", "rollback_window"].includes(status.phase)) {
    list.push(verifying ? {
      id: "stop-verification", place: "verification-actions", name: "Stop", why, command: {
        ...base, title: "Stop the verification", submit: "Stop", path: "v1/verify/stop",
        text: "It ends as not complete. Nothing is lost by that: it can be started again.",
      },
    } : {
      id: "verify", place: "verification-actions", name: "Verify now", why: startable, command: {
        ...base, title: "Verify", submit: "Verify", path: "v1/verify", body: {},
        text: "Every row of both sides is compared while traffic goes on, in the part of the time that verify.share_percent allows. Nothing is changed.",
      },
    });
  }
  if (running !== null) {
    const late = ABORTABLE.includes(running.state) ? null : "It is past the point where it can be taken back, or being taken back.";
    list.push({
      id: "abort", name: "Abort", why: why ?? late, command: {
        ...base, title: "Abort", submit: "Abort", path: "v1/cutover/abort",
        text: "Everything is put back, and writers go on without an error. After the point of no return it is refused.",
      },
    });
    if (manual && running.state === "retargeting") {
      list.push({
        id: "confirm", name: "Clients are moved", why, command: {
          ...base, title: "Clients are moved", submit: "Go on", path: "v1/cutover/confirm",
          text: "Say so once your clients are led to the new primary: the operation waits for it.",
        },
      });
    }
  }
  return list;
}

function showActions(status) {
  const list = commands(status);
  for (const place of ["actions", "verification-actions"]) {
    const here = list.filter((each) => (each.place ?? "actions") === place);
    // Built anew only when others are possible, so that the focus stays.
    fill(byId(place), here.map(({ id, name, dangerous }) => [id, name, dangerous]), () => here.map(({ id, name, dangerous }) => {
      const button = make("button", dangerous ? "dangerous" : "primary", name);
      button.type = "button";
      button.id = `action-${id}`;
      button.setAttribute("aria-describedby", "actions-note");
      button.addEventListener("click", () => {
        const found = commands(latest).find((each) => each.id === id);
        if (found !== undefined && found.why === null) ask(found.command);
      });
      return button;
    }));
  }
  list.forEach(({ id, why }) => {
    byId(`action-${id}`).disabled = why !== null;
  });
  const reasons = new Set(list.map(({ why }) => why).filter((why) => why !== null));
  say(byId("actions-note"), [...reasons].join(" "));
}

const announced = {};

/** Only what changes what one would do: phase, problem, the end of an operation or a verification. */
function announce(status, title) {
  const operation = status.cutover;
  const now = {
    phase: `Phase: ${title}.`,
    problem: status.problem === null ? "No problem any more." : `Problem: ${status.problem.message}`,
    operation: operation === null ? "" : `${OPERATIONS[operation.mode]} ${operation.epoch}: `
      + (operation.outcome === "running" ? "under way." : outcome(operation)),
    verification: status.verification === null ? "" : `Verification ${status.verification.number}: `
      + (status.verification.ended_at === null ? "under way." : verdict(status.verification)),
  };
  const first = announced.phase === undefined;
  const news = Object.entries(now).filter(([name, text]) => announced[name] !== text).map(([, text]) => text);
  Object.assign(announced, now);
  if (!first && news.length > 0) say(byId("announcer"), news.join(" "));
}

const FEEDS = { connecting: "Connecting …", live: "Live", polling: "Live, by asking", lost: "Connection lost" };

function showFeed(state, ageMs) {
  if (state !== feed) {
    if (state === "lost") say(byId("announcer"), "Connection lost.");
    else if (feed === "lost") say(byId("announcer"), "Connected again.");
    feed = state;
    document.body.dataset.feed = state;
    say(byId("connection-state"), FEEDS[state]);
    show(byId("lost"), state === "lost");
    if (latest !== null) showActions(latest);
  }
  const seconds = Math.floor((ageMs ?? 0) / 1000);
  const age = `What you see is ${seconds < 60 ? plural(seconds, "second") : duration(seconds * 1000)} old.`;
  say(byId("connection-age"), ageMs !== null && ageMs > 2000 ? age : "");
  say(byId("lost-age"), ageMs === null ? "Nothing was received yet." : age);
}

byId("forget").addEventListener("click", () => {
  forgetToken();
  show(byId("forget"), false);
});
follow((status) => {
  latest = status;
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(render);
  }
}, showFeed);
