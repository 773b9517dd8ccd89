// Draws detections: as elements above the image on the page, and into a canvas for the image that is saved.

import { classColour, css, inkOn } from "./detections.js";

const MAX_SIDE = 16384; // pixels; larger canvases fail in browsers
const MAX_PIXELS = 100_000_000;

const caption = ({ name, score }) => `${name} ${score.toFixed(2)}`;

// One element a detection, placed in percent of the image, so that it scales with it. Worst first: the best are on top.
export function drawBoxes(layer, result, shown) {
  const percent = (value, whole) => `${(100 * Math.min(Math.max(value, 0), whole)) / whole}%`;
  const elements = shown.map((detection, index) => {
    const [x1, y1, x2, y2] = detection.box;
    const colour = classColour(detection.label);
    const box = document.createElement("div");
    box.className = "box";
    box.dataset.index = index;
    box.style.left = percent(x1, result.width);
    box.style.top = percent(y1, result.height);
    box.style.right = percent(result.width - x2, result.width);
    box.style.bottom = percent(result.height - y2, result.height);
    box.style.borderColor = css(colour);
    const label = document.createElement("span");
    label.textContent = caption(detection);
    label.style.backgroundColor = css(colour);
    label.style.color = inkOn(colour);
    box.append(label);
    return box;
  });
  layer.replaceChildren(...elements.reverse());
  placeLabels(layer);
}

// Where a label may be: its corner from the box, the label's size and the line's width; above comes first.
const PLACES = [
  ["", (box, w, h) => [box.left, box.top - h]],
  ["to-left", (box, w, h) => [box.right - w, box.top - h]],
  ["below", (box) => [box.left, box.bottom]],
  ["below to-left", (box, w) => [box.right - w, box.bottom]],
  ["inside", (box) => [box.left, box.top]],
  ["inside to-left", (box, w) => [box.right - w, box.top]],
];

// Puts each label where it is inside the image and covers no label of a better detection; hides it where it cannot.
// A hidden one shows when its box is highlighted. All sizes are read before anything is written: one layout.
export function placeLabels(layer) {
  const area = layer.getBoundingClientRect();
  const boxes = [...layer.children].reverse().map((box) => {
    const label = box.firstElementChild;
    return { label, rectangle: box.getBoundingClientRect(), width: label.offsetWidth, height: label.offsetHeight };
  });
  const taken = [];
  for (const { label, rectangle, width, height } of boxes) {
    const found = PLACES.find(([place, corner]) => {
      const [left, top] = corner(rectangle, width, height);
      const [right, bottom] = [left + width, top + height];
      const isRoomy = !place.startsWith("inside") || (rectangle.width >= width && rectangle.height >= 2 * height);
      const isInside = left >= area.left - 1 && right <= area.right + 1 && top >= area.top - 1 && bottom <= area.bottom + 1;
      const isFree = !taken.some((other) => left < other.right && right > other.left && top < other.bottom && bottom > other.top);
      const isGood = isRoomy && isInside && isFree;
      if (isGood) taken.push({ left, right, top, bottom });
      return isGood;
    });
    label.className = found ? found[0] : "covered";
  }
}

export function highlight(layer, index) {
  layer.classList.toggle("highlighted", index !== null);
  for (const box of layer.children) box.classList.toggle("active", Number(box.dataset.index) === index);
}

// The image with boxes as a Blob, at its own size unless a browser's canvas is too small for it: {blob, reduced}.
export async function renderImage(image, result, shown, type) {
  const side = Math.max(result.width, result.height);
  const ratio = Math.min(1, MAX_SIDE / side, Math.sqrt(MAX_PIXELS / (result.width * result.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(result.width * ratio));
  canvas.height = Math.max(1, Math.round(result.height * ratio));
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const line = Math.max(2, Math.round(Math.max(canvas.width, canvas.height) / 400));
  for (const detection of [...shown].reverse()) drawDetection(context, detection, ratio, line);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
  return { blob, reduced: ratio < 1 };
}

function drawDetection(context, detection, ratio, line) {
  const [x1, y1, x2, y2] = detection.box.map((value) => value * ratio);
  const colour = classColour(detection.label);
  const size = line * 6 + 2;
  context.lineWidth = line;
  context.strokeStyle = css(colour);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const text = caption(detection);
  const width = context.measureText(text).width + size * 0.6;
  const height = size * 1.35;
  const left = Math.max(0, Math.min(x1 - line / 2, context.canvas.width - width));
  const top = y1 >= height ? y1 - height : Math.max(0, y1);
  context.fillStyle = css(colour);
  context.fillRect(left, top, width, height);
  context.fillStyle = inkOn(colour);
  context.fillText(text, left + size * 0.3, top + height / 2);
}
