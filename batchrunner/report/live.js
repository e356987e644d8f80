"use strict";
const token = new URLSearchParams(location.search).get("token");
const [page, state, said] = ["main", "#state", "#said"].map((each) => document.querySelector(each));
const controls = document.querySelectorAll("#controls button, #controls input");
const name = document.title;
const source = new EventSource("/stream?token=" + encodeURIComponent(token));
let before = [];
// Only the sections that have changed are replaced: what a reader has opened, marked or scrolled in the others stays.
const show = (event) => {
  const fresh = document.createElement("template");
  fresh.innerHTML = JSON.parse(event.data);
  const parts = [...fresh.content.children], told = parts.map((each) => each.outerHTML);
  if (parts.length !== before.length) page.replaceChildren(...parts);
  else parts.forEach((part, place) => { if (told[place] !== before[place]) page.children[place].replaceWith(part); });
  before = told;
  document.title = [page.querySelector("h1")?.textContent, name].filter(Boolean).join(" · ");
};
const become = (mode, words) => {
  document.body.className = mode;
  if (state.textContent !== words) state.textContent = words;
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
