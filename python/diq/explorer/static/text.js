// One sample: its conversation with everything in it made visible, and on request what each token carries of its dot.

import { ask } from "./api.js";
import { cut, element, number, plain, visible } from "./format.js";

const $ = (id) => document.getElementById(id);

export class Text {
  /** `look()` is the state that a request carries. */
  constructor({ look, names, titles }) {
    Object.assign(this, { look, names, titles });
    $("close").addEventListener("click", () => this.close());
    $("tokens").addEventListener("click", () => this.#explain());
    $("text").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  close() {
    $("text").hidden = true;
    this.from?.focus();
  }

  async open(position, from) {
    this.position = position;
    this.from = from;
    $("text").hidden = false;
    $("explained").replaceChildren();
    try {
      const sample = await ask("sample", { ...this.look(), positions: [position] });
      if (this.position === position) this.#show(sample);
    } catch (error) {
      $("conversation").replaceChildren(trouble(error));
    }
    $("text").scrollIntoView({ block: "nearest" });
    $("text").focus({ preventScroll: true });
  }

  #show(sample) {
    const facts = [["sample", sample.sample_id], ["position", number(sample.position)]];
    for (const { key, title } of this.titles) facts.push([title, number(sample.scores[key])]);
    facts.push(["quadrant", this.names.quadrant[sample.scores.quadrant]]);
    for (const place of sample.places) {
      facts.push(["read from", `${place.source}, line ${place.line}, split ${place.split}`]);
      for (const [name, value] of Object.entries(place.attributes)) facts.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
    }
    $("facts").replaceChildren(
      ...facts.flatMap(([name, value]) => [element("dt", {}, visible(String(name))), element("dd", { dir: "auto" }, visible(String(value)))]),
    );
    const turns = sample.messages.flatMap((one) => parts(one));
    if (sample.rejected) turns.push(...sample.rejected.flatMap((one) => parts(one, "refused: ")));
    $("conversation").replaceChildren(...turns);
  }

  async #explain() {
    const { position } = this;
    $("tokens").disabled = true;
    $("explained").textContent = "Computing: the model is loaded, and the gradients of the validation sets are taken …";
    try {
      const found = await ask("tokens", { ...this.look(), positions: [position] });
      if (this.position === position) this.#colour(found);
    } catch (error) {
      $("explained").replaceChildren(trouble(error));
    } finally {
      $("tokens").disabled = false;
    }
  }

  #colour(found) {
    const sizes = found.tokens.map(([, isAnswer, loss]) => (isAnswer ? Math.abs(loss) : 0));
    const most = Math.max(...sizes) || 1;
    const said = element("div", { className: "said", dir: "auto" });
    for (const [text, isAnswer, loss, term] of found.tokens) {
      const piece = element("span", { className: "token" }, visible(text));
      if (isAnswer) {
        const share = Math.abs(loss) / most;
        piece.style.backgroundColor = loss > 0 ? `rgb(0 114 178 / ${0.65 * share})` : `rgb(230 159 0 / ${0.75 * share})`;
        if (share > 0.25) piece.classList.add(loss > 0 ? "up" : "down");
        piece.title = `${number(loss)} of the dot ${number(found.dot)}`;
      } else {
        piece.classList.add("prompt");
        piece.title = `prompt; enters the dot with ${number(term)}`;
      }
      said.append(piece);
    }
    const largest = found.tokens
      .filter(([, isAnswer]) => isAnswer)
      .sort((one, other) => Math.abs(other[2]) - Math.abs(one[2]))
      .slice(0, 8)
      .map(([text, , loss]) => `“${plain(text)}” ${number(loss)}`);
    const stored = found.stored === null ? "" : `; the store has ${number(found.stored)}`;
    $("explained").replaceChildren(
      element("p", {}, `Dot by ${plain(found.model)}: ${number(found.dot)}${stored}. Blue and a solid line raise it, orange and a dotted line lower it.`),
      element("p", { className: "quiet", textContent: `Largest: ${largest.join(", ")}` }),
      said,
    );
  }
}

function parts(message, before = "") {
  const found = [[message.role, message.content]];
  if (message.reasoning_content) found.unshift(["reasoning", message.reasoning_content]);
  for (const name of ["tool_calls", "tools"]) if (message[name]) found.push([name, JSON.stringify(message[name], null, 1)]);
  return found.map(([name, text]) => {
    const said = element("div", { className: "said", dir: "auto" });
    cut(String(text ?? ""), said);
    return element("div", { className: "turn" }, element("h3", {}, visible(before + name)), said);
  });
}

export function trouble(error) {
  return element("div", {}, element("p", {}, visible(error.message)), element("p", { className: "quiet" }, visible(error.hint || "")));
}
