// What the reader can do: buttons that ask before they act, and the form that starts executions.

import { refresh } from "./live.js";
import { complain, say } from "./messages.js";

/** An answer of the API that says why something was not done. */
class Refusal extends Error {
  constructor(status, problem) {
    const title = problem.title || `The server answered ${status}`;
    super(problem.detail && problem.detail !== title ? `${title}: ${problem.detail}` : title);
    this.problem = problem;
  }
}

async function post(url, body = {}) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refusal(0, { title: "The server cannot be reached", detail: "Nothing may have been done. Try again." });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

function confirmed(button) {
  const dialog = document.getElementById("confirm");
  const { title, text, id, yes } = button.dataset;
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-id").textContent = id;
  const accept = document.getElementById("confirm-yes");
  accept.textContent = yes;
  accept.className = "danger" in button.dataset ? "danger" : "strong";
  dialog.returnValue = "no";
  dialog.showModal();
  document.getElementById("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function act(button) {
  const { act: url, body, done } = button.dataset;
  if (!(await confirmed(button))) return;
  button.setAttribute("aria-busy", "true");
  try {
    await post(url, body && JSON.parse(body));
    say(done);
  } catch (refusal) {
    complain(refusal.message);
  } finally {
    button.removeAttribute("aria-busy");
    await refresh();
  }
}

// The form that starts an execution -----------------------------------------------------------------------------------

const FIELDS = { input: "start-input", execution_id: "start-id", timeout_ms: "start-timeout", queue: "start-queue" };

function mistake(id, text) {
  const field = document.getElementById(id);
  const message = document.getElementById(`${id}-error`);
  message.textContent = text;
  message.hidden = !text;
  if (!field || field === message) return;
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

function clearMistakes() {
  const shown = Object.values(FIELDS).filter((id) => document.getElementById(id)); // no workers, no field for a queue
  for (const id of [...shown, "start"]) mistake(id, "");
}

/** Return what the form asks for; null when something in it is wrong, which is said. */
function asked(form) {
  const body = {};
  const text = form.elements.input.value.trim();
  if (text) {
    try {
      body.input = JSON.parse(text);
    } catch (error) {
      mistake(FIELDS.input, `This is not JSON: ${error.message}`);
    }
  }
  const id = form.elements.execution_id.value.trim();
  if (id) body.execution_id = id;
  const timeout = form.elements.timeout_ms.value.trim();
  if (timeout && !/^[0-9]+$/.test(timeout)) mistake(FIELDS.timeout_ms, "A time-out is a whole number of milliseconds.");
  else if (timeout) body.timeout_ms = Number(timeout);
  const queue = form.elements.queue?.value.trim();
  if (queue) body.queue = queue;
  const wrong = form.querySelector("[aria-invalid]");
  wrong?.focus();
  return wrong ? null : body;
}

/** Show each mistake beside its field, if the answer says which one it is about. */
function showRefusal({ problem, message }) {
  const left = [];
  for (const { loc, msg } of problem.errors || []) {
    const field = FIELDS[loc.find((part) => part in FIELDS)];
    if (field) mistake(field, msg);
    else left.push(msg);
  }
  if (left.length || !(problem.errors || []).length) mistake("start", [message, ...left].join("\n"));
  document.querySelector("#start-form [aria-invalid]")?.focus();
}

async function start(form) {
  clearMistakes();
  const body = asked(form);
  if (!body) return;
  const button = document.getElementById("start-button");
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    const answer = await post(form.dataset.start, body);
    location.assign(form.dataset.then + encodeURIComponent(answer.execution_id));
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    showRefusal(refusal);
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
}

/** Let buttons and the form act. */
export function letAct() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (button && button.getAttribute("aria-busy") !== "true") act(button);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-start]");
    if (!form) return;
    event.preventDefault();
    start(form);
  });
}
