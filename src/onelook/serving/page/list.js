// The list of detections: rows and boxes highlight each other, by mouse, finger and keyboard.

import { highlight } from "./boxes.js";
import { classColour, css } from "./detections.js";

function listRow(detection, index) {
  const row = document.createElement("div");
  row.id = `detection-${index}`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", "false");
  const swatch = document.createElement("i");
  swatch.style.backgroundColor = css(classColour(detection.label));
  const name = document.createElement("b");
  name.textContent = detection.name;
  const score = document.createElement("span");
  score.textContent = detection.score.toFixed(2);
  const box = document.createElement("span");
  box.className = "muted small";
  const [x1, y1, x2, y2] = detection.box.map(Math.round);
  box.textContent = `${x1}, ${y1} to ${x2}, ${y2}`;
  row.append(swatch, name, score, box);
  return row;
}

// Scrolls the list alone: the page stays where it is, so the image does not leave a small screen.
function reveal(list, row) {
  const [outer, inner] = [list.getBoundingClientRect(), row.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

// Returns {show, select}: `show` fills the list with detections, `select` takes the index of one of them, or null.
export function connectList(page) {
  const { list, listHelp, boxes } = page;
  let selected = null;

  function show(detections) {
    list.replaceChildren(...detections.map(listRow));
    list.hidden = listHelp.hidden = !detections.length;
    select(null);
  }

  function select(index) {
    if (selected !== null) list.children[selected]?.setAttribute("aria-selected", "false");
    selected = index;
    const row = index === null ? null : list.children[index];
    row?.setAttribute("aria-selected", "true");
    if (row) reveal(list, row);
    if (row) list.setAttribute("aria-activedescendant", row.id);
    else list.removeAttribute("aria-activedescendant");
    highlight(boxes, index);
  }

  const rowIndex = (event) => {
    const row = event.target.closest("[role=option]");
    return row ? [...list.children].indexOf(row) : null;
  };

  list.addEventListener("click", (event) => {
    const index = rowIndex(event);
    if (index !== null) select(index === selected ? null : index);
  });
  list.addEventListener("pointerover", (event) => event.pointerType === "mouse" && highlight(boxes, rowIndex(event) ?? selected));
  list.addEventListener("pointerleave", () => highlight(boxes, selected));
  list.addEventListener("keydown", (event) => {
    const last = list.children.length - 1;
    const at = selected ?? -1;
    const moves = {
      ArrowDown: Math.min(at + 1, last),
      ArrowUp: Math.max(at - 1, 0),
      Home: 0,
      End: last,
      PageDown: Math.min(at + 10, last),
      PageUp: Math.max(at - 10, 0),
      Escape: null,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    select(moves[event.key]);
  });
  return { show, select };
}
