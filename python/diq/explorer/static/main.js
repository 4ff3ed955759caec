// The page: what is looked at, the questions that this makes, and where the answers go.

import { ask, download, facts, latest, view } from "./api.js";
import { amount, bytes, copy, count, element, plain, visible } from "./format.js";
import { Choices, Histogram } from "./histogram.js";
import { Plane } from "./plane.js";
import { forget, remember, remembered } from "./remembering.js";
import { ROWS, Samples } from "./table.js";
import { Text, trouble } from "./text.js";

const $ = (id) => document.getElementById(id);
// milliseconds without another wish after which a hand rests
const RESTS = 150;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const look = { ratio: "0.1", percentile: 0.5, threshold: null, weights: null, filters: {}, axes: {}, height: "influence", compare: null };
let told = null;
let views = {};
let samples = null;
let plane = null;
let last = null;
// what could not be restored, and why
let lost = "";

// the token has done its work, and an address bar is no place for it
history.replaceState(null, "", `/${location.hash}`);
// a view that was pasted into the address
addEventListener("hashchange", () => location.reload());
start().catch((error) => fail(error));

async function start() {
  for (;;) {
    told = await facts();
    whose();
    if (told.state !== "reading") break;
    $("status").textContent = `${told.reading.what} …`;
    progress();
    await pause(120);
  }
  $("progress").hidden = true;
  if (told.state === "failed") throw Object.assign(new Error(told.error), { hint: told.hint });
  const { order, colour } = await restored();
  $("main").hidden = false;
  build(order);
  if ([...$("colour").options].some((one) => one.value === colour)) $("colour").value = colour;
  update();
  selections();
  await all();
}

/** What the address remembers of an earlier view; the server reads it as it reads any question. */
async function restored() {
  try {
    const kept = remembered();
    if (!kept) return {};
    const answer = await ask("look", kept);
    Object.assign(look, answer.look);
    return { order: answer.order, colour: kept.colour };
  } catch (error) {
    forget();
    lost = `The view in the address cannot be shown: ${error.message}`;
    return {};
  }
}

/** A part of very many samples is shown at once; when all are there, they take its place under the same brushes. */
async function all() {
  if (!told.reading) return;
  while (told.state !== "failed" && told.reading) {
    progress();
    await pause(250);
    told = await facts();
  }
  $("progress").hidden = true;
  if (told.state === "failed") throw Object.assign(new Error(told.error), { hint: told.hint });
  notes();
  update();
}

function progress() {
  $("progress").hidden = false;
  if (told.reading.total) Object.assign($("progress"), { max: told.reading.total, value: told.reading.done });
}

function whose() {
  const parts = [`${told.dataset}, influence by ${told.model} (run ${told.influence_run}), difficulty: ${told.dimension} (run ${told.difficulty_run})`];
  $("whose").replaceChildren(...parts.map(visible));
}

function fail(error) {
  $("progress").hidden = true;
  $("status").textContent = "stopped";
  $("trouble").hidden = false;
  $("trouble").replaceChildren(...trouble(error).childNodes);
}

// building -----------------------------------------------------------------------------------------------------------

function numbers() {
  return [
    { key: "difficulty", title: "difficulty", unit: told.dimension },
    { key: "influence", title: "influence", unit: told.largest ? "largest cosine" : "dot" },
    ...told.sets.map((one, i) => ({ key: `task:${i}`, title: `dot: ${one.name}`, unit: "" })),
    { key: "answer_tokens", title: "answer tokens", unit: "" },
    { key: "loss", title: "loss", unit: "nats" },
  ];
}

function build(order) {
  notes();
  const columns = numbers();
  for (const { key, title, unit } of columns) {
    views[key] = new Histogram(key, title, unit, {
      change: (filter) => brush({ [key]: filter }),
      scale: (kind) => {
        look.axes[key] = kind;
        update();
      },
    });
  }
  for (const key of ["source", "quadrant", "selected"]) {
    const title = { source: "source", quadrant: "quadrant", selected: "selection" }[key];
    views[key] = new Choices(key, title, told.names[key], { change: (filter) => brush({ [key]: filter }) });
  }
  const isNumber = (key) => columns.some((one) => one.key === key);
  const nodes = (wanted) => Object.keys(views).filter((key) => isNumber(key) === wanted).map((key) => views[key].node);
  $("histogram-list").replaceChildren(...nodes(true));
  $("name-list").replaceChildren(...nodes(false));
  plane = new Plane($("plane"), $("legend"), {
    change: (filters) => brush({ difficulty: filters && filters.x, [look.height]: filters && filters.y }),
  });
  const heights = columns.filter(({ key }) => key !== "difficulty" && (key !== "task:0" || told.sets.length > 1));
  $("height").replaceChildren(...heights.map(({ key, title }) => element("option", { value: key, textContent: plain(title) })));
  $("height").value = look.height;
  $("height").addEventListener("change", () => {
    look.height = $("height").value;
    update();
  });
  $("colour").addEventListener("change", () => {
    keep();
    if (last) show(last);
  });
  samples = new Samples(
    $("rows"),
    [
      { key: "position", title: "position" },
      ...columns.filter(({ key }) => key !== "task:0" || told.sets.length > 1),
      { key: "quadrant", title: "quadrant" },
      { key: "selected", title: "selected" },
      { key: "source", title: "source" },
      { key: "start", title: "question" },
    ],
    told.names,
    { turn: () => page(), open: (position, from) => text.open(position, from) },
  );
  Object.assign(samples.sort, order);
  const text = new Text({ look: () => look, names: told.names, titles: columns });
  $("clear").addEventListener("click", () => {
    look.filters = {};
    changed();
  });
  sliders();
  $("compare").addEventListener("change", () => {
    look.compare = $("compare").value ? Number($("compare").value) : null;
    compared();
    // what is chosen is looked at
    $("colour").value = look.compare ? "selected" : "density";
    update();
  });
  $("save").addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  $("export").addEventListener("click", exported);
  $("as-sql").addEventListener("click", asSql);
  let resized = 0;
  const redraw = () => {
    cancelAnimationFrame(resized);
    resized = requestAnimationFrame(() => last && show(last));
  };
  new ResizeObserver(redraw).observe($("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function notes() {
  const found = [...(lost ? [lost] : []), ...told.notes];
  $("notes").hidden = !found.length;
  $("notes").replaceChildren(...found.map((note) => element("li", {}, visible(note))));
}

function compared() {
  $("colour").querySelector("option[value=selected]").textContent = look.compare ? "both selections" : "selection";
}

function sliders() {
  const ratio = (text) => {
    look.ratio = text;
    update();
  };
  $("ratio").value = Math.log10(Number(look.ratio));
  $("ratio-text").value = look.ratio;
  $("ratio").addEventListener("input", () => {
    // two digits are enough for a hand
    const value = Number((10 ** Number($("ratio").value)).toPrecision(2));
    $("ratio-text").value = String(value);
    ratio(String(value));
  });
  $("ratio-text").addEventListener("change", () => {
    const typed = $("ratio-text").value.trim();
    const value = typed.endsWith("%") ? Number(typed.slice(0, -1)) / 100 : Number(typed);
    // what is no ratio would stop every other answer, too
    if (!(value > 0 && value <= 1)) {
      $("ratio-text").value = look.ratio;
      return;
    }
    $("ratio").value = Math.log10(value);
    ratio(typed);
  });
  cuts();
  if (told.sets.length < 2) return;
  $("weights").hidden = false;
  const inputs = told.sets.map((one, i) => {
    const id = `weight-${i}`;
    const most = Math.max(3, ...[...told.sets.map((set) => set.share), ...Object.values(look.weights || {})].map(Math.ceil));
    const value = look.weights ? look.weights[one.name] || 0 : one.share;
    const input = told.largest
      ? element("input", { id, type: "checkbox", checked: !look.weights || value > 0 })
      : element("input", { id, type: "range", min: 0, max: most, step: 0.05, value });
    const output = element("output", { for: id });
    const size = one.n_samples === null ? "" : ` (${amount(one.n_samples, "sample")})`;
    $("weight-rows").append(element("div", { className: "slider" }, element("label", { for: id }, visible(one.name + size)), input, output));
    return { input, output, one };
  });
  const write = () => {
    for (const { input, output } of inputs) output.textContent = told.largest ? "" : Number(input.value).toFixed(2);
  };
  const weigh = () => {
    look.weights = Object.fromEntries(inputs.map(({ input, one }) => [one.name, told.largest ? Number(input.checked) : Number(input.value)]));
    $("weights-reset").disabled = false;
    write();
    update();
  };
  $("weights-reset").disabled = look.weights === null;
  for (const { input } of inputs) input.addEventListener("input", weigh);
  $("weights-reset").addEventListener("click", () => {
    look.weights = null;
    $("weights-reset").disabled = true;
    for (const { input, one } of inputs) told.largest ? (input.checked = true) : (input.value = one.share);
    write();
    update();
  });
  write();
}

/** τ by a percentile of the difficulty or as a value of it; what is shown is what counts. */
function cuts() {
  // of the samples that are read so far
  const range = () => told.levels || [0, 1, false];
  const show = () => {
    const absolute = look.threshold !== null;
    const [low, high, whole] = range();
    Object.assign($("threshold"), { min: low, max: high, step: whole ? 1 : "any" });
    $("cut").value = absolute ? "threshold" : "percentile";
    for (const id of ["percentile", "percentile-text"]) $(id).hidden = absolute;
    for (const id of ["threshold", "threshold-text"]) $(id).hidden = !absolute;
    $("percentile").value = look.percentile;
    $("percentile-text").textContent = look.percentile.toFixed(2);
    if (absolute) $("threshold").value = $("threshold-text").value = look.threshold;
  };
  // a value that no level reaches would be refused, as `diq select` refuses it
  const threshold = (value) => {
    const [low, high] = range();
    if (Number.isFinite(value)) look.threshold = Math.min(Math.max(value, low), high);
    show();
    update();
  };
  $("cut").addEventListener("change", () => {
    if ($("cut").value === "threshold") threshold(Number((last?.told.tau ?? range()[0]).toPrecision(4)));
    else {
      look.threshold = null;
      show();
      update();
    }
  });
  $("percentile").addEventListener("input", () => {
    look.percentile = Number($("percentile").value);
    show();
    update();
  });
  // three digits are enough for a hand
  $("threshold").addEventListener("input", () => threshold(Number(Number($("threshold").value).toPrecision(3))));
  $("threshold-text").addEventListener("change", () => threshold($("threshold-text").value.trim() ? Number($("threshold-text").value) : NaN));
  show();
}

// looking ------------------------------------------------------------------------------------------------------------

function brush(filters) {
  for (const [key, filter] of Object.entries(filters)) {
    if (filter) look.filters[key] = filter;
    else delete look.filters[key];
  }
  changed();
}

function changed() {
  if (samples) samples.sort.first = 0;
  update();
}

const askView = latest(async (rested) => {
  try {
    if (told.quick) {
      // a part of very many samples answers while the hand moves, and all of them once it rests
      show((last = await view({ ...look, quick: true })));
      if (!(await rested(RESTS))) return;
    }
    last = await view(look);
    $("trouble").hidden = true;
    show(last);
    document.body.dataset.whole = Number(document.body.dataset.whole || 0) + 1;
    page();
  } catch (error) {
    fail(error);
  }
});

function update() {
  keep();
  askView();
}

function keep() {
  remember({ ...look, sort: samples.sort.sort, descending: samples.sort.descending, colour: $("colour").value });
}

function show({ told: seen, counts }) {
  let at = 0;
  const take = (n) => counts.subarray(at, (at += n));
  const shown = {};
  for (const column of seen.columns) {
    shown[column.key] = column;
    const size = column.edges ? column.edges.length : told.names[column.key].length;
    views[column.key].show(column, take(size * 4));
  }
  const titles = Object.fromEntries(numbers().map(({ key, title, unit }) => [key, unit ? `${title} (${unit})` : title]));
  // answers are of the state that was asked for, which the height may have left meanwhile
  const height = seen.height;
  plane.show(shown.difficulty, shown[height], take(Infinity), seen, [titles.difficulty, titles[height]], $("colour").value);
  const passing = seen.passing.reduce((sum, one) => sum + one, 0);
  const marked = seen.passing[1] + seen.passing[3];
  const those = seen.n < told.n_samples ? `${count(seen.n)} of ${amount(told.n_samples, "sample")} until all are read` : amount(seen.n, "sample");
  // counted in a part of the samples, and multiplied
  const about = seen.approximate ? "≈ " : "";
  $("status").textContent = `${those}, ${about}${count(seen.n_scored)} in quadrants`;
  $("brushed").textContent = `${about}${count(passing)} of ${count(seen.n)} pass the brushes, ${about}${count(marked)} of them selected`;
  $("taken").replaceChildren(
    element("strong", { textContent: about + count(seen.n_selected) }),
    ` of ${about}${amount(seen.n_scored, "sample")} (⌊N × ${seen.ratio}⌋)`,
  );
  $("quadrants").tBodies[0].replaceChildren(
    ...seen.quadrants.map((n, i) =>
      element("tr", {}, element("td", {}, element("span", { className: `swatch q${i + 1}` }), `Q${i + 1}`), element("td", { textContent: about + count(n) }), element("td", { textContent: about + count(seen.selected[i]) })),
    ),
  );
  const { compare } = seen;
  $("overlap").textContent = compare
    ? `${about}in both ${count(compare.both)}; only in this ${count(compare.only_this)}, only in the other ${count(compare.only_other)}`
    : "";
  $("clear").disabled = !Object.keys(look.filters).length;
  $("export").disabled = passing === 0;
  $("export").textContent = `export ${about}${count(passing)} as JSONL`;
  // for whoever waits for an answer: how many have been shown
  requestAnimationFrame(() => {
    document.body.dataset.shown = Number(document.body.dataset.shown || 0) + 1;
  });
}

const askPage = latest(async () => {
  try {
    const body = { ...look, ...samples.sort, count: ROWS };
    const { rows } = await ask("table", body);
    samples.show(rows, last ? last.told.passing.reduce((sum, one) => sum + one, 0) : rows.length);
    document.body.dataset.paged = Number(document.body.dataset.paged || 0) + 1;
    askStarts(rows.map((row) => row.position));
  } catch (error) {
    fail(error);
  }
});

// texts open the store, so they wait until the hand rests
let resting = 0;
function askStarts(positions) {
  clearTimeout(resting);
  if (!positions.length) return;
  resting = setTimeout(async () => {
    try {
      samples.fill((await ask("starts", { positions })).starts);
    } catch (error) {
      samples.fill({ [positions[0]]: `The questions cannot be read now: ${error.message}` });
    }
  }, 150);
}

function page() {
  keep();
  askPage();
}

// what leaves the page -----------------------------------------------------------------------------------------------

async function selections() {
  try {
    const { selections: found } = await ask("selections", {});
    const named = (one) =>
      `${one.selection_id}: ${plain(one.name)} (${count(one.n)}, ${one.strategy} ${one.ratio})${one.replaced ? ", its scores changed since" : ""}`;
    $("compare").replaceChildren(
      element("option", { value: "", textContent: found.length ? "no other selection" : "there is no stored selection yet" }),
      ...found.map((one) => element("option", { value: String(one.selection_id), textContent: named(one) })),
    );
    const chosen = look.compare === null ? "" : String(look.compare);
    $("compare").value = chosen;
    compared();
    if ($("compare").value !== chosen) {
      // it was remembered, and is no selection of this dataset
      look.compare = null;
      $("compare").value = "";
      update();
    }
  } catch (error) {
    $("overlap").textContent = error.message;
  }
}

function commandLine(text) {
  const button = element("button", { type: "button", textContent: "copy" });
  button.addEventListener("click", () => copy(text, button));
  return element("div", {}, element("pre", { tabIndex: 0 }, visible(text)), button);
}

async function save() {
  const button = $("save").querySelector("button");
  button.disabled = true;
  $("saved").textContent = "Saving …";
  try {
    const made = await ask("save", { ...look, name: $("name").value });
    const parts = [
      element("p", {}, visible(`Saved ${amount(made.n, "sample")} as selection ${made.selection_id}, \`${made.name}\`.`)),
    ];
    if (made.took_over !== null) parts.push(element("p", {}, `The name meant selection ${made.took_over} before; that one is reached by its number.`));
    if (!made.same) parts.push(element("p", {}, "Scores changed since this page read them, so it holds other samples than shown: start `diq explore` again."));
    $("saved").replaceChildren(...parts, element("p", { className: "quiet", textContent: "The same by command:" }), commandLine(made.command));
    selections();
  } catch (error) {
    $("saved").replaceChildren(trouble(error));
  } finally {
    button.disabled = false;
  }
}

async function exported() {
  $("exported").textContent = "Exporting …";
  try {
    const blob = await download("export", look);
    const link = element("a", { href: URL.createObjectURL(blob), download: "brushed.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    $("exported").textContent = `brushed.jsonl, ${bytes(blob.size)}`;
  } catch (error) {
    $("exported").replaceChildren(trouble(error));
  }
}

async function asSql() {
  try {
    const { sql } = await ask("filter", look);
    const close = element("button", { type: "button", textContent: "close" });
    close.addEventListener("click", () => $("exported").replaceChildren());
    $("exported").replaceChildren(
      element("p", { className: "quiet", textContent: "The brushed samples, for `diq sql` (`diq select` takes no filter); nothing of it is sent here." }),
      commandLine(sql),
      close,
    );
  } catch (error) {
    $("exported").replaceChildren(trouble(error));
  }
}
