// What leaves the page: numbers, pictures, and the link that brings the view back.

import { gatesOf, paint } from "./figure.js";

/** Every number of the traces, a line each; float32 numbers are written exactly. Of two models the first column has the name. */
export function csv(views, both) {
  const quoted = (word) => (/[",\n]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word);
  const rows = [`${both ? "model" : "text"},layer,gate,unit,step,word,value`];
  views.forEach(({ trace, name }, n) => {
    for (const layer of trace?.layers ?? []) {
      for (const gate of gatesOf(layer)) {
        const { steps, units, numbers } = layer.values[gate];
        for (let step = 0; step < steps; step += 1) {
          for (let unit = 0; unit < units; unit += 1) rows.push([both ? quoted(name) : n + 1, layer.name, gate, unit, step, quoted(trace.words[step]), numbers[step * units + unit]].join());
        }
      }
    }
  });
  return `${rows.join("\n")}\n`;
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function svgPen(width, height) {
  const parts = [];
  return {
    cells({ x, y, steps, count, column, row, gap, shades, shadeAt }) {
      for (let place = 0; place < count; place += 1) {
        for (let step = 0; step < steps; step += 1) this.rect(x + step * column, y + place * row, column - 1, row - gap, shades[shadeAt(step, place)]);
      }
    },
    rect(x, y, w, h, fill) { parts.push(`<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${fill}"/>`); },
    frame(x, y, w, h, stroke, line) { parts.push(`<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="none" stroke="${stroke}" stroke-width="${line}"/>`); },
    text(x, y, text, { size, family, fill, weight = 400, italic = false, anchor = "start", turn = 0 }) {
      parts.push(`<text x="${x}" y="${y}" font-family="${family}" font-size="${size}" font-weight="${weight}"${italic ? ' font-style="italic"' : ""} fill="${fill}" text-anchor="${anchor}"${turn ? ` transform="rotate(${turn} ${x} ${y})"` : ""}>${escaped(text)}</text>`);
    },
    end: () => `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${parts.join("")}</svg>\n`,
  };
}

/** The figure as vectors. */
export function picture(map, limit, colours, marks) {
  const pen = svgPen(map.where.width, map.where.height);
  paint(pen, map.trace, map.where, limit, colours, marks);
  return pen.end();
}

export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** What of the view stands in the address, behind the #. */
export function toFragment(state) {
  const kept = new URLSearchParams({ text: state.text });
  if (state.other !== null) kept.set("with", state.other);
  if (state.both) kept.set("models", "2");
  if (state.edits.length) kept.set("edits", JSON.stringify(state.edits));
  if (state.order !== "as") kept.set("order", state.order);
  if (state.at) kept.set("at", [state.at.view, state.at.layer, state.at.gate, state.at.unit, state.at.step].join(":"));
  if (state.span) kept.set("span", [state.span.from, state.span.to, state.span.layer, state.span.gate, state.span.threshold].join(":"));
  return `#${kept}`;
}

/** The view that an address tells of; what is not understood is left out. */
export function fromFragment(fragment) {
  const kept = new URLSearchParams(fragment.replace(/^#/, ""));
  const found = { text: kept.get("text"), other: kept.get("with"), both: kept.get("models") === "2", edits: [], order: kept.get("order") === "like" ? "like" : "as", at: null, span: null };
  try {
    const edits = JSON.parse(kept.get("edits") ?? "[]");
    if (Array.isArray(edits)) found.edits = edits.filter((e) => e && typeof e.gate === "string" && typeof e.set === "number");
  } catch {
    found.edits = [];
  }
  const [view, layer, gate, unit, step] = (kept.get("at") ?? "").split(":");
  if (step !== undefined) found.at = { view: Number(view), layer, gate, unit: Number(unit), step: Number(step) };
  const [from, to, of, within, threshold] = (kept.get("span") ?? "").split(":");
  if (threshold !== undefined) found.span = { from: Number(from), to: Number(to), layer: of, gate: within, threshold: Number(threshold) };
  return found;
}
