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
const BEHIND = 4; // words that are told before the next one

/** A share in percent; only what is none, or all, is written so. */
export function percent(y) {
  if (y > 0 && y < 0.00005) return "< 0.01 %";
  if (y < 1 && y > 0.99995) return "> 99.99 %";
  const edge = Math.min(y, 1 - y);
  return `${(100 * y).toFixed(edge > 0 && edge < 0.00095 ? 2 : y < 0.0995 || (edge > 0 && edge < 0.005) ? 1 : 0)} %`;
}

const sharesOf = (words) => new Map((words ?? []).map(({ word, probability }) => [word, probability]));

/** The words that are, or were before the edits, the most probable: as many, whatever the edits do. */
export function foremost(view, many) {
  const [after, before] = [sharesOf(view.next), sharesOf(view.before)];
  const most = (word) => Math.max(after.get(word) ?? 0, before.get(word) ?? 0);
  const words = [...new Set([...after.keys(), ...before.keys()])].sort((a, b) => most(b) - most(a)).slice(0, many);
  return words.sort((a, b) => (after.get(b) ?? 0) - (after.get(a) ?? 0)).map((word) => ({ word, after: after.get(word), before: before.get(word) }));
}

/** After which words the next one comes: those that were read, as they were read. */
function behind({ words, begun }) {
  const read = words.filter((word, n) => n || word !== "<eos>").slice(-BEHIND).join(" ");
  return [begun && `that completes “${begun}”`, read && `after “${read}”`].filter(Boolean).join(" ");
}

/** The next words with their probabilities; with edits, those before beside those after. `add` takes one that is clicked. */
export function showWords(place, views, add = null) {
  const many = SHOWN[Math.min(views.length, 2) - 1];
  place.replaceChildren(...views.map((view) => {
    const found = foremost(view, many);
    const columns = view.before ? [["was", "before"], ["is", "after"]] : [["is", "after"]];
    const most = Math.max(0.001, ...found.flatMap(({ before, after }) => [before ?? 0, after ?? 0]));
    const least = { before: Math.min(...sharesOf(view.before).values()), after: Math.min(...sharesOf(view.next).values()) };
    const rows = found.map((one) => {
      const bars = make("span", { class: "bars", "aria-hidden": "true" });
      const numbers = columns.map(([kind, when]) => {
        const y = one[when];
        const bar = make("span", { class: kind });
        bar.style.width = `${(100 * (y ?? 0)) / most}%`;
        bars.append(bar);
        return make("td", { class: kind, "data-probability": y ?? "" }, y === undefined ? `under ${percent(least[when])}` : percent(y));
      });
      const shown = add ? make("button", { type: "button", class: "word", onclick: () => add(view, one.word), title: "Write it" }, one.word) : make("span", { class: "word" }, one.word);
      return make("tr", { "data-word": one.word }, make("th", { scope: "row" }, shown), make("td", { class: "chart" }, bars), ...numbers);
    });
    const heads = view.before ? ["before", "after"] : ["probability"];
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "word"), make("td"), ...heads.map((h) => make("th", { scope: "col" }, h))));
    const caption = make("caption", {}, ...(view.name ? [make("b", {}, view.name), " "] : []), behind(view));
    return make("table", { class: view.stale ? "next stale" : "next" }, caption, head, make("tbody", {}, ...rows));
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
  const all = lines(layer, at);
  const { letter } = GATES[at.gate];
  const own = all.find(({ terms }) => terms.some((t) => t[0] === letter && !t[2])) ?? all.at(-1); // where there is room for one alone
  place.replaceChildren(...all.flatMap(({ terms, computed, found }, n) => {
    const spoken = terms.map((t) => (typeof t === "string" ? SPOKEN[t] : `${t[0]}${t[2] ? " before" : ""} ${written(t[1])}`)).join(" ");
    const row = make("div", { class: all[n] === own ? "sum own" : "sum", role: "math", "aria-label": spoken });
    const result = make("span", { class: "result" }); // the sign and the sum stay on one line
    for (const part of terms) {
      if (part === "=") row.append(result);
      const made = typeof part === "string" ? make("span", { class: "sign" }, part) : term(...part);
      (part === "=" || result.hasChildNodes() ? result : row).append(made);
    }
    // Five operations on float32 numbers: beyond it a state was set by an edit.
    const edited = Math.abs(computed - found) > 1e-5 * (1 + Math.abs(found));
    return edited ? [row, make("p", { class: "hint" }, `An edit set it: the gates alone give ${written(computed)}.`)] : [row];
  }));
}
