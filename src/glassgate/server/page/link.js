// The address that brings the view back: what stands behind its #.

import { GATES } from "./figure.js";
import { BOTH } from "./edits.js";

/** What of the view stands in the address; the cell, where it was picked. */
export function toFragment(state) {
  const kept = new URLSearchParams({ text: state.text });
  if (state.other !== null) kept.set("with", state.other);
  if (state.both) kept.set("models", "2");
  if (state.edits.length) kept.set("edits", JSON.stringify(state.edits));
  if (state.order !== "as") kept.set("order", state.order);
  if (state.at && !state.follows) kept.set("at", [state.at.view, state.at.layer, state.at.gate, state.at.unit, state.at.step].join(":"));
  if (state.span) kept.set("span", [state.span.from, state.span.to, state.span.layer, state.span.gate, state.span.threshold].join(":"));
  return `#${kept}`;
}

const isWhole = (value) => Number.isSafeInteger(value) && value >= 0;
const wholeOf = (text) => (/^\d{1,9}$/.test(text) ? Number(text) : null);
const isGate = (name) => Object.hasOwn(GATES, name);

/** Whether what an address holds is a change that this page could have made. */
const isEdit = (edit) => edit !== null && typeof edit === "object" && isGate(edit.gate) && Number.isFinite(edit.set)
  && Object.keys(edit).every((key) => ["gate", "set", "units", "steps", "layer", "model"].includes(key))
  && (edit.units == null || (Array.isArray(edit.units) && edit.units.every(isWhole)))
  && (edit.steps == null || (Array.isArray(edit.steps) && edit.steps.length === 2 && edit.steps.every(isWhole)))
  && (edit.layer == null || typeof edit.layer === "string")
  && (edit.model === undefined || edit.model === 1 || edit.model === BOTH);

function editsOf(text) {
  try {
    const edits = JSON.parse(text);
    return Array.isArray(edits) ? edits.filter(isEdit) : [];
  } catch {
    return [];
  }
}

function cellOf(text) {
  const [view, layer, gate, unit, step, more] = text.split(":");
  const at = { view: wholeOf(view), layer, gate, unit: wholeOf(unit), step: wholeOf(step) };
  return more === undefined && isGate(gate) && ![at.view, at.unit, at.step].includes(null) ? at : null;
}

function spanOf(text) {
  const [from, to, layer, gate, threshold, more] = text.split(":");
  const span = { from: wholeOf(from), to: wholeOf(to), layer, gate, threshold: Number(threshold) };
  const right = more === undefined && isGate(gate) && ![span.from, span.to].includes(null) && threshold && Number.isFinite(span.threshold);
  return right ? span : null;
}

/** The view that an address tells of; what is not understood is left out. */
export function fromFragment(fragment) {
  const kept = new URLSearchParams(fragment.replace(/^#/, ""));
  const at = cellOf(kept.get("at") ?? "");
  return {
    text: kept.get("text"), other: kept.get("with"), both: kept.get("models") === "2", edits: editsOf(kept.get("edits") ?? "[]"),
    order: kept.get("order") === "like" ? "like" : "as", at, follows: !at, span: spanOf(kept.get("span") ?? ""),
  };
}
