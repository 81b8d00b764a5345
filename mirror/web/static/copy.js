// Copy buttons beside every `[data-copy]`. Without this script the texts are selected by hand; nothing else needs it.
"use strict";
const said = document.createElement("p");
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);

function select(node) {
  const range = document.createRange();
  range.selectNodeContents(node);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

async function copy(node, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    // Plain http from another machine has no clipboard: the old way, and at worst the text stays selected.
    select(node);
    done = document.execCommand("copy");
  }
  said.textContent = done ? "Copied" : "Selected, press Ctrl C";
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 1600);
}

for (const node of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${node.textContent.slice(0, 120)}`);
  button.addEventListener("click", () => copy(node, button));
  node.after(button);
}
