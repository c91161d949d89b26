// Makes one tree equal to another by touching only what differs, so that focus, scrolling, selected and typed text,
// and whatever was opened, stay as they are. Elements with an id are recognised wherever they have moved to.

// What the reader of the page decides: whether details and dialogs are open.
const READERS = new Map([["DETAILS", "open"], ["DIALOG", "open"]]);

/** Make `from` equal to `to`, which is left in an unspecified state. */
export function morph(from, to) {
  const focused = document.activeElement;
  morphElement(from, to);
  if (focused !== document.activeElement && focused && focused !== document.body) {
    const again = focused.isConnected ? focused : focused.id && document.getElementById(focused.id);
    (again || document.getElementById("main")).focus({ preventScroll: true });
  }
}

function morphElement(from, to) {
  if (from.isEqualNode(to) || "scripted" in from.dataset) return; // what a script has written there, the server knows not
  morphAttributes(from, to);
  morphChildren(from, to);
}

function morphAttributes(from, to) {
  const kept = READERS.get(from.nodeName);
  for (const { name, value } of [...to.attributes]) {
    if (name !== kept && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (name !== kept && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

function morphChildren(from, to) {
  const known = new Map();
  for (const child of from.children) if (child.id) known.set(child.id, child);
  const wanted = new Set();
  for (const child of to.children) if (child.id) wanted.add(child.id);
  const wasEmpty = known.size === 0;

  let place = from.firstChild;
  const pass = () => {
    // What is going away is taken out first, so that what stays need not be moved.
    while (place && place.id && !wanted.has(place.id)) place = removed(place);
  };
  for (const next of [...to.childNodes]) {
    pass();
    const found = next.id ? known.get(next.id) : place && !place.id && alike(place, next) ? place : null;
    if (!found || found.nodeName !== next.nodeName) {
      from.insertBefore(next, place);
      if (next.id && !wasEmpty) next.dataset.new = "";
      continue;
    }
    if (found === place) place = place.nextSibling;
    else if (from.moveBefore) from.moveBefore(found, place);
    else from.insertBefore(found, place);
    if (found.nodeType === Node.ELEMENT_NODE) morphElement(found, next);
    else if (found.nodeValue !== next.nodeValue) found.nodeValue = next.nodeValue;
  }
  while (place) place = removed(place);
}

function removed(node) {
  const after = node.nextSibling;
  node.remove();
  return after;
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && !other.id;
}
