// Shortcuts, and the arrow keys in timelines.

const root = document.documentElement;
let awaited = 0; // until when the letter after "g" is awaited

function rowStep(step) {
  const links = [...document.querySelectorAll("main a[data-row]")].filter((link) => link.checkVisibility());
  const now = links.indexOf(document.activeElement.closest("tr")?.querySelector("a[data-row]"));
  const next = links[now < 0 ? (step > 0 ? 0 : links.length - 1) : now + step];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function timelineStep(timeline, step) {
  const events = [...timeline.querySelectorAll(".wt-event")];
  const now = events.indexOf(document.activeElement);
  const next = events[now < 0 ? (step > 0 ? 0 : events.length - 1) : now + step];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest", inline: "center" });
}

function search() {
  const field = document.getElementById("q");
  if (!field) return location.assign(`${root.dataset.base}/executions#q`);
  field.focus();
  field.select();
}

function help() {
  const dialog = document.getElementById("help");
  if (dialog && !dialog.open) dialog.showModal();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const timeline = event.target.closest(".wt");
  const going = performance.now() < awaited;
  awaited = 0;
  if (going) document.querySelector(`a[data-go="${CSS.escape(event.key)}"]`)?.click();
  else if (event.key === "g") awaited = performance.now() + 1500;
  else if (event.key === "/") search();
  else if (event.key === "?") help();
  else if (event.key === "j" || event.key === "k") rowStep(event.key === "j" ? 1 : -1);
  else if (timeline && event.key === "ArrowRight") timelineStep(timeline, 1);
  else if (timeline && event.key === "ArrowLeft") timelineStep(timeline, -1);
  else return;
  event.preventDefault();
}

/** An event of a timeline leads to its row, which may be left out or folded away. */
function toRow(event) {
  const link = event.target.closest("a.wt-event");
  const row = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!row) return;
  const filter = document.getElementById("only-problems");
  if (filter) filter.checked = false;
  for (let box = row.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  row.focus({ preventScroll: true });
}

/** Listen to the keyboard. */
export function keepListening() {
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", toRow);
  document.getElementById("help-button")?.addEventListener("click", help);
  if (location.hash === "#q") search();
}
