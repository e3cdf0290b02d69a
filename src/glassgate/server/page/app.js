// The page: its state, and what happens when someone types, points, clicks or drags.

import { showCount, showCourse, showFigures } from "./about.js";
import { ask, opening, read, useToken } from "./api.js";
import { GATES, gatesOf, likeness, palette, rangeOf, reach } from "./figure.js";
import { HeatMap, isIn, named } from "./heatmap.js";
import { make, showArithmetic, showWords, written } from "./panels.js";
import { csv, download, fromFragment, picture, toFragment } from "./save.js";
import { onOver } from "./search.js";

const $ = (id) => document.getElementById(id);
const BOTH = "both"; // models that an edit is for
const state = { text: "", other: null, both: false, edits: [], order: "as", at: null, span: null };
const past = { undo: [], redo: [], dragging: false };
let models = []; // that are served: {base, name, gates, ...what /model tells}
let views = []; // what was read: {text, trace, next, before, line, model, map, plot}
let pointed = null;
let limit = 1;
let found = new Set();
let reading = false;
let again = false;
let remembering = 0;
let follows = true; // the cell goes with the last word until one is picked

const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const layerOf = (at) => views[at.view]?.trace?.layers.find((layer) => layer.name === at.layer);
const fits = (at) => Boolean(at) && isIn(views[at.view]?.trace, at);

/** What is read: one text, two texts, or one text by two models. */
function sources() {
  if (state.both) return models.map((_, model) => ({ text: state.text, model }));
  return [state.text, state.other].filter((text) => text !== null).map((text) => ({ text, model: 0 }));
}

/** Whether an edit is one for a model: a gate that only another has is no change of this one. */
const isFor = (edit, model) => (edit.model ?? 0) === model || (edit.model === BOTH && models[model].gates.includes(edit.gate));
const editsOf = (model) => state.edits.filter((edit) => isFor(edit, model));

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
      const wanted = sources();
      const results = await Promise.all(wanted.map(({ text, model }) => read(text, editsOf(model), models[model].base)));
      const nameOf = state.both && ((n) => models[n].name);
      views = results.map((result, n) => ({ ...result, model: wanted[n].model, name: nameOf ? nameOf(n) : "", map: views[n]?.map, plot: views[n]?.plot }));
      const lines = results.map(({ line }, n) => line && (nameOf ? `${nameOf(n)}: ${line}` : line));
      $("status").textContent = [...new Set(lines)].filter(Boolean).join(" ");
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
  if (follows && fits(state.at)) state.at.step = views[state.at.view].trace.words.length - 1;
  const rooms = placed();
  showWords($("words"), views, write);
  showSpan();
  draw(rooms);
  const own = follows && views[state.at?.view];
  if (own?.trace && own.map.where.width > rooms[state.at.view]) own.map.reveal(state.at.step);
  showCell();
  showEdits();
  remember();
}

/** Write the view into the address, soon: browsers refuse to do it at every key. */
function remember() {
  remembering ||= setTimeout(rememberNow, 250);
}

function rememberNow() {
  clearTimeout(remembering);
  remembering = 0;
  history.replaceState(null, "", toFragment(state));
}

/** The nearest cell that is there, when the text became shorter or the model is another. */
function clamped(at) {
  const layer = layerOf(at);
  if (!layer?.values[at.gate]) return null;
  const between = (n, most) => Math.max(0, Math.min(most, Math.trunc(n) || 0));
  return { ...at, unit: between(at.unit, layer.units - 1), step: between(at.step, layer.values.hidden.steps - 1) };
}

const marksOf = (n) => ({ at: state.at?.view === n ? state.at : null, edits: editsOf(views[n].model), units: n === 0 ? found : new Set(), within: state.span ?? {}, span: n === 0 && state.span ? [state.span.from, state.span.to] : null });

/** Give each view its place, and return how wide they are: read before more is changed, or it is laid out twice a key. */
function placed() {
  const place = $("plots");
  place.classList.toggle("two", views.length > 1);
  views.forEach((view, n) => {
    view.map ??= mapOf(n);
    view.plot ??= make("div", { class: "plot" }, make("p", { class: "name" }), view.map.canvas);
    if (!view.plot.isConnected) place.append(view.plot);
    view.plot.hidden = !view.trace;
    if (view.plot.firstChild.textContent !== view.name) view.plot.firstChild.textContent = view.name;
  });
  [...place.children].slice(views.length).forEach((plot) => plot.remove());
  return views.map((view) => view.plot.clientWidth - 4);
}

function draw(rooms = placed()) {
  const orderOf = (trace) => Object.fromEntries(state.order === "like" ? trace.layers.map((l) => [l.name, likeness(l.values.hidden)]) : []);
  // Two texts stand in the first one's order: rows at one height are one unit. Two models have nothing in common.
  const shared = !state.both && views.find((view) => view.trace)?.trace;
  const orders = shared && orderOf(shared);
  const drawn = views.flatMap((view, n) => (view.trace ? [{ view, n }] : []));
  const lay = (slant) => drawn.forEach(({ view, n }) => view.map.lay(view.trace, rooms[n], orders || orderOf(view.trace), slant));
  lay(false);
  if (drawn.some(({ view }) => view.map.where.slanted)) lay(true); // both alike: rows stand at one height
  drawn.forEach(({ view, n }) => view.map.draw(limit, dark(), marksOf(n)));
}

/** What a cell is, in words; of two models also whose. */
const about = (at) => `${state.both ? `${models[views[at.view].model].name}: ` : ""}${named(views[at.view].trace, at)}`;

function showCell() {
  const at = fits(pointed) ? pointed : state.at;
  $("sum").hidden = !fits(at);
  $("change").hidden = !fits(at) && !state.edits.length; // A link's changes may be of another model: they can be taken back
  if (!fits(at)) return;
  const value = (where) => layerOf(where).values[where.gate].numbers[where.step * layerOf(where).units + where.unit];
  $("where").textContent = about(at);
  showArithmetic($("arithmetic"), layerOf(at), at);
  views.forEach((view, n) => view.map?.canvas.setAttribute("aria-label", n === state.at.view ? `${about(state.at)}: ${written(value(state.at))}` : `Gates and states of ${view.name || "the other text"}`));
  const [low, high] = rangeOf(state.at.gate, limit);
  $("pinned").textContent = about(state.at);
  const own = !past.dragging && !again; // an answer to an earlier value does not move the slider back
  if (own) Object.assign($("value"), { min: low, max: high, value: value(state.at) });
  $("shown").textContent = written(own ? value(state.at) : Number($("value").value), 2);
}

function showEdits() {
  const says = (edit) => `${GATES[edit.gate]?.letter ?? edit.gate} = ${written(edit.set, 2)}: ${edit.units ? `unit ${edit.units.join(", ")}` : "every unit"}${edit.layer ? ` of ${edit.layer}` : ", all layers"}${edit.steps ? `, word ${edit.steps[0] + 1}` : ", every word"}${state.both ? `; ${models[edit.model ?? 0]?.name ?? "both models"}` : ""}`;
  const shown = state.edits.filter((edit) => views.some((view) => isFor(edit, view.model)));
  $("edits").replaceChildren(...shown.map((edit) => make("li", {}, says(edit), " ", make("button", { type: "button", class: "quiet", "aria-label": `Take back ${says(edit)}`, onclick: () => change(state.edits.filter((other) => other !== edit)) }, "×"))));
  $("undo").disabled = !past.undo.length;
  $("redo").disabled = !past.redo.length;
  $("clear").disabled = !state.edits.length;
}

/** Take new edits; those before can be had back. */
function change(edits) {
  follows = false;
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
  const { view, layer, gate, unit, step } = state.at;
  const scope = $("scope").value;
  const edit = {
    gate, set: value,
    units: scope === "cell" || scope === "unit" ? [unit] : null,
    steps: scope === "cell" || scope === "word" ? [step, step + 1] : null,
    layer: scope === "all" || scope === BOTH ? null : layer,
    ...(scope === BOTH ? { model: BOTH } : views[view].model ? { model: views[view].model } : {}),
  };
  const cells = ({ gate: g, units, steps, layer: l, model = 0 }) => JSON.stringify([g, units, steps, l, model]);
  return [...state.edits.filter((other) => cells(other) !== cells(edit)), edit];
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
  follows = false;
  state.at = at;
  pointed = null;
  draw();
  views[at.view].map.reveal(at.step);
  showCell();
  remember();
}

const mapOf = (n) => new HeatMap({
  point: (at) => { pointed = at && { view: n, ...at }; showCell(); },
  pick: (at) => pin({ view: n, ...at }),
  at: () => state.at,
  enter: () => $("value").focus(),
  word: (step) => pin({ ...state.at, view: n, step }),
});

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
  const offered = JSON.stringify(options);
  if (select.dataset.offered !== offered) select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
  select.dataset.offered = offered;
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
  const key = n && !state.both ? "other" : "text";
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
  $("models").setAttribute("aria-pressed", String(state.both));
  $("models").hidden = models.length < 2;
  const scope = $("scope");
  const last = scope.querySelector(`[value=${BOTH}]`);
  last.hidden = last.disabled = !state.both;
  if (!state.both && scope.value === BOTH) scope.value = "all";
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
    const first = await ask("model");
    models = [{ base: "", ...first }];
    if (first.compared) models.push({ base: "compared/", ...await ask("compared/model") });
  } catch (error) {
    $("status").textContent = error.message;
    if (error.status === 401) askForToken();
    return;
  }
  const several = models.length > 1;
  if (several && models[0].name === models[1].name) models.forEach((model, n) => { model.name += ` (${n + 1})`; });
  document.title = `glassgate: ${models.map((model) => model.name).join(", ")}`;
  const lines = models.map((model) => (several ? `${model.name}: ${model.summary}` : model.summary));
  $("model").replaceChildren(...lines.flatMap((line, n) => (n ? [make("br"), line] : [line])));
  each("count", (place, model) => showCount(place, model.count));
  each("course", (place, model) => showCourse(place, model.training));
  each("figures", (place, model) => showFigures(place, model.figures));
  $("key").hidden = true;
  await restore();
}

/** Show something of each model, under its name where there are two. */
function each(id, show) {
  $(id).replaceChildren(...models.flatMap((model) => {
    const place = make(id === "figures" ? "dl" : "div");
    show(place, model);
    return models.length > 1 ? [make("h3", {}, model.name), place] : [place];
  }));
}

async function restore() {
  clearTimeout(remembering);
  remembering = 0;
  const kept = fromFragment(location.hash);
  const both = models.length > 1 && (kept.text === null || kept.both); // who opens it with two wants to see two
  Object.assign(state, kept, { both, other: both ? null : kept.other, text: kept.text ?? await opening() });
  follows = !kept.at;
  fill();
  await refresh();
}

/** Compare two texts, two models, or nothing. */
function compare(other, both) {
  Object.assign(state, { other, both });
  if (state.at) state.at = { ...state.at, view: 0 };
  fill();
  refresh();
}

$("text").addEventListener("input", (event) => { state.text = event.target.value; refresh(); });
$("text2").addEventListener("input", (event) => { state.other = event.target.value; refresh(); });
$("key").addEventListener("submit", (event) => { event.preventDefault(); useToken($("token").value); start(); });
$("order").addEventListener("change", (event) => { state.order = event.target.value; show(); });
$("compare").addEventListener("click", () => compare(state.other === null ? state.text : null, false));
$("models").addEventListener("click", () => compare(null, !state.both));
$("value").addEventListener("input", drag);
$("change").addEventListener("keydown", (event) => { if (event.key === "Escape") views[state.at?.view]?.map.canvas.focus({ preventScroll: true }); });
$("value").addEventListener("change", () => { past.dragging = false; });
for (const button of document.querySelectorAll("[data-set]")) button.addEventListener("click", () => change(withValue(Number(button.dataset.set))));
$("undo").addEventListener("click", () => travel(past.undo, past.redo));
$("redo").addEventListener("click", () => travel(past.redo, past.undo));
$("clear").addEventListener("click", () => change([]));
for (const id of ["from", "to", "within", "threshold"]) $(id).addEventListener("input", searched);
$("csv").addEventListener("click", () => save("glassgate.csv", "text/csv", csv(views, state.both)));
const drawn = () => views.map((view, n) => ({ view, n })).filter(({ view }) => view.trace);
$("svg").addEventListener("click", () => drawn().forEach(({ view, n }) => save(`glassgate-${n + 1}.svg`, "image/svg+xml", picture(view.map, limit, palette(dark()), marksOf(n)))));
$("png").addEventListener("click", () => drawn().forEach(({ view, n }) => view.map.canvas.toBlob((blob) => save(`glassgate-${n + 1}.png`, "image/png", blob))));
$("link").addEventListener("click", async () => {
  rememberNow();
  try {
    await navigator.clipboard.writeText(location.href);
    $("kept").textContent = "The link is on the clipboard.";
  } catch {
    $("kept").textContent = "The browser keeps its clipboard closed here: copy the address from its bar.";
  }
});
const lit = () => { $("theme").textContent = dark() ? "Light" : "Dark"; if (views.length) draw(); };
$("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; lit(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", lit);
let room = 0; // a scroll bar changes it as the window does
new ResizeObserver(([{ contentRect }]) => {
  if (Math.round(contentRect.width) !== room && views.length) draw();
  room = Math.round(contentRect.width);
}).observe($("plots"));
addEventListener("hashchange", restore);
addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("textarea, [type=password]")) return;
  event.preventDefault();
  if (event.shiftKey) travel(past.redo, past.undo);
  else travel(past.undo, past.redo);
});
lit();
start();
