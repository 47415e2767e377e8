// The stream of changes: lag over the last minutes, rates, positions.

import { byId, bytes, count, draw, duration, figures, say, show } from "./dom.js";

const KEPT_MS = 5 * 60_000;
/** What the charts show at first; all that is kept once there is more. */
const SHOWN_FIRST_MS = 60_000;
const SAMPLE_EVERY_MS = 1000;
/** A longer silence is a gap in the line. */
const GAP_MS = 6000;
const [WIDTH, HEIGHT] = [600, 120];

const samples = [];
const charts = new Map();

/** Shows the stream of a status. */
export function showStream(status) {
  const { lag, positions, throughput } = status;
  const back = status.direction === "back";
  sample(lag);
  show(byId("stream"), positions.received !== null || lag.bytes !== null);
  say(byId("stream-title"), back ? "Changes on the way back" : "Changes");
  say(byId("stream-note"), back
    ? "What is written on the new primary goes back to the side that was left. Positions are those of the new primary."
    : "Lag is measured on changes that are not applied yet. Positions are those of the source.");
  say(byId("lag-bytes"), bytes(lag.bytes));
  say(byId("lag-seconds"), lag.seconds === null ? "not known yet" : duration(lag.seconds * 1000));
  figures(byId("rates"), [
    ["Transactions/s", decimal(throughput.transactions_per_second)],
    ["Row changes/s", decimal(throughput.rows_per_second)],
    ["Transactions applied", count(throughput.transactions_total)],
    ["Row changes applied", count(throughput.rows_total)],
    ["WAL kept for this", bytes(status.slot_retained_wal_bytes)],
  ]);
  figures(byId("positions"), [
    [back ? "End of the new primary's WAL" : "End of the source's WAL", positions.source ?? "–"],
    ["Received", positions.received ?? "–"],
    ["Applied", positions.applied ?? "–"],
    ["Durable, confirmed", positions.durable ?? "–"],
  ]);
  chart("chart-bytes", "Lag in bytes", (point) => point.bytes, bytes, [1024, [4]]);
  chart("chart-seconds", "Lag in seconds", (point) => point.seconds, (seconds) => duration(seconds * 1000), [1, [2, 2.5, 2]]);
}

const decimal = (value) => (value < 10 ? value.toFixed(1) : count(value));

function sample(lag) {
  const at = performance.now();
  const last = samples.at(-1);
  if (last !== undefined && at - last.at < SAMPLE_EVERY_MS) {
    // The highest of each second counts: a peak must not fall between two samples.
    last.bytes = highest(last.bytes, lag.bytes);
    last.seconds = highest(last.seconds, lag.seconds);
    return;
  }
  samples.push({ at, bytes: lag.bytes, seconds: lag.seconds });
  while (samples[0].at < at - KEPT_MS) samples.shift();
}

const highest = (left, right) => (left === null ? right : right === null ? left : Math.max(left, right));

/** The first of `least` and its multiples by `factors`, one after the other and over again, that holds `value`. */
function scale(value, least, factors) {
  let top = least;
  for (let step = 0; top < value; step += 1) top *= factors[step % factors.length];
  return top;
}

function chart(id, name, pick, tell, ticks) {
  const now = performance.now();
  const values = samples.map(pick).filter((value) => value !== null);
  const top = scale(Math.max(0, ...values), ...ticks);
  const span = now - samples[0].at > SHOWN_FIRST_MS ? KEPT_MS : SHOWN_FIRST_MS;
  const x = (at) => (WIDTH * (1 - (now - at) / span)).toFixed(1);
  const y = (value) => (HEIGHT * (1 - value / top)).toFixed(1);
  let line = "";
  let before = null;
  for (const point of samples) {
    const value = pick(point);
    if (value !== null) {
      const joins = before !== null && point.at - before.at < GAP_MS;
      line += `${joins ? "L" : "M"}${x(point.at)} ${y(value)}${joins ? "" : "h0.1"}`;
    }
    before = value === null ? null : point;
  }
  const parts = charts.get(id) ?? frame(id);
  parts.line.setAttribute("d", line);
  say(parts.top, tell(top));
  say(parts.left, `${span / 60_000} min ago`);
  const last = values.at(-1);
  parts.image.setAttribute("aria-label", values.length === 0 ? `${name}: not known yet`
    : `${name} over the last minutes: now ${tell(last)}, at most ${tell(Math.max(...values))}`);
}

function frame(id) {
  const line = draw("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  const grid = [0.25, 0.5, 0.75].map((at) => draw("path",
    { class: "grid", d: `M0 ${HEIGHT * at}H${WIDTH}`, "vector-effect": "non-scaling-stroke" }));
  const image = draw("svg", { role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, ...grid, line);
  const label = (kind, text) => {
    const element = document.createElement("span");
    element.className = kind;
    element.textContent = text;
    element.setAttribute("aria-hidden", "true");
    return element;
  };
  const top = label("top", "");
  const left = label("left", "");
  byId(id).className = "chart";
  byId(id).replaceChildren(top, image, left, label("right", "now"));
  const parts = { line, image, top, left };
  charts.set(id, parts);
  return parts;
}
