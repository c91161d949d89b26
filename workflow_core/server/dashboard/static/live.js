// Keeps the page as the server would render it now: on news it is fetched again, and what differs is changed in place.

import { morph } from "./morph.js";
import { setClock, tick } from "./ticking.js";

const root = document.documentElement;
const main = document.getElementById("main");
const shown = document.getElementById("live");

let news = null; // the connection that tells of changes
let wanted = false; // whether something changed since the page was fetched
let fetching = null; // what ends the fetch that is under way
let earliest = 0; // when the page may be fetched again
let retry = 0; // how often connecting failed in a row
let lookTimer = 0;

/** Show the page of a URL, or of this one, as it is now. Returns whether that succeeded. */
export async function refresh(url = location.href, { resetForms = false } = {}) {
  fetching?.abort();
  const mine = (fetching = new AbortController());
  wanted = false;
  const began = performance.now();
  try {
    const response = await fetch(url, { headers: { Accept: "text/html" }, signal: mine.signal, cache: "no-store" });
    if (response.redirected && new URL(response.url).pathname !== new URL(url, location.href).pathname) {
      location.assign(response.url); // signed out
      return false;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (mine.signal.aborted || !page.getElementById("main")) return false;
    show(page, resetForms);
    reached(response.status < 500 ? "live" : "waiting");
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    reached("lost");
    wanted = true;
    later(2000);
    return false;
  } finally {
    if (fetching === mine) fetching = null;
    // A page that is slow to make is made less often: the server spends at most a third of its time on it.
    earliest = performance.now() + Math.max(250, 2 * (performance.now() - began));
  }
}

function show(page, resetForms) {
  setClock(page.documentElement);
  tick(page);
  const ends = [...main.querySelectorAll(".wt")].filter((box) => box.scrollWidth - box.scrollLeft - box.clientWidth < 4);
  document.title = page.title;
  morph(main, page.getElementById("main"));
  for (const box of ends) box.scrollLeft = box.scrollWidth; // who looks at the end of a timeline sees it grow
  if (resetForms) for (const form of main.querySelectorAll("form")) form.reset();
  look();
}

/** Fetch the page again as soon as it may be. */
function later(wait = 0) {
  clearTimeout(later.timer);
  later.timer = setTimeout(() => {
    if (!wanted || document.hidden) return;
    if (fetching) return later(100);
    refresh();
  }, Math.max(wait, earliest - performance.now(), 0));
}

/** Look again from time to time where something can happen that nobody writes down, such as the death of a process. */
function look() {
  clearTimeout(lookTimer);
  const every = Number(main.dataset.lookEvery);
  if (every) lookTimer = setTimeout(() => { wanted = true; later(); }, every);
}

function reached(state) {
  if (state !== "lost") retry = 0;
  const text = { live: "Live", waiting: "Waiting for the databases", lost: "Connection lost, trying again" }[state];
  shown.hidden = false;
  shown.dataset.state = state;
  const words = shown.querySelector(".live-text");
  if (words.textContent !== text) words.textContent = text;
}

/** Return where this page is told of changes: the stream of its execution, or that of all workflows. */
function newsUrl() {
  const { live, execution, seq } = main.dataset;
  const path = live === "execution" ? `executions/${encodeURIComponent(execution)}/events?after=${seq}` : "events";
  return `${root.dataset.base}/api/${path}`;
}

function isNews(event) {
  const said = event.type === "history" || event.type === "connected" ? {} : JSON.parse(event.data);
  if (event.type === "status") return said.status !== main.dataset.status;
  if (event.type === "changed" && main.dataset.live === "workflow") return said.workflows.includes(main.dataset.workflow);
  return true;
}

function connect() {
  if (news || document.hidden || !navigator.onLine || !main.dataset.live) return;
  news = new EventSource(newsUrl());
  news.addEventListener("open", () => {
    if (shown.dataset.state === "lost") {
      wanted = true;
      later();
    } else reached("live");
  });
  for (const name of ["connected", "changed", "history", "status", "removed"]) {
    news.addEventListener(name, (event) => {
      if (!isNews(event)) return;
      wanted = true;
      later();
    });
  }
  news.addEventListener("error", () => {
    reached("lost");
    disconnect();
    setTimeout(connect, Math.min(500 * 2 ** retry++, 15000));
  });
}

function disconnect() {
  news?.close();
  news = null;
}

/** Begin, and stop while nobody looks: a browser has few connections to spare, and a server has others to tell. */
export function keepLive() {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return disconnect();
    connect();
    wanted = true;
    later();
  });
  addEventListener("offline", () => {
    fetching?.abort(); // an answer that was under way would say that all is well
    disconnect();
    reached("lost");
  });
  addEventListener("online", () => {
    connect();
    wanted = true;
    later();
  });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => { if (event.persisted) { connect(); wanted = true; later(); } });
  connect();
  look();
}
