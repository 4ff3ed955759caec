// A histogram with a brush: what other brushes let through, and the part of it that the selection would take.

import { colours, filterOf, prepared, ticks } from "./axes.js";
import { count, element, number, plain, tail } from "./format.js";

const BARS = 85;
const AXIS = 16;

/** The total and the selected part of each bar, and what is missing; `counts` is `[bins + 1, 4]`. */
function bars(counts, n) {
  const step = Math.ceil(n / BARS);
  const found = [];
  for (let start = 0; start < n; start += step) {
    const bar = { start, end: Math.min(start + step, n), total: 0, selected: 0 };
    for (let i = start; i < bar.end; i += 1) {
      const at = i * 4;
      bar.selected += counts[at + 1] + counts[at + 3];
      bar.total += counts[at] + counts[at + 1] + counts[at + 2] + counts[at + 3];
    }
    found.push(bar);
  }
  const at = n * 4;
  return { found, missing: counts[at] + counts[at + 1] + counts[at + 2] + counts[at + 3] };
}

export class Histogram {
  /** `change(filter)` is called while a brush moves (null: cleared), `scale(kind)` when another scale is chosen. */
  constructor(key, title, unit, { change, scale }) {
    this.key = key;
    this.change = change;
    this.kind = element("select", { "aria-label": `scale of ${plain(title)}` });
    this.canvas = element("canvas", { tabIndex: 0, role: "slider" });
    this.title = plain(title);
    this.said = element("span");
    this.clear = element("button", { type: "button", textContent: "clear", "aria-label": `clear the brush of ${plain(title)}` });
    const heading = element("h3", {}, plain(title), " ", element("span", { className: "unit", textContent: unit }));
    this.node = element(
      "div",
      { className: "histogram" },
      element("div", { className: "head" }, heading, this.kind),
      this.canvas,
      element("div", { className: "quiet" }, this.said, this.clear),
    );
    this.node.dataset.column = key;
    this.kind.addEventListener("change", () => scale(this.kind.value));
    this.clear.addEventListener("click", () => this.change(null));
    this.canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  show(column, counts) {
    this.column = column;
    this.counts = counts;
    if (this.kind.length !== column.kinds.length) {
      this.kind.replaceChildren(...column.kinds.map((one) => element("option", { value: one, textContent: one })));
    }
    this.kind.value = column.kind;
    this.draw();
  }

  draw() {
    if (!this.column) return;
    const { column } = this;
    const n = column.edges.length - 1;
    const { found, missing } = bars(this.counts, n);
    const { context, width, height } = prepared(this.canvas);
    const colour = colours();
    const most = Math.max(1, ...found.map((bar) => bar.total));
    const high = height - AXIS - 2;
    const brush = column.brush;
    for (const bar of found) {
      const inside = !brush || (bar.end - 1 >= brush.first && bar.start <= brush.last);
      const x = (bar.start / n) * width;
      const wide = Math.max(((bar.end - bar.start) / n) * width - (found.length < 60 ? 1 : 0.25), 0.75);
      const draw = (value, style) => {
        if (!value) return;
        const tall = Math.max((value / most) * high, 1);
        context.fillStyle = style;
        context.fillRect(x, high + 2 - tall, wide, tall);
      };
      context.globalAlpha = inside ? 1 : 0.35;
      draw(bar.total, colour.pale);
      draw(bar.selected, colour.accent);
    }
    context.globalAlpha = 1;
    context.fillStyle = colour.line;
    context.fillRect(0, high + 2, width, 1);
    context.fillStyle = colour.quiet;
    let free = -1;
    for (const { value, share } of ticks(column, 4)) {
      const text = number(value);
      const size = context.measureText(text).width;
      const x = Math.min(Math.max(share * width - size / 2, 0), width - size);
      if (x > free) {
        context.fillText(text, x, height - 3);
        free = x + size + 6;
      }
    }
    if (brush) {
      const [left, right] = [(brush.first / n) * width, ((brush.last + 1) / n) * width];
      context.strokeStyle = colour.ink;
      context.strokeRect(left + 0.5, 1.5, Math.max(right - left - 1, 1), high);
    }
    const lacking = missing ? `${count(missing)} without` : "";
    // a strip is one number, any other bin goes up to the next
    const end = column.kind === "strips" && brush ? column.edges[brush.last] : (brush?.high ?? column.edges[n]);
    const range = brush ? `${number(brush.low ?? column.edges[0])} to ${number(end)}` : "";
    this.said.textContent = [range, lacking].filter(Boolean).join("; ");
    this.clear.hidden = !brush;
    this.canvas.setAttribute("aria-label", `brush of ${this.title}`);
    this.canvas.setAttribute("aria-valuemin", "1");
    this.canvas.setAttribute("aria-valuemax", String(n));
    this.canvas.setAttribute("aria-valuenow", String(brush ? brush.first + 1 : 1));
    this.canvas.setAttribute("aria-valuetext", range || "everything");
  }

  #brush(first, last) {
    const n = this.column.edges.length - 1;
    const [low, high] = [Math.max(0, Math.min(first, last)), Math.min(n - 1, Math.max(first, last))];
    this.change(filterOf(this.column, low, high));
  }

  #drag(event) {
    if (event.button !== 0 || !this.column) return;
    event.preventDefault();
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const box = this.canvas.getBoundingClientRect();
    const n = this.column.edges.length - 1;
    const bin = (one) => Math.min(n - 1, Math.max(0, Math.floor(((one.clientX - box.left) / box.width) * n)));
    const [from, start] = [bin(event), event.clientX];
    let moved = false;
    const move = (one) => {
      moved ||= Math.abs(one.clientX - start) > 3;
      if (moved) this.#brush(from, bin(one));
    };
    const end = () => {
      this.canvas.removeEventListener("pointermove", move);
      this.canvas.removeEventListener("pointerup", end);
      this.canvas.removeEventListener("pointercancel", end);
      // a click on a strip takes it, anywhere else it clears
      if (!moved) {
        const alone = this.column.brush && this.column.brush.first === from && this.column.brush.last === from;
        if (this.column.kind === "strips" && !alone) this.#brush(from, from);
        else this.change(null);
      }
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }

  #key(event) {
    const n = this.column ? this.column.edges.length - 1 : 0;
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (event.key === "Escape") this.change(null);
    else if (step && n) {
      const wide = Math.ceil(n / 40) * step;
      const { first, last } = this.column.brush || { first: 0, last: Math.ceil(n / 4) - 1 };
      if (event.shiftKey) this.#brush(first, Math.max(first, last + wide));
      else if (first + wide >= 0 && last + wide < n) this.#brush(first + wide, last + wide);
    } else return;
    event.preventDefault();
  }
}

/** The values of a column of names, as buttons: what is pressed is let through; none pressed lets all through. */
export class Choices {
  constructor(key, title, names, { change }) {
    this.names = names;
    this.pressed = new Set();
    this.node = element("div", { className: "histogram" }, element("div", { className: "head" }, element("h3", { textContent: title })));
    this.node.dataset.column = key;
    const list = element("div", { className: "choices", role: "group", "aria-label": title });
    this.buttons = names.map((name, i) => {
      const parts = [element("span", { className: "bar" }), element("span", { className: "bar part" })];
      const counted = element("span");
      const button = element("button", { type: "button", className: "choice", title: plain(name) }, ...parts, element("span", { textContent: plain(tail(name, 30)) }), counted);
      button.addEventListener("click", () => {
        if (!this.pressed.delete(i)) this.pressed.add(i);
        change(this.pressed.size ? { values: [...this.pressed] } : null);
      });
      list.append(button);
      return { button, parts, counted };
    });
    this.node.append(list);
  }

  show(column, counts) {
    this.pressed = new Set(column.values || []);
    const totals = this.names.map((_, i) => counts[4 * i] + counts[4 * i + 1] + counts[4 * i + 2] + counts[4 * i + 3]);
    const most = Math.max(1, ...totals);
    this.buttons.forEach(({ button, parts, counted }, i) => {
      const selected = counts[4 * i + 1] + counts[4 * i + 3];
      parts[0].style.width = `${(100 * totals[i]) / most}%`;
      parts[1].style.width = `${(100 * selected) / most}%`;
      counted.textContent = count(totals[i]);
      button.setAttribute("aria-pressed", String(this.pressed.has(i)));
      button.classList.toggle("off", this.pressed.size > 0 && !this.pressed.has(i));
    });
  }

  draw() {}
}
