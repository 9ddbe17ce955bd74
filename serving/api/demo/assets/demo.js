// Marks what is new and what moved on each shelf since this tab showed it to the same visitor last. What was shown lies
// in the tab's own storage; no page needs this script to work.
"use strict";

const visitor = document.body.dataset.visitor;

function mark(card, before, now) {
  const moved = before < 0 ? "new" : before > now ? `▲ ${before - now}` : before < now ? `▼ ${now - before}` : "";
  if (!moved) return "";
  const badge = document.createElement("span");
  badge.className = before < 0 ? "mark fresh" : "mark";
  badge.textContent = moved;
  if (before >= 0) badge.title = `was number ${before + 1}`;
  card.prepend(badge);
  return before < 0 ? "new" : "moved";
}

for (const shelf of document.querySelectorAll("[data-shelf]")) {
  const key = `recsys ${visitor} ${shelf.dataset.shelf}`;
  const cards = [...shelf.querySelectorAll("[data-item]")];
  const items = cards.map((card) => card.dataset.item);
  const before = JSON.parse(sessionStorage.getItem(key) ?? "null");
  sessionStorage.setItem(key, JSON.stringify(items));
  if (!before) continue;
  const found = cards.map((card, place) => mark(card, before.indexOf(items[place]), place));
  const count = (kind) => found.filter((one) => one === kind).length;
  const told = ["new", "moved"].filter(count).map((kind) => `${count(kind)} ${kind}`);
  if (!told.length) continue;
  const line = shelf.parentElement.querySelector(".changes");
  line.textContent = `${told.join(", ")} since the last page`;
  line.hidden = false;
}

// A reload must not say again what was done once.
const address = new URL(location);
address.searchParams.delete("notice");
address.searchParams.delete("done");
history.replaceState(null, "", address);
