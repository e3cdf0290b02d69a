// What stands beside the figure: next words, the arithmetic of a cell, the training's course, the weights.

import { valueAt } from "./figure.js";

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

const SHOWN = 8; // next words
const percent = (y) => `${(100 * y).toFixed(y < 0.00095 ? 2 : y < 0.0995 ? 1 : 0)} %`;

/** The next words with their probabilities; with edits, those before beside those after. */
export function showWords(place, views, add) {
  place.replaceChildren(...views.map((view) => {
    const before = new Map((view.before || []).map((w) => [w.word, w.probability]));
    const after = new Map(view.next.map((w) => [w.word, w.probability]));
    const words = [...new Set([...after.keys()].slice(0, SHOWN).concat([...before.keys()].slice(0, SHOWN)))].slice(0, SHOWN + 3);
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
      const button = make("button", { type: "button", class: "word", onclick: () => add(view, word), title: "Write it" }, word);
      return make("tr", { "data-word": word }, make("th", { scope: "row" }, button), make("td", { class: "chart" }, bars), ...numbers);
    });
    const heads = view.before ? ["before", "after"] : ["probability"];
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "word"), make("td"), ...heads.map((h) => make("th", { scope: "col" }, h))));
    const caption = make("caption", {}, view.text.trim() ? `after “${view.text.trim().split(/\s+/).slice(-4).join(" ")}”` : "");
    return make("table", { class: "next" }, caption, head, make("tbody", {}, ...rows));
  }));
}

const MINUS1 = () => make("sub", {}, "t−1");
const SPOKEN = { "×": "times", "+": "plus", "=": "is", tanh: "tanh of", "→": "gives" };

/** The lines of the notes' arithmetic for a cell: [letter, value, previous?] or a sign. */
export function lines(layer, at) {
  const here = (gate) => valueAt(layer, gate, at.step, at.unit);
  const past = (gate) => (at.step ? valueAt(layer, gate, at.step - 1, at.unit) : 0);
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

/** Show the arithmetic of a cell with its real numbers. */
export function showArithmetic(place, layer, at) {
  place.replaceChildren(...lines(layer, at).flatMap(({ terms, computed, found }) => {
    const spoken = terms.map((t) => (typeof t === "string" ? SPOKEN[t] : `${t[0]}${t[2] ? " before" : ""} ${written(t[1])}`)).join(" ");
    const row = make("div", { class: "sum", role: "math", "aria-label": spoken });
    const result = make("span", { class: "result" }); // the sign and the sum stay on one line
    for (const term of terms) {
      if (typeof term === "string") {
        if (term === "=") row.append(result);
        (term === "=" ? result : row).append(make("span", { class: "sign" }, term));
        continue;
      }
      const [letter, value, previous] = term;
      const name = make("i", {}, letter, ...(previous ? [MINUS1()] : []));
      (result.hasChildNodes() ? result : row).append(make("span", { class: "term", "data-letter": previous ? `${letter}-1` : letter, "data-value": value }, name, make("b", {}, written(value))));
    }
    // Five operations on float32 numbers: beyond it a state was set by an edit.
    const edited = Math.abs(computed - found) > 1e-5 * (1 + Math.abs(found));
    return edited ? [row, make("p", { class: "hint" }, `An edit set it; the gates alone give ${written(computed)}.`)] : [row];
  }));
}

const svg = (name, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

/** The perplexity during training: each step, and the validation's. */
export function showCourse(place, course) {
  const trained = course.filter((row) => row.perplexity > 0).map((row) => [row.step, row.perplexity]);
  const valid = course.filter((row) => row.valid_perplexity > 0).map((row) => [row.step, row.valid_perplexity]);
  const all = [...trained, ...valid];
  if (all.length < 2) return place.replaceChildren(make("p", { class: "hint" }, "The model's folder tells nothing about its training."));
  const [W, H, left, bottom, top] = [360, 190, 40, 24, 8];
  const end = Math.max(...all.map(([step]) => step));
  const low = Math.log(Math.min(...all.map(([, y]) => y)));
  const high = Math.log(Math.max(...all.map(([, y]) => y)));
  const x = (step) => left + ((W - left - 8) * step) / end;
  const y = (value) => top + ((H - top - bottom) * (high - Math.log(value))) / (high - low || 1);
  const path = (points) => points.map(([step, value], n) => `${n ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const thin = trained.filter((_, n) => n % Math.ceil(trained.length / 600) === 0);
  const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000].filter((v) => Math.log(v) >= low - 1e-9 && Math.log(v) <= high + 0.02);
  const last = (valid.at(-1) || trained.at(-1))[1];
  place.replaceChildren(svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Perplexity over ${end} steps of training; at the end ${last.toFixed(2)}` },
    ...ticks.flatMap((v) => [svg("line", { class: "grid", x1: left, x2: W - 8, y1: y(v), y2: y(v) }), svg("text", { x: left - 6, y: y(v) + 3.5, "text-anchor": "end" }, v.toLocaleString("en"))]),
    svg("path", { class: "trained", d: path(thin) }), svg("path", { class: "valid", d: path(valid) }),
    svg("text", { x: left, y: H - 6 }, "0"), svg("text", { x: W - 8, y: H - 6, "text-anchor": "end" }, `step ${end.toLocaleString("en")}`),
    svg("text", { x: (W + left) / 2, y: H - 6, "text-anchor": "middle" }, "perplexity")),
  make("p", { class: "hint legend" }, make("span", { class: "trained" }), "training ", make("span", { class: "valid" }), "validation"));
}

export function showFigures(place, figures) {
  place.replaceChildren(...figures.flatMap(({ name, value }) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** The count, matrix by matrix, as the notes have it. */
export function showCount(place, count) {
  const number = (n) => n.toLocaleString("en");
  const row = (m) => make("tr", {}, make("th", { scope: "row" }, make("i", {}, m.name[0]), m.name.includes("_") ? make("sub", {}, m.name.split("_").slice(1).join("_")) : ""),
    make("td", {}, [m.role + (m.gate ? `, ${m.gate}${m.gate === "candidate" ? "" : " gate"}` : ""), m.layer !== null && count.matrices.some((o) => o.layer > 0) && `layer ${m.layer}`].filter(Boolean).join(", ")),
    make("td", { class: "n" }, m.shape.join(" × ")), make("td", { class: "n" }, number(m.count)));
  const sum = (name, n) => make("tr", {}, make("th", { scope: "row", colspan: 3 }, name), make("td", { class: "n" }, number(n)));
  place.replaceChildren(make("table", { class: "count" },
    make("thead", {}, make("tr", {}, ...["matrix", "what it is", "size", "weights"].map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, ...count.matrices.map(row)),
    make("tfoot", {}, sum("the cell", count.cell), sum("with the output", count.total), sum("with the embedding", count.with_embedding))));
}
