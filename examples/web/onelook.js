// What the page needs besides ONNX Runtime: the description of a model, the network's input, and its detections.
// No part of it is about one model: size, resizing, class names and thresholds are read from the file.

/** The fields of a Protocol Buffers message that have a length: [number, content], one after the other. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Error("The model is cut off.");
  };
  while (at < bytes.length) {
    const key = number();
    const kind = key % 8;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const size = number();
      if (at + size > bytes.length) throw new Error("The model is cut off.");
      yield [Math.floor(key / 8), bytes.subarray(at, at + size)];
      at += size;
    } else throw new Error("The file is not an ONNX model.");
  }
}

/** The description inside an ONNX file (Uint8Array): the entry "onelook" of its metadata, field 14 of the model. */
export function describe(file) {
  const text = new TextDecoder();
  for (const [field, entry] of fields(file)) {
    if (field !== 14) continue;
    const parts = new Map([...fields(entry)].map(([part, bytes]) => [part, text.decode(bytes)]));
    if (parts.get(1) !== "onelook") continue;
    const description = JSON.parse(parts.get(2));
    if (description.format !== 1) throw new Error("The model is of a newer format than this page reads.");
    return description;
  }
  throw new Error("The model was not made by `onelook export`.");
}

/** How boxes become detections: the settings of the file, or the defaults of Onelook. */
export function suppressionOf(description) {
  const own = description.detecting ?? {};
  const kind = own.kind ?? "iou";
  if (kind !== "iou" && kind !== "diou") throw new Error(`This page has no NMS of the kind ${kind}.`);
  const oneToOne = description.architecture.one_to_one === true;
  return {
    confidence: own.confidence ?? 0.25,
    iou: own.iou ?? 0.45,
    power: own.distance_power ?? 0.6,
    agnostic: own.agnostic ?? false,
    multiLabel: own.multi_label ?? description.multi_label,
    limit: own.limit ?? (oneToOne ? 300 : Infinity),
    pool: own.pool ?? Infinity,
    clip: own.clip ?? false,
    none: oneToOne,
    kind,
  };
}

/** The nearest whole number, of two the even one. */
function roundEven(value) {
  const low = Math.floor(value);
  const part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** For each output pixel of a line: the source pixels before and after it, and its place between them (0 to 1). */
function positions(source, size, aligned) {
  return Array.from({ length: size }, (_, i) => {
    let place = aligned ? (size > 1 ? i * ((source - 1) / (size - 1)) : 0) : (i + 0.5) * (source / size) - 0.5;
    if (aligned && i > 0 && i === size - 1) place = source - 1;
    place = Math.min(Math.max(place, 0), source - 1);
    const before = Math.min(Math.floor(place), Math.max(source - 2, 0));
    return [before, Math.min(before + 1, source - 1), place - before];
  });
}

/**
 * Bilinear: {data: RGBA bytes, width, height} -> RGBA bytes of the new size. Aligned: corner pixels on each other, in
 * floating point. Otherwise in the steps of OpenCV, whose weights are multiples of 1/2048: then the pixels are the same.
 */
export function resize(image, width, height, aligned) {
  if (image.width === width && image.height === height) return image.data;
  const columns = positions(image.width, width, aligned);
  const rows = positions(image.height, height, aligned);
  const result = new Uint8ClampedArray(width * height * 4);
  const blend = aligned ? blendExact : blendInSteps;
  const { data } = image;
  for (let y = 0, out = 0; y < height; y++) {
    const [above, below, down] = rows[y];
    const top = above * image.width * 4;
    const bottom = below * image.width * 4;
    for (let x = 0; x < width; x++, out += 4) {
      const left = columns[x][0] * 4;
      const right = columns[x][1] * 4;
      for (let c = 0; c < 3; c++) {
        const square = [data[top + left + c], data[top + right + c], data[bottom + left + c], data[bottom + right + c]];
        result[out + c] = blend(square, columns[x][2], down); // a clamped array rounds
      }
      result[out + 3] = 255;
    }
  }
  return result;
}

/** The value inside a square of pixels, `across` and `down` between 0 and 1. */
function blendExact([topLeft, topRight, bottomLeft, bottomRight], across, down) {
  const left = topLeft + (bottomLeft - topLeft) * down;
  const right = topRight + (bottomRight - topRight) * down;
  return left + (right - left) * across;
}

function blendInSteps([topLeft, topRight, bottomLeft, bottomRight], across, down) {
  const right = roundEven(Math.fround(across) * 2048);
  const left = roundEven(Math.fround(1 - Math.fround(across)) * 2048);
  const low = roundEven(Math.fround(down) * 2048);
  const high = roundEven(Math.fround(1 - Math.fround(down)) * 2048);
  const first = (high * ((topLeft * left + topRight * right) >> 4)) >> 16;
  const second = (low * ((bottomLeft * left + bottomRight * right) >> 4)) >> 16;
  return (first + second + 2) >> 2;
}

/** Where an image lies in the input: input pixel = image pixel * scale + offset; and its resized sides. */
export function place(description, image) {
  const [height, width] = description.size;
  const { frame } = description;
  if (frame.type === "Stretch") {
    return { scaleX: width / image.width, scaleY: height / image.height, left: 0, top: 0, width, height };
  }
  let ratio = Math.min(height / image.height, width / image.width);
  if (frame.longest !== null) ratio = Math.min(ratio, frame.longest / Math.max(image.width, image.height));
  if (!frame.enlarge) ratio = Math.min(ratio, 1);
  const centre = frame.anchor === "centre";
  if (frame.rounding === "whole" && frame.enlarge) {
    const isWide = width * image.height < height * image.width;
    const columns = isWide ? width : Math.max(1, Math.floor((image.width * height) / image.height));
    const rows = isWide ? Math.max(1, Math.floor((image.height * width) / image.width)) : height;
    const left = centre ? Math.floor((width - columns) / 2) : 0;
    const top = centre ? Math.floor((height - rows) / 2) : 0;
    return { scaleX: columns / image.width, scaleY: rows / image.height, left, top, width: columns, height: rows };
  }
  const whole = (side) => Math.max(1, frame.rounding === "round" ? roundEven(side) : Math.floor(side));
  const columns = whole(image.width * ratio);
  const rows = whole(image.height * ratio);
  const left = centre ? roundEven((width - columns) / 2 - 0.1) : 0;
  const top = centre ? roundEven((height - rows) / 2 - 0.1) : 0;
  return { scaleX: ratio, scaleY: ratio, left, top, width: columns, height: rows };
}

/** The input (batch, 3, height, width) as Float32Array, RGB, 0..255, of {data: RGBA bytes, width, height}. */
export function toInput(description, image, placement) {
  const [height, width] = description.size;
  const { frame } = description;
  const chosen = (placement.scaleX < 1 && frame.shrink) || frame.interpolation;
  if (chosen !== "linear" && chosen !== "linear_aligned") throw new Error(`This page cannot resize by ${chosen}.`);
  const inner = resize(image, placement.width, placement.height, chosen === "linear_aligned");
  const area = width * height;
  const input = new Float32Array((description.batch ?? 1) * 3 * area);
  if (frame.type !== "Stretch") input.fill(frame.fill, 0, 3 * area);
  for (let y = 0, from = 0; y < placement.height; y++) {
    let to = (y + placement.top) * width + placement.left;
    for (let x = 0; x < placement.width; x++, from += 4, to++) {
      for (let c = 0; c < 3; c++) input[c * area + to] = inner[from + c];
    }
  }
  return input;
}

function overlap(a, b, chosen) {
  const area = (box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = width * height;
  const iou = shared / Math.max(area(a) + area(b) - shared, 1e-300);
  if (chosen.kind === "iou") return iou;
  const distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2;
  const across = Math.max(a[2], b[2]) - Math.min(a[0], b[0]);
  const down = Math.max(a[3], b[3]) - Math.min(a[1], b[1]);
  return iou - (distance / Math.max(across ** 2 + down ** 2, 1e-300)) ** chosen.power;
}

/** Detections of boxes (rows * 4) and scores (rows * classes): best first, in pixels of the input. */
export function suppress(boxes, scores, rows, chosen) {
  const classes = rows ? scores.length / rows : 0;
  const found = [];
  const least = Math.fround(chosen.confidence);
  for (let row = 0; row < rows; row++) {
    const box = boxes.subarray(row * 4, row * 4 + 4);
    if (!box.every(Number.isFinite)) continue;
    const own = scores.subarray(row * classes, (row + 1) * classes);
    let best = 0;
    for (let label = 0; label < classes; label++) {
      if (chosen.multiLabel && own[label] >= least) found.push({ box, score: own[label], label });
      if (own[label] > own[best]) best = label;
    }
    if (!chosen.multiLabel && own[best] >= least) found.push({ box, score: own[best], label: best });
  }
  found.sort((a, b) => b.score - a.score); // equal scores keep their order
  const kept = [];
  for (const one of found.slice(0, chosen.pool)) {
    if (kept.length >= chosen.limit) break;
    const hides = (other) =>
      (chosen.agnostic || other.label === one.label) && overlap(one.box, other.box, chosen) > chosen.iou;
    if (chosen.none || !kept.some(hides)) kept.push(one);
  }
  return kept;
}

/** Detections with boxes in pixels of the image, and the names of their classes. */
export function toImage(found, description, placement, image, clip) {
  const { left, top, scaleX, scaleY } = placement;
  return found.map(({ box, score, label }) => {
    let sides = [(box[0] - left) / scaleX, (box[1] - top) / scaleY, (box[2] - left) / scaleX, (box[3] - top) / scaleY];
    if (clip) sides = sides.map((side, i) => Math.min(Math.max(side, 0), i % 2 ? image.height : image.width));
    return { box: sides, score, label, name: description.names[label] ?? String(label) };
  });
}

/** A model (Uint8Array) that is ready to run: `detect({data, width, height})` -> detections. */
export async function load(ort, file) {
  const description = describe(file);
  const suppression = suppressionOf(description);
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  const [height, width] = description.size;
  async function detect(image) {
    const placement = place(description, image);
    const input = toInput(description, image, placement);
    const images = new ort.Tensor("float32", input, [description.batch ?? 1, 3, height, width]);
    const outputs = await session.run({ images });
    const boxes = outputs.boxes.data;
    const scores = outputs.scores.data;
    let found;
    if (description.outputs === "detections") {
      const labels = outputs.labels.data;
      found = Array.from({ length: Number(outputs.count.data[0]) }, (_, row) => {
        return { box: boxes.subarray(row * 4, row * 4 + 4), score: scores[row], label: Number(labels[row]) };
      });
    } else {
      const [, rows, classes] = outputs.scores.dims;
      found = suppress(boxes.subarray(0, rows * 4), scores.subarray(0, rows * classes), rows, suppression);
    }
    return toImage(found, description, placement, image, suppression.clip);
  }
  return { description, detect };
}
