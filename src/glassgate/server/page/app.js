// The page: its state, and what happens when someone types, points, clicks or drags.

import { ask, opening, read, useToken } from "./api.js";
import { GATES, blockOf, canvasPen, gatesOf, hit, likeness, measurer, paint, palette, plan, rangeOf, reach } from "./figure.js";
import { make, showArithmetic, showCount, showCourse, showFigures, showWords, written } from "./panels.js";
import { csv, download, fromFragment, picture, toFragment } from "./save.js";
import { onOver } from "./search.js";

const $ = (id) => document.getElementById(id);
const state = { text: "", other: null, edits: [], order: "as", at: null, span: null };
const past = { undo: [], redo: [], dragging: false };
let views = []; // what was read: {text, trace, next, before, line, where, canvas}
let pointed = null;
let limit = 1;
let found = new Set();
let reading = false;
let again = false;

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const layerOf = (at) => views[at.view]?.trace?.layers.find((layer) => layer.name === at.layer);
const fits = (at) => {
  const layer = at && layerOf(at);
  return Boolean(layer && layer.values[at.gate] && at.unit >= 0 && at.unit < layer.units && at.step >= 0 && at.step < layer.values.hidden.steps);
};

/** Read what is typed; while one reading is under way, only the latest of the next is kept. */
async function refresh() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    do {
      again = false;
      const texts = state.other === null ? [state.text] : [state.text, state.other];
      const edits = state.edits.map((edit) => ({ ...edit }));
      const results = await Promise.all(texts.map((text) => read(text, edits)));
      views = results.map((result, n) => ({ ...result, canvas: views[n]?.canvas }));
      $("status").textContent = results.map((r) => r.line).filter(Boolean).join(" ");
      show();
    } while (again);
  } catch (error) {
    $("status").textContent = error.message;
    if (error.status === 401) askForToken();
  } finally {
    reading = false;
  }
}

function show() {
  const traces = views.map((view) => view.trace).filter(Boolean);
  limit = traces.length ? reach(traces) : 1;
  if (!fits(state.at)) state.at = state.at && clamped(state.at);
  if (!state.at && traces.length) {
    const layer = views.find((v) => v.trace).trace.layers.at(-1);
    state.at = { view: views.findIndex((v) => v.trace), layer: layer.name, gate: gatesOf(layer)[0], unit: 0, step: layer.values.hidden.steps - 1 };
  }
  showWords($("words"), views, write);
  showSpan();
  draw();
  showCell();
  showEdits();
  history.replaceState(null, "", toFragment(state));
}

/** The nearest cell that is there, when the text became shorter or the model is another. */
function clamped(at) {
  const layer = layerOf(at);
  if (!layer?.values[at.gate]) return null;
  const between = (n, most) => Math.max(0, Math.min(most, Math.trunc(n) || 0));
  return { ...at, unit: between(at.unit, layer.units - 1), step: between(at.step, layer.values.hidden.steps - 1) };
}

const measure = measurer(document.createElement("canvas").getContext("2d"));
const marksOf = (n) => ({ at: state.at?.view === n ? state.at : null, edits: state.edits, units: n === 0 ? found : new Set(), within: state.span ?? {}, span: n === 0 && state.span ? [state.span.from, state.span.to] : null });

function draw() {
  const place = $("plots");
  place.classList.toggle("two", views.length > 1);
  // Both texts in the first one's order: rows that stand at one height are one unit.
  const first = views.find((view) => view.trace)?.trace;
  const orders = Object.fromEntries(state.order === "like" && first ? first.layers.map((l) => [l.name, likeness(l.values.hidden)]) : []);
  views.forEach((view, n) => {
    if (view.canvas) return;
    view.canvas = make("canvas", { tabindex: 0, role: "application", "aria-roledescription": "heat map" });
    listen(view.canvas, n);
    place.append(make("div", { class: "plot" }, view.canvas));
  });
  [...place.children].slice(views.length).forEach((plot) => plot.remove());
  const planned = (slant) => views.forEach((view) => {
    view.where = view.trace && plan(view.trace, view.canvas.parentElement.clientWidth - 4, orders, measure, slant);
  });
  planned(false);
  if (views.some((view) => view.where?.slanted)) planned(true); // both alike: rows stand at one height
  views.forEach((view, n) => {
    view.canvas.hidden = !view.trace;
    if (!view.trace) return;
    const { width, height } = view.where;
    const dots = Math.min(window.devicePixelRatio || 1, 16000 / Math.max(width, height));
    Object.assign(view.canvas, { width: Math.round(width * dots), height: Math.round(height * dots) });
    Object.assign(view.canvas.style, { width: `${width}px`, height: `${height}px` });
    const context = view.canvas.getContext("2d");
    context.scale(dots, dots);
    paint(canvasPen(context), view.trace, view.where, limit, palette(dark()), marksOf(n));
  });
}

/** What a cell is, in words. */
function named(at) {
  const { words } = views[at.view].trace;
  return `${GATES[at.gate].letter}, ${GATES[at.gate].means.split(":")[0]}, unit ${at.unit}${views[at.view].trace.layers.length > 1 ? ` of layer ${at.layer}` : ""}, at “${words[at.step]}”`;
}

function showCell() {
  const at = fits(pointed) ? pointed : state.at;
  $("sum").hidden = !fits(at);
  $("change").hidden = !fits(at) && !state.edits.length; // a link's changes may be of another model: they can be taken back
  if (!fits(at)) return;
  const value = (where) => layerOf(where).values[where.gate].numbers[where.step * layerOf(where).units + where.unit];
  $("where").textContent = named(at);
  showArithmetic($("arithmetic"), layerOf(at), at);
  const own = views[state.at.view].canvas;
  own.setAttribute("aria-label", `${named(state.at)}: ${written(value(state.at))}`);
  views.forEach((view, n) => { if (n !== state.at.view) view.canvas?.setAttribute("aria-label", "The second text's gates and states"); });
  const [low, high] = rangeOf(state.at.gate, limit);
  $("pinned").textContent = named(state.at);
  if (!past.dragging) Object.assign($("value"), { min: low, max: high, value: value(state.at) });
  $("shown").textContent = written(past.dragging ? Number($("value").value) : value(state.at), 2);
}

function showEdits() {
  const says = (edit) => `${GATES[edit.gate]?.letter ?? edit.gate} = ${written(edit.set, 2)}: ${edit.units ? `unit ${edit.units.join(", ")}` : "every unit"}${edit.layer ? ` of ${edit.layer}` : ", all layers"}${edit.steps ? `, word ${edit.steps[0] + 1}` : ", every word"}`;
  $("edits").replaceChildren(...state.edits.map((edit, n) => make("li", {}, says(edit), " ", make("button", { type: "button", class: "quiet", "aria-label": `Take back ${says(edit)}`, onclick: () => change(state.edits.filter((_, m) => m !== n)) }, "×"))));
  $("undo").disabled = !past.undo.length;
  $("redo").disabled = !past.redo.length;
  $("clear").disabled = !state.edits.length;
}

/** Take new edits; those before can be had back. */
function change(edits) {
  past.undo.push(state.edits);
  past.redo = [];
  state.edits = edits;
  refresh();
}

function travel(from, to) {
  if (!from.length) return;
  to.push(state.edits);
  state.edits = from.pop();
  refresh();
}

/** The edits with one more; it takes the place of those about the same cells. */
function withValue(value) {
  const { layer, gate, unit, step } = state.at;
  const scope = $("scope").value;
  const edit = {
    gate, set: value,
    units: scope === "cell" || scope === "unit" ? [unit] : null,
    steps: scope === "cell" || scope === "word" ? [step, step + 1] : null,
    layer: scope === "all" ? null : layer,
  };
  const about = ({ gate: g, units, steps, layer: l }) => JSON.stringify([g, units, steps, l]);
  return [...state.edits.filter((other) => about(other) !== about(edit)), edit];
}

function drag() {
  const edits = withValue(Number($("value").value));
  if (past.dragging) {
    state.edits = edits;
    refresh();
  } else {
    past.dragging = true;
    change(edits);
  }
  $("shown").textContent = written(Number($("value").value), 2);
}

function pin(at) {
  state.at = at;
  pointed = null;
  draw();
  showCell();
  history.replaceState(null, "", toFragment(state));
}

function listen(canvas, n) {
  const under = (event) => {
    const at = views[n]?.where && hit(views[n].where, event.offsetX, event.offsetY);
    return at && { view: n, ...at };
  };
  canvas.addEventListener("pointermove", (event) => { pointed = under(event); showCell(); });
  canvas.addEventListener("pointerleave", () => { pointed = null; showCell(); });
  canvas.addEventListener("click", (event) => { const at = under(event); if (at) pin(at); });
  canvas.addEventListener("keydown", (event) => {
    const at = state.at?.view === n ? state.at : { ...state.at, view: n };
    if (!fits(at)) return;
    const layer = layerOf(at);
    const { units, places } = blockOf(views[n].where, at);
    const next = (by) => units[Math.max(0, Math.min(layer.units - 1, places.get(at.unit) + by))];
    const rows = views[n].where.blocks;
    const row = (by) => {
      const block = rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(blockOf(views[n].where, at)) + by))];
      return { layer: block.layer.name, gate: block.gate, unit: Math.min(at.unit, block.layer.units - 1) };
    };
    const last = layer.values.hidden.steps - 1;
    const moved = {
      ArrowLeft: { step: Math.max(0, at.step - 1) }, ArrowRight: { step: Math.min(last, at.step + 1) },
      ArrowUp: { unit: next(-1) }, ArrowDown: { unit: next(1) },
      Home: { step: 0 }, End: { step: last }, PageUp: row(-1), PageDown: row(1),
    }[event.key];
    if (moved) pin({ ...at, ...moved });
    else if (event.key === "Enter" || event.key === " ") $("value").focus();
    else return;
    event.preventDefault();
  });
}

function showSpan() {
  const trace = views[0]?.trace;
  if (!trace) return;
  const last = trace.words.length - 1;
  const layer = trace.layers.at(-1);
  const gate = layer.cell === "lstm" ? "cell" : "hidden";
  const old = state.span;
  const given = old && trace.layers.find((l) => l.name === old.layer)?.values[old.gate];
  const span = given ? old : { from: Math.min(1, last), to: Math.min(2, last), layer: layer.name, gate, threshold: 0.3 };
  span.from = Math.max(0, Math.min(span.from, last));
  span.to = Math.max(span.from, Math.min(span.to, last));
  const options = trace.words.map((word, n) => [String(n), `${n + 1} ${word}`]);
  choose($("from"), options, String(span.from));
  choose($("to"), options.slice(span.from), String(span.to));
  choose($("within"), trace.layers.flatMap((l) => gatesOf(l).map((g) => [`${l.name}:${g}`, trace.layers.length > 1 ? `${g}, ${l.name}` : g])), `${span.layer}:${span.gate}`);
  const [low, high] = rangeOf(span.gate, limit);
  Object.assign($("threshold"), { min: low, max: high, value: span.threshold });
  $("level").textContent = written(span.threshold, 2);
  const units = onOver(trace.layers.find((l) => l.name === span.layer).values[span.gate], span.from, span.to, span.threshold);
  found = old ? new Set(units) : new Set();
  $("found").textContent = `${units.length ? units.length : "No"} unit${units.length === 1 ? " is" : units.length ? "s are" : " is"} on over exactly “${trace.words.slice(span.from, span.to + 1).join(" ")}”.`;
  $("units").replaceChildren(...units.slice(0, 40).map((unit) => make("button", { type: "button", "aria-label": `Unit ${unit}`, onclick: () => pin({ view: 0, layer: span.layer, gate: span.gate, unit, step: span.from }) }, String(unit))));
}

function choose(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
}

function searched() {
  const [layer, gate] = $("within").value.split(":");
  const from = Number($("from").value);
  state.span = { from, to: Math.max(from, Number($("to").value)), layer, gate, threshold: Number($("threshold").value) };
  show();
}

/** Put a word behind a text. */
function write(view, word) {
  const n = views.indexOf(view);
  const key = n ? "other" : "text";
  const begun = view.line && !/\s$/.test(state[key]);
  const whole = begun ? state[key].replace(/\S+$/, "") : state[key].replace(/\s*$/, " ");
  state[key] = `${whole.trim() ? whole : ""}${word}`;
  fill();
  refresh();
}

function fill() {
  for (const [id, value] of [["text", state.text], ["text2", state.other ?? ""]]) if ($(id).value !== value) $(id).value = value;
  $("other").hidden = state.other === null;
  $("compare").setAttribute("aria-pressed", String(state.other !== null));
  $("order").value = state.order;
}

function askForToken() {
  $("key").hidden = false;
  $("token").focus();
}

function save(name, type, content) {
  download(name, content instanceof Blob ? content : new Blob([content], { type }));
  $("kept").textContent = `Kept as ${name}.`;
}

async function start() {
  try {
    const model = await ask("model");
    $("model").textContent = model.summary;
    document.title = `glassgate: ${model.name}`;
    showCount($("count"), model.count);
    showCourse($("course"), model.training);
    showFigures($("figures"), model.figures);
    $("key").hidden = true;
  } catch (error) {
    $("status").textContent = error.message;
    if (error.status === 401) askForToken();
    return;
  }
  await restore();
}

async function restore() {
  const kept = fromFragment(location.hash);
  Object.assign(state, kept, { text: kept.text ?? await opening() });
  fill();
  await refresh();
}

$("text").addEventListener("input", (event) => { state.text = event.target.value; refresh(); });
$("text2").addEventListener("input", (event) => { state.other = event.target.value; refresh(); });
$("key").addEventListener("submit", (event) => { event.preventDefault(); useToken($("token").value); start(); });
$("order").addEventListener("change", (event) => { state.order = event.target.value; show(); });
$("compare").addEventListener("click", () => { state.other = state.other === null ? state.text : null; if (state.at) state.at.view = 0; fill(); refresh(); });
$("value").addEventListener("input", drag);
$("value").addEventListener("change", () => { past.dragging = false; });
for (const button of document.querySelectorAll("[data-set]")) button.addEventListener("click", () => change(withValue(Number(button.dataset.set))));
$("undo").addEventListener("click", () => travel(past.undo, past.redo));
$("redo").addEventListener("click", () => travel(past.redo, past.undo));
$("clear").addEventListener("click", () => change([]));
for (const id of ["from", "to", "within", "threshold"]) $(id).addEventListener("input", searched);
$("csv").addEventListener("click", () => save("glassgate.csv", "text/csv", csv(views)));
const drawn = () => views.map((view, n) => ({ view, n })).filter(({ view }) => view.trace);
$("svg").addEventListener("click", () => drawn().forEach(({ view, n }) => save(`glassgate-${n + 1}.svg`, "image/svg+xml", picture(view, limit, palette(dark()), marksOf(n)))));
$("png").addEventListener("click", () => drawn().forEach(({ view, n }) => view.canvas.toBlob((blob) => save(`glassgate-${n + 1}.png`, "image/png", blob))));
$("link").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    $("kept").textContent = "The link is on the clipboard.";
  } catch {
    $("kept").textContent = "The browser keeps its clipboard closed here: copy the address from its bar.";
  }
});
const lit = () => { $("theme").textContent = dark() ? "Light" : "Dark"; draw(); };
$("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; lit(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", lit);
addEventListener("resize", draw);
addEventListener("hashchange", restore);
addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("textarea, [type=password]")) return;
  event.preventDefault();
  if (event.shiftKey) travel(past.redo, past.undo);
  else travel(past.undo, past.redo);
});
lit();
start();
