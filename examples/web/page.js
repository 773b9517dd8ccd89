// The page: loads `model.onnx` beside it (or ?model=FILE), detects on chosen or dropped images (or ?image=FILE), and
// shows them. The detections are one line of JSON for each image, in the element "json".
import * as ort from "./ort.wasm.bundle.min.mjs";
import { load } from "./onelook.js";

ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", location.href).href };
ort.env.wasm.numThreads = 1; // several need headers of the server that isolate the page
const element = (id) => document.getElementById(id);
const address = new URLSearchParams(location.search);
let model = null;
let last = Promise.resolve();

function say(text, state) {
  element("status").textContent = text;
  element("status").className = state === "error" ? "error" : "";
  document.body.dataset.state = state;
}

/** Runs one piece of work after the other; what fails is said. */
function next(work) {
  last = last.then(work).catch((error) => say(error.message, "error"));
  return last;
}

async function open(bytes, name) {
  say(`Loading ${name} ...`, "busy");
  model = null;
  model = await load(ort, bytes);
  const [height, width] = model.description.size;
  const classes = model.description.num_classes;
  say(`${model.description.model}, ${width} x ${height}, ${classes === 1 ? "1 class" : `${classes} classes`}.`, "ready");
}

async function fetched(path) {
  const address = new URL(path, location.href);
  if (address.origin !== location.origin) throw new Error("Only files of this site are opened.");
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`There is no ${path} here.`);
  return answer.blob();
}

async function detect(blob, name) {
  if (model === null) throw new Error("Choose a model first.");
  say(`Looking at ${name} ...`, "busy");
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(blob, options).catch(() => {
    throw new Error(`${name} is not an image that this browser reads.`);
  });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const drawing = canvas.getContext("2d", { willReadFrequently: true });
  drawing.drawImage(bitmap, 0, 0);
  bitmap.close();
  const image = drawing.getImageData(0, 0, canvas.width, canvas.height);
  const start = performance.now();
  const detections = await model.detect(image);
  const milliseconds = Math.round(performance.now() - start);
  draw(drawing, detections);
  show(canvas, name, detections, milliseconds);
  const line = { source: name, width: canvas.width, height: canvas.height, detections };
  element("json").textContent += `${JSON.stringify(line)}\n`;
  element("lines").hidden = false;
}

const colourOf = (label) => `hsl(${(label * 137.5 + 210) % 360} 75% 42%)`;

function draw(drawing, detections) {
  const { width, height } = drawing.canvas;
  const unit = Math.max(width, height) / 400;
  drawing.lineWidth = Math.max(2, 1.2 * unit);
  drawing.font = `600 ${Math.max(12, 7 * unit)}px system-ui, sans-serif`;
  drawing.textBaseline = "top";
  for (const { box, score, label, name } of [...detections].reverse()) {
    const [left, top, right, bottom] = box;
    drawing.strokeStyle = drawing.fillStyle = colourOf(label);
    drawing.strokeRect(left, top, right - left, bottom - top);
    const text = `${name} ${score.toFixed(2)}`;
    const line = Math.max(12, 7 * unit) * 1.35;
    const room = drawing.measureText(text).width + 6;
    const x = Math.min(Math.max(left, 0), Math.max(width - room, 0));
    const y = top >= line ? top - line : Math.max(top, 0);
    drawing.fillRect(x, y, room, line);
    drawing.fillStyle = "#fff";
    drawing.fillText(text, x + 3, y + line * 0.14);
  }
}

function show(canvas, name, detections, milliseconds) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const title = document.createElement("b");
  title.textContent = name;
  const count = document.createElement("span");
  const objects = detections.length === 1 ? "1 object" : `${detections.length} objects`;
  count.textContent = ` ${detections.length ? objects : "nothing found"}, ${milliseconds} ms`;
  const list = document.createElement("ul");
  for (const one of detections) {
    const item = document.createElement("li");
    item.textContent = `${one.name} ${one.score.toFixed(2)}`;
    item.style.borderLeftColor = colourOf(one.label);
    list.append(item);
  }
  caption.append(title, count, list);
  figure.append(canvas, caption);
  element("results").prepend(figure);
}

function look(files) {
  for (const file of files) next(() => detect(file, file.name));
  next(() => document.body.dataset.state === "error" || say("Done.", "done"));
}

element("images").addEventListener("change", (event) => look(event.target.files));
element("model").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) next(async () => open(new Uint8Array(await file.arrayBuffer()), file.name));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.body.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") look(event.dataTransfer.files);
  });
}

const file = address.get("model") ?? "model.onnx";
next(async () => open(new Uint8Array(await (await fetched(file)).arrayBuffer()), file));
for (const name of address.getAll("image")) next(async () => detect(await fetched(name), name));
if (address.has("image")) next(() => document.body.dataset.state === "error" || say("Done.", "done"));
