// The table of the samples that all brushes let through: sorted and paged by the server, walked with the arrow keys.

import { count, element, number, plain, tail, visible } from "./format.js";

export const ROWS = 25;

export class Samples {
  /** `turn({sort, descending, first})` asks for another page, `open(position)` shows a text. */
  constructor(root, columns, names, { turn, open }) {
    this.table = root.querySelector("#samples");
    this.columns = columns;
    this.names = names;
    this.open = open;
    this.sort = { sort: "influence", descending: true, first: 0 };
    this.total = 0;
    this.rows = [];
    this.controls = Object.fromEntries(["previous", "next", "page", "pages"].map((id) => [id, root.querySelector(`#${id}`)]));
    const change = (more) => {
      Object.assign(this.sort, more);
      turn();
    };
    const head = element("tr");
    this.heads = columns.map(({ key, title, unit }) => {
      const button = element("button", { type: "button", textContent: plain(title), title: unit ? `${plain(title)}, ${unit}` : plain(title) });
      const cell = element("th", { scope: "col" }, button);
      if (key !== "start") {
        button.addEventListener("click", () => {
          const same = this.sort.sort === key;
          change({ sort: key, descending: same ? !this.sort.descending : key !== "position" && key !== "source", first: 0 });
        });
      } else button.disabled = true;
      head.append(cell);
      return { key, cell, button, title: plain(title) };
    });
    this.table.tHead.replaceChildren(head);
    this.controls.previous.addEventListener("click", () => change({ first: Math.max(0, this.sort.first - ROWS) }));
    this.controls.next.addEventListener("click", () => change({ first: this.sort.first + ROWS }));
    this.controls.page.addEventListener("change", () => {
      const last = Math.max(1, Math.ceil(this.total / ROWS));
      const page = Math.min(Math.max(1, Math.round(Number(this.controls.page.value)) || 1), last);
      change({ first: (page - 1) * ROWS });
    });
    this.table.tBodies[0].addEventListener("keydown", (event) => this.#key(event));
  }

  show(rows, total) {
    this.rows = rows;
    this.total = total;
    for (const { key, cell, button, title } of this.heads) {
      const sorted = key === this.sort.sort;
      cell.setAttribute("aria-sort", !sorted ? "none" : this.sort.descending ? "descending" : "ascending");
      button.textContent = sorted ? `${title} ${this.sort.descending ? "↓" : "↑"}` : title;
    }
    this.cells = new Map();
    const made = rows.map((row, i) => {
      const line = element("tr", { tabIndex: i ? -1 : 0 });
      line.dataset.position = row.position;
      line.setAttribute("aria-selected", "false");
      for (const { key } of this.columns) line.append(this.#cell(key, row));
      line.addEventListener("click", () => this.#choose(line, row.position));
      return line;
    });
    if (!made.length) {
      const text = "No sample passes all brushes: clear one of them.";
      made.push(element("tr", {}, element("td", { colSpan: this.columns.length, textContent: text })));
    }
    this.table.tBodies[0].replaceChildren(...made);
    const last = Math.max(1, Math.ceil(total / ROWS));
    const page = Math.floor(this.sort.first / ROWS) + 1;
    this.controls.page.value = page;
    this.controls.page.max = last;
    this.controls.pages.textContent = `of ${count(last)}`;
    this.controls.previous.disabled = page <= 1;
    this.controls.next.disabled = page >= last;
  }

  #cell(key, row) {
    const value = row[key];
    if (key === "start") {
      const cell = element("td", { className: "start" }, element("div", { dir: "auto" }));
      this.cells.set(row.position, cell.firstChild);
      return cell;
    }
    if (key === "source") {
      const name = this.names.source[value];
      return element("td", { className: "source", title: plain(name) }, visible(tail(name.split("/").pop() || name, 28)));
    }
    if (key === "quadrant") {
      return value
        ? element("td", {}, element("span", { className: `swatch q${value}` }), `Q${value}`)
        : element("td", { textContent: "–", title: "without a difficulty or a dot" });
    }
    if (key === "selected") return element("td", { textContent: (value ? "yes" : "no") + (row.compared ? ", other too" : "") });
    return element("td", { textContent: number(value), title: value === null ? "missing" : String(value) });
  }

  /** The starts of the questions, which come a moment later. */
  fill(starts) {
    for (const [position, text] of Object.entries(starts)) this.cells.get(Number(position))?.replaceChildren(visible(text));
  }

  #choose(line, position) {
    for (const one of this.table.tBodies[0].rows) {
      one.setAttribute("aria-selected", String(one === line));
      one.tabIndex = one === line ? 0 : -1;
    }
    this.open(position, line);
  }

  #key(event) {
    const line = event.target.closest("tr");
    if (!line?.dataset.position) return;
    const lines = [...this.table.tBodies[0].rows];
    const at = lines.indexOf(line);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: lines.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#choose(line, Number(line.dataset.position));
    else if (event.key === "PageDown") this.controls.next.click();
    else if (event.key === "PageUp") this.controls.previous.click();
    else if (to !== undefined) {
      const next = lines[Math.min(Math.max(to, 0), lines.length - 1)];
      line.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else return;
    event.preventDefault();
  }
}
