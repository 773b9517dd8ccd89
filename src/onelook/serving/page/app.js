// The page: one image, the server's answer, and what is shown of it. Every text of files, users and the server goes
// through `textContent` and attributes: none of it is ever HTML.

import { drawBoxes, placeLabels, renderImage } from "./boxes.js";
import { CameraError, connectCamera } from "./camera.js";
import { classColour, countClasses, css, LOWEST_THRESHOLD, summary, toSave, visible } from "./detections.js";
import { connectFiles } from "./files.js";
import { connectList } from "./list.js";
import { detect, fetchModels, ServerError, setToken } from "./server.js";

const ids = [...document.querySelectorAll("[id]")].map((element) => [element.id.replace(/-(\w)/g, (_, c) => c.toUpperCase()), element]);
const page = Object.fromEntries(ids); // elements by id: page.modelFacts is #model-facts
const MIN_SHOWN_SIDE = 320; // CSS pixels: smaller images are enlarged

const state = {
  models: [], // {name, version, ...} of the chooser, one a version
  file: null, // the image
  decoded: false, // whether the browser can show it
  answer: null, // the server's, at the lowest threshold
  shown: [], // its detections above the threshold, of the chosen classes
  hiddenClasses: new Set(), // labels
  thresholdMoved: false, // by the user: before that it is the model's
  note: "", // about the image, under it
  request: null, // AbortController of the one under way
  again: null, // what the button "Try again" does
};

const result = () => state.answer?.results[0] ?? null;
const threshold = () => Number(page.threshold.value);
const list = connectList(page);

// ---- messages

function showError(error, again) {
  state.again = again;
  page.errorMessage.textContent = error.message;
  page.errorRemedy.textContent = error.remedy ?? "";
  page.errorCode.textContent = error.code ? `Error ${error.code}` : "";
  page.retry.hidden = !again;
  page.error.hidden = false;
  if (error.status === 401) {
    page.tokenForm.hidden = false;
    page.token.focus();
  }
}

function clearError() {
  page.error.hidden = true;
}

// Screen readers speak the status: the slider changes it once it rests, a live camera not at all.
let statusTimer = 0;
function setStatus(text, delay = 0) {
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => (page.status.textContent = text), delay);
}

const isOwnError = (error) => error instanceof ServerError || error instanceof CameraError;

// ---- models

async function loadModels() {
  clearError();
  try {
    const models = await fetchModels();
    state.models = models.flatMap((model) => {
      const versions = model.versions?.length ? model.versions : [model.version];
      return versions.map((version) => ({ ...model, version, several: versions.length > 1, default: model.default && version === model.version }));
    });
    showModels();
  } catch (error) {
    if (!isOwnError(error)) throw error;
    page.model.replaceChildren(new Option("No models"));
    showError(error, loadModels);
  }
}

function showModels() {
  const options = state.models.map((model, index) => {
    const name = model.several ? `${model.name} (version ${model.version})` : model.name;
    const option = new Option(model.ready === false ? `${name}: not ready` : name, String(index), model.default, model.default);
    option.disabled = model.ready === false;
    return option;
  });
  const ready = options.some((option) => !option.disabled);
  page.model.replaceChildren(...(options.length ? options : [new Option("No models")]));
  page.model.disabled = !ready;
  if (!ready) showError({ message: "The server has no model that is ready.", remedy: "Load a model on the server, then try again." }, loadModels);
  else if (page.model.selectedOptions[0]?.disabled) page.model.value = options.find((option) => !option.disabled).value;
  modelChosen();
}

function modelChosen() {
  const model = state.models[Number(page.model.value)];
  const [height, width] = model?.size ?? [];
  const facts = [
    model?.variant,
    height && (height === width ? `${height} × ${width} pixels` : `${width} × ${height} pixels`),
    model?.classes && `${model.classes.length} ${model.classes.length === 1 ? "class" : "classes"}`,
    [model?.runtime, model?.precision].filter(Boolean).join(", "),
  ];
  page.modelFacts.textContent = facts.filter(Boolean).join(" · ");
  if (!state.thresholdMoved && model?.threshold > 0) page.threshold.value = String(model.threshold);
  showThreshold();
}

// ---- one image

// Shows a file and asks the server once. `live`: a frame of the camera, shown when it is answered; errors are thrown, too.
async function useFile(file, { live = false, note = "" } = {}) {
  if (file.type && !file.type.startsWith("image/")) {
    showError({ message: `${file.name} is not an image (${file.type}).`, remedy: "Choose an image file, such as JPEG, PNG or WebP." });
    return;
  }
  state.note = note;
  state.request?.abort();
  const request = (state.request = new AbortController());
  const model = state.models[Number(page.model.value)];
  const choice = { model: model?.name, version: model?.version, threshold: LOWEST_THRESHOLD };
  const answered = detect(file, choice, request.signal);
  answered.catch(() => {}); // awaited below; until then it is not unhandled
  if (!live) {
    forget(file);
    setStatus("Detecting objects");
  }
  page.results.setAttribute("aria-busy", "true");
  try {
    const image = await decode(file);
    if (request.signal.aborted) return release(image);
    if (!live) showImage(file, image);
    const answer = await answered;
    if (request.signal.aborted) return release(image);
    if (live) showImage(file, image);
    clearError();
    page.tokenForm.hidden = true;
    showAnswer(answer, live);
  } catch (error) {
    if (request.signal.aborted) return;
    if (!isOwnError(error)) throw error;
    if (!live) setStatus("No detections: the request failed.");
    if (!live && !state.decoded) showNoImage(); // neither the browser nor the server can read it
    showError(error, () => useFile(file));
    if (live) throw error;
  } finally {
    if (state.request === request) {
      state.request = null;
      page.results.removeAttribute("aria-busy");
    }
  }
}

// Removes what was shown of the image before.
function forget(file) {
  clearError();
  Object.assign(state, { file, answer: null, shown: [] });
  page.timings.textContent = "";
  page.classesField.hidden = true;
  render();
}

// The image as an element of its own, upright as its EXIF data say, or null where the browser cannot read the format.
async function decode(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return image;
  } catch {
    URL.revokeObjectURL(image.src);
    return null;
  }
}

function release(image) {
  if (image) URL.revokeObjectURL(image.src);
}

function showImage(file, image) {
  state.file = file;
  if (state.decoded) URL.revokeObjectURL(page.image.src);
  state.decoded = image !== null;
  page.stage.hidden = false;
  page.empty.hidden = true;
  page.image.hidden = image === null;
  page.frame.classList.toggle("without-image", image === null);
  page.frame.removeAttribute("style");
  if (image) {
    page.image.src = image.src;
    const side = Math.max(image.naturalWidth, image.naturalHeight);
    page.image.style.width = side < MIN_SHOWN_SIDE ? `${(image.naturalWidth * MIN_SHOWN_SIDE) / side}px` : "";
    page.image.classList.toggle("enlarged", side < MIN_SHOWN_SIDE / 2);
  } else {
    page.image.removeAttribute("src");
  }
  page.caption.textContent = [file.name, state.note].filter(Boolean).join(" · ");
}

function showNoImage() {
  page.stage.hidden = true;
  page.empty.hidden = false;
}

function showAnswer(answer, live) {
  state.answer = answer;
  const { width, height } = result();
  if (!state.decoded) page.frame.style.aspectRatio = `${width} / ${height}`;
  const unreadable = state.decoded ? "" : "this browser cannot show the format: boxes are drawn on an empty frame";
  page.caption.textContent = [state.file.name, `${width} × ${height} pixels`, state.note, unreadable].filter(Boolean).join(" · ");
  const times = Object.entries(answer.timings_ms ?? {}).filter(([, ms]) => typeof ms === "number");
  page.timings.textContent = times.length ? `Server: ${times.map(([stage, ms]) => `${stage} ${ms.toFixed(1)} ms`).join(", ")}` : "";
  showClasses();
  page.status.setAttribute("aria-live", live ? "off" : "polite");
  render();
}

// ---- threshold, classes, list

function showThreshold() {
  page.thresholdValue.textContent = threshold().toFixed(2);
}

function showClasses() {
  const classes = countClasses(result()?.detections ?? [], threshold());
  page.classesField.hidden = !classes.length;
  const focused = page.classes.contains(document.activeElement) ? document.activeElement.value : null;
  const labels = classes.map(({ label, name, count }) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = String(label);
    box.checked = !state.hiddenClasses.has(label);
    const swatch = document.createElement("i");
    swatch.style.backgroundColor = css(classColour(label));
    const text = document.createElement("span");
    text.textContent = `${name} ${count}`;
    const chip = document.createElement("label");
    chip.className = "check chip";
    chip.classList.toggle("zero", count === 0);
    chip.append(box, swatch, text);
    return chip;
  });
  page.classes.replaceChildren(...labels);
  if (focused !== null) page.classes.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
}

function render(delay = 0) {
  const image = result();
  state.shown = image ? visible(image.detections, threshold(), state.hiddenClasses) : [];
  if (image) {
    drawBoxes(page.boxes, image, state.shown);
    const text = summary(state.shown, image.detections.length);
    setStatus(text, delay);
    page.image.alt = `${state.file.name}. ${text}`;
  } else {
    page.boxes.replaceChildren();
    page.image.alt = state.file?.name ?? "";
  }
  list.show(state.shown);
  page.saveJson.disabled = !image;
  page.saveImage.disabled = !image || !state.decoded;
}

// The smallest box at a point of the image: a small object in front of a large one can be chosen, too.
page.frame.addEventListener("click", (event) => {
  const image = result();
  const area = page.frame.getBoundingClientRect();
  if (!image) return;
  const x = ((event.clientX - area.left) / area.width) * image.width;
  const y = ((event.clientY - area.top) / area.height) * image.height;
  const size = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const hit = state.shown.filter(({ box: [x1, y1, x2, y2] }) => x >= x1 && x <= x2 && y >= y1 && y <= y2);
  hit.sort((a, b) => size(a.box) - size(b.box));
  list.select(hit.length ? state.shown.indexOf(hit[0]) : null);
});

page.threshold.addEventListener("input", () => {
  state.thresholdMoved = true;
  showThreshold();
  showClasses();
  render(400);
});
page.classes.addEventListener("change", (event) => {
  const label = Number(event.target.value);
  if (event.target.checked) state.hiddenClasses.delete(label);
  else state.hiddenClasses.add(label);
  render();
});
page.allClasses.addEventListener("click", () => chooseClasses(() => false));
page.noClasses.addEventListener("click", () => chooseClasses(() => true));

function chooseClasses(hide) {
  const labels = (result()?.detections ?? []).map(({ label }) => label);
  state.hiddenClasses = new Set(labels.filter(hide));
  showClasses();
  render();
}

page.model.addEventListener("change", () => {
  state.hiddenClasses.clear(); // labels mean other classes in another model
  modelChosen();
  if (state.file && !camera.isLive()) void useFile(state.file);
});
page.retry.addEventListener("click", () => state.again?.());
page.actualSize.addEventListener("change", () => {
  page.viewport.classList.toggle("actual", page.actualSize.checked);
  page.viewport.tabIndex = page.actualSize.checked ? 0 : -1; // scrolled by keyboard
});

page.tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const token = page.token.value.trim();
  page.token.setCustomValidity(/^[\x21-\x7e]+$/.test(token) ? "" : "A token has letters, digits and signs of ASCII, and no spaces.");
  if (!page.token.reportValidity()) return;
  setToken(token);
  page.token.value = "";
  page.tokenForm.hidden = true;
  void (async () => {
    if (!state.models.length) await loadModels();
    if (state.file && state.models.length) await useFile(state.file);
  })();
});
page.token.addEventListener("input", () => page.token.setCustomValidity(""));

// ---- files out

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stem = () => state.file.name.replace(/\.[^.]*$/, "") || "image";

page.saveJson.addEventListener("click", () => {
  const text = JSON.stringify(toSave(state.answer, state.file.name, state.shown, threshold()), null, 2);
  save(new Blob([text + "\n"], { type: "application/json" }), `${stem()}.json`);
  setStatus(`Saved ${stem()}.json.`);
});
page.saveImage.addEventListener("click", async () => {
  const [type, suffix] = state.file.type === "image/jpeg" ? ["image/jpeg", "jpg"] : ["image/png", "png"];
  const { blob, reduced } = await renderImage(page.image, result(), state.shown, type);
  if (!blob) return showError({ message: "The browser could not draw an image of this size.", remedy: "Ask the server for the drawn image: POST v1/detect with 'Accept: image/jpeg'." });
  save(blob, `${stem()}_detections.${suffix}`);
  setStatus(`Saved ${stem()}_detections.${suffix}${reduced ? ", reduced to the largest size that a browser can draw" : ""}.`);
});

// ---- images in

const camera = connectCamera(page, { useFile, showError, clearError });
connectFiles(page, {
  useFile: (file, options) => {
    camera.stop();
    return useFile(file, options);
  },
  showError,
});
new ResizeObserver(() => placeLabels(page.boxes)).observe(page.boxes);

void loadModels();
