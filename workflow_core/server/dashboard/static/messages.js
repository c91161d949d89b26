// Messages to the reader: what was done, and what went wrong.

const toasts = document.getElementById("toasts");
const SHOWN_MS = 6000;

/** Say that something was done. It goes away by itself, unless somebody is at it. */
export function say(text) {
  const toast = add(text, false);
  const leave = () => (toast.matches(":hover, :focus-within") ? setTimeout(leave, SHOWN_MS) : toast.remove());
  setTimeout(leave, SHOWN_MS);
}

/** Say that something went wrong. It stays until it is closed. */
export function complain(text) {
  add(text, true);
}

function add(text, bad) {
  const toast = document.createElement("div");
  toast.className = bad ? "toast is-bad" : "toast";
  if (bad) toast.setAttribute("role", "alert");
  const words = document.createElement("p");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet";
  close.setAttribute("aria-label", "Close this message");
  close.textContent = "✕";
  close.addEventListener("click", () => toast.remove());
  toast.append(words, close);
  toasts.append(toast);
  return toast;
}
