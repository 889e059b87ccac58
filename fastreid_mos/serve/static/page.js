// The page works without this: it adds dropping and pasting, results without loading anew, and two chips side by side.
"use strict";
const form = document.getElementById("search"), chip = document.getElementById("chip"), drop = document.getElementById("drop");
const dialog = document.getElementById("pair");
const results = () => document.getElementById("results");

function say(text) {
  const line = document.createElement("p");
  line.className = "problem";
  line.setAttribute("role", "alert");
  line.textContent = text;
  results().replaceChildren(line);
}

function show(text) {
  const page = new DOMParser().parseFromString(text, "text/html"), found = page.getElementById("results");
  if (!found) return say(text.slice(0, 300) || "The server gave no answer.");
  results().replaceWith(found);
  found.focus({ preventScroll: true });
}

let last = 0; // of several searches the one started last is shown
async function search() {
  const file = chip.files[0], number = ++last;
  if (file && file.size > Number(form.dataset.limit))
    return say(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; at most ${form.dataset.limit / 2 ** 20} MB are taken. A chip is one ship, cropped tightly.`);
  results().classList.add("busy");
  try {
    const answer = await fetch(form.action, { method: "POST", body: new FormData(form) });
    const text = await answer.text();
    if (number !== last) return;
    if (answer.redirected) history.pushState(null, "", answer.url);
    else if (file) history.replaceState(null, "", form.action);
    show(text);
  } catch (error) {
    if (number === last) say("The server does not answer; is mos serve still running?");
  } finally {
    results().classList.remove("busy");
  }
}

form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
form.addEventListener("change", (event) => {
  if (form.reportValidity() && (event.target === chip ? chip.files.length : chip.files.length || form.elements.row)) search();
});
window.addEventListener("popstate", () => location.reload());

function take(files) {
  if (!files.length) return;
  const one = new DataTransfer();
  one.items.add(files[0]);
  chip.files = one.files;
  search();
}
for (const name of ["dragover", "drop", "dragleave"])
  window.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
window.addEventListener("paste", (event) => take(event.clipboardData.files));

let place = 0;
const looks = () => [...document.querySelectorAll(".hit:not(.query) .look")];
function pair(step) {
  const all = looks(), query = document.querySelector(".query .look");
  place = Math.min(Math.max(place + step, 0), all.length - 1);
  const shown = [query, all[place]].filter(Boolean), tallest = Math.max(...shown.map((look) => Number(look.dataset.metres)));
  dialog.querySelectorAll("figure").forEach((figure, side) => {
    const look = shown[side], image = figure.querySelector("img");
    figure.hidden = !look;
    if (!look) return;
    image.src = look.href;
    image.alt = look.querySelector("img").alt;
    image.style.height = `${(100 * Number(look.dataset.metres)) / tallest}%`; // both at one scale
    figure.querySelector("figcaption").replaceWith(look.closest("figure").querySelector("figcaption").cloneNode(true));
  });
  const [before, after] = dialog.querySelectorAll("button");
  before.disabled = place === 0;
  after.disabled = place >= all.length - 1;
}
document.addEventListener("click", (event) => {
  const look = event.target.closest(".look"), step = event.target.dataset.step;
  if (step !== undefined) return step === "0" ? dialog.close() : pair(Number(step));
  if (!look || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  place = Math.max(looks().indexOf(look), 0);
  pair(0);
  dialog.showModal();
});
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) pair(step);
});
