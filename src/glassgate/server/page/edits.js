// Changes of gates and states: which there are, and what each is about.

import { GATES } from "./figure.js";
import { written } from "./panels.js";

export const BOTH = "both"; // models that a change is for; else it is the number of one, and none is the first

/** Whether a change is one for a model: a gate that only another has is no change of this one. */
export const isFor = (edit, model, gates) => (edit.model ?? 0) === model || (edit.model === BOTH && gates.includes(edit.gate));

/** The change of a cell's gate to a value, for as much as the scope says. */
export function editOf({ layer, gate, unit, step }, value, scope, model) {
  return {
    gate, set: value,
    units: scope === "cell" || scope === "unit" ? [unit] : null,
    steps: scope === "cell" || scope === "word" ? [step, step + 1] : null,
    layer: scope === "all" || scope === BOTH ? null : layer,
    ...(scope === BOTH ? { model: BOTH } : model ? { model } : {}),
  };
}

/** Whether a change is about every cell that another is about. */
const covers = (edit, other) => edit.gate === other.gate
  && (edit.model === BOTH || (edit.model ?? 0) === (other.model ?? 0))
  && (!edit.layer || edit.layer === other.layer)
  && (!edit.units || Boolean(other.units?.every((unit) => edit.units.includes(unit))))
  && (!edit.steps || (Boolean(other.steps) && edit.steps[0] <= other.steps[0] && edit.steps[1] >= other.steps[1]));

/** The changes with one more; those of which nothing would be left are dropped. */
export const withEdit = (edits, edit) => [...edits.filter((other) => !covers(edit, other)), edit];

/** What a change does, in words; `names` are those of the models, where there are two. */
export function says(edit, names) {
  const units = edit.units ? `unit ${edit.units.join(", ")}` : "every unit";
  const layer = edit.layer ? ` of ${edit.layer}` : ", all layers";
  const steps = edit.steps ? `, word ${edit.steps[0] + 1}` : ", every word";
  return `${GATES[edit.gate].letter} = ${written(edit.set, 2)}: ${units}${layer}${steps}${names ? `; ${names[edit.model ?? 0] ?? "both models"}` : ""}`;
}
