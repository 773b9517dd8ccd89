// The gallery of `onelook view`: filters, pages, and boxes over images. All data is in the page; images are files beside it.
"use strict";
(() => {
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const arrays = {};
  const typed = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, f32: Float32Array };
  for (const [name, kind] of Object.entries(meta.arrays)) {
    const text = atob(document.getElementById("array-" + name).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    arrays[name] = new typed[kind](bytes.buffer);
  }
  const count = meta.files.length, perPage = 48;
  const find = (id) => document.getElementById(id);
  const make = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const colour = (label) => `hsl(${(209 + label * 222.5) % 360} 85% ${[50, 62, 40, 70][Math.floor(label / 8) % 4]}%)`;
  const choose = (select, rows) => rows.forEach(([value, text]) => select.add(new Option(text, value)));

  choose(find("class"), [["", "all classes"], ...meta.names.map((name, label) => [label, name])]);
  choose(find("split"), [["", "all splits"], ...meta.splits.map((split, number) => [number, split.name])]);
  choose(find("size"), [["", "objects of all sizes"], ["0", "small objects"], ["1", "medium objects"], ["2", "large objects"], ["3", "no objects"]]);
  choose(find("problem"), [["", "with and without problems"], ["any", "with any problem"], ...meta.problems.map((code, bit) => [bit, code])]);
  choose(find("order"), [["", "in order"], ["loss", "highest loss first"], ["objects", "most objects first"]]);
  if (meta.detections) {
    choose(find("mistake"), [["", "right and wrong"], ["fp", "false positives"], ["miss", "misses"], ["suspect", "suspect labels"]]);
  } else {
    find("mistake").hidden = find("legend").hidden = true;
    find("order").options[1].disabled = true;
  }

  const sizeOf = (image, object) => {
    const b = 4 * object;
    const side = Math.sqrt(((arrays.boxes[b + 2] - arrays.boxes[b]) / 65535) * ((arrays.boxes[b + 3] - arrays.boxes[b + 1]) / 65535)
      * arrays.widths[image] * arrays.heights[image]);
    return side < 32 ? "0" : side < 96 ? "1" : "2";
  };
  const some = (from, to, test) => { for (let k = from; k < to; k++) if (test(k)) return true; return false; };
  const passes = (image, wanted) => {
    if (wanted.split !== "" && arrays.split[image] !== +wanted.split) return false;
    if (wanted.problem === "any" && !arrays.problems[image]) return false;
    if (wanted.problem !== "" && wanted.problem !== "any" && !(arrays.problems[image] & (1 << +wanted.problem))) return false;
    if (wanted.text && !meta.files[image].toLowerCase().includes(wanted.text)) return false;
    const from = arrays.offsets[image], to = arrays.offsets[image + 1];
    if (wanted.size === "3") { if (to > from) return false; }
    else if (wanted.size !== "" && !some(from, to, (k) => sizeOf(image, k) === wanted.size)) return false;
    const first = meta.detections ? arrays.foundOffsets[image] : 0, last = meta.detections ? arrays.foundOffsets[image + 1] : 0;
    const label = wanted.label === "" ? -1 : +wanted.label;
    const ofClass = (labels) => (k) => label < 0 || labels[k] === label;
    if (wanted.mistake === "fp") return some(first, last, (k) => arrays.foundRight[k] === 0 && ofClass(arrays.foundLabels)(k));
    if (wanted.mistake === "miss") return some(from, to, (k) => (arrays.flags[k] & 2) && ofClass(arrays.labels)(k));
    if (wanted.mistake === "suspect" && !arrays.suspect[image]) return false;
    return label < 0 || some(from, to, ofClass(arrays.labels)) || some(first, last, ofClass(arrays.foundLabels || []));
  };

  let shown = [], page = 0;
  const filter = () => {
    const wanted = { label: find("class").value, split: find("split").value, size: find("size").value,
      problem: find("problem").value, mistake: find("mistake").value, text: find("text").value.toLowerCase() };
    shown = [];
    for (let image = 0; image < count; image++) if (passes(image, wanted)) shown.push(image);
    const order = find("order").value;
    if (order === "loss") shown.sort((a, b) => arrays.loss[b] - arrays.loss[a] || a - b);
    if (order === "objects") {
      const objects = (image) => arrays.offsets[image + 1] - arrays.offsets[image];
      shown.sort((a, b) => objects(b) - objects(a) || a - b);
    }
    page = 0;
    draw();
  };

  const messages = new Map(meta.messages);
  const address = (image) => meta.served ? `image/${image}` : meta.splits[arrays.split[image]].root + meta.files[image].split("/").map(encodeURIComponent).join("/");
  const svg = (tag, values) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
    return made;
  };
  const box = (values, k, image, stroke, dash, name) => {
    const w = arrays.widths[image] / 65535, h = arrays.heights[image] / 65535, b = 4 * k;
    const made = svg("rect", { x: values[b] * w, y: values[b + 1] * h, width: (values[b + 2] - values[b]) * w,
      height: (values[b + 3] - values[b + 1]) * h, fill: "none", stroke, "stroke-width": 2, "vector-effect": "non-scaling-stroke" });
    if (dash) made.setAttribute("stroke-dasharray", dash);
    const title = svg("title", {});
    title.textContent = name;
    made.append(title);
    made.style.pointerEvents = "all";
    return made;
  };
  const overlay = (image, side) => {
    const made = svg("svg", { viewBox: `0 0 ${arrays.widths[image]} ${arrays.heights[image]}`, preserveAspectRatio: "xMidYMid meet" });
    const names = new Map();
    if (side !== "found") {
      for (let k = arrays.offsets[image]; k < arrays.offsets[image + 1]; k++) {
        const label = arrays.labels[k], missed = arrays.flags[k] & 2, crowd = arrays.flags[k] & 1;
        const faulty = arrays.flags[k] & 4;
        const stroke = meta.detections && arrays.evaluated[image] ? (missed ? "#e11d2e" : "#2ea043") : faulty ? "#e11d2e" : colour(label);
        const said = (crowd ? " (crowd)" : "") + (missed ? ": missed" : faulty ? ": faulty" : "");
        made.append(box(arrays.boxes, k, image, stroke, crowd ? "2 3" : missed ? "6 4" : faulty ? "3 2" : "", meta.names[label] + said));
        names.set(label, (names.get(label) || 0) + 1);
      }
    } else {
      for (let k = arrays.foundOffsets[image]; k < arrays.foundOffsets[image + 1]; k++) {
        const label = arrays.foundLabels[k], right = arrays.foundRight[k];
        const score = (arrays.foundScores[k] / 255).toFixed(2);
        made.append(box(arrays.foundBoxes, k, image, right === 1 ? "#2ea043" : right === 0 ? "#e8590c" : "#8a94a3", "", `${meta.names[label]} ${score}`));
        names.set(label, (names.get(label) || 0) + 1);
      }
    }
    return [made, names];
  };
  const picture = (image, side) => {
    const frame = make("div", undefined, "frame"), [boxes, names] = overlay(image, side);
    const shownImage = make("img");
    shownImage.loading = "lazy";
    shownImage.alt = meta.files[image];
    shownImage.onerror = () => { shownImage.remove(); frame.prepend(make("span", "The browser cannot show this file.", "broken")); };
    shownImage.src = address(image);
    frame.append(shownImage, boxes);
    return [frame, names];
  };
  const card = (image) => {
    const figure = make("figure"), pair = make("div", undefined, "pair"), sides = meta.detections && arrays.evaluated[image] ? ["labels", "found"] : ["labels"];
    const caption = make("figcaption");
    sides.forEach((side) => {
      const [frame, names] = picture(image, side);
      pair.append(frame);
      const line = make("div", sides.length > 1 ? (side === "found" ? "detected: " : "labels: ") : "");
      [...names].forEach(([label, number], place) => {
        if (place) line.append(", ");
        if (sides.length === 1) line.append(make("i", "", "chip"));
        if (sides.length === 1) line.lastChild.style.background = colour(label);
        line.append((number > 1 ? `${number} ` : "") + meta.names[label]);
      });
      if (!names.size) line.append("no objects");
      caption.append(line);
    });
    caption.prepend(make("b", meta.files[image]));
    const facts = [`${meta.splits[arrays.split[image]].name}, ${arrays.widths[image]} x ${arrays.heights[image]}`];
    if (sides.length > 1) facts.push(`loss ${arrays.loss[image].toFixed(2)}`);
    meta.problems.forEach((code, bit) => { if (arrays.problems[image] & (1 << bit)) facts.push(code); });
    caption.append(make("div", facts.join(" · "), "facts"));
    for (const text of messages.get(image) || []) caption.append(make("div", text, "wrong"));
    figure.append(pair, caption);
    figure.classList.toggle("double", sides.length > 1);
    return figure;
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / perPage));
    page = Math.min(Math.max(page, 0), pages - 1);
    find("gallery").replaceChildren(...shown.slice(page * perPage, (page + 1) * perPage).map(card));
    find("gallery").classList.toggle("compared", find("gallery").querySelector(".double") !== null);
    find("count").textContent = `${shown.length.toLocaleString("en")} of ${count.toLocaleString("en")} images, page ${page + 1} of ${pages}`;
    find("before").disabled = page === 0;
    find("after").disabled = page === pages - 1;
  };
  for (const id of ["class", "split", "size", "problem", "mistake", "order"]) find(id).addEventListener("change", filter);
  let waiting;
  find("text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); });
  find("before").addEventListener("click", () => { page--; draw(); find("images").scrollIntoView(); });
  find("after").addEventListener("click", () => { page++; draw(); find("images").scrollIntoView(); });
  if (meta.detections) { // begin with what the model finds hardest
    find("split").value = String(arrays.split[arrays.evaluated.indexOf(1)]);
    find("order").value = "loss";
  }
  filter();
})();
