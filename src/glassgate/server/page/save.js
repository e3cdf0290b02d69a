// What leaves the page: numbers and pictures.

import { gatesOf, paint } from "./figure.js";
import { LARGEST } from "./heatmap.js";
import { make } from "./panels.js";

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

/** The whole figure, wherever it was scrolled to. */
const whole = ({ where }) => ({ ...where, scrolled: 0, room: where.width });

/** The figure as vectors. */
export function vectors(map, limit, colours, marks) {
  const where = whole(map);
  const pen = svgPen(where.width, where.height);
  paint(pen, map.trace, where, limit, colours, marks);
  return pen.end();
}

const PRINTED = 3; // dots for a pixel: 288 for an inch

/** The figure as dots, enough of them to be printed. */
export function dots(map) {
  const [canvas, where] = [make("canvas"), whole(map)];
  map.dots(Math.min(PRINTED, LARGEST / Math.max(where.width, where.height)), canvas, where);
  return new Promise((done) => { canvas.toBlob(done, "image/png"); });
}

export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
