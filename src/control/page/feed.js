// What keeps the page current: server-sent events, and asking where no event comes. It knows how old the last answer is, and
// whether pgsluice answers at all.

// The program tells something about twice a second. After this long without it, it is asked.
const QUIET_MAX_MS = 3000;
const ANSWER_MAX_MS = 4000;
const LOOK_EVERY_MS = 1000;
// An event stream that brings nothing for this long, while asking works, is opened anew.
const STREAM_QUIET_MAX_MS = 10_000;
const QUERY = "?tables=under_way";

/**
 * Calls `onStatus(status)` with each status, and `onState(state, ageMs)` at least once a second; the state is `connecting`, `live`
 * (events), `polling` (answers, but no events) or `lost`, the age that of the last status, null before the first.
 */
export function follow(onStatus, onState) {
  let stream = null;
  let openedAt = 0;
  let eventAt = 0;
  let statusAt = null;
  let asking = false;
  let state = "connecting";

  const tell = () => onState(state, statusAt === null ? null : performance.now() - statusAt);
  const received = (status, by) => {
    statusAt = performance.now();
    state = by;
    onStatus(status);
    tell();
  };
  const ask = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(`v1/status${QUERY}`, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX_MS) });
      if (!answer.ok) throw new Error(answer.statusText);
      received(await answer.json(), "polling");
    } catch {
      state = "lost";
      tell();
    } finally {
      asking = false;
    }
  };
  const open = () => {
    stream?.close();
    openedAt = performance.now();
    stream = new EventSource(`v1/events${QUERY}`);
    stream.addEventListener("status", (event) => {
      eventAt = performance.now();
      received(JSON.parse(event.data), "live");
    });
    stream.addEventListener("error", ask);
  };
  const look = () => {
    const now = performance.now();
    const quietMs = now - Math.max(eventAt, openedAt);
    if (stream.readyState === EventSource.CLOSED || quietMs > STREAM_QUIET_MAX_MS) open();
    if (state === "lost" || now - (statusAt ?? openedAt) > QUIET_MAX_MS) ask();
    tell();
  };
  open();
  setInterval(look, LOOK_EVERY_MS);
}
