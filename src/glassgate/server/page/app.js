// The page: its state, and what happens when someone types, points, clicks or drags.

import { showCount, showCourse, showFigures } from "./about.js";
import { ask, read, useToken } from "./api.js";
import { BOTH, editOf, isFor, says, withEdit } from "./edits.js";
import { gatesOf, likeness, palette, rangeOf, reach, valueAt } from "./figure.js";
import { HeatMap, isIn, named } from "./heatmap.js";
import { fromFragment, toFragment } from "./link.js";
import { foremost, make, percent, showArithmetic, showWords, written } from "./panels.js";
import { csv, dots, download, vectors } from "./save.js";
import { askedSpan, showSearch } from "./search.js";
import { dark, onTheme } from "./theme.js";

const $ = (id) => document.getElementById(id);
// `follows`: the cell goes with the last word until one is picked.
const state = { text: "", other: null, both: false, edits: [], order: "as", at: null, follows: true, span: null };
const past = { undo: [], redo: [], dragging: false };
let models = []; // that are served: {base, name, gates, ...what /model tells}
let views = []; // what was read: {text, trace, words, next, begun, before, line, stale, model, map, plot}
let pointed = null;
let limit = 1; // of the cell's scale: while one types it grows at most, so that what was read keeps its colours
let rescaled = false;
let found = { span: null, units: [] };
let second = null; // the second text, while there is no comparison
let reading = false;
let again = false;
let retrying = 0;
let remembering = 0;
let address = ""; // as it was read or written last
let speaking = 0;

const layerOf = (at) => views[at.view]?.trace?.layers.find((layer) => layer.name === at.layer);
const fits = (at) => Boolean(at) && isIn(views[at.view]?.trace, at);

/** What is read: one text, two texts, or one text by two models. */
function sources() {
  if (state.both) return models.map((_, model) => ({ text: state.text, model }));
  return [state.text, state.other].filter((text) => text !== null).map((text) => ({ text, model: 0 }));
}

const editsOf = (model) => state.edits.filter((edit) => isFor(edit, model, models[model].gates));

/** Read a source. What cannot be read says why, and the figure of what was read last stays, dimmed. */
async function reread({ text, model }, n) {
  const old = views[n]?.model === model ? views[n] : { trace: null, words: [], next: [], before: null };
  const same = { text, model, name: state.both ? models[model].name : "", map: views[n]?.map, plot: views[n]?.plot };
  const fail = (line) => ({ ...old, ...same, stale: true, line: same.name ? `${same.name}: ${line}` : line });
  if (!text.trim() && !models[model].eos) return fail("Type a word that the model knows.");
  try {
    return { ...await read(text, editsOf(model), models[model].base), ...same, stale: false, line: "" };
  } catch (error) {
    if (![413, 422].includes(error.status)) throw error;
    const line = error.message.replace(/^the text: /, "");
    return fail(`${line[0].toUpperCase()}${line.slice(1)}.`);
  }
}

/** Read what is typed; while one reading is under way, only the latest of the next is kept. */
async function refresh() {
  clearTimeout(retrying);
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    do {
      again = false;
      views = await Promise.all(sources().map(reread));
      const begun = [...new Set(views.map((view) => !view.stale && view.begun))].filter(Boolean).map((word) => `“${word}…” is begun: these words would complete it.`);
      $("status").textContent = [...new Set(views.map(({ line }) => line))].filter(Boolean).concat(begun).join(" ");
      show();
    } while (again);
  } catch (error) {
    troubled(error, refresh);
  } finally {
    reading = false;
  }
}

/** Tell what went wrong; where it may pass, do it again later. */
function troubled(error, doAgain) {
  $("status").textContent = error.message;
  if (error.status === 401) askForToken();
  else if (error.retry) retrying = setTimeout(doAgain, 1000 * error.retry);
  else if (error.status === undefined) throw error;
}

function show() {
  const traces = views.map((view) => view.trace).filter(Boolean);
  limit = Math.max(rescaled ? 1 : limit, traces.length ? reach(traces) : 1);
  rescaled = false;
  if (!fits(state.at)) state.at = state.at && clamped(state.at);
  if (!state.at && traces.length) {
    const layer = views.find((v) => v.trace).trace.layers.at(-1);
    Object.assign(state, { at: { view: views.findIndex((v) => v.trace), layer: layer.name, gate: gatesOf(layer)[0], unit: 0, step: 0 }, follows: true });
  }
  if (state.follows && fits(state.at)) state.at.step = views[state.at.view].trace.words.length - 1;
  const rooms = placed();
  showWords($("words"), views.filter((view) => view.trace), write);
  search();
  draw(rooms);
  const own = state.follows && views[state.at?.view];
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
  if (location.hash !== address) return; // another link came, and is about to be restored
  history.replaceState(null, "", toFragment(state));
  address = location.hash;
}

/** Tell who does not see the page, when what they do rests for a moment. */
function say(line) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { $("told").textContent = line(); }, 400);
}

const sayWords = () => say(() => views.filter((view) => view.trace && !view.stale).map((view) => `${view.name} Next word: ${foremost(view, 3).map(({ word, before, after }) => `${word} ${percent(after ?? 0)}${view.before ? `, before ${percent(before ?? 0)}` : ""}`).join("; ")}.`).join(" "));
const sayCell = () => say(() => (fits(state.at) ? `${about(state.at)}: ${written(valueOf(state.at))}` : ""));

/** The nearest cell that is there, when the text became shorter or the model is another. */
function clamped(at) {
  const layer = layerOf(at);
  if (!layer || !gatesOf(layer).includes(at.gate)) return null;
  return { ...at, unit: Math.min(at.unit, layer.units - 1), step: Math.min(at.step, layer.values.hidden.steps - 1) };
}

const marksOf = (n) => ({ at: state.at?.view === n ? state.at : null, edits: editsOf(views[n].model), units: new Set(n === 0 && state.span ? found.units : []), within: state.span ?? {}, span: n === 0 && state.span ? [state.span.from, state.span.to] : null });

/** Give each view its place, and return how wide they are: read before more is changed, or it is laid out twice a key. */
function placed() {
  const place = $("plots");
  place.classList.toggle("two", views.length > 1);
  views.forEach((view, n) => {
    view.map ??= mapOf(n);
    view.plot ??= make("div", { class: "view" }, make("p", { class: "name" }), view.map.plot);
    if (!view.plot.isConnected) place.append(view.plot);
    view.plot.hidden = !view.trace;
    view.plot.classList.toggle("stale", view.stale);
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
const valueOf = (at) => valueAt(layerOf(at), at.gate, at.step, at.unit);

function showCell() {
  const at = fits(pointed) ? pointed : state.at;
  document.body.classList.toggle("picked", !state.follows && fits(state.at));
  $("sum").hidden = !fits(at);
  $("change").hidden = !fits(at) && !state.edits.length; // A link's changes may be of another model: they can be taken back
  if (!fits(at)) return;
  $("where").textContent = about(at);
  showArithmetic($("arithmetic"), layerOf(at), at);
  views.forEach((view, n) => view.map?.canvas.setAttribute("aria-label", n === state.at.view ? `${about(state.at)}: ${written(valueOf(state.at))}` : `Gates and states of ${view.name || "the other text"}`));
  const [low, high] = rangeOf(state.at.gate, limit);
  $("pinned").textContent = about(state.at);
  const own = !past.dragging && !again; // an answer to an earlier value does not move the slider back
  if (own) Object.assign($("value"), { min: low, max: high, value: valueOf(state.at) });
  $("shown").textContent = written(own ? valueOf(state.at) : Number($("value").value), 2);
  const view = views[state.at.view];
  $("brief").replaceChildren(...foremost(view, 3).map(({ word, before, after }) => make("span", {}, make("b", {}, word), ` ${view.before ? `${percent(before ?? 0).replace(" %", "")} → ` : ""}${percent(after ?? 0)}`)));
}

function showEdits() {
  const names = state.both && models.map((model) => model.name);
  const shown = state.edits.filter((edit) => views.some((view) => isFor(edit, view.model, models[view.model].gates)));
  $("edits").replaceChildren(...shown.map((edit) => make("li", {}, says(edit, names), " ", make("button", { type: "button", class: "quiet", "aria-label": `Take back ${says(edit, names)}`, onclick: () => change(state.edits.filter((other) => other !== edit)) }, "×"))));
  $("undo").disabled = !past.undo.length;
  $("redo").disabled = !past.redo.length;
  $("clear").disabled = !state.edits.length;
}

/** Take new edits; those before can be had back. */
function change(edits) {
  past.undo.push(state.edits);
  past.redo = [];
  taken(edits);
}

function travel(from, to) {
  if (!from.length) return;
  to.push(state.edits);
  taken(from.pop());
}

function taken(edits) {
  rescaled ||= edits.length < state.edits.length;
  Object.assign(state, { edits, follows: false });
  sayWords();
  refresh();
}

const withValue = (value) => withEdit(state.edits, editOf(state.at, value, $("scope").value, views[state.at.view].model));

function drag() {
  const edits = withValue(Number($("value").value));
  if (past.dragging) {
    taken(edits);
  } else {
    past.dragging = true;
    change(edits);
  }
  $("shown").textContent = written(Number($("value").value), 2);
}

function pin(at) {
  Object.assign(state, { at, follows: false });
  pointed = null;
  draw();
  views[at.view].map.reveal(at.step);
  showCell();
  sayCell();
  remember();
}

const mapOf = (n) => new HeatMap({
  point: (at) => { pointed = at && { view: n, ...at }; showCell(); },
  pick: (at) => pin({ view: n, ...at }),
  at: () => state.at,
  enter: () => $("value").focus(),
  word: (step) => pin({ ...state.at, view: n, step }),
});

function search() {
  const trace = views[0]?.trace;
  if (!trace) return;
  found = showSearch(trace, state.span, limit, (at) => pin({ view: 0, ...at }));
  if (state.span) state.span = found.span;
}

/** Put a word behind a text. */
function write(view, word) {
  const key = views.indexOf(view) && !state.both ? "other" : "text";
  const whole = view.begun ? state[key].normalize("NFC").slice(0, -view.begun.length) : state[key].replace(/\s*$/, " ");
  state[key] = `${whole.trim() ? whole : ""}${word}`;
  fill();
  sayWords();
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
    troubled(error, start);
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
  address = location.hash;
  const kept = fromFragment(address);
  const both = models.length > 1 && (kept.text === null || kept.both); // who opens it with two wants to see two
  Object.assign(state, kept, { both, other: both ? null : kept.other, text: kept.text ?? models[0].opening });
  Object.assign(past, { undo: [], redo: [], dragging: false });
  rescaled = true;
  fill();
  await refresh();
}

/** Compare two texts, two models, or nothing. */
function compare(other, both) {
  if (other === null) second = state.other ?? second;
  Object.assign(state, { other, both });
  if (state.at) state.at = { ...state.at, view: 0 };
  rescaled = true;
  fill();
  refresh();
}

function typed(key, text) {
  state[key] = text;
  rescaled ||= !text.trim();
  sayWords();
  refresh();
}

$("text").addEventListener("input", (event) => typed("text", event.target.value));
$("text2").addEventListener("input", (event) => typed("other", event.target.value));
$("key").addEventListener("submit", (event) => { event.preventDefault(); useToken($("token").value); start(); });
$("order").addEventListener("change", (event) => { state.order = event.target.value; show(); });
$("compare").addEventListener("click", () => compare(state.other === null ? second ?? state.text : null, false));
$("models").addEventListener("click", () => compare(null, !state.both));
$("value").addEventListener("input", drag);
$("value").addEventListener("change", () => { past.dragging = false; });
$("change").addEventListener("keydown", (event) => { if (event.key === "Escape") views[state.at?.view]?.map.canvas.focus({ preventScroll: true }); });
for (const button of document.querySelectorAll("[data-set]")) button.addEventListener("click", () => change(withValue(Number(button.dataset.set))));
$("undo").addEventListener("click", () => travel(past.undo, past.redo));
$("redo").addEventListener("click", () => travel(past.redo, past.undo));
$("clear").addEventListener("click", () => change([]));
$("done").addEventListener("click", () => { state.follows = true; show(); });
for (const id of ["from", "to", "within", "threshold"]) $(id).addEventListener("input", (event) => { state.span = askedSpan(found.span, event.target); show(); });
$("csv").addEventListener("click", () => save("glassgate.csv", "text/csv", csv(views, state.both)));
const drawn = () => views.map((view, n) => ({ view, n })).filter(({ view }) => view.trace);
$("svg").addEventListener("click", () => drawn().forEach(({ view, n }) => save(`glassgate-${n + 1}.svg`, "image/svg+xml", vectors(view.map, limit, palette(dark()), marksOf(n)))));
$("png").addEventListener("click", () => drawn().forEach(async ({ view, n }) => save(`glassgate-${n + 1}.png`, "image/png", await dots(view.map))));
$("link").addEventListener("click", async () => {
  rememberNow();
  try {
    await navigator.clipboard.writeText(location.href);
    $("kept").textContent = "The link is on the clipboard.";
  } catch {
    $("kept").textContent = "The browser keeps its clipboard closed here: copy the address from its bar.";
  }
});
let room = 0; // a scroll bar changes it as the window does
new ResizeObserver(([{ contentRect }]) => {
  if (Math.round(contentRect.width) !== room && views.length) draw();
  room = Math.round(contentRect.width);
}).observe($("plots"));
// Who goes through the page with the Tab key meets its parts in the order in which they stand.
const wide = matchMedia("(min-width: 62rem)");
const arrange = () => (wide.matches ? $("side").prepend($("next")) : $("figure").before($("next")));
wide.addEventListener("change", arrange);
addEventListener("hashchange", restore);
addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("textarea, [type=password]")) return;
  event.preventDefault();
  if (event.shiftKey) travel(past.redo, past.undo);
  else travel(past.undo, past.redo);
});
arrange();
onTheme(() => { if (views.length) draw(); });
start();
