// Times that move on by themselves: "3 min ago", what is left of a wait, how long something has been running.
// The words are those of the server (workflow_core/views/wording.py); moments are in the reader's own time zone.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
let ahead = 0;

/** Take over the server's clock, by what a page says the time was when it was made. */
export function setClock(root) {
  const told = Number(root.dataset.now);
  if (told) ahead = told - Date.now();
}

/** Write the times of a document, or of a part of one, as they are now. */
export function tick(part) {
  const now = Date.now() + ahead;
  let soon = false;
  for (const element of part.querySelectorAll("time[data-time]")) {
    const at = Date.parse(element.dateTime);
    const kind = element.dataset.time;
    const text = TEXTS[kind](at, now);
    if (element.textContent !== text) element.textContent = text;
    if (!element.dataset.local) {
      element.dataset.local = "";
      element.title = `${localText(at)} (${new Date(at).toISOString().slice(0, 19).replace("T", " ")} UTC)`;
    }
    soon ||= kind === "since" || (kind === "left" && at - now < 10 * SECOND);
  }
  return soon;
}

/** Go on writing the times of the page: every second, or ten times as often while seconds count. */
export function keepTicking() {
  let soon = false;
  let passed = 0;
  setInterval(() => {
    if (document.hidden) return;
    passed = (passed + 1) % 10;
    if (soon || passed === 0) soon = tick(document);
  }, 100);
  soon = tick(document);
}

const TEXTS = {
  moment: (at) => localText(at),
  ago: (at, now) => agoText(now - at),
  left: (at, now) => leftText(at - now),
  since: (at, now) => tookText(now - at),
};

function two(number) {
  return String(number).padStart(2, "0");
}

function localText(at) {
  const date = new Date(at);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function agoText(passed) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const fits = units.find(([, length]) => passed >= length * SECOND);
  return fits ? `${Math.round(passed / SECOND / fits[1])} ${fits[0]} ago` : "now";
}

function leftText(left) {
  if (left <= 0) return "0 s";
  return left < 10 * SECOND ? `${(left / SECOND).toFixed(1)} s` : durationText(Math.round(left / SECOND) * SECOND);
}

function tookText(passed) {
  const took = Math.max(passed, 0);
  if (took < SECOND) return `${Math.round(took)} ms`;
  return took < MINUTE ? `${(took / SECOND).toFixed(1)} s` : durationText(Math.round(took / SECOND) * SECOND);
}

function durationText(milliseconds) {
  const seconds = Math.round(milliseconds / SECOND);
  const parts = [[Math.floor(seconds / 86400), "d"], [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"], [seconds % 60, "s"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
}
