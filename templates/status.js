// Updates the page, and filters while you type. The page is complete without it: the server renders everything.
"use strict";

const REGIONS = ["asof", "verdict", "now", "list", "history"];
const FILTER_PAUSE_MS = 200;
// A dead connection may take minutes to break; until then the page would look live.
const ANSWER_LIMIT_MS = 10_000;
// Screen readers announce a new verdict at once, and new figures in the same verdict no more often than this.
const FIGURES_PAUSE_MS = 60_000;
const query = document.getElementById("q");
const connection = document.getElementById("connection");
const announcement = document.getElementById("announcement");
const pause = document.getElementById("pause");
let timer;
let request;
let paused = false;
let announced = { name: document.getElementById("verdict").dataset.name, title: titleOf(document), at: Date.now() };

function titleOf(page) {
  return page.querySelector("h1").textContent;
}

// Identifies an element wherever it moves; empty for an element that is identified by its position.
function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "";
}

// Makes `from` like `to`, and changes only what differs: focus, selection and open details stay.
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to.cloneNode(true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    from.nodeValue = to.nodeValue;
    return;
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  morphChildren(from, to);
}

function morphChildren(from, to) {
  const wantedKeys = new Set([...to.childNodes].map(keyOf));
  const kept = new Map();
  for (const node of [...from.childNodes]) {
    const key = keyOf(node);
    if (key && !wantedKeys.has(key)) node.remove();
    else if (key) kept.set(key, node);
  }
  let at = from.firstChild;
  for (const wanted of to.childNodes) {
    const key = keyOf(wanted);
    if (key && kept.has(key)) {
      const node = kept.get(key);
      // Removes what is in between instead of moving the element, which would lose its focus.
      while (at && at !== node && !keyOf(at)) at = removed(at);
      if (at === node) at = at.nextSibling;
      else from.insertBefore(node, at);
      morph(node, wanted);
    } else if (key || !at || keyOf(at)) {
      from.insertBefore(wanted.cloneNode(true), at);
    } else {
      const node = at;
      at = at.nextSibling;
      morph(node, wanted);
    }
  }
  while (at) at = removed(at);
}

function removed(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function show(page) {
  const focused = document.activeElement;
  for (const id of REGIONS) morph(document.getElementById(id), page.getElementById(id));
  if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  document.title = page.title;
  document.body.dataset.refresh = page.body.dataset.refresh;
}

function announceVerdict() {
  const now = { name: document.getElementById("verdict").dataset.name, title: titleOf(document), at: Date.now() };
  if (now.title === announced.title) return;
  if (now.name === announced.name && now.at - announced.at < FIGURES_PAUSE_MS) return;
  announced = now;
  announcement.textContent = now.title;
}

function stale(why) {
  document.documentElement.classList.toggle("stale", why !== "");
  if (connection.textContent !== why) connection.textContent = why;
}

// Schedules the next update, unless the page is paused or hidden.
function arm() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  timer = setTimeout(update, Number(document.body.dataset.refresh) * 1000);
}

async function update() {
  clearTimeout(timer);
  request?.abort();
  const mine = (request = new AbortController());
  const limit = setTimeout(() => mine.abort(new Error("no answer in time")), ANSWER_LIMIT_MS);
  try {
    const answer = await fetch(location.pathname + location.search, { signal: mine.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    announceVerdict();
    stale("");
  } catch (error) {
    if (error.name === "AbortError") return;
    stale("The program does not answer: this page shows its last answer.");
  } finally {
    clearTimeout(limit);
  }
  arm();
}

async function find() {
  const wanted = new URLSearchParams(location.search);
  wanted.delete("page");
  if (query.value) wanted.set("q", query.value);
  else wanted.delete("q");
  const search = wanted.toString();
  history.replaceState(null, "", location.pathname + (search && `?${search}`));
  await update();
  announcement.textContent = document.getElementById("found").textContent;
}

query.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(find, FILTER_PAUSE_MS);
});
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  find();
});
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  if (!paused) return update();
  request?.abort();
  arm();
});
document.addEventListener("visibilitychange", () => (document.hidden || paused ? arm() : update()));
pause.hidden = false;
arm();
