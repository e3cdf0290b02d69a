// A recorded trace to explore, without a server: in a notebook, and in a page of its own.

import { GATES, gatesOf, likeness, ranked, reach, unpack, valueAt } from "./figure.js";
import { HeatMap, isIn, named } from "./heatmap.js";
import { make, showArithmetic, showWords, written } from "./panels.js";

const ALL = "all";
const ORDERS = [["number", "by number"], ["like", "by likeness"], ["mean", "by mean"], ["word", "by value at the word"]];

/** Whether the text around is light: then what is behind it is dark, whatever theme there is. */
function onDark(place) {
  const context = make("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  context.fillStyle = getComputedStyle(place).color;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return 0.3 * red + 0.6 * green + 0.1 * blue > 127;
}

const choice = (label, options, onchange) => {
  const select = make("select", { onchange }, ...options.map(([value, text]) => make("option", { value }, text)));
  return { select, label: make("label", {}, `${label} `, select) };
};

/** Show a trace in a place; `told` hears which cell is chosen. Returns {choose(cell), stop()}. */
export function explore(place, trace, told = () => {}) {
  const limit = reach([trace]);
  let pointed = null;
  let key = null; // the cell by whose gate and word units are sorted
  let at = null;
  let width = 0;
  let dark = false;

  const names = trace.layers.map((layer) => layer.name);
  const gates = [...new Set(trace.layers.flatMap(gatesOf))];
  const redraw = () => draw();
  const layers = choice("Layer", [...names.map((name) => [name, name]), [ALL, "all"]], redraw);
  const rows = choice("Show", [[ALL, "every gate and state"], ...gates.map((gate) => [gate, GATES[gate].means.split(":")[0]])], redraw);
  const order = choice("Units", ORDERS, () => sort(order.select.value));
  layers.label.hidden = names.length < 2;
  rows.label.hidden = gates.length < 2;
  layers.select.value = names.at(-1);

  const map = new HeatMap({
    point: (cell) => { pointed = cell; show(); },
    pick: (cell) => { at = cell; told(cell); draw(); map.reveal(at.step); },
    at: () => at,
    word: (step) => { at = { ...at, step }; told(at); sort("word"); },
  });
  const where = make("p", { class: "hint where" });
  const sum = make("div", { class: "arithmetic" });
  const words = make("div", { class: "words" });
  const { plot } = map;
  const note = trace.steps > trace.words.length ? `The first ${trace.words.length} of ${trace.steps.toLocaleString("en")} steps. ` : "";
  // JupyterLab takes arrow keys for its cells, but for those in an element that says this.
  const root = make("div", { class: "glass explore", "data-lm-suppress-shortcuts": "true" },
    make("div", { class: "bar" }, layers.label, rows.label, order.label),
    make("div", { class: "beside" },
      make("div", { class: "main" }, plot, make("p", { class: "hint" }, `${note}Point at a cell to see how it arose; click a word to sort the units by it. Keys: arrows, Page Up, Page Down, Home, End.`)),
      make("div", { class: "side" }, make("div", { class: "cell" }, where, sum), words)));
  place.replaceChildren(root);

  /** What is drawn of the trace: one layer or all, one gate or all. */
  function part() {
    const [name, gate] = [layers.select.value, rows.select.value];
    const chosen = trace.layers.filter((layer) => name === ALL || layer.name === name);
    const found = chosen.map((layer) => (gate === ALL ? layer : { ...layer, shown: [gate] })).filter((layer) => gatesOf(layer).length);
    return { ...trace, layers: found.length ? found : chosen };
  }

  function sort(by) {
    order.select.value = by;
    key = at;
    draw();
  }

  function ordered(layer) {
    const by = order.select.value;
    if (by === "number") return Array.from({ length: layer.units }, (_, unit) => unit);
    if (by === "like") return likeness(layer.values[layer.values.hidden ? "hidden" : gatesOf(layer)[0]]);
    const gate = layer.values[key?.gate] ? key.gate : gatesOf(layer)[0];
    return ranked(layer.values[gate], by === "word" ? key.step : null);
  }

  /** Whether a cell is among those that are drawn. */
  const drawn = (shown, cell) => isIn(shown, cell) && gatesOf(shown.layers.find((layer) => layer.name === cell.layer)).includes(cell.gate);

  function draw() {
    const shown = part();
    if (!drawn(shown, at)) {
      const layer = shown.layers.at(-1);
      at = { layer: layer.name, gate: gatesOf(layer)[0], unit: Math.min(at?.unit ?? 0, layer.units - 1), step: Math.min(at?.step ?? Infinity, shown.words.length - 1) };
    }
    key ??= at;
    pointed = null;
    dark = onDark(place);
    root.dataset.theme = dark ? "dark" : "light";
    map.lay(shown, Math.max(plot.clientWidth - 4, 300), Object.fromEntries(shown.layers.map((layer) => [layer.name, ordered(layer)])));
    map.draw(limit, dark, { at, edits: [], units: new Set(), within: {}, span: null });
    show();
  }

  function show() {
    const cell = pointed ?? at;
    const layerOf = ({ layer }) => trace.layers.find((one) => one.name === layer);
    where.textContent = named(map.trace, cell);
    showArithmetic(sum, layerOf(cell), cell);
    map.canvas.setAttribute("aria-label", `${named(map.trace, at)}: ${written(valueAt(layerOf(at), at.gate, at.step, at.unit))}`);
    const next = trace.next?.[cell.step];
    words.hidden = !next;
    if (next) showWords(words, [{ words: trace.words.slice(0, cell.step + 1), next }]);
  }

  const resized = new ResizeObserver(() => {
    if (plot.clientWidth !== width) {
      width = plot.clientWidth;
      draw();
    }
  });
  const lit = () => { if (onDark(place) !== dark) draw(); };
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  resized.observe(plot);
  scheme.addEventListener("change", lit);
  root.addEventListener("pointerenter", lit); // a notebook's theme changes without telling
  draw();
  width = plot.clientWidth; // 0 where the place is not in its document yet
  return {
    choose(cell) {
      if (!isIn(trace, cell) || ["layer", "gate", "unit", "step"].every((part) => cell[part] === at[part])) return;
      at = { layer: cell.layer, gate: cell.gate, unit: cell.unit, step: cell.step };
      if (layers.select.value !== ALL) layers.select.value = at.layer;
      if (rows.select.value !== ALL) rows.select.value = at.gate;
      draw();
      map.reveal(at.step);
    },
    stop() {
      resized.disconnect();
      scheme.removeEventListener("change", lit);
    },
  };
}

/** anywidget's contract: draw a model's trace in an element, follow it, and tidy up at the end. */
function render({ model, el }) {
  let shown;
  const tell = (cell) => { model.set("cell", cell); model.save_changes(); };
  const choose = () => shown.choose(model.get("cell"));
  const fresh = () => {
    shown?.stop();
    shown = explore(el, unpack(model.get("trace")), tell);
    choose();
  };
  fresh();
  model.on("change:trace", fresh);
  model.on("change:cell", choose);
  return () => {
    model.off("change:trace", fresh);
    model.off("change:cell", choose);
    shown.stop();
  };
}

export default { render };
