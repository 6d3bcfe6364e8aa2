"use strict";
// Filter and pager. The state lives in the fragment (#q=...&rejects=1&page=2), so that a view can be linked and reloaded.
const find = (id) => document.getElementById(id);
const cards = Array.from(document.querySelectorAll(".sample"), (element) => ({
  element,
  rejected: element.dataset.rejects !== "0",
  text: Array.from(element.querySelectorAll(".key, .shard, .caption.words, .caption .full"), (part) => part.textContent)
    .join("\n").toLowerCase(),
}));
const pageSize = Number(find("samples").dataset.pageSize);
let page = 1;

function show() {
  const words = find("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = cards.filter((card) =>
    (card.rejected || !find("rejects").checked) && words.every((word) => card.text.includes(word)));
  const pages = Math.max(1, Math.ceil(matching.length / pageSize));
  page = Math.min(Math.max(1, page), pages);
  const visible = new Set(matching.slice((page - 1) * pageSize, page * pageSize));
  for (const card of cards) card.element.hidden = !visible.has(card);
  find("shown").textContent = matching.length === cards.length ? "" : `${matching.length} of ${cards.length}`;
  find("page").textContent = `${page} / ${pages}`;
  find("previous").disabled = page === 1;
  find("next").disabled = page === pages;
  find("nothing").hidden = matching.length > 0;
}

function save() {
  const state = new URLSearchParams();
  if (find("query").value) state.set("q", find("query").value);
  if (find("rejects").checked) state.set("rejects", "1");
  if (page > 1) state.set("page", String(page));
  history.replaceState(null, "", `#${state}`);
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  find("query").value = state.get("q") ?? "";
  find("rejects").checked = state.get("rejects") === "1";
  page = Number(state.get("page")) || 1;
  show();
}

function turn(step) {
  page += step;
  show();
  save();
  window.scrollTo(0, 0);
}

for (const id of ["query", "rejects"]) find(id).addEventListener("input", () => { page = 1; show(); save(); });
find("previous").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
find("bar").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); find("query").focus(); }
  if (event.key === "ArrowLeft" && !find("previous").disabled) turn(-1);
  if (event.key === "ArrowRight" && !find("next").disabled) turn(1);
});
window.addEventListener("hashchange", restore);
find("bar").hidden = false;
restore();
