// What the model is: the course of its training, its figures, its weights.

import { make } from "./panels.js";

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

/** The letter of a matrix; the second bias of a gate has a prime: b'_r. */
const letterOf = (name) => name.split("_")[0].replace("'", "′");

/** The count, matrix by matrix, as the notes have it. */
export function showCount(place, count) {
  const number = (n) => n.toLocaleString("en");
  const row = (m) => make("tr", {}, make("th", { scope: "row" }, make("i", {}, letterOf(m.name)), make("sub", {}, m.name.split("_")[1] ?? "")),
    make("td", {}, [m.role + (m.gate ? `, ${m.gate}${m.gate === "candidate" ? "" : " gate"}` : ""), m.layer !== null && count.matrices.some((o) => o.layer > 0) && `layer ${m.layer}`].filter(Boolean).join(", ")),
    make("td", { class: "n" }, m.shape.join(" × ")), make("td", { class: "n" }, number(m.count)));
  const sum = (name, n) => make("tr", {}, make("th", { scope: "row", colspan: 3 }, name), make("td", { class: "n" }, number(n)));
  place.replaceChildren(make("table", { class: "count" },
    make("thead", {}, make("tr", {}, ...["matrix", "what it is", "size", "weights"].map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, ...count.matrices.map(row)),
    make("tfoot", {}, sum("the cell", count.cell), sum("with the output", count.total), sum("with the embedding", count.with_embedding))));
}
