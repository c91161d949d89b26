// Filters work while they are typed, and the URL says what is shown, so that it can be shared and "back" goes back.

import { refresh } from "./live.js";

const PAUSE_MS = 180;
let timer = 0;

function urlOf(form) {
  const url = new URL(form.action);
  for (const [name, value] of new FormData(form)) if (value) url.searchParams.append(name, value);
  return url;
}

function apply(form, { replace }) {
  const url = urlOf(form);
  if (url.href === location.href) return;
  history[replace ? "replaceState" : "pushState"]({}, "", url);
  const slow = setTimeout(() => { document.documentElement.dataset.loading = ""; }, 150);
  refresh(url.href).finally(() => {
    clearTimeout(slow);
    delete document.documentElement.dataset.loading;
  });
}

/** Let filters work at once. */
export function keepFiltering() {
  let typed = false; // whether the latest entry of the browser's history was made by typing
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.filter");
    if (!form) return;
    clearTimeout(timer);
    const typing = event.target.matches("input:not([type=checkbox])");
    timer = setTimeout(() => {
      apply(form, { replace: typing && typed });
      typed = typing;
    }, typing ? PAUSE_MS : 0);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form.filter");
    if (!form) return;
    event.preventDefault();
    clearTimeout(timer);
    apply(form, { replace: false });
  });
  addEventListener("popstate", () => {
    typed = false;
    refresh(location.href, { resetForms: true });
  });
}
