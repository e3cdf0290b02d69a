// What stands beside the figure: next words and the arithmetic of a cell.

import { GATES, gatesOf, isWhole, valueAt } from "./figure.js";

/** An element with attributes and children; a value of "on..." is a listener. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A number as the notes would print it. */
export function written(value, digits = 3) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

const SHOWN = [8, 5]; // next words of one view, and of each of two
const percent = (y) => `${(100 * y).toFixed(y < 0.00095 ? 2 : y < 0.0995 ? 1 : 0)} %`;

/** The next words with their probabilities; with edits, those before beside those after. `add` takes one that is clicked. */
export function showWords(place, views, add = null) {
  const many = SHOWN[Math.min(views.length, 2) - 1];
  place.replaceChildren(...views.map((view) => {
    const before = new Map((view.before || []).map((w) => [w.word, w.probability]));
    const after = new Map(view.next.map((w) => [w.word, w.probability]));
    const words = [...new Set([...after.keys()].slice(0, many).concat([...before.keys()].slice(0, many)))].slice(0, many + 3);
    const most = Math.max(0.001, ...after.values(), ...before.values());
    const rows = words.map((word) => {
      const bars = make("span", { class: "bars", "aria-hidden": "true" });
      const columns = view.before ? [["was", before], ["is", after]] : [["is", after]];
      const numbers = columns.map(([kind, known]) => {
        const y = known.get(word);
        const bar = make("span", { class: kind });
        bar.style.width = `${(100 * (y ?? 0)) / most}%`;
        bars.append(bar);
        return make("td", { class: kind, "data-probability": y ?? "" }, y === undefined ? `under ${percent(Math.min(...known.values()))}` : percent(y));
      });
      const shown = add ? make("button", { type: "button", class: "word", onclick: () => add(view, word), title: "Write it" }, word) : make("span", { class: "word" }, word);
      return make("tr", { "data-word": word }, make("th", { scope: "row" }, shown), make("td", { class: "chart" }, bars), ...numbers);
    });
    const heads = view.before ? ["before", "after"] : ["probability"];
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "word"), make("td"), ...heads.map((h) => make("th", { scope: "col" }, h))));
    const behind = view.text.trim() ? `after “${view.text.trim().split(/\s+/).slice(-4).join(" ")}”` : "";
    const caption = make("caption", {}, ...(view.name ? [make("b", {}, view.name), " "] : []), behind);
    return make("table", { class: "next" }, caption, head, make("tbody", {}, ...rows));
  }));
}

const MINUS1 = () => make("sub", {}, "t−1");
const SPOKEN = { "×": "times", "+": "plus", "=": "is", tanh: "tanh of", "→": "gives" };

/** The lines of the notes' arithmetic for a cell: [letter, value, previous?] or a sign. */
export function lines(layer, at) {
  const here = (gate) => valueAt(layer, gate, at.step, at.unit);
  const before = layer.reverse ? at.step + 1 : at.step - 1; // the step that was taken before this one
  const past = (gate) => (before >= 0 && before < layer.values[gate].steps ? valueAt(layer, gate, before, at.unit) : 0);
  if (layer.cell === "lstm") {
    const [f, i, g, o, C, h] = ["forget", "input", "candidate", "output", "cell", "hidden"].map(here);
    return [
      { terms: [["f", f], "×", ["C", past("cell"), true], "+", ["i", i], "×", ["g", g], "=", ["C", C]], computed: f * past("cell") + i * g, found: C },
      { terms: [["o", o], "×", "tanh", ["C", C], "=", ["h", h]], computed: o * Math.tanh(C), found: h },
    ];
  }
  const [r, u, g, h] = ["reset", "update", "candidate", "hidden"].map(here);
  const first = { terms: [["r", r], "×", ["h", past("hidden"), true], "=", ["r h", r * past("hidden")]], computed: 0, found: 0 };
  const last = { terms: [["u", u], "×", ["g", g], "+", ["1 − u", 1 - u], "×", ["h", past("hidden"), true], "=", ["h", h]], computed: u * g + (1 - u) * past("hidden"), found: h };
  return layer.reset === "before" ? [first, last] : [last];
}

const term = (letter, value, previous = false) => make("span", { class: "term", "data-letter": previous ? `${letter}-1` : letter, "data-value": value },
  make("i", {}, letter, ...(previous ? [MINUS1()] : [])), make("b", {}, written(value)));

/** Show the arithmetic of a cell with its real numbers; where not all of them are there, those that are. */
export function showArithmetic(place, layer, at) {
  if (!isWhole(layer)) {
    const terms = gatesOf(layer).map((gate) => term(GATES[gate].letter, valueAt(layer, gate, at.step, at.unit)));
    place.replaceChildren(make("div", { class: "sum values" }, ...terms));
    return;
  }
  place.replaceChildren(...lines(layer, at).flatMap(({ terms, computed, found }) => {
    const spoken = terms.map((t) => (typeof t === "string" ? SPOKEN[t] : `${t[0]}${t[2] ? " before" : ""} ${written(t[1])}`)).join(" ");
    const row = make("div", { class: "sum", role: "math", "aria-label": spoken });
    const result = make("span", { class: "result" }); // the sign and the sum stay on one line
    for (const part of terms) {
      if (part === "=") row.append(result);
      const made = typeof part === "string" ? make("span", { class: "sign" }, part) : term(...part);
      (part === "=" || result.hasChildNodes() ? result : row).append(made);
    }
    // Five operations on float32 numbers: beyond it a state was set by an edit.
    const edited = Math.abs(computed - found) > 1e-5 * (1 + Math.abs(found));
    return edited ? [row, make("p", { class: "hint" }, `An edit set it, or the state before it; the gates alone give ${written(computed)}.`)] : [row];
  }));
}
