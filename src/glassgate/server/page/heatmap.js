// A heat map that can be pointed at, clicked, and walked through with the keyboard. It asks nobody for its numbers.

import { GATES, blockOf, canvasPen, hit, labelOf, measurer, paint, palette, plan, wordAt } from "./figure.js";
import { make } from "./panels.js";

const measure = measurer(document.createElement("canvas").getContext("2d"));
export const LARGEST = 16000; // dots that a canvas has in one direction, at most

/** Whether a cell is one of the trace's. */
export function isIn(trace, at) {
  const layer = at && trace?.layers.find((one) => one.name === at.layer);
  return Boolean(layer && Object.hasOwn(layer.values, at.gate) && at.unit >= 0 && at.unit < layer.units && at.step >= 0 && at.step < trace.words.length);
}

/** What a cell is, in words. */
export function named(trace, at) {
  const layer = trace.layers.find((one) => one.name === at.layer);
  return `${GATES[at.gate].letter}, ${GATES[at.gate].means.split(":")[0]}, unit ${labelOf(layer, at.unit)}${trace.layers.length > 1 ? ` of layer ${at.layer}` : ""}, at “${trace.words[at.step]}”`;
}

export class HeatMap {
  /**
   * `on.point(cell | null)` follows the pointer, `on.pick(cell)` tells a click or a key, `on.at()` gives the cell that was
   * picked last, `on.enter()` is for the Enter key, `on.word(step)` for a click on a word.
   */
  constructor(on) {
    this.on = on;
    this.trace = null;
    this.where = null;
    this.pointed = null;
    this.drawn = null; // what it was drawn with last
    this.scrolled = 0;
    this.canvas = make("canvas", { tabindex: 0, role: "application", "aria-roledescription": "heat map" });
    this.canvas.addEventListener("pointermove", (event) => this.point(hit(this.where, event.offsetX, event.offsetY)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", ({ offsetX: x, offsetY: y }) => {
      const at = hit(this.where, x, y);
      const step = wordAt(this.where, x, y);
      if (at) on.pick(at);
      else if (step !== null) on.word?.(step);
    });
    this.canvas.addEventListener("keydown", (event) => this.walk(event));
    this.spot = make("span", { class: "spot" });
    this.plot = make("div", { class: "plot" }, this.canvas, this.spot);
    this.plot.addEventListener("scroll", () => {
      this.scrolled = this.plot.scrollLeft;
      if (this.drawn) requestAnimationFrame(() => this.draw(...this.drawn));
    });
  }

  /** Plan a trace in so many pixels; whether its words stand slanted is in `where.slanted`. */
  lay(trace, room, orders, slant = false) {
    this.trace = trace;
    this.where = plan(trace, room, orders, measure, slant);
  }

  draw(limit, dark, marks) {
    this.drawn = [limit, dark, marks];
    this.where.scrolled = Math.max(0, Math.min(this.scrolled, this.where.width - this.where.room));
    const { width, height } = this.where;
    this.dots(Math.min(window.devicePixelRatio || 1, LARGEST / Math.max(width, height)), this.canvas, this.where);
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
  }

  /** Paint the figure as it was drawn last on a canvas, with so many dots for a pixel. */
  dots(many, canvas, where) {
    const [limit, dark, marks] = this.drawn;
    const size = { width: Math.round(where.width * many), height: Math.round(where.height * many) };
    // To give a canvas a size, even the one it has, takes its memory anew.
    for (const side of ["width", "height"]) if (canvas[side] !== size[side]) canvas[side] = size[side];
    const context = canvas.getContext("2d");
    context.setTransform(many, 0, 0, many, 0, 0);
    paint(canvasPen(context), this.trace, where, limit, palette(dark), marks);
  }

  /** Scroll a word into view, where the figure is wider than its place. */
  reveal(step) {
    const { plot } = this;
    const [from, to] = [step ? this.where.left + step * this.where.column : 0, this.where.ends[step] + 4];
    if (to > plot.scrollLeft + plot.clientWidth) plot.scrollLeft = to - plot.clientWidth;
    if (from < plot.scrollLeft) plot.scrollLeft = from;
  }

  /** Scroll a cell into view, up and down too: whatever scrolls around the figure. */
  follow(at) {
    const { y, row, places } = blockOf(this.where, at);
    Object.assign(this.spot.style, { left: `${this.where.left + at.step * this.where.column}px`, top: `${y + places.get(at.unit) * row}px`, width: `${this.where.column}px`, height: `${row}px` });
    this.spot.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.reveal(at.step);
  }

  point(at) {
    if (JSON.stringify(at) === JSON.stringify(this.pointed)) return;
    this.pointed = at;
    this.on.point(at);
  }

  walk(event) {
    const at = this.on.at();
    const block = isIn(this.trace, at) && blockOf(this.where, at);
    if (!block) return;
    const { blocks } = this.where;
    const unit = (by) => block.units[Math.max(0, Math.min(block.units.length - 1, block.places.get(at.unit) + by))];
    const row = (by) => {
      const next = blocks[Math.max(0, Math.min(blocks.length - 1, blocks.indexOf(block) + by))];
      return { layer: next.layer.name, gate: next.gate, unit: Math.min(at.unit, next.layer.units - 1) };
    };
    const last = this.trace.words.length - 1;
    const moved = {
      ArrowLeft: { step: Math.max(0, at.step - 1) }, ArrowRight: { step: Math.min(last, at.step + 1) },
      ArrowUp: { unit: unit(-1) }, ArrowDown: { unit: unit(1) },
      Home: { step: 0 }, End: { step: last }, PageUp: row(-1), PageDown: row(1),
    }[event.key];
    if (moved) {
      this.on.pick({ ...at, ...moved });
      this.follow({ ...at, ...moved });
    } else if (this.on.enter && (event.key === "Enter" || event.key === " ")) this.on.enter();
    else return;
    event.preventDefault();
  }
}
