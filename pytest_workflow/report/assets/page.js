"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const tests = [...document.querySelectorAll("details.test")];
  const text = document.getElementById("text");
  const boxes = [...form.querySelectorAll("input[name=outcome]")];

  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcomes = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const test of tests) {
      const fits = outcomes.has(test.dataset.outcome) && words.every((word) => test.dataset.search.includes(word));
      test.hidden = !fits;
      shown += fits;
    }
    document.getElementById("shown").textContent =
      `${shown === tests.length ? "" : `${shown} of `}${tests.length} ${tests.length === 1 ? "test" : "tests"}`;
    document.getElementById("none").hidden = shown > 0;
  };

  const openAll = (open) => {
    for (const test of tests) if (!test.hidden) test.open = open;
  };

  const go = (step) => {
    const heads = tests.filter((test) => !test.hidden).map((test) => test.querySelector("summary"));
    const inside = document.activeElement.closest("details.test");
    const now = inside ? heads.indexOf(inside.querySelector("summary")) : step > 0 ? -1 : heads.length;
    const next = heads[Math.min(Math.max(now + step, 0), heads.length - 1)];
    if (next) next.focus();
  };

  const goInTimeline = (timeline, step) => {
    const events = [...timeline.querySelectorAll(".wt-event")];
    const now = events.indexOf(document.activeElement);
    const next = events[now < 0 ? (step > 0 ? 0 : events.length - 1) : now + step];
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest", inline: "center" });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, textarea, select");
    const timeline = event.target.closest(".wt");
    if (event.key === "Escape" && event.target === text) {
      text.value = "";
      apply();
    } else if (typing) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      text.focus();
    } else if (event.key === "j" || event.key === "k") {
      go(event.key === "j" ? 1 : -1);
    } else if (timeline && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      event.preventDefault();
      goInTimeline(timeline, event.key === "ArrowRight" ? 1 : -1);
    }
  });

  // An event of a timeline leads to its row; the table around the row may be closed.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.wt-event");
    const row = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!row) return;
    for (let box = row.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    row.focus({ preventScroll: true });
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const box of opened) box.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
    opened = [];
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  document.getElementById("expand").addEventListener("click", () => openAll(true));
  document.getElementById("collapse").addEventListener("click", () => openAll(false));
  form.hidden = false;
  apply();
})();
