// Units that are on over exactly a span of words.

import { gatesOf, rangeOf } from "./figure.js";
import { make, written } from "./panels.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 40; // units that stand there as buttons
const STEP = 0.05; // of the threshold's slider

/** Units above the threshold at every word from..to, and not just before nor just after. */
export function onOver({ steps, units, numbers }, from, to, threshold) {
  const on = (step, unit) => numbers[step * units + unit] > threshold;
  const found = [];
  for (let unit = 0; unit < units; unit += 1) {
    let all = true;
    for (let step = from; step <= to && all; step += 1) all = on(step, unit);
    if (all && !(from > 0 && on(from - 1, unit)) && !(to + 1 < steps && on(to + 1, unit))) found.push(unit);
  }
  return found;
}

/** A span as it fits a trace; where none was asked for, one to begin with. */
function spanIn(trace, span) {
  const last = trace.words.length - 1;
  const layer = trace.layers.at(-1);
  const known = span && gatesOf(trace.layers.find((one) => one.name === span.layer) ?? { cell: layer.cell, values: {} }).includes(span.gate);
  const fair = known ? span : { from: 1, to: 2, layer: layer.name, gate: layer.cell === "lstm" ? "cell" : "hidden", threshold: 0.3 };
  const from = Math.min(fair.from, last);
  return { ...fair, from, to: Math.max(from, Math.min(fair.to, last)) };
}

function choose(select, options, value) {
  const offered = JSON.stringify(options);
  if (select.dataset.offered !== offered) select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
  select.dataset.offered = offered;
  select.value = value;
}

/** Show what a span has; return the span as it is shown, and its units. `pick` takes one that is clicked. */
export function showSearch(trace, asked, limit, pick) {
  const span = spanIn(trace, asked);
  const options = trace.words.map((word, n) => [String(n), `${n + 1} ${word}`]);
  choose($("from"), options, String(span.from));
  choose($("to"), options.slice(span.from), String(span.to));
  choose($("within"), trace.layers.flatMap((l) => gatesOf(l).map((g) => [`${l.name}:${g}`, trace.layers.length > 1 ? `${g}, ${l.name}` : g])), `${span.layer}:${span.gate}`);
  // Its steps begin at the least value: were that none of them, the slider would stand beside the threshold.
  const [low, high] = rangeOf(span.gate, limit).map((end) => Math.sign(end) * STEP * Math.ceil(Math.abs(end) / STEP - 1e-9));
  Object.assign($("threshold"), { min: low, max: high, step: STEP, value: span.threshold });
  $("level").textContent = written(span.threshold, 2);
  const units = onOver(trace.layers.find((l) => l.name === span.layer).values[span.gate], span.from, span.to, span.threshold);
  const are = units.length === 1 ? "1 unit is" : `${units.length || "No"} unit${units.length ? "s are" : " is"}`;
  $("found").textContent = `${are} on over exactly “${trace.words.slice(span.from, span.to + 1).join(" ")}”.`;
  $("units").replaceChildren(...units.slice(0, SHOWN).map((unit) => make("button", { type: "button", "aria-label": `Unit ${unit}`, onclick: () => pick({ layer: span.layer, gate: span.gate, unit, step: span.from }) }, String(unit))));
  return { span, units };
}

/** The span as it stands in the form; `moved` is the control that was moved: the slider alone changes the threshold. */
export function askedSpan(span, moved) {
  const [layer, gate] = $("within").value.split(":");
  const from = Number($("from").value);
  const threshold = moved.id === "threshold" ? Number(moved.value) : span.threshold;
  return { from, to: Math.max(from, Number($("to").value)), layer, gate, threshold };
}
