"use strict";
const token = new URLSearchParams(location.search).get("token");
const [page, state, said] = ["main", "#state", "#said"].map((each) => document.querySelector(each));
const controls = document.querySelectorAll("#controls button, #controls input");
const name = document.title;
const source = new EventSource("/stream?token=" + encodeURIComponent(token));
const key = (each) => each.id || each.tagName;
let before = new Map();
// Only the sections that have changed are replaced: what a reader has opened, marked or scrolled in the others stays.
const show = (event) => {
  const fresh = document.createElement("template");
  fresh.innerHTML = JSON.parse(event.data);
  const parts = [...fresh.content.children], told = new Map(parts.map((each) => [key(each), each.outerHTML]));
  for (const old of [...page.children]) if (!told.has(key(old))) old.remove();
  parts.forEach((part, place) => {
    const old = page.children[place];
    if (!old || key(old) !== key(part)) page.insertBefore(part, old ?? null);
    else if (told.get(key(part)) !== before.get(key(part))) old.replaceWith(part);
  });
  before = told;
  document.title = [page.querySelector("h1")?.textContent, name].filter(Boolean).join(" · ");
};
const become = (mode, words) => {
  document.body.className = mode;
  if (state.textContent !== words) state.textContent = words;
  if (mode !== "live") said.textContent = "";
  for (const each of controls) each.disabled = mode !== "live";
};
const lost = () => become("gone", "no connection: the run has ended, or this machine cannot be reached; below is what was last heard");
source.onmessage = (event) => { show(event); become("live", "live"); };
source.addEventListener("end", (event) => { source.close(); show(event); become("over", "the run has ended"); });
source.onerror = lost;
const post = async (path, body) => {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "X-Token": token }, body });
    said.textContent = (await answer.text()).trim();
  } catch { lost(); }
};
for (const verb of ["pause", "resume"]) document.querySelector("#" + verb).onclick = () => post("/" + verb);
for (const form of document.querySelectorAll("form")) {
  form.onsubmit = (event) => {
    event.preventDefault();
    post(form.getAttribute("action"), new URLSearchParams(new FormData(form)));
  };
}
