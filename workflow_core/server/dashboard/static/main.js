// Brings a page to life. Without this, everything can still be read.

import { letAct } from "./actions.js";
import { keepFiltering } from "./filtering.js";
import { keepListening } from "./keyboard.js";
import { keepLive } from "./live.js";
import { keepTicking, setClock } from "./ticking.js";

const root = document.documentElement;

/** A page that takes longer than a moment says that it is coming. */
function tellLoading() {
  let timer = 0;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !plain || link.target || link.origin !== location.origin) return;
    if (link.hash && link.pathname + link.search === location.pathname + location.search) return;
    timer = setTimeout(() => { root.dataset.loading = ""; }, 150);
  });
  addEventListener("pageshow", () => {
    clearTimeout(timer);
    delete root.dataset.loading;
  });
}

/** The button that goes through the themes: the system's, light, dark. */
function themes() {
  const button = document.getElementById("theme");
  const words = { auto: ["Auto", "as the system has them"], light: ["Light", "light"], dark: ["Dark", "dark"] };
  const order = ["auto", "light", "dark"];
  const tell = () => {
    const [word, colours] = words[root.dataset.theme || "auto"];
    button.querySelector(".tool-text").textContent = word;
    button.setAttribute("aria-label", `Colours: ${colours}`);
  };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % order.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("workflow-theme", next);
    } catch {
      // Then it holds for this page.
    }
    tell();
  });
  tell();
}

setClock(root);
themes();
keepTicking();
letAct();
keepFiltering();
keepListening();
tellLoading();
keepLive();
