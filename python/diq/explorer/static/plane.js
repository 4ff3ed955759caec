// The plane of difficulty and influence: how many samples are where, the cuts of the quadrants, and a brush.

import { colours, filterOf, place, prepared, ticks } from "./axes.js";
import { amount, count, element, number, plain } from "./format.js";

const LEFT = 74;
const RIGHT = 12;
const TOP = 26;
const BOTTOM = 40;
// at most so many samples are drawn as dots of their own
const FEW = 4000;

// anchors of viridis, dark where little is
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((one, k) => Math.round(one + (at - i) * (VIRIDIS[i + 1][k] - one)));
}

function rgb(text) {
  const value = Number.parseInt(text.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** A number from 0 to 1 that a cell and a sample always get: dots of a strip lie beside each other. */
function scattered(cell, i) {
  const x = Math.sin(cell * 12.9898 + i * 78.233) * 43758.5453;
  return x - Math.floor(x);
}

export class Plane {
  /** `change({x, y})` is called while the brush moves with the filters of both columns (null: cleared). */
  constructor(canvas, legend, { change }) {
    this.canvas = canvas;
    this.legend = legend;
    this.change = change;
    this.image = document.createElement("canvas");
    canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.change(null);
    });
  }

  /** `x`, `y`: columns; `counts`: `[y bins, x bins, 4]`; `facts`: of the view; `titles`: of both axes. */
  show(x, y, counts, facts, titles, colour) {
    Object.assign(this, { x, y, counts, facts, titles, colour });
    this.draw();
  }

  draw() {
    if (!this.x) return;
    const { x, y, counts, facts } = this;
    const [nx, ny] = [x.edges.length - 1, y.edges.length - 1];
    const theme = colours();
    const { context, width, height } = prepared(this.canvas);
    const [wide, high] = [width - LEFT - RIGHT, height - TOP - BOTTOM];
    Object.assign(this, { wide, high });
    const tau = facts.tau === null ? null : place(x.edges, facts.tau);
    const isInfluence = this.y.key === "influence";
    const median = facts.median === null || !isInfluence ? null : place(y.edges, facts.median);
    let most = 0;
    let total = 0;
    for (let i = 0; i < nx * ny; i += 1) {
      const n = counts[4 * i] + counts[4 * i + 1] + counts[4 * i + 2] + counts[4 * i + 3];
      total += n;
      if (n > most) most = n;
    }
    const tone = this.#tone(theme, most, nx, ny, tau, median);
    context.fillStyle = theme.raised;
    context.fillRect(LEFT, TOP, wide, high);
    if (total <= FEW) this.#dots(context, tone, nx, ny, wide, high);
    else if (x.kind === "strips") this.#strips(context, tone, nx, ny, wide, high, most);
    else this.#cells(context, tone, nx, ny, wide, high);
    this.#frame(context, theme, wide, high, tau, median);
    this.#brush(context, theme, nx, ny, wide, high);
    this.#explain(theme, most, total);
    const { quadrants } = facts;
    this.canvas.setAttribute(
      "aria-label",
      `${amount(total, "sample")} by ${plain(this.titles[0])} and ${plain(this.titles[1])}; Q1 ${count(quadrants[0])}, ` +
        `Q2 ${count(quadrants[1])}, Q3 ${count(quadrants[2])}, Q4 ${count(quadrants[3])}`,
    );
  }

  /** Colour and opacity of a cell. */
  #tone(theme, most, nx, ny, tau, median) {
    const { counts, colour } = this;
    const top = Math.log1p(most);
    const strength = (n) => (top ? Math.log1p(n) / top : 0);
    if (colour === "density") return (i, n) => [...viridis(strength(n)), 255];
    const quadrant = [theme.q1, theme.q2, theme.q3, theme.q4].map(rgb);
    if (colour === "quadrant") {
      return (i, n) => {
        const right = tau !== null && ((i % nx) + 0.5) / nx >= tau;
        const upper = median === null || (Math.floor(i / nx) + 0.5) / ny >= median;
        return [...quadrant[upper ? (right ? 0 : 1) : right ? 2 : 3], 90 + 165 * strength(n)];
      };
    }
    // in neither, in this, in the other, in both: what most of a cell are
    const classes = [rgb("#8c959f"), quadrant[0], quadrant[2], rgb(theme.ink)];
    return (i, n) => {
      let best = 0;
      for (let k = 1; k < 4; k += 1) if (counts[4 * i + k] > counts[4 * i + best]) best = k;
      return [...classes[best], 90 + 165 * strength(n)];
    };
  }

  /** The cells that hold samples: number, samples in all four classes, row from below, column. */
  *#filled(nx, ny) {
    const { counts } = this;
    for (let i = 0; i < nx * ny; i += 1) {
      const n = counts[4 * i] + counts[4 * i + 1] + counts[4 * i + 2] + counts[4 * i + 3];
      if (n) yield [i, n, Math.floor(i / nx), i % nx];
    }
  }

  #cells(context, tone, nx, ny, wide, high) {
    const { image } = this;
    image.width = nx;
    image.height = ny;
    const pen = image.getContext("2d");
    const pixels = pen.createImageData(nx, ny);
    for (const [i, n, row, column] of this.#filled(nx, ny)) {
      pixels.data.set(tone(i, n), ((ny - 1 - row) * nx + column) * 4);
    }
    pen.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(image, LEFT, TOP, wide, high);
  }

  /** A lane for each difficulty, and in it as much width as there are samples at that height. */
  #strips(context, tone, nx, ny, wide, high, most) {
    const [lane, tall] = [wide / nx, high / ny];
    for (const [i, n, row, column] of this.#filled(nx, ny)) {
      const [red, green, blue, alpha] = tone(i, n);
      const broad = Math.max(lane * 0.9 * Math.sqrt(n / most), 1.5);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
      context.fillRect(LEFT + (column + 0.5) * lane - broad / 2, TOP + high - (row + 1) * tall, broad, tall + 0.5);
    }
  }

  #dots(context, tone, nx, ny, wide, high) {
    const [lane, tall] = [wide / nx, high / ny];
    for (const [i, n, row, column] of this.#filled(nx, ny)) {
      const [red, green, blue, alpha] = tone(i, n);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${Math.max(alpha / 255, 0.6)})`;
      for (let k = 0; k < n; k += 1) {
        const aside = this.x.kind === "strips" ? 0.1 + 0.8 * scattered(i, k) : 0.5;
        context.beginPath();
        context.arc(LEFT + (column + aside) * lane, TOP + high - (row + 0.5) * tall, 2.6, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }

  #frame(context, theme, wide, high, tau, median) {
    const { x, y, facts } = this;
    context.fillStyle = theme.quiet;
    context.textBaseline = "middle";
    for (const { value, share } of ticks(y, 5)) {
      const [text, at] = [number(value), TOP + high * (1 - share)];
      context.fillText(text, LEFT - 6 - context.measureText(text).width, Math.min(Math.max(at, TOP + 5), TOP + high - 5));
    }
    context.textBaseline = "alphabetic";
    let free = 0;
    for (const { value, share } of ticks(x, 5)) {
      const text = number(value);
      const size = context.measureText(text).width;
      const at = Math.min(LEFT + share * wide - size / 2, LEFT + wide - size + 8);
      if (at > free) {
        context.fillText(text, at, TOP + high + 14);
        free = at + size + 6;
      }
    }
    const [under, beside] = this.titles.map(plain);
    context.fillText(under, LEFT + Math.max(0, (wide - context.measureText(under).width) / 2), TOP + high + 31);
    context.save();
    context.translate(11, TOP + high / 2 + Math.min(context.measureText(beside).width, high) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(beside, 0, 0, high);
    context.restore();
    context.strokeStyle = theme.ink;
    context.setLineDash([5, 4]);
    const line = (...points) => {
      // a light edge, so that it is seen on dark cells too
      for (const [style, size] of [[theme.paper, 3], [theme.ink, 1.2]]) {
        context.strokeStyle = style;
        context.lineWidth = size;
        context.beginPath();
        context.moveTo(points[0], points[1]);
        context.lineTo(points[2], points[3]);
        context.stroke();
      }
    };
    if (tau !== null) line(LEFT + tau * wide, TOP, LEFT + tau * wide, TOP + high);
    if (median !== null) line(LEFT, TOP + (1 - median) * high, LEFT + wide, TOP + (1 - median) * high);
    context.setLineDash([]);
    context.lineWidth = 1;
    if (median === null) return;
    const named = (text, left, upper) => {
      const size = context.measureText(text).width;
      const at = left ? LEFT + 5 : LEFT + wide - size - 5;
      const down = upper ? TOP + 15 : TOP + high - 7;
      context.globalAlpha = 0.8;
      context.fillStyle = theme.paper;
      context.fillRect(at - 3, down - 11, size + 6, 15);
      context.globalAlpha = 1;
      context.fillStyle = theme.ink;
      context.fillText(text, at, down);
    };
    // counted in a part of the samples, and multiplied
    const about = facts.approximate ? "≈ " : "";
    const [q1, q2, q3, q4] = facts.quadrants.map((n) => about + count(n));
    named(`Q1  ${q1}`, false, true);
    named(`Q2  ${q2}`, true, true);
    named(`Q3  ${q3}`, false, false);
    named(`Q4  ${q4}`, true, false);
    context.fillStyle = theme.quiet;
    context.fillText(`${about}τ = ${number(facts.tau)}, median = ${number(facts.median)}`, LEFT, 15);
  }

  #brush(context, theme, nx, ny, wide, high) {
    const [across, up] = [this.x.brush, this.y.brush];
    if (!across && !up) return;
    const { first: left, last: right } = across || { first: 0, last: nx - 1 };
    const { first: low, last: upper } = up || { first: 0, last: ny - 1 };
    const box = [
      LEFT + (left / nx) * wide,
      TOP + high - ((upper + 1) / ny) * high,
      ((right + 1 - left) / nx) * wide,
      ((upper + 1 - low) / ny) * high,
    ];
    context.fillStyle = theme.paper;
    context.globalAlpha = 0.5;
    context.beginPath();
    context.rect(LEFT, TOP, wide, high);
    context.rect(...box);
    context.fill("evenodd");
    context.globalAlpha = 1;
    context.strokeStyle = theme.ink;
    context.lineWidth = 1.5;
    context.strokeRect(...box);
    context.lineWidth = 1;
  }

  #explain(theme, most, total) {
    const swatch = (name, text) => element("span", {}, element("span", { className: `swatch ${name}` }), text);
    if (!total) {
      const isBrushed = this.facts.columns.some((one) => one.brush || one.values);
      this.legend.replaceChildren(
        isBrushed ? "Nothing passes the brushes of the other columns: clear one of them." : "No sample has both numbers of this plane: the notes above say what is missing.",
      );
    } else if (this.colour === "density") {
      const bar = element("canvas", { width: 90, height: 1 });
      bar.getContext("2d").putImageData(
        new ImageData(Uint8ClampedArray.from(Array.from({ length: 90 }, (_, i) => [...viridis(i / 89), 255]).flat()), 90, 1), 0, 0,
      );
      this.legend.replaceChildren("samples in a cell: 1", bar, `${count(most)} (logarithmic)`);
    } else if (this.colour === "quadrant") {
      this.legend.replaceChildren(
        swatch("q1", "Q1 difficult, influential"), swatch("q2", "Q2 influential"), swatch("q3", "Q3 difficult"), swatch("q4", "Q4 the rest"),
      );
    } else if (this.facts.compare) {
      this.legend.replaceChildren(
        "most of a cell are in:", swatch("q1", "this selection alone"), swatch("q3", "the other alone"), swatch("both", "both"), swatch("q4", "neither"),
      );
    } else {
      this.legend.replaceChildren("most of a cell are:", swatch("q1", "selected"), swatch("q4", "not selected"));
    }
  }

  #drag(event) {
    if (event.button !== 0 || !this.x) return;
    event.preventDefault();
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const box = this.canvas.getBoundingClientRect();
    const [nx, ny] = [this.x.edges.length - 1, this.y.edges.length - 1];
    const bound = (value, n) => Math.min(n - 1, Math.max(0, Math.floor(value)));
    const cell = (one) => [
      bound(((one.clientX - box.left - LEFT) / this.wide) * nx, nx),
      bound((1 - (one.clientY - box.top - TOP) / this.high) * ny, ny),
    ];
    const [from, start] = [cell(event), [event.clientX, event.clientY]];
    let moved = false;
    const move = (one) => {
      moved ||= Math.abs(one.clientX - start[0]) + Math.abs(one.clientY - start[1]) > 4;
      if (!moved) return;
      const to = cell(one);
      this.change({
        x: filterOf(this.x, Math.min(from[0], to[0]), Math.max(from[0], to[0])),
        y: filterOf(this.y, Math.min(from[1], to[1]), Math.max(from[1], to[1])),
      });
    };
    const end = () => {
      this.canvas.removeEventListener("pointermove", move);
      this.canvas.removeEventListener("pointerup", end);
      this.canvas.removeEventListener("pointercancel", end);
      if (!moved) this.change(null);
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }
}
