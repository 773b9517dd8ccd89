// Asks for the content every two seconds, and replaces it where it has changed.
"use strict";
const content = document.getElementById("content");
let shown = "";
let failures = 0;

async function update() {
  try {
    const answer = await fetch("content", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    failures = 0;
    if (text !== shown) content.innerHTML = shown = text;
  } catch {
    failures += 1;
  }
  document.body.classList.toggle("lost", failures > 1);
  if (content.querySelector("[data-over]")) return; // nothing follows
  setTimeout(update, 2000);
}

setTimeout(update, 2000);
