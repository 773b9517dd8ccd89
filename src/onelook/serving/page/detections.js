// What is shown of an answer: pure functions of values, without the page.

export const LOWEST_THRESHOLD = 0.05; // asked of the server once; the slider moves above it without a request

// A class's colour: hues a golden ratio apart, as images drawn by the server have them (onelook.draw.class_colour).
export function classColour(label) {
  const hue = (0.58 + label * 0.61803398875) % 1;
  const [saturation, value] = [[0.8, 1], [0.55, 1], [0.9, 0.8], [0.65, 0.8]][Math.floor(label / 8) % 4];
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

export const css = (colour) => `rgb(${colour.join(" ")})`;

// Black or white, whichever has the higher contrast to a colour (WCAG 2.2: at least 4.58 for one of them).
export function inkOn(colour) {
  const [r, g, b] = colour.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

// Number of detections at or above the threshold of each class that was found at all: [{label, name, count}].
export function countClasses(detections, threshold) {
  const classes = new Map();
  for (const { label, name, score } of detections) {
    const entry = classes.get(label) ?? { label, name, count: 0, best: 0 };
    entry.count += score >= threshold ? 1 : 0;
    entry.best = Math.max(entry.best, score);
    classes.set(label, entry);
  }
  return [...classes.values()].sort((a, b) => b.best - a.best);
}

export function visible(detections, threshold, hiddenClasses) {
  return detections.filter(({ score, label }) => score >= threshold && !hiddenClasses.has(label));
}

// "2 detections: dog 1, person 1." `found` says how many there are at the lowest threshold.
export function summary(shown, found) {
  if (!found) return `No objects were detected, not even at a score of ${LOWEST_THRESHOLD}.`;
  if (!shown.length) return `None of ${found} detections is shown: lower the threshold or choose more classes.`;
  const classes = countClasses(shown, 0).sort((a, b) => b.count - a.count);
  const parts = classes.slice(0, 6).map(({ name, count }) => `${name} ${count}`);
  if (classes.length > 6) parts.push(`${classes.length - 6} more classes`);
  const rest = found > shown.length ? ` of ${found}` : "";
  return `${shown.length}${rest} ${found === 1 ? "detection" : "detections"}: ${parts.join(", ")}.`;
}

// The answer with the shown detections only, and what was chosen.
export function toSave(answer, name, shown, threshold) {
  const [result] = answer.results;
  return { ...answer, threshold, results: [{ ...result, source: name, detections: shown }] };
}
