// Keeps the page up to date and filters while one types. The page is whole without it: the server renders everything.
"use strict";

const REGIONS = ["asof", "verdict", "now", "list", "history"];
const FILTER_PAUSE_MS = 200;
const query = document.getElementById("q");
const connection = document.getElementById("connection");
let timer;
let request;

// Makes `from` like `to`, and touches only what differs: focus, selection and what is unfolded stay.
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
  const [old, wanted] = [[...from.childNodes], [...to.childNodes]];
  wanted.forEach((node, at) => (at < old.length ? morph(old[at], node) : from.append(node.cloneNode(true))));
  old.slice(wanted.length).forEach((node) => node.remove());
}

async function update() {
  clearTimeout(timer);
  request?.abort();
  const mine = (request = new AbortController());
  try {
    const answer = await fetch(location.pathname + location.search, { signal: mine.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of REGIONS) morph(document.getElementById(id), page.getElementById(id));
    document.title = page.title;
    document.body.dataset.refresh = page.body.dataset.refresh;
    document.body.classList.remove("stale");
    if (connection.textContent) connection.textContent = "";
  } catch (error) {
    if (error.name === "AbortError") return;
    document.body.classList.add("stale");
    connection.textContent = "The program does not answer: this is what it said last.";
  }
  timer = setTimeout(update, Number(document.body.dataset.refresh) * 1000);
}

function find() {
  const wanted = new URLSearchParams(location.search);
  wanted.delete("page");
  if (query.value) wanted.set("q", query.value);
  else wanted.delete("q");
  const search = wanted.toString();
  history.replaceState(null, "", location.pathname + (search && `?${search}`));
  update();
}

query.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(find, FILTER_PAUSE_MS);
});
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  find();
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : update()));
timer = setTimeout(update, Number(document.body.dataset.refresh) * 1000);
