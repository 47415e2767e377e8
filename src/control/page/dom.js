// What every part of the page writes with: text only, and only where it has changed, so that what somebody selects or has
// the focus on stays. And how numbers are told.

export const byId = (id) => document.getElementById(id);

/** Sets the text of an element. */
export function say(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Shows or hides. */
export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** A new element with a class and text or elements in it. */
export function make(tag, kind, ...content) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...content.filter((part) => part !== null && part !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A new SVG element. */
export function draw(tag, attributes, ...content) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

const shown = new WeakMap();

/** Calls `build` and puts what it makes into `element`, unless `data` is what it was. */
export function fill(element, data, build) {
  const now = JSON.stringify(data);
  if (shown.get(element) === now) return;
  shown.set(element, now);
  element.replaceChildren(...build());
}

/** A list of names and values. */
export function figures(element, pairs) {
  const names = pairs.map(([name]) => name);
  fill(element, names, () =>
    pairs.map(([name]) => make("div", "", make("dt", "", name), make("dd", ""))));
  pairs.forEach(([, value], place) => say(element.children[place].lastChild, value));
}

/** Numbers of things. */
export const count = (value) => Math.round(value).toLocaleString("en");

/** `one` or many of it. */
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** Bytes in binary units. */
export function bytes(value) {
  if (value === null || value === undefined) return "not known yet";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${place === 0 || value >= 100 ? count(value) : value.toFixed(1)} ${units[place]}`;
}

/** A duration given in milliseconds. */
export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "not known yet";
  if (milliseconds < 0.05) return "0 ms";
  if (milliseconds < 9.95) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} days ${Math.floor((minutes % 1440) / 60)} h`;
}

/** A moment, in the reader's own time zone. */
export const moment = (text) => new Date(text).toLocaleString();
