// The heat maps as one figure: laid out once, painted with any pen (canvas or SVG). Knows no page.

export const GATES = {
  forget: { letter: "f", means: "forget gate: how much of the past to keep", range: [0, 1] },
  input: { letter: "i", means: "input gate: how much of the new to let in", range: [0, 1] },
  reset: { letter: "r", means: "reset gate: how much of the past the candidate sees", range: [0, 1] },
  update: { letter: "u", means: "update gate: the share of the new", range: [0, 1] },
  candidate: { letter: "g", means: "candidate: what the new would be", range: [-1, 1] },
  cell: { letter: "C", means: "cell: the memory", range: null },
  output: { letter: "o", means: "output gate: how much of the cell to show", range: [0, 1] },
  hidden: { letter: "h", means: "hidden state: what is passed on", range: [-1, 1] },
};
const ROWS = { lstm: ["forget", "input", "candidate", "cell", "output", "hidden"], gru: ["reset", "update", "candidate", "hidden"] };

const PALETTES = {
  light: { paper: "#fcfbf8", ink: "#22262b", soft: "#5d626a", mark: "#b3261e", share: ["#f0ede6", "#8db9b8", "#0d4857"], signed: ["#9c3d26", "#dca48f", "#f0ede6", "#8fb0d2", "#1d4a80"] },
  dark: { paper: "#15171a", ink: "#e9e6df", soft: "#a4a8ae", mark: "#ff8a7a", share: ["#22262b", "#2d757c", "#a5dcd6"], signed: ["#ee9678", "#83483a", "#22262b", "#34557a", "#8dbbee"] },
};
const SHADES = 256;
const SERIF = "'Iowan Old Style', Palatino, 'Palatino Linotype', P052, Georgia, serif";
const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

function ramp(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Array.from({ length: SHADES }, (_, n) => {
    const place = (n / (SHADES - 1)) * (parts.length - 1);
    const low = Math.min(Math.floor(place), parts.length - 2);
    const mixed = parts[low].map((a, c) => Math.round(a + (parts[low + 1][c] - a) * (place - low)));
    return `#${mixed.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  });
}

const palettes = Object.fromEntries(Object.entries(PALETTES).map(([name, p]) => [name, { ...p, share: ramp(p.share), signed: ramp(p.signed) }]));

export const palette = (dark) => palettes[dark ? "dark" : "light"];

/** The gates and states of a layer that are drawn, in the order of the arithmetic. */
export const gatesOf = (layer) => ROWS[layer.cell].filter((gate) => gate in layer.values && (layer.shown ?? ROWS[layer.cell]).includes(gate));

/** Whether the arithmetic of a cell can be told: every gate is there, and each unit is one and not a mean. */
export const isWhole = (layer) => !layer.averaged && ROWS[layer.cell].every((gate) => gate in layer.values);

/** What a unit is called, where not all were kept. */
export const labelOf = (layer, unit) => layer.labels?.[unit] ?? unit;

export const valueAt = (layer, gate, step, unit) => {
  const { units, numbers } = layer.values[gate];
  return numbers[step * units + unit];
};

/** The float32 numbers of a matrix [steps, units], row by row; they come as base64, little-endian. */
function numbersOf({ shape, float32 }) {
  const text = atob(float32);
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n += 1) bytes[n] = text.charCodeAt(n);
  return { steps: shape[0], units: shape[1], numbers: new Float32Array(bytes.buffer) };
}

/** A trace as it is sent, with its numbers decoded. */
export const unpack = (trace) => ({
  ...trace,
  layers: trace.layers.map((layer) => ({ ...layer, values: Object.fromEntries(Object.entries(layer.values).map(([gate, packed]) => [gate, numbersOf(packed)])) })),
});

/** The largest |C| of some traces, at least 1: they share one scale. */
export function reach(traces) {
  let most = 1;
  for (const trace of traces) {
    for (const { values } of trace.layers) {
      if (values.cell) for (const value of values.cell.numbers) most = Math.max(most, Math.abs(value));
    }
  }
  return most;
}

export const rangeOf = (gate, limit) => GATES[gate].range || [-limit, limit];

const alike = new WeakMap(); // orders by their numbers: it is drawn more often than it changes
const COMPARED = 64; // words of a long text by which units are compared, evenly spread

/** Units in an order in which neighbours behave alike: each next one is nearest to the one before. */
export function likeness(values) {
  if (!alike.has(values.numbers)) alike.set(values.numbers, chained(values));
  return alike.get(values.numbers);
}

function chained({ steps, units, numbers }) {
  const few = Math.min(steps, COMPARED);
  const rows = new Float32Array(units * few); // a unit's values side by side: read in that order, it is several times as fast
  for (let n = 0; n < few; n += 1) {
    const step = Math.floor((n * steps) / few);
    for (let unit = 0; unit < units; unit += 1) rows[unit * few + n] = numbers[step * units + unit];
  }
  const distance = (a, b) => {
    let sum = 0;
    for (let n = 0; n < few; n += 1) sum += (rows[a * few + n] - rows[b * few + n]) ** 2;
    return sum;
  };
  let [here] = ranked({ steps, units, numbers }, null);
  const order = [here];
  const left = new Set(Array.from({ length: units }, (_, unit) => unit));
  left.delete(here);
  while (left.size) {
    let nearest = -1;
    let least = Infinity;
    for (const unit of left) {
      const d = distance(here, unit);
      if (d < least) [nearest, least] = [unit, d];
    }
    order.push(here = nearest);
    left.delete(here);
  }
  return order;
}

/** Units from the largest value to the smallest, at a step or (null) in the mean over all. */
export function ranked({ steps, units, numbers }, step) {
  const key = (unit) => {
    if (step !== null) return numbers[step * units + unit];
    let sum = 0;
    for (let t = 0; t < steps; t += 1) sum += numbers[t * units + unit];
    return sum;
  };
  const keys = Float64Array.from({ length: units }, (_, unit) => key(unit));
  return Array.from({ length: units }, (_, unit) => unit).sort((a, b) => keys[b] - keys[a]);
}

const LEFT = 34;
const TOP = 40;
const SLANTED = 74; // the same where the words do not fit side by side; and how long a slanted one may be
const TURN = -50; // degrees, by which they slant
const CAPTION = 24;
const WIDEST = 150; // that a column becomes
const STRAIGHT = 110; // in a column so wide more of a word can be read than of a slanted one
const LEGEND = 52; // a scale of colours, without the number behind it
const WORD = { size: 16, family: SERIF };
const MEANS = { size: 12, family: SANS };
const TICK = { size: 10, family: SANS };

/** How far a slanted word reaches out to the right of its column's middle; as if it were bold, which it may become. */
const reachOf = (width) => 8 + Math.cos((TURN * Math.PI) / 180) * Math.min(SLANTED, 1.1 * width);

/** Where everything stands, in CSS pixels. `orders` gives the order of a layer's units, `measure` a text's width in a style. */
export function plan(trace, room, orders, measure, slant = false) {
  const steps = trace.words.length;
  const widths = trace.words.map((word) => measure(word, WORD));
  const widest = widths.reduce((most, width) => Math.max(most, width), 0);
  const fair = Math.floor((room - LEFT - 2) / steps);
  const slanted = slant || fair < Math.min(STRAIGHT, widest + 12);
  const narrow = Math.floor((room - LEFT - reachOf(widest) + 12) / steps);
  const column = slanted ? Math.max(24, Math.min(WIDEST, narrow)) : Math.max(34, Math.min(WIDEST, fair));
  const ends = widths.map((width, step) => LEFT + step * column + (slanted ? Math.max(column, column / 2 + reachOf(width)) : column)); // of a column with its word
  const blocks = [];
  const top = slanted ? SLANTED : TOP;
  let y = top;
  for (const layer of trace.layers) {
    const row = Math.max(1, Math.min(7, Math.floor(150 / layer.units)));
    const units = orders[layer.name] ?? Array.from({ length: layer.units }, (_, n) => n);
    const places = new Map(units.map((unit, place) => [unit, place]));
    if (trace.layers.length > 1) y += 20;
    const first = y;
    for (const gate of gatesOf(layer)) {
      y += CAPTION;
      blocks.push({ layer, gate, y, row, units, places, height: row * layer.units, heading: y === first + CAPTION && trace.layers.length > 1 });
      y += row * layer.units + 6;
    }
  }
  const width = Math.ceil(Math.max(ends.reduce((most, end) => Math.max(most, end), 0) + 2, 330));
  return { steps, column, blocks, slanted, top, ends, width, height: y + 4, left: LEFT, room, scrolled: 0, measure };
}

/** The cell under a point, or null. */
export function hit(where, x, y) {
  const step = Math.floor((x - where.left) / where.column);
  const block = where.blocks.find((b) => y >= b.y && y < b.y + b.height);
  if (!block || step < 0 || step >= where.steps) return null;
  return { layer: block.layer.name, gate: block.gate, step, unit: block.units[Math.floor((y - block.y) / block.row)] };
}

/** The word under a point above the figure, or null. */
export function wordAt(where, x, y) {
  const step = Math.floor((x - where.left) / where.column);
  return y < where.top && step >= 0 && step < where.steps ? step : null;
}

export const blockOf = (where, at) => where.blocks.find((b) => b.layer.name === at.layer && b.gate === at.gate);

/** Paint the figure: `marks` has the edits, the pinned cell, the span and its units. */
export function paint(pen, trace, where, limit, colours, marks) {
  const { left, column, steps } = where;
  pen.rect(0, 0, where.width, where.height, colours.paper);
  if (marks.span) {
    const [from, to] = marks.span;
    pen.rect(left + from * column, where.top - 8, (to - from + 1) * column - 1, 2, colours.mark);
  }
  trace.words.forEach((word, step) => {
    const bold = marks.at && marks.at.step === step;
    const middle = left + step * column + (column - 1) / 2;
    const style = { ...WORD, weight: bold ? 700 : 400, fill: colours.ink };
    if (where.slanted) pen.text(middle + 3, where.top - 14, fitted(word, SLANTED, style, where.measure), { ...style, turn: TURN });
    else pen.text(middle, where.top - 16, fitted(word, column - 4, style, where.measure), { ...style, anchor: "middle" });
  });
  for (const block of where.blocks) paintBlock(pen, block, where, limit, colours, marks);
  for (const block of where.blocks) {
    for (const edit of marks.edits) outline(pen, edit, block, where, colours);
    if (marks.at && block.layer.name === marks.at.layer && block.gate === marks.at.gate) {
      const y = block.y + block.places.get(marks.at.unit) * block.row;
      pen.frame(left + marks.at.step * column - 1.5, y - 1.5, column + 2, Math.max(block.row, 3) + 2, colours.ink, 1.5);
      pen.text(left - 6, y + block.row / 2 + 3.5, String(labelOf(block.layer, marks.at.unit)), { size: 10, family: SANS, weight: 700, fill: colours.ink, anchor: "end" });
    }
  }
}

function paintBlock(pen, block, where, limit, colours, marks) {
  const { left, column, steps } = where;
  const { layer, gate, units, row } = block;
  const [low, high] = rangeOf(gate, limit);
  const shades = low === 0 ? colours.share : colours.signed;
  const { letter, means } = GATES[gate];
  const start = left + where.scrolled; // captions stay in view
  const end = Math.max(Math.min(left + steps * column - 1, where.scrolled + where.room), start + 290);
  if (block.heading) pen.text(start, block.y - 28, `layer ${layer.name}, ${layer.units} units`, { size: 13, family: SERIF, weight: 700, fill: colours.ink });
  pen.text(start, block.y - 7, letter, { size: 16, family: SERIF, italic: true, fill: colours.ink });
  const fits = start + 16 + where.measure(means, MEANS) < end - LEGEND - 56;
  pen.text(start + 16, block.y - 7, fits ? means : means.split(":")[0], { ...MEANS, fill: colours.soft });
  const [least, most] = low === 0 ? ["0", "1"] : [`−${Number(high.toFixed(1))}`, `${Number(high.toFixed(1))}`];
  const bar = end - LEGEND - where.measure(String(Number(limit.toFixed(1))), TICK);
  for (let n = 0; n < 24; n += 1) pen.rect(bar + 2 * n, block.y - 13, 2, 6, shades[Math.round((n / 23) * (SHADES - 1))]);
  pen.text(bar - 4, block.y - 6.5, least, { ...TICK, fill: colours.soft, anchor: "end" });
  pen.text(bar + LEGEND, block.y - 6.5, most, { ...TICK, fill: colours.soft });
  const gap = row >= 5 ? 1 : 0;
  const { numbers, units: count } = layer.values[gate];
  const shadeAt = (step, place) => {
    const share = (numbers[step * count + units[place]] - low) / (high - low);
    return Math.max(0, Math.min(SHADES - 1, Math.round(share * (SHADES - 1))));
  };
  pen.cells({ x: left, y: block.y, steps, count: units.length, column, row, gap, shades, shadeAt, paper: colours.paper });
  units.forEach((unit, place) => {
    if (marks.units.has(unit) && marks.within.layer === layer.name && marks.within.gate === gate) {
      pen.rect(left - 5, block.y + place * row, 3, Math.max(row - gap, 2), colours.mark);
    }
  });
}

function outline(pen, edit, block, where, colours) {
  const { layer, gate, places, row } = block;
  if (edit.gate !== gate || (edit.layer && edit.layer !== layer.name)) return;
  const [start, stop] = edit.steps ? [edit.steps[0], Math.min(edit.steps[1], where.steps)] : [0, where.steps];
  if (stop <= start) return;
  const x = where.left + start * where.column;
  const width = (stop - start) * where.column - 1;
  if (!edit.units) return pen.frame(x - 1, block.y - 1, width + 2, block.height + 1, colours.mark, 1.5);
  for (const unit of edit.units) {
    if (places.has(unit)) pen.frame(x - 1, block.y + places.get(unit) * row - 1, width + 2, row + 1, colours.mark, 1.5);
  }
}

const inks = new WeakMap(); // of a ramp: its colours as a canvas keeps them, red in the lowest byte

function inksOf(shades) {
  if (!inks.has(shades)) inks.set(shades, Uint32Array.from(shades, (shade) => parseInt(`ff${shade.slice(5, 7)}${shade.slice(3, 5)}${shade.slice(1, 3)}`, 16)));
  return inks.get(shades);
}

export function canvasPen(context) {
  const small = document.createElement("canvas");
  return {
    /** Cells side by side: a dot for each, made large. A rectangle for each would take ten times as long. */
    cells({ x, y, steps, count, column, row, gap, shades, shadeAt, paper }) {
      const ink = inksOf(shades);
      const image = new ImageData(steps, count);
      const dots = new Uint32Array(image.data.buffer);
      for (let place = 0; place < count; place += 1) {
        for (let step = 0; step < steps; step += 1) dots[place * steps + step] = ink[shadeAt(step, place)];
      }
      Object.assign(small, { width: steps, height: count });
      small.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, x, y, steps * column, count * row);
      context.fillStyle = paper;
      for (let step = 1; step <= steps; step += 1) context.fillRect(x + step * column - 1, y, 1, count * row);
      for (let place = 1; gap && place <= count; place += 1) context.fillRect(x, y + place * row - gap, steps * column, gap);
    },
    rect(x, y, w, h, fill) { context.fillStyle = fill; context.fillRect(x, y, w, h); },
    frame(x, y, w, h, stroke, width) { context.strokeStyle = stroke; context.lineWidth = width; context.strokeRect(x, y, w, h); },
    text(x, y, text, { fill, anchor = "start", turn = 0, ...style }) {
      context.font = fontOf(style);
      context.fillStyle = fill;
      context.textAlign = anchor === "middle" ? "center" : anchor;
      context.save();
      context.translate(x, y);
      context.rotate((turn * Math.PI) / 180);
      context.fillText(text, 0, 0);
      context.restore();
    },
  };
}

const fontOf = ({ size, family, weight = 400, italic = false }) => `${italic ? "italic " : ""}${weight} ${size}px ${family}`;

export const measurer = (context) => (text, style) => { context.font = fontOf(style); return context.measureText(text).width; };

const LONGEST = 100; // letters of a word, of which never more are shown

/** As much of a word as there is room for. */
function fitted(word, room, style, measure) {
  let shown = word.slice(0, LONGEST);
  for (let n = shown.length - 1; n > 0 && measure(shown, style) > room; n -= 1) shown = `${word.slice(0, n)}…`;
  return shown;
}
