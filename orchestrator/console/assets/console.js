// Keeps a page as it is on the server. Everything works without this, after a reload.
"use strict";

const status = document.getElementById("live");
const news = document.getElementById("news");
const stream = document.body.dataset.stream;

function say(text) { if (status) status.textContent = text; }

// Put the parts of a newly read page in the place of those that differ.
function replaceParts(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other) { part.replaceChildren(); continue; }
    if (withoutKeys(part) === withoutKeys(other)) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    // What somebody has opened or typed stays as it is.
    for (const open of part.querySelectorAll("details[open][id]")) {
      const same = other.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    for (const input of part.querySelectorAll("input[type=text][id]")) {
      const same = other.querySelector(`#${CSS.escape(input.id)}`);
      if (same) same.value = input.value;
    }
    const home = focused && (focused.id ? `#${CSS.escape(focused.id)}`
      : focused.getAttribute("href") ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : focused.localName);
    part.replaceWith(document.adoptNode(other));
    if (home) document.getElementById(other.id).querySelector(home)?.focus({ preventScroll: true });
  }
  // A reader with a screen reader hears of the one thing that the page is about.
  const state = fresh.querySelector("main").dataset.state;
  const main = document.querySelector("main");
  if (state && news && state !== main.dataset.state) news.textContent = state;
  if (state) main.dataset.state = state;
}

function withoutKeys(part) { return part.outerHTML.replace(/name="key" value="[^"]*"/g, ""); }

let reading = false, again = false;
async function read() {
  if (reading) { again = true; return; }
  reading = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) { say("Signed out: reload the page to sign in"); return; }
    replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    say("Not up to date: the service does not answer");
  } finally {
    reading = false;
    if (again) { again = false; read(); }
  }
}

let source = null;
function listen() {
  source = new EventSource(stream);
  source.onopen = () => say("Up to date");
  source.onerror = () => {
    const over = source.readyState === EventSource.CLOSED;
    say(over ? "Not up to date: reload the page" : "Connecting again");
  };
  source.addEventListener("changed", read);
}

// A page that nobody sees asks for nothing.
document.addEventListener("visibilitychange", () => {
  if (!stream) return;
  if (document.hidden) { source?.close(); source = null; } else if (!source) { listen(); read(); }
});

if (stream && window.EventSource && !document.hidden) listen();
