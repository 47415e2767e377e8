// The one dialog: what a command will do, the word to type for those that cannot be taken back, the token where one is needed,
// and what the API said when it refused.

import { byId, make, say, show } from "./dom.js";
import { forgetToken, holdToken, holdsToken, newKey, send } from "./commands.js";

let current = null;

/**
 * Asks for a command: `{title, text, submit, dangerous, path, body, word, needsToken, pauseMs, unverified}`. `word` is what has to be typed, null for nothing;
 * `pauseMs` the configured pause, null where none can be given; `unverified` why no verification vouches for the rows, which has to be
 * overridden, absent where none has to.
 */
export function ask(command) {
  current = { ...command, key: newKey(), sending: false };
  say(byId("dialog-title"), command.title);
  say(byId("dialog-text"), command.text);
  say(byId("dialog-submit"), command.submit);
  const unverified = command.unverified ?? null;
  show(byId("dialog-unverified"), unverified !== null);
  byId("unverified").checked = false;
  say(byId("unverified-label"), unverified === null ? "" : `Cut over although ${unverified}. Rows may differ on the target; `
    + "the certificate will say that this was overridden.");
  byId("dialog-submit").className = command.dangerous ? "dangerous" : "primary";
  show(byId("dialog-pause"), command.pauseMs !== null);
  byId("pause").value = "";
  byId("pause").placeholder = command.pauseMs === null ? "" : `${command.pauseMs}, as configured`;
  show(byId("dialog-word"), command.word !== null);
  byId("word-label").replaceChildren("Type ", make("code", "", command.word ?? ""), " to confirm");
  byId("word").value = "";
  refuse(null);
  showToken();
  byId("dialog").showModal();
  const first = [["unverified", "dialog-unverified"], ["word", "dialog-word"], ["token", "dialog-token"]].find(([, label]) => !byId(label).hidden);
  byId(first ? first[0] : "dialog-submit").focus();
  check();
}

function showToken() {
  byId("token").value = "";
  show(byId("dialog-token"), current.needsToken && !holdsToken());
}

/** Whether everything is there; the button says so. */
function check() {
  const worded = current.word === null || byId("word").value.trim() === current.word;
  const tokened = byId("dialog-token").hidden || byId("token").value.trim() !== "";
  const pause = byId("pause").value.trim();
  const overridden = byId("dialog-unverified").hidden || byId("unverified").checked;
  byId("dialog-submit").disabled = current.sending || !worded || !tokened || !overridden || !/^\d*$/.test(pause);
}

function refuse(problem) {
  byId("dialog-error").replaceChildren(...(problem === null ? [] : [
    make("p", "", make("strong", "", problem.title)),
    make("p", "", problem.detail),
    make("p", "remedy", problem.remedy),
  ]));
}

async function submit(event) {
  event.preventDefault();
  check();
  if (byId("dialog-submit").disabled) return;
  const command = current;
  const pause = byId("pause").value.trim();
  const body = command.body === null ? null : {
    ...command.body,
    ...(pause === "" ? {} : { max_pause_ms: Number(pause) }),
    ...(byId("dialog-unverified").hidden ? {} : { unverified: byId("unverified").checked }),
  };
  if (!byId("dialog-token").hidden) holdToken(byId("token").value.trim());
  command.sending = true;
  refuse(null);
  check();
  const problem = await send(command.path, body, command.key);
  command.sending = false;
  if (command !== current) return;
  if (problem === null) {
    byId("dialog").close();
    return;
  }
  // What was refused is decided anew when it is sent again; what was not answered is named the same, so it starts once only.
  if (problem.status !== 0) command.key = newKey();
  if (problem.status === 401) forgetToken();
  refuse(problem);
  showToken();
  if (problem.status === 401) byId("token").focus();
  check();
}

byId("dialog-form").addEventListener("submit", submit);
byId("dialog-form").addEventListener("input", check);
byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
byId("dialog").addEventListener("close", () => {
  current = { word: null };
  byId("token").value = "";
});
