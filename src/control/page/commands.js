// Commands to the API. The token is kept in this module's memory only: it is gone with the page, and stands in no address.

const ANSWER_MAX_MS = 15_000;

let token = null;

export const holdsToken = () => token !== null;

export function holdToken(given) {
  token = given;
}

export function forgetToken() {
  token = null;
}

/** A name for a command, so that repeating it cannot start it twice. */
export function newKey() {
  const parts = crypto.getRandomValues(new Uint32Array(4));
  return `page-${Array.from(parts, (part) => part.toString(16).padStart(8, "0")).join("")}`;
}

/** Sends a command; returns null, or the problem: `{status, title, detail, remedy}`. */
export async function send(path, body, key) {
  const headers = { "Idempotency-Key": key };
  if (body) headers["Content-Type"] = "application/json";
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const request = { method: "POST", headers, signal: AbortSignal.timeout(ANSWER_MAX_MS) };
  if (body) request.body = JSON.stringify(body);
  try {
    const answer = await fetch(path, request);
    if (answer.ok) return null;
    const problem = await answer.json();
    return { status: answer.status, title: problem.title, detail: problem.detail, remedy: problem.remedy };
  } catch {
    return {
      status: 0,
      title: "No answer",
      detail: "pgsluice did not answer, so nobody knows whether the command has arrived.",
      remedy: "Look at the state above once the connection is back. Sending it again from this dialog starts it once only.",
    };
  }
}
