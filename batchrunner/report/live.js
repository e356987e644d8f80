"use strict";
const token = new URLSearchParams(location.search).get("token");
const page = document.querySelector("main");
const said = document.querySelector("#said");
const source = new EventSource("/stream?token=" + encodeURIComponent(token));
const show = (event) => {
  const open = document.querySelector("details")?.open;
  page.innerHTML = JSON.parse(event.data);
  const details = document.querySelector("details");
  if (details && open) details.open = true;
};
source.onmessage = (event) => { said.textContent = "live"; show(event); };
source.addEventListener("end", (event) => { source.close(); show(event); said.textContent = "the run has ended"; });
source.onerror = () => { said.textContent = "no connection: the run has ended, or this machine cannot be reached"; };
const post = async (path, body) => {
  const answer = await fetch(path, { method: "POST", headers: { "X-Token": token }, body });
  said.textContent = (await answer.text()).trim();
};
for (const verb of ["pause", "resume"]) document.querySelector("#" + verb).onclick = () => post("/" + verb);
for (const form of document.querySelectorAll("form")) {
  form.onsubmit = (event) => {
    event.preventDefault();
    post(form.getAttribute("action"), new URLSearchParams(new FormData(form)));
  };
}
