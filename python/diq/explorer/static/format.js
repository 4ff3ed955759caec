// Numbers and texts as people read them. Texts are only ever put into the page as text.

export function bytes(n) {
  return n < 1e6 ? `${count(Math.ceil(n / 1000))} kB` : `${count(Math.round(n / 1e6))} MB`;
}

export function count(n) {
  return n.toLocaleString("en-US");
}

/** A number with what it counts: 1 sample, 2,000 samples. */
export function amount(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** Four significant digits; large and small numbers in powers of ten. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

/** An element with text, attributes as properties, and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role" || name === "scope" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

// what a text can hold without being seen, or what turns the text beside it around: controls, formats (zero width,
// bidi, tags), separators of lines, surrogates, private use, variation selectors and blank letters; not \n and \t
const UNSEEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/gu;

function code(character) {
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** A text with a mark in the place of every character that would not be seen. */
export function visible(text) {
  const made = document.createDocumentFragment();
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (found[0] === "\n" || found[0] === "\t") continue;
    if (found.index > from) made.append(text.slice(from, found.index));
    made.append(element("span", { className: "mark", textContent: code(found[0]) }));
    from = found.index + found[0].length;
  }
  made.append(text.slice(from));
  return made;
}

/** The same as plain text, for what takes no elements (options, canvases, titles). */
export function plain(text) {
  return text.replace(UNSEEN, (one) => (one === "\n" || one === "\t" ? " " : `[${code(one)}]`));
}

/** The end of a long name, which tells paths apart. */
export function tail(text, length) {
  const letters = [...text];
  return letters.length > length ? `…${letters.slice(1 - length).join("")}` : text;
}

const FIRST = 4000;

const BLOCK = 8000;

/** A text in blocks of its own lines: a browser takes minutes to break a megabyte in one piece. */
function blocks(text) {
  const found = [];
  for (let from = 0; from < text.length; ) {
    let end = Math.min(from + BLOCK, text.length);
    if (end < text.length) {
      const line = text.lastIndexOf("\n", end - 1) + 1;
      if (line > from) end = line;
      else if (/[\ud800-\udbff]/.test(text[end - 1])) end -= 1;
    }
    found.push(element("div", { className: "block", dir: "auto" }, visible(text.slice(from, end))));
    from = end;
  }
  return found;
}

/** A long text is cut, and a button shows all of it. */
export function cut(text, into) {
  if (text.length <= FIRST) {
    into.replaceChildren(visible(text));
    return;
  }
  // no half of a pair
  const end = /[\ud800-\udbff]/.test(text[FIRST - 1]) ? FIRST - 1 : FIRST;
  const button = element("button", { type: "button", textContent: `show all ${amount(text.length, "character")}` });
  button.addEventListener("click", () => into.replaceChildren(...blocks(text)));
  into.replaceChildren(visible(text.slice(0, end)), " … ", button);
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    button.textContent = "copying is not allowed here";
  }
}
